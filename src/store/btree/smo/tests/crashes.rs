//! What is crashed in every state, and what has to be found when the flusher breaks a rule.

use super::super::visit::Care;
use super::crash::{Broken, search};
use super::model::Key;

/// Families of leaves of keys.
type Leaves = &'static [&'static [&'static [Key]]];
type Program = &'static [(Key, Option<u32>)];

/// A leaf splits, its left half again, and its right half.
const SPLITS: (Leaves, Program) = (
    &[&[&[10, 20], &[30]]],
    &[(25, Some(1)), (5, Some(2)), (6, Some(3)), (26, Some(4)), (27, Some(5)), (28, Some(6)), (29, Some(7))],
);
/// Leaves go, and others take what belongs into their ranges, and split there.
const REMOVALS: (Leaves, Program) = (
    &[&[&[10], &[20], &[30]]],
    &[(20, None), (25, Some(1)), (26, Some(2)), (27, Some(3)), (10, None), (5, Some(4)), (30, None)],
);
/// A parent goes with its last child, and the root collapses, and grows again.
const COLLAPSE: (Leaves, Program) = (
    &[&[&[10], &[20]], &[&[30]]],
    &[
        (30, None),
        (35, Some(1)),
        (36, Some(2)),
        (37, Some(3)),
        (10, None),
        (20, None),
        (15, Some(4)),
        (38, Some(5)),
    ],
);
/// A page that was split off goes before it was ever written, and its id is used again.
const UNWRITTEN: (Leaves, Program) = (
    &[&[&[10, 20], &[30]]],
    &[
        (25, Some(1)),
        (25, None),
        (20, None),
        (21, Some(2)),
        (10, None),
        (22, Some(3)),
        (23, Some(4)),
        (30, None),
    ],
);
/// A parent of many splits beside one that goes.
const PARENTS: (Leaves, Program) = (
    &[&[&[10], &[20], &[30, 40]], &[&[50]]],
    &[(35, Some(1)), (50, None), (20, None), (55, Some(2)), (45, Some(3)), (46, Some(4)), (10, None)],
);

/// Leaves are packed, written to, split, and packed once more with what was split off.
const PACKS: (Leaves, Program) = (
    &[&[&[10, 11], &[20], &[30, 31]]],
    &[(11, None), (12, Some(1)), (30, None), (32, Some(2)), (33, Some(3)), (10, None), (20, None)],
);
/// Inner pages are packed, up to the root.
const INNER_PACKS: (Leaves, Program) = (
    &[&[&[10]], &[&[20]], &[&[30, 31]]],
    &[(11, None), (21, Some(1)), (22, Some(2)), (31, None), (20, None), (35, Some(3))],
);
/// A leaf goes, and then the page above it is packed, before anything is durable.
const REMOVAL_AND_PACK: (Leaves, Program) = (
    &[&[&[10], &[15]], &[&[20]], &[&[30, 31]]],
    &[(15, None), (16, Some(1)), (17, Some(2)), (18, Some(3)), (31, None)],
);

#[test]
fn a_crash_loses_nothing() {
    let empty = [(SPLITS, 5), (REMOVALS, 2), (COLLAPSE, 5), (UNWRITTEN, 2), (PARENTS, 2)];
    let empty = empty.map(|(case, spare)| (case, spare, Care::Empty));
    let small = [(REMOVALS, 4), (UNWRITTEN, 4), (PACKS, 4), (INNER_PACKS, 5), (REMOVAL_AND_PACK, 5)];
    let small = small.map(|(case, spare)| (case, spare, Care::Small));
    for ((leaves, program), spare, care) in empty.into_iter().chain(small) {
        let states = search(leaves, spare, program, care, None);
        let states = states.unwrap_or_else(|wrong| panic!("{program:?}: {wrong}"));
        println!("{program:?}: {states} states");
    }
}

#[test]
fn each_broken_rule_is_noticed() {
    let found = [
        (Broken::CreatedBeforeReferredTo, SPLITS),
        (Broken::ParentNotAhead, SPLITS),
        (Broken::ChildOneAhead, SPLITS),
        (Broken::FreeAtOnce, REMOVALS),
        (Broken::LogForgets, REMOVALS),
        (Broken::RangeAfterOwner, REMOVALS),
    ];
    let found = found.map(|(broken, case)| (broken, case, Care::Empty));
    let of_packs = [
        (Broken::ParentNotAhead, PACKS),
        (Broken::FreeAtOnce, PACKS),
        (Broken::LogForgets, PACKS),
        (Broken::ParentNotAhead, INNER_PACKS),
        (Broken::FreeAtOnce, INNER_PACKS),
    ];
    let of_packs = of_packs.map(|(broken, case)| (broken, case, Care::Small));
    for (broken, (leaves, program), care) in found.into_iter().chain(of_packs) {
        match search(leaves, 5, program, care, Some(broken)) {
            Err(wrong) => println!("{broken:?}: {}", wrong.lines().next().unwrap_or_default()),
            Ok(states) => panic!("{broken:?} is not noticed in {states} states"),
        }
    }
}
