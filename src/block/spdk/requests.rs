//! Commands that SPDK has: one place per slot, whose address is what SPDK hands back.

use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;
use std::time::Duration;

use super::super::queue::Segment;
use crate::time::Instant;

/// How long a command may take before it is aborted, and how long from then on until its controller
/// is reset: whatever the controller says of the abort, which finds nothing if the command ended
/// meanwhile.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
const ABORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A status field without the phase bit; 0 is success.
pub(super) type StatusField = u16;

/// One slot. SPDK holds its address while it has the slot's command.
pub(super) struct Slot {
    finished: Rc<Finished>,
    number: u16,
    /// How many callbacks come before the command is done.
    pending: Cell<u16>,
    status: Cell<StatusField>,
    age: Cell<Age>,
    /// What SPDK reads during the command: the pieces of its memory, and of what it expects.
    pieces: Pieces,
    expected: Pieces,
}

/// What is known of how long a command takes.
#[derive(Clone, Copy)]
enum Age {
    /// Nobody looked since it was sent.
    New,
    /// It was there at that time.
    Seen(Instant),
    /// It took too long, and was to be aborted at that time.
    Aborted(Instant),
}

/// What is due because a command takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Abort,
    Reset,
}

/// A list for SPDK to read. Its place stays the same until it is filled anew.
struct Pieces {
    /// The only one, mostly.
    one: Cell<libc::iovec>,
    /// All of them, if there are more.
    more: Cell<Vec<libc::iovec>>,
    count: Cell<usize>,
}

impl Pieces {
    const fn new() -> Self {
        let none = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self { one: Cell::new(none), more: Cell::new(Vec::new()), count: Cell::new(0) }
    }

    #[inline]
    fn fill(&self, memory: &[Segment]) {
        self.count.set(memory.len());
        match memory {
            [] => {}
            [piece] => self.one.set(vector(piece)),
            _ => {
                let mut more = self.more.take();
                more.clear();
                more.extend(memory.iter().map(vector));
                self.more.set(more);
            }
        }
    }

    #[inline]
    fn place(&self) -> (*mut libc::iovec, usize) {
        let count = self.count.get();
        if count <= 1 {
            return (self.one.as_ptr(), count);
        }
        // Moving a vector leaves its elements where they are.
        let mut more = self.more.take();
        let place = more.as_mut_ptr();
        self.more.set(more);
        (place, count)
    }
}

#[inline]
fn vector(piece: &Segment) -> libc::iovec {
    libc::iovec { iov_base: piece.ptr.as_ptr().cast(), iov_len: piece.len }
}

/// The commands that are done, in order: a ring with room for all slots, each of which is in it
/// once at most.
struct Finished {
    ring: Box<[Cell<(u16, StatusField)>]>,
    /// How many came in and went out so far.
    pushed: Cell<usize>,
    popped: Cell<usize>,
}

impl Finished {
    fn new(slots: u16) -> Self {
        let room = usize::from(slots).next_power_of_two();
        let ring = (0..room).map(|_| Cell::default()).collect();
        Self { ring, pushed: Cell::new(0), popped: Cell::new(0) }
    }

    #[inline]
    fn place(&self, number: usize) -> &Cell<(u16, StatusField)> {
        &self.ring[number & (self.ring.len() - 1)]
    }

    #[inline]
    fn push(&self, slot: u16, status: StatusField) {
        let pushed = self.pushed.get();
        debug_assert!(pushed - self.popped.get() < self.ring.len(), "each slot is there once at most");
        self.place(pushed).set((slot, status));
        self.pushed.set(pushed + 1);
    }

    #[inline]
    fn pop(&self) -> Option<(u16, StatusField)> {
        let popped = self.popped.get();
        if popped == self.pushed.get() {
            return None;
        }
        self.popped.set(popped + 1);
        Some(self.place(popped).get())
    }
}

/// The slots of one queue. SPDK calls back on the thread of its core, until they are
/// [left behind](Requests::leak).
pub(super) struct Requests {
    slots: Rc<[Slot]>,
    finished: Rc<Finished>,
}

impl Requests {
    pub(super) fn new(slots: u16) -> Self {
        let finished = Rc::new(Finished::new(slots));
        let slot = |number| Slot {
            finished: Rc::clone(&finished),
            number,
            pending: Cell::new(0),
            status: Cell::new(0),
            age: Cell::new(Age::New),
            pieces: Pieces::new(),
            expected: Pieces::new(),
        };
        Self { slots: (0..slots).map(slot).collect(), finished }
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// Gets a slot ready for a command whose memory is in these pieces.
    #[inline]
    pub(super) fn begin(&self, slot: u16, memory: &[Segment], expected: &[Segment]) -> &Slot {
        let slot = &self.slots[usize::from(slot)];
        debug_assert_eq!(slot.pending.get(), 0, "the slot is not in use");
        slot.status.set(0);
        slot.age.set(Age::New);
        slot.pieces.fill(memory);
        slot.expected.fill(expected);
        slot
    }

    /// Calls `done` for commands that are done, at most `budget` times, and returns how often.
    /// `done` does not call SPDK.
    #[inline]
    pub(super) fn drain(&self, budget: usize, mut done: impl FnMut(u16, StatusField)) -> usize {
        let mut count = 0;
        while count < budget
            && let Some((slot, status)) = self.finished.pop()
        {
            done(slot, status);
            count += 1;
        }
        count
    }
}

impl Requests {
    /// Whether SPDK has no command.
    pub(super) fn are_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.pending.get() == 0)
    }

    /// Whether all commands that SPDK had are done, and were said to be.
    pub(super) fn are_drained(&self) -> bool {
        self.are_idle() && !self.has_finished()
    }

    /// Whether a command is done, and was not said to be.
    pub(super) fn has_finished(&self) -> bool {
        self.finished.pushed != self.finished.popped
    }

    /// What is due at `now` for commands that take too long. The time of each counts from the first
    /// call that sees it.
    pub(super) fn overdue(&self, now: Instant) -> impl Iterator<Item = (&Slot, Overdue)> {
        self.slots.iter().filter_map(move |slot| Some((slot, slot.overdue(now)?)))
    }

    /// The slots stay for ever: SPDK may call back.
    pub(super) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.slots));
    }
}

impl Slot {
    fn overdue(&self, now: Instant) -> Option<Overdue> {
        if self.pending.get() == 0 {
            return None;
        }
        match self.age.get() {
            Age::New => self.age.set(Age::Seen(now)),
            Age::Seen(at) if now.saturating_since(at) >= COMMAND_TIMEOUT => {
                self.age.set(Age::Aborted(now));
                return Some(Overdue::Abort);
            }
            Age::Aborted(at) if now.saturating_since(at) >= ABORT_TIMEOUT => return Some(Overdue::Reset),
            Age::Seen(_) | Age::Aborted(_) => {}
        }
        None
    }

    /// What SPDK is to hand back.
    pub(super) fn argument(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Where the pieces are, and how many. They stay there until the slot begins anew.
    pub(super) fn pieces(&self) -> (*mut libc::iovec, usize) {
        self.pieces.place()
    }

    pub(super) fn expected(&self) -> (*mut libc::iovec, usize) {
        self.expected.place()
    }

    /// SPDK has the command, and calls back `callbacks` times.
    pub(super) fn sent(&self, callbacks: u16) {
        self.pending.set(callbacks);
    }

    /// One callback. The first status that is no success counts, unless `replaces` says that this
    /// one tells more.
    #[inline]
    pub(super) fn called_back(&self, status: StatusField, replaces: bool) {
        if status != 0 && (self.status.get() == 0 || replaces) {
            self.status.set(status);
        }
        let pending = self.pending.get().saturating_sub(1);
        self.pending.set(pending);
        if pending == 0 {
            self.finished.push(self.number, self.status.get());
        }
    }
}

/// The slot that SPDK hands back.
///
/// # Safety
///
/// `argument` is what [`Slot::argument`] gave, and the [`Requests`] that the slot is of live.
pub(super) unsafe fn slot<'a>(argument: *mut c_void) -> &'a Slot {
    // SAFETY: the caller's promise; nothing has a mutable reference to a slot.
    unsafe { &*argument.cast::<Slot>() }
}

#[cfg(test)]
mod tests {
    use super::{Overdue, Requests};
    use crate::time::Instant;

    #[test]
    fn a_command_that_does_not_end_is_aborted_once_and_then_costs_a_reset() {
        let requests = Requests::new(2);
        let due = |second: u64| {
            let now = Instant::from_nanos(second * 1_000_000_000);
            requests.overdue(now).map(|(slot, overdue)| (slot.number, overdue)).collect::<Vec<_>>()
        };
        assert_eq!(due(1), []);
        requests.begin(1, &[], &[]).sent(1);
        // Its core had other things to do, and looks now.
        for second in [100, 101, 129] {
            assert_eq!(due(second), []);
        }
        assert_eq!(due(130), [(1, Overdue::Abort)]);
        assert_eq!(due(134), []);
        // Whatever became of the abort.
        assert_eq!(due(135), [(1, Overdue::Reset)]);
        requests.slots[1].called_back(0, false);
        assert_eq!(due(136), []);
        // The next command of the slot has a time of its own.
        assert_eq!(requests.drain(1, |_, _| {}), 1);
        requests.begin(1, &[], &[]).sent(1);
        assert_eq!(due(137), []);
        assert_eq!(due(167), [(1, Overdue::Abort)]);
        requests.slots[1].called_back(0x0007, false);
        assert_eq!(due(200), []);
    }

    #[test]
    fn commands_end_once_with_their_first_failure_and_within_the_budget() {
        let requests = Requests::new(4);
        for number in 0..4 {
            requests.begin(number, &[], &[]).sent(if number == 0 { 2 } else { 1 });
        }
        assert!(!requests.are_idle());
        let slot = |number: usize| &requests.slots[number];
        // A fused pair: the second half says that the first failed, and the first why.
        slot(0).called_back(0x0009, false);
        slot(1).called_back(0, false);
        slot(0).called_back(0x0285, true);
        slot(2).called_back(0x0281, false);
        let mut ended = Vec::new();
        assert_eq!(requests.drain(2, |slot, status| ended.push((slot, status))), 2);
        assert_eq!(requests.drain(2, |slot, status| ended.push((slot, status))), 1);
        assert_eq!(ended, [(1, 0), (0, 0x0285), (2, 0x0281)]);
        slot(3).called_back(0, false);
        assert!(requests.are_idle());
        assert_eq!(requests.drain(9, |_, _| {}), 1);
    }
}
