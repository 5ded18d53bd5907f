//! What is searched exhaustively, and what has to be found when a rule is broken.

use super::super::defect::Defect;
use super::exhaustive::Work::{Delete, Down, Get, Pack, Put, Up};
use super::exhaustive::{Reached, Work, search};
use super::model::Key;

/// Families of leaves of keys.
type Leaves = &'static [&'static [&'static [Key]]];

/// Searches each of `programs` by itself; all must be well. Returns what any of them came by.
#[track_caller]
fn all_is_well(leaves: Leaves, spare: usize, programs: &[&[Work]]) -> Reached {
    let mut all = Reached::default();
    for work in programs {
        let reached = search(leaves, spare, work, None).unwrap_or_else(|wrong| panic!("{work:?}: {wrong}"));
        println!("{work:?}: {} states", reached.states);
        all.states += reached.states;
        all.split_beside_removal |= reached.split_beside_removal;
        all.split_above_removal |= reached.split_above_removal;
        all.two_removals |= reached.two_removals;
        all.inner_removal |= reached.inner_removal;
        all.collapse |= reached.collapse;
        all.reuse |= reached.reuse;
        all.one_moved |= reached.one_moved;
        all.two_moved |= reached.two_moved;
        all.three_moved |= reached.three_moved;
        all.moved_beside_split |= reached.moved_beside_split;
        all.moved_beside_removal |= reached.moved_beside_removal;
        all.inner_moved |= reached.inner_moved;
    }
    all
}

#[test]
fn a_leaf_splits_while_its_right_neighbour_is_removed() {
    let programs: &[&[Work]] =
        &[&[Put(25), Delete(30), Get(30)], &[Put(25), Delete(30), Up], &[Put(25), Delete(30), Down]];
    assert!(all_is_well(&[&[&[10, 20], &[30]]], 3, programs).split_beside_removal);
}

#[test]
fn a_leaf_splits_while_its_left_neighbour_is_removed() {
    let programs: &[&[Work]] =
        &[&[Put(25), Delete(10), Get(10)], &[Put(25), Delete(10), Up], &[Put(25), Delete(10), Down]];
    assert!(all_is_well(&[&[&[10], &[20, 30]]], 3, programs).split_beside_removal);
}

#[test]
fn a_parent_splits_while_its_child_is_removed() {
    let programs: &[&[Work]] =
        &[&[Put(35), Delete(20), Get(20)], &[Put(35), Delete(10), Get(40)], &[Put(35), Delete(20), Up]];
    let tree: Leaves = &[&[&[10], &[20], &[30, 40]], &[&[50], &[60]]];
    assert!(all_is_well(tree, 3, programs).split_above_removal);
}

#[test]
fn a_leaf_that_is_written_to_is_not_removed() {
    let programs: &[&[Work]] = &[&[Delete(20), Put(25), Get(20)], &[Delete(20), Put(25), Up]];
    all_is_well(&[&[&[10], &[20], &[30]]], 1, programs);
}

#[test]
fn neighbours_are_removed_together() {
    let programs: &[&[Work]] = &[
        &[Delete(10), Delete(20), Up],
        &[Delete(20), Delete(30), Down],
        &[Delete(10), Delete(30), Put(20)],
        &[Delete(10), Delete(20), Delete(30)],
    ];
    assert!(all_is_well(&[&[&[10], &[20], &[30]]], 1, programs).two_removals);
}

#[test]
fn a_parent_splits_while_its_neighbour_goes_with_its_last_child() {
    let programs: &[&[Work]] = &[&[Put(35), Delete(50), Get(40)]];
    let reached = all_is_well(&[&[&[10], &[20], &[30, 40]], &[&[50]], &[&[60]]], 3, programs);
    assert!(reached.split_beside_removal && reached.inner_removal);
}

#[test]
fn a_parent_goes_with_its_last_child() {
    let programs: &[&[Work]] = &[&[Delete(30), Put(31), Up], &[Delete(30), Delete(10), Down]];
    let reached = all_is_well(&[&[&[10], &[20]], &[&[30]], &[&[40]]], 1, programs);
    assert!(reached.inner_removal);
    let reached =
        all_is_well(&[&[&[10]], &[&[30]]], 1, &[&[Delete(30), Delete(10), Up], &[Delete(10), Put(15), Down]]);
    assert!(reached.two_removals && reached.collapse);
}

#[test]
fn the_root_collapses_under_visitors() {
    let leaves: &[&[Work]] = &[&[Delete(20), Put(12), Get(10)], &[Delete(20), Put(12), Up]];
    assert!(all_is_well(&[&[&[10], &[20]]], 3, leaves).collapse);
    let families: &[&[Work]] =
        &[&[Delete(30), Put(12), Get(10)], &[Delete(30), Put(32), Up], &[Delete(30), Delete(20), Get(10)]];
    assert!(all_is_well(&[&[&[10], &[20]], &[&[30]]], 2, families).collapse);
}

#[test]
fn an_id_is_used_again_under_visitors() {
    let programs: &[&[Work]] =
        &[&[Delete(10), Put(45), Get(10)], &[Delete(10), Put(45), Put(5)], &[Delete(10), Put(45), Up]];
    assert!(all_is_well(&[&[&[10], &[20], &[30, 40]]], 0, programs).reuse);
}

#[test]
fn two_leaves_are_packed_under_visitors() {
    let programs: &[&[Work]] = &[
        &[Pack(11), Put(25), Get(20)],
        &[Pack(11), Up],
        &[Pack(11), Down],
        &[Pack(11), Put(12)],
        &[Pack(11), Put(32)],
        &[Pack(11), Delete(20)],
        &[Pack(11), Delete(10)],
    ];
    let reached = all_is_well(&[&[&[10, 11], &[20], &[30, 31]]], 4, programs);
    assert!(reached.one_moved && reached.two_moved && reached.moved_beside_split);
}

#[test]
fn neighbours_are_packed_with_either_side() {
    let programs: &[&[Work]] = &[
        &[Pack(11), Pack(21)],
        &[Pack(21), Pack(31)],
        &[Pack(11), Pack(31)],
        &[Pack(11), Delete(30)],
        &[Pack(21), Delete(10), Get(20)],
    ];
    let reached = all_is_well(&[&[&[10, 11], &[20], &[30]]], 6, programs);
    assert!(reached.two_moved && reached.moved_beside_removal);
}

#[test]
fn a_parent_splits_or_collapses_while_its_children_are_packed() {
    let programs: &[&[Work]] = &[&[Pack(11), Put(45)], &[Pack(21), Put(45)]];
    assert!(all_is_well(&[&[&[10], &[20], &[30, 31, 40]], &[&[50], &[60]]], 5, programs).two_moved);
    let programs: &[&[Work]] = &[&[Pack(11), Put(12), Get(10)], &[Pack(11), Pack(21)]];
    let reached = all_is_well(&[&[&[10], &[20]]], 5, programs);
    assert!(reached.two_moved && reached.collapse);
}

#[test]
fn inner_pages_are_packed_under_visitors() {
    let programs: &[&[Work]] =
        &[&[Pack(11), Put(21)], &[Pack(21), Up], &[Pack(31), Down], &[Pack(11), Get(30)]];
    let reached = all_is_well(&[&[&[10]], &[&[20]], &[&[30]]], 8, programs);
    assert!(reached.inner_moved && reached.two_moved && reached.collapse);
}

#[test]
fn an_id_of_a_packed_page_is_used_again_under_visitors() {
    let programs: &[&[Work]] = &[&[Pack(11), Put(32), Get(10)], &[Pack(11), Put(32), Up]];
    assert!(all_is_well(&[&[&[10, 11], &[20], &[30, 31]]], 1, programs).reuse);
}

#[test]
fn each_broken_rule_of_packing_is_noticed() {
    let leaves: Leaves = &[&[&[10, 11], &[20], &[30, 31]]];
    let found: [(Defect, &[Work]); 4] = [
        (Defect::PackHalfFrozen, &[Pack(11), Put(25)]),
        (Defect::PackUnmoved, &[Pack(11), Get(10)]),
        (Defect::PackFreesEarly, &[Pack(11), Put(32)]),
        (Defect::PostBlind, &[Pack(11), Put(32)]),
    ];
    for (defect, work) in found {
        search(leaves, 3, work, None).unwrap_or_else(|wrong| panic!("{work:?}: {wrong}"));
        let wrong = search(leaves, 3, work, Some(defect)).expect_err("the broken rule is noticed");
        println!("{defect:?}: {}", wrong.lines().next().unwrap_or_default());
    }
}

#[test]
fn each_broken_rule_is_noticed() {
    let two: Leaves = &[&[&[10], &[20]]];
    let three: Leaves = &[&[&[10], &[20], &[30, 40]]];
    let found: [(Defect, Leaves, usize, &[Work]); 8] = [
        (Defect::SkipEpochCheck, three, 2, &[Put(45), Get(40)]),
        (Defect::MergeHalf, two, 2, &[Delete(10), Get(10)]),
        (Defect::SecondUnposted, &[&[&[10, 11, 20, 21], &[30]]], 3, &[Put(5), Put(6)]),
        (Defect::FreeIdEarly, three, 0, &[Delete(10), Put(45), Put(5)]),
        (Defect::RemoveBlind, two, 2, &[Delete(10), Put(11)]),
        (Defect::CollapseUnfrozen, two, 2, &[Delete(20), Put(12)]),
        (Defect::PostBlind, three, 2, &[Delete(10), Put(45)]),
        (Defect::ScanWithoutBounds, three, 2, &[Delete(20), Put(25), Up]),
    ];
    for (defect, leaves, spare, work) in found {
        search(leaves, spare, work, None).unwrap_or_else(|wrong| panic!("{work:?}: {wrong}"));
        let wrong = search(leaves, spare, work, Some(defect)).expect_err("the broken rule is noticed");
        println!("{defect:?}: {}", wrong.lines().next().unwrap_or_default());
    }
}
