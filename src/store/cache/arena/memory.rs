//! The memory of an arena: one mapping that all cores use.

use std::ptr::NonNull;

use crate::error::Result;
use crate::mem::Arena;

pub(super) struct Memory {
    /// Keeps the memory mapped. It is a core's arena for I/O, which is used as a mapping here.
    _mapping: Arena,
    base: NonNull<u8>,
}

// SAFETY: the arena inside is a counted reference that belongs to one thread, but there is only
// this one: it is never cloned nor given out. It is dropped by whoever drops the `Memory`, and the
// mapping may be unmapped by any thread. The address is a number to this module; its users say who
// may access what is there.
unsafe impl Send for Memory {}

// SAFETY: as above; a shared `Memory` does address arithmetic only.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps at least `bytes` bytes, zeroed, in hugepages where there are some.
    ///
    /// # Errors
    ///
    /// The kernel's code if it cannot be mapped.
    pub(super) fn map(bytes: usize) -> Result<Self> {
        let mapping = Arena::new(bytes)?;
        // A point read goes to some five lines anywhere in here: with pages of 4 KiB each of them
        // would be a miss of the translation too.
        mapping.prefer_hugepages();
        let (base, mapped) = mapping.region();
        assert!(mapped >= bytes, "an arena is not smaller than asked for");
        let base = NonNull::new(base.cast_mut()).expect("a mapping is not at address 0");
        Ok(Self { _mapping: mapping, base })
    }

    /// The address `offset` bytes into the memory.
    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        let ptr = self.base.as_ptr().wrapping_add(offset);
        NonNull::new(ptr).expect("the mapping does not wrap")
    }

    /// How many bytes into the memory `ptr` is.
    pub(super) fn offset_of(&self, ptr: NonNull<u8>) -> usize {
        ptr.addr().get() - self.base.addr().get()
    }
}
