//! One rule at a time.

use super::*;
use crate::store::overlay::build::Counted;
use crate::store::wal::record::{Operations, Part};

const TREE: TreeRoot = TreeRoot { tree: 1, root: 7 };

fn value(value: &[u8]) -> Option<Newest<'_>> {
    Some(Newest::Put { value, expiry: None })
}

fn mine(claimed: Claimed<'_>) -> Claim<'_> {
    match claimed {
        Claimed::Mine(claim) => claim,
        other => panic!("the key is free to claim: {other:?}"),
    }
}

#[test]
fn an_overlay_goes_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Overlay>();
}

#[test]
fn the_newest_operation_of_a_key_counts() {
    let long = [b'x'; 100];
    let overlay = overlay_of(&[
        put(1, b"a", b"first"),
        put(1, b"b", b"value"),
        put(2, b"a", b"other tree"),
        put(1, b"a", &long),
        put(1, b"a", b"last"),
        delete(1, b"b"),
    ]);
    assert_eq!(overlay.get(TREE, b"a"), value(b"last"));
    assert_eq!(overlay.get(TREE, b"b"), Some(Newest::Deleted));
    assert_eq!(overlay.get(TREE, b"c"), None);
    assert_eq!(overlay.get(TreeRoot { tree: 3, root: 7 }, b"a"), None);
    assert_eq!(overlay.first(), 1);
    assert_eq!(mine(overlay.claim(TREE, b"a")).record().number, 5);
}

#[test]
fn expiries_and_references_come_back() {
    let (effect, key, reference) = (Effect::None, b"r".as_slice(), [9; 24]);
    let overlay = overlay_of(&[
        Operation::Put { tree: 1, effect, expiry: Some(77), key: b"p", value: b"v" },
        Operation::PutReference { tree: 1, effect, expiry: Some(78), reference, key },
        Operation::PutReference { tree: 1, effect, expiry: None, reference, key: b"s" },
    ]);
    assert_eq!(overlay.get(TREE, b"p"), Some(Newest::Put { value: b"v", expiry: Some(77) }));
    assert_eq!(overlay.get(TREE, b"r"), Some(Newest::PutReference { reference, expiry: Some(78) }));
    assert_eq!(overlay.get(TREE, b"s"), Some(Newest::PutReference { reference, expiry: None }));
}

#[test]
fn a_key_that_is_written_all_the_time_takes_its_memory_once() {
    let operation = put(1, b"counter", &[1; 1000]);
    let once = overlay_of(&[operation]).arena.used_bytes();
    assert_eq!(overlay_of(&vec![operation; 10_000]).arena.used_bytes(), once);
}

#[test]
fn a_claim_is_one_owners_and_an_unfinished_one_is_nothing() {
    let overlay = overlay_of(&[put(1, b"a", b"1"), put(1, b"b", b"2")]);
    let claim = mine(overlay.claim(TREE, b"a"));
    assert!(matches!(overlay.claim(TREE, b"a"), Claimed::Busy));
    assert_eq!(overlay.get(TREE, b"a"), value(b"1"), "readers do not wait");
    drop(claim);
    mine(overlay.claim(TREE, b"a")).finish();
    assert_eq!(overlay.get(TREE, b"a"), None, "the tree has it");
    assert!(matches!(overlay.claim(TREE, b"a"), Claimed::Nothing));
    assert!(!overlay.is_drained());
    mine(overlay.claim(TREE, b"b")).finish();
    assert!(overlay.is_drained());
}

#[test]
fn keys_of_a_deleted_range_are_deleted_until_they_are_drained() {
    let overlay = overlay_of(&[
        put(1, b"b", b"old"),
        Operation::DeleteRange { tree: 1, from: b"a", to: b"c" },
        put(1, b"bb", b"new"),
    ]);
    assert_eq!(overlay.get(TREE, b"b"), Some(Newest::Deleted));
    assert_eq!(overlay.get(TREE, b"bb"), value(b"new"));
    assert_eq!(overlay.get(TREE, b"c"), None);
    let claim = mine(overlay.claim(TREE, b"ab"));
    assert_eq!(claim.record(), Record { number: 2, from: 2, key: b"ab", newest: Newest::Deleted });
    assert!(matches!(overlay.claim(TREE, b"ab"), Claimed::Busy));
    let range = overlay.next_range(|_| Some(7)).expect("it is not drained");
    assert_eq!((&*range.from(), range.to()), (b"a".as_slice(), Some(b"c".as_slice())));
    assert!(!range.pass(Some(b"b")), "nobody passes what is claimed");
    claim.finish();
    assert_eq!(overlay.get(TREE, b"ab"), None);
    assert!(range.pass(Some(b"b")));
    assert_eq!(overlay.get(TREE, b"aa"), None);
    assert_eq!(overlay.get(TREE, b"b"), Some(Newest::Deleted));
    mine(overlay.claim(TREE, b"bb")).finish();
    assert!(!overlay.is_drained());
    assert!(range.pass(None));
    assert!(overlay.is_drained());
    assert!(range.pass(None), "once more does no harm");
    assert!(overlay.is_drained());
}

#[test]
fn a_claim_in_a_range_that_is_dropped_leaves_the_key_deleted() {
    let overlay = overlay_of(&[Operation::DeleteRange { tree: 1, from: b"", to: b"" }]);
    drop(mine(overlay.claim(TREE, b"k")));
    assert_eq!(overlay.get(TREE, b"k"), Some(Newest::Deleted));
    mine(overlay.claim(TREE, b"k")).finish();
    assert_eq!(overlay.get(TREE, b"k"), None);
}

#[test]
fn a_tree_with_another_root_is_another_tree() {
    let overlay = overlay_of(&[put(1, b"a", b"1"), put(2, b"a", b"2")]);
    let cleared = TreeRoot { tree: 1, root: 8 };
    assert_eq!(overlay.get(cleared, b"a"), None);
    assert!(matches!(overlay.claim(cleared, b"a"), Claimed::Nothing));
    assert_eq!(overlay.get(TREE, b"a"), value(b"1"), "for those who still have the old root");
    let root_of = |tree| Some(if tree == 1 { 8 } else { 7 });
    let taken = overlay.take_next(&mut Hand::default(), 10, root_of);
    assert_eq!(taken.iter().map(|(root, _)| root.tree).collect::<Vec<_>>(), [2]);
    mine(overlay.claim_at(taken[0])).finish();
    assert!(!overlay.is_drained());
    overlay.retire(TREE);
    overlay.retire(TREE);
    assert!(overlay.is_drained());
}

#[test]
fn trees_that_are_removed_or_that_nobody_knows_are_dropped() {
    let mut builder = Builder::new(1, 0);
    for operation in
        [put(1, b"a", b"1"), put(2, b"a", b"2"), Operation::RemoveTree { tree: 2 }, put(2, b"b", b"too late")]
    {
        builder.add(5, &operation);
    }
    assert_eq!(builder.tree_changes(), [(5, TreeChange::Remove { tree: 2 })]);
    let overlay = builder.finish(|tree| (tree != 1).then_some(7));
    assert!(overlay.is_drained());
}

#[test]
fn a_group_counts_as_a_record_with_its_last_number() {
    let mut builder = Builder::new(1, 12).of_log_from(10);
    let part = |back, parts| Operation::Part(Part { back, parts });
    let records: [(u64, &[Operation<'_>]); 4] = [
        (10, &[put(1, b"a", b"old")]),
        (11, &[part(0, None), put(1, b"a", b"new"), put(1, b"b", b"1")]),
        (12, &[put(1, b"c", b"2")]),
        (13, &[part(2, Some(2)), put(1, b"d", b"3")]),
    ];
    let mut seen = 0;
    for (number, operations) in records {
        let mut bytes = vec![0; operations.iter().map(Operation::encoded_len).sum()];
        operations.iter().fold(&mut bytes[..], |out, operation| operation.encode(out));
        builder.record(number, Operations(&bytes), |_| seen += 1).expect("it is whole");
    }
    assert_eq!(seen, 5);
    let counted: Vec<_> = builder.counted().map(|counted| counted.difference).collect();
    assert_eq!(counted, [4], "what the group did counts with its last part");
    let overlay = builder.finish(|_| Some(TREE.root));
    assert_eq!((overlay.first(), overlay.spans()), (10, &[Span { first: 11, last: 13 }][..]));
    let expected: [(&[u8], u64, u64, &[u8]); 4] =
        [(b"a", 13, 11, b"new"), (b"b", 13, 11, b"1"), (b"c", 12, 12, b"2"), (b"d", 13, 11, b"3")];
    for (key, number, from, value) in expected {
        let newest = Newest::Put { value, expiry: None };
        assert_eq!(mine(overlay.claim(TREE, key)).record(), Record { number, from, key, newest });
    }
}

#[test]
fn counts_add_up_all_operations_from_the_checkpoint_on() {
    let mut builder = Builder::new(1, 12);
    let operations = [
        (10, put(1, b"a", b"")),
        (11, Operation::ClearTree { tree: 2, root: 5 }),
        (12, put(1, b"b", b"")),
        (13, put(1, b"c", b"")),
        (14, delete(1, b"c")),
        (14, put(1, b"c", b"")),
        (15, Operation::ClearTree { tree: 3, root: 6 }),
        (16, put(3, b"x", b"")),
        (17, Operation::DeleteRange { tree: 2, from: b"", to: b"" }),
    ];
    for (number, operation) in operations {
        builder.add(number, &operation);
    }
    let mut counted: Vec<_> = builder.counted().collect();
    counted.sort_by_key(|counted| counted.tree);
    let expected = [(1, false, 2, true), (2, false, 0, false), (3, true, 1, true)];
    let expected = expected.map(|(tree, from_zero, difference, is_exact)| Counted {
        tree,
        from_zero,
        difference,
        is_exact,
    });
    assert_eq!(counted, expected);
}

/// A view that was taken before says the same after all is drained.
#[test]
fn a_view_stays_as_it_was() {
    let overlay = overlay_of(&[Operation::DeleteRange { tree: 1, from: b"a", to: b"c" }, put(1, b"b", b"1")]);
    let all = (Bound::Unbounded, Bound::Unbounded);
    let view = overlay.view(TREE, all, Direction::Forwards, 10);
    mine(overlay.claim(TREE, b"b")).finish();
    assert!(overlay.next_range(|_| Some(7)).expect("a range").pass(None));
    assert_eq!(view.records().map(|record| record.key).collect::<Vec<_>>(), [b"b"]);
    assert!(view.hides(b"b") && view.hides(b"ab") && !view.hides(b"c"));
    assert_eq!(overlay.view(TREE, all, Direction::Forwards, 10).records().count(), 0);
}

#[test]
fn a_hand_goes_round() {
    let keys: Vec<[u8; 2]> = (0_u16..5000).map(u16::to_be_bytes).collect();
    let operations: Vec<_> = keys.iter().rev().map(|key| put(1, key, b"v")).collect();
    let overlay = overlay_of(&operations);
    let mut hand = Hand::default();
    let mut round = || {
        let mut taken = Vec::new();
        while taken.len() < 5000 {
            taken.extend(overlay.take_next(&mut hand, 64, |_| Some(7)));
        }
        taken
    };
    let first = round();
    let in_order = first.iter().map(|taken| mine(overlay.claim_at(*taken)).record().key.to_vec());
    assert!(in_order.eq(keys.iter().map(|key| key.to_vec())), "in the order of keys");
    assert_eq!(round(), first, "what was not finished comes again");
}
