//! Buffers that all connections of a core receive into, lent to the kernel in a ring
//! (`io_uring_register_buf_ring(3)`).
//!
//! The kernel takes a buffer only when bytes have arrived, so an idle connection holds none. The
//! ring starts with a few buffers, which stay in the processor's cache, and gets more when the
//! kernel ran out.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The group that the buffers have in the ring of their core.
pub(in crate::reactor) const BUFFER_GROUP: u16 = 0;
/// The size of one buffer, in bytes.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;
/// From one buffer to the next, in bytes: a few cache lines more, for small messages that all began
/// at the same offset of a page would compete for the same few sets of the processor's caches.
const STRIDE_BYTES: usize = BUFFER_BYTES + 9 * 64;
/// How many buffers a core has at most: with their size, 8 MiB. A power of two.
const MAX_BUFFERS: u16 = 512;
/// How many are lent at first, and how many more each time that they were too few.
const BUFFERS_PER_STEP: u16 = 64;

/// The receive buffers of a core.
pub(super) struct BufferRing {
    entries: Mapping,
    memory: Mapping,
    /// The entry that the next buffer is lent in; wraps around.
    tail: u16,
    /// How many buffers were ever lent: those from 0 to here exist.
    in_use: u16,
}

/// Bytes that the kernel wrote into a buffer of the ring. Its holder has the buffer to itself
/// until it is given back to [`BufferRing::recycle`].
#[derive(Debug)]
#[must_use = "a chunk that is not recycled is lost to the ring"]
pub(crate) struct Chunk {
    buffer: u16,
    start: u16,
    end: u16,
}

impl Chunk {
    pub(in crate::reactor) fn len(&self) -> usize {
        usize::from(self.end - self.start)
    }

    /// Leaves out the first `len` bytes.
    pub(in crate::reactor) fn advance(&mut self, len: usize) {
        let len = u16::try_from(len).unwrap_or(u16::MAX).min(self.end - self.start);
        self.start += len;
    }
}

impl BufferRing {
    /// Registers a ring of buffers with `ring`. Its pages are touched only with use.
    pub(super) fn new(ring: &IoUring) -> io::Result<Self> {
        let entries = Mapping::new(usize::from(MAX_BUFFERS) * size_of::<BufRingEntry>())?;
        let memory = Mapping::new(usize::from(MAX_BUFFERS) * STRIDE_BYTES)?;
        let address = entries.base.as_ptr().addr() as u64;
        // SAFETY: the address is a page-aligned mapping of `MAX_BUFFERS` entries. It is unmapped
        // only when this value is dropped, and its owner drops it after the ring, or leaks it if
        // the ring still has operations in flight.
        unsafe { ring.submitter().register_buf_ring_with_flags(address, MAX_BUFFERS, BUFFER_GROUP, 0) }?;
        let mut buffers = Self { entries, memory, tail: 0, in_use: 0 };
        buffers.grow();
        Ok(buffers)
    }

    /// Lends the kernel more buffers, if there are any that it never had.
    pub(super) fn grow(&mut self) {
        let first = self.in_use;
        self.in_use = first.saturating_add(BUFFERS_PER_STEP).min(MAX_BUFFERS);
        for buffer in first..self.in_use {
            self.lend(buffer);
        }
    }

    /// The bytes that the kernel says it wrote: the buffer it chose and how many.
    pub(super) fn filled(&self, buffer: u16, len: u32) -> Option<Chunk> {
        let end = u16::try_from(len).ok().filter(|end| usize::from(*end) <= BUFFER_BYTES)?;
        (buffer < self.in_use).then_some(Chunk { buffer, start: 0, end })
    }

    /// What a chunk holds.
    pub(super) fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        let at = usize::from(chunk.buffer) * STRIDE_BYTES + usize::from(chunk.start);
        // SAFETY: `filled` checked that the buffer is one of the mapping's and that `end` is within
        // it, and `start <= end`.
        let first = unsafe { self.memory.base.add(at) };
        // SAFETY: the bytes lie in the mapping, which starts zeroed and lives as long as `self`.
        // Nobody writes them while the chunk is borrowed: the kernel gave the buffer away with it,
        // and gets it back only when `recycle` consumes the chunk.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), chunk.len()) }
    }

    /// Lends a chunk's buffer to the kernel again.
    pub(super) fn recycle(&mut self, chunk: Chunk) {
        self.lend(chunk.buffer);
    }

    fn lend(&mut self, buffer: u16) {
        let base = self.entries.base.cast::<BufRingEntry>();
        // SAFETY: the index is masked to the number of entries, so it lies in the mapping.
        let mut entry = unsafe { base.add(usize::from(self.tail & (MAX_BUFFERS - 1))) };
        // SAFETY: the mapping is aligned and starts zeroed, which is a valid entry. The kernel
        // reads entries up to the tail only, and never holds more buffers than there are entries,
        // so this one is not being read.
        let entry = unsafe { entry.as_mut() };
        let offset = usize::from(buffer) * STRIDE_BYTES;
        entry.set_addr((self.memory.base.as_ptr().addr() + offset) as u64);
        entry.set_len(u32::try_from(BUFFER_BYTES).expect("a buffer has some KiB"));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the first entry of the registered ring, and that entry is initialised.
        let tail = unsafe { BufRingEntry::tail(base.as_ptr()) };
        // SAFETY: the tail is an aligned `u16` in the mapping, and everybody, here and in the
        // kernel, accesses it atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Anonymous memory of its own, zeroed and touched only with use.
struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // existing memory.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `new` made, and its only owner goes.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_never_reaches_out_of_its_buffer() {
        let ring = IoUring::new(1).expect("io_uring is usable");
        let Ok(buffers) = BufferRing::new(&ring) else { return };
        let most = u32::try_from(BUFFER_BYTES).expect("small");
        assert!(buffers.filled(0, most + 1).is_none());
        assert!(buffers.filled(BUFFERS_PER_STEP, 1).is_none(), "that buffer was never lent");
        let mut chunk = buffers.filled(BUFFERS_PER_STEP - 1, most).expect("lent");
        assert_eq!(buffers.bytes(&chunk).len(), BUFFER_BYTES);
        chunk.advance(BUFFER_BYTES + 1);
        assert!(buffers.bytes(&chunk).is_empty());
    }

    #[test]
    fn a_ring_grows_up_to_its_limit() {
        let ring = IoUring::new(1).expect("io_uring is usable");
        let Ok(mut buffers) = BufferRing::new(&ring) else { return };
        for _ in 0..2 * MAX_BUFFERS / BUFFERS_PER_STEP {
            buffers.grow();
        }
        assert_eq!((buffers.in_use, buffers.tail), (MAX_BUFFERS, MAX_BUFFERS));
    }
}
