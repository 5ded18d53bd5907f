//! Queues of the controller's whose owner is done with them, until the controller has forgotten
//! them.
//!
//! A core that drops its last handle, or gives an attachment up in the middle, does not wait for
//! the controller: its poller sees to the rest. Only a core that ends waits, for a bounded time.
//!
//! | stage | left when | for |
//! |---|---|---|
//! | `Making` | the controller answered whether it made them, or is being reset | `Asking`; the end, if it refused |
//! | `Asking` | it took the request to delete them | `Deleting` |
//! | `Deleting` | it deleted them | the end |
//! | `Deleting` | it refused | `Asking`; after some times the end, and the memory is kept for ever |
//! | any | it stopped, or is gone | the end |

use std::any::Any;
use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::bus::Bus;
use super::control::{ASK_EVERY, Control, ControlState, PATIENCE};
use super::controller::{Request, ResetCause, Ticket};
use super::queue_pair::QueuePair;
use crate::error::ErrorKind;
use crate::rt;
use crate::rt::Instant;
use crate::rt::poller::{Park, Poller, PollerRegistration, register_poller};

/// How often the controller may refuse to delete queues.
const MAX_REFUSALS: u32 = 16;
/// The longest nap between two looks.
const LONGEST_NAP: Duration = Duration::from_millis(10);

/// Queues that the controller may know, and all that it may look at for them. While it may, they
/// are neither unmapped nor freed, and nobody else gets their number: if they are dropped they stay
/// as they are for ever.
pub(super) struct KnownQueues<B: Bus> {
    pub(super) pair: QueuePair<B::Registers>,
    pub(super) number: u16,
    /// How often the controller had stopped when it was asked to make them.
    pub(super) stops: u32,
    /// Keeps the memory that commands may name.
    reached: Option<Box<dyn Any>>,
    is_forgotten: bool,
    is_retiring: bool,
    control: Arc<Control<B>>,
}

impl<B: Bus> KnownQueues<B> {
    /// The queues of `pair`, whose number is its own. The controller does not know them yet.
    pub(super) fn new(
        control: &Arc<Control<B>>,
        pair: QueuePair<B::Registers>,
        reached: Box<dyn Any>,
    ) -> Self {
        Self {
            number: pair.spec().number,
            pair,
            stops: 0,
            reached: Some(reached),
            is_forgotten: true,
            is_retiring: false,
            control: Arc::clone(control),
        }
    }

    /// The controller was asked to make them, after this many stops.
    pub(super) fn are_asked_for(&mut self, stops: u32) {
        (self.stops, self.is_forgotten) = (stops, false);
    }

    /// The controller does not know them, or does not any more: dropped, they give everything back.
    pub(super) fn are_forgotten(&mut self) {
        self.is_forgotten = true;
    }
}

impl<B: Bus> Drop for KnownQueues<B> {
    fn drop(&mut self) {
        if !self.is_forgotten {
            self.pair.leak();
            mem::forget(self.reached.take());
        }
        self.control.end_queues(self.is_forgotten.then_some(self.number), self.is_retiring);
    }
}

#[derive(Clone, Copy)]
enum Stage {
    Making(Ticket),
    Asking,
    Deleting(Ticket),
    Over,
}

/// See the table at the top of the file.
pub(super) struct Retirement<B: Bus> {
    queues: KnownQueues<B>,
    stage: Stage,
    refusals: u32,
    next_look: Instant,
    nap: Duration,
    registration: Option<PollerRegistration>,
}

impl<B: Bus> Retirement<B> {
    /// Of queues that are being made, if there is a `ticket`, or are.
    fn new(mut queues: KnownQueues<B>, ticket: Option<Ticket>) -> Self {
        queues.control.lock().retiring += 1;
        queues.is_retiring = true;
        Self {
            queues,
            stage: ticket.map_or(Stage::Asking, Stage::Making),
            refusals: 0,
            next_look: Instant::ORIGIN,
            nap: ASK_EVERY,
            registration: None,
        }
    }

    /// Has the core see to the end of `queues`, of which no command is with the controller.
    pub(super) fn begin(queues: KnownQueues<B>, ticket: Option<Ticket>) {
        if queues.is_forgotten {
            return;
        }
        let retirement = Self::new(queues, ticket);
        if !rt::is_in_core() {
            // Nobody polls here. Dropped, it waits.
            return;
        }
        let poller = Rc::new(RefCell::new(retirement));
        let registration = register_poller(Rc::<RefCell<Self>>::clone(&poller));
        poller.borrow_mut().registration = Some(registration);
    }

    /// Waits for the end of `queues` while the core waits too: it ends, with commands at the
    /// controller. One that does not answer is reset. Returns whether the controller works on none
    /// of their memory any more.
    pub(super) fn wait_for(queues: KnownQueues<B>, ticket: Option<Ticket>) -> bool {
        let mut retirement = Self::new(queues, ticket);
        retirement.wait(true)
    }

    fn wait(&mut self, may_reset: bool) -> bool {
        let control = Arc::clone(&self.queues.control);
        let mut now = control.lock().now();
        let (until, reset_at) = (now + PATIENCE, now + PATIENCE / 3);
        while now < until {
            let mut state = control.lock();
            control.advance(&mut state, now);
            if self.proceed(&mut state, now) {
                break;
            }
            if may_reset && now >= reset_at {
                // It does nothing any more. Other cores come through a reset.
                state.controller.reset(ResetCause::TimedOut, now);
            }
            drop(state);
            now += ASK_EVERY;
            control.bus().pause(ASK_EVERY);
        }
        if let Stage::Making(ticket) | Stage::Deleting(ticket) = self.stage {
            control.lock().controller.forget(ticket);
        }
        self.stage = Stage::Over;
        self.queues.is_forgotten
    }

    /// Takes the steps that there are to take; true at the end.
    fn proceed(&mut self, state: &mut ControlState<B>, now: Instant) -> bool {
        if state.is_quiet(self.queues.stops) {
            if let Stage::Making(ticket) | Stage::Deleting(ticket) = self.stage {
                state.controller.forget(ticket);
            }
            self.end(true);
        } else if state.is_loose {
            self.end(false);
        }
        match self.stage {
            Stage::Making(ticket) => match state.controller.take(ticket) {
                None => {}
                // Until it has stopped, a controller that is being reset may know them.
                Some(Err(error)) if error.kind() == ErrorKind::Cancelled => self.stage = Stage::Asking,
                Some(Ok(_)) => self.stage = Stage::Asking,
                // It has none of them.
                Some(Err(_)) => self.end(true),
            },
            Stage::Deleting(ticket) => match state.controller.take(ticket) {
                None => {}
                Some(Ok(_)) => self.end(true),
                Some(Err(error)) => {
                    self.stage = Stage::Asking;
                    self.refusals += 1;
                    if self.refusals == MAX_REFUSALS {
                        let name = self.queues.control.name();
                        warn!("{name}: memory of queues that it does not delete stays allocated: {error}");
                        self.end(false);
                    }
                }
            },
            Stage::Asking | Stage::Over => {}
        }
        if let Stage::Asking = self.stage
            // A reset is under way, or too much is asked of it: again later.
            && let Ok(ticket) = state.controller.request(Request::DeleteQueues(self.queues.number), now)
        {
            self.stage = Stage::Deleting(ticket);
        }
        matches!(self.stage, Stage::Over)
    }

    fn end(&mut self, are_forgotten: bool) {
        self.stage = Stage::Over;
        if are_forgotten {
            self.queues.are_forgotten();
        }
    }
}

impl<B: Bus> Poller for Retirement<B> {
    fn name(&self) -> &'static str {
        "nvme retirement"
    }

    fn poll(&mut self, now: Instant, _budget: usize) -> usize {
        if now < self.next_look {
            return 0;
        }
        let control = Arc::clone(&self.queues.control);
        let is_over = control.tick(now).is_some_and(|mut state| self.proceed(&mut state, now));
        if is_over {
            // The core drops its poller.
            drop(self.registration.take());
            return 1;
        }
        self.next_look = now + self.nap;
        self.nap = (self.nap * 2).min(LONGEST_NAP);
        0
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(self.next_look)
    }

    fn park(&mut self) -> Park {
        Park::Idle
    }
}

impl<B: Bus> Drop for Retirement<B> {
    fn drop(&mut self) {
        if !matches!(self.stage, Stage::Over) {
            // The core ends. Nothing but the rings is at stake, so nobody else is disturbed.
            self.wait(false);
        }
    }
}
