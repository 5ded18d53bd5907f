//! Groups that go on in other segments.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::pages::{Compression, Geometry, Origin, PageFlags, PageHeader, PageKind, stored_granules};
use crate::store::word::ChildWord;

const CONTENT: [u8; 8000] = [7; 8000];
const HOT: Temperature = Temperature::Hot;

/// Streams of a store with so many free segments, one of them open.
fn streams(free: usize) -> (Streams, Segments) {
    let geometry = Geometry::of_namespace(16 << 20, 4096, false).expect("a store can have this size");
    let mut segments = Segments::new(geometry, None);
    while segments.free_count() > free {
        segments.open(HOT).expect("it is free");
    }
    let owner = Owner { identity: *b"a store of tests", geometry };
    let mut streams = Streams::new(owner, 64);
    streams.room(&mut segments, HOT).expect("a segment");
    (streams, segments)
}

fn lengths(count: usize) -> Vec<usize> {
    vec![stored_granules(CONTENT.len()) as usize * GRANULE_BYTES; count]
}

fn header(page: u64) -> PageHeader {
    PageHeader {
        kind: PageKind::Leaf,
        level: 0,
        compression: Compression::None,
        flags: PageFlags::default(),
        page: ChildWord::of_numbers(page, 0),
        bundle: 0,
        newest: 1,
        tree: 1,
        earliest_expiry_seconds: 0,
    }
}

#[test]
fn a_group_has_all_its_segments_before_its_first_bundle() {
    let (mut streams, mut segments) = streams(6);
    let lengths = lengths(100);
    let loads = streams.reserve(&mut segments, HOT, (&lengths, 3), 100).expect("room for 100 pages");
    assert!(loads.len() > 3, "{loads:?}");
    assert_eq!(loads.iter().map(|load| load.entries).sum::<usize>(), 100);
    assert_eq!(loads.iter().map(|load| load.freed).sum::<usize>(), 3);
    // The log takes what is left meanwhile.
    while segments.open_log().is_some() {}
    let mut used = std::collections::BTreeSet::new();
    for (number, load) in (1..).zip(&loads) {
        streams.room(&mut segments, HOT).expect("it was reserved");
        let (written, ()) = streams.build(&mut segments, (HOT, number), load, |builder, buffer| {
            for page in 1..=load.entries as u64 {
                let origin = Origin { is_cold_stream: false, is_moved: false, replaces: None };
                builder.append(buffer, &header(page), (&CONTENT, CONTENT.len()), origin)?;
            }
            (0..load.freed).try_for_each(|_| builder.free(buffer, ChildWord::of_numbers(9, 1)))
        });
        used.insert(written.offset / u64::from(streams.owner.geometry.segment));
    }
    assert!(used.len() > 2, "{used:?}");
    assert!(streams.reserved.iter().all(VecDeque::is_empty));
}

#[test]
fn a_group_without_room_leaves_everything_as_it_was() {
    let (mut streams, mut segments) = streams(6);
    let before = streams.room(&mut segments, HOT);
    let many = lengths(1000);
    let refused = streams.reserve(&mut segments, HOT, (&many, 0), 1000);
    assert_eq!(refused, Err(NoPlace::NoSegment));
    assert_eq!((segments.free_count(), segments.waiting_count()), (0, 5), "they wait for a checkpoint");
    assert_eq!(streams.room(&mut segments, HOT), before);
    let one = streams.reserve(&mut segments, HOT, (&many[..5], 0), 1);
    assert_eq!(one.map(|loads| loads.len()), Ok(1));
    assert_eq!(streams.reserve(&mut segments, HOT, (&many[..100], 0), 1), Err(NoPlace::TooMany));
}

/// Whatever has the room of a group, is one, with segments of any size.
#[test]
fn what_has_the_room_of_a_group_is_never_too_many_bundles() {
    let mut random = StdRng::seed_from_u64(5);
    for size_bits in [28, 30, 31, 34] {
        let geometry =
            Geometry::of_namespace(1 << size_bits, 4096, false).expect("a store can have this size");
        let owner = Owner { identity: *b"a store of tests", geometry };
        for shortest in [64, 512, 4000, 16_000, 32_000] {
            let mut segments = Segments::new(geometry, None);
            let mut streams = Streams::new(owner, 64);
            let room = streams.group_room();
            let (mut pages, mut bytes) = (Vec::new(), 0);
            while bytes <= room.bytes && pages.len() <= room.entries {
                let longest = [shortest, LONGEST_PAGE_BYTES][random.random_range(0..2)];
                let page = random.random_range(shortest..=longest).next_multiple_of(GRANULE_BYTES);
                bytes += page;
                pages.push(page);
            }
            pages.pop();
            let loads = streams.reserve(&mut segments, HOT, (&pages, 0), MAX_GROUP);
            assert!(loads.is_ok(), "{loads:?}: {size_bits} bits, {} pages of {shortest}", pages.len());
        }
    }
}
