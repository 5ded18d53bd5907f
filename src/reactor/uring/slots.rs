//! Operations that the kernel has, and what its completions make of them.

use std::rc::Rc;
use std::task::Waker;

use io_uring::cqueue;

use super::buffer_ring::BufferRing;
use super::multishot::{Event, Multishot};
use crate::reactor::ops::{COPIED, Orphan};

/// The operations of one ring.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<OperationSlot>,
    free: Vec<u32>,
    in_flight: usize,
    /// What to do with no borrow held.
    pub(super) completed: Vec<Completed>,
    /// Requests with many completions whose queues are full.
    pub(super) overfed: Vec<SlotKey>,
}

struct OperationSlot {
    generation: u32,
    /// The result of an operation of which the kernel still has the memory: a notification will
    /// follow.
    sent: i32,
    state: SlotState,
}

pub(super) enum SlotState {
    Free,
    InFlight(Waker),
    Done(i32),
    Orphaned(Box<dyn Orphan>),
    Multishot(Rc<dyn Multishot>),
    /// `shut_down` gave up on the operation. The kernel may use its memory for as long as it likes:
    /// the slot is nobody else's any more, and what it held is leaked.
    GivenUp,
}

pub(in crate::reactor) enum Completed {
    Wake(Waker),
    Orphan(Box<dyn Orphan>, i32),
    /// The request is over; dropping it may close its descriptor.
    Ended(Rc<dyn Multishot>),
}

/// Names an operation in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::reactor) struct SlotKey {
    index: u32,
    generation: u32,
}

impl SlotKey {
    pub(super) fn user_data(self) -> u64 {
        // The generation's top bit is masked off to keep clear of `READABLE`.
        u64::from(self.generation & 0x7fff_ffff) << 32 | u64::from(self.index)
    }
}

impl Slots {
    /// How many the kernel has, or may have.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Those that the kernel has.
    pub(super) fn keys_in_flight(&self) -> Vec<SlotKey> {
        let is_in_flight = |slot: &OperationSlot| {
            matches!(slot.state, SlotState::InFlight(_) | SlotState::Orphaned(_) | SlotState::Multishot(_))
        };
        let keys = (0..).zip(&self.slots).filter(|(_, slot)| is_in_flight(slot));
        keys.map(|(index, slot)| SlotKey { index, generation: slot.generation }).collect()
    }

    pub(super) fn take(&mut self, state: SlotState) -> SlotKey {
        self.in_flight += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(OperationSlot { generation: 0, sent: 0, state: SlotState::Free });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations in flight")
        });
        let slot = &mut self.slots[index as usize];
        slot.state = state;
        SlotKey { index, generation: slot.generation }
    }

    pub(super) fn state(&mut self, key: SlotKey) -> &mut SlotState {
        let slot = &mut self.slots[key.index as usize];
        debug_assert_eq!(slot.generation, key.generation, "a slot is named only while it is taken");
        &mut slot.state
    }

    pub(super) fn release(&mut self, key: SlotKey) {
        let slot = &mut self.slots[key.index as usize];
        slot.state = SlotState::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
    }

    /// Leaks what the operations in flight work on; those whose future is gone are returned, and
    /// know themselves what to leak.
    #[must_use = "they have memory that the kernel may use: it must not be dropped"]
    pub(super) fn give_up(&mut self) -> Vec<Box<dyn Orphan>> {
        let mut orphans = Vec::new();
        for slot in &mut self.slots {
            if !matches!(
                slot.state,
                SlotState::InFlight(_) | SlotState::Orphaned(_) | SlotState::Multishot(_)
            ) {
                continue;
            }
            match std::mem::replace(&mut slot.state, SlotState::GivenUp) {
                SlotState::Orphaned(orphan) => orphans.push(orphan),
                state => std::mem::forget(state),
            }
        }
        orphans
    }

    /// The kernel completed an operation, or one of the many times of a request. Returns 1 for
    /// something that somebody waited for.
    pub(super) fn complete(&mut self, entry: &cqueue::Entry, buffers: Option<&mut BufferRing>) -> usize {
        let index = u32::try_from(entry.user_data() & u64::from(u32::MAX)).expect("masked to 32 bits");
        let slot = &mut self.slots[index as usize];
        if let SlotState::Multishot(target) = &slot.state {
            let target = Rc::clone(target);
            let key = SlotKey { index, generation: slot.generation };
            self.fed(key, target, entry, buffers);
            return 1;
        }
        if cqueue::more(entry.flags()) {
            slot.sent = entry.result();
            return 0;
        }
        let result =
            if cqueue::notif(entry.flags()) { notified(slot.sent, entry.result()) } else { entry.result() };
        self.in_flight -= 1;
        if matches!(slot.state, SlotState::GivenUp) {
            return 0;
        }
        match std::mem::replace(&mut slot.state, SlotState::Done(result)) {
            SlotState::InFlight(waker) => self.completed.push(Completed::Wake(waker)),
            SlotState::Orphaned(orphan) => {
                let generation = slot.generation;
                self.release(SlotKey { index, generation });
                self.completed.push(Completed::Orphan(orphan, result));
            }
            SlotState::Free | SlotState::Done(_) | SlotState::Multishot(_) | SlotState::GivenUp => {
                unreachable!("the kernel completes an operation once")
            }
        }
        1
    }

    /// One of the many completions of a request.
    fn fed(
        &mut self,
        key: SlotKey,
        target: Rc<dyn Multishot>,
        entry: &cqueue::Entry,
        mut buffers: Option<&mut BufferRing>,
    ) {
        let more = cqueue::more(entry.flags());
        if let Some(buffers) = &mut buffers
            && entry.result() == -libc::ENOBUFS
        {
            buffers.grow();
        }
        let len = u32::try_from(entry.result()).unwrap_or(0);
        let chunk = cqueue::buffer_select(entry.flags())
            .and_then(|buffer| buffers.as_ref().and_then(|buffers| buffers.filled(buffer, len)));
        let chunk = match (chunk, &mut buffers) {
            (Some(chunk), Some(buffers)) if chunk.len() == 0 => {
                // Some kernels take a buffer to say that the stream ended.
                buffers.recycle(chunk);
                None
            }
            (chunk, _) => chunk,
        };
        let event = Event { result: entry.result(), chunk, more };
        if target.event(event, &mut self.completed) {
            self.overfed.push(key);
        }
        if !more {
            self.in_flight -= 1;
            self.release(key);
            self.completed.push(Completed::Ended(target));
        }
    }
}

/// The result of a send without copying, of what it `sent` and the kernel's notification.
fn notified(sent: i32, notification: i32) -> i32 {
    // IORING_NOTIF_USAGE_ZC_COPIED is the top bit.
    if sent >= 0 && notification < 0 { sent | COPIED } else { sent }
}
