//! Tasks of one core that wait until a number, or a ticket, is durable.
//!
//! The list belongs to its core, whose task wakes what is in it. Memory that it has taken it keeps.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

#[derive(Debug)]
struct Waiter {
    id: u64,
    number: u64,
    waker: Waker,
}

/// The list. Nothing is borrowed while a waker is cloned, woken or dropped.
#[derive(Default)]
pub(super) struct Waiters {
    list: RefCell<Vec<Waiter>>,
    /// Empty but while some are woken.
    woken: Cell<Vec<Waker>>,
    next_id: Cell<u64>,
}

impl Waiters {
    /// Puts a task in the list, or the waker of one that is in it already under `id` up to date.
    /// Returns its id.
    pub(super) fn enter(&self, id: Option<u64>, number: u64, cx: &Context<'_>) -> u64 {
        let is_current = |waiter: &Waiter| Some(waiter.id) == id && waiter.waker.will_wake(cx.waker());
        if let Some(id) = id.filter(|_| self.list.borrow().iter().any(is_current)) {
            return id;
        }
        let waker = cx.waker().clone();
        if let Some(id) = id {
            self.leave(id);
        }
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.list.borrow_mut().push(Waiter { id, number, waker });
        id
    }

    /// Takes a task out of the list, if it is in there.
    pub(super) fn leave(&self, id: u64) {
        let mut list = self.list.borrow_mut();
        let found = list.iter().position(|waiter| waiter.id == id);
        let waiter = found.map(|place| list.swap_remove(place));
        drop(list);
        drop(waiter);
    }

    /// The smallest number that is waited for.
    pub(super) fn least(&self) -> Option<u64> {
        self.list.borrow().iter().map(|waiter| waiter.number).min()
    }

    /// Wakes those that wait for a number below `end`; returns how many.
    pub(super) fn wake_below(&self, end: u64) -> usize {
        let mut woken = self.woken.take();
        woken.extend(
            self.list.borrow_mut().extract_if(.., |waiter| waiter.number < end).map(|waiter| waiter.waker),
        );
        let count = woken.len();
        woken.drain(..).for_each(Waker::wake);
        self.woken.set(woken);
        count
    }
}
