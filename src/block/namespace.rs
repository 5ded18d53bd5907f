//! What every kind of namespace does.

use std::future::Future;

use crate::error::{BufError, BufResult, Error, ErrorKind, Result};
use crate::mem::DmaBuf;

/// What a namespace can do and how it wants to be used. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamespaceInfo {
    /// The address it was opened by, for messages.
    pub name: String,
    /// What the device says it is; empty if it says nothing.
    pub model: String,
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
    /// The largest transfer that the device does at once; a multiple of the block size. What is
    /// larger is divided, and is not atomic.
    pub max_transfer_bytes: u32,
    /// Transfers that cross a multiple of this are slower, and are divided there. 0 if there is no
    /// such boundary.
    pub optimal_boundary_bytes: u32,
    /// How many bytes, aligned to themselves, a power failure leaves either old or new, never
    /// mixed. 0 promises nothing, not even for one block.
    pub atomic_write_bytes: u32,
    /// A write that crosses a multiple of this is not atomic, whatever
    /// [`atomic_write_bytes`](Self::atomic_write_bytes) says. 0 if there is no such boundary.
    pub atomic_boundary_bytes: u32,
    /// Writes may sit in a volatile cache until [`Namespace::flush`]. If false, a completed write
    /// is as durable as it gets, and `flush` may do nothing.
    pub volatile_cache: bool,
    /// Whether [`Namespace::write_durable`] is one command (forced unit access) and not a write and
    /// a flush.
    pub forced_unit_access: bool,
    /// Whether [`Namespace::trim`] tells the device anything.
    pub trim: bool,
    /// Whether blocks read as zeros after [`Namespace::trim`], until they are written.
    pub zeros_after_trim: bool,
    /// Whether blocks take room of something that others use as well, a file system, when they are
    /// written first, and first after a trim: such a write may fail with
    /// [`NoSpace`](crate::ErrorKind::NoSpace) unless [`Namespace::allocate`] was called before.
    pub sparse: bool,
    /// Whether [`Namespace::write_zeroes`] is a command of the device; otherwise zeros are written.
    pub write_zeroes: bool,
    /// The longest [`Namespace::compare_and_write`], in bytes; 0 if the device has none.
    pub max_compare_and_write_bytes: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether reads and writes bypass the kernel's page cache.
    pub direct: bool,
}

impl NamespaceInfo {
    /// A namespace of `size_bytes` bytes in blocks of `block_size_bytes` that cannot change its
    /// size, may hold writes in a volatile cache, and of which nothing else is known.
    pub fn new(name: impl Into<String>, size_bytes: u64, block_size_bytes: u32) -> Self {
        Self {
            name: name.into(),
            model: String::new(),
            size_bytes,
            max_size_bytes: size_bytes,
            min_size_bytes: size_bytes,
            block_size_bytes,
            max_transfer_bytes: block_size_bytes.max(128 << 10),
            optimal_boundary_bytes: 0,
            atomic_write_bytes: 0,
            atomic_boundary_bytes: 0,
            volatile_cache: true,
            forced_unit_access: false,
            trim: false,
            zeros_after_trim: false,
            sparse: false,
            write_zeroes: false,
            max_compare_and_write_bytes: 0,
            read_only: false,
            direct: true,
        }
    }

    /// Refuses a range that is not one or more whole blocks within a namespace of `size_bytes`
    /// bytes.
    pub(crate) fn check_range(
        &self,
        operation: &'static str,
        offset: u64,
        len: u64,
        size_bytes: u64,
    ) -> Result<()> {
        if self.is_range(offset, len, size_bytes) {
            return Ok(());
        }
        Err(self.refuse_range(operation, offset, len, size_bytes))
    }

    /// Whether a range is one or more whole blocks within a namespace of `size_bytes` bytes.
    #[inline]
    pub(crate) fn is_range(&self, offset: u64, len: u64, size_bytes: u64) -> bool {
        // A power of two: an I/O divides nothing.
        let block = u64::from(self.block_size_bytes);
        let is_whole = (offset | len) & (block - 1) == 0;
        len > 0 && is_whole && offset.checked_add(len).is_some_and(|end| end <= size_bytes)
    }

    #[cold]
    fn refuse_range(&self, operation: &'static str, offset: u64, len: u64, size_bytes: u64) -> Error {
        let block = u64::from(self.block_size_bytes);
        let wrong = if len == 0 {
            "there is nothing to transfer: give it one block or more".to_owned()
        } else if !offset.is_multiple_of(block) || !len.is_multiple_of(block) {
            format!("{len} bytes there are not whole blocks of {block} bytes")
        } else {
            format!("{len} bytes from there reach past the end at {size_bytes}")
        };
        Error::new(ErrorKind::InvalidInput, operation)
            .at(format!("{} offset {offset}", self.name))
            .because(wrong)
    }

    /// Refuses a compare-and-write that the device does not have, or not of that length.
    pub(crate) fn check_compare_and_write(&self, offset: u64, expected_len: u64, len: u64) -> Result<()> {
        let most = u64::from(self.max_compare_and_write_bytes);
        let (kind, wrong) = if most == 0 {
            (ErrorKind::Unsupported, "this device has no command for it".to_owned())
        } else if expected_len != len {
            let wrong = format!("{expected_len} bytes are expected and {len} written: make them the same");
            (ErrorKind::InvalidInput, wrong)
        } else if len > most {
            (
                ErrorKind::InvalidInput,
                format!("{len} bytes are more than the {most} that the device compares"),
            )
        } else {
            return Ok(());
        };
        Err(Error::new(kind, "compare and write").at(format!("{} offset {offset}", self.name)).because(wrong))
    }

    /// Refuses to change a namespace that may only be read.
    pub(crate) fn check_writable(&self, operation: &'static str) -> Result<()> {
        if !self.read_only {
            return Ok(());
        }
        Err(Error::new(ErrorKind::PermissionDenied, operation)
            .at(self.name.clone())
            .because("the namespace is read-only"))
    }
}

/// An array of blocks: a raw NVMe namespace, a block device, a file or memory.
///
/// A handle is cheap to clone and belongs to one core. Operations in flight at the same time are
/// independent: two that overlap and are not ordered by awaiting have no defined order. A completed
/// write is visible to later reads at once and survives a power failure once a later `flush` has
/// completed. Transfers that are too large for the device are divided; more at once than it takes
/// wait their turn, in the order in which they were first polled.
///
/// # Buffers
///
/// A [`DmaBuf`] is aligned to [`DmaBuf::ALIGN`] and does not move. It may be from the heap or from
/// the core's [arena](crate::rt::arena) ([`DmaBuf::arena_offset`] tells): a backend whose device
/// needs registered memory copies what is from elsewhere, and counts that
/// ([`NamespaceStats::copied_bytes`](super::NamespaceStats::copied_bytes)). The buffer comes back
/// with the result, and with an error.
///
/// # Dropped futures
///
/// Any future may be dropped while the device works on it. The buffer is then the backend's: it
/// keeps the buffer until the device is done with it, and frees it after that; the caller does not
/// get it back. A backend may cancel the operation or let it go on. The blocks of a dropped write
/// are old, new or mixed, and no `flush` says which. So [`rt::timeout`](crate::rt::timeout())
/// bounds any operation. What is still in flight when the core ends is the business of the
/// backend's [`Poller`](crate::rt::poller::Poller).
///
/// # Errors
///
/// Every operation reports [`InvalidInput`](crate::ErrorKind::InvalidInput) for a range that is
/// empty, outside the namespace or not aligned to its block size,
/// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) for a change of a read-only namespace,
/// and otherwise the device's own code. A failed write or flush has outcome
/// [`Unknown`](crate::Outcome::Unknown).
pub trait Namespace: Clone + 'static {
    /// Size, units and capabilities.
    fn info(&self) -> &NamespaceInfo;

    /// The size now, in bytes, after [`Namespace::grow`] and [`Namespace::shrink`].
    fn size_bytes(&self) -> u64;

    /// Fills the whole of `buf` from `offset` (bytes).
    fn read(&self, offset: u64, buf: DmaBuf) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>>;

    /// Writes the whole of `buf` at `offset` (bytes).
    fn write(&self, offset: u64, buf: DmaBuf) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>>;

    /// Fills all of `bufs`, one after the other, from `offset` (bytes). Their lengths may be any;
    /// the sum is whole blocks.
    fn read_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> impl Future<Output = Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>>> {
        read_copied(self, offset, bufs)
    }

    /// Writes all of `bufs`, one after the other, at `offset` (bytes). Their lengths may be any;
    /// the sum is whole blocks.
    fn write_vectored(
        &self,
        offset: u64,
        bufs: Vec<DmaBuf>,
    ) -> impl Future<Output = Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>>> {
        write_copied(self, offset, bufs)
    }

    /// Writes the whole of `buf` at `offset` (bytes), and completes when that is durable: with
    /// forced unit access where the device has it ([`NamespaceInfo::forced_unit_access`]),
    /// otherwise by a flush after it.
    fn write_durable(
        &self,
        offset: u64,
        buf: DmaBuf,
    ) -> impl Future<Output = Result<DmaBuf, BufError<DmaBuf>>> {
        async move {
            let buf = self.write(offset, buf).await?;
            match self.flush().await {
                Ok(()) => Ok(buf),
                Err(error) => Err(BufError::new(error, buf)),
            }
        }
    }

    /// Makes every write that completed before this call durable, through whichever handle and on
    /// whichever core of the device it was made. It may do nothing where
    /// [`NamespaceInfo::volatile_cache`] is false. After a failed flush a later one that succeeds
    /// proves nothing about the writes before the failure.
    fn flush(&self) -> impl Future<Output = Result<()>>;

    /// Tells the device that `len` bytes from `offset` hold nothing of use; what they read as
    /// afterwards is undefined. Does nothing where [`NamespaceInfo::trim`] is false.
    fn trim(&self, offset: u64, len: u64) -> impl Future<Output = Result<()>>;

    /// Makes sure that writes to `len` bytes from `offset` find room, until these are trimmed; what
    /// is there stays as it is. Does nothing where [`NamespaceInfo::sparse`] is false, nor on a
    /// file system that cannot do it, or that writes each time to another place.
    ///
    /// # Errors
    ///
    /// [`NoSpace`](crate::ErrorKind::NoSpace) if there is not enough; some of the range may have
    /// got what it takes.
    fn allocate(&self, offset: u64, len: u64) -> impl Future<Output = Result<()>> {
        async move {
            self.info().check_range("allocate", offset, len, self.size_bytes())?;
            self.info().check_writable("allocate")
        }
    }

    /// Makes `len` bytes from `offset` read as zeros, as a write of zeros would.
    fn write_zeroes(&self, offset: u64, len: u64) -> impl Future<Output = Result<()>> {
        async move {
            self.info().check_range("write zeroes", offset, len, self.size_bytes())?;
            write_zeros(self, offset, len).await
        }
    }

    /// Writes `new` at `offset` (bytes) if `expected`, of the same length, is there, as one step
    /// that nothing comes between. Gives whether it did, and both buffers.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the device has no such command,
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) beyond
    /// [`NamespaceInfo::max_compare_and_write_bytes`] or if the lengths differ.
    fn compare_and_write(
        &self,
        offset: u64,
        expected: DmaBuf,
        new: DmaBuf,
    ) -> impl Future<Output = BufResult<bool, (DmaBuf, DmaBuf)>> {
        async move {
            let none = NamespaceInfo { max_compare_and_write_bytes: 0, ..self.info().clone() };
            let error = none.check_compare_and_write(offset, expected.len() as u64, new.len() as u64);
            Err(BufError::new(error.expect_err("no length is possible"), (expected, new)))
        }
    }

    /// Makes the namespace at least `size_bytes` long; new blocks read as zeros, and are
    /// [allocated](Namespace::allocate).
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

/// Writes zeros from a buffer: for devices that have no command for it. The range was checked.
pub(super) async fn write_zeros(namespace: &impl Namespace, offset: u64, len: u64) -> Result<()> {
    let most = u64::from(namespace.info().max_transfer_bytes);
    let mut zeros = DmaBuf::zeroed(usize::try_from(len.min(most)).unwrap_or(usize::MAX));
    let mut done = 0;
    while done < len {
        let part = len - done;
        if part < zeros.len() as u64 {
            zeros = DmaBuf::zeroed(usize::try_from(part).unwrap_or(usize::MAX));
        }
        let wrote = zeros.len() as u64;
        zeros = namespace.write(offset + done, zeros).await?;
        done += wrote;
    }
    Ok(())
}

/// Reads into one buffer and copies from that: for devices that do not take many.
pub(super) async fn read_copied(
    namespace: &impl Namespace,
    offset: u64,
    mut bufs: Vec<DmaBuf>,
) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
    let whole = DmaBuf::zeroed(bufs.iter().map(|buf| buf.len()).sum());
    let whole = match namespace.read(offset, whole).await {
        Ok(whole) => whole,
        Err(error) => return Err(error.map_buf(|_| bufs)),
    };
    let mut rest = &whole[..];
    for buf in &mut bufs {
        let (part, after) = rest.split_at(buf.len());
        buf.copy_from_slice(part);
        rest = after;
    }
    Ok(bufs)
}

/// Copies into one buffer and writes that: for devices that do not take many.
pub(super) async fn write_copied(
    namespace: &impl Namespace,
    offset: u64,
    bufs: Vec<DmaBuf>,
) -> Result<Vec<DmaBuf>, BufError<Vec<DmaBuf>>> {
    let mut whole = DmaBuf::zeroed(bufs.iter().map(|buf| buf.len()).sum());
    let mut rest = &mut whole[..];
    for buf in &bufs {
        let (part, after) = rest.split_at_mut(buf.len());
        part.copy_from_slice(buf);
        rest = after;
    }
    match namespace.write(offset, whole).await {
        Ok(_) => Ok(bufs),
        Err(error) => Err(error.map_buf(|_| bufs)),
    }
}
/// Makes a type a namespace that wraps the one in its field `$field`, so that callers do not depend
/// on the field's type.
macro_rules! namespace_by_its_field {
    ($type:ty, $field:tt) => {
        impl $crate::block::Namespace for $type {
            fn info(&self) -> &$crate::block::NamespaceInfo {
                self.$field.info()
            }

            fn size_bytes(&self) -> u64 {
                self.$field.size_bytes()
            }

            #[inline]
            fn read(
                &self,
                offset: u64,
                buf: $crate::mem::DmaBuf,
            ) -> impl Future<
                Output = $crate::Result<$crate::mem::DmaBuf, $crate::BufError<$crate::mem::DmaBuf>>,
            > {
                self.$field.read(offset, buf)
            }

            #[inline]
            fn write(
                &self,
                offset: u64,
                buf: $crate::mem::DmaBuf,
            ) -> impl Future<
                Output = $crate::Result<$crate::mem::DmaBuf, $crate::BufError<$crate::mem::DmaBuf>>,
            > {
                self.$field.write(offset, buf)
            }

            async fn read_vectored(
                &self,
                offset: u64,
                bufs: Vec<$crate::mem::DmaBuf>,
            ) -> $crate::Result<Vec<$crate::mem::DmaBuf>, $crate::BufError<Vec<$crate::mem::DmaBuf>>> {
                self.$field.read_vectored(offset, bufs).await
            }

            async fn write_vectored(
                &self,
                offset: u64,
                bufs: Vec<$crate::mem::DmaBuf>,
            ) -> $crate::Result<Vec<$crate::mem::DmaBuf>, $crate::BufError<Vec<$crate::mem::DmaBuf>>> {
                self.$field.write_vectored(offset, bufs).await
            }

            async fn write_durable(
                &self,
                offset: u64,
                buf: $crate::mem::DmaBuf,
            ) -> $crate::Result<$crate::mem::DmaBuf, $crate::BufError<$crate::mem::DmaBuf>> {
                self.$field.write_durable(offset, buf).await
            }

            async fn flush(&self) -> $crate::Result<()> {
                self.$field.flush().await
            }

            async fn trim(&self, offset: u64, len: u64) -> $crate::Result<()> {
                self.$field.trim(offset, len).await
            }

            async fn allocate(&self, offset: u64, len: u64) -> $crate::Result<()> {
                self.$field.allocate(offset, len).await
            }

            async fn write_zeroes(&self, offset: u64, len: u64) -> $crate::Result<()> {
                self.$field.write_zeroes(offset, len).await
            }

            async fn compare_and_write(
                &self,
                offset: u64,
                expected: $crate::mem::DmaBuf,
                new: $crate::mem::DmaBuf,
            ) -> $crate::BufResult<bool, ($crate::mem::DmaBuf, $crate::mem::DmaBuf)> {
                self.$field.compare_and_write(offset, expected, new).await
            }

            async fn grow(&self, size_bytes: u64) -> $crate::Result<()> {
                self.$field.grow(size_bytes).await
            }

            async fn shrink(&self, size_bytes: u64) -> $crate::Result<()> {
                self.$field.shrink(size_bytes).await
            }

            fn next_data(&self, offset: u64) -> Option<u64> {
                self.$field.next_data(offset)
            }
        }
    };
}

pub(crate) use namespace_by_its_field;
