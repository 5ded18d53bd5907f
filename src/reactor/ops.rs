//! I/O operations as futures, over whichever reactor the core has.
//!
//! An operation says once what it asks of the kernel, as a [`Call`]. A core with an io_uring
//! submits it as an entry; a core on epoll makes the same system call itself, at once if the
//! descriptor is ready, or on a thread of its blocking pool if there is no readiness to wait for
//! (files). In all three ways the operation's value owns what the kernel works on until the kernel
//! is done, also when the future is dropped.

mod call;
mod datagram;
mod file;
mod file_vectored;
mod pipe;
mod socket;
#[cfg(test)]
pub(in crate::reactor) mod tests;
mod transfer;
mod vectored;

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub(crate) use call::Call;
pub(in crate::reactor) use call::{COPIED, Direction, REPORT_USAGE, Way};
pub(crate) use datagram::{Envelope, Received, receive_from, send_to};
pub(crate) use file::{discard, discard_now, fallocate, fsync, read_at, write_at};
pub(crate) use file_vectored::{read_vectored_at, write_vectored_at};
pub(crate) use pipe::{read_stream, readable, write_stream};
pub(crate) use socket::{accept, connect, recv, send, send_zero_copy};
pub(crate) use vectored::{MAX_BUFFERS, recv_vectored, send_vectored};

use super::current::{attached, waits_for};
use super::{Reactor, epoll, uring};
use crate::mem::IoBufMut;
use crate::user_code::contain;

/// What an operation owns while it is in flight, what it asks of the kernel, and what becomes of
/// its result when nobody waits for it any more.
///
/// # Safety
///
/// Every pointer in what `call` returns points to memory that stays valid and in place, for what
/// the kernel does with it, for as long as the value is not dropped, also while the value itself
/// moves. `descriptor` returns the same one every time.
pub(crate) unsafe trait Operation: Unpin + 'static {
    /// What the awaiting task gets.
    type Output;

    /// What it works on; stays open while the value lives.
    fn descriptor(&self) -> &Rc<OwnedFd>;

    /// What it asks of the kernel. May be asked for again until the operation is complete.
    fn call(&mut self) -> Call;

    /// What the list of tasks says that a task which awaits `call` waits for.
    fn waits_for(&self, call: Call) -> &'static str {
        call.waits_for()
    }

    /// The kernel completed the operation with `result` (a count or descriptor, or a negated
    /// errno).
    fn complete(self, result: io::Result<u32>) -> Self::Output;

    /// The same after the future was dropped.
    fn orphaned(self, result: io::Result<u32>);

    /// The core ends and the kernel may never be done with it: whatever memory it has is leaked.
    fn given_up(self)
    where
        Self: Sized,
    {
        std::mem::forget(self);
    }
}

/// The value of an operation whose future was dropped.
pub(in crate::reactor) trait Orphan {
    /// The kernel is done with it: `result` is a count or descriptor, or a negated errno.
    fn completed(self: Box<Self>, result: i32);

    /// The core ends and the kernel may never be done with it.
    fn given_up(self: Box<Self>);
}

struct Orphaned<O>(O);

impl<O: Operation> Orphan for Orphaned<O> {
    fn completed(self: Box<Self>, result: i32) {
        // Drops the buffer, whose destructor may be user code.
        contain(|| self.0.orphaned(from_kernel(result)));
    }

    fn given_up(self: Box<Self>) {
        self.0.given_up();
    }
}

/// An operation in flight. Starts when first polled.
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct Op<O: Operation> {
    operation: Option<O>,
    flight: Flight,
}

enum Flight {
    Unstarted,
    InRing {
        key: uring::SlotKey,
        reactor: Rc<uring::Ring>,
    },
    OnEpoll {
        flight: epoll::Flight,
        reactor: Rc<epoll::Epoll>,
    },
    /// Did not reach the kernel, or is back from there: a negated errno.
    Failed(i32),
    Done,
}

impl<O: Operation> Op<O> {
    fn new(operation: O) -> Self {
        Self { operation: Some(operation), flight: Flight::Unstarted }
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        let operation = self.operation.as_mut().expect("an operation that has not started has its value");
        self.flight = match attached(|attached| attached.reactor.clone()) {
            Reactor::Uring(reactor) => {
                let call = operation.call();
                waits_for(operation.waits_for(call));
                let descriptor = operation.descriptor().as_raw_fd();
                // SAFETY: the call's memory lives as long as `operation` by the trait's contract.
                // `operation` is kept in this future until the slot is done, and `drop` gives it to
                // the slot if it is not.
                let key = unsafe { reactor.start(call, descriptor, cx.waker().clone()) };
                Flight::InRing { key, reactor }
            }
            Reactor::Epoll(reactor) => Flight::OnEpoll { flight: epoll::Flight::default(), reactor },
            Reactor::Simulated => Flight::Failed(-libc::EOPNOTSUPP),
        };
    }
}

impl<O: Operation> Op<O> {
    /// Asks that it ends soon. When it is polled next, or later, it is done, with `ECANCELED` or
    /// `EINTR` unless it was done before.
    pub(crate) fn cancel(&mut self) {
        match &mut self.flight {
            Flight::InRing { key, reactor } => reactor.cancel(*key),
            Flight::OnEpoll { flight, reactor } if !flight.is_with_kernel() => {
                reactor.forget(std::mem::take(flight));
                self.flight = Flight::Failed(-libc::ECANCELED);
            }
            // A thread makes the call, which is one that does not wait for others.
            Flight::OnEpoll { .. } | Flight::Unstarted | Flight::Failed(_) | Flight::Done => {}
        }
    }
}

impl<O: Operation> Future for Op<O> {
    type Output = O::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        let this = &mut *self;
        if matches!(this.flight, Flight::Unstarted) {
            this.start(cx);
            if matches!(this.flight, Flight::InRing { .. }) {
                return Poll::Pending;
            }
        }
        let result = match &mut this.flight {
            Flight::InRing { key, reactor } => reactor.finish(*key, cx.waker()),
            Flight::OnEpoll { flight, reactor } => {
                let operation = this.operation.as_mut().expect("an operation in flight has its value");
                let call = operation.call();
                // SAFETY: as in `start`: the call's memory lives as long as `operation`, which
                // stays in this future until the flight has a result, and which `drop` gives to
                // `abandon` if it has none.
                unsafe { reactor.poll_call(flight, operation.descriptor(), call, cx) }
            }
            Flight::Failed(code) => Some(*code),
            Flight::Unstarted => unreachable!("it was started above"),
            Flight::Done => panic!("an operation is not polled again after it is done"),
        };
        let Some(result) = result else {
            let operation = this.operation.as_mut().expect("an operation in flight has its value");
            let call = operation.call();
            waits_for(operation.waits_for(call));
            return Poll::Pending;
        };
        this.flight = Flight::Done;
        let operation = this.operation.take().expect("an operation in flight has its value");
        Poll::Ready(operation.complete(from_kernel(result)))
    }
}

impl<O: Operation> Drop for Op<O> {
    fn drop(&mut self) {
        let flight = std::mem::replace(&mut self.flight, Flight::Done);
        let Some(operation) = self.operation.take() else { return };
        match flight {
            Flight::InRing { key, reactor } => reactor.orphan(key, Box::new(Orphaned(operation))),
            Flight::OnEpoll { flight, reactor } if flight.is_with_kernel() => {
                reactor.orphan(flight, Box::new(Orphaned(operation)));
            }
            // Its first poll panicked, in a waker: it never waited, so nobody counts on a word of
            // its end.
            Flight::OnEpoll { flight: epoll::Flight::Grounded, .. } => {}
            Flight::OnEpoll { flight, reactor } => {
                reactor.forget(flight);
                operation.orphaned(from_kernel(-libc::ECANCELED));
            }
            Flight::Unstarted | Flight::Failed(_) | Flight::Done => {}
        }
    }
}

fn from_kernel(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// The length of a buffer as the kernel takes it: longer ones are done in part, as reads and writes
/// may be.
fn clamp_len(len: usize) -> u32 {
    // The kernel itself stops at 2 GiB less a page.
    u32::try_from(len).unwrap_or(u32::MAX).min(0x7fff_f000)
}

/// Records in `buf` that the kernel wrote as many bytes as `result` says.
fn received<B: IoBufMut>(buf: &mut B, result: &io::Result<u32>) {
    if let Ok(len) = result {
        // SAFETY: the kernel wrote `len` bytes from `stable_mut_ptr` on, and it was told of no more
        // than `bytes_total`.
        unsafe { buf.set_init(*len as usize) };
    }
}
