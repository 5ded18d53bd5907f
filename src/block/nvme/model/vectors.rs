//! The model's interrupts: masked or pending, and where they arrive.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rand::Rng;
use rustix::event::{EventfdFlags, eventfd};

use super::super::interrupt::empty_eventfd;
use super::machine::Machine;
use super::options::Pace;

/// The most steps that the model takes while a core is at its interrupts.
const MOST_STEPS_MEANWHILE: u32 = 3;

/// An interrupt of the model's.
#[derive(Default)]
pub(super) struct Vector {
    masked: bool,
    /// It would have been raised, had it not been masked.
    pending: bool,
    /// How often it was raised.
    pub(super) raised: u64,
    /// It was raised since somebody looked.
    pub(super) is_new: bool,
    /// Where it arrives, if anywhere.
    eventfd: Option<OwnedFd>,
}

impl Vector {
    fn raise(&mut self) {
        self.raised += 1;
        self.is_new = true;
        if let Some(eventfd) = &self.eventfd {
            // It fails only with more interrupts than there will ever be.
            let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
        }
    }
}

impl Machine {
    pub(super) fn interrupt(&mut self, number: u16) {
        let vector = self.vectors.entry(number).or_default();
        if vector.masked {
            vector.pending = true;
        } else {
            vector.raise();
        }
    }

    /// Where interrupts of a vector arrive from now on.
    pub(super) fn eventfd(&mut self, number: u16) -> Option<RawFd> {
        if !self.options.eventfds {
            return None;
        }
        let vector = self.vectors.entry(number).or_default();
        if vector.eventfd.is_none() {
            vector.eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
        }
        vector.eventfd.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// A core empties the eventfd of a vector.
    pub(super) fn empty(&mut self, number: u16) {
        self.go_on_meanwhile();
        if let Some(eventfd) = self.vectors.get(&number).and_then(|vector| vector.eventfd.as_ref()) {
            empty_eventfd(eventfd);
        }
        self.go_on_meanwhile();
    }

    /// A core masks a vector, or unmasks it. The write is on its way for some steps, but not longer
    /// than until the next access of a register.
    pub(super) fn set_mask(&mut self, number: u16, masked: bool) {
        self.go_on_meanwhile();
        self.masks.push_back((number, masked));
        self.go_on_meanwhile();
    }

    /// A model that works beside the cores does so also while they are at its interrupts.
    fn go_on_meanwhile(&mut self) {
        if self.options.pace == Pace::Alone {
            for _ in 0..self.random.random_range(0..=MOST_STEPS_MEANWHILE) {
                self.step();
            }
        }
    }

    /// The oldest mask on its way arrives; false if there is none.
    pub(super) fn let_mask_arrive(&mut self) -> bool {
        let Some((number, masked)) = self.masks.pop_front() else { return false };
        let vector = self.vectors.entry(number).or_default();
        vector.masked = masked;
        if !masked && std::mem::take(&mut vector.pending) {
            // A controller may see that nobody waits for an interrupt any more, or not.
            let waits =
                self.completions.values().any(|queue| queue.vector == Some(number) && !queue.is_empty());
            if waits || self.random.random_bool(0.5) {
                self.vectors.entry(number).or_default().raise();
            }
        }
        true
    }

    pub(super) fn let_masks_arrive(&mut self) {
        while self.let_mask_arrive() {}
    }

    /// The function was reset, after which the kernel leaves every vector unmasked.
    pub(super) fn reset_vectors(&mut self) {
        self.masks.clear();
        for vector in self.vectors.values_mut() {
            (vector.masked, vector.pending) = (false, false);
        }
    }
}
