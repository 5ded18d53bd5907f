//! The area's protocol on one thread: each state that another thread can leave a slot in is made by
//! hand. `threads` has the same on two threads.

mod threads;

use proptest::prelude::*;
use std::collections::BTreeMap;

use super::slot::Request;
use super::*;
use crate::store::btree::node::{AreaSize, NewNode, ProcessMemory, Shape};
use crate::store::cache::Room;
use crate::store::word::ChildWord;

type Node = NewNode<'static, ProcessMemory>;

fn node(size: AreaSize) -> Node {
    let shape = Shape::new(ChildWord::from_bits(0), 1, size, 0);
    NewNode::build(&ProcessMemory, &shape, Room::Ordinary).expect("memory")
}

/// A tag that two of four keys share.
fn tag(key: &[u8]) -> u16 {
    u16::from(key[0] % 2)
}

fn entry<'a>(kind: Kind, key: &'a [u8], value: &'a [u8]) -> NewEntry<'a> {
    NewEntry::new(kind, tag(key), key, value)
}

fn impatient(_: u32) -> bool {
    false
}

fn put(area: Area<'_>, key: &[u8], value: &[u8], seq: u64) -> Written {
    area.write(&entry(Kind::Put, key, value), impatient, |_| seq)
}

fn no_intents(_: u64) -> IntentState {
    unreachable!("there are no intents")
}

/// What a reader finds of a key: number, kind and value.
fn get(area: Area<'_>, key: &[u8]) -> Option<(u64, Kind, Vec<u8>)> {
    let newest = area.lookup(key, tag(key), u64::MAX, no_intents).newest?;
    Some((newest.seq, newest.kind, newest.value.to_vec()))
}

fn found(seq: u64, kind: Kind, value: &[u8]) -> Option<(u64, Kind, Vec<u8>)> {
    Some((seq, kind, value.to_vec()))
}

#[test]
fn the_newest_write_is_found() {
    let node = node(AreaSize::ALL[1]);
    let area = node.get().area();
    assert_eq!(get(area, b"a"), None);
    assert_eq!(put(area, b"a", b"1", 1), Written::Live(1));
    assert_eq!(put(area, b"c", b"other key, same tag", 2), Written::Live(2));
    assert_eq!(put(area, b"a", b"22", 3), Written::Live(3));
    assert_eq!(get(area, b"a"), found(3, Kind::Put, b"22"));
    let delete = entry(Kind::Delete, b"a", b"");
    assert_eq!(area.write(&delete, impatient, |_| 4), Written::Live(4));
    assert_eq!(get(area, b"a"), found(4, Kind::Delete, b""));
    let seqs: Vec<u64> = area.live().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [4, 3, 2, 1], "newest first");
    let seqs: Vec<u64> = area.versions(b"a", tag(b"a")).map(|entry| entry.seq).collect();
    assert_eq!(seqs, [4, 3, 1]);
}

#[test]
fn a_reader_below_a_number_finds_what_was_there() {
    let node = node(AreaSize::ALL[1]);
    let area = node.get().area();
    for seq in [3, 5, 9] {
        put(area, b"a", &[u8::try_from(seq).expect("small")], seq);
    }
    let before = |before| area.lookup(b"a", tag(b"a"), before, no_intents).newest.map(|entry| entry.seq);
    assert_eq!([3, 4, 9, 10].map(before), [None, Some(3), Some(5), Some(9)]);
}

#[test]
fn an_area_is_full_when_slots_or_heap_end() {
    let node = node(AreaSize::ALL[0]);
    let area = node.get().area();
    let large = vec![0; AreaSize::ALL[0].heap_bytes() - 13];
    assert_eq!(put(area, b"a", &large, 1), Written::Refused(Refused::Full), "heap");
    assert!(!area.is_frozen());
    for seq in 1..=4 {
        assert_eq!(put(area, b"a", b"1", seq), Written::Live(seq));
    }
    assert_eq!(put(area, b"a", b"1", 5), Written::Refused(Refused::Full), "slots");
    assert!(area.is_frozen(), "a full area needs no seal");
    assert_eq!(area.freeze(), 4);
    assert_eq!(get(area, b"a"), found(4, Kind::Put, b"1"));
}

#[test]
fn a_frozen_area_takes_nothing_and_keeps_what_it_has() {
    let node = node(AreaSize::ALL[0]);
    let area = node.get().area();
    put(area, b"a", b"1", 1);
    let late = area.reserve(&entry(Kind::Put, b"b", b"2")).expect("room");
    let view = area.view(tag(b"a"), impatient);
    assert_eq!(area.freeze(), 2);
    assert_eq!(area.freeze(), 2, "a second time");
    assert!(area.is_frozen());
    assert_eq!(put(area, b"a", b"1", 2), Written::Refused(Refused::Frozen));
    let change = entry(Kind::Put, b"a", b"2");
    assert_eq!(area.reserve_at(view, &change).err(), Some(Refused::Frozen));
    // The writer that had reserved still publishes, until the consolidation decides.
    assert_eq!(late.settle(impatient).publish(2), Published::Live);
    area.decide_all(impatient);
    assert_eq!(area.live().count(), 2);
}

#[test]
fn who_decides_waits_and_then_aborts() {
    let node = node(AreaSize::ALL[0]);
    let area = node.get().area();
    let mut late = Some(area.reserve(&entry(Kind::Put, b"a", b"1")).expect("room").settle(impatient));
    // It looks again after each wait, so it finds what was published meanwhile.
    let mut rounds = Vec::new();
    let written = area.write(
        &entry(Kind::Put, b"a", b"2"),
        |waited| {
            rounds.push(waited);
            if waited == 2 {
                assert_eq!(late.take().expect("once").publish(1), Published::Live);
            }
            true
        },
        |_| 2,
    );
    assert_eq!((written, rounds), (Written::Live(2), vec![0, 1, 2]));
    assert_eq!(get(area, b"a"), found(2, Kind::Put, b"2"));
}

#[test]
fn an_aborted_write_is_void_and_hides_nothing() {
    let node = node(AreaSize::ALL[0]);
    let area = node.get().area();
    let late = area.reserve(&entry(Kind::Put, b"a", b"1")).expect("room").settle(impatient);
    assert_eq!(get(area, b"a"), None, "what is reserved is not seen");
    assert_eq!(put(area, b"a", b"2", 1), Written::Live(1));
    assert_eq!(late.publish(2), Published::Aborted);
    assert_eq!(get(area, b"a"), found(1, Kind::Put, b"2"));
    // One that is aborted before it draws draws nothing.
    let late = area.reserve(&entry(Kind::Put, b"a", b"3")).expect("room");
    assert_eq!(put(area, b"a", b"4", 3), Written::Live(3));
    assert_eq!(late.finish(impatient, |_| unreachable!("aborted")), Written::Aborted(None));
}

#[test]
fn a_writer_of_another_tag_is_not_waited_for() {
    let node = node(AreaSize::ALL[0]);
    let area = node.get().area();
    let late = area.reserve(&entry(Kind::Put, b"a", b"1")).expect("room").settle(impatient);
    let other = area.write(&entry(Kind::Put, b"b", b"2"), |_| unreachable!("no wait"), |_| 1);
    assert_eq!(other, Written::Live(1));
    assert_eq!(late.publish(2), Published::Live);
}

#[test]
fn a_writer_that_gives_up_is_not_waited_for() {
    let node = node(AreaSize::ALL[0]);
    let area = node.get().area();
    drop(area.reserve(&entry(Kind::Put, b"a", b"1")).expect("room"));
    drop(area.reserve(&entry(Kind::Put, b"a", b"1")).expect("room").settle(impatient));
    let written = area.write(&entry(Kind::Put, b"a", b"2"), |_| unreachable!("no wait"), |_| 1);
    assert_eq!(written, Written::Live(1));
}

#[test]
fn a_read_modify_write_takes_a_slot_after_its_view() {
    let node = node(AreaSize::ALL[0]);
    let area = node.get().area();
    put(area, b"a", b"1", 1);
    let view = area.view(tag(b"a"), impatient);
    let seen = area.lookup_in(view, b"a", tag(b"a"), no_intents);
    assert_eq!(seen.newest.map(|entry| entry.seq), Some(1));
    // It walks over what others take meanwhile, and over what gave up.
    put(area, b"b", b"2", 2);
    drop(area.reserve(&entry(Kind::Put, b"a", b"2")).expect("room"));
    let change = entry(Kind::Put, b"a", b"3");
    let reserved = area.reserve_at(view, &change).expect("nothing came in for the key");
    assert_eq!(area.reserve_at(view, &change).err(), Some(Refused::Changed), "it is reserved");
    assert_eq!(reserved.finish(impatient, |_| 3), Written::Live(3));
    assert_eq!(area.reserve_at(view, &change).err(), Some(Refused::Changed));
    let seen = area.lookup_in(view, b"a", tag(b"a"), no_intents);
    assert_eq!(seen.newest.map(|entry| entry.seq), Some(1), "a view does not change");
    assert_eq!(area.reserve_at(area.view(0, impatient), &change).err(), Some(Refused::Full));
}

#[test]
fn a_view_decides_what_is_reserved() {
    let node = node(AreaSize::ALL[0]);
    let area = node.get().area();
    let late = area.reserve(&entry(Kind::Put, b"a", b"1")).expect("room").settle(impatient);
    let other = area.reserve(&entry(Kind::Put, b"b", b"1")).expect("room").settle(impatient);
    area.view(tag(b"a"), impatient);
    assert_eq!(late.publish(1), Published::Aborted);
    assert_eq!(other.publish(2), Published::Live);
}

#[test]
fn intents_count_when_they_have_committed() {
    let node = node(AreaSize::ALL[1]);
    let area = node.get().area();
    let intent = |becomes| NewEntry {
        expiry_ms: Some(99),
        becomes: Some(becomes),
        ..entry(Kind::Intent, b"a", b"intent")
    };
    put(area, b"a", b"1", 1);
    assert_eq!(area.write(&intent(Kind::Delete), impatient, |_| 64), Written::Live(64));
    put(area, b"a", b"2", 5);
    let look = |before, state| {
        area.lookup(b"a", tag(b"a"), before, |record| {
            assert_eq!(record, 64);
            state
        })
    };
    let seen = look(u64::MAX, IntentState::Open);
    assert_eq!((seen.newest.map(|entry| entry.seq), seen.open_intent), (Some(5), Some(64)));
    let seen = look(u64::MAX, IntentState::Aborted);
    assert_eq!((seen.newest.map(|entry| entry.seq), seen.open_intent), (Some(5), None));
    // It may draw its number before the put that has a later slot, or after it.
    assert!(!look(u64::MAX, IntentState::Committed(4)).is_intent);
    assert!(look(u64::MAX, IntentState::Committed(6)).is_intent);
    let seen = look(u64::MAX, IntentState::Committed(4)).newest.expect("found");
    assert_eq!((seen.seq, seen.kind), (5, Kind::Put));
    let seen = look(u64::MAX, IntentState::Committed(6)).newest.expect("found");
    assert_eq!((seen.seq, seen.kind, seen.expiry_ms), (6, Kind::Delete, Some(99)));
    let seen = look(5, IntentState::Committed(4)).newest.expect("found");
    assert_eq!((seen.seq, seen.kind), (4, Kind::Delete));
    let plain = area.live().filter(|entry| entry.becomes.is_none()).count();
    assert_eq!(plain, 2, "an intent is listed as what it is");
}

#[test]
fn the_page_is_listed_until_a_change_is_live() {
    let node = node(AreaSize::ALL[1]);
    let area = node.get().area();
    let mut asked = Vec::new();
    let mut write = |kind, key| {
        let written = area.write(&entry(kind, key, b""), impatient, |must_list| {
            asked.push(must_list);
            1
        });
        assert_eq!(written, Written::Live(1));
    };
    write(Kind::Cached, b"b");
    let late = area.reserve(&entry(Kind::Put, b"a", b"")).expect("room");
    write(Kind::Put, b"b");
    write(Kind::Put, b"b");
    drop(late);
    assert_eq!(asked, [true, true, false]);
}

#[test]
fn an_area_is_dirty_from_its_smallest_number() {
    let node = node(AreaSize::ALL[1]);
    let area = node.get().area();
    let dirty_from = |state| area.dirty_from(7, |_| state);
    let cached = entry(Kind::Cached, b"a", b"");
    assert_eq!(area.write(&cached, impatient, |_| 2), Written::Live(2));
    assert_eq!(dirty_from(IntentState::Open), None, "a clean copy is no dirt");
    put(area, b"b", b"", 9);
    put(area, b"a", b"", 8);
    assert_eq!(dirty_from(IntentState::Open), Some(8));
    let late = area.reserve(&entry(Kind::Put, b"c", b"")).expect("room");
    assert_eq!(dirty_from(IntentState::Open), Some(7), "a number that is not published");
    drop(late);
    let intent = NewEntry { becomes: Some(Kind::Put), ..entry(Kind::Intent, b"d", b"") };
    assert_eq!(area.write(&intent, impatient, |_| 64), Written::Live(64));
    let states = [IntentState::Open, IntentState::Committed(3), IntentState::Aborted];
    assert_eq!(states.map(dirty_from), [Some(7), Some(3), Some(8)]);
}

#[test]
fn spinning_ends() {
    assert!(spin(0));
    assert_eq!((0..100).find(|waited| !spin(*waited)), Some(8));
}

fn kinds() -> impl Strategy<Value = Kind> {
    (1..=7u64).prop_filter_map("4 is no kind", Kind::of_code)
}

proptest! {
    #[test]
    fn a_slot_keeps_its_fields(
        kind in kinds(), tag: u16, key_len in 0..=SlotWord::MAX_KEY_BYTES,
        entry_len in 1..=SlotWord::MAX_ENTRY_BYTES, unit in 0..1usize << 14,
    ) {
        let request = Request { kind, tag, key_len, entry_len };
        let reserved = SlotWord::reserved(request, unit * 8).expect("in range");
        let states = [State::Reserved, State::Live, State::Aborted];
        for (word, state) in [reserved, reserved.live(), reserved.aborted()].into_iter().zip(states) {
            let word = SlotWord::from_bits(word.bits());
            prop_assert_eq!(word.state(), state);
            prop_assert!(word.is_taken());
            prop_assert_eq!((word.kind(), word.tag(), word.key_len()), (kind, tag, key_len));
            prop_assert_eq!((word.offset(), word.room()), (unit * 8, entry_len.next_multiple_of(8)));
        }
    }

    #[test]
    fn fields_out_of_range_are_refused(
        key_len in SlotWord::MAX_KEY_BYTES + 1.., entry_len in SlotWord::MAX_ENTRY_BYTES + 1..,
        unit in 1usize << 14..1 << 50,
    ) {
        let request = Request { kind: Kind::Put, tag: 0, key_len: 1, entry_len: 1 };
        prop_assert!(SlotWord::reserved(request, 0).is_some());
        prop_assert_eq!(SlotWord::reserved(Request { key_len, ..request }, 0), None);
        prop_assert_eq!(SlotWord::reserved(Request { entry_len, ..request }, 0), None);
        prop_assert_eq!(SlotWord::reserved(request, unit * 8), None);
    }

    #[test]
    fn an_entry_keeps_its_parts(
        key in prop::collection::vec(any::<u8>(), 0..300), value in prop::collection::vec(any::<u8>(), 0..900),
        expiry_ms in prop::option::of(0..1u64 << 48), kind in kinds(), seq: u64,
    ) {
        let node = node(AreaSize::ALL[4]);
        let becomes = (kind == Kind::Intent).then_some(Kind::Delete);
        let new = NewEntry { expiry_ms, becomes, ..NewEntry::new(kind, 9, &key, &value) };
        prop_assert_eq!(node.get().area().write(&new, impatient, |_| seq), Written::Live(seq));
        let entries: Vec<_> = node.get().area().live().collect();
        let expected = Entry { kind, seq, tag: 9, key: &key, value: &value, expiry_ms, becomes };
        prop_assert_eq!(&entries, &[expected]);
        let other = self::node(AreaSize::ALL[4]);
        let again = expected.again();
        prop_assert_eq!(other.get().area().write(&again, impatient, |_| seq), Written::Live(seq));
        prop_assert_eq!(other.get().area().live().collect::<Vec<_>>(), entries);
        prop_assert_eq!(new.room_bytes() % 8, 0);
        prop_assert!(new.room_bytes() - key.len() - value.len() < 13 + 6 + 8);
    }

    /// Writes of four keys, some of which give up, against a map.
    #[test]
    fn an_area_is_a_map(writes in prop::collection::vec((0..4u8, 0..30usize, 0..4u8), 0..70)) {
        let node = node(AreaSize::ALL[4]);
        let area = node.get().area();
        let mut map: BTreeMap<u8, (u64, usize)> = BTreeMap::new();
        let (mut room, mut slots) = (AreaSize::ALL[4].heap_bytes(), AreaSize::ALL[4].slots());
        for (seq, (key, len, fate)) in (1u64..).zip(writes) {
            let (key, value) = ([key], vec![key; len]);
            let new = entry(Kind::Put, &key, &value);
            match area.reserve(&new) {
                Ok(reserved) if fate > 0 => {
                    prop_assert_eq!(reserved.finish(impatient, |_| seq), Written::Live(seq));
                    map.insert(key[0], (seq, len));
                }
                Ok(_given_up) => {}
                Err(refused) => {
                    prop_assert_eq!(refused, Refused::Full);
                    prop_assert!(slots == 0 || room < new.room_bytes());
                    break;
                }
            }
            room -= new.room_bytes();
            slots -= 1;
        }
        for key in 0..4 {
            let expected = map.get(&key).and_then(|(seq, len)| found(*seq, Kind::Put, &vec![key; *len]));
            prop_assert_eq!(get(area, &[key]), expected);
        }
    }
}
