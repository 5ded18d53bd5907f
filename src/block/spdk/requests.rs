//! Commands that SPDK has: one place per slot, whose address is what SPDK hands back.

use std::cell::Cell;
use std::ffi::c_void;
use std::rc::Rc;

use super::super::queue::Segment;

/// A status field without the phase bit; 0 is success.
pub(super) type StatusField = u16;

/// One slot. SPDK holds its address while it has the slot's command.
pub(super) struct Slot {
    finished: Rc<Finished>,
    number: u16,
    /// How many callbacks come before the command is done.
    pending: Cell<u16>,
    status: Cell<StatusField>,
    /// What SPDK reads during the command: the pieces of its memory, and of what it expects.
    pieces: Cell<Vec<libc::iovec>>,
    expected: Cell<Vec<libc::iovec>>,
}

/// The commands that are done, in order.
#[derive(Default)]
struct Finished(Cell<Vec<(u16, StatusField)>>);

impl Finished {
    fn push(&self, slot: u16, status: StatusField) {
        let mut list = self.0.take();
        list.push((slot, status));
        self.0.set(list);
    }
}

/// The slots of one queue, of which no two threads ever know.
pub(super) struct Requests {
    slots: Rc<[Slot]>,
    finished: Rc<Finished>,
    /// The list that [`Requests::drain`] empties, while callbacks fill the other one.
    taken: Vec<(u16, StatusField)>,
}

impl Requests {
    pub(super) fn new(slots: u16) -> Self {
        let finished = Rc::new(Finished(Cell::new(Vec::with_capacity(slots.into()))));
        let slot = |number| Slot {
            finished: Rc::clone(&finished),
            number,
            pending: Cell::new(0),
            status: Cell::new(0),
            pieces: Cell::new(Vec::with_capacity(2)),
            expected: Cell::default(),
        };
        Self { slots: (0..slots).map(slot).collect(), finished, taken: Vec::with_capacity(slots.into()) }
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// Gets a slot ready for a command whose memory is in these pieces.
    pub(super) fn begin(&self, slot: u16, memory: &[Segment], expected: &[Segment]) -> &Slot {
        let slot = &self.slots[usize::from(slot)];
        debug_assert_eq!(slot.pending.get(), 0, "the slot is not in use");
        slot.status.set(0);
        fill(&slot.pieces, memory);
        fill(&slot.expected, expected);
        slot
    }

    /// Calls `done` for each command that is done, and returns how many there were.
    pub(super) fn drain(&mut self, mut done: impl FnMut(u16, StatusField)) -> usize {
        // The two lists change places, so that none is ever made anew.
        let list = self.finished.0.replace(std::mem::take(&mut self.taken));
        let count = list.len();
        for &(slot, status) in &list {
            done(slot, status);
        }
        self.taken = list;
        self.taken.clear();
        count
    }
}

impl Requests {
    /// Whether SPDK has no command.
    pub(super) fn are_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.pending.get() == 0)
    }

    /// The slots stay for ever: SPDK may call back.
    pub(super) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.slots));
    }
}

impl Slot {
    /// What SPDK is to hand back.
    pub(super) fn argument(&self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    /// Where the pieces are, and how many. They stay there until the slot begins anew.
    pub(super) fn pieces(&self) -> (*mut libc::iovec, usize) {
        place(&self.pieces)
    }

    pub(super) fn expected(&self) -> (*mut libc::iovec, usize) {
        place(&self.expected)
    }

    /// SPDK has the command, and calls back `callbacks` times.
    pub(super) fn sent(&self, callbacks: u16) {
        self.pending.set(callbacks);
    }

    /// One callback. The first status that is no success counts, unless `replaces` says that this
    /// one tells more.
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

fn fill(place: &Cell<Vec<libc::iovec>>, memory: &[Segment]) {
    let mut pieces = place.take();
    pieces.clear();
    pieces.extend(
        memory.iter().map(|piece| libc::iovec { iov_base: piece.ptr.as_ptr().cast(), iov_len: piece.len }),
    );
    place.set(pieces);
}

fn place(pieces: &Cell<Vec<libc::iovec>>) -> (*mut libc::iovec, usize) {
    // Moving a vector leaves its elements where they are.
    let mut taken = pieces.take();
    let found = (taken.as_mut_ptr(), taken.len());
    pieces.set(taken);
    found
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
