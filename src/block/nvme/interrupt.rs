//! The interrupt of a core's queue pair: masked while the core polls, so that the controller raises
//! none for completions which the core finds anyway.
//!
//! | the vector | next |
//! |---|---|
//! | masked: the core polls | unmasked: the core goes to sleep with commands at the controller |
//! | unmasked: an interrupt wakes the core | masked: since it slept, the core took completions in [`POLLS_BEFORE_MASK`] polls |
//!
//! # No wake is lost
//!
//! A core that goes to sleep unmasks the vector, empties the eventfd, looks for completions once
//! more, and then sleeps, in this order. A completion raises its interrupt after it is in memory.
//! So whatever the emptying took away, the look finds. The interrupt of every other completion
//! makes the eventfd readable after that.
//!
//! The write that unmasks is on its way for a while, in which the vector is masked still. A
//! controller that completes something then sets the vector's bit in its pending bit array, and
//! raises the interrupt as soon as the write has arrived (PCI Express Base 5.0, 6.1.4). That bit
//! makes it unnecessary to wait for the write, which a read of the table would do.
//!
//! # What is left
//!
//! The bit may be set by completions that the core has taken long since. Then the interrupt that it
//! raises wakes the core for nothing, once in such a sleep. A core that sleeps between most of its
//! completions would pay that, and two writes of registers, for one interrupt less. This is why it
//! is not the first poll with completions that masks.

use std::os::fd::{OwnedFd, RawFd};

use crate::rt::poller::Park;

/// A core that took completions in this many polls since it slept does not need interrupts.
pub(super) const POLLS_BEFORE_MASK: u8 = 4;

/// One interrupt of a controller.
pub(super) trait Vector {
    /// Becomes readable with every interrupt; open while this is there.
    fn descriptor(&self) -> RawFd;

    /// Makes the descriptor unreadable until the next interrupt.
    fn empty(&self);

    /// Whether it can be masked without a system call.
    fn can_be_masked(&self) -> bool;

    /// Masks it, or unmasks it. The controller may see this only a while later, but not later than
    /// a doorbell that is written after it.
    fn set_mask(&self, masked: bool);
}

/// Makes an eventfd, one that does not block, unreadable until it is written to again.
pub(super) fn empty_eventfd(eventfd: &OwnedFd) {
    let _ = rustix::io::read(eventfd, &mut [0; 8]);
}

/// Breaks the driver on purpose: each mutation must be noticed by the model's tests.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// The last look comes before the vector is unmasked and the eventfd emptied.
    LookFirst,
    /// The vector stays masked.
    StaysMasked,
}

/// See the top of the file.
pub(super) struct Interrupt {
    vector: Box<dyn Vector>,
    is_masked: bool,
    /// In how many polls completions were taken since the core slept.
    polls: u8,
    #[cfg(test)]
    pub(super) mutation: Option<Mutation>,
}

impl Interrupt {
    /// Of a core that is awake.
    pub(super) fn new(vector: Box<dyn Vector>) -> Self {
        let mut interrupt = Self {
            vector,
            is_masked: false,
            polls: 0,
            #[cfg(test)]
            mutation: None,
        };
        interrupt.mask();
        interrupt
    }

    fn mask(&mut self) {
        if self.vector.can_be_masked() {
            self.vector.set_mask(true);
            self.is_masked = true;
        }
    }

    /// A poll took completions: the core is awake.
    #[inline]
    pub(super) fn completions_were_taken(&mut self) {
        if !self.is_masked && self.polls < POLLS_BEFORE_MASK {
            self.polls += 1;
            if self.polls == POLLS_BEFORE_MASK {
                self.mask();
            }
        }
    }

    /// The core is about to sleep until a command completes. `has_completion` looks whether one
    /// has.
    pub(super) fn park(&mut self, has_completion: impl Fn() -> bool) -> Park {
        #[cfg(test)]
        if let Some(mutation) = self.mutation {
            return self.park_wrongly(mutation, has_completion);
        }
        self.unmask();
        self.vector.empty();
        self.sleep_unless(has_completion())
    }

    fn unmask(&mut self) {
        if self.is_masked {
            self.vector.set_mask(false);
            self.is_masked = false;
            // Also if it then finds a completion, and does not sleep.
            self.polls = 0;
        }
    }

    fn sleep_unless(&mut self, has_completion: bool) -> Park {
        if has_completion {
            return Park::Spin;
        }
        self.polls = 0;
        Park::Wake(self.vector.descriptor())
    }

    #[cfg(test)]
    fn park_wrongly(&mut self, mutation: Mutation, has_completion: impl Fn() -> bool) -> Park {
        let seen = has_completion();
        if mutation == Mutation::LookFirst {
            self.unmask();
        }
        self.vector.empty();
        self.sleep_unless(seen || (mutation == Mutation::StaysMasked && has_completion()))
    }
}
