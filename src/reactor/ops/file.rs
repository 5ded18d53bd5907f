//! Operations on files and devices.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use super::{Call, Op, Operation, clamp_len, from_kernel, received};
use crate::mem::{IoBuf, IoBufMut};

/// Reads at `offset` (bytes) of a file or device into `buf`; possibly only a part.
pub(crate) fn read_at<B: IoBufMut>(file: &Rc<OwnedFd>, offset: u64, buf: B) -> Op<ReadAt<B>> {
    Op::new(ReadAt { file: Rc::clone(file), offset, buf })
}

pub(crate) struct ReadAt<B> {
    file: Rc<OwnedFd>,
    offset: u64,
    buf: B,
}

// SAFETY: the call's `len <= bytes_total` writable bytes are those of `buf`, which the value owns
// and which stay in place by `IoBufMut`'s contract.
unsafe impl<B: IoBufMut> Operation for ReadAt<B> {
    type Output = (io::Result<u32>, B);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.file
    }

    fn call(&mut self) -> Call {
        let len = clamp_len(self.buf.bytes_total());
        Call::ReadAt { buf: self.buf.stable_mut_ptr(), len, offset: self.offset }
    }

    fn complete(mut self, result: io::Result<u32>) -> Self::Output {
        received(&mut self.buf, &result);
        (result, self.buf)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Writes `buf` at `offset` (bytes) of a file or device, with the flags of pwritev2(2); possibly
/// only a part.
pub(crate) fn write_at<B: IoBuf>(file: &Rc<OwnedFd>, offset: u64, buf: B, flags: i32) -> Op<WriteAt<B>> {
    Op::new(WriteAt { file: Rc::clone(file), offset, buf, flags })
}

pub(crate) struct WriteAt<B> {
    file: Rc<OwnedFd>,
    offset: u64,
    buf: B,
    flags: i32,
}

// SAFETY: the call's `len <= bytes_init` readable bytes are those of `buf`, which the value owns
// and which stay in place by `IoBuf`'s contract.
unsafe impl<B: IoBuf> Operation for WriteAt<B> {
    type Output = (io::Result<u32>, B);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.file
    }

    fn call(&mut self) -> Call {
        let len = clamp_len(self.buf.bytes_init());
        Call::WriteAt { buf: self.buf.stable_ptr(), len, offset: self.offset, flags: self.flags }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.buf)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Makes a file's data (and the metadata needed to read it) durable: `fdatasync`.
pub(crate) fn fsync(file: &Rc<OwnedFd>) -> Op<Fsync> {
    Op::new(Fsync { file: Rc::clone(file) })
}

pub(crate) struct Fsync {
    file: Rc<OwnedFd>,
}

// SAFETY: the call has no pointers.
unsafe impl Operation for Fsync {
    type Output = io::Result<()>;

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.file
    }

    fn call(&mut self) -> Call {
        Call::Datasync
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(|_| ())
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// `fallocate` with `mode` over `len` bytes from `offset`.
pub(crate) fn fallocate(file: &Rc<OwnedFd>, mode: i32, offset: u64, len: u64) -> Op<Fallocate> {
    Op::new(Fallocate { file: Rc::clone(file), mode, offset, len })
}

pub(crate) struct Fallocate {
    file: Rc<OwnedFd>,
    mode: i32,
    offset: u64,
    len: u64,
}

// SAFETY: the call has no pointers.
unsafe impl Operation for Fallocate {
    type Output = io::Result<()>;

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.file
    }

    fn call(&mut self) -> Call {
        Call::Allocate { mode: self.mode, offset: self.offset, len: self.len }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(|_| ())
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Tells a block device that `len` bytes from `offset` hold nothing of use. On a ring of a kernel
/// that has no command for it: `EOPNOTSUPP` or `EINVAL`, and [`discard_now`] does it.
pub(crate) fn discard(device: &Rc<OwnedFd>, offset: u64, len: u64) -> Op<Discard> {
    Op::new(Discard { device: Rc::clone(device), offset, len })
}

pub(crate) struct Discard {
    device: Rc<OwnedFd>,
    offset: u64,
    len: u64,
}

// SAFETY: the call has no pointers.
unsafe impl Operation for Discard {
    type Output = io::Result<()>;

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.device
    }

    fn call(&mut self) -> Call {
        Call::Discard { offset: self.offset, len: self.len }
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        result.map(|_| ())
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// The same on this thread, which waits for the device.
pub(crate) fn discard_now(device: &OwnedFd, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: the call has no pointers.
    let result = unsafe { Call::Discard { offset, len }.perform(device.as_raw_fd()) };
    from_kernel(result).map(drop)
}
