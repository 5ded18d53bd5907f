use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::store::word::{ChildWord, Epoch, PageId};

fn tree(tree: u32, root: u64) -> TreeRoot {
    let id = PageId::new(root).expect("small");
    TreeRoot { tree, root: ChildWord::new(id, Epoch::FIRST) }
}

/// A cut at `next`, up to which the log is durable.
fn cut(lengths: &Lengths, next: u64) -> Cut {
    lengths.begin_cut(next, || next);
    lengths.end_cut(next)
}

fn at(number: u64, lengths: &[(u32, u64)]) -> Cut {
    Cut { number, lengths: lengths.to_vec() }
}

#[test]
fn a_cut_has_what_is_below_it_however_late_it_comes() {
    let lengths = Lengths::default();
    let (first, second) = (lengths.attach(), lengths.attach());
    let (left, right) = (tree(2, 10), tree(3, 11));
    first.add(left, 1, Effect::More);
    second.add(left, 2, Effect::More);
    second.add(right, 3, Effect::More);
    assert_eq!(lengths.begin_cut(1, || 7), 7);
    // Not durable yet: there is no later cut, and the one before counts.
    assert_eq!(lengths.end_cut(6), at(0, &[]));
    first.add(left, 8, Effect::More);
    first.add(left, 6, Effect::More);
    second.add(right, 9, Effect::Less);
    second.add(right, 5, Effect::None);
    second.add(right, 4, Effect::Unknown);
    assert_eq!(lengths.begin_cut(6, || 10), 7);
    assert_eq!(lengths.end_cut(7), at(7, &[(2, 3), (3, 1)]));
    assert_eq!((lengths.of(left), lengths.of(right)), (4, 0));
    assert_eq!(cut(&lengths, 10), at(10, &[(2, 4)]));
    // What a core that is gone has counted is not.
    drop(second);
    assert_eq!(cut(&lengths, 11), at(11, &[(2, 4)]));
    assert_eq!(lock(&lengths.0).cores.len(), 1);
    first.add(right, 12, Effect::Less);
    assert_eq!((lengths.of(left), lengths.of(right)), (4, 0));
    assert_eq!(cut(&lengths, 13), at(13, &[(2, 4)]));
}

#[test]
fn a_root_counts_until_the_write_that_ends_it_is_below_a_cut() {
    let lengths = Lengths::default();
    let core = lengths.attach();
    let (old, new) = (tree(2, 10), tree(2, 20));
    for number in 1..5 {
        core.add(old, number, Effect::More);
    }
    assert_eq!(lengths.begin_cut(1, || 5), 5);
    lengths.end(old, 6);
    core.add(new, 7, Effect::More);
    assert_eq!((lengths.of(old), lengths.of(new)), (4, 1));
    assert_eq!(lengths.end_cut(5), at(5, &[(2, 4)]), "number 6 may be lost");
    assert_eq!(cut(&lengths, 8), at(8, &[(2, 1)]));
    assert_eq!((lengths.of(old), lengths.of(new)), (0, 1));
}

#[test]
fn what_the_log_has_is_added_to_what_the_checkpoint_has() {
    let lengths = Lengths::default();
    lengths.load(at(9, &[(2, 5), (3, 5), (4, 5), (5, 5), (6, u64::MAX)]));
    let core = lengths.attach();
    let counted = [(3, false, -2), (4, true, 2), (7, true, 1), (5, true, 3), (6, false, 1)];
    let counted =
        counted.map(|(tree, from_zero, difference)| Counted { tree, from_zero, difference, is_exact: true });
    // The log has removed tree 5.
    let root_of = |number: u32| (number != 5).then(|| tree(number, 10 + u64::from(number)));
    lengths.replayed(counted.into_iter(), root_of);
    let all =
        |lengths: &Lengths| [2, 3, 4, 5, 7].map(|number| lengths.of(tree(number, 10 + u64::from(number))));
    assert_eq!(all(&lengths), [5, 3, 2, 0, 1]);
    assert!(lengths.of(tree(6, 16)) > 1 << 60, "nonsense is no panic");
    core.add(tree(2, 12), 30, Effect::Less);
    core.add(tree(6, 16), 31, Effect::More);
    assert_eq!(all(&lengths), [4, 3, 2, 0, 1]);
    assert!(lengths.of(tree(6, 16)) > 1 << 60);
    assert_eq!(lengths.end_cut(u64::MAX).number, 9);
}

/// Writers on threads of their own, and a cut at any moment of theirs.
#[test]
fn a_cut_beside_writers_has_their_numbers_below_it_and_no_others() {
    for round in 0..40_u64 {
        let (lengths, counter, is_over) = (Lengths::default(), AtomicU64::new(1), AtomicBool::new(false));
        let root = tree(2, 10);
        let (number, all) = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|_| {
                    let core = lengths.attach();
                    scope.spawn(|| {
                        let (core, mut numbers) = (core, Vec::new());
                        while !is_over.load(Ordering::Relaxed) && numbers.len() < 20_000 {
                            let number = counter.fetch_add(1, Ordering::AcqRel);
                            core.add(root, number, Effect::More);
                            numbers.push(number);
                        }
                        numbers
                    })
                })
                .collect();
            while counter.load(Ordering::Relaxed) < 100 + round * 10 {
                std::thread::yield_now();
            }
            let mut number = 0;
            for _ in 0..5 {
                number = lengths.begin_cut(number, || counter.load(Ordering::Acquire));
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            let all: Vec<_> =
                writers.into_iter().flat_map(|writer| writer.join().expect("no panic")).collect();
            (number, all)
        });
        let below = all.iter().filter(|drawn| **drawn < number).count() as u64;
        assert_eq!(lengths.end_cut(number), at(number, &[(2, below)]), "round {round}");
        assert_eq!(lengths.of(root), all.len() as u64);
    }
}
