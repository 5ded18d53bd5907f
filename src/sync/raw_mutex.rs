//! The lock of [`Mutex`](super::Mutex), without the value: one word that the first comer takes, and
//! a queue for those who come later.
//!
//! # The word
//!
//! | | |
//! |---|---|
//! | 0 | free |
//! | `LOCKED` | held; the holder that gives it up just clears it |
//! | `LOCKED`, `QUEUED` | held; the holder that gives it up looks into the queue |
//!
//! A task that finds the lock free takes it, though others may wait: what the one that gave it up
//! has in its cache it can use again at once, where a task that waits on another core has to be
//! woken, which takes much longer than most locks are held. The holder that gives up a lock with
//! waiters takes the first one out of the queue, leaves the lock free and tells that one to look.
//! Until that has looked, others may take the lock and give it up without any regard to it. If it
//! then finds the lock held it goes back to the head of the queue, and sets `QUEUED`.
//!
//! # Nobody starves
//!
//! A waiter that has been told to look, and found the lock held, [`MOST_LOST`] times, insists: the
//! lock is then not made free but given to it. It stands before all that have not been told to look
//! since, and each of those before it insists after as many times. Overtaking takes place only
//! while a waiter that was told has not run yet.
//!
//! # No wake-up is lost
//!
//! While somebody waits, one of these is true, or the task that changes it is about to make it
//! true: `QUEUED` is set, and with it `LOCKED`, so that somebody will look into the queue; or a
//! waiter that was told to look has not done so. That one, when it looks, takes the lock and sets
//! `QUEUED` if others wait, or waits again itself, which sets it; and when it is dropped it makes
//! up for it ([`RawMutex::pass_on`]). `QUEUED` is set under the queue's lock and cleared under it.
//! So a waiter that found `LOCKED` and set `QUEUED` is in the queue before the holder looks there.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};
use pin_project_lite::pin_project;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, Ordering};

use super::wait_queue::{At, QueueWaiter, Told, WaitQueue};
use crate::rt::noted;
use crate::user_code::drop_contained;
use crate::user_code::wake_all;

const LOCKED: u32 = 1;
const QUEUED: u32 = 2;

/// How often a waiter is told to look, and finds that somebody else was quicker, before it is given
/// the lock.
pub(super) const MOST_LOST: u32 = 4;

/// A lock between any threads.
#[derive(Debug)]
pub(super) struct RawMutex {
    word: AtomicU32,
    queue: WaitQueue,
}

impl RawMutex {
    const_unless_loom! {
        /// A lock that is free.
        pub(super) fn new() -> Self {
            Self { word: AtomicU32::new(0), queue: WaitQueue::new() }
        }
    }

    /// Takes the lock if it is free.
    #[inline]
    pub(super) fn try_acquire(&self) -> bool {
        // Acquire, against the Release of the task that gave it up.
        self.word.compare_exchange(0, LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the lock, when it is free or given to this future.
    #[inline]
    pub(super) fn acquire(&self) -> Acquire<'_> {
        Acquire { mutex: self, waiter: QueueWaiter::new(&self.queue), lost: 0 }
    }

    /// Gives the lock up. The caller has it.
    #[inline]
    pub(super) fn release(&self) {
        if self.word.compare_exchange(LOCKED, 0, Ordering::Release, Ordering::Relaxed).is_err() {
            self.release_to_waiter();
        }
    }

    /// Gives up the lock, which the caller has, and looks into the queue.
    #[cold]
    fn release_to_waiter(&self) {
        let mut queue = self.queue.lock();
        let told = if queue.front_insists() {
            let word = if queue.len() > 1 { LOCKED | QUEUED } else { LOCKED };
            // Relaxed: nobody takes a lock that is held, and the waiter finds the value through
            // what it is told.
            self.word.store(word, Ordering::Relaxed);
            Told::Given
        } else {
            self.word.store(0, Ordering::Release);
            Told::Alone
        };
        let waker = queue.tell_front(told);
        drop(queue);
        // Mostly in a guard's destructor, which a panic may run: a second one would end the
        // process.
        wake_all(waker);
    }

    /// For a waiter that was told to look, and looks: takes the lock if it is free.
    fn try_acquire_told(&self) -> bool {
        // Tasks that waited already when this waiter was told depend on it; later ones set `QUEUED`
        // by itself. So this may be Relaxed.
        let word = if self.queue.is_empty() { LOCKED } else { LOCKED | QUEUED };
        self.word.compare_exchange(0, word, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// For a waiter that was told to look and will not: another one shall be told.
    #[cold]
    fn pass_on(&self) {
        // As in `try_acquire_told`.
        if self.queue.is_empty() {
            return;
        }
        // The holder looks into the queue when it gives the lock up. If there is no holder, that is
        // this one now.
        if self.word.fetch_or(LOCKED | QUEUED, Ordering::Acquire) & LOCKED == 0 {
            self.release_to_waiter();
        }
    }

    /// Takes the lock if it is free and has `waiter` wait if not; returns whether it has the lock.
    /// `waiter` is idle and waits here.
    fn acquire_or_wait(&self, waiter: Pin<&QueueWaiter<'_>>, at: At, waker: Waker) -> bool {
        let mut queue = self.queue.lock();
        let waited = if queue.is_empty() { 0 } else { QUEUED };
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let next = if word & LOCKED == 0 { LOCKED | waited } else { LOCKED | QUEUED };
            match self.word.compare_exchange_weak(word, next, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & LOCKED != 0 {
            queue.push(waiter, at, waker);
            return false;
        }
        drop(queue);
        // If it panicked, the lock would have no owner.
        drop_contained(waker);
        true
    }
}

pin_project! {
    /// The future of [`RawMutex::acquire`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub(super) struct Acquire<'a> {
        mutex: &'a RawMutex,
        #[pin]
        waiter: QueueWaiter<'a>,
        // How often it was told to look in vain.
        lost: u32,
    }

    impl PinnedDrop for Acquire<'_> {
        #[inline]
        fn drop(this: Pin<&mut Self>) {
            match this.waiter.leave() {
                None | Some(Told::WithAll) => {}
                Some(Told::Alone) => this.mutex.pass_on(),
                Some(Told::Given) => this.mutex.release(),
            }
        }
    }
}

impl Future for Acquire<'_> {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiter.is_idle() && self.mutex.try_acquire() {
            return Poll::Ready(());
        }
        noted("a mutex", self.poll_slow(cx))
    }
}

impl Acquire<'_> {
    #[cold]
    fn poll_slow(self: Pin<&mut Self>, cx: &Context<'_>) -> Poll<()> {
        let this = self.project();
        let waiter = this.waiter.into_ref();
        if waiter.is_idle() {
            let has = this.mutex.acquire_or_wait(waiter, At::Back, cx.waker().clone());
            return if has { Poll::Ready(()) } else { Poll::Pending };
        }
        let told = std::task::ready!(waiter.poll_told(cx));
        if told == Told::Given || this.mutex.try_acquire_told() {
            waiter.take_notice();
            return Poll::Ready(());
        }
        // Should this panic, the waiter has not taken notice yet, and its destructor passes on what
        // it was told.
        let waker = cx.waker().clone();
        waiter.take_notice();
        *this.lost += 1;
        let at = At::Front { insists: *this.lost >= MOST_LOST };
        if this.mutex.acquire_or_wait(waiter, at, waker) { Poll::Ready(()) } else { Poll::Pending }
    }
}
