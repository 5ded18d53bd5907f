//! Block devices: a [`Namespace`] is an array of blocks that one core reads, writes and flushes.

mod address;
mod any;
pub(crate) mod contents;
mod kernel;
mod memory;
pub mod pci;
pub mod vfio;

use std::future::Future;

use crate::error::{BufError, Error, ErrorKind, Result};
use crate::mem::DmaBuf;

pub use address::{NamespaceAddress, parse_size};
pub use any::AnyNamespace;
pub use kernel::KernelNamespace;
pub use memory::MemoryNamespace;

/// What a namespace can do and how it wants to be used. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// The address it was opened by, for messages.
    pub name: String,
    /// How large it was when it was opened; [`Namespace::size_bytes`] is the size now.
    pub size_bytes: u64,
    /// How large it may become by [`Namespace::grow`]; equal to `size_bytes` if it cannot grow.
    pub max_size_bytes: u64,
    /// How small it may become by [`Namespace::shrink`]; equal to `max_size_bytes` if its size is
    /// fixed.
    pub min_size_bytes: u64,
    /// The unit of reads and writes: offsets and lengths are multiples of it. A power of two from
    /// 512 to 65536.
    pub block_size_bytes: u32,
    /// The largest single read or write; a multiple of the block size. Callers divide what is
    /// larger: a namespace may refuse it with [`InvalidInput`](crate::ErrorKind::InvalidInput), as
    /// the simulated disk does, or do it in several transfers, as files and memory do.
    pub max_transfer_bytes: u32,
    /// How many bytes, aligned to themselves, a power failure leaves either old or new, never
    /// mixed. 0 promises nothing, not even for one block.
    pub atomic_write_bytes: u32,
    /// Writes may sit in a volatile cache until [`Namespace::flush`]. If false, a completed write
    /// is as durable as it gets, and `flush` may do nothing.
    pub volatile_cache: bool,
    /// Whether [`Namespace::trim`] tells the device anything.
    pub trim: bool,
    /// Whether reads and writes bypass the kernel's page cache.
    pub direct: bool,
}

impl NamespaceInfo {
    /// Refuses a range that is not whole blocks within a namespace of `size_bytes` bytes.
    pub(crate) fn check_range(
        &self,
        operation: &'static str,
        offset: u64,
        len: u64,
        size_bytes: u64,
    ) -> Result<()> {
        let block = u64::from(self.block_size_bytes);
        let wrong = if !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            format!("{len} bytes there are not whole blocks of {block} bytes")
        } else if offset.checked_add(len).is_none_or(|end| end > size_bytes) {
            format!("{len} bytes from there reach past the end at {size_bytes}")
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidInput, operation)
            .at(format!("{} offset {offset}", self.name))
            .because(wrong))
    }
}

/// An array of blocks: a raw NVMe namespace, a block device, a file or memory.
///
/// A handle is cheap to clone and belongs to one core. Operations in flight at the same time are
/// independent: two that overlap and are not ordered by awaiting have no defined order. A completed
/// write is visible to later reads at once and survives a power failure once a later `flush` has
/// completed. An empty range is valid, and nothing is done for it.
///
/// # Buffers
///
/// A [`DmaBuf`] is aligned to [`DmaBuf::ALIGN`] and does not move. It may be from the heap or from
/// an arena ([`DmaBuf::arena_offset`] tells): a backend whose device needs registered memory copies
/// what is from the heap, which is all that the store gives it. The buffer comes back with the
/// result, and with an error.
///
/// # Dropped futures
///
/// Any future may be dropped while the device works on it. The buffer is then the backend's: it
/// keeps the buffer until the device is done with it, and frees it after that; the caller does not
/// get it back. A backend may cancel the operation or let it go on. The blocks of a dropped write
/// are old, new or mixed, and no `flush` says which. The orphans of io_uring (`src/reactor/ops.rs`,
/// `src/reactor/uring/slots.rs`) are a model. What is still in flight when the core ends is the
/// business of the backend's [`Poller`](crate::rt::poller::Poller).
///
/// # Errors
///
/// Every operation reports [`InvalidInput`](crate::ErrorKind::InvalidInput) for a range outside the
/// namespace or not aligned to its block size, and otherwise the device's own code. A failed write
/// or flush has outcome [`Unknown`](crate::Outcome::Unknown).
pub trait Namespace: Clone + 'static {
    /// Size, units and capabilities.
    fn info(&self) -> &NamespaceInfo;

    /// The size now, in bytes, after [`Namespace::grow`] and [`Namespace::shrink`].
    fn size_bytes(&self) -> u64;

    /// Fills the whole of `buf` from `offset` (bytes).
    fn read(&self, offset: u64, buf: DmaBuf) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>>;

    /// Writes the whole of `buf` at `offset` (bytes).
    fn write(&self, offset: u64, buf: DmaBuf) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>>;

    /// Makes every write that completed before this call durable. It may do nothing where
    /// [`NamespaceInfo::volatile_cache`] is false. After a failed flush a later one that succeeds
    /// proves nothing about the writes before the failure.
    fn flush(&self) -> impl Future<Output = Result<()>>;

    /// Tells the device that `len` bytes from `offset` hold nothing of use; what they read as
    /// afterwards is undefined. Does nothing where [`NamespaceInfo::trim`] is false.
    fn trim(&self, offset: u64, len: u64) -> impl Future<Output = Result<()>>;

    /// Makes the namespace at least `size_bytes` long; new blocks read as zeros.
    ///
    /// # Errors
    ///
    /// [`NoSpace`](crate::ErrorKind::NoSpace) beyond [`NamespaceInfo::max_size_bytes`] or what the
    /// file system has left.
    fn grow(&self, size_bytes: u64) -> impl Future<Output = Result<()>>;

    /// Gives everything from `size_bytes` on back to whatever it came from, down to
    /// [`NamespaceInfo::min_size_bytes`]. What was there is lost. Nothing may grow the namespace,
    /// or read or write there, before this has completed.
    ///
    /// # Errors
    ///
    /// The device's code; the namespace then keeps its size.
    fn shrink(&self, size_bytes: u64) -> impl Future<Output = Result<()>>;

    /// Where the next bytes at or after `offset` are that may differ from zero; `None` if there are
    /// none to the end. A namespace that keeps no track of what was written says `offset` itself.
    fn next_data(&self, offset: u64) -> Option<u64> {
        (offset < self.size_bytes()).then_some(offset)
    }
}
