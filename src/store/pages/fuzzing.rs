//! What the fuzz targets call: structures that are right but for what the input changes in them.
//!
//! Under the fuzzer every checksum has the same value (`cfg(fuzzing)` in `store::codec`), so each
//! change reaches the decoder behind it.

use super::bundle::{Builder, FlushClock, Origin, Trailer};
use super::geometry::Geometry;
use super::lengths;
use super::map_page::{self, MapEntry, MapLoad, MapPage, Owner};
use super::page::{self, PageHeader, PageKind};
use super::segment::{SegmentHeader, SegmentName, SegmentUse, Segments, TableLoad, Temperature};
use super::superblock::{self, Choice, LogStart, Superblock, choose};
use crate::store::btree::fuzzing::{inner, leaf};
use crate::store::codec::to_usize;
use crate::store::word::{ChildWord, ColdAddress, Epoch, MAX_PAGE_BYTES, PageRef, SecondWord};

fn owner() -> Owner {
    Owner { identity: [9; 16], geometry: Geometry { block: 4096, segment: 256 << 10, segments: 300 } }
}

/// Changes `bytes`: by each three bytes of `input`, two for the offset and one for the value.
fn change(bytes: &mut [u8], input: &[u8]) {
    for edit in input.chunks_exact(3) {
        let offset = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % bytes.len();
        bytes[offset] = edit[2];
    }
}

/// Four superblocks: what is chosen among them can be written, and is chosen again.
pub fn superblocks(input: &[u8]) {
    let place = ColdAddress::of_numbers(3 * 4096 + 64, 65);
    let first = Superblock {
        clean: false,
        salvaged: false,
        identity: owner().identity,
        sequence: 5,
        epoch: 1,
        geometry: owner().geometry,
        parent: 1,
        log: LogStart { segment: 2, generation: 1, offset: 4096, batch: 1, chain: 0, first_write: 0 },
        checkpoint: 3,
        first_batch: 1,
        next_page: 600,
        map: Some(PageRef { place, checksum: 1 }),
        map_levels: 2,
        table: Some(PageRef { place, checksum: 1 }),
        used_granules: 0,
        written_ms: 0,
        lengths: None,
        lengths_at: 0,
    };
    let mut bytes: Vec<u8> = (0..4).flat_map(|copy| first.encode(copy)).collect();
    change(&mut bytes, input);
    let look = |bytes: &[u8]| {
        let mut blocks = [None; 4];
        blocks.iter_mut().zip(bytes.chunks(superblock::BYTES)).for_each(|(to, block)| *to = Some(block));
        choose(blocks)
    };
    match look(&bytes) {
        Ok(Choice::Store { superblock, sequences, next_sequence }) => {
            assert!(sequences.iter().all(|&sequence| sequence < next_sequence));
            let again: Vec<u8> = (0..4).flat_map(|copy| superblock.encode(copy)).collect();
            let sequences = [superblock.sequence; 4];
            let next_sequence = superblock.sequence + 1;
            assert_eq!(look(&again), Ok(Choice::Store { superblock, sequences, next_sequence }));
        }
        Ok(Choice::Blank | Choice::Foreign) => {}
        Err(refusal) => assert!(!refusal.error("fuzz").to_string().is_empty()),
    }
}

/// A bundle and the header of its segment: its pages lie in it, or it is refused.
pub fn bundle(input: &[u8]) {
    let name = SegmentName { segment: 5, generation: 2 };
    let header = SegmentHeader { name, usage: SegmentUse::Pages(Temperature::Hot), first: 1 };
    let mut bytes = header.encode(&owner().identity);
    change(&mut bytes, input);
    if let Ok(header) = SegmentHeader::parse(&bytes, 5, &owner().identity, &owner().geometry) {
        assert_eq!(header.name.segment, 5);
    }
    let mut buffer = vec![0; 16 << 10];
    let mut builder = Builder::new(owner(), 7, name, 64);
    let replaces = Some(ColdAddress::of_numbers(3 * 4096 + 64, 10));
    for id in 20..26 {
        let header = PageHeader::plain(PageKind::Leaf, 0, ChildWord::of_numbers(id, 9));
        let origin = Origin { is_cold_stream: false, is_moved: id % 2 == 0, replaces };
        builder.append(&mut buffer, &header, (&[1; 100], 100), origin).expect("there is room");
    }
    builder.free(&buffer, ChildWord::of_numbers(30, 4)).expect("there is room");
    let sealed = builder.seal(&mut buffer);
    let (offset, len) = sealed.write();
    let mut clock = FlushClock::default();
    let flushed = sealed.written(&clock).flushed(clock.begin()).expect("a later flush");
    let (_, at) = flushed.record();
    buffer.truncate(len);
    change(&mut buffer, input);
    let part = |place: ColdAddress| {
        let start = usize::try_from(place.offset_bytes().checked_sub(offset)?).ok()?;
        buffer.get(start..start.checked_add(to_usize(place.len_bytes()))?)
    };
    let bytes = part(at.place).expect("the trailer is in it");
    match Trailer::parse(bytes, at, &owner()) {
        Err(damage) => assert!(!damage.error("fuzz", "fuzz").to_string().is_empty()),
        Ok(trailer) => {
            for entry in &trailer.entries {
                assert_eq!(owner().geometry.locate(entry.place).map(|(segment, _)| segment), Some(5));
                let bytes = part(entry.place).expect("between the first page and the trailer");
                if let Ok(page) = page::parse(bytes, entry.place, &owner().identity) {
                    assert!(page.stored.len() + 64 <= bytes.len() && page.content_len <= MAX_PAGE_BYTES);
                }
            }
        }
    }
}

/// Decodes bytes as the page in front of them, and its content as what the header says it is.
pub fn page(bytes: &[u8]) {
    if bytes.len() < page::PAGE_HEADER_BYTES {
        return;
    }
    let Some(stored) = bytes.get(40..44).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) else { return };
    let stored = u32::from_le_bytes(stored) as usize;
    if stored > page::MAX_CONTENT_BYTES {
        return;
    }
    let place = ColdAddress::of_numbers(64, page::stored_granules(stored));
    let mut identity = [0; 16];
    identity[..8].copy_from_slice(&bytes[56..64]);
    let mut whole = bytes.to_vec();
    whole.resize(bytes.len().next_multiple_of(64), 0);
    let Ok(parsed) = page::parse(&whole, place, &identity) else { return };
    let page::Page { header, stored, content_len, .. } = parsed;
    let mut again = vec![0; to_usize(place.len_bytes())];
    header.write(&identity, stored, content_len, &mut again);
    let len = page::PAGE_HEADER_BYTES + stored.len();
    assert_eq!(again[..len], whole[..len], "a header has one form");
    match header.kind {
        PageKind::Leaf if header.compression == page::Compression::None => leaf(stored),
        PageKind::Inner if header.compression == page::Compression::None => inner(stored, header.level),
        _ => {}
    }
}

/// The page with the numbers of keys: what is decoded is encoded to the same bytes. The first byte
/// of the input says whether the rest is the content, or what is changed in a page that is right.
pub fn tree_lengths(input: &[u8]) {
    let Some((&which, input)) = input.split_first() else { return };
    let right: Vec<(u32, u64)> = (0..20).map(|tree| (tree * 3, 1 << tree)).collect();
    let content = if which % 2 == 0 { input.to_vec() } else { lengths::encode(&right) };
    if content.len() > page::MAX_CONTENT_BYTES {
        return;
    }
    let (from, mut bytes) = page_at(&lengths::header(), &content, 3 * 4096 + 64);
    if which % 2 == 1 {
        change(&mut bytes, input);
    }
    match lengths::decode(&bytes, from, &owner()) {
        Ok(found) => {
            assert!(found.iter().all(|(_, length)| *length > 0));
            assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let again = lengths::encode(&found);
            assert_eq!(again, bytes[64..64 + again.len()]);
        }
        Err(damage) => assert!(!damage.error("fuzz", "fuzz").to_string().is_empty()),
    }
}

/// A page at a place, as it is on the namespace.
fn page_at(header: &PageHeader, content: &[u8], granule: u64) -> (PageRef, Vec<u8>) {
    let granules = page::stored_granules(content.len());
    let place = ColdAddress::of_numbers(granule, granules);
    let mut bytes = vec![0; to_usize(place.len_bytes())];
    let checksum = header.write(&owner().identity, content, content.len(), &mut bytes);
    (PageRef { place, checksum }, bytes)
}

/// Pages of the map and of the segment table: what is decoded is encoded to the same bytes.
pub fn map(input: &[u8]) {
    let Some((&which, input)) = input.split_first() else { return };
    let mut first = MapPage::default();
    for (id, entry) in (0u32..).zip(first.0.iter_mut()).take(40) {
        let epoch = Epoch::new(id).expect("small");
        let second = SecondWord::new(1, epoch, true, false);
        *entry = match id % 4 {
            0 => MapEntry::Free { epoch },
            1 => MapEntry::Damaged { second },
            _ => MapEntry::Cold { place: ColdAddress::of_numbers(3 * 4096 + 64, 9), second },
        };
    }
    let (lower, mut bytes) = page_at(&map_page::header(0, 0), &first.encode(), 3 * 4096 + 64);
    match which % 3 {
        0 => {
            change(&mut bytes, input);
            if let Ok(page) = MapPage::decode(&bytes, 0, lower, &owner()) {
                assert_eq!(page.encode(), bytes[64..]);
            }
        }
        1 => {
            let mut content = Vec::new();
            (0..3).for_each(|_| content.extend_from_slice(&PageRef::encode(Some(lower))));
            content.resize(map_page::MAP_CONTENT_BYTES, 0);
            let (upper, mut bytes) = page_at(&map_page::header(1, 0), &content, 4 * 4096 + 64);
            change(&mut bytes, input);
            let mut load = MapLoad::new(Some(upper), 2, 600, owner());
            if load.read(&bytes).is_ok() {
                assert!(load.next().is_none() && load.finish().pages().count() <= 4);
            }
        }
        _ => {
            let mut segments = Segments::new(owner().geometry, None);
            segments.open(Temperature::Hot).expect("free");
            let mut write = segments.freeze();
            let mut granule = 4 * 4096 + 64;
            let mut pages = Vec::new();
            while let Some(header) = write.header() {
                let (place, mut bytes) = page_at(&header, &segments.content(&write), granule);
                granule += u64::from(place.place.granules());
                segments.table_placed(&mut write, place);
                change(&mut bytes, input);
                pages.push(bytes);
            }
            let index = pages.pop().expect("the last is the index");
            let place = write.index().expect("it was placed");
            let Ok(mut load) = TableLoad::new(&index, place, owner()) else { return };
            for bytes in pages {
                if load.read(&bytes).is_err() {
                    return;
                }
            }
            if load.next().is_none() {
                let mut loading = load.finish(1, None);
                _ = loading.log(SegmentName { segment: 3, generation: 1 });
                _ = loading.bundle(SegmentName { segment: 2, generation: 1 }, Temperature::Hot, 0);
                assert!(loading.finish().free_count() <= 298);
            }
        }
    }
}
