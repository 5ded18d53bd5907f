//! Room that was promised is there, and snapshots hold the horizon.

use proptest::collection::vec;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::batch::{Batch, BatchHeader, HEADER_BYTES};
use super::super::tests::{fresh, record, recycle};
use super::{NoRoom, VOIDS};

/// A room, and what is made of it.
#[derive(Clone, Debug)]
struct Use {
    lens: Vec<usize>,
    /// Draws that come to nothing, before.
    voids: usize,
    /// Batches that are formed first.
    batches: usize,
    /// Another room is held meanwhile.
    beside: bool,
}

prop_compose! {
    fn any_use()(
        lens in vec(prop_oneof![1_usize..40, 1_usize..250], 1..4),
        voids in 0..VOIDS,
        batches in 0_usize..3,
        beside in any::<bool>(),
    ) -> Use {
        Use { lens, voids, batches, beside }
    }
}

proptest! {
    #[test]
    fn promised_room_is_there(uses in vec(any_use(), 1..60)) {
        let wal = fresh(64 << 10, 512, (1, 2048), None);
        let log = wal.attach().expect("room");
        let mut out = vec![0; 4096];
        for Use { lens, voids, batches, beside } in uses {
            for _ in 0..batches {
                let mut lead = wal.lead().expect("nobody else leads");
                let current = lead.leader().position().segment;
                recycle(&mut lead.leader().segments, current);
                lead.next_batch(&mut out).expect("there are segments");
                lead.written(true);
            }
            let count = u32::try_from(lens.len()).expect("few");
            let other = if beside { log.room(1, 100).ok() } else { None };
            let Ok(mut room) = log.room(count, lens.iter().sum()) else { continue };
            for _ in 0..voids {
                drop(room.draw().expect("voids before the record"));
            }
            let mut draw = room.draw().expect("the last");
            lens.iter().for_each(|len| draw.append(*len, |out| record(1, out)));
            drop(draw);
            if let Some(mut other) = other {
                other.draw().expect("the first").append(100, |out| record(2, out));
            }
        }
        prop_assert_eq!(log.promised.get(), 0);
        // Nothing stays for ever.
        for _ in 0..40 {
            let mut lead = wal.lead().expect("nobody else leads");
            lead.next_batch(&mut out).expect("there are segments");
            lead.written(true);
        }
        prop_assert!(log.room(1, 250).is_ok());
        prop_assert_eq!(wal.durable(), wal.order().next());
    }
}

/// All of the room is used, up to its last void, at every place of the ring.
#[test]
fn promised_room_is_there_to_the_last_byte() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..300 {
        let wal = fresh(64 << 10, 512, (1, 1024), None);
        let log = wal.attach().expect("room");
        let mut out = vec![0; 4096];
        for _ in 0..40 {
            let len = random.random_range(1..=log.max_record_bytes());
            let mut room = loop {
                if let Ok(room) = log.room(1, len) {
                    break room;
                }
                let mut lead = wal.lead().expect("nobody else leads");
                let current = lead.leader().position().segment;
                recycle(&mut lead.leader().segments, current);
                lead.next_batch(&mut out).expect("there are segments");
                lead.written(true);
            };
            for _ in 1..VOIDS {
                drop(room.draw().expect("voids before the record"));
            }
            room.draw().expect("the last").append(len, |out| record(1, out));
        }
    }
}

#[test]
fn more_than_the_buffer_will_ever_hold_is_too_long() {
    let wal = fresh(64 << 10, 512, (1, 2048), None);
    let log = wal.attach().expect("room");
    assert!(matches!(log.room(1, log.max_record_bytes() + 1), Err(NoRoom::TooLong)));
    assert!(matches!(log.room(1000, 10), Err(NoRoom::TooLong)));
}

#[test]
fn an_encoder_that_panics_leaves_a_void() {
    let wal = fresh(64 << 10, 512, (1, 2048), None);
    let log = wal.attach().expect("room");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut room = log.room(1, 10).expect("there is room");
        room.draw().expect("the first").append(10, |_| panic!("on purpose"));
    }));
    assert!(panicked.is_err());
    assert_eq!(wal.order().stable(), 2);
    let mut out = vec![0; 4096];
    let formed = wal.lead().expect("nobody else leads").next_batch(&mut out);
    assert_eq!(formed.expect("works").expect("a void").end, 2);
}

#[test]
#[should_panic(expected = "publishes its numbers before it draws the next")]
fn two_draws_at_once_are_refused() {
    let wal = fresh(64 << 10, 512, (1, 2048), None);
    let log = wal.attach().expect("room");
    let mut first = log.room(1, 10).expect("there is room");
    let mut second = log.room(1, 10).expect("there is room");
    let _draw = first.draw();
    let _other = second.draw();
}

#[test]
fn the_horizon_is_the_oldest_snapshot() {
    let wal = fresh(64 << 10, 512, (2, 2048), None);
    let (a, b) = (wal.attach().expect("room"), wal.attach().expect("room"));
    let write = || a.room(1, 1).expect("there is room").draw().expect("the first").void();
    write();
    assert_eq!(wal.order().horizon(), 2);
    let oldest = b.snapshot();
    write();
    let newer = b.snapshot();
    let same = b.snapshot();
    let other = a.snapshot();
    write();
    let newest = b.snapshot();
    write();
    assert_eq!([&oldest, &newer, &same, &other].map(|snapshot| snapshot.number()), [2, 3, 3, 3]);
    assert!(newer.is_ready());
    assert_eq!(wal.order().horizon(), 2);
    drop(newer);
    assert_eq!(wal.order().horizon(), 2);
    drop(oldest);
    assert_eq!(wal.order().horizon(), 3, "one of them is left");
    drop(other);
    assert_eq!(wal.order().horizon(), 3);
    drop(same);
    assert_eq!(wal.order().horizon(), newest.number());
    drop(newest);
    assert_eq!(wal.order().horizon(), 5);
    let mut room = b.room(1, 1).expect("there is room");
    let draw = room.draw().expect("the first");
    let snapshot = a.snapshot();
    assert!(!snapshot.is_ready(), "a number below it is not published");
    drop(draw);
    assert!(snapshot.is_ready());
}

/// What replay would refuse cannot be appended, and its number is a void's.
#[test]
fn records_that_are_no_operations_are_refused() {
    let wal = fresh(64 << 10, 512, (1, 4096), None);
    let log = wal.attach().expect("room");
    for bad in [&[][..], &[3], &[0, 0], &[11], &[1, 7, 200]] {
        let mut room = log.room(1, 100).expect("there is room");
        let mut draw = room.draw().expect("the first");
        let append = || draw.append(bad.len(), |out| out.copy_from_slice(bad));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(append)).expect_err("it is no record");
    }
    let mut out = vec![0; 4096];
    let formed = wal.lead().expect("nobody else leads").next_batch(&mut out).expect("works");
    assert_eq!(formed.expect("voids").end, 6);
    let (header, _) = BatchHeader::decode(&out).expect("a header");
    let payload = &out[HEADER_BYTES..HEADER_BYTES + header.payload_len as usize];
    assert!(Batch::check(header, payload).is_ok());
}
