//! Where a task stands, as far as its turns are concerned: one byte in its header.
//!
//! | state | `QUEUED` | `TURN` | `ENDED` | |
//! |---|---|---|---|---|
//! | waiting or running | | | | the core knows which task it polls |
//! | ready | × | | | on its run queue once; the core's own reference keeps it alive |
//! | in turn | × | × | | a coroutine that runs *and* is the first on its run queue, so that to yield is to become the last |
//! | ended | | | × | its future is gone |
//! | ended, on a queue | × | | × | the core's own reference goes when it is popped |
//!
//! | transition | by | method |
//! |---|---|---|
//! | waiting or running → ready | a waker on the task's core; the core, for wakers of other threads; a spawn; a coroutine that yields to the loop | [`mark_queued`](TurnState::mark_queued) |
//! | ready → running | the loop that popped the task | [`begin`](TurnState::begin), [`begin_resume`](TurnState::begin_resume) |
//! | running → in turn | a coroutine that yields and lets others run on its stack | [`take_turn`](TurnState::take_turn) |
//! | in turn → ready | the same, when it passes its turn on | [`pass_turn`](TurnState::pass_turn) |
//! | ready → in turn | a coroutine that takes over the turn, on the stack of the one that yielded | [`begin_resume`](TurnState::begin_resume) |
//! | in turn → running | a waker, before the task becomes ready; the core, when the coroutine is suspended or has ended | [`leave_turn`](TurnState::leave_turn), [`end_turn`](TurnState::end_turn) |
//! | any but ended → ended | the core, between polls or after the last one | [`end`](TurnState::end) |
//!
//! `CANCELLED` is set in any state but ended, by the join handle, a canceller or the inbox, and for
//! good: the core drops the future at the task's next turn. `FUTURE` says that a poll does more
//! than resume a coroutine. Only with neither of them may a coroutine be resumed without a poll:
//! one comparison of the byte tells.
//!
//! Only the task's own core touches the byte. What other threads ask for arrives through the
//! [inbox](super::inbox).

use std::cell::Cell;

/// On a run queue.
const QUEUED: u8 = 1;
/// The future is gone.
const ENDED: u8 = 1 << 1;
/// Somebody asked for the end of the task.
const CANCELLED: u8 = 1 << 2;
/// A poll does more than resume a coroutine: the header knows of no coroutine, or the coroutine
/// knows of a panic.
const FUTURE: u8 = 1 << 3;
/// The coroutine runs and is the first on its run queue, among others that take turns on its stack.
const TURN: u8 = 1 << 4;

/// Where a task stands. See the module's tables.
pub(in crate::rt) struct TurnState(Cell<u8>);

impl TurnState {
    /// A task that waits, and whose polls are those of a future.
    pub(super) fn new() -> Self {
        Self(Cell::new(FUTURE))
    }

    #[inline]
    fn has(&self, flags: u8) -> bool {
        self.0.get() & flags != 0
    }

    #[inline]
    fn set(&self, flags: u8) {
        self.0.set(self.0.get() | flags);
    }

    #[inline]
    fn clear(&self, flags: u8) {
        self.0.set(self.0.get() & !flags);
    }

    pub(in crate::rt) fn has_ended(&self) -> bool {
        self.has(ENDED)
    }

    pub(in crate::rt) fn is_queued(&self) -> bool {
        self.has(QUEUED)
    }

    /// Whether it is in turn: on its run queue, and running.
    pub(in crate::rt) fn is_in_turn(&self) -> bool {
        self.has(TURN)
    }

    /// Whether the core must not poll it at its next turn, because it ended or was cancelled.
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.has(ENDED | CANCELLED)
    }

    /// Of a ready task: whether its next poll does nothing but resume a coroutine.
    #[inline]
    pub(in crate::rt) fn only_resumes(&self) -> bool {
        self.0.get() == QUEUED
    }

    /// Of a task in turn: whether it may go on without a poll.
    #[inline]
    pub(in crate::rt) fn may_keep_turn(&self) -> bool {
        self.0.get() == QUEUED | TURN
    }

    /// Says whether polls do more than resume a coroutine.
    #[inline]
    pub(super) fn set_polls_future(&self, polls_future: bool) {
        if polls_future {
            self.set(FUTURE);
        } else {
            self.clear(FUTURE);
        }
    }

    /// Waiting or running → ready. What it was tells whether the caller puts it on its queue.
    #[inline]
    pub(super) fn mark_queued(&self) -> Marked {
        if self.has(QUEUED | ENDED) {
            return if self.has(TURN) { Marked::InTurn } else { Marked::NotNow };
        }
        self.set(QUEUED);
        Marked::Ready
    }

    /// Ready → running, for a poll of the future.
    #[inline]
    pub(super) fn begin(&self) {
        self.clear(QUEUED);
    }

    /// Ready → running, or → in turn if the coroutine stays at the front of its queue. It
    /// [only resumes](Self::only_resumes).
    #[inline]
    pub(super) fn begin_resume(&self, in_turn: bool) {
        self.0.set(if in_turn { QUEUED | TURN } else { 0 });
    }

    /// Running → in turn, if it is a coroutine that may go on and is not queued; returns whether it
    /// is.
    pub(in crate::rt) fn take_turn(&self) -> bool {
        let takes = self.0.get() == 0;
        if takes {
            self.0.set(QUEUED | TURN);
        }
        takes
    }

    /// In turn → ready: it [may keep its turn](Self::may_keep_turn), and passes it on.
    #[inline]
    pub(super) fn pass_turn(&self) {
        self.0.set(QUEUED);
    }

    /// In turn → running, for a task that is woken meanwhile: it stays marked as queued, for the
    /// caller puts it at the end of its queue.
    pub(super) fn leave_turn(&self) {
        self.clear(TURN);
    }

    /// In turn → running; returns whether it was in turn.
    pub(in crate::rt) fn end_turn(&self) -> bool {
        let was_in_turn = self.has(TURN);
        if was_in_turn {
            self.clear(QUEUED | TURN);
        }
        was_in_turn
    }

    /// Asks for the end of the task; returns whether that is news.
    pub(super) fn cancel(&self) -> bool {
        let is_news = !self.is_over();
        if is_news {
            self.set(CANCELLED);
        }
        is_news
    }

    /// Asks for the end of the task, which may have ended, for another thread.
    pub(super) fn cancel_from_elsewhere(&self) {
        self.set(CANCELLED);
    }

    /// → ended.
    pub(super) fn end(&self) {
        self.set(ENDED);
    }
}

/// What [`TurnState::mark_queued`] found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Marked {
    /// It is marked as queued now, and goes on its queue.
    Ready,
    /// It is queued already or has ended.
    NotNow,
    /// It is queued already as the one in turn.
    InTurn,
}
