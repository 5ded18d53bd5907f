//! How other threads reach a core: a lock-free list of tasks to wake or release, and a queue of
//! messages.
//!
//! # References from other threads
//!
//! A task counts its references without atomics, because nearly all of them come and go on its own
//! core. A waker that reached another thread must not touch that count, so it works on the task's
//! [`InboxNode`] instead, whose [`Word`] collects what other threads did. The thread that changes
//! it first pushes the node on the inbox's list; `word` has the states and who may free the task
//! when.
//!
//! The owner takes the whole list, and settles each node: it adds the word's count to the local
//! one, schedules the task if it was woken, and frees it if nothing is left. The list may be long,
//! so it does that over several turns, and so it reverses the list before, which is newest first.
//! What it has taken stays listed until its node's turn comes.
//!
//! # Sleeping
//!
//! A sender pushes, and then rings if the core has announced its [`SleepFlag`]. The core announces
//! it and then looks at the list once more before it sleeps.
//!
//! # In a simulation
//!
//! On one thread nothing happens between two steps of a sender, so the simulation of cores is
//! called there ([`Simulation::between`]) and lets other cores take steps of this protocol. The
//! core's own steps it takes one by one. [`Defect`] breaks the protocol on purpose, to show that
//! the simulation notices.
//!
//! # After the core
//!
//! When a core ends it closes its inbox. Wakers may outlive it; from then on the pusher also
//! takes the list, under a mutex, and does the owner's part of freeing.

mod sleep_flag;
mod word;

use std::collections::VecDeque;
use std::fmt;
use std::ptr::{self, NonNull};

#[cfg(loom)]
use loom::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicPtr, Ordering, fence},
};
#[cfg(not(loom))]
use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicPtr, Ordering, fence},
};

use super::defect::Defect;
use crate::user_code::drop_contained;
use sleep_flag::SleepFlag;
pub(in crate::rt) use word::Changes;
use word::{Listing, Mark, Word};

/// The part of a task that other threads may touch. The first field of the task's header.
pub(in crate::rt) struct InboxNode {
    word: Word,
    next: AtomicPtr<InboxNode>,
}

impl InboxNode {
    pub(in crate::rt) fn new() -> Self {
        Self { word: Word::new(), next: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Adds a reference from a thread that is not the owner and holds one already.
    pub(in crate::rt) fn add_reference(&self) {
        self.word.add_reference();
    }

    /// Whether the owner may free the task, given that it holds `local` references itself.
    pub(in crate::rt) fn is_unreferenced(&self, local: i64) -> bool {
        self.word.is_unreferenced(local)
    }
}

/// A message to a core: runs on it.
pub(in crate::rt) type Message = Box<dyn FnOnce() + Send>;

/// A message that was not sent, and why.
pub(in crate::rt) enum Unsent {
    /// The core is gone.
    Closed(Message),
    /// Too many wait already.
    Full(Message),
}

/// What a simulation of cores asks of an inbox.
#[derive(Clone, Copy)]
pub(crate) struct Simulation {
    /// Called between two steps of a sender. The caller may hold any lock of user code.
    pub(crate) between: fn(),
    pub(crate) defect: Option<Defect>,
}

/// A core's inbox; shared with every waker and handle.
pub(in crate::rt) struct Inbox {
    head: AtomicPtr<InboxNode>,
    /// What the owner has taken off the list and not handed on yet: the part that is in the list's
    /// order, and the part that is in that of the wakes. For the owner alone, so they are not
    /// loom's.
    newest_first: std::sync::atomic::AtomicPtr<InboxNode>,
    oldest_first: std::sync::atomic::AtomicPtr<InboxNode>,
    messages: Mutex<VecDeque<Message>>,
    /// More messages than this do not wait.
    most_messages: usize,
    has_messages: AtomicBool,
    sleep_flag: SleepFlag,
    closed: AtomicBool,
    /// Tasks of the core that are not freed. Written by the owner alone; not loom's, because no
    /// other thread looks at it.
    tasks: std::sync::atomic::AtomicUsize,
    /// Held by the thread that does the owner's part after `closed`.
    afterlife: Mutex<()>,
    wake_core: Box<dyn Fn() + Send + Sync>,
    /// Applies the changes of one task after the core is gone; the mutex `afterlife` is held.
    bury: fn(NonNull<InboxNode>, Changes),
    simulation: Option<Simulation>,
}

impl Inbox {
    /// An inbox that holds `most_messages`, calls `wake_core` when a parked core must wake, and
    /// `bury` for every task that changes after the core is gone.
    pub(in crate::rt) fn new(
        most_messages: usize,
        wake_core: Box<dyn Fn() + Send + Sync>,
        bury: fn(NonNull<InboxNode>, Changes),
    ) -> Self {
        Self {
            head: AtomicPtr::new(ptr::null_mut()),
            newest_first: std::sync::atomic::AtomicPtr::default(),
            oldest_first: std::sync::atomic::AtomicPtr::default(),
            messages: Mutex::new(VecDeque::new()),
            most_messages,
            has_messages: AtomicBool::new(false),
            sleep_flag: SleepFlag::new(),
            closed: AtomicBool::new(false),
            tasks: std::sync::atomic::AtomicUsize::new(0),
            afterlife: Mutex::new(()),
            wake_core,
            bury,
            simulation: None,
        }
    }

    /// The same in a simulation.
    pub(in crate::rt) fn simulated(mut self, simulation: Simulation) -> Self {
        self.simulation = Some(simulation);
        self
    }

    /// Whether the protocol is to be broken in this way. Never in a build without debug assertions.
    fn has(&self, defect: Defect) -> bool {
        cfg!(debug_assertions) && self.simulation.is_some_and(|simulation| simulation.defect == Some(defect))
    }

    /// Between two steps of a sender, which may be preempted here.
    fn between_steps(&self) {
        if let Some(simulation) = self.simulation {
            (simulation.between)();
        }
    }

    /// The owner made a task. Until it is freed it counts on this inbox.
    pub(in crate::rt) fn task_made(&self) {
        self.tasks.store(self.tasks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The owner freed a task.
    pub(in crate::rt) fn task_freed(&self) {
        self.tasks.store(self.tasks.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }

    /// Wakes a task from another thread.
    ///
    /// # Safety
    ///
    /// `node` belongs to a task of this inbox's core, and the caller holds a reference to it for
    /// the whole call.
    pub(in crate::rt) unsafe fn wake(&self, node: NonNull<InboxNode>) {
        // SAFETY: the same is asked of the caller.
        unsafe { self.mark(node, self.wake_mark()) };
    }

    /// Asks for the end of a task from another thread, and wakes it to that end.
    ///
    /// # Safety
    ///
    /// As for [`wake`](Self::wake).
    pub(in crate::rt) unsafe fn cancel(&self, node: NonNull<InboxNode>) {
        // SAFETY: the same is asked of the caller.
        unsafe { self.mark(node, Mark::CANCEL) };
    }

    /// # Safety
    ///
    /// As for [`wake`](Self::wake).
    unsafe fn mark(&self, node: NonNull<InboxNode>, mark: Mark) {
        // SAFETY: the caller's reference keeps the node alive.
        let listing = unsafe { node.as_ref() }.word.mark(mark);
        if listing == Listing::Claimed {
            // SAFETY: this call claimed the node, so nobody else pushes it and the owner keeps it
            // until it took it off the list.
            unsafe { self.push(node) };
        }
    }

    /// Drops a reference from another thread, and wakes the task first if `wake`.
    ///
    /// # Safety
    ///
    /// `node` belongs to a task of this inbox's core; the caller held a reference to it and gives
    /// it up.
    pub(in crate::rt) unsafe fn release(&self, node: NonNull<InboxNode>, wake: bool) {
        let mark = if wake { self.wake_mark() } else { Mark::NEWS };
        // SAFETY: the caller's reference keeps the node alive until this one atomic operation gives
        // it up.
        let listing = unsafe { node.as_ref() }.word.release(mark);
        if listing == Listing::Claimed {
            // SAFETY: this call claimed the node, so nobody else pushes it and the owner keeps it
            // until it took it off the list.
            unsafe { self.push(node) };
        }
    }

    /// What a wake does to a task.
    fn wake_mark(&self) -> Mark {
        let breaks = self.has(Defect::WakeUnlisted) && !self.sleep_flag.is_announced();
        if breaks { Mark::UNHEARD_WAKE } else { Mark::WAKE }
    }

    /// # Safety
    ///
    /// The caller has claimed `node` and did not push it yet.
    unsafe fn push(&self, node: NonNull<InboxNode>) {
        let early = self.look_early();
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: the node is not freed while it is claimed or listed, which lasts until the
            // owner took it off the list.
            unsafe { node.as_ref() }.next.store(head, Ordering::Relaxed);
            match self.head.compare_exchange_weak(head, node.as_ptr(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        self.after_push(early);
    }

    /// Sends a message, or gives it back.
    pub(in crate::rt) fn send(&self, message: Message) -> Result<(), Unsent> {
        let early = self.look_early();
        {
            let mut messages = self.messages.lock().expect("no code panics while it holds the inbox's lock");
            if self.closed.load(Ordering::SeqCst) {
                return Err(Unsent::Closed(message));
            }
            if messages.len() >= self.most_messages {
                return Err(Unsent::Full(message));
            }
            messages.push_back(message);
            self.has_messages.store(true, Ordering::Release);
        }
        self.after_push(early);
        Ok(())
    }

    /// Whether the core sleeps, asked before the push; only as a defect.
    fn look_early(&self) -> Option<bool> {
        if !self.has(Defect::LookBeforeListing) {
            return None;
        }
        let is_announced = self.sleep_flag.is_announced();
        self.between_steps();
        Some(is_announced)
    }

    fn after_push(&self, early: Option<bool>) {
        fence(Ordering::SeqCst);
        self.between_steps();
        let is_announced = early.unwrap_or_else(|| self.sleep_flag.is_announced());
        if is_announced && self.sleep_flag.must_ring() {
            (self.wake_core)();
        }
        if self.closed.load(Ordering::SeqCst) {
            let _guard = self.afterlife.lock().expect("burying a task does not panic");
            self.take_tasks(usize::MAX, self.bury);
        }
    }

    /// Takes listed tasks and hands them with their changes to `apply`, oldest first: at most
    /// `budget` of them. It returns how many, and that may be none while [`Inbox::has_taken`]. Only
    /// for the owner, or under `afterlife` once closed.
    fn take_tasks(&self, budget: usize, mut apply: impl FnMut(NonNull<InboxNode>, Changes)) -> usize {
        let (newest_before, oldest_before) =
            (self.newest_first.load(Ordering::Relaxed), self.oldest_first.load(Ordering::Relaxed));
        let (mut newest, mut oldest) = (newest_before, oldest_before);
        if newest.is_null() && oldest.is_null() {
            newest = self.head.swap(ptr::null_mut(), Ordering::Acquire);
        }
        for _ in 0..budget {
            let Some(node) = NonNull::new(newest) else { break };
            // SAFETY: a node on the list is listed, so it is alive; the list was taken whole, so it
            // is ours alone.
            newest = unsafe { node.as_ref() }.next.swap(oldest, Ordering::Relaxed);
            oldest = node.as_ptr();
        }
        let mut taken = 0;
        while newest.is_null()
            && taken < budget
            && let Some(node) = NonNull::new(oldest)
        {
            // SAFETY: still listed, so alive. `next` is read before the node is settled: afterwards
            // it may be listed anew.
            oldest = unsafe { node.as_ref() }.next.load(Ordering::Relaxed);
            // SAFETY: as above; it is quiet after this, and only `apply` may free the task then.
            let changes = unsafe { node.as_ref() }.word.settle();
            apply(node, changes);
            taken += 1;
        }
        // Mostly all of it was taken, and the line that other threads write is not written to.
        if newest != newest_before || oldest != oldest_before {
            self.newest_first.store(newest, Ordering::Relaxed);
            self.oldest_first.store(oldest, Ordering::Relaxed);
        }
        taken
    }

    /// Whether the owner took tasks off the list that it has not handed on yet. Only for the owner.
    pub(in crate::rt) fn has_taken(&self) -> bool {
        !self.newest_first.load(Ordering::Relaxed).is_null()
            || !self.oldest_first.load(Ordering::Relaxed).is_null()
    }

    /// The owner's turn: hands listed tasks to `apply`, at most `budget` of them; returns how many.
    pub(in crate::rt) fn drain(
        &self,
        budget: usize,
        apply: impl FnMut(NonNull<InboxNode>, Changes),
    ) -> usize {
        let is_empty = self.head.load(Ordering::Relaxed).is_null() && !self.has_taken();
        if is_empty { 0 } else { self.take_tasks(budget, apply) }
    }

    /// Moves all messages to `taken`, which is empty; whether there were any. The owner keeps them
    /// from then on.
    pub(in crate::rt) fn take_messages(&self, taken: &mut VecDeque<Message>) -> bool {
        debug_assert!(taken.is_empty(), "messages are handled in their order");
        if !self.has_messages.load(Ordering::Relaxed) {
            return false;
        }
        let mut messages = self.messages.lock().expect("no code panics while it holds the inbox's lock");
        self.has_messages.store(false, Ordering::Relaxed);
        std::mem::swap(&mut *messages, taken);
        true
    }

    /// Announces that the core is about to sleep. It then looks again.
    pub(in crate::rt) fn announce(&self) {
        self.sleep_flag.announce();
    }

    /// After `announce`: whether the core may sleep. False if something arrived; it is not
    /// announced any more then.
    pub(in crate::rt) fn look_again(&self) -> bool {
        let empty = self.is_empty() || self.has(Defect::SleepWithoutLook);
        if !empty {
            self.sleep_flag.withdraw();
        }
        empty
    }

    /// Whether there is nothing for the core, as far as it can see.
    pub(in crate::rt) fn is_empty(&self) -> bool {
        self.head.load(Ordering::Relaxed).is_null() && !self.has_messages() && !self.has_taken()
    }

    /// Whether there are messages that the owner has not taken, as far as it can see.
    pub(in crate::rt) fn has_messages(&self) -> bool {
        self.has_messages.load(Ordering::Relaxed)
    }

    /// The core is awake again, whatever woke it.
    pub(in crate::rt) fn unpark(&self) {
        self.sleep_flag.withdraw();
    }

    /// The core ends. The owner must not touch any of its tasks afterwards. While it lived it kept
    /// the inbox for its tasks; those that are left keep it themselves from here on.
    pub(in crate::rt) fn close(self: &std::sync::Arc<Self>) {
        for _ in 0..self.tasks.swap(0, Ordering::Relaxed) {
            // Given back when the task is buried.
            std::mem::forget(std::sync::Arc::clone(self));
        }
        let unsent = {
            let mut messages = self.messages.lock().expect("no code panics while it holds the inbox's lock");
            self.closed.store(true, Ordering::SeqCst);
            std::mem::take(&mut *messages)
        };
        unsent.into_iter().for_each(drop_contained);
        // Pairs with the fence in `after_push`: a pusher sees `closed`, or its node is on the list
        // taken here.
        fence(Ordering::SeqCst);
        let _guard = self.afterlife.lock().expect("burying a task does not panic");
        if self.has_taken() {
            self.take_tasks(usize::MAX, self.bury);
        }
        self.take_tasks(usize::MAX, self.bury);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
