//! The ring, its slots, and sleeping in it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use tracing::warn;

use super::buffer_ring::{BufferRing, Chunk};
use super::multishot::{Event, Multishot};
use super::polled::PolledRing;
use super::probe::{ProbedRing, RingFeature, RingFeatures};
use super::registered::{RegisteredArena, RegisteredFiles};
use crate::error::{Error, ErrorKind, Result};
use crate::rt::doorbell::Doorbell;
use crate::rt::ops::{COPIED, Call, Orphan};
use crate::rt::shutdown::{Patience, ROUND};
use crate::rt::task::{each_quietly, quietly};

/// `user_data` of operations whose completion means nothing: cancellations.
const IGNORED: u64 = u64::MAX;
/// `user_data` of the poll on the doorbell.
const DOORBELL: u64 = u64::MAX - 1;
/// Set in the `user_data` of a poll that wakes a parked core; which poll it is is in the other bits.
const READABLE: u64 = 1 << 63;
/// How soon the kernel is asked again when it took no more submissions.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);
/// Rounds from one cancellation of everything to the next.
const ROUNDS_PER_CANCEL: usize = 16;

/// One core's io_uring.
pub(in crate::rt) struct Reactor {
    inner: RefCell<Inner>,
    enters: Cell<u64>,
    features: RingFeatures,
    /// After the ring, which may have it until then.
    buffers: RefCell<Option<BufferRing>>,
    /// After the ring likewise.
    pub(super) arena: RefCell<Option<RegisteredArena>>,
    pub(super) files: RefCell<RegisteredFiles>,
    /// System calls that tasks may still make by themselves before the core turns to its ring.
    direct_calls_left: Cell<u32>,
}

/// In a turn that brought no more completions than this, tasks may make as many system calls of their own: with little to do an
/// answer is soonest on its way by itself. With more to do the ring takes many operations in one system call.
const FEW_COMPLETIONS: u32 = 4;

struct Inner {
    ring: IoUring,
    polled: Option<PolledRing>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Entries that found the submission queue full, oldest first: one for each operation in flight and one for its
    /// cancellation at most.
    backlog: VecDeque<squeue::Entry>,
    in_flight: usize,
    doorbell: Arc<Doorbell>,
    doorbell_armed: bool,
    /// Descriptors with a poll in flight that wakes a parked core, and the poll's number: a closed descriptor's number may be
    /// another's already.
    watched: Vec<(RawFd, u64)>,
    next_watch: u64,
    /// Reused by `poll`: what to do with no borrow held.
    completed: Vec<Completed>,
    /// Requests with many completions whose queues are full.
    overfed: Vec<SlotKey>,
}

struct Slot {
    generation: u32,
    /// The result of an operation of which the kernel still has the memory: a notification will follow.
    sent: i32,
    state: State,
}

enum State {
    Free,
    InFlight(Waker),
    Done(i32),
    Orphaned(Box<dyn Orphan>),
    Multishot(Rc<dyn Multishot>),
    /// `shut_down` gave up on the operation. The kernel may use its memory for as long as it likes: the slot is nobody else's any more,
    /// and what it held is leaked.
    GivenUp,
}

pub(super) enum Completed {
    Wake(Waker),
    Orphan(Box<dyn Orphan>, i32),
    /// The request is over; dropping it may close its descriptor.
    Ended(Rc<dyn Multishot>),
}

/// Names an operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rt) struct SlotKey {
    index: u32,
    generation: u32,
}

impl SlotKey {
    fn user_data(self) -> u64 {
        // The generation's top bit is masked off to keep clear of `READABLE`.
        u64::from(self.generation & 0x7fff_ffff) << 32 | u64::from(self.index)
    }
}

impl Reactor {
    pub(in crate::rt) fn new(entries: u32, allowed: RingFeatures, doorbell: &Arc<Doorbell>) -> Result<Self> {
        let ProbedRing { ring, features, buffers } = ProbedRing::new(entries, allowed)?;
        let inner = Inner {
            ring,
            polled: None,
            slots: Vec::new(),
            free: Vec::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            doorbell: Arc::clone(doorbell),
            doorbell_armed: false,
            watched: Vec::new(),
            next_watch: 0,
            completed: Vec::new(),
            overfed: Vec::new(),
        };
        Ok(Self {
            inner: RefCell::new(inner),
            enters: Cell::new(0),
            features,
            buffers: RefCell::new(buffers),
            arena: RefCell::default(),
            files: RefCell::default(),
            direct_calls_left: Cell::new(FEW_COMPLETIONS),
        })
    }

    /// Whether the ring has `feature` and may use it.
    pub(super) fn has(&self, feature: RingFeature) -> bool {
        self.features.contains(feature)
    }

    /// Changes the ring of polled devices. `change` runs no foreign code.
    pub(super) fn with_polled<R>(
        &self,
        change: impl FnOnce(&mut Option<PolledRing>) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut inner = self.inner.try_borrow_mut().map_err(io::Error::other)?;
        change(&mut inner.polled)
    }

    /// Registers something with the ring. `register` runs no foreign code.
    pub(super) fn with_ring<R>(&self, register: impl FnOnce(&IoUring) -> io::Result<R>) -> io::Result<R> {
        // Only a subscriber to the log could come here while the reactor is at work.
        let inner = self.inner.try_borrow().map_err(io::Error::other)?;
        register(&inner.ring)
    }

    /// Hands everything that is queued to the kernel; whether it took all of it.
    pub(super) fn hand_over(&self) -> bool {
        let Ok(mut inner) = self.inner.try_borrow_mut() else { return false };
        self.submit_backlog(&mut inner);
        if !inner.ring.submission().is_empty() {
            // A failure comes again with the next `poll`, which returns it.
            let _ = self.submit(&inner);
        }
        inner.backlog.is_empty() && inner.ring.submission().is_empty()
    }

    /// Whether a task may make a system call of its own now instead of using the ring; counts it.
    pub(super) fn take_direct_call(&self) -> bool {
        let left = self.direct_calls_left.get();
        self.direct_calls_left.set(left.saturating_sub(1));
        left > 0
    }

    /// Shows what a chunk holds. `read` does not use the reactor.
    pub(super) fn with_chunk<R>(&self, chunk: &Chunk, read: impl FnOnce(&[u8]) -> R) -> R {
        let buffers = self.buffers.borrow();
        read(buffers.as_ref().map_or(&[], |buffers| buffers.bytes(chunk)))
    }

    /// Lends a chunk's buffer to the kernel again.
    pub(super) fn recycle(&self, chunk: Chunk) {
        if let Some(buffers) = &mut *self.buffers.borrow_mut() {
            buffers.recycle(chunk);
        }
    }

    /// System calls made so far.
    pub(in crate::rt) fn enters(&self) -> u64 {
        self.enters.get()
    }

    /// Queues an operation; it reaches the kernel with the next `poll` or `wait`, or at once if the queue is full.
    ///
    /// # Safety
    ///
    /// Whatever memory `call` points to stays valid, and unmoved, until the slot is `Done` or its orphan was told.
    pub(in crate::rt) unsafe fn start(&self, call: Call, descriptor: RawFd, waker: Waker) -> SlotKey {
        let mut inner = self.inner.borrow_mut();
        let key = inner.take_slot(State::InFlight(waker));
        if let Some(polled) = &mut inner.polled
            && call.can_be_polled()
            && polled.serves(descriptor)
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
    pub(super) unsafe fn start_multishot(&self, entry: squeue::Entry, target: Rc<dyn Multishot>) -> SlotKey {
        let mut inner = self.inner.borrow_mut();
        let key = inner.take_slot(State::Multishot(target));
        self.push(&mut inner, entry.user_data(key.user_data()));
        key
    }

    /// Asks the kernel to cancel an operation.
    pub(super) fn cancel(&self, key: SlotKey) {
        // Only a subscriber to the log could come here while the reactor is at work; then the operation goes on.
        if let Ok(mut inner) = self.inner.try_borrow_mut() {
            self.push_cancel(&mut inner, key);
        }
    }

    fn push_cancel(&self, inner: &mut Inner, key: SlotKey) {
        let cancel = opcode::AsyncCancel::new(key.user_data()).build();
        self.push(inner, cancel.user_data(IGNORED));
    }

    /// The result of an operation if it is done, which frees its slot; otherwise keeps `waker` for when it is.
    pub(in crate::rt) fn finish(&self, key: SlotKey, waker: &Waker) -> Option<i32> {
        let mut inner = self.inner.borrow_mut();
        match inner.state(key) {
            State::Done(result) => {
                let result = *result;
                inner.release(key);
                return Some(result);
            }
            State::InFlight(current) if current.will_wake(waker) => return None,
            State::InFlight(_) => {}
            State::GivenUp => return None,
            State::Free | State::Orphaned(_) | State::Multishot(_) => {
                unreachable!("an operation is finished once, by its only future")
            }
        }
        drop(inner);
        // Cloning and dropping wakers may be foreign code, which may drop other operations: not under the borrow.
        let mut kept = waker.clone();
        let mut inner = self.inner.borrow_mut();
        let mut result = None;
        match inner.state(key) {
            State::InFlight(current) => std::mem::swap(current, &mut kept),
            // That foreign code filled the queue, and completions were taken to make room: the other waker is told, not this one.
            State::Done(done) => {
                result = Some(*done);
                inner.release(key);
            }
            State::GivenUp | State::Free | State::Orphaned(_) | State::Multishot(_) => {}
        }
        drop(inner);
        drop(kept);
        result
    }

    /// Gives an operation's value to its slot, because nobody waits any more; asks the kernel to cancel it.
    pub(in crate::rt) fn orphan(&self, key: SlotKey, orphan: Box<dyn Orphan>) {
        let Ok(mut inner) = self.inner.try_borrow_mut() else {
            // Only a subscriber to the log could come here while the reactor is at work. The kernel may use the memory: a panic,
            // which would free it, is not an answer.
            std::mem::forget(orphan);
            return;
        };
        let previous = match inner.state(key) {
            State::GivenUp => {
                drop(inner);
                orphan.given_up();
                return;
            }
            State::Done(result) => {
                let result = *result;
                inner.release(key);
                drop(inner);
                orphan.completed(result);
                return;
            }
            state => std::mem::replace(state, State::Orphaned(orphan)),
        };
        self.push_cancel(&mut inner, key);
        drop(inner);
        // The waker's destructor may free a task, and with it other operations: not under the borrow.
        drop(previous);
    }

    /// Queues an entry behind those that came before it.
    fn push(&self, inner: &mut Inner, entry: squeue::Entry) {
        if inner.backlog.is_empty() && inner.push_entry(&entry) {
            return;
        }
        inner.backlog.push_back(entry);
        self.submit_backlog(inner);
    }

    /// Moves entries that found the queue full into it, as far as the kernel takes it from there. What is left waits for the next
    /// turn: the core goes on meanwhile, and completions that the kernel may want taken first are told to their owners.
    fn submit_backlog(&self, inner: &mut Inner) {
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
    fn poll_devices(&self, inner: &mut Inner) -> Result<bool> {
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
    fn reap(&self, inner: &mut Inner) -> usize {
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

    fn submit(&self, inner: &Inner) -> Result<()> {
        self.enters.set(self.enters.get() + 1);
        match inner.ring.submitter().submit() {
            Ok(_) => Ok(()),
            Err(error) => retry_later(&error),
        }
    }

    /// Hands queued operations to the kernel and wakes whoever's operation is done; returns how many were.
    pub(in crate::rt) fn poll(&self) -> Result<usize> {
        let mut inner = self.inner.borrow_mut();
        self.submit_backlog(&mut inner);
        self.poll_devices(&mut inner)?;
        let needs_kernel = {
            let queue = inner.ring.submission();
            !queue.is_empty() || queue.taskrun() || queue.cq_overflow()
        };
        if needs_kernel {
            // Also runs the kernel's deferred work if the ring's flags say that there is some.
            self.submit(&inner)?;
        }
        Ok(self.deliver(inner))
    }

    /// Takes completions and tells their owners, with no borrow held; returns how many.
    fn deliver(&self, mut inner: std::cell::RefMut<'_, Inner>) -> usize {
        let reaped = self.reap(&mut inner);
        let few = reaped <= FEW_COMPLETIONS as usize;
        self.direct_calls_left.set(if few { FEW_COMPLETIONS } else { 0 });
        while let Some(key) = inner.overfed.pop() {
            self.push_cancel(&mut inner, key);
        }
        if inner.completed.is_empty() {
            return reaped;
        }
        let mut untold = std::mem::take(&mut inner.completed);
        drop(inner);
        each_quietly(untold.drain(..), |completed| match completed {
            Completed::Wake(waker) => waker.wake(),
            Completed::Orphan(orphan, result) => orphan.completed(result),
            Completed::Ended(request) => drop(request),
        });
        let mut inner = self.inner.borrow_mut();
        // Keeps the allocation, and what foreign code left that used the reactor meanwhile.
        untold.append(&mut inner.completed);
        inner.completed = untold;
        reaped
    }

    /// Wakes a core that sleeps in `wait` when `descriptor` is readable, once.
    pub(in crate::rt) fn wake_when_readable(&self, descriptor: RawFd) -> Result<()> {
        if descriptor < 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "watch descriptor").because("it is negative"));
        }
        let mut inner = self.inner.borrow_mut();
        if !inner.watched.iter().any(|(watched, _)| *watched == descriptor) {
            let watch = inner.next_watch;
            // Far from `IGNORED` and `DOORBELL` for as long as anybody lives.
            inner.next_watch += 1;
            inner.watched.push((descriptor, watch));
            let poll = opcode::PollAdd::new(types::Fd(descriptor), POLLIN).build();
            self.push(&mut inner, poll.user_data(READABLE | watch));
        }
        Ok(())
    }

    /// Forgets which descriptors are watched, because one of them may be closed: the next `wake_when_readable` starts anew.
    pub(in crate::rt) fn unwatch_all(&self) {
        let mut inner = self.inner.borrow_mut();
        for (_, watch) in std::mem::take(&mut inner.watched) {
            let cancel = opcode::AsyncCancel::new(READABLE | watch).build();
            self.push(&mut inner, cancel.user_data(IGNORED));
        }
    }

    /// Whether a device has operations that only asking it completes.
    pub(in crate::rt) fn must_be_polled(&self) -> bool {
        self.inner.borrow().polled.as_ref().is_some_and(PolledRing::is_busy)
    }

    /// Sleeps until a completion, the doorbell, or `longest` has passed.
    pub(in crate::rt) fn wait(&self, longest: Option<Duration>) -> Result<()> {
        let mut inner = self.inner.borrow_mut();
        if !inner.doorbell_armed {
            inner.doorbell_armed = true;
            let poll = opcode::PollAdd::new(types::Fd(inner.doorbell.as_fd().as_raw_fd()), POLLIN).build();
            self.push(&mut inner, poll.user_data(DOORBELL));
        }
        if self.poll_devices(&mut inner)? {
            // Nothing would end the sleep when a device is done.
            self.deliver(inner);
            return Ok(());
        }
        if !inner.completed.is_empty() {
            // Making room in the queue took completions whose owners were not told yet: no time to sleep.
            self.deliver(inner);
            return Ok(());
        }
        self.submit_backlog(&mut inner);
        let longest = if inner.backlog.is_empty() {
            longest
        } else {
            Some(longest.map_or(BACKLOG_RETRY, |longest| longest.min(BACKLOG_RETRY)))
        };
        self.enters.set(self.enters.get() + 1);
        let timespec = longest.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        if let Err(error) = inner.ring.submitter().submit_with_args(1, &args) {
            retry_later(&error)?;
        }
        self.deliver(inner);
        Ok(())
    }

    fn cancel_all(&self) {
        let mut inner = self.inner.borrow_mut();
        if self.has(RingFeature::CancelAny) {
            let cancel_all = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
            self.push(&mut inner, cancel_all.user_data(IGNORED));
            return;
        }
        for index in 0..inner.slots.len() {
            let slot = &inner.slots[index];
            let in_flight =
                matches!(slot.state, State::InFlight(_) | State::Orphaned(_) | State::Multishot(_));
            if in_flight && let Ok(index) = u32::try_from(index) {
                let key = SlotKey { index, generation: slot.generation };
                self.push_cancel(&mut inner, key);
            }
        }
    }

    /// Cancels everything and waits until the kernel has let go of every buffer, or `patience` is over.
    pub(in crate::rt) fn shut_down(&self, mut patience: Patience<'_>) {
        let mut rounds = 0;
        let mut left = self.inner.borrow().in_flight;
        while left > 0 && !patience.is_over() {
            // Not every time: the cancellation's own completion ends the wait at once.
            if rounds % ROUNDS_PER_CANCEL == 0 {
                self.cancel_all();
            }
            if let Err(error) = self.wait(Some(ROUND)) {
                quietly(|| warn!("waiting for I/O in flight failed: {error}"));
                break;
            }
            rounds += 1;
            left = self.inner.borrow().in_flight;
        }
        if left > 0 {
            // Outside the borrow: what they do not leak is dropped.
            let orphans = self.inner.borrow_mut().give_up();
            each_quietly(orphans.into_iter(), Orphan::given_up);
            // Last, because a subscriber to the log is foreign code and may panic.
            quietly(|| warn!("{left} operations did not finish; their memory is not freed"));
        }
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        if self.inner.get_mut().in_flight > 0 {
            // A request may still be given a buffer to write to.
            std::mem::forget(self.buffers.take());
        }
    }
}

const POLLIN: u32 = 1;

/// What a failed `io_uring_enter` means: nothing for a time-out, a signal or a full completion queue.
fn retry_later(error: &std::io::Error) -> Result<()> {
    match error.raw_os_error() {
        Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
        code => Err(Error::os(code.unwrap_or(libc::EIO), "io_uring_enter")),
    }
}

/// The result of a send without copying, of what it `sent` and the kernel's notification.
fn notified(sent: i32, notification: i32) -> i32 {
    // IORING_NOTIF_USAGE_ZC_COPIED is the top bit.
    if sent >= 0 && notification < 0 { sent | COPIED } else { sent }
}

impl Inner {
    /// Whether there was room for the entry.
    fn push_entry(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: `start`'s caller promises that the entry's memory outlives the operation; the reactor's own entries (cancel,
        // poll) point to none.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    fn take_slot(&mut self, state: State) -> SlotKey {
        self.in_flight += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, sent: 0, state: State::Free });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations in flight")
        });
        let slot = &mut self.slots[index as usize];
        slot.state = state;
        SlotKey { index, generation: slot.generation }
    }

    fn state(&mut self, key: SlotKey) -> &mut State {
        let slot = &mut self.slots[key.index as usize];
        debug_assert_eq!(slot.generation, key.generation, "a slot is named only while it is taken");
        &mut slot.state
    }

    fn release(&mut self, key: SlotKey) {
        let slot = &mut self.slots[key.index as usize];
        slot.state = State::Free;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
    }

    /// Leaks what the operations in flight work on; those whose future is gone are returned, and know themselves what to leak.
    #[must_use = "they have memory that the kernel may use: it must not be dropped"]
    fn give_up(&mut self) -> Vec<Box<dyn Orphan>> {
        let mut orphans = Vec::new();
        for slot in &mut self.slots {
            if !matches!(slot.state, State::InFlight(_) | State::Orphaned(_) | State::Multishot(_)) {
                continue;
            }
            match std::mem::replace(&mut slot.state, State::GivenUp) {
                State::Orphaned(orphan) => orphans.push(orphan),
                state => std::mem::forget(state),
            }
        }
        orphans
    }

    /// Returns 1 for something that somebody waited for.
    fn complete(&mut self, entry: &cqueue::Entry, buffers: Option<&mut BufferRing>) -> usize {
        match entry.user_data() {
            IGNORED => return 0,
            DOORBELL => {
                self.doorbell_armed = false;
                self.doorbell.silence();
                return 0;
            }
            data if data & READABLE != 0 => {
                let before = self.watched.len();
                self.watched.retain(|(_, watch)| READABLE | watch != data);
                // One that was cancelled means nothing.
                return before - self.watched.len();
            }
            _ => {}
        }
        let index = u32::try_from(entry.user_data() & u64::from(u32::MAX)).expect("masked to 32 bits");
        let slot = &mut self.slots[index as usize];
        if let State::Multishot(target) = &slot.state {
            let target = Rc::clone(target);
            let key = SlotKey { index, generation: slot.generation };
            self.fed(key, target, entry, buffers);
            return 1;
        }
        if cqueue::more(entry.flags()) {
            slot.sent = entry.result();
            return 0;
        }
        let result =
            if cqueue::notif(entry.flags()) { notified(slot.sent, entry.result()) } else { entry.result() };
        self.in_flight -= 1;
        if matches!(slot.state, State::GivenUp) {
            return 0;
        }
        match std::mem::replace(&mut slot.state, State::Done(result)) {
            State::InFlight(waker) => self.completed.push(Completed::Wake(waker)),
            State::Orphaned(orphan) => {
                let generation = slot.generation;
                self.release(SlotKey { index, generation });
                self.completed.push(Completed::Orphan(orphan, result));
            }
            State::Free | State::Done(_) | State::Multishot(_) | State::GivenUp => {
                unreachable!("the kernel completes an operation once")
            }
        }
        1
    }

    /// One of the many completions of a request.
    fn fed(
        &mut self,
        key: SlotKey,
        target: Rc<dyn Multishot>,
        entry: &cqueue::Entry,
        mut buffers: Option<&mut BufferRing>,
    ) {
        let more = cqueue::more(entry.flags());
        if let Some(buffers) = &mut buffers
            && entry.result() == -libc::ENOBUFS
        {
            buffers.grow();
        }
        let len = u32::try_from(entry.result()).unwrap_or(0);
        let chunk = cqueue::buffer_select(entry.flags())
            .and_then(|buffer| buffers.as_ref().and_then(|buffers| buffers.filled(buffer, len)));
        let chunk = match (chunk, &mut buffers) {
            (Some(chunk), Some(buffers)) if chunk.len() == 0 => {
                // Some kernels take a buffer to say that the stream ended.
                buffers.recycle(chunk);
                None
            }
            (chunk, _) => chunk,
        };
        let event = Event { result: entry.result(), chunk, more };
        if target.event(event, &mut self.completed) {
            self.overfed.push(key);
        }
        if !more {
            self.in_flight -= 1;
            self.release(key);
            self.completed.push(Completed::Ended(target));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.in_flight > 0 {
            // `shut_down` gave up, or a panic of the clock got in its way: the kernel may still use the operations' memory.
            each_quietly(self.give_up().into_iter(), Orphan::given_up);
        }
    }
}

#[cfg(test)]
mod tests;
