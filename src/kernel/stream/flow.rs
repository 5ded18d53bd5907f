//! What a stream and its operations in flight have in common.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::kernel::dropped::{Dropped, is_cancelled};
use crate::reactor::FixedFile;

/// What a connection shares with its operations in flight. What every read and write looks at comes
/// first, on one cache line.
#[derive(Debug, Default)]
#[repr(C)]
pub(super) struct Flow {
    /// Sends that the ring still has. While there are any nothing else sends.
    pub(super) sending: Cell<usize>,
    /// A read was dropped at some time: `unread` may have something.
    pub(super) dropped_reads: Cell<bool>,
    /// The next read waits for them, to keep the bytes in order.
    pub(super) dropped: Dropped,
    /// What was received for reads that were dropped before they could take it.
    unread: RefCell<Unread>,
    /// The socket's fixed-file slot. It keeps the socket open, so the stream gives it up when it
    /// goes.
    pub(super) slot: RefCell<Option<FixedFile>>,
}

#[derive(Debug, Default)]
struct Unread {
    bytes: VecDeque<u8>,
    /// The end of the stream or an error comes after `bytes`.
    end: Option<Option<i32>>,
}

impl Flow {
    /// Keeps what a dropped read got: as many bytes as `result` says, from the front of `bufs`.
    pub(super) fn keep<'a>(&self, result: io::Result<u32>, bufs: impl IntoIterator<Item = &'a [u8]>) {
        self.dropped_reads.set(true);
        let mut unread = self.unread.borrow_mut();
        match result {
            Ok(0) => unread.end = Some(None),
            // A buffer may have held something before: no more than `len` bytes are new.
            Ok(len) => {
                let mut left = len as usize;
                for bytes in bufs {
                    let new = &bytes[..left.min(bytes.len())];
                    unread.bytes.extend(new);
                    left -= new.len();
                }
            }
            Err(error) if is_cancelled(&error) => {}
            Err(error) => unread.end = Some(Some(error.raw_os_error().unwrap_or(libc::EIO))),
        }
        drop(unread);
        self.dropped.settled();
    }

    /// What a read gets without asking the kernel. `fill` copies from the bytes it is given and
    /// says how many.
    pub(super) fn take(&self, fill: impl FnOnce(&[u8]) -> usize) -> Option<Result<usize>> {
        if !self.dropped_reads.get() {
            return None;
        }
        let mut unread = self.unread.borrow_mut();
        if !unread.bytes.is_empty() {
            let (front, _) = unread.bytes.as_slices();
            let len = fill(front);
            unread.bytes.drain(..len);
            return Some(Ok(len));
        }
        unread.end.map(|end| end.map_or(Ok(0), |code| Err(Error::os(code, "read"))))
    }
}

/// Counts a send for as long as the kernel has it.
pub(super) struct InFlight(Rc<Flow>);

impl InFlight {
    pub(super) fn new(flow: &Rc<Flow>) -> Self {
        flow.sending.set(flow.sending.get() + 1);
        Self(Rc::clone(flow))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.sending.set(self.0.sending.get() - 1);
    }
}
