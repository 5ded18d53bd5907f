//! How many reads find their page in memory, beside LRU. Ignored: it measures, and prints.
//!
//! `cargo test --release --lib store::cache::hand::tests::rates -- --ignored --nocapture`

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::*;

const RECORDS: usize = 1_000_000;
const PAGES: u64 = 40_000;
const CACHED: u64 = PAGES / 10;
const READS: u32 = 2_000_000;
/// Pages that a scan reads, one behind the other.
const SCAN_PAGES: u64 = 400;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        mixed(self.0)
    }

    /// Above 0, below 1.
    fn fraction(&mut self) -> f64 {
        (f64::from(u32::try_from(self.next() >> 32).expect("32 bits")) + 0.5) / f64::from(u32::MAX)
    }
}

fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ (bits >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// Ranks by Zipf's law with the exponent 0.99.
struct Zipf(Vec<f64>);

impl Zipf {
    fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let mut rank = 0.0f64;
        let sums = (0..count).map(|_| {
            rank += 1.0;
            sum += rank.powf(-0.99);
            sum
        });
        Self(sums.collect())
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let at = random.fraction() * self.0.last().expect("not empty");
        u64::try_from(self.0.partition_point(|sum| *sum < at)).expect("64 bits")
    }
}

#[derive(Clone, Copy, Debug)]
enum Reads {
    Uniform,
    /// Of records that lie anywhere.
    ZipfRecords,
    /// Of pages: hot records lie together.
    ZipfPages,
}

/// Something that keeps pages in memory. Whether it had the page.
trait Cache {
    fn read(&mut self, page: u64, is_scan: bool) -> bool;
}

#[derive(Default)]
struct Lru {
    times: HashMap<u64, u64>,
    pages: BTreeMap<u64, u64>,
    now: u64,
}

impl Cache for Lru {
    fn read(&mut self, page: u64, _: bool) -> bool {
        self.now += 1;
        let before = self.times.insert(page, self.now);
        if let Some(before) = before {
            self.pages.remove(&before);
        }
        self.pages.insert(self.now, page);
        if self.times.len() > usize::try_from(CACHED).expect("small") {
            let (_, oldest) = self.pages.pop_first().expect("not empty");
            self.times.remove(&oldest);
        }
        before.is_some()
    }
}

/// The hand, or a variant of its policy.
struct OfHand {
    mapping: Mapping,
    hand: Hand,
    resident: u64,
    loaded: u8,
    most: u8,
    /// Pages that were evicted last; those come back with a touch.
    ghosts: VecDeque<u64>,
    most_ghosts: usize,
}

impl OfHand {
    fn new(loaded: u8, most: u8, most_ghosts: usize) -> Self {
        let mapping = Mapping::of_leaves([]);
        mapping.pages.borrow_mut().resize(usize::try_from(PAGES + 16).expect("small"), Page::default());
        Self { mapping, hand: hand(), resident: 0, loaded, most, ghosts: VecDeque::new(), most_ghosts }
    }
}

impl Cache for OfHand {
    fn read(&mut self, page: u64, is_scan: bool) -> bool {
        let Page { is_resident, touched, .. } = self.mapping.page(page);
        if is_resident {
            let touched = if is_scan { touched } else { (touched + 1).min(self.most) };
            self.mapping.change(page, |page| page.touched = touched);
            return true;
        }
        let is_ghost = self.most_ghosts > 0 && self.ghosts.contains(&page);
        let touched = if is_scan { ON_PROBATION } else { self.loaded + u8::from(is_ghost) };
        self.mapping.change(page, |page| *page = Page { is_resident: true, touched, ..Page::default() });
        self.resident += 1;
        while self.resident > CACHED {
            self.resident -= u64::from(self.hand.step(&self.mapping, 1, |_| {}).pages);
        }
        self.ghosts.extend(self.mapping.evicted.take());
        while self.ghosts.len() > self.most_ghosts {
            self.ghosts.pop_front();
        }
        false
    }
}

/// The share of the second half of point reads that found their page.
fn rate(cache: &mut dyn Cache, reads: Reads, zipf: [&Zipf; 2], with_scans: bool) -> f64 {
    let mut random = Random(1);
    let mut found = 0;
    let mut scan = 0;
    for number in 0..READS {
        let page = match reads {
            Reads::Uniform => random.next() % PAGES,
            Reads::ZipfRecords => mixed(zipf[0].draw(&mut random)) % PAGES,
            Reads::ZipfPages => mixed(zipf[1].draw(&mut random)) % PAGES,
        };
        found += u32::from(cache.read(page + 1, false) && number >= READS / 2);
        if with_scans {
            // As many pages as point reads.
            if u64::from(number) % SCAN_PAGES == 0 {
                scan = random.next() % PAGES;
            }
            cache.read((scan + u64::from(number) % SCAN_PAGES) % PAGES + 1, true);
        }
    }
    f64::from(found) / f64::from(READS / 2) * 100.0
}

#[test]
#[ignore = "it measures"]
fn beside_lru() {
    let zipf = [&Zipf::new(RECORDS), &Zipf::new(usize::try_from(PAGES).expect("small"))];
    for reads in [Reads::Uniform, Reads::ZipfRecords, Reads::ZipfPages] {
        for with_scans in [false, true] {
            let caches: [(&str, Box<dyn Cache>); 7] = [
                ("LRU", Box::new(Lru::default())),
                ("0 to 1", Box::new(OfHand::new(0, 1, 0))),
                ("0 to 3", Box::new(OfHand::new(0, 3, 0))),
                ("0 to 7", Box::new(OfHand::new(0, 7, 0))),
                ("1 to 3", Box::new(OfHand::new(1, 3, 0))),
                ("0 to 3, 1024 ghosts", Box::new(OfHand::new(0, 3, 1024))),
                ("0 to 3, 4000 ghosts", Box::new(OfHand::new(0, 3, 4000))),
            ];
            println!("{reads:?}, {}", if with_scans { "and scans" } else { "alone" });
            for (name, mut cache) in caches {
                println!("  {name:20} {:.1} %", rate(&mut *cache, reads, zipf, with_scans));
            }
        }
    }
}
