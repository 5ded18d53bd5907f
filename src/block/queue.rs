//! One queue for every device that has queues of its own: what callers want on one side, commands
//! of a [`Port`] on the other.
//!
//! A caller's operation is a **request**. It is divided into **commands** of the device's sizes;
//! each has a slot of the port while the device works on it. Requests wait in the order in which
//! they were first polled: while the first of them cannot send its next command, nobody else sends
//! one. One that has sent 16 commands and has more gives way to those behind it.
//!
//! | stage of a request | who has its memory | next |
//! |---|---|---|
//! | plain: it is one command, which the device has, and nothing went wrong | its future, in which it stays in place | done: its command succeeded; live: it did not; orphaned: its future was dropped |
//! | live | its future, in which it stays in place | done: its last command ended; failed: it failed and none of its commands is with the device; orphaned: its future was dropped |
//! | orphaned | the request | free: none of its commands is with the device |
//! | done, failed | its future | free: the future took the result, or was dropped |
//! | free | | plain or live |
//!
//! A request that was dropped before its first command was sent is free at once; one of which a
//! part was sent sends no more.
//!
//! Commands are shown to the device once per turn of the core, when the queue is polled.

mod attached;
mod flight;
mod pieces;
mod port;
mod request;
mod transfer;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::NamespaceInfo;
use super::stats::{self, SharedStats};
use crate::error::{Error, ErrorKind};
use crate::mem::Arena;

use crate::rt::poller::{Park, Poller, PollerRegistration, register_poller};
use crate::time::Instant;
use crate::user_code;
use flight::Flight;

pub(crate) use attached::QueueNamespace;
pub(crate) use port::{Command, CommandKind, Failure, Port, Refused, Segment};

/// How soon a command is offered again that a port with nothing in flight had no room for.
const OFFER_AGAIN: Duration = Duration::from_millis(1);

/// What the handles of one core share, and its poller.
struct Queue<P: Port> {
    info: NamespaceInfo,
    size_bytes: Cell<u64>,
    stats: SharedStats,
    state: RefCell<QueueState<P>>,
    /// `None` once the queue is closed.
    registration: RefCell<Option<PollerRegistration>>,
}

struct QueueState<P> {
    port: P,
    flight: Flight,
    /// The last handle is gone: the queue ends when the device has nothing of it.
    closing: bool,
    end: Option<QueueEnd>,
}

/// How a queue ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueEnd {
    /// The device works on no memory of it.
    Clean,
    /// The device may still work on memory of it, which is therefore never freed.
    Uncertain,
}

impl<P: Port> Queue<P> {
    /// Has the current core poll `port`.
    fn open(port: P, info: NamespaceInfo, arena: Arena) -> Rc<Self> {
        let stats = stats::register(&info.name);
        let flight = Flight::new(port.slots(), arena);
        let queue = Rc::new(Self {
            size_bytes: Cell::new(info.size_bytes),
            info,
            stats,
            state: RefCell::new(QueueState { port, flight, closing: false, end: None }),
            registration: RefCell::new(None),
        });
        let poller = Rc::new(RefCell::new(QueuePoller(Rc::clone(&queue))));
        *queue.registration.borrow_mut() = Some(register_poller(poller));
        queue
    }

    /// The last handle is gone.
    fn close(&self) {
        self.state.borrow_mut().closing = true;
        self.end_if_idle();
    }

    /// Ends a closing queue of which the device has nothing.
    fn end_if_idle(&self) {
        let state = self.state.borrow();
        if state.closing && state.end.is_none() && state.flight.is_idle() {
            drop(state);
            self.end();
        }
    }

    /// Stops the device's work and the polling, once.
    fn end(&self) {
        let mut state = self.state.borrow_mut();
        let QueueState { port, flight, end, .. } = &mut *state;
        if end.is_none() {
            let clean = port.shut_down();
            *end = Some(if clean { QueueEnd::Clean } else { QueueEnd::Uncertain });
            flight.give_up(clean);
        }
        drop(state);
        // The core drops its poller, which comes here again.
        let registration = self.registration.take();
        drop(registration);
    }

    fn closed(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::Closed, operation)
            .at(self.info.name.clone())
            .because("what was attached to it has ended, with the core or with the last handle")
    }
}

struct QueuePoller<P: Port>(Rc<Queue<P>>);

impl<P: Port> Poller for QueuePoller<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn poll(&mut self, now: Instant, budget: usize) -> usize {
        let queue = &*self.0;
        let mut state = queue.state.borrow_mut();
        let QueueState { port, flight, end, .. } = &mut *state;
        if end.is_some() {
            return 0;
        }
        let mut stats = queue.stats.borrow_mut();
        flight.begin_turn(now);
        port.kick();
        let events = port.poll(now, budget, |slot, result| flight.complete(slot, result, now, &mut stats));
        // Not only after events: a port that had no room may have some again, or never will.
        if flight.has_more_to_send() {
            flight.send(port, &queue.info, &mut stats);
            port.kick();
        }
        if let Some(size_bytes) = port.resized() {
            queue.size_bytes.set(size_bytes);
        }
        let mut woken = flight.take_woken();
        drop(stats);
        drop(state);
        user_code::wake_all(woken.drain(..));
        queue.state.borrow_mut().flight.return_woken(woken);
        queue.end_if_idle();
        events
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.0.state.borrow().port.next_deadline()
    }

    fn park(&mut self) -> Park {
        let mut state = self.0.state.borrow_mut();
        let QueueState { port, flight, end, .. } = &mut *state;
        if end.is_some() {
            return Park::Idle;
        }
        match port.park(flight.in_use()) {
            // What the port had no room for is offered again soon.
            Park::Idle if flight.has_more_to_send() => Park::Nap(OFFER_AGAIN),
            park => park,
        }
    }
}

impl<P: Port> Drop for QueuePoller<P> {
    fn drop(&mut self) {
        self.0.end();
    }
}
