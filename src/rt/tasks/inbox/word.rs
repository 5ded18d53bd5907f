//! What other threads did to a task, and whether its node is on the inbox's list: one atomic word.
//!
//! Its bits: `LISTED`, `WOKEN` and `CANCELLED`, and above them how many references other threads
//! added minus how many they dropped, not yet told to the owner.
//!
//! | state | `LISTED` | the node is | who may free the task |
//! |---|---|---|---|
//! | quiet | | on no list | the owner, if its count and the word's are zero together |
//! | claimed | × | about to be pushed by the thread that set the bit | nobody |
//! | listed | × | on the inbox's list, or taken off it and not settled yet | nobody |
//!
//! | transition | by | method |
//! |---|---|---|
//! | quiet → quiet | a thread with a reference that adds one, which is news that can wait | [`add_reference`](Word::add_reference) |
//! | quiet → claimed | a thread that wakes or cancels the task, or drops a reference | [`mark`](Word::mark), [`release`](Word::release), which return [`Listing::Claimed`] |
//! | claimed → listed | the same thread, by a push; the word does not change | |
//! | claimed or listed → the same | any other thread that does one of these; it does not touch the node again | the same methods, which return [`Listing::Unchanged`] |
//! | listed → quiet | the owner, which takes note of everything; once the core is gone, the thread that buries its tasks | [`settle`](Word::settle) |
//!
//! A thread that drops its reference and claims the node does both in one atomic operation. So
//! between that and the end of its push the node cannot go away, though no reference of the thread
//! keeps it.
//!
//! `WOKEN` and `CANCELLED` are set only together with `LISTED`, and the owner takes all of them at
//! once: a quiet word has neither.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

const LISTED: u64 = 1;
const WOKEN: u64 = 1 << 1;
const CANCELLED: u64 = 1 << 2;
const COUNT_SHIFT: u32 = 3;
const ONE_REFERENCE: u64 = 1 << COUNT_SHIFT;

/// What other threads did to a task. See the module's tables.
pub(in crate::rt::tasks) struct Word(AtomicU64);

/// What a thread does to a task of a core.
#[derive(Clone, Copy)]
pub(super) struct Mark(u64);

impl Mark {
    /// Nothing but that there is news for the owner.
    pub(super) const NEWS: Self = Self(LISTED);
    /// Wakes it.
    pub(super) const WAKE: Self = Self(LISTED | WOKEN);
    /// Asks for its end, and wakes it to that end.
    pub(super) const CANCEL: Self = Self(LISTED | WOKEN | CANCELLED);
    /// Wakes it so that its owner does not hear of it: a [defect](super::Defect::WakeUnlisted).
    pub(super) const UNHEARD_WAKE: Self = Self(WOKEN);
}

/// What became of the node's place on the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a thread that has claimed the node pushes it"]
pub(super) enum Listing {
    /// The caller has claimed the node, and is the one that pushes it.
    Claimed,
    /// Another thread has pushed it, or will. The caller does not touch the node again.
    Unchanged,
}

/// What other threads did to a task since its owner last looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rt) struct Changes {
    /// References added minus references dropped.
    pub(in crate::rt) references: i64,
    /// Somebody woke the task.
    pub(in crate::rt) woken: bool,
    /// Somebody asked for the end of the task.
    pub(in crate::rt) cancelled: bool,
}

impl Word {
    /// Of a new task: quiet.
    #[inline]
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds a reference. The caller holds one already.
    #[inline]
    pub(super) fn add_reference(&self) {
        // Relaxed, as in `Arc::clone`: the caller's own reference keeps the task alive meanwhile.
        self.0.fetch_add(ONE_REFERENCE, Ordering::Relaxed);
    }

    /// Does `mark` to the task. The caller holds a reference, and goes on to hold it.
    #[inline]
    pub(super) fn mark(&self, mark: Mark) -> Listing {
        let before = self.0.fetch_or(mark.0, Ordering::AcqRel);
        Listing::after(before, mark)
    }

    /// Does `mark` to the task and drops a reference of the caller's, at once.
    #[inline]
    pub(super) fn release(&self, mark: Mark) -> Listing {
        let change = |word: u64| Some(word.wrapping_sub(ONE_REFERENCE) | mark.0);
        let (Ok(before) | Err(before)) = self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, change);
        Listing::after(before, mark)
    }

    /// Takes note of everything. Only for the owner of a listed node.
    #[inline]
    pub(super) fn settle(&self) -> Changes {
        let word = self.0.swap(0, Ordering::AcqRel);
        Changes { references: count(word), woken: word & WOKEN != 0, cancelled: word & CANCELLED != 0 }
    }

    /// Whether the owner, which knows of `local` references, may free the task.
    #[inline]
    pub(super) fn is_unreferenced(&self, local: i64) -> bool {
        let word = self.0.load(Ordering::Acquire);
        word & LISTED == 0 && local + count(word) == 0
    }

    /// Fails the model if an access of another thread is not over.
    #[cfg(all(test, loom))]
    pub(super) fn assert_unshared(&self) {
        // SAFETY: loom fails the test if another thread may be at the word.
        unsafe { self.0.unsync_load() };
    }
}

impl Listing {
    /// Of a word that was `before` until `mark` was done to it.
    #[inline]
    fn after(before: u64, mark: Mark) -> Self {
        if !before & mark.0 & LISTED != 0 { Self::Claimed } else { Self::Unchanged }
    }
}

/// The references in `word`; negative when other threads dropped more than they added.
#[inline]
fn count(word: u64) -> i64 {
    word.cast_signed() >> COUNT_SHIFT
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_thread_claims_the_node_until_the_owner_has_settled_it() {
        let word = Word::new();
        assert_eq!(word.mark(Mark::WAKE), Listing::Claimed);
        assert_eq!(word.mark(Mark::CANCEL), Listing::Unchanged);
        assert_eq!(word.release(Mark::NEWS), Listing::Unchanged);
        assert_eq!(word.settle(), Changes { references: -1, woken: true, cancelled: true });
        assert_eq!(word.settle(), Changes { references: 0, woken: false, cancelled: false });
        assert_eq!(word.release(Mark::NEWS), Listing::Claimed);
        assert_eq!(word.settle(), Changes { references: -1, woken: false, cancelled: false });
    }

    #[test]
    fn a_task_is_freed_only_by_an_owner_that_knows_everything() {
        let word = Word::new();
        assert!(word.is_unreferenced(0));
        word.add_reference();
        assert!(!word.is_unreferenced(0), "another thread has one");
        assert!(word.is_unreferenced(-1), "it was counted there and dropped here");
        assert_eq!(word.release(Mark::NEWS), Listing::Claimed);
        assert!(!word.is_unreferenced(0), "another thread is about to push the node");
        assert_eq!(word.settle().references, 0);
        assert!(word.is_unreferenced(0));
    }

    #[test]
    fn a_wake_that_nobody_hears_of_claims_nothing() {
        let word = Word::new();
        assert_eq!(word.mark(Mark::UNHEARD_WAKE), Listing::Unchanged);
        assert_eq!(word.mark(Mark::WAKE), Listing::Claimed);
    }
}
