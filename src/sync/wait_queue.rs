//! The queue of waiting futures under [`Mutex`](super::Mutex) and [`Condvar`](super::Condvar):
//! intrusive, so that a wait allocates nothing.
//!
//! # How it works
//!
//! A [`QueueWaiter`] is a field of the future that waits. When it starts to wait it links its own
//! [`QueueNode`] into the [`WaitQueue`], under the queue's lock, and leaves its waker there. The
//! task that has something to give tells the first node: under the lock it unlinks the node, takes
//! its waker, and at last stores in the node's `place` what it tells; after the lock it wakes. The
//! waiter finds the word without the lock. A waiter that is dropped unlinks itself, unless it was
//! told. All of this takes constant time.
//!
//! # Why the pointers are good
//!
//! The list points at nodes that it does not own. A linked node is alive and has not moved, because
//!
//! - a node is linked by [`Locked::push`] alone, which takes the waiter pinned: from then on its
//!   memory is neither moved nor reused before the waiter's destructor has run (the guarantee of
//!   [`Pin`](std::pin::Pin)). One that is leaked stays linked, and its memory stays;
//! - the waiter's destructor unlinks the node, or has found that it was told: then it is not linked
//!   any more;
//! - the waiter borrows its queue, so a queue is not moved or dropped before the waiters that could
//!   still unlink themselves.
//!
//! Everything in a node but `place` is touched under the lock only, and only while the node is
//! linked or by its own waiter before it is. `place` changes to `WAITING` under the lock, by the
//! waiter, and from there to a word under the lock, by the teller, as the last thing that the
//! teller does to the node: a waiter that finds a word there (Acquire, against the teller's
//! Release) has the node for itself. [`PhantomPinned`] makes the futures around nodes `!Unpin`, so
//! that a `&mut` to such a future does not claim the node for itself alone.
//!
//! # User code
//!
//! Cloning, waking and dropping a waker may call back into the queue that holds it. So none of
//! these is done under the lock.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::ptr::NonNull;
use std::sync::PoisonError;
use std::task::{Context, Poll, Waker};

#[cfg(loom)]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use crate::user_code::drop_contained;
use crate::user_code::wake_all;

type QueueLink = Option<NonNull<QueueNode>>;

/// Futures on any threads that wait.
pub(super) struct WaitQueue {
    list: Mutex<List>,
    /// How many are linked. Changed under the lock.
    len: AtomicUsize,
}

struct List {
    first: QueueLink,
    last: QueueLink,
    /// How many waits have begun here.
    begun: u64,
}

// SAFETY: the pointers are used under the queue's lock, by one thread at a time, and what is behind
// them is `Sync` in so far as it is used by several threads, see `QueueWaiter`.
unsafe impl Send for List {}

/// The place of one wait in a [`WaitQueue`]; a field of the future that waits.
pub(super) struct QueueWaiter<'a> {
    queue: &'a WaitQueue,
    node: QueueNode,
    _pinned: PhantomPinned,
}

// SAFETY: the node's cells are used under the queue's lock while it is linked, whichever thread
// does so, and otherwise by the owner of the waiter; the waker in it may be sent.
unsafe impl Send for QueueWaiter<'_> {}
// SAFETY: the methods that take a shared reference touch the cells under the queue's lock only;
// `place` is atomic.
unsafe impl Sync for QueueWaiter<'_> {}

struct QueueNode {
    previous: Cell<QueueLink>,
    next: Cell<QueueLink>,
    waker: Cell<Option<Waker>>,
    /// Whether it wants to be given what it waits for, and not only to be told to look.
    insists: Cell<bool>,
    /// The number of its wait.
    number: Cell<u64>,
    /// `IDLE`, `WAITING`, or a [`Told`].
    place: AtomicU8,
}

/// Not linked: has not waited yet, or has taken notice of what it was told.
const IDLE: u8 = 0;
/// Linked, except while the one that holds the lock is at it.
const WAITING: u8 = 1;

/// What a waiter is told. It is then not in the queue any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Told {
    /// To look for itself, it alone: a waiter that makes no use of it owes it to another one.
    Alone = 2,
    /// To look for itself, as all others.
    WithAll = 3,
    /// That it has what it waited for.
    Given = 4,
}

impl Told {
    fn from_place(place: u8) -> Option<Self> {
        match place {
            2 => Some(Self::Alone),
            3 => Some(Self::WithAll),
            4 => Some(Self::Given),
            _ => None,
        }
    }
}

/// Where a wait begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Behind everybody else.
    Back,
    /// Before everybody else, for one that had been the first already; `insists` on being given
    /// what it waits for.
    Front { insists: bool },
}

/// A waiting queue that is locked.
pub(super) struct Locked<'a> {
    queue: &'a WaitQueue,
    list: MutexGuard<'a, List>,
}

/// The node behind a pointer that a list or a linked node holds.
///
/// # Safety
///
/// `node` was just read from a list that the caller has locked, or from a node linked there, and
/// the reference is not used after the lock is given up or the node was told something.
unsafe fn linked<'n>(node: NonNull<QueueNode>) -> &'n QueueNode {
    // SAFETY:
    // - a linked node is alive and has not moved, see the essay above;
    // - nobody holds a `&mut` to it: the futures around it are `!Unpin`, and this module makes only
    //   shared references;
    // - its cells are this thread's while it holds the lock.
    unsafe { node.as_ref() }
}

impl WaitQueue {
    const_unless_loom! {
        /// A queue in which nobody waits.
        pub(super) fn new() -> Self {
            Self { list: Mutex::new(List { first: None, last: None, begun: 0 }), len: AtomicUsize::new(0) }
        }
    }

    pub(super) fn lock(&self) -> Locked<'_> {
        // Nothing panics under the lock that would leave the list in pieces: no user code runs
        // there.
        Locked { queue: self, list: self.list.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Whether nobody waits. A waiter counts if the caller knows by other means that it began to
    /// wait (it gave up a lock, say), and does not know that it ended.
    pub(super) fn is_empty(&self) -> bool {
        // Relaxed: see above. It says nothing about others.
        self.len.load(Ordering::Relaxed) == 0
    }

    /// Tells the waiter that has waited longest to look, and wakes it, whatever its waker panics
    /// with; returns whether there was one. See [`WaitQueue::is_empty`].
    pub(super) fn tell_one(&self) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut queue = self.lock();
        let told = !queue.is_empty();
        let waker = queue.tell_front(Told::Alone);
        drop(queue);
        wake_all(waker);
        told
    }

    /// Tells everybody who waits now to look, in their order, whatever a waker panics with. A
    /// waiter that comes while this runs is not told.
    pub(super) fn tell_all(&self) {
        if self.is_empty() {
            return;
        }
        let mut queue = self.lock();
        let begun = queue.list.begun;
        while queue.front().is_some_and(|node| node.number.get() <= begun) {
            let waker = queue.tell_front(Told::WithAll);
            drop(queue);
            wake_all(waker);
            queue = self.lock();
        }
    }
}

impl Locked<'_> {
    fn front(&self) -> Option<&QueueNode> {
        // SAFETY: the pointer is of this list, which is locked for as long as the reference lives.
        self.list.first.map(|node| unsafe { linked(node) })
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.list.first.is_none()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len.load(Ordering::Relaxed)
    }

    /// Whether the first one that waits insists on being given what it waits for.
    pub(super) fn front_insists(&self) -> bool {
        self.front().is_some_and(|node| node.insists.get())
    }

    /// Takes the first waiter out of the queue and tells it `what`; returns its waker for the
    /// caller to wake once the lock is given up.
    #[must_use = "the waiter does not know until it is woken"]
    pub(super) fn tell_front(&mut self, what: Told) -> Option<Waker> {
        let first = self.list.first?;
        // SAFETY: the pointer is of this list, which is locked, and the last use of the reference
        // is to tell it.
        let node = unsafe { linked(first) };
        self.unlink(node);
        let waker = node.waker.take();
        node.place.store(what as u8, Ordering::Release);
        waker
    }

    /// `waiter` begins to wait, with `waker` to be woken.
    ///
    /// # Panics
    ///
    /// If it waits already, or waits elsewhere, which the two futures that call this rule out.
    pub(super) fn push(&mut self, waiter: Pin<&QueueWaiter<'_>>, at: At, waker: Waker) {
        let node = &waiter.get_ref().node;
        assert!(std::ptr::eq(self.queue, waiter.queue), "a waiter waits in its own queue");
        assert!(waiter.is_idle(), "a waiter waits once at a time");
        let link = Some(NonNull::from(node));
        self.list.begun += 1;
        node.number.set(self.list.begun);
        // A waiter that is idle has no waker: it was taken when it was told, or there was none.
        node.waker.set(Some(waker));
        node.place.store(WAITING, Ordering::Relaxed);
        match at {
            At::Back => {
                node.insists.set(false);
                node.previous.set(self.list.last);
                node.next.set(None);
                match self.list.last {
                    // SAFETY: the pointer is of this list, which is locked, and is used at once.
                    Some(last) => unsafe { linked(last) }.next.set(link),
                    None => self.list.first = link,
                }
                self.list.last = link;
            }
            At::Front { insists } => {
                node.insists.set(insists);
                node.previous.set(None);
                node.next.set(self.list.first);
                match self.list.first {
                    // SAFETY: the pointer is of this list, which is locked, and is used at once.
                    Some(first) => unsafe { linked(first) }.previous.set(link),
                    None => self.list.last = link,
                }
                self.list.first = link;
            }
        }
        self.queue.len.store(self.len() + 1, Ordering::Relaxed);
    }

    /// Takes `node`, which is linked, out of the list.
    fn unlink(&mut self, node: &QueueNode) {
        let previous = node.previous.take();
        let next = node.next.take();
        match previous {
            // SAFETY: the pointer is of a node that is linked in this list, which is locked, and is
            // used at once.
            Some(previous) => unsafe { linked(previous) }.next.set(next),
            None => self.list.first = next,
        }
        match next {
            // SAFETY: the pointer is of a node that is linked in this list, which is locked, and is
            // used at once.
            Some(next) => unsafe { linked(next) }.previous.set(previous),
            None => self.list.last = previous,
        }
        self.queue.len.store(self.len() - 1, Ordering::Relaxed);
    }
}

impl<'a> QueueWaiter<'a> {
    /// A waiter that does not wait yet.
    #[inline]
    pub(super) fn new(queue: &'a WaitQueue) -> Self {
        let node = QueueNode {
            previous: Cell::new(None),
            next: Cell::new(None),
            waker: Cell::new(None),
            insists: Cell::new(false),
            number: Cell::new(0),
            place: AtomicU8::new(IDLE),
        };
        Self { queue, node, _pinned: PhantomPinned }
    }

    /// Whether it does not wait: it has not begun to, or has taken notice of what it was told.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.node.place.load(Ordering::Relaxed) == IDLE
    }

    /// What this waiter was told, if it was, and it has not taken notice.
    #[inline]
    pub(super) fn told(&self) -> Option<Told> {
        Told::from_place(self.node.place.load(Ordering::Acquire))
    }

    /// It takes notice of what it was told, and may wait again.
    ///
    /// # Panics
    ///
    /// If it was told nothing: it would be linked and not know it.
    pub(super) fn take_notice(&self) {
        assert!(self.told().is_some(), "it was told something");
        self.node.place.store(IDLE, Ordering::Relaxed);
    }

    /// Looks what this waiter, which is not idle, was told; until then sees to it that the task of
    /// `cx` is woken.
    pub(super) fn poll_told(self: Pin<&Self>, cx: &Context<'_>) -> Poll<Told> {
        if let Some(told) = self.told() {
            return Poll::Ready(told);
        }
        let queue = self.queue.lock();
        if self.told().is_none() {
            let current = self.node.waker.take();
            let unchanged = current.as_ref().is_some_and(|current| current.will_wake(cx.waker()));
            self.node.waker.set(current);
            if unchanged {
                return Poll::Pending;
            }
        }
        drop(queue);
        // It may be told while the clone is made.
        let waker = cx.waker().clone();
        let queue = self.queue.lock();
        let told = self.told();
        let unused = match told {
            None => self.node.waker.replace(Some(waker)),
            Some(_) => Some(waker),
        };
        drop(queue);
        drop(unused);
        told.map_or(Poll::Pending, Poll::Ready)
    }

    /// Ends the wait; returns what it was told without having taken notice.
    #[inline]
    pub(super) fn leave(&self) -> Option<Told> {
        if self.is_idle() { None } else { self.leave_queue() }
    }

    #[cold]
    fn leave_queue(&self) -> Option<Told> {
        let mut told = self.told();
        if told.is_none() {
            let mut queue = self.queue.lock();
            told = self.told();
            if told.is_none() {
                queue.unlink(&self.node);
                let waker = self.node.waker.take();
                self.node.place.store(IDLE, Ordering::Relaxed);
                drop(queue);
                // Should it panic, there is more to do: nobody may be told of it, and this may be a
                // destructor in a panic.
                drop_contained(waker);
                return None;
            }
        }
        self.node.place.store(IDLE, Ordering::Relaxed);
        told
    }
}

impl Drop for QueueWaiter<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitQueue").field("is_empty", &self.is_empty()).finish_non_exhaustive()
    }
}

impl fmt::Debug for QueueWaiter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueWaiter").field("told", &self.told()).finish_non_exhaustive()
    }
}
