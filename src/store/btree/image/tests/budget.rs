//! What a point read in memory costs, by the layout of the leaf: E2 and E12 of
//! `docs/store-design.md`. The report is `docs/experiments/leaf-layout.md`.
//!
//! ```text
//! export GLIBC_TUNABLES=glibc.malloc.hugetlb=1  # huge pages, where they are left to madvise
//! taskset -c 1 cargo test --release --lib store::btree::image::tests::budget -- \
//!     --ignored --nocapture --test-threads=1
//! ```
//!
//! Times are of the thread's processor time, so what else runs takes no part but in the caches.
//! Rounds are interleaved, each figure is the median of its rounds. A read copies the value out. In
//! the first columns it depends on the one before it; in the last the processor may begin reads
//! before others are done.

mod descent;
mod heads;
mod leaf;

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::hint::black_box;

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::store::codec::{to_u32, to_usize};

const VALUE_BYTES: usize = 100;
const QUERIES: usize = 100_000;
const ROUNDS: usize = 9;
const NODE_HEADER_BYTES: usize = 64;

fn records() -> usize {
    std::env::var("RECORDS").ok().and_then(|count| count.parse().ok()).unwrap_or(10_000_000)
}

type Key = [u8; 16];

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn sorted_keys() -> Vec<Key> {
    let mut state = 1;
    let mut keys: Vec<Key> = (0..records())
        .map(|_| (u128::from(random(&mut state)) << 64 | u128::from(random(&mut state))).to_be_bytes())
        .collect();
    keys.sort_unstable();
    keys
}

/// One mapping, cut at cache lines.
struct Arena {
    lines: Vec<Line>,
    used: usize,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

impl Arena {
    fn new(bytes: usize) -> Self {
        Self { lines: vec![Line([0; 64]); bytes / 64 + 1], used: 0 }
    }

    /// Copies `bytes` to the next line, and returns its number.
    fn push(&mut self, bytes: &[u8]) -> u32 {
        let at = self.used;
        for (line, part) in self.lines[at..].iter_mut().zip(bytes.chunks(64)) {
            line.0[..part.len()].copy_from_slice(part);
        }
        self.used += bytes.len().div_ceil(64);
        to_u32(at)
    }

    #[inline]
    fn bytes(&self, at: u32, len: usize) -> &[u8] {
        let lines = &self.lines[at as usize..at as usize + len.div_ceil(64)];
        let (first, lines_len) = (lines.as_ptr().cast::<u8>(), lines.len() * 64);
        // SAFETY: lines are 64 bytes each without padding, initialised, and borrowed for as long.
        unsafe { std::slice::from_raw_parts(first, lines_len.min(len)) }
    }

    /// Asks for `count` lines from `at` on.
    #[inline]
    fn prefetch(&self, at: u32, count: usize) {
        let first = self.lines.as_ptr().wrapping_add(at as usize);
        for index in 0..count {
            // SAFETY: a prefetch reads nothing; any address will do.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(index).cast()) };
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn leaf(keys: &[Key]) -> Vec<u8> {
    let value = [0; VALUE_BYTES];
    build(
        keys.iter().map(|key| Entry {
            kind: EntryKind::Value,
            number: None,
            expiry_ms: None,
            key: KeyParts::whole(key),
            value: &value,
        }),
        &[],
    )
}

/// What lies in front of an image in its node: a header that says where the image is, then what
/// `front` says.
fn node(front: &[u8], image: &[u8], next: u32) -> Vec<u8> {
    let image_at = NODE_HEADER_BYTES + front.len().next_multiple_of(64);
    let mut node = vec![0; image_at];
    node[0..4].copy_from_slice(&to_u32(image_at).to_le_bytes());
    node[4..8].copy_from_slice(&to_u32(image.len()).to_le_bytes());
    node[8..12].copy_from_slice(&next.to_le_bytes());
    node[NODE_HEADER_BYTES..NODE_HEADER_BYTES + front.len()].copy_from_slice(front);
    node.extend_from_slice(image);
    node
}

/// The nodes of one layout, in the order of their keys.
struct Layout {
    arena: Arena,
    nodes: Vec<u32>,
}

impl Layout {
    fn new(keys: &[Key], image_bytes: usize, mut front: impl FnMut(&[Key]) -> Vec<u8>) -> Self {
        let per_leaf = (image_bytes - 16) / 122;
        let extra = front(&keys[..per_leaf]).len().next_multiple_of(64) + NODE_HEADER_BYTES + 64;
        let mut arena = Arena::new((image_bytes + extra) * keys.len().div_ceil(per_leaf));
        let nodes =
            keys.chunks(per_leaf).map(|keys| arena.push(&node(&front(keys), &leaf(keys), 0))).collect();
        Self { arena, nodes }
    }

    #[inline]
    fn image(&self, at: u32) -> &[u8] {
        let header = self.arena.bytes(at, NODE_HEADER_BYTES);
        let (image_at, len) = (u32_at(header, 0), u32_at(header, 4));
        self.arena.bytes(at + image_at / 64, len as usize)
    }
}

fn hash(key: &Key) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

#[derive(Clone, Copy)]
struct Query {
    key: Key,
    rank: u32,
}

fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

type Read<'a> = (String, Box<dyn Fn(&Query, &mut [u8; VALUE_BYTES]) + 'a>);

fn measure(keys: &[Key], reads: &[Read<'_>]) {
    let mut state = 99;
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); reads.len()];
    let mut apart: Vec<Vec<f64>> = vec![Vec::new(); reads.len()];
    for _ in 0..ROUNDS {
        for ((read, times), apart) in reads.iter().zip(&mut times).zip(&mut apart) {
            let queries: Vec<Query> = (0..QUERIES)
                .map(|_| to_usize(random(&mut state)) % keys.len())
                .map(|rank| Query { key: keys[rank], rank: to_u32(rank) })
                .collect();
            let mut value = [0; VALUE_BYTES];
            let started = thread_ns();
            let mut next = 0;
            for _ in 0..QUERIES {
                value[0] = 1;
                read.1(&queries[next], &mut value);
                // 0 is what is stored: the next query is known when the value is.
                next += 1 + usize::from(black_box(value[0]));
            }
            times.push((thread_ns() - started) as f64 / QUERIES as f64);
            let started = thread_ns();
            for query in &queries {
                read.1(black_box(query), &mut value);
                black_box(&value);
            }
            apart.push((thread_ns() - started) as f64 / QUERIES as f64);
        }
    }
    let (medians, apart) = (medians(&mut times), medians(&mut apart));
    println!("{:<46} {:>7} {:>6} {:>15} {:>12}", "", "ns", "ratio", "least to most", "independent");
    for (((read, median), times), apart) in reads.iter().zip(&medians).zip(&times).zip(&apart) {
        let (least, most, ratio) = (times[0], times[times.len() - 1], median / medians[0]);
        println!("{:<46} {median:>7.0} {ratio:>6.2} {least:>7.0} {most:>7.0} {apart:>12.0}", read.0);
    }
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    for line in rollup.lines().filter(|line| line.starts_with("Rss") || line.starts_with("AnonHuge")) {
        println!("{line}");
    }
}

fn medians(times: &mut [Vec<f64>]) -> Vec<f64> {
    let median = |times: &mut Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    };
    times.iter_mut().map(median).collect()
}

fn copy(entry: Option<Entry<'_>>, value: &mut [u8; VALUE_BYTES]) {
    value.copy_from_slice(entry.expect("every key is there").value);
}

/// The unit of the others: a line anywhere in an arena, with nothing to do.
fn one_line(arena: &Arena) -> Read<'_> {
    let lines = arena.used as u64;
    let read = move |query: &Query, value: &mut [u8; VALUE_BYTES]| {
        let at = u64::from(query.rank).wrapping_mul(0x9e37_79b9_7f4a_7c15) % lines;
        value[0] = black_box(arena.lines[to_usize(at)].0[63]) & black_box(0);
    };
    ("one line of memory".to_owned(), Box::new(read))
}

fn shuffled(len: usize, state: &mut u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    for index in (1..len).rev() {
        order.swap(index, to_usize(random(state)) % (index + 1));
    }
    order
}
