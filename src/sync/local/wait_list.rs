//! The queue of waiting futures under everything in this module: intrusive, so that a wait
//! allocates nothing.
//!
//! # How it works
//!
//! A [`ListWaiter`] is a field of the future that waits. When it starts to wait it links its own
//! [`ListNode`] to the end of the [`WaitList`]; the giver tells the first node
//! ([`WaitList::tell_front`]) or all of them ([`WaitList::tell_all`]), which unlinks it, leaves a
//! word in it for the future to find, and gives the caller its waker. A waiter that is dropped
//! unlinks itself. All of this takes constant time, and the order is that of arrival.
//!
//! # Why the pointers are good
//!
//! The list points at nodes that it does not own. A linked node is alive and has not moved, because
//!
//! - a node is linked by [`ListWaiter::wait`] alone, which takes the waiter pinned: from then on
//!   its memory is neither moved nor reused before the waiter's destructor has run (the guarantee
//!   of [`Pin`]), however the future around it is treated. One that is leaked stays linked, and its
//!   memory stays;
//! - the waiter's destructor unlinks the node;
//! - the waiter borrows its list, so a list is not moved or dropped before the waiters that could
//!   still unlink themselves. A leaked waiter may outlive that borrow, but nothing of it runs
//!   again. The ends of the chain are `None`, not pointers into the list, so a list may move while
//!   such a node is linked.
//!
//! The nodes are only ever reached through shared references, and everything in them is a [`Cell`];
//! [`PhantomPinned`] makes the futures around them `!Unpin`, so that a `&mut` to such a future does
//! not claim the node for itself alone. Lists and waiters are neither `Send` nor `Sync`, as their
//! pointers are not.
//!
//! # User code
//!
//! Cloning, waking and dropping a waker may call back into the list that holds it. Here nothing is
//! ever borrowed: each method reads and writes cells until the list is consistent, and only then
//! touches a waker. [`WaitList::tell_all`] tells everybody first, by moving the chain
//! as a whole to a second one, `waking`; it then wakes from there one at a time, and a waiter that
//! comes to wait meanwhile waits on the first chain and is not told.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomPinned;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll, Waker};

use crate::user_code::drop_contained;
use crate::user_code::wake_all;

type ListLink<T> = Option<NonNull<ListNode<T>>>;

/// Futures that wait, in the order in which they began. `T` is the word that each of them shows,
/// and finds when it was told.
pub(super) struct WaitList<T: Copy> {
    waiting: Chain<T>,
    /// Those that `tell_all` has told and not yet woken.
    waking: Chain<T>,
}

/// The place of one wait on a [`WaitList`]; a field of the future that waits.
pub(super) struct ListWaiter<'a, T: Copy> {
    list: &'a WaitList<T>,
    node: ListNode<T>,
    _pinned: PhantomPinned,
}

struct ListNode<T> {
    previous: Cell<ListLink<T>>,
    next: Cell<ListLink<T>>,
    place: Cell<Linked>,
    word: Cell<T>,
    waker: Cell<Option<Waker>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Linked {
    /// Not linked: has not waited yet, or has seen that it was told.
    Idle,
    /// Linked in `waiting`.
    Waiting,
    /// Told, and linked in `waking`.
    Waking,
    /// Told, and not linked.
    Told,
}

/// What a waiter was doing when it left its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left<T> {
    /// It did not wait.
    Idle,
    /// It waited, and had not been told.
    Waiting,
    /// It was told this and had not seen it.
    Told(T),
}

struct Chain<T> {
    first: Cell<ListLink<T>>,
    last: Cell<ListLink<T>>,
}

impl<T> Chain<T> {
    const fn new() -> Self {
        Self { first: Cell::new(None), last: Cell::new(None) }
    }

    fn first(&self) -> Option<&ListNode<T>> {
        // SAFETY: the pointer is of this list and is used at once.
        self.first.get().map(|node| unsafe { linked(node) })
    }

    /// Links `node`, which is not linked, behind the others.
    fn push_back(&self, node: &ListNode<T>) {
        let link = Some(NonNull::from(node));
        let last = self.last.replace(link);
        node.previous.set(last);
        node.next.set(None);
        match last {
            // SAFETY: the pointer is of this list and is used at once.
            Some(last) => unsafe { linked(last) }.next.set(link),
            None => self.first.set(link),
        }
    }

    /// Takes `node`, which is linked in this chain, out of it.
    fn unlink(&self, node: &ListNode<T>) {
        let previous = node.previous.take();
        let next = node.next.take();
        match previous {
            // SAFETY: the pointer is of this list and is used at once.
            Some(previous) => unsafe { linked(previous) }.next.set(next),
            None => self.first.set(next),
        }
        match next {
            // SAFETY: the pointer is of this list and is used at once.
            Some(next) => unsafe { linked(next) }.previous.set(previous),
            None => self.last.set(previous),
        }
    }
}

/// The node behind a pointer that a chain or a linked node holds.
///
/// # Safety
///
/// `node` was just read from a chain or from a linked node, and the reference is given up before
/// any user code runs, which could drop the node.
unsafe fn linked<'n, T>(node: NonNull<ListNode<T>>) -> &'n ListNode<T> {
    // SAFETY:
    // - a linked node is alive and has not moved, see the essay above;
    // - nobody holds a `&mut` to it: the futures around it are `!Unpin`, and this module makes only
    //   shared references.
    unsafe { node.as_ref() }
}

impl<T: Copy> WaitList<T> {
    /// A list on which nobody waits.
    pub(super) const fn new() -> Self {
        Self { waiting: Chain::new(), waking: Chain::new() }
    }

    /// Whether nobody waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.first.get().is_none()
    }

    /// The word of the waiter that has waited longest.
    #[inline]
    pub(super) fn front(&self) -> Option<T> {
        self.waiting.first().map(|node| node.word.get())
    }

    /// Tells the waiter that has waited longest, and returns its waker for the caller to wake.
    /// `None` if nobody waits.
    #[must_use = "the waiter does not know until it is woken"]
    pub(super) fn tell_front(&self, word: T) -> Option<Waker> {
        let node = self.waiting.first()?;
        self.waiting.unlink(node);
        node.word.set(word);
        node.place.set(Linked::Told);
        node.waker.take()
    }

    /// Tells everybody who waits now, and then wakes them in their order.
    pub(super) fn tell_all(&self, word: T) {
        while let Some(node) = self.waiting.first() {
            self.waiting.unlink(node);
            node.word.set(word);
            node.place.set(Linked::Waking);
            self.waking.push_back(node);
        }
        while let Some(node) = self.waking.first() {
            self.waking.unlink(node);
            node.place.set(Linked::Told);
            let waker = node.waker.take();
            wake_all(waker);
        }
    }
}

impl<'a, T: Copy> ListWaiter<'a, T> {
    /// A waiter that does not wait yet and shows `word` when it does.
    #[inline]
    pub(super) const fn new(list: &'a WaitList<T>, word: T) -> Self {
        let node = ListNode {
            previous: Cell::new(None),
            next: Cell::new(None),
            place: Cell::new(Linked::Idle),
            word: Cell::new(word),
            waker: Cell::new(None),
        };
        Self { list, node, _pinned: PhantomPinned }
    }

    /// Whether it does not wait: it has not begun to, or has seen that it was told.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.node.place.get() == Linked::Idle
    }

    /// Begins to wait behind everybody else, showing `word`.
    ///
    /// # Panics
    ///
    /// If it waits already, which its future rules out by asking [`ListWaiter::is_idle`].
    pub(super) fn wait(self: Pin<&Self>, word: T, waker: Waker) {
        assert!(self.is_idle(), "a waiter waits once at a time");
        let node = &self.get_ref().node;
        node.word.set(word);
        node.place.set(Linked::Waiting);
        let old = node.waker.replace(Some(waker));
        self.list.waiting.push_back(node);
        drop(old);
    }

    /// Looks whether this waiter was told, and with which word; until then sees to it that the
    /// current waker is woken.
    pub(super) fn poll_told(self: Pin<&Self>, cx: &Context<'_>) -> Poll<T> {
        let node = &self.get_ref().node;
        if let Some(word) = self.take_told() {
            return Poll::Ready(word);
        }
        let current = node.waker.take();
        let unchanged = current.as_ref().is_some_and(|current| current.will_wake(cx.waker()));
        node.waker.set(current);
        if unchanged {
            return Poll::Pending;
        }
        // While the clone is made, the old waker is in its place: this waiter may be told
        // meanwhile.
        let waker = cx.waker().clone();
        if let Some(word) = self.take_told() {
            return Poll::Ready(word);
        }
        drop(node.waker.replace(Some(waker)));
        Poll::Pending
    }

    fn take_told(&self) -> Option<T> {
        match self.node.place.get() {
            Linked::Idle | Linked::Waiting => None,
            Linked::Waking => {
                self.list.waking.unlink(&self.node);
                self.node.place.set(Linked::Idle);
                // It was not woken and need not be any more.
                drop(self.node.waker.take());
                Some(self.node.word.get())
            }
            Linked::Told => {
                self.node.place.set(Linked::Idle);
                Some(self.node.word.get())
            }
        }
    }

    /// Ends the wait, and says how far it had come.
    #[inline]
    pub(super) fn leave(&self) -> Left<T> {
        let place = self.node.place.replace(Linked::Idle);
        let left = match place {
            Linked::Idle => return Left::Idle,
            Linked::Waiting => {
                self.list.waiting.unlink(&self.node);
                Left::Waiting
            }
            Linked::Waking => {
                self.list.waking.unlink(&self.node);
                Left::Told(self.node.word.get())
            }
            Linked::Told => return Left::Told(self.node.word.get()),
        };
        // Should it panic, the caller has more to do: to let others on.
        drop_contained(self.node.waker.take());
        left
    }
}

impl<T: Copy> Drop for ListWaiter<'_, T> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T: Copy> fmt::Debug for WaitList<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitList").field("is_empty", &self.is_empty()).finish_non_exhaustive()
    }
}

impl<T: Copy> fmt::Debug for ListWaiter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListWaiter").field("place", &self.node.place.get()).finish_non_exhaustive()
    }
}
