//! Operations on sockets with several buffers each.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;

use super::{Call, Op, Operation};
use crate::mem::{IoBuf, IoBufMut, vectored};

/// `UIO_MAXIOV`: the kernel takes no more buffers. Of more the first ones are used.
pub(crate) const MAX_BUFFERS: usize = 1024;

/// The header of a call and the list of buffers that it points to.
///
/// Behind a pointer, not a `Box`: while the kernel works on it no reference to it is made.
struct Message(NonNull<Parts>);

struct Parts {
    header: libc::msghdr,
    list: Vec<libc::iovec>,
}

impl Message {
    fn new(list: Vec<libc::iovec>) -> Self {
        // SAFETY: a header is plain integers and pointers, for which zeros are valid.
        let header = unsafe { std::mem::zeroed::<libc::msghdr>() };
        let parts = Box::leak(Box::new(Parts { header, list }));
        parts.header.msg_iov = parts.list.as_mut_ptr();
        parts.header.msg_iovlen = parts.list.len();
        Self(NonNull::from(parts))
    }

    fn header(&self) -> *mut libc::msghdr {
        // SAFETY: the address of a field of a value that this owns; nothing is read.
        unsafe { &raw mut (*self.0.as_ptr()).header }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: it is the address of a box that was leaked in `new`, and nobody frees it but this
        // value, once. The kernel is done with it: an operation in flight keeps its message.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Sends from `bufs` without their first `skip` bytes on a socket; possibly only a part. Never
/// raises SIGPIPE. `guard` is dropped when the kernel is done, also if nobody waits for it any
/// more.
pub(crate) fn send_vectored<B, G>(
    socket: &Rc<OwnedFd>,
    bufs: Vec<B>,
    skip: usize,
    guard: G,
) -> Op<SendVectored<B, G>>
where
    B: IoBuf,
    G: Unpin + 'static,
{
    // The kernel does not write there: `sendmsg` only reads.
    let entry = |part: &[u8]| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
    let list = vectored::parts_after(&bufs, skip).take(MAX_BUFFERS).map(entry).collect();
    let message = Message::new(list);
    Op::new(SendVectored { socket: Rc::clone(socket), message, bufs, _guard: guard })
}

pub(crate) struct SendVectored<B, G> {
    socket: Rc<OwnedFd>,
    message: Message,
    bufs: Vec<B>,
    _guard: G,
}

// SAFETY: the call points to the message, which the value owns and which does not move with it.
// That points to initialised bytes of `bufs`, which the value owns; they stay in place by `IoBuf`'s
// contract.
unsafe impl<B: IoBuf, G: Unpin + 'static> Operation for SendVectored<B, G> {
    type Output = (io::Result<u32>, Vec<B>);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    fn call(&mut self) -> Call {
        Call::SendMessage { header: self.message.header() }
    }

    fn waits_for(&self, _call: Call) -> &'static str {
        "room to send"
    }

    fn complete(self, result: io::Result<u32>) -> Self::Output {
        (result, self.bufs)
    }

    fn orphaned(self, _result: io::Result<u32>) {}
}

/// Receives from a socket into `bufs`, one after the other; 0 bytes is the end of the stream. What
/// arrived after the future was dropped goes to `orphan` with the buffers.
pub(crate) fn recv_vectored<B, F>(socket: &Rc<OwnedFd>, mut bufs: Vec<B>, orphan: F) -> Op<RecvVectored<B, F>>
where
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, Vec<B>) + Unpin + 'static,
{
    let room = bufs.iter_mut().filter(|buf| buf.bytes_total() > 0).take(MAX_BUFFERS);
    let list = room
        .map(|buf| libc::iovec { iov_base: buf.stable_mut_ptr().cast(), iov_len: buf.bytes_total() })
        .collect();
    let message = Message::new(list);
    Op::new(RecvVectored { socket: Rc::clone(socket), message, bufs, orphan })
}

pub(crate) struct RecvVectored<B, F> {
    socket: Rc<OwnedFd>,
    message: Message,
    bufs: Vec<B>,
    orphan: F,
}

impl<B: IoBufMut, F> RecvVectored<B, F> {
    /// Records in the buffers what the kernel wrote to them.
    fn received(&mut self, result: &io::Result<u32>) {
        let mut left = result.as_ref().map_or(0, |len| *len as usize);
        for buf in &mut self.bufs {
            let len = left.min(buf.bytes_total());
            if len == 0 {
                continue;
            }
            // SAFETY: the kernel wrote `result` bytes and filled each buffer before the next one:
            // the first `len` of this one, which is no more than its `bytes_total`.
            unsafe { buf.set_init(len) };
            left -= len;
        }
    }
}

// SAFETY: the call points to the message, which the value owns and which does not move with it.
// That points to `bytes_total` writable bytes of each of `bufs`, which the value owns; they stay in
// place by `IoBufMut`'s contract.
unsafe impl<B, F> Operation for RecvVectored<B, F>
where
    B: IoBufMut,
    F: FnOnce(io::Result<u32>, Vec<B>) + Unpin + 'static,
{
    type Output = (io::Result<u32>, Vec<B>);

    fn descriptor(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    fn call(&mut self) -> Call {
        Call::ReceiveMessage { header: self.message.header() }
    }

    fn waits_for(&self, _call: Call) -> &'static str {
        "bytes to receive"
    }

    fn complete(mut self, result: io::Result<u32>) -> Self::Output {
        self.received(&result);
        (result, self.bufs)
    }

    fn orphaned(mut self, result: io::Result<u32>) {
        self.received(&result);
        (self.orphan)(result, self.bufs);
    }
}
