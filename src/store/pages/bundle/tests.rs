mod debts;

use super::buffer::{Flushed, Named};
use super::*;
use crate::store::pages::defect::PagesDefect;
use crate::store::pages::geometry::Geometry;
use crate::store::pages::page::{self, PageKind};

const BLOCK: u32 = 4096;

fn owner() -> Owner {
    Owner { identity: [6; 16], geometry: Geometry { block: BLOCK, segment: 256 << 10, segments: 32 } }
}

fn leaf(id: u64, epoch: u32) -> PageHeader {
    PageHeader {
        newest: 50 + id,
        tree: 4,
        ..PageHeader::plain(PageKind::Leaf, 0, ChildWord::of_numbers(id, epoch))
    }
}

fn segment(segment: u32, generation: u32) -> SegmentName {
    SegmentName { segment, generation }
}

/// A bundle of three pages, and one freed id: its buffer.
fn bundle() -> (Vec<u8>, Sealed) {
    let mut buffer = vec![0xaa; 64 << 10];
    let mut builder = Builder::new(owner(), number(3, 7), segment(5, 2), 128);
    assert!(builder.is_empty());
    let replaces = Some(ColdAddress::of_numbers(3 * 4096 + 64, 10));
    for (id, len, is_cold_stream, is_moved) in
        [(20, 100, false, false), (21, 4000, true, false), (22, 1, false, true)]
    {
        let content = vec![u8::try_from(id).expect("small"); len];
        let origin = Origin { is_cold_stream, is_moved, replaces };
        let added = builder.append(&mut buffer, &leaf(id, 9), (&content, len), origin);
        assert_eq!(added.map(|entry| entry.page), Ok(ChildWord::of_numbers(id, 9)));
    }
    assert_eq!(builder.free(&buffer, ChildWord::of_numbers(30, 4)), Ok(()));
    let sealed = builder.seal(&mut buffer);
    buffer.truncate(sealed.write().1);
    (buffer, sealed)
}

/// The part of the bundle's buffer that lies at `place`.
fn at(buffer: &[u8], offset: u64, place: ColdAddress) -> &[u8] {
    let start = to_usize(place.offset_bytes() - offset);
    &buffer[start..start + to_usize(place.len_bytes())]
}

#[test]
fn a_bundle_comes_back_page_by_page() {
    let (buffer, sealed) = bundle();
    let (offset, len) = sealed.write();
    assert_eq!((offset, len), (5 * (256 << 10) + 128 * 64, 8192), "whole blocks");
    let written = sealed.trailer().clone();
    assert_eq!(written.newest, 72);
    let mut clock = FlushClock::default();
    let before = clock.begin();
    let written_at = sealed.written(&clock);
    let written_at = written_at.flushed(before).expect_err("that flush may not cover it");
    let flushed = written_at.flushed(clock.begin()).expect("a later flush does");
    let (number, place) = flushed.record();
    assert_eq!(number, 3 << 40 | 7);
    let trailer = Trailer::parse(at(&buffer, offset, place.place), place, &owner()).expect("whole");
    assert_eq!(trailer, written);
    let mut next = 5 * 4096 + 128;
    for entry in &trailer.entries {
        assert_eq!(entry.place.granule(), next, "without holes");
        next += u64::from(entry.place.granules());
        let page =
            page::parse(at(&buffer, offset, entry.place), entry.place, &owner().identity).expect("whole");
        assert_eq!((page.header.page, page.header.bundle), (entry.page, number));
        assert_eq!((page.header.newest, page.header.tree), (50 + entry.page.id().get(), 4));
        assert_eq!(page.checksum & 0xffff_ffff, u64::from(entry.second.checksum_low()));
        assert!(page.stored.iter().all(|&byte| u64::from(byte) == entry.page.id().get()));
        assert_eq!(page.content_len, page.stored.len());
    }
    assert_eq!(place.place.granule(), next, "then the trailer");
    let moved = trailer.entries.iter().map(Entry::moved_from).collect::<Vec<_>>();
    assert_eq!(moved, [None, None, trailer.entries[2].replaces]);
    assert_eq!(trailer.entries.iter().filter(|entry| entry.second.is_cold_stream()).count(), 1);
    assert_eq!(trailer.freed, [ChildWord::of_numbers(30, 4)]);
}

#[test]
fn every_flipped_bit_of_a_trailer_or_page_is_noticed() {
    let (buffer, sealed) = bundle();
    let (offset, _) = sealed.write();
    let clock = &mut FlushClock::default();
    let entries = sealed.trailer().entries.clone();
    let (_, place) = sealed.written(clock).flushed(clock.begin()).expect("later").record();
    // To a granule's end there is padding, which says nothing.
    let trailer_len = TRAILER_BYTES + 3 * ENTRY_BYTES + FREED_BYTES;
    for byte in 0..trailer_len {
        let mut bytes = at(&buffer, offset, place.place).to_vec();
        bytes[byte] ^= 1 << (byte % 8);
        let damage = Trailer::parse(&bytes, place, &owner()).expect_err("a flipped bit");
        assert_eq!((damage.structure, damage.offset), (Structure::Trailer, place.place.offset_bytes()));
    }
    for entry in entries {
        let bytes = at(&buffer, offset, entry.place);
        let len = page::parse(bytes, entry.place, &owner().identity).expect("whole").stored.len();
        for byte in 0..page::PAGE_HEADER_BYTES + len {
            let mut bytes = bytes.to_vec();
            bytes[byte] ^= 1 << (byte % 8);
            assert!(page::parse(&bytes, entry.place, &owner().identity).is_err(), "byte {byte}");
        }
    }
    let text =
        Trailer::parse(&[0; 64], place, &owner()).expect_err("none").error("open store", "disk").to_string();
    assert!(text.contains("disk offset 13") && text.contains("the trailer of a bundle: "), "{text}");
}

#[test]
fn trailers_that_contradict_themselves_are_refused() {
    let (buffer, sealed) = bundle();
    let (offset, _) = sealed.write();
    let clock = &mut FlushClock::default();
    let good = sealed.trailer().clone();
    let (_, place) = sealed.written(clock).flushed(clock.begin()).expect("later").record();
    assert!(Trailer::parse(at(&buffer, offset, place.place), place, &owner()).is_ok());
    let refused = |first: u32, change: fn(&mut Trailer)| {
        let mut bad = good.clone();
        change(&mut bad);
        let (mut bytes, checksum) = bad.encode(first, &owner().identity);
        bytes.resize(to_usize(place.place.len_bytes()), 0);
        Trailer::parse(&bytes, PageRef { checksum, ..place }, &owner()).is_err()
    };
    assert!(!refused(128, |_| {}));
    assert!(refused(64, |_| {}), "there is a hole in front");
    assert!(refused(129, |_| {}));
    assert!(refused(128, |bad| bad.segment = 6));
    assert!(refused(128, |bad| bad.generation = 0));
    assert!(refused(128, |bad| bad.entries.swap(0, 1)));
    assert!(refused(128, |bad| bad.entries[1].place = bad.entries[0].place));
    assert!(refused(128, |bad| bad.entries[0].page = ChildWord::of_numbers(20, 8)));
    assert!(refused(128, |bad| bad.entries[0].page = ChildWord::of_numbers(0, 9)));
    assert!(refused(128, |bad| bad.entries[2].replaces = None), "a move from nowhere");
    assert!(refused(128, |bad| bad.entries[2].replaces = Some(ColdAddress::of_numbers(64, 1))));
    assert!(refused(128, |bad| bad.freed[0] = ChildWord::NONE));
    let elsewhere = PageRef { place: ColdAddress::of_numbers(64, 3), ..place };
    assert!(Trailer::parse(at(&buffer, offset, place.place), elsewhere, &owner()).is_err());
}

#[test]
fn a_bundle_ends_with_its_buffer_its_segment_and_its_trailer() {
    let fill = |first: u32, len: usize, content: usize| {
        let mut buffer = vec![0; len];
        let mut builder = Builder::new(owner(), 1, segment(5, 2), first);
        let content = vec![1; content];
        let mut pages = 0;
        let add = |builder: &mut Builder, buffer: &mut [u8], id| {
            builder.append(buffer, &leaf(id, 0), (&content, content.len()), Origin::default())
        };
        while add(&mut builder, &mut buffer, pages + 1).is_ok() {
            pages += 1;
        }
        while builder.free(&buffer, ChildWord::of_numbers(1, 0)).is_ok() {}
        let (_, len) = builder.seal(&mut buffer).write();
        (pages, len)
    };
    // 16 pages of 4,160 bytes would leave no room for the trailer.
    assert_eq!(fill(64, 17 * 4096, 4096), (16, 17 * 4096));
    assert_eq!(fill(64, 16 * 4096, 4096), (15, 16 * 4096));
    let (_, len) = fill(4096 - 128, 1 << 20, 4096);
    assert_eq!(len, 8192, "the segment has two blocks left");
    let (pages, _) = fill(64, 1 << 20, 20);
    assert!(pages < MAX_ENTRIES as u64);
    let large = Owner { geometry: Geometry { segment: 16 << 20, ..owner().geometry }, ..owner() };
    let mut buffer = vec![0; 4 << 20];
    let mut builder = Builder::new(large, 1, segment(5, 2), 64);
    let mut add = |len: usize| {
        let content = vec![1; len];
        builder.append(&mut buffer, &leaf(1, 0), (&content, len), Origin::default())
    };
    assert_eq!((0..).take_while(|_| add(1).is_ok()).count(), MAX_ENTRIES);
    let mut builder = Builder::new(large, 1, segment(5, 2), 64);
    let header = crate::store::pages::map_page::header(0, 1);
    let metas = (0..).take_while(|_| builder.append_meta(&mut buffer, &header, &[0; 4096]).is_ok()).count();
    assert_eq!(metas, MAX_PAGES_BYTES / 4160);
}

/// Writes, batches, bundles; then the log is cut. Rule W1: no page has a write that the log lost.
fn writes_and_a_crash(seed: u64, defect: Option<PagesDefect>) {
    use rand::{Rng, SeedableRng};
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (mut clock, mut count) = (FlushClock::default(), 0);
    let (mut write, mut batches) = (0u64, vec![0u64]);
    let mut flushed: Vec<Flushed> = Vec::new();
    let mut named: Vec<(u64, Named)> = Vec::new();
    for _ in 0..100 {
        match random.random_range(0..3) {
            0 => write += random.random_range(1..4),
            1 => {
                // A page with the newest write, or an older one.
                count += 1;
                let mut buffer = vec![0; 8192];
                let mut builder = Builder::new(owner(), number(1, count), segment(5, 2), 64);
                let newest = write.saturating_sub(random.random_range(0..3));
                builder
                    .append(&mut buffer, &PageHeader { newest, ..leaf(1, 0) }, (&[1], 1), Origin::default())
                    .expect("there is room");
                let written = builder.seal(&mut buffer).written(&clock);
                flushed.push(written.flushed(clock.begin()).expect("later"));
            }
            _ => {
                // Not all writes are published yet.
                let last = write.saturating_sub(random.random_range(0..3)).max(batches[batches.len() - 1]);
                batches.push(last);
                let batch = batches.len() as u64 - 1;
                for bundle in std::mem::take(&mut flushed) {
                    let newest = bundle.newest();
                    match bundle.name(batch, last, defect) {
                        Ok(bundle) => named.push((newest, bundle)),
                        Err(bundle) => flushed.push(bundle),
                    }
                }
            }
        }
    }
    let durable = random.random_range(0..batches.len());
    for (newest, bundle) in named {
        if let Ok(bundle) = bundle.durable(durable as u64) {
            assert!(
                bundle.batch() <= durable as u64 && bundle.entries().len() == 1 && bundle.freed().is_empty()
            );
            assert!(
                newest <= batches[durable],
                "a page has write {newest}, the log ends at {}",
                batches[durable]
            );
        }
    }
}

#[test]
fn no_page_is_ahead_of_the_log() {
    (0..200).for_each(|seed| writes_and_a_crash(seed, None));
    let broken = |seed: &u64| {
        let defect = Some(PagesDefect::PagesBeforeLog);
        std::panic::catch_unwind(|| writes_and_a_crash(*seed, defect)).is_err()
    };
    println!("{}", (0..60).find(broken).expect("pages ahead of the log must be noticed"));
}

#[test]
fn a_checkpoint_begins_between_batches() {
    let mut naming = Naming::default();
    assert_eq!(naming.freeze(4), Some(4));
    naming.named(4, 0);
    naming.named(5, 2);
    naming.named(7, 1);
    assert_eq!(naming.freeze(8), Some(5), "none of batch 5 is installed");
    assert!(!naming.installed(7), "5 comes first");
    assert!(naming.installed(5));
    assert_eq!(naming.freeze(8), None, "one of two is");
    assert!(naming.installed(5));
    assert_eq!(naming.freeze(8), Some(7));
    assert!(naming.installed(7));
    assert_eq!(naming.freeze(8), Some(8));
    assert!(!naming.installed(9));
}
