//! Operations on files and devices with several buffers each.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::vectored::MAX_BUFFERS;
use super::{Call, Op, Operation};
use crate::mem::{IoBuf, IoBufMut, vectored};

/// Reads at `offset` (bytes) of a file or device into `bufs` behind their first `skip` bytes, one
/// after the other; possibly only a part. All their bytes are initialised.
pub(crate) fn read_vectored_at<B: IoBufMut>(
    file: &Rc<OwnedFd>,
    offset: u64,
    mut bufs: Vec<B>,
    skip: usize,
) -> Op<ReadVectoredAt<B>> {
    let mut list = Vec::with_capacity(bufs.len().min(MAX_BUFFERS));
    let mut skip = skip;
    for buf in &mut bufs {
        let len = buf.bytes_init();
        let skipped = skip.min(len);
        skip -= skipped;
        if skipped < len && list.len() < MAX_BUFFERS {
            let start = buf.stable_mut_ptr().wrapping_add(skipped);
            list.push(libc::iovec { iov_base: start.cast(), iov_len: len - skipped });
        }
    }
    Op::new(ReadVectoredAt { file: Rc::clone(file), offset, list, bufs })
}

pub(crate) struct ReadVectoredAt<B> {
    file: Rc<OwnedFd>,
    offset: u64,
    list: Vec<libc::iovec>,
    bufs: Vec<B>,
}

// SAFETY: the call points to the list, which lies on the heap, where it stays when the value moves,
// and which nobody changes. That points to initialised bytes of `bufs`, which the value owns; they
// are writable and stay in place by `IoBufMut`'s contract.
unsafe impl<B: IoBufMut> Operation for ReadVectoredAt<B> {
    type Output = (io::Result<u32>, Vec<B>);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.file
    }

    fn call(&mut self) -> Call {
        Call::ReadVectoredAt { list: self.list.as_ptr(), count: count(&self.list), offset: self.offset }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.bufs)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Writes `bufs` behind their first `skip` bytes, one after the other, at `offset` (bytes) of a
/// file or device; possibly only a part.
pub(crate) fn write_vectored_at<B: IoBuf>(
    file: &Rc<OwnedFd>,
    offset: u64,
    bufs: Vec<B>,
    skip: usize,
) -> Op<WriteVectoredAt<B>> {
    // The kernel does not write there.
    let entry = |part: &[u8]| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
    let list = vectored::parts_after(&bufs, skip).take(MAX_BUFFERS).map(entry).collect();
    Op::new(WriteVectoredAt { file: Rc::clone(file), offset, list, bufs })
}

pub(crate) struct WriteVectoredAt<B> {
    file: Rc<OwnedFd>,
    offset: u64,
    list: Vec<libc::iovec>,
    bufs: Vec<B>,
}

// SAFETY: the call points to the list, which lies on the heap, where it stays when the value moves,
// and which nobody changes. That points to initialised bytes of `bufs`, which the value owns; they
// stay in place by `IoBuf`'s contract.
unsafe impl<B: IoBuf> Operation for WriteVectoredAt<B> {
    type Output = (io::Result<u32>, Vec<B>);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.file
    }

    fn call(&mut self) -> Call {
        Call::WriteVectoredAt { list: self.list.as_ptr(), count: count(&self.list), offset: self.offset }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.bufs)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// No more than [`MAX_BUFFERS`].
fn count(list: &[libc::iovec]) -> u32 {
    u32::try_from(list.len()).unwrap_or(u32::MAX)
}
