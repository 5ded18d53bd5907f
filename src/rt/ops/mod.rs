//! I/O operations as futures, over whichever reactor the core has.
//!
//! An operation says once what it asks of the kernel, as a [`Call`]. A core with an io_uring submits it as an entry; a core
//! on epoll makes the same system call itself, at once if the descriptor is ready, or on a thread of its blocking pool if
//! there is no readiness to wait for (files). In all three ways the operation's value owns what the kernel works on until
//! the kernel is done, also when the future is dropped.

mod call;
mod datagram;
mod file;
mod pipe;
mod socket;
#[cfg(test)]
pub(in crate::rt) mod tests;
mod transfer;

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

pub(crate) use call::Call;
pub(in crate::rt) use call::{COPIED, Direction, REPORT_USAGE, Way};
pub(crate) use datagram::{Envelope, Received, receive_from, send_to};
pub(crate) use file::{fallocate, fsync, read_at, write_at};
pub(crate) use pipe::{read_stream, readable, write_stream};
pub(crate) use socket::{accept, connect, recv, send, send_zero_copy};

use crate::mem::IoBufMut;
use crate::rt::context::waiting_for;
use crate::rt::is_in_core;
use crate::rt::reactor::Reactor;
use crate::rt::scheduler::with_core;
use crate::rt::{epoll, uring};

/// What an operation owns while it is in flight, what it asks of the kernel, and what becomes of its result when nobody waits
/// for it any more.
///
/// # Safety
///
/// Every pointer in what `call` returns points to memory that stays valid and in place, for what the kernel does with it, for
/// as long as the value is not dropped, also while the value itself moves. `descriptor` returns the same one every time.
pub(crate) unsafe trait Operation: Unpin + 'static {
    /// What the awaiting task gets.
    type Output;

    /// What it works on; stays open while the value lives.
    fn descriptor(&self) -> &Rc<OwnedFd>;

    /// What it asks of the kernel. May be asked for again until the operation is complete.
    fn call(&mut self) -> Call;

    /// The kernel completed the operation with `result` (a count or descriptor, or a negated errno).
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
pub(in crate::rt) trait Orphan {
    /// The kernel is done with it: `result` is a count or descriptor, or a negated errno.
    fn completed(self: Box<Self>, result: i32);

    /// The core ends and the kernel may never be done with it.
    fn given_up(self: Box<Self>);
}

struct Orphaned<O>(O);

impl<O: Operation> Orphan for Orphaned<O> {
    fn completed(self: Box<Self>, result: i32) {
        let orphaned = catch_unwind(AssertUnwindSafe(|| self.0.orphaned(from_kernel(result))));
        if let Err(payload) = orphaned {
            // A destructor's; the panic hook has reported it, and there is nobody whose error it could be. The payload's own
            // destructor may panic in turn.
            std::mem::forget(payload);
        }
    }

    fn given_up(self: Box<Self>) {
        self.0.given_up();
    }
}

/// An operation in flight. Starts when first polled.
#[must_use = "futures do nothing unless awaited"]
pub(crate) struct Op<O: Operation> {
    operation: Option<O>,
    state: State,
}

enum State {
    Unstarted,
    InRing {
        key: uring::SlotKey,
        reactor: Rc<uring::Reactor>,
    },
    OnEpoll {
        flight: epoll::Flight,
        reactor: Rc<epoll::Reactor>,
    },
    /// Did not reach the kernel, or is back from there: a negated errno.
    Failed(i32),
    Done,
}

impl<O: Operation> Op<O> {
    fn new(operation: O) -> Self {
        Self { operation: Some(operation), state: State::Unstarted }
    }

    fn start(&mut self, cx: &mut Context<'_>) {
        let operation = self.operation.as_mut().expect("an operation that has not started has its value");
        self.state = match with_core(|core| core.reactor().clone()) {
            Reactor::Uring(reactor) => {
                let call = operation.call();
                waiting_for(call.waits_for());
                let descriptor = operation.descriptor().as_raw_fd();
                // SAFETY: the call's memory lives as long as `operation` by the trait's contract. `operation` is kept in this
                // future until the slot is done, and `drop` gives it to the slot if it is not.
                let key = unsafe { reactor.start(call, descriptor, cx.waker().clone()) };
                State::InRing { key, reactor }
            }
            Reactor::Epoll(reactor) => State::OnEpoll { flight: epoll::Flight::default(), reactor },
            Reactor::Simulated => State::Failed(-libc::EOPNOTSUPP),
        };
    }
}

impl<O: Operation> Op<O> {
    /// Asks that it ends soon. When it is polled next, or later, it is done, with `ECANCELED` or `EINTR` unless it was done before.
    pub(crate) fn cancel(&mut self) {
        match &mut self.state {
            State::InRing { key, reactor } => reactor.cancel(*key),
            State::OnEpoll { flight, reactor } if !flight.is_with_kernel() => {
                reactor.forget(std::mem::take(flight));
                self.state = State::Failed(-libc::ECANCELED);
            }
            // A thread makes the call, which is one that does not wait for others.
            State::OnEpoll { .. } | State::Unstarted | State::Failed(_) | State::Done => {}
        }
    }
}

impl<O: Operation> Future for Op<O> {
    type Output = O::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<O::Output> {
        let this = &mut *self;
        if matches!(this.state, State::Unstarted) {
            this.start(cx);
            if matches!(this.state, State::InRing { .. }) {
                return Poll::Pending;
            }
        }
        let result = match &mut this.state {
            State::InRing { key, reactor } => reactor.finish(*key, cx.waker()),
            State::OnEpoll { flight, reactor } => {
                let operation = this.operation.as_mut().expect("an operation in flight has its value");
                let call = operation.call();
                // SAFETY: as in `start`: the call's memory lives as long as `operation`, which stays in this future until the
                // flight has a result, and which `drop` gives to `abandon` if it has none.
                unsafe { reactor.poll_call(flight, operation.descriptor(), call, cx) }
            }
            State::Failed(code) => Some(*code),
            State::Unstarted => unreachable!("it was started above"),
            State::Done => panic!("an operation is not polled again after it is done"),
        };
        let Some(result) = result else {
            let operation = this.operation.as_mut().expect("an operation in flight has its value");
            waiting_for(operation.call().waits_for());
            return Poll::Pending;
        };
        this.state = State::Done;
        let operation = this.operation.take().expect("an operation in flight has its value");
        Poll::Ready(operation.complete(from_kernel(result)))
    }
}

impl<O: Operation> Drop for Op<O> {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Done);
        let Some(operation) = self.operation.take() else { return };
        match state {
            State::InRing { key, reactor } => reactor.orphan(key, Box::new(Orphaned(operation))),
            State::OnEpoll { flight, reactor } if flight.is_with_kernel() => {
                reactor.orphan(flight, Box::new(Orphaned(operation)));
            }
            // Its first poll panicked, in a waker: it never waited, so nobody counts on a word of its end.
            State::OnEpoll { flight: epoll::Flight::Grounded, .. } => {}
            State::OnEpoll { flight, reactor } => {
                reactor.forget(flight);
                operation.orphaned(from_kernel(-libc::ECANCELED));
            }
            State::Unstarted | State::Failed(_) | State::Done => {}
        }
    }
}

fn from_kernel(result: i32) -> io::Result<u32> {
    u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

/// Whether the current core is a simulated one, which has no kernel: every operation fails with `EOPNOTSUPP`. False outside a core.
pub(crate) fn are_simulated() -> bool {
    is_in_core() && with_core(|core| matches!(core.reactor(), Reactor::Simulated))
}

/// The length of a buffer as the kernel takes it: longer ones are done in part, as reads and writes may be.
fn clamp_len(len: usize) -> u32 {
    // The kernel itself stops at 2 GiB less a page.
    u32::try_from(len).unwrap_or(u32::MAX).min(0x7fff_f000)
}

/// Records in `buf` that the kernel wrote as many bytes as `result` says.
fn received<B: IoBufMut>(buf: &mut B, result: &io::Result<u32>) {
    if let Ok(len) = result {
        // SAFETY: the kernel wrote `len` bytes from `stable_mut_ptr` on, and it was told of no more than `bytes_total`.
        unsafe { buf.set_init(*len as usize) };
    }
}
