//! The ring: operations go to the kernel, and completions come back. `sleep` is about sleeping in
//! it.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use tracing::warn;

use super::alarm::Alarm;
use super::buffer_ring::{BufferRing, Chunk};
use super::multishot::Multishot;
use super::polled::PolledRing;
use super::probe::{ProbedRing, RingFeature, RingFeatures};
use super::registered::{RegisteredArena, RegisteredFiles};
use super::slots::{Completed, SlotKey, SlotState, Slots};
use crate::error::{Error, Result};
use crate::fork::Process;
use crate::reactor::doorbell::Doorbell;
use crate::reactor::ops::{Call, Orphan};
use crate::reactor::patience::{Patience, ROUND};
use crate::user_code::{contain, contain_each, drop_contained};

mod sleep;

/// `user_data` of operations whose completion means nothing: cancellations.
const IGNORED: u64 = u64::MAX;
/// `user_data` of the poll on the doorbell.
const DOORBELL: u64 = u64::MAX - 1;
/// `user_data` of the time-out that lasts over many sleeps.
const ALARM: u64 = u64::MAX - 2;
/// Set in the `user_data` of a poll that wakes a parked core; which poll it is is in the other
/// bits.
const READABLE: u64 = 1 << 63;
/// Rounds from one cancellation of everything to the next.
const ROUNDS_PER_CANCEL: usize = 16;

/// One core's io_uring.
pub(crate) struct Ring {
    inner: RefCell<RingInner>,
    enters: Cell<u64>,
    features: RingFeatures,
    /// Whose ring it is: a child of a fork shares its memory and its descriptor.
    process: Process,
    /// After the ring, which may have it until then.
    buffers: RefCell<Option<BufferRing>>,
    /// After the ring likewise.
    pub(super) arena: RefCell<Option<RegisteredArena>>,
    pub(super) files: RefCell<RegisteredFiles>,
    /// System calls that tasks may still make by themselves before the core turns to its ring.
    direct_calls_left: Cell<u32>,
}

/// In a turn that brought no more completions than this, tasks may make as many system calls of
/// their own: with little to do an answer is soonest on its way by itself. With more to do the ring
/// takes many operations in one system call.
const FEW_COMPLETIONS: u32 = 4;

/// Since Linux 6.13 a call runs 20 of what the kernel deferred. After this many more calls tasks
/// get their turn: handed over together, what they ask for next is mostly done with that call, and
/// nothing is deferred.
const CALLS_FOR_DEFERRED: usize = 16;

struct RingInner {
    ring: IoUring,
    polled: Option<PolledRing>,
    slots: Slots,
    /// Entries that found the submission queue full, oldest first: one for each operation in flight
    /// and one for its cancellation at most.
    backlog: VecDeque<squeue::Entry>,
    doorbell: Arc<Doorbell>,
    doorbell_armed: bool,
    alarm: Alarm,
    /// Completions taken so far, also those that mean nothing.
    taken: u64,
    /// Descriptors with a poll in flight that wakes a parked core, and the poll's number: a closed
    /// descriptor's number may be another's already.
    watched: Vec<(RawFd, u64)>,
    /// Polls on descriptors that were cancelled and have not ended.
    watches_ending: usize,
    next_watch: u64,
}

impl Ring {
    pub(in crate::reactor) fn new(
        entries: u32,
        allowed: RingFeatures,
        doorbell: &Arc<Doorbell>,
    ) -> Result<Self> {
        let ProbedRing { ring, features, buffers } = ProbedRing::new(entries, allowed)?;
        let alarm = Alarm::new(ring.params().is_feature_skip_cqe_on_success());
        let inner = RingInner {
            ring,
            polled: None,
            slots: Slots::default(),
            backlog: VecDeque::new(),
            doorbell: Arc::clone(doorbell),
            doorbell_armed: false,
            alarm,
            taken: 0,
            watched: Vec::new(),
            watches_ending: 0,
            next_watch: 0,
        };
        Ok(Self {
            inner: RefCell::new(inner),
            enters: Cell::new(0),
            features,
            process: Process::current(),
            buffers: RefCell::new(buffers),
            arena: RefCell::default(),
            files: RefCell::default(),
            direct_calls_left: Cell::new(FEW_COMPLETIONS),
        })
    }

    /// Whether the ring has `feature` and may use it.
    pub(in crate::reactor) fn has(&self, feature: RingFeature) -> bool {
        self.features.contains(feature)
    }

    /// Changes the ring of polled devices. `change` runs no user code.
    pub(super) fn with_polled<R>(
        &self,
        change: impl FnOnce(&mut Option<PolledRing>) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut inner = self.inner.try_borrow_mut().map_err(io::Error::other)?;
        change(&mut inner.polled)
    }

    /// Registers something with the ring. `register` runs no user code.
    pub(super) fn with_ring<R>(&self, register: impl FnOnce(&IoUring) -> io::Result<R>) -> io::Result<R> {
        if self.process.is_left() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Only a subscriber to the log could come here while the reactor is at work.
        let inner = self.inner.try_borrow().map_err(io::Error::other)?;
        register(&inner.ring)
    }

    /// Whether this is a child of the process whose ring it is.
    pub(super) fn is_forked(&self) -> bool {
        self.process.is_left()
    }

    /// Hands everything that is queued to the kernel; whether it took all of it.
    pub(super) fn hand_over(&self) -> bool {
        if self.process.is_left() {
            return false;
        }
        let Ok(mut inner) = self.inner.try_borrow_mut() else { return false };
        self.submit_backlog(&mut inner);
        if !inner.ring.submission().is_empty() {
            // A failure comes again with the next `poll`, which returns it.
            let _ = self.submit(&inner);
        }
        inner.backlog.is_empty() && inner.ring.submission().is_empty()
    }

    /// Whether a task may make a system call of its own now instead of using the ring; counts it.
    pub(in crate::reactor) fn take_direct_call(&self) -> bool {
        let left = self.direct_calls_left.get();
        self.direct_calls_left.set(left.saturating_sub(1));
        left > 0
    }

    /// Shows what a chunk holds. `read` does not use the reactor.
    pub(in crate::reactor) fn with_chunk<R>(&self, chunk: &Chunk, read: impl FnOnce(&[u8]) -> R) -> R {
        let buffers = self.buffers.borrow();
        read(buffers.as_ref().map_or(&[], |buffers| buffers.bytes(chunk)))
    }

    /// Lends a chunk's buffer to the kernel again.
    pub(in crate::reactor) fn recycle(&self, chunk: Chunk) {
        if let Some(buffers) = &mut *self.buffers.borrow_mut() {
            buffers.recycle(chunk);
        }
    }

    /// System calls made so far.
    pub(in crate::reactor) fn enters(&self) -> u64 {
        self.enters.get()
    }

    /// Queues an operation; it reaches the kernel with the next `poll` or `wait`, or at once if the
    /// queue is full.
    ///
    /// # Safety
    ///
    /// Whatever memory `call` points to stays valid, and unmoved, until the slot is `Done` or its
    /// orphan was told.
    pub(in crate::reactor) unsafe fn start(&self, call: Call, descriptor: RawFd, waker: Waker) -> SlotKey {
        let mut inner = self.inner.borrow_mut();
        let key = inner.slots.take(SlotState::InFlight(waker));
        if let Some(polled) = &mut inner.polled
            && call.polled_bytes().is_some_and(|bytes| polled.serves(descriptor, bytes))
        {
            let entry = call.entry(descriptor, None).user_data(key.user_data());
            // SAFETY: the caller promises that the memory outlives the operation.
            if unsafe { polled.push(&entry) } {
                return key;
            }
        }
        let entry = self.entry(call, descriptor);
        self.push(&mut inner, entry.user_data(key.user_data()));
        key
    }

    /// Like `start`, for a request that completes many times; `target` is kept until the last time.
    ///
    /// # Safety
    ///
    /// As for `start`: until `target` is dropped.
    pub(in crate::reactor) unsafe fn start_multishot(
        &self,
        entry: squeue::Entry,
        target: Rc<dyn Multishot>,
    ) -> SlotKey {
        let mut inner = self.inner.borrow_mut();
        let key = inner.slots.take(SlotState::Multishot(target));
        self.push(&mut inner, entry.user_data(key.user_data()));
        key
    }

    /// Asks the kernel to cancel an operation.
    pub(in crate::reactor) fn cancel(&self, key: SlotKey) {
        if self.process.is_left() {
            // It would be the parent's operation.
            return;
        }
        // Only a subscriber to the log could come here while the reactor is at work; then the
        // operation goes on.
        if let Ok(mut inner) = self.inner.try_borrow_mut() {
            self.push_cancel(&mut inner, key);
        }
    }

    fn push_cancel(&self, inner: &mut RingInner, key: SlotKey) {
        let cancel = opcode::AsyncCancel::new(key.user_data()).build();
        self.push(inner, cancel.user_data(IGNORED));
    }

    /// The result of an operation if it is done, which frees its slot; otherwise keeps `waker` for
    /// when it is.
    pub(in crate::reactor) fn finish(&self, key: SlotKey, waker: &Waker) -> Option<i32> {
        let mut inner = self.inner.borrow_mut();
        match inner.slots.state(key) {
            SlotState::Done(result) => {
                let result = *result;
                inner.slots.release(key);
                return Some(result);
            }
            SlotState::InFlight(current) if current.will_wake(waker) => return None,
            SlotState::InFlight(_) => {}
            SlotState::GivenUp => return None,
            SlotState::Free | SlotState::Orphaned(_) | SlotState::Multishot(_) => {
                unreachable!("an operation is finished once, by its only future")
            }
        }
        drop(inner);
        // Cloning and dropping wakers may be user code, which may drop other operations: not
        // under the borrow.
        let mut kept = waker.clone();
        let mut inner = self.inner.borrow_mut();
        let mut result = None;
        match inner.slots.state(key) {
            SlotState::InFlight(current) => std::mem::swap(current, &mut kept),
            // That user code filled the queue, and completions were taken to make room: the
            // other waker is told, not this one.
            SlotState::Done(done) => {
                result = Some(*done);
                inner.slots.release(key);
            }
            SlotState::GivenUp | SlotState::Free | SlotState::Orphaned(_) | SlotState::Multishot(_) => {}
        }
        drop(inner);
        // Should it panic, the result would be lost.
        drop_contained(kept);
        result
    }

    /// Gives an operation's value to its slot, because nobody waits any more; asks the kernel to
    /// cancel it.
    pub(in crate::reactor) fn orphan(&self, key: SlotKey, orphan: Box<dyn Orphan>) {
        if self.process.is_left() {
            // The operation is the parent's, and so is its result: here it never completes, and
            // owners must not be told that it did.
            std::mem::forget(orphan);
            return;
        }
        let Ok(mut inner) = self.inner.try_borrow_mut() else {
            // Only a subscriber to the log could come here while the reactor is at work. The kernel
            // may use the memory: a panic, which would free it, is not an answer.
            std::mem::forget(orphan);
            return;
        };
        let previous = match inner.slots.state(key) {
            SlotState::GivenUp => {
                drop(inner);
                orphan.given_up();
                return;
            }
            SlotState::Done(result) => {
                let result = *result;
                inner.slots.release(key);
                drop(inner);
                orphan.completed(result);
                return;
            }
            state => std::mem::replace(state, SlotState::Orphaned(orphan)),
        };
        self.push_cancel(&mut inner, key);
        drop(inner);
        // The waker's destructor may free a task, and with it other operations: not under the
        // borrow. A panic may run this, and a second one would end the process.
        drop_contained(previous);
    }

    /// Queues an entry behind those that came before it.
    fn push(&self, inner: &mut RingInner, entry: squeue::Entry) {
        if inner.backlog.is_empty() && inner.push_entry(&entry) {
            return;
        }
        inner.backlog.push_back(entry);
        self.submit_backlog(inner);
    }

    /// Moves entries that found the queue full into it, as far as the kernel takes it from there.
    /// What is left waits for the next turn: the core goes on meanwhile, and completions that the
    /// kernel may want taken first are told to their owners.
    fn submit_backlog(&self, inner: &mut RingInner) {
        while let Some(entry) = inner.backlog.pop_front() {
            if inner.push_entry(&entry) {
                continue;
            }
            // A failure comes again with the next `poll`, which returns it.
            let _ = self.submit(inner);
            if !inner.push_entry(&entry) {
                inner.backlog.push_front(entry);
                self.reap(inner);
                return;
            }
        }
    }

    /// Asks the polled devices for completions; says whether they have operations under way.
    fn poll_devices(&self, inner: &mut RingInner) -> Result<bool> {
        let Some(polled) = &mut inner.polled else { return Ok(false) };
        match polled.poll() {
            Ok(false) => Ok(false),
            Ok(true) => {
                self.enters.set(self.enters.get() + 1);
                Ok(true)
            }
            Err(error) => retry_later(&error).map(|()| true),
        }
    }

    /// Moves completions from the rings to their slots and to `completed`.
    fn reap(&self, inner: &mut RingInner) -> usize {
        let mut reaped = 0;
        let mut buffers = self.buffers.borrow_mut();
        while let Some(entry) = inner.polled.as_mut().and_then(PolledRing::next) {
            reaped += inner.complete(&entry, None);
        }
        loop {
            let Some(entry) = inner.ring.completion().next() else { return reaped };
            reaped += inner.complete(&entry, buffers.as_mut());
        }
    }

    fn submit(&self, inner: &RingInner) -> Result<()> {
        self.enters.set(self.enters.get() + 1);
        match inner.ring.submitter().submit() {
            Ok(_) => Ok(()),
            Err(error) => retry_later(&error),
        }
    }

    /// Hands queued operations to the kernel and wakes the tasks whose operations are done; returns
    /// how many were.
    pub(in crate::reactor) fn poll(&self) -> Result<usize> {
        self.forget_files();
        let mut inner = self.inner.borrow_mut();
        self.submit_backlog(&mut inner);
        self.poll_devices(&mut inner)?;
        if inner.needs_kernel() {
            // Also runs the kernel's deferred work if the ring's flags say that there is some.
            self.submit(&inner)?;
            for _ in 0..CALLS_FOR_DEFERRED {
                if !inner.ring.submission().taskrun() {
                    break;
                }
                self.submit(&inner)?;
            }
        }
        Ok(self.deliver_all(inner))
    }

    /// Whether operations are queued, or deferred by the kernel, until the next system call.
    pub(in crate::reactor) fn needs_kernel(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        !inner.backlog.is_empty() || inner.needs_kernel()
    }

    /// Wakes the tasks whose operations are done already, and leaves the submission queue as it is.
    pub(in crate::reactor) fn poll_completions(&self) -> Result<usize> {
        let mut inner = self.inner.borrow_mut();
        self.poll_devices(&mut inner)?;
        Ok(self.deliver(inner))
    }

    /// Delivers what the kernel has done of all that it was asked for: how much that is says what
    /// tasks may ask of it by themselves.
    fn deliver_all(&self, inner: RefMut<'_, RingInner>) -> usize {
        let delivered = self.deliver(inner);
        let few = delivered <= FEW_COMPLETIONS as usize;
        self.direct_calls_left.set(if few { FEW_COMPLETIONS } else { 0 });
        delivered
    }

    /// Takes completions and tells their owners, with no borrow held; returns how many.
    fn deliver(&self, mut inner: RefMut<'_, RingInner>) -> usize {
        let reaped = self.reap(&mut inner);
        while let Some(key) = inner.slots.overfed.pop() {
            self.push_cancel(&mut inner, key);
        }
        if inner.slots.completed.is_empty() {
            return reaped;
        }
        let mut untold = std::mem::take(&mut inner.slots.completed);
        drop(inner);
        contain_each(untold.drain(..), |completed| match completed {
            Completed::Wake(waker) => waker.wake(),
            Completed::Orphan(orphan, result) => orphan.completed(result),
            Completed::Ended(request) => drop(request),
        });
        let mut inner = self.inner.borrow_mut();
        // Keeps the allocation, and what user code left that used the reactor meanwhile.
        untold.append(&mut inner.slots.completed);
        inner.slots.completed = untold;
        reaped
    }

    /// Whether a device has operations that only asking it completes.
    pub(in crate::reactor) fn must_be_polled(&self) -> bool {
        self.inner.borrow().polled.as_ref().is_some_and(PolledRing::is_busy)
    }

    fn cancel_all(&self) {
        let mut inner = self.inner.borrow_mut();
        if self.has(RingFeature::CancelAny) {
            let cancel_all = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
            self.push(&mut inner, cancel_all.user_data(IGNORED));
            return;
        }
        for key in inner.slots.keys_in_flight() {
            self.push_cancel(&mut inner, key);
        }
    }

    /// Cancels everything and waits until the kernel has let go of every buffer, or `patience` is
    /// over.
    pub(in crate::reactor) fn shut_down(&self, mut patience: Patience<'_>) {
        // The kernel tears a ring down some time after it was closed: polls that are left until
        // then keep the devices of the core's pollers open.
        self.unwatch_all();
        self.deliver(self.inner.borrow_mut());
        let mut rounds = 0;
        let mut left = self.inner.borrow().slots.in_flight();
        while left > 0 && !patience.is_over() {
            // Not every time: the cancellation's own completion ends the wait at once.
            if rounds % ROUNDS_PER_CANCEL == 0 {
                self.cancel_all();
            }
            if let Err(error) = self.wait_for(ROUND) {
                contain(|| warn!("waiting for I/O in flight failed: {error}"));
                break;
            }
            rounds += 1;
            left = self.inner.borrow().slots.in_flight();
        }
        if left > 0 {
            // Outside the borrow: what they do not leak is dropped.
            let orphans = self.inner.borrow_mut().slots.give_up();
            contain_each(orphans.into_iter(), Orphan::given_up);
            // Last, because a subscriber to the log is user code and may panic.
            contain(|| warn!("{left} operations did not finish; their memory is not freed"));
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.inner.get_mut().slots.in_flight() > 0 {
            // A request may still be given a buffer to write to.
            std::mem::forget(self.buffers.take());
        }
    }
}

/// What a failed `io_uring_enter` means: nothing for a time-out, a signal or a full completion
/// queue.
fn retry_later(error: &std::io::Error) -> Result<()> {
    match error.raw_os_error() {
        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
        code => Err(Error::os(code.unwrap_or(libc::EIO), "io_uring_enter")),
    }
}

impl RingInner {
    /// Whether there is something in the queue, or the ring's flags say that the kernel has
    /// deferred something.
    fn needs_kernel(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
    }

    /// Whether there was room for the entry.
    fn push_entry(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: `start`'s caller promises that the entry's memory outlives the operation. Of the
        // reactor's own entries that of the alarm points to memory, which stays where it is for as
        // long as this value lives; the kernel reads it when it takes the entry.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Returns 1 for something that somebody waited for.
    fn complete(&mut self, entry: &cqueue::Entry, buffers: Option<&mut BufferRing>) -> usize {
        self.taken += 1;
        match entry.user_data() {
            IGNORED => return 0,
            DOORBELL => {
                self.doorbell_armed = false;
                self.doorbell.silence();
                return 0;
            }
            ALARM => {
                self.alarm.ended();
                return 0;
            }
            data if data & READABLE != 0 => {
                let before = self.watched.len();
                self.watched.retain(|(_, watch)| READABLE | watch != data);
                let ended = before - self.watched.len();
                // One that was cancelled means nothing.
                self.watches_ending -= 1 - ended;
                return ended;
            }
            _ => {}
        }
        self.slots.complete(entry, buffers)
    }
}

impl Drop for RingInner {
    fn drop(&mut self) {
        if self.slots.in_flight() > 0 {
            // `shut_down` gave up, or a panic of the clock got in its way: the kernel may still use
            // the operations' memory.
            contain_each(self.slots.give_up().into_iter(), Orphan::given_up);
        }
    }
}

#[cfg(test)]
mod tests;
