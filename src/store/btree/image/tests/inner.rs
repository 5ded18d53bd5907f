//! Images of inner pages against sorted lists.

use crate::store::word::{ChildWord, PageId};
use proptest::prelude::*;

use super::*;

fn word(number: usize) -> ChildWord {
    ChildWord::of_numbers(number as u64 + 16, 7)
}

fn branches<'a>(
    children: &'a [ChildWord],
    separators: &'a [Vec<u8>],
) -> impl Iterator<Item = Branch<'a>> + Clone {
    children.iter().enumerate().map(|(index, &child)| Branch {
        child,
        upper: separators.get(index).map(|separator| KeyParts::whole(separator)),
    })
}

fn build<'a>(branches: impl Iterator<Item = Branch<'a>> + Clone, parts: InnerParts<'_>) -> Vec<u8> {
    let builder = InnerBuilder::new(branches, parts);
    let mut image = vec![0xaa; builder.size_bytes()];
    builder.write(&mut image);
    image
}

fn owned<'a>(branches: impl Iterator<Item = Branch<'a>>) -> Vec<(ChildWord, Option<Vec<u8>>)> {
    branches.map(|branch| (branch.child, branch.upper.map(KeyParts::to_vec))).collect()
}

/// Separators that fit an image, and one child more.
fn tree() -> impl Strategy<Value = (Vec<ChildWord>, Vec<Vec<u8>>)> {
    keys(0..100).prop_map(|mut separators| {
        separators.retain(|separator| !separator.is_empty());
        let mut room = 60_000usize;
        separators.retain(|separator| {
            room = room.saturating_sub(separator.len() + 16);
            room > 0
        });
        ((0..=separators.len()).map(word).collect(), separators)
    })
}

/// Two runs, two range tombstones, a pending change and a merge.
struct Sections {
    runs: Vec<u8>,
    tombstones: Vec<u8>,
    changes: Vec<u8>,
}

fn run(newest: u64, family_filter: ChildWord) -> Run {
    let (first, filter) = (word(3), word(4));
    Run { first, filter, newest, oldest: 5, bytes: 9000, entries: 60, pages: 1, family_filter }
}

fn tombstones() -> [RangeTombstone<'static>; 2] {
    [RangeTombstone { number: 9, from: b"", to: b"b" }, RangeTombstone { number: 3, from: b"c", to: b"cc" }]
}

impl Sections {
    fn new() -> Self {
        let runs: [[u8; RUN_BYTES]; 2] = [run(20, word(5)).encode(), run(10, ChildWord::NONE).encode()];
        let runs = runs.concat();
        let (mut tombstones_section, mut changes) = (Vec::new(), Vec::new());
        tombstones().iter().for_each(|tombstone| tombstone.append_to(&mut tombstones_section));
        PendingSplit { right: word(6), separator: b"q" }.append_to(&mut changes);
        Self { runs, tombstones: tombstones_section, changes }
    }

    fn parts(&self) -> InnerParts<'_> {
        InnerParts { runs: &self.runs, tombstones: &self.tombstones, changes: &self.changes }
    }
}

/// Most edits copy what lies beside them; one that changes the prefix does not.
#[test]
fn all_edits_but_those_that_change_the_prefix_copy_rows() {
    let children: Vec<ChildWord> = (0..100).map(word).collect();
    let separators: Vec<Vec<u8>> = (1..100u32).map(|at| [b"key", &at.to_be_bytes()[..]].concat()).collect();
    let image = build(branches(&children, &separators), InnerParts::default());
    let inner = InnerImage::of_verified(&image);
    for (index, number) in (0..children.len()).zip(0_u32..) {
        let (left, right) = (word(500), word(501));
        let separator = [b"key", &number.to_be_bytes()[..], b"more"].concat();
        let mut edits = vec![
            Edit::Replace { index, child: left },
            Edit::Split { index, left, separator: KeyParts::whole(&separator), right },
        ];
        if index + 1 < children.len() {
            edits.push(Edit::Remove { index, child: left });
        }
        for edit in edits {
            let patched = PatchedInner::new(inner, edit, inner.parts()).expect("the prefix is the same");
            let mut content = vec![0xff; patched.size_bytes()];
            patched.write(&mut content);
            assert_eq!(content, build(inner.edited(edit), inner.parts()), "{edit:?}");
        }
    }
    let separator = KeyParts::whole(b"a");
    let edit = Edit::Split { index: 0, left: word(500), separator, right: word(501) };
    assert!(PatchedInner::new(inner, edit, inner.parts()).is_none());
}

proptest! {
    #[test]
    fn a_page_has_what_it_was_built_from((children, separators) in tree(), full in any::<bool>()) {
        let sections = Sections::new();
        let parts = if full { sections.parts() } else { InnerParts::default() };
        let image = build(branches(&children, &separators), parts);
        let inner = InnerImage::parse(&image, 1).expect("what was built is an inner page");
        prop_assert_eq!(owned(inner.branches(0..inner.len())), owned(branches(&children, &separators)));
        if full {
            prop_assert!(inner.runs().eq([run(20, word(5)), run(10, ChildWord::NONE)]));
            prop_assert!(inner.range_tombstones().eq(tombstones()));
            prop_assert_eq!(inner.changes().pending(), Some(PendingSplit { right: word(6), separator: b"q" }));
        }
        prop_assert_eq!(InnerImage::parse(&image, 2).is_ok(), !full);
    }

    #[test]
    fn each_key_has_the_child_whose_bounds_it_is_in((children, separators) in tree()) {
        let image = build(branches(&children, &separators), InnerParts::default());
        let inner = InnerImage::of_verified(&image);
        for probe in probes(separators.iter()) {
            let index = separators.partition_point(|separator| *separator <= probe);
            prop_assert_eq!(inner.child_for(&probe), (index, children[index]));
            prop_assert_eq!(inner.upper(index).map(KeyParts::to_vec), separators.get(index).cloned());
            let below = separators.partition_point(|separator| *separator < probe);
            prop_assert_eq!(inner.child_below(&probe), below);
        }
        for (index, child) in children.iter().enumerate() {
            prop_assert_eq!(inner.index_of(child.id()), Some(index));
        }
        prop_assert_eq!(inner.index_of(PageId::of_test(1 << 39)), None);
    }

    #[test]
    fn edits_are_those_of_lists(
        (mut children, mut separators) in tree(),
        at in any::<prop::sample::Index>(),
        kind in 0..3,
    ) {
        let image = build(branches(&children, &separators), InnerParts::default());
        let inner = InnerImage::of_verified(&image);
        let index = at.index(children.len());
        let (left, right) = (word(500), word(501));
        // A new separator between those at the index.
        let separator = match index.checked_sub(1) {
            Some(before) => [&separators[before][..], &[0]].concat(),
            None => vec![0],
        };
        let edit = match kind {
            0 => {
                children[index] = left;
                Edit::Replace { index, child: left }
            }
            1 => {
                prop_assume!(separators.get(index).is_none_or(|upper| *upper > separator));
                prop_assume!(separator.len() <= MAX_KEY_BYTES);
                children[index] = left;
                children.insert(index + 1, right);
                separators.insert(index, separator.clone());
                Edit::Split { index, left, separator: KeyParts::whole(&separator), right }
            }
            _ => {
                prop_assume!(index + 1 < children.len());
                children[index] = left;
                children.remove(index + 1);
                separators.remove(index);
                Edit::Remove { index, child: left }
            }
        };
        let edited = build(inner.edited(edit), inner.parts());
        prop_assert!(InnerImage::parse(&edited, 1).is_ok());
        if let Some(patched) = PatchedInner::new(inner, edit, inner.parts()) {
            let mut content = vec![0xff; patched.size_bytes()];
            patched.write(&mut content);
            prop_assert_eq!(&content, &edited);
        }
        prop_assert_eq!(&edited, &build(branches(&children, &separators), InnerParts::default()));
        if kind == 0 {
            let mut replaced = image.clone();
            replace_child(&mut replaced, index, left);
            prop_assert_eq!(replaced, edited);
        }
    }

    /// The separator at the cut is in neither half: it is the parent's.
    #[test]
    fn halves_of_a_page_hold_all_its_children((children, separators) in tree()) {
        let image = build(branches(&children, &separators), InnerParts::default());
        let inner = InnerImage::of_verified(&image);
        let Some(left) = inner_split_point(inner.branches(0..inner.len())) else {
            prop_assert_eq!(children.len(), 1);
            return Ok(());
        };
        prop_assert!((1..children.len()).contains(&left));
        for (range, name) in [(0..left, "left"), (left..inner.len(), "right")] {
            let half = build(inner.branches(range.clone()), InnerParts::default());
            let half = InnerImage::parse(&half, 1).expect(name);
            let expected = build(
                branches(&children[range.clone()], &separators[range.start..range.end - 1]),
                InnerParts::default(),
            );
            prop_assert_eq!(half.content(), &expected[..]);
        }
    }
}
