//! Memory and files that the kernel was shown once, so that operations on them need not look them up and pin them each time
//! (`io_uring_register(2)`: `IORING_REGISTER_BUFFERS`, `IORING_REGISTER_FILES`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};

use io_uring::squeue::Flags;
use io_uring::{IoUring, squeue};

use super::probe::RingFeature;
use super::reactor::Reactor;
use crate::mem::Arena;
use crate::rt::ops::Call;
use crate::rt::scheduler::with_core;

/// The kernel takes no larger buffer: an arena is registered in pieces of this size.
const MAX_BUFFER_BYTES: usize = 1 << 30;
/// How many files a core registers at most; others are used by their descriptors.
const MAX_FILES: usize = 64;

/// The memory that a ring may use as its registered buffers.
pub(super) struct RegisteredArena {
    base: usize,
    bytes: usize,
    /// Keeps the mapping in place: as long as the ring lives, an address in it means the memory that the kernel was shown.
    _arena: Arena,
}

impl RegisteredArena {
    /// Registers all of `arena` with `ring`; from then on its pages are resident and locked.
    pub(super) fn new(ring: &IoUring, arena: &Arena) -> io::Result<Self> {
        let (base, bytes) = arena.region();
        let pieces: Vec<libc::iovec> = (0..bytes)
            .step_by(MAX_BUFFER_BYTES)
            .map(|start| libc::iovec {
                iov_base: base.wrapping_add(start).cast_mut().cast(),
                iov_len: (bytes - start).min(MAX_BUFFER_BYTES),
            })
            .collect();
        // SAFETY: the pieces lie in the arena's mapping, which this value keeps; should it be dropped before the ring, then the
        // kernel's own reference keeps the pages.
        unsafe { ring.submitter().register_buffers(&pieces) }?;
        Ok(Self { base: base.addr(), bytes, _arena: arena.clone() })
    }

    /// The registered buffer that has all of the `len` bytes at `address`, if one has.
    fn index_of(&self, address: usize, len: usize) -> Option<u16> {
        let start = address.checked_sub(self.base)?;
        let last = start.checked_add(len.max(1) - 1).filter(|last| *last < self.bytes)?;
        let piece = start / MAX_BUFFER_BYTES;
        (last / MAX_BUFFER_BYTES == piece).then(|| u16::try_from(piece).ok()).flatten()
    }
}

/// The files that a ring knows by their place in its table.
#[derive(Default)]
pub(super) struct RegisteredFiles {
    /// Empty until the first is registered. Holds the files open, so that a number here means the file that was registered.
    table: Vec<Option<Rc<OwnedFd>>>,
}

impl RegisteredFiles {
    fn add(&mut self, ring: &IoUring, file: &Rc<OwnedFd>) -> io::Result<usize> {
        if self.table.is_empty() {
            // -1 is an empty place.
            ring.submitter().register_files(&[-1; MAX_FILES])?;
            self.table.resize_with(MAX_FILES, || None);
        }
        let index = self.table.iter().position(Option::is_none).ok_or(io::ErrorKind::QuotaExceeded)?;
        set(ring, index, file.as_raw_fd())?;
        self.table[index] = Some(Rc::clone(file));
        Ok(index)
    }

    /// Empties a place and returns who had it.
    fn remove(&mut self, ring: &IoUring, index: usize) -> Option<Rc<OwnedFd>> {
        // If the kernel cannot, the place stays taken and its file open.
        set(ring, index, -1).ok()?;
        self.table[index].take()
    }

    fn index_of(&self, descriptor: RawFd) -> Option<usize> {
        let is_it =
            |file: &Option<Rc<OwnedFd>>| file.as_ref().is_some_and(|file| file.as_raw_fd() == descriptor);
        self.table.iter().position(is_it)
    }
}

fn set(ring: &IoUring, index: usize, descriptor: RawFd) -> io::Result<()> {
    let index = u32::try_from(index).map_err(io::Error::other)?;
    match ring.submitter().register_files_update(index, &[descriptor])? {
        1 => Ok(()),
        _ => Err(io::ErrorKind::Other.into()),
    }
}

impl Reactor {
    pub(in crate::rt) fn may_register_buffers(&self) -> bool {
        self.has(RingFeature::RegisteredBuffers)
    }

    /// Registers a core's arena, from which reads and writes of files then go without pinning memory each time.
    pub(in crate::rt) fn register_arena(&self, arena: &Arena) -> io::Result<()> {
        let registered = self.with_ring(|ring| RegisteredArena::new(ring, arena))?;
        *self.arena.borrow_mut() = Some(registered);
        Ok(())
    }

    /// A call on a descriptor as this ring takes it best.
    pub(in crate::rt) fn entry(&self, call: Call, descriptor: RawFd) -> squeue::Entry {
        let Some((address, len)) = call.file_memory() else { return call.entry(descriptor, None) };
        let buffer = self.arena.borrow().as_ref().and_then(|arena| arena.index_of(address, len));
        let file = self.files.borrow().index_of(descriptor).and_then(|index| RawFd::try_from(index).ok());
        match file {
            Some(index) => call.entry(index, buffer).flags(Flags::FIXED_FILE),
            None => call.entry(descriptor, buffer),
        }
    }
}

/// A file's place in the table of its core's ring, until it is dropped.
#[derive(Debug)]
pub(crate) struct FixedFile {
    reactor: Weak<Reactor>,
    index: usize,
}

impl FixedFile {
    /// Registers `file` with the ring of the current core; `None` if there is no ring, it may not, or its table is full.
    pub(crate) fn register(file: &Rc<OwnedFd>) -> Option<Self> {
        let reactor = with_core(|core| core.reactor().ring().map(Rc::clone))?;
        if !reactor.has(RingFeature::RegisteredFiles) {
            return None;
        }
        let index = reactor.with_ring(|ring| reactor.files.borrow_mut().add(ring, file)).ok()?;
        Some(Self { reactor: Rc::downgrade(&reactor), index })
    }
}

impl Drop for FixedFile {
    fn drop(&mut self) {
        let Some(reactor) = self.reactor.upgrade() else { return };
        // The kernel looks a place up when it takes the entry that names it. Of operations that were given up some may be queued
        // still: they would go to the file that has the place next.
        if !reactor.hand_over() {
            // The place stays taken and its file open.
            return;
        }
        let file = reactor.with_ring(|ring| Ok(reactor.files.borrow_mut().remove(ring, self.index)));
        // Closing it may be the last use of the descriptor: not under the borrow.
        drop(file);
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
