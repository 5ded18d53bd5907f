//! A buffer that says when it is freed.

use std::cell::Cell;
use std::rc::Rc;

// The unit tests of the crate include this file too, where the traits have another path.
use super::{IoBuf, IoBufMut};

/// A buffer that is counted while it is alive.
pub(crate) struct Watched {
    bytes: Vec<u8>,
    alive: Rc<Cell<usize>>,
}

impl Watched {
    pub(crate) fn new(capacity: usize, alive: &Rc<Cell<usize>>) -> Self {
        alive.set(alive.get() + 1);
        Self { bytes: Vec::with_capacity(capacity), alive: Rc::clone(alive) }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

// SAFETY: all is the inner Vec's, which keeps the contract.
unsafe impl IoBuf for Watched {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes.stable_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes.bytes_init()
    }
}

// SAFETY: all is the inner Vec's, which keeps the contract.
unsafe impl IoBufMut for Watched {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.bytes.stable_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.bytes.bytes_total()
    }

    unsafe fn set_init(&mut self, len: usize) {
        // SAFETY: the caller's promise is the inner Vec's precondition.
        unsafe { self.bytes.set_init(len) };
    }
}
