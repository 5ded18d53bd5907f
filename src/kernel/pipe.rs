//! The ends of pipes.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::identity;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Poll, ready};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::dropped::{Dropped, is_cancelled};
use super::transfer::{Step, Transferred, from_io, written};
use crate::error::{Error, Result};
use crate::mem::{IoBuf, IoBufMut};
use crate::reactor::ops;

/// The end of a pipe that is read.
#[derive(Debug)]
pub(crate) struct PipeReader {
    descriptor: Rc<OwnedFd>,
    unread: Rc<Unread>,
}

/// What was read for reads that were dropped before they could take it.
#[derive(Debug, Default)]
struct Unread {
    bytes: RefCell<VecDeque<u8>>,
    /// The end or an error comes after the bytes, once: after the end of a named pipe another
    /// writer may come.
    end: Cell<Option<Result<(), i32>>>,
    dropped: Dropped,
}

impl Unread {
    fn keep(&self, result: io::Result<u32>, bytes: &[u8]) {
        match result {
            Ok(0) => self.end.set(Some(Ok(()))),
            // Of a buffer that held something before, only the first `len` bytes are new.
            Ok(len) => self.bytes.borrow_mut().extend(&bytes[..len as usize]),
            Err(error) if is_cancelled(&error) || would_block(&error) => {}
            Err(error) => self.end.set(Some(Err(error.raw_os_error().unwrap_or(libc::EIO)))),
        }
        self.dropped.settled();
    }

    /// What a read gets without asking the kernel. `fill` copies from the bytes it is given and
    /// says how many.
    fn take(&self, fill: impl FnOnce(&[u8]) -> usize) -> Option<Result<usize>> {
        let mut bytes = self.bytes.borrow_mut();
        if !bytes.is_empty() {
            let (front, _) = bytes.as_slices();
            let len = fill(front);
            bytes.drain(..len);
            return Some(Ok(len));
        }
        let end = self.end.take()?;
        Some(end.map(|()| 0).map_err(|code| Error::os(code, "read")))
    }

    fn has_some(&self) -> bool {
        !self.bytes.borrow().is_empty() || self.end.get().is_some()
    }
}

impl PipeReader {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: Rc::new(descriptor), unread: Rc::default() }
    }

    /// Reads at least one byte into the front of `buf`. If the future is dropped, another read gets
    /// what it would have got.
    pub(crate) async fn read<B: IoBufMut>(&self, mut buf: B) -> Transferred<usize, B> {
        if buf.bytes_total() == 0 {
            // The kernel's answer, 0, would look like the end if this future were dropped.
            return (Ok(0), buf);
        }
        loop {
            self.unread.dropped.settle().await;
            if let Some(result) = self.unread.take(|bytes| buf.fill_from(bytes)) {
                return (result, buf);
            }
            let unread = Rc::clone(&self.unread);
            let keep = move |result, buf: B| unread.keep(result, buf.as_slice());
            let operation = ops::read_stream(&self.descriptor, buf, keep);
            let ((result, back), cancelled) =
                self.unread.dropped.run(operation, || self.unread.has_some()).await;
            buf = back;
            match result {
                // What a dropped read got comes before the end, which is kept until then.
                Ok(0) if self.unread.has_some() => self.unread.end.set(Some(Ok(()))),
                Ok(len) => return (Ok(len as usize), buf),
                Err(error) if cancelled && is_cancelled(&error) => {}
                Err(error) if would_block(&error) => {
                    if let Err(error) = make_blocking(&self.descriptor) {
                        return (Err(error), buf);
                    }
                }
                Err(error) => return (Err(from_io(&error, "read")), buf),
            }
        }
    }
}

/// The end of a pipe that is written.
#[derive(Debug)]
pub(crate) struct PipeWriter {
    descriptor: Rc<OwnedFd>,
}

impl PipeWriter {
    pub(crate) fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: Rc::new(descriptor) }
    }

    // Not an `async fn`: see `Step`.
    pub(crate) fn write<B: IoBuf>(
        &self,
        buf: B,
    ) -> impl Future<Output = Transferred<usize, B>> + Unpin + use<'_, B> {
        let mut step = Step::Begins(buf);
        poll_fn(move |cx| {
            loop {
                let begin = |buf| Ok(ops::write_stream(&self.descriptor, buf, ()));
                let (result, buf) = ready!(step.poll_with(cx, begin, identity));
                let again = matches!(&result, Err(error) if would_block(error));
                if !again {
                    return Poll::Ready((written(result), buf));
                }
                if let Err(error) = make_blocking(&self.descriptor) {
                    return Poll::Ready((Err(error), buf));
                }
                step = Step::Begins(buf);
            }
        })
    }
}

/// Whether it is what an io_uring says of a pipe that does not block, unless the kernel is so new
/// that it waits for those too. Only then the pipe is made to block: a core without io_uring makes
/// it non-blocking, and would wait inside a call if another handle to the same end undid that.
fn would_block(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAGAIN)
}

fn make_blocking(pipe: &OwnedFd) -> Result<()> {
    let failed = |errno: Errno| Error::os(errno.raw_os_error(), "use a pipe");
    let flags = rustix::fs::fcntl_getfl(pipe).map_err(failed)?;
    rustix::fs::fcntl_setfl(pipe, flags - OFlags::NONBLOCK).map_err(failed)
}
