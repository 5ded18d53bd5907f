use super::*;
use crate::store::word::ColdAddress;

const BLOCK: usize = 4096;
type Places = [Vec<u8>; 4];

fn reference(granule: u64, granules: u32) -> Option<PageRef> {
    Some(PageRef { place: ColdAddress::of_numbers(granule, granules), checksum: granule })
}

fn superblock(sequence: u64, parent: u64) -> Superblock {
    Superblock {
        clean: false,
        salvaged: false,
        identity: [7; 16],
        sequence,
        epoch: 3,
        geometry: Geometry::of_namespace(8 << 20, 512, false).expect("large enough"),
        parent,
        log: LogStart { segment: 2, generation: 1, offset: 4096, batch: 1, chain: 9, first_write: 1 },
        checkpoint: sequence,
        first_batch: 1,
        next_page: 16,
        map: reference(3 * 4096 + 64, 65),
        map_levels: 1,
        table: reference(3 * 4096 + 129, 2),
        used_granules: 5,
        written_ms: 6,
        lengths: reference(3 * 4096 + 131, 3),
        lengths_at: 8,
    }
}

fn after(superblock: &Superblock, sequence: u64) -> Superblock {
    Superblock { sequence, checkpoint: sequence, parent: superblock.checksum(), ..*superblock }
}

fn block(superblock: &Superblock, copy: u8) -> Vec<u8> {
    let mut block = superblock.encode(copy).to_vec();
    block.resize(BLOCK, 0);
    block
}

fn places(superblocks: [&Superblock; 4]) -> Places {
    let mut copy = 0;
    superblocks.map(|superblock| {
        copy += 1;
        block(superblock, copy - 1)
    })
}

fn look(places: &Places) -> Result<Choice, Refusal> {
    choose(places.each_ref().map(|block| Some(&block[..])))
}

fn chosen(places: &Places) -> (Superblock, Sequences, u64) {
    match look(places) {
        Ok(Choice::Store { superblock, sequences, next_sequence }) => (*superblock, sequences, next_sequence),
        other => panic!("{other:?}"),
    }
}

/// A block of which only some sectors were written: its first bytes are new, its last old.
fn torn(old: &[u8], new: &[u8]) -> Vec<u8> {
    [&new[..200], &old[200..]].concat()
}

#[test]
fn what_is_encoded_is_decoded_at_the_documented_offsets() {
    let mut written = superblock(5, 77);
    written.clean = true;
    let bytes = written.encode(2);
    assert_eq!(bytes[..8], MAGIC);
    assert_eq!((bytes[16], bytes[20], bytes[40], bytes[72], bytes[80]), (2, 1, 5, 2, 77));
    assert_eq!((bytes[104], bytes[112], bytes[144], bytes[200]), (1, 9, 16, 1));
    assert_eq!(bytes[152..160], written.map.expect("there is one").place.bits().to_le_bytes());
    assert_eq!(bytes[176..184], written.table.expect("there is one").place.bits().to_le_bytes());
    assert_eq!(bytes[224..232], written.lengths.expect("there is one").place.bits().to_le_bytes());
    assert_eq!((bytes[240], bytes[241], bytes[248]), (0, 10, 8));
    assert_eq!(bytes[8..16], written.encode(0)[8..16], "the number of the copy is not in the checksum");
    let mut places = places([&written; 4]);
    assert_eq!(chosen(&places), (written, [5; 4], 6));
    places[2][100] ^= 1;
    assert_eq!(chosen(&places), (written, [5, 5, 0, 5], 6));
}

#[test]
fn all_subsets_of_copies_may_be_lost_but_all() {
    let written = superblock(5, 0);
    for lost in 0..16u32 {
        for how in 0..3 {
            let mut places = places([&written; 4]);
            for copy in (0..4).filter(|copy| lost & 1 << copy != 0) {
                match how {
                    0 => places[copy] = vec![0; BLOCK],
                    1 => places[copy][40] ^= 0x80,
                    _ => places[copy] = vec![0xee; BLOCK],
                }
            }
            match (lost, how) {
                (15, 0) => assert_eq!(look(&places), Ok(Choice::Blank)),
                (15, 1) => assert_eq!(look(&places), Err(Refusal::Damaged { read: 4 })),
                (15, _) => assert_eq!(look(&places), Ok(Choice::Foreign)),
                _ => assert_eq!(chosen(&places).0, written),
            }
        }
        let all = places([&written; 4]);
        let mut blocks = all.each_ref().map(|block| Some(&block[..]));
        (0..4).filter(|copy| lost & 1 << copy != 0).for_each(|copy| blocks[copy] = None);
        assert_eq!(matches!(choose(blocks), Ok(Choice::Store { .. })), lost != 15);
    }
}

#[test]
fn every_flipped_bit_makes_a_copy_invalid() {
    let (old, new) = (superblock(5, 0), after(&superblock(5, 0), 6));
    for byte in 0..BYTES {
        for bit in 0..8 {
            // The newer state stands in two copies; damage of one leaves it a single one.
            let mut places = places([&new, &old, &new, &old]);
            places[0][byte] ^= 1 << bit;
            let (superblock, sequences, next) = chosen(&places);
            assert_eq!((superblock, sequences), (old, [0, 5, 6, 5]), "byte {byte}");
            assert_eq!(next, 7);
        }
    }
}

/// One update that loses power: what may be left of the four places. The last is the whole update.
fn cut_updates(places: &Places, update: Update) -> Vec<(Places, bool)> {
    let mut update = update;
    let mut durable = places.clone();
    let mut unflushed: Vec<(usize, Vec<u8>)> = Vec::new();
    let (mut left, mut flushes) = (Vec::new(), 0);
    loop {
        // Of each unflushed block the old content is left, the new one, or some of both.
        for outcome in 0..3usize.pow(u32::try_from(unflushed.len()).expect("two at most")) {
            let mut after = durable.clone();
            for (index, (place, new)) in unflushed.iter().enumerate() {
                let old = &durable[*place];
                match outcome / 3usize.pow(u32::try_from(index).expect("one at most")) % 3 {
                    0 => {}
                    1 => after[*place] = new.clone(),
                    _ => after[*place] = torn(old, new),
                }
            }
            left.push((after, flushes > 0));
        }
        match update.step() {
            None => return left,
            Some(UpdateStep::Flush) => {
                flushes += 1;
                unflushed.drain(..).for_each(|(place, new)| durable[place] = new);
            }
            Some(UpdateStep::Write { offset, bytes }) => {
                let place = COPIES.iter().position(|&copy| copy == offset).expect("the place of a copy");
                let mut block = bytes.to_vec();
                block.resize(BLOCK, 0);
                unflushed.push((place, block));
            }
        }
    }
}

/// Cuts the power in an update, opens, cuts it again in the update of that opening, and so on.
/// `allowed` are the states that may be found.
fn cut_again(places: &Places, allowed: &[Superblock], depth: usize, count: &mut usize) {
    *count += 1;
    let (found, sequences, next) = chosen(places);
    assert!(allowed.contains(&found), "{found:?} is neither the old nor the new state");
    if depth == 0 {
        return;
    }
    let new = after(&found, next);
    for (left, flushed) in cut_updates(places, Update::new(new, &sequences)) {
        if flushed {
            cut_again(&left, &[new], depth - 1, count);
        } else {
            // Nothing of the state that was found was touched yet, nor of those that were not: an
            // opening that is cut off leaves all that it might have found.
            let mut allowed = allowed.to_vec();
            allowed.push(new);
            cut_again(&left, &allowed, depth - 1, count);
        }
    }
}

#[test]
fn a_power_cut_at_any_block_leaves_the_old_or_the_new_state() {
    let first = superblock(5, 0);
    let all = places([&first; 4]);
    let new = after(&first, 6);
    let lefts = cut_updates(&all, Update::new(new, &[5; 4]));
    assert!(lefts.len() > 20);
    for (left, flushed) in lefts {
        let (found, _, next) = chosen(&left);
        assert!(found == new || (found == first && !flushed), "{found:?}");
        assert!(next > found.sequence);
    }
    let mut count = 0;
    cut_again(&all, &[first], 3, &mut count);
    assert!(count > 10_000, "{count} states");
}

#[test]
fn at_each_step_of_an_update_any_two_copies_may_be_torn_once_two_are_flushed() {
    let first = superblock(5, 0);
    let new = after(&first, 6);
    for (left, flushed) in cut_updates(&places([&first; 4]), Update::new(new, &[5; 4])) {
        for lost in 0..15u32 {
            let mut places = left.clone();
            for copy in (0..4).filter(|copy| lost & 1 << copy != 0) {
                places[copy].truncate(BLOCK - 1);
                places[copy][9] ^= 0xff;
            }
            match look(&places) {
                Ok(Choice::Store { superblock, .. }) => {
                    assert!([first, new].contains(&superblock));
                    let kept = (0..4).filter(|copy| lost & 1 << copy == 0);
                    let whole =
                        kept.filter(|&copy| left[copy] == block(&new, u8::try_from(copy).expect("4")));
                    if flushed && whole.count() >= 2 {
                        assert_eq!(*superblock, new);
                    }
                }
                Err(Refusal::Damaged { read: 4 }) => assert!(lost.count_ones() >= 2, "{lost:04b}"),
                other => panic!("{lost:04b}: {other:?}"),
            }
        }
    }
}

#[test]
fn copies_of_another_store_do_not_count() {
    let own = superblock(5, 0);
    let other = Superblock { identity: [8; 16], sequence: 90, ..own };
    for others in 0..16u32 {
        let pick = |copy: u32| if others & 1 << copy == 0 { &own } else { &other };
        let places = places([pick(0), pick(1), pick(2), pick(3)]);
        match others.count_ones() {
            0 | 1 => {
                let (found, _, next) = chosen(&places);
                assert_eq!((found, next), (own, 6), "another store's numbers do not count");
            }
            2 => assert_eq!(look(&places), Err(Refusal::TwoStores)),
            _ => assert_eq!(chosen(&places).0, other),
        }
    }
}

#[test]
fn a_misdirected_copy_decides_nothing_and_uses_up_its_number() {
    let (old, new) = (superblock(5, 0), after(&superblock(5, 0), 6));
    let mut places = places([&old; 4]);
    // A write of copy 1 went to copy 2, and a read of copy 3 gives copy 1.
    places[2] = block(&new, 1);
    places[3] = block(&new, 1);
    assert_eq!(chosen(&places), (old, [5, 5, 0, 0], 7));
    let only: Places = [block(&old, 1), block(&old, 2), block(&old, 3), block(&old, 0)];
    assert_eq!(look(&only), Err(Refusal::Damaged { read: 4 }));
}

#[test]
fn forked_stores_are_refused() {
    let first = superblock(5, 0);
    let (left, right) = (after(&first, 6), Superblock { epoch: 4, ..after(&first, 6) });
    assert_eq!(look(&places([&left, &right, &left, &right])), Err(Refusal::Forked(6, 6)));
    let later = after(&right, 7);
    assert_eq!(look(&places([&left, &later, &left, &later])), Err(Refusal::Forked(7, 6)));
    assert_eq!(chosen(&places([&right, &later, &right, &later])).0, later);
    // Two single ones of one number, and nothing else to go by.
    let mut single = places([&left, &right, &left, &right]);
    single[2] = vec![0; BLOCK];
    single[3] = vec![0; BLOCK];
    assert_eq!(look(&single), Err(Refusal::Forked(6, 6)));
    // What an update left that was cut off is no fork: 7 was made of 5, as 6 had not counted.
    let skipping = after(&first, 7);
    assert_eq!(chosen(&places([&skipping, &left, &skipping, &first])).0, skipping);
    assert_eq!(chosen(&places([&skipping, &left, &skipping, &skipping])).0, skipping);
}

#[test]
fn other_versions_are_refused_by_name() {
    let with_version = |version: u32| {
        let mut block = vec![0; BLOCK];
        block[..8].copy_from_slice(&MAGIC);
        block[16] = u8::try_from(version).expect("small");
        let sum = checksum(&block[16..BYTES]);
        block[8..16].copy_from_slice(&sum.to_le_bytes());
        block
    };
    let first = superblock(5, 0);
    for place in 0..4 {
        let mut places = places([&first; 4]);
        places[place] = with_version(1);
        assert_eq!(look(&places), Err(Refusal::Version1));
        places[place] = with_version(3);
        assert_eq!(look(&places), Err(Refusal::NewerVersion(3)));
        places[place][17] ^= 1;
        assert_eq!(chosen(&places).0, first, "damaged, not newer");
    }
    assert_eq!(V1_COPIES[0], COPIES[0], "where a program of either version looks first");
    assert!(is_version_1(&with_version(1)) && !is_version_1(&with_version(3)));
    assert!(!is_version_1(&block(&first, 0)) && !is_version_1(&[]));
    let text = Refusal::Version1.error("mem").to_string();
    assert!(text.contains("this store has format version 1"), "{text}");
    assert!(text.contains("serve it with the boson that wrote it, and copy its keys"), "{text}");
    assert_eq!(Refusal::Version1.error("mem").kind(), crate::error::ErrorKind::UnsupportedFormat);
}

#[test]
fn impossible_numbers_are_damage() {
    let good = superblock(5, 0);
    let is_refused = |change: fn(&mut Superblock)| {
        let mut bad = good;
        change(&mut bad);
        look(&places([&bad; 4])) == Err(Refusal::Damaged { read: 4 })
    };
    assert!(!is_refused(|_| {}));
    assert!(is_refused(|bad| bad.sequence = 0));
    assert!(is_refused(|bad| bad.sequence = u64::MAX));
    assert!(is_refused(|bad| bad.geometry.segments = 0));
    assert!(is_refused(|bad| bad.geometry.segments = 1_000_001));
    assert!(is_refused(|bad| bad.geometry.segment = 0));
    assert!(is_refused(|bad| bad.geometry.segment = 3 << 18));
    assert!(is_refused(|bad| bad.geometry.block = 512));
    assert!(is_refused(|bad| bad.log.segment = 1));
    assert!(is_refused(|bad| bad.log.offset = 100));
    assert!(is_refused(|bad| bad.map_levels = 6));
    assert!(is_refused(|bad| bad.next_page = 257), "one level of the map has 256 entries");
    assert!(is_refused(|bad| bad.map = reference(64, 65)), "that is among the superblocks");
    assert!(is_refused(|bad| bad.table = reference(32 * 4096 + 64, 1)), "that is behind the end");
}
