//! `mem:SIZE`: a namespace in memory.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Namespace, NamespaceInfo};
use crate::error::{BufError, Error, ErrorKind, Result};
use crate::mem::DmaBuf;

/// Memory is taken in chunks of this size, when they are first written.
const CHUNK_BYTES: usize = 64 << 10;
const MAX_TRANSFER_BYTES: u32 = 1 << 20;

/// A namespace in memory. Clones share the blocks; they last as long as the last clone.
///
/// Every operation completes at once. A write is as durable as it gets, so there is no volatile
/// cache.
#[derive(Clone)]
pub struct MemoryNamespace(Rc<MemoryShared>);

struct MemoryShared {
    info: NamespaceInfo,
    size_bytes: Cell<u64>,
    /// A chunk that was never written, or was trimmed, reads as zeros.
    chunks: RefCell<Vec<Option<Box<[u8]>>>>,
}

impl MemoryNamespace {
    /// A namespace of `size_bytes` zeros. `name` is for messages.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the block size is not a power of two from 512
    /// to 65536, or the size not a multiple of it.
    pub fn new(name: impl Into<String>, size_bytes: u64, block_size_bytes: u32) -> Result<Self> {
        Self::growable(name, size_bytes, size_bytes, block_size_bytes)
    }

    /// Like [`MemoryNamespace::new`], but it can grow up to `max_size_bytes`.
    ///
    /// # Errors
    ///
    /// As for [`MemoryNamespace::new`].
    pub fn growable(
        name: impl Into<String>,
        size_bytes: u64,
        max_size_bytes: u64,
        block_size_bytes: u32,
    ) -> Result<Self> {
        let block = u64::from(block_size_bytes);
        let block_ok = block_size_bytes.is_power_of_two() && (512..=65536).contains(&block_size_bytes);
        if !block_ok
            || !size_bytes.is_multiple_of(block)
            || !max_size_bytes.is_multiple_of(block)
            || max_size_bytes < size_bytes
        {
            return Err(Error::new(ErrorKind::InvalidInput, "open namespace").because(format!(
                "sizes {size_bytes} to {max_size_bytes} in blocks of {block_size_bytes} bytes are not possible"
            )));
        }
        let info = NamespaceInfo {
            max_size_bytes,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            atomic_write_bytes: block_size_bytes,
            volatile_cache: false,
            trim: true,
            ..NamespaceInfo::new(name, size_bytes, block_size_bytes)
        };
        let shared = MemoryShared { info, size_bytes: Cell::new(size_bytes), chunks: RefCell::default() };
        Ok(Self(Rc::new(shared)))
    }

    fn check(&self, operation: &'static str, offset: u64, len: u64) -> Result<()> {
        self.0.info.check_range(operation, offset, len, self.0.size_bytes.get())
    }

    /// Calls `each` with the number of a chunk, the range within it, and the range within the
    /// buffer.
    fn for_each_chunk(
        offset: u64,
        len: usize,
        mut each: impl FnMut(usize, std::ops::Range<usize>, std::ops::Range<usize>),
    ) {
        let chunk_bytes = CHUNK_BYTES as u64;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let chunk = usize::try_from(at / chunk_bytes).expect("checked against the size in memory");
            let start = usize::try_from(at % chunk_bytes).expect("less than a chunk");
            let part = (CHUNK_BYTES - start).min(len - done);
            each(chunk, start..start + part, done..done + part);
            done += part;
        }
    }
}

impl Namespace for MemoryNamespace {
    fn info(&self) -> &NamespaceInfo {
        &self.0.info
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes.get()
    }

    async fn read(&self, offset: u64, mut buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        if let Err(error) = self.check("read", offset, buf.len() as u64) {
            return Err(BufError::new(error, buf));
        }
        let chunks = self.0.chunks.borrow();
        Self::for_each_chunk(offset, buf.len(), |chunk, from, to| match chunks.get(chunk) {
            Some(Some(bytes)) => buf[to].copy_from_slice(&bytes[from]),
            _ => buf[to].fill(0),
        });
        Ok(buf)
    }

    async fn write(&self, offset: u64, buf: DmaBuf) -> Result<DmaBuf, BufError<DmaBuf>> {
        if let Err(error) = self.check("write", offset, buf.len() as u64) {
            return Err(BufError::new(error, buf));
        }
        let mut chunks = self.0.chunks.borrow_mut();
        Self::for_each_chunk(offset, buf.len(), |chunk, to, from| {
            if chunks.len() <= chunk {
                chunks.resize_with(chunk + 1, || None);
            }
            let bytes = chunks[chunk].get_or_insert_with(|| vec![0; CHUNK_BYTES].into_boxed_slice());
            bytes[to].copy_from_slice(&buf[from]);
        });
        Ok(buf)
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64) -> Result<()> {
        self.check("trim", offset, len)?;
        let mut chunks = self.0.chunks.borrow_mut();
        let chunk_bytes = CHUNK_BYTES as u64;
        for chunk in offset.div_ceil(chunk_bytes)..(offset + len) / chunk_bytes {
            if let Some(slot) = usize::try_from(chunk).ok().and_then(|chunk| chunks.get_mut(chunk)) {
                *slot = None;
            }
        }
        Ok(())
    }

    async fn grow(&self, size_bytes: u64) -> Result<()> {
        if size_bytes > self.0.info.max_size_bytes {
            return Err(Error::new(ErrorKind::NoSpace, "grow").at(self.0.info.name.clone()));
        }
        let block = u64::from(self.0.info.block_size_bytes);
        let size = size_bytes.next_multiple_of(block).min(self.0.info.max_size_bytes);
        self.0.size_bytes.set(self.0.size_bytes.get().max(size));
        Ok(())
    }

    async fn shrink(&self, size_bytes: u64) -> Result<()> {
        let info = &self.0.info;
        let size = size_bytes.next_multiple_of(u64::from(info.block_size_bytes)).max(info.min_size_bytes);
        if size >= self.0.size_bytes.get() {
            return Ok(());
        }
        self.0.size_bytes.set(size);
        let mut chunks = self.0.chunks.borrow_mut();
        let (whole, rest) = (size / CHUNK_BYTES as u64, size % CHUNK_BYTES as u64);
        let (Ok(whole), Ok(rest)) = (usize::try_from(whole), usize::try_from(rest)) else { return Ok(()) };
        chunks.truncate(whole + usize::from(rest > 0));
        // Blocks that are taken again read as zeros.
        if let Some(Some(last)) = chunks.get_mut(whole) {
            last[rest..].fill(0);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        let size = self.0.size_bytes.get();
        let first = usize::try_from(offset / CHUNK_BYTES as u64).ok()?;
        let chunks = self.0.chunks.borrow();
        let written = chunks.iter().enumerate().skip(first).find(|(_, chunk)| chunk.is_some())?.0;
        Some(offset.max((written * CHUNK_BYTES) as u64)).filter(|&data| data < size)
    }
}

impl std::fmt::Debug for MemoryNamespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryNamespace").field("info", &self.0.info).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// Every operation completes at the first poll.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("memory does not wait"),
        }
    }

    fn filled(len: usize, byte: u8) -> DmaBuf {
        let mut buf = DmaBuf::zeroed(len);
        buf.fill(byte);
        buf
    }

    #[test]
    fn what_is_written_across_chunks_is_read_back_and_the_rest_is_zero() {
        let namespace = MemoryNamespace::new("mem", 1 << 20, 512).expect("valid");
        let offset = CHUNK_BYTES as u64 - 512;
        now(namespace.write(offset, filled(1024, 7))).expect("inside");
        let buf = now(namespace.clone().read(offset - 512, filled(2048, 9))).expect("inside");
        assert!(buf[..512].iter().chain(&buf[1536..]).all(|&byte| byte == 0));
        assert!(buf[512..1536].iter().all(|&byte| byte == 7));
    }

    #[test]
    fn ranges_outside_or_not_aligned_are_refused() {
        let namespace = MemoryNamespace::new("mem", 8192, 4096).expect("valid");
        for (offset, len) in [(8192, 4096), (4096, 8192), (512, 4096), (0, 100), (u64::MAX - 4095, 4096)] {
            let error = now(namespace.read(offset, DmaBuf::zeroed(len))).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let error = now(namespace.write(offset, DmaBuf::zeroed(len))).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert!(MemoryNamespace::new("mem", 1000, 512).is_err());
        assert!(MemoryNamespace::new("mem", 4096, 100).is_err());
    }

    #[test]
    fn it_grows_up_to_its_limit() {
        let namespace = MemoryNamespace::growable("mem", 0, 8192, 512).expect("valid");
        assert!(now(namespace.write(0, filled(512, 1))).is_err());
        now(namespace.grow(4096)).expect("within the limit");
        now(namespace.write(0, filled(512, 1))).expect("inside now");
        assert_eq!(now(namespace.grow(8193)).expect_err("too large").kind(), ErrorKind::NoSpace);
        assert_eq!(namespace.size_bytes(), 4096);
    }
}
