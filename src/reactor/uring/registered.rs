//! Memory and files that the kernel was shown once, so that operations on them need not look them
//! up and pin them each time (`io_uring_register(2)`: `IORING_REGISTER_BUFFERS`,
//! `IORING_REGISTER_FILES`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::squeue::Flags;
use io_uring::{IoUring, cqueue, squeue};
use rustix::process::{Resource, getrlimit};

use super::probe::RingFeature;
use super::ring::Ring;
use crate::mem::Arena;
use crate::reactor::ops::Call;

/// The kernel takes no larger buffer: an arena is registered in pieces of this size.
const MAX_BUFFER_BYTES: usize = 1 << 30;
/// How many files and sockets a core registers at most; others are used by their descriptors. Their
/// table has 16 bytes for each of them in the kernel, and 10 here.
const MAX_FILES: usize = 8192;

/// The memory that a ring may use as its registered buffers.
pub(super) struct RegisteredArena {
    base: usize,
    bytes: usize,
    /// Keeps the mapping in place: as long as the ring lives, an address in it means the memory
    /// that the kernel was shown.
    _arena: Arena,
}

impl RegisteredArena {
    /// Registers all of `arena` with `ring`; from then on its pages are resident and locked.
    pub(super) fn new<S, C>(ring: &IoUring<S, C>, arena: &Arena) -> io::Result<Self>
    where
        S: squeue::EntryMarker,
        C: cqueue::EntryMarker,
    {
        let (base, bytes) = arena.region();
        let pieces: Vec<libc::iovec> = (0..bytes)
            .step_by(MAX_BUFFER_BYTES)
            .map(|start| libc::iovec {
                iov_base: base.wrapping_add(start).cast_mut().cast(),
                iov_len: (bytes - start).min(MAX_BUFFER_BYTES),
            })
            .collect();
        // SAFETY: the pieces lie in the arena's mapping, which this value keeps; should it be
        // dropped before the ring, then the kernel's own reference keeps the pages.
        unsafe { ring.submitter().register_buffers(&pieces) }?;
        Ok(Self { base: base.addr(), bytes, _arena: arena.clone() })
    }

    /// The registered buffer that has all of the `len` bytes at `address`, if one has.
    pub(super) fn index_of(&self, address: usize, len: usize) -> Option<u16> {
        let start = address.checked_sub(self.base)?;
        let last = start.checked_add(len.max(1) - 1).filter(|last| *last < self.bytes)?;
        let piece = start / MAX_BUFFER_BYTES;
        (last / MAX_BUFFER_BYTES == piece).then(|| u16::try_from(piece).ok()).flatten()
    }
}

/// The files that a ring knows, by their fixed-file slots.
#[derive(Default)]
pub(super) struct RegisteredFiles {
    /// Empty until the first is registered. Holds the files open, so that a number here means the
    /// file that was registered.
    table: Vec<Option<Rc<OwnedFd>>>,
    free: Vec<u16>,
    /// By descriptor, the number of its slot plus one; 0 if it has none.
    slots: Vec<u16>,
    /// Unused slots whose files the kernel has not been told to forget yet.
    leaving: Vec<u16>,
}

impl RegisteredFiles {
    /// Gives `file` a slot if at least `kept` others stay free.
    fn add(&mut self, ring: &IoUring, file: &Rc<OwnedFd>, kept: usize) -> io::Result<u16> {
        if self.table.is_empty() {
            // The kernel takes no more than may be open.
            let may_be_open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            let len = usize::try_from(may_be_open).unwrap_or(MAX_FILES).min(MAX_FILES);
            // -1 is an empty slot.
            ring.submitter().register_files(&vec![-1; len])?;
            self.table.resize_with(len, || None);
            self.free = (0..u16::try_from(len).map_err(io::Error::other)?).rev().collect();
        }
        let slot = *self.free.get(kept..).and_then(<[u16]>::last).ok_or(io::ErrorKind::QuotaExceeded)?;
        let descriptor = file.as_raw_fd();
        set(ring, slot, descriptor)?;
        self.free.pop();
        self.table[usize::from(slot)] = Some(Rc::clone(file));
        let number = usize::try_from(descriptor).map_err(io::Error::other)?;
        if self.slots.len() <= number {
            self.slots.resize(number + 1, 0);
        }
        self.slots[number] = slot + 1;
        Ok(slot)
    }

    /// Gives up a slot.
    fn leave(&mut self, slot: u16) {
        let file = self.table[usize::from(slot)].as_ref();
        let number = file.and_then(|file| usize::try_from(file.as_raw_fd()).ok());
        if let Some(found) = number.and_then(|number| self.slots.get_mut(number))
            && *found == slot + 1
        {
            *found = 0;
        }
        self.leaving.push(slot);
    }

    /// Tells the kernel to forget the file of an unused slot, and returns the file.
    fn remove_one(&mut self, ring: &IoUring) -> Option<Rc<OwnedFd>> {
        let slot = self.leaving.pop()?;
        // If the kernel cannot, the slot stays taken and its file open.
        set(ring, slot, -1).ok()?;
        self.free.push(slot);
        self.table[usize::from(slot)].take()
    }

    fn index_of(&self, descriptor: RawFd) -> Option<RawFd> {
        let found = self.slots.get(usize::try_from(descriptor).ok()?)?;
        found.checked_sub(1).map(RawFd::from)
    }
}

fn set(ring: &IoUring, slot: u16, descriptor: RawFd) -> io::Result<()> {
    match ring.submitter().register_files_update(u32::from(slot), &[descriptor])? {
        1 => Ok(()),
        _ => Err(io::ErrorKind::Other.into()),
    }
}

impl Ring {
    pub(in crate::reactor) fn may_register_buffers(&self) -> bool {
        self.has(RingFeature::RegisteredBuffers)
    }

    /// Registers a core's arena, from which reads and writes of files then go without pinning
    /// memory each time.
    pub(in crate::reactor) fn register_arena(&self, arena: &Arena) -> io::Result<()> {
        let registered = self.with_ring(|ring| RegisteredArena::new(ring, arena))?;
        *self.arena.borrow_mut() = Some(registered);
        Ok(())
    }

    pub(in crate::reactor) fn has_registered_arena(&self) -> bool {
        self.arena.borrow().is_some()
    }

    /// A call on a descriptor as this ring takes it best.
    pub(in crate::reactor) fn entry(&self, call: Call, descriptor: RawFd) -> squeue::Entry {
        let buffer = call.file_memory().and_then(|(address, len)| {
            self.arena.borrow().as_ref().and_then(|arena| arena.index_of(address, len))
        });
        let slot = self.files.borrow().index_of(descriptor);
        match slot {
            Some(slot) => call.entry(slot, buffer).flags(Flags::FIXED_FILE),
            None => call.entry(descriptor, buffer),
        }
    }

    /// Gives `file` a slot if at least `kept` others stay free.
    pub(in crate::reactor) fn register_file(&self, file: &Rc<OwnedFd>, kept: usize) -> io::Result<u16> {
        self.with_ring(|ring| self.files.borrow_mut().add(ring, file, kept))
    }

    /// Gives up a slot, and tells the kernel to forget its file.
    pub(in crate::reactor) fn unregister_file(&self, slot: u16) {
        self.files.borrow_mut().leave(slot);
        if self.is_forked() {
            // The slot is the parent's; the descriptor here is not.
            let file = self.files.borrow_mut().table[usize::from(slot)].take();
            drop(file);
            return;
        }
        // Now, or in a later turn if the kernel does not take what is queued.
        self.forget_files();
    }

    /// Tells the kernel to forget the files of unused slots. It looks a slot up when it takes the
    /// entry that names it. An operation that was given up may still be queued, and would go to the
    /// slot's next file, so the queue is handed over first.
    pub(super) fn forget_files(&self) {
        let are_there_any = || !self.files.borrow().leaving.is_empty();
        while are_there_any() && self.hand_over() {
            let file = self.with_ring(|ring| Ok(self.files.borrow_mut().remove_one(ring)));
            // Closing it may be the last use of the descriptor: not under the borrow.
            drop(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_found_only_where_all_of_it_was_registered() {
        let ring = IoUring::new(1).expect("io_uring is usable");
        let arena = Arena::new(1 << 20).expect("map");
        let Ok(registered) = RegisteredArena::new(&ring, &arena) else { return };
        let (base, bytes) = (registered.base, registered.bytes);
        assert_eq!(registered.index_of(base, bytes), Some(0));
        assert_eq!(registered.index_of(base + bytes - 1, 1), Some(0));
        assert_eq!(registered.index_of(base + bytes - 1, 2), None);
        assert_eq!(registered.index_of(base - 1, 1), None);
        assert_eq!(registered.index_of(base, usize::MAX), None);
    }

    #[test]
    fn a_buffer_over_two_pieces_is_in_none() {
        let arena = Arena::new(1).expect("map");
        let registered = RegisteredArena { base: 4096, bytes: 3 * MAX_BUFFER_BYTES, _arena: arena };
        let border = 4096 + MAX_BUFFER_BYTES;
        assert_eq!(registered.index_of(border - 4096, 4096), Some(0));
        assert_eq!(registered.index_of(border - 4096, 4097), None);
        assert_eq!(registered.index_of(border, 4096), Some(1));
    }
}
