//! A core's queue pair as the queue above it takes it, through resets of the controller too.
//!
//! | link | the controller | next |
//! |---|---|---|
//! | `Attached` | knows the queues | `Stopped`: it was stopped; `Lost` |
//! | `Stopped` | does not, and is not ready | `Creating`: it is ready again; `Lost` |
//! | `Creating` | is making them | `Attached`; `Stopped`: it was stopped again; `Lost`: it refuses |
//! | `Lost` | is gone or does not work | |

use std::any::Any;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::super::queue::{Command, CommandKind, Failure, Port, Refused};
use super::bus::Bus;
use super::control::{Control, ControlState};
use super::controller::{Phase, Reply, Request, ResetCause, Ticket};
use super::io::{Fate, default_fate};
use super::queue_pair::QueuePair;
use super::status::is_miscompare;
use crate::error::{Error, ErrorKind, Outcome};
use crate::rt::Instant;
use crate::rt::poller::Park;

/// How often a core looks at the controller while it has I/O with it, and while it has none.
const LOOK_BUSY: Duration = Duration::from_millis(10);
const LOOK_IDLE: Duration = Duration::from_secs(1);
/// The same while the controller is being reset, or another core is at it.
const LOOK_SOON: Duration = Duration::from_millis(1);
/// A command that takes longer is aborted; one that takes twice as long has its controller reset.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

enum Link {
    Attached,
    Stopped,
    Creating(Ticket),
    Lost,
}

/// See the table at the top of the file.
pub(super) struct NvmePort<B: Bus> {
    pair: QueuePair<B::Registers>,
    control: Arc<Control<B>>,
    number: u16,
    /// Its interrupt; without one the core polls while it waits.
    vector: Option<u16>,
    link: Link,
    /// How often the controller had stopped when the queues were made.
    stops: u32,
    /// How often the controller had failed when the queues were made.
    fatal_stops: u32,
    /// It failed since: the next flush says that what was written may be lost.
    may_have_lost: bool,
    /// Of which namespace it is.
    namespace: u32,
    /// How often namespaces had changed when this one was identified last.
    changes: u32,
    identifying: Option<Ticket>,
    /// Its size in bytes, where that is news.
    resized: Option<u64>,
    now: Instant,
    next_look: Instant,
    /// The core's arena, which the controller reaches until this is dropped.
    _reached: Box<dyn Any>,
}

impl<B: Bus> NvmePort<B> {
    /// Over `pair`, whose queues the controller has made after `stops` stops.
    pub(super) fn new(
        mut pair: QueuePair<B::Registers>,
        control: Arc<Control<B>>,
        reached: Box<dyn Any>,
        stops: u32,
        now: Instant,
    ) -> Self {
        pair.resume();
        let spec = pair.spec();
        let namespace = pair.namespace();
        // The size may have changed since the device was opened: it is asked for once.
        let changes = control.lock().changes.wrapping_sub(1);
        let fatal_stops = control.lock().fatal_stops;
        Self {
            number: spec.number,
            vector: spec.vector.filter(|&vector| control.bus().interrupt(vector).is_some()),
            pair,
            control,
            link: Link::Attached,
            stops,
            fatal_stops,
            may_have_lost: false,
            namespace,
            changes,
            identifying: None,
            resized: None,
            now,
            next_look: now,
            _reached: reached,
        }
    }

    /// Looks at the controller, and follows it.
    #[cold]
    fn look(&mut self, done: &mut dyn FnMut(u16, Result<(), Error>)) {
        let control = Arc::clone(&self.control);
        let Some(mut state) = control.tick(self.now) else {
            self.next_look = self.now + LOOK_SOON;
            return;
        };
        let phase = state.controller.phase();
        if matches!(phase, Phase::Failed | Phase::Removed | Phase::Off) {
            self.lose(&state, done);
        } else if matches!(self.link, Link::Attached) && state.stops != self.stops {
            let healthy = state.fatal_stops == self.fatal_stops;
            self.fatal_stops = state.fatal_stops;
            self.may_have_lost |= !healthy && state.controller.volatile_cache();
            let error = |kind: CommandKind| state.controller.error(kind.name()).outcome_is(Outcome::Unknown);
            let mut decide = |_slot, kind, announced| -> Fate {
                if kind == CommandKind::Flush && !healthy {
                    return Fate::Fail;
                }
                default_fate(kind, announced, healthy)
            };
            self.pair.stop(&error, &mut decide, done);
            self.link = Link::Stopped;
        }
        match self.link {
            Link::Stopped if phase == Phase::Ready => {
                self.stops = state.stops;
                self.pair.mirror(state.controller.capabilities(), state.controller.shadow_doorbells());
                let request = Request::CreateQueues(self.pair.spec());
                if let Ok(ticket) = state.controller.request(request, self.now) {
                    self.link = Link::Creating(ticket);
                }
            }
            Link::Creating(ticket) if state.stops != self.stops => {
                state.controller.forget(ticket);
                self.link = Link::Stopped;
            }
            Link::Creating(ticket) => match state.controller.take(ticket) {
                None => {}
                Some(Ok(_)) => {
                    // What is sent again begins anew.
                    self.pair.restart_clocks(self.now);
                    self.pair.resume();
                    self.pair.kick();
                    self.link = Link::Attached;
                }
                // Another reset came in between, or there was no room for the command.
                Some(Err(error)) if phase != Phase::Ready || error.kind() == ErrorKind::LimitReached => {
                    self.link = Link::Stopped;
                }
                Some(Err(error)) => {
                    warn!("{}: a core lost its queues: {error}", self.control.name());
                    self.lose(&state, done);
                }
            },
            Link::Attached => {
                self.watch_commands(&mut state);
                self.watch_size(&mut state);
            }
            Link::Stopped | Link::Lost => {}
        }
        self.next_look = self.now
            + match self.link {
                Link::Attached if self.pair.in_flight() > 0 || self.identifying.is_some() => LOOK_BUSY,
                Link::Attached | Link::Lost => LOOK_IDLE,
                Link::Stopped | Link::Creating(_) => LOOK_SOON,
            };
    }

    fn lose(&mut self, state: &ControlState<B>, done: &mut dyn FnMut(u16, Result<(), Error>)) {
        if matches!(self.link, Link::Lost) {
            return;
        }
        self.link = Link::Lost;
        if state.is_loose {
            // It may still work on the memory of what is in flight: nobody gets that back.
            return;
        }
        let error = |kind: CommandKind| state.controller.error(kind.name()).outcome_is(Outcome::Unknown);
        self.pair.give_up(&error, done);
    }

    /// Identifies the namespace again after it was said to have changed.
    fn watch_size(&mut self, state: &mut ControlState<B>) {
        if let Some(ticket) = self.identifying
            && let Some(answer) = state.controller.take(ticket)
        {
            self.identifying = None;
            match answer {
                Ok(Reply::Namespace(Some(found))) => self.resized = Some(found.size_bytes()),
                // It is gone: commands say so.
                Ok(Reply::Namespace(None)) => self.resized = Some(0),
                Ok(_) => {}
                // Asked again below.
                Err(_) => self.changes = state.changes.wrapping_sub(1),
            }
        }
        if self.changes != state.changes && self.identifying.is_none() {
            let asked = state.controller.request(Request::Namespace(self.namespace), self.now);
            // Without room it is asked at the next look.
            if let Ok(ticket) = asked {
                (self.changes, self.identifying) = (state.changes, Some(ticket));
            }
        }
    }

    /// Aborts commands that take too long, and resets a controller that does not even abort.
    fn watch_commands(&mut self, state: &mut ControlState<B>) {
        if self.pair.in_flight() == 0 {
            return;
        }
        for slot in 0..self.pair.slots() {
            let Some((at, was_aborted)) = self.pair.began(slot) else { continue };
            let took = self.now.saturating_since(at);
            if took < COMMAND_TIMEOUT {
                continue;
            }
            if was_aborted {
                if took >= 2 * COMMAND_TIMEOUT {
                    warn!("{}: a command takes {took:?}: resetting the controller", self.control.name());
                    state.controller.reset(ResetCause::TimedOut, self.now);
                    return;
                }
            } else if let Some(command_id) = self.pair.command_id(slot) {
                warn!("{}: a command takes {took:?}: aborting it", self.control.name());
                let request = Request::Abort { queue: self.number, command_id };
                if let Ok(ticket) = state.controller.request(request, self.now) {
                    state.controller.forget(ticket);
                    self.pair.set_aborted(slot);
                }
            }
        }
    }
}

// SAFETY: the controller works on memory that a command names from `submit` on. `QueuePair::poll`
// reports a slot once the controller has completed its command, with the id that the command had
// then; `stop` and `give_up` report slots when the controller was stopped, or is gone, or was reset
// from outside (`is_loose` is false). `shut_down` is true if the controller deleted the queues,
// which ends their commands, or one of these holds.
unsafe impl<B: Bus> Port for NvmePort<B> {
    const NAME: &'static str = "nvme";

    fn slots(&self) -> u16 {
        self.pair.slots()
    }

    unsafe fn submit(&mut self, slot: u16, command: &Command<'_>) -> Result<(), Refused> {
        if matches!(self.link, Link::Lost) {
            let error = self.control.lock().controller.error(command.kind.name());
            return Err(Refused::Failed(Failure::of(&error.outcome_is(Outcome::NotStarted))));
        }
        if command.kind == CommandKind::Flush && std::mem::take(&mut self.may_have_lost) {
            return Err(Refused::Failed(Failure::new(
                ErrorKind::Os,
                "the controller failed and was reset since the last flush: what was written before may be lost",
            )));
        }
        // SAFETY: the caller keeps the memory valid, and to itself, until the slot is done.
        unsafe { self.pair.submit(slot, command, self.now) }
    }

    fn kick(&mut self) {
        self.pair.kick();
    }

    fn poll(
        &mut self,
        now: Instant,
        budget: usize,
        mut done: impl FnMut(u16, Result<(), Box<Failure>>),
    ) -> usize {
        self.now = now;
        self.control.bus().turn();
        let mut events = self.pair.poll(budget, |slot, result| done(slot, result.map_err(failure)));
        if now >= self.next_look {
            let mut ended = Vec::new();
            self.look(&mut |slot, result| ended.push((slot, result)));
            events += ended.len();
            for (slot, result) in ended {
                done(slot, result.map_err(failure));
            }
        }
        events
    }

    fn park(&mut self, in_use: usize) -> Park {
        match self.link {
            Link::Lost => Park::Idle,
            Link::Stopped | Link::Creating(_) => Park::Nap(LOOK_SOON),
            Link::Attached if in_use == 0 => Park::Idle,
            Link::Attached => {
                let Some(eventfd) = self.vector.and_then(|vector| self.control.bus().interrupt(vector))
                else {
                    return Park::Spin;
                };
                // SAFETY: the bus, which the control keeps, holds the descriptor open.
                let borrowed = unsafe { BorrowedFd::borrow_raw(eventfd) };
                // Empties the eventfd, or finds it empty. A completion from here on makes it
                // readable again; one from before is seen now.
                let _ = rustix::io::read(borrowed, &mut [0; 8]);
                if self.pair.has_completion() { Park::Spin } else { Park::Wake(eventfd) }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        Some(self.next_look)
    }

    fn resized(&mut self) -> Option<u64> {
        self.resized.take()
    }

    /// What the controller may still know is out of its reach, by the IOMMU, before it is freed.
    fn shut_down(&mut self) -> bool {
        if let Some(ticket) = self.identifying.take() {
            self.control.lock().controller.forget(ticket);
        }
        if let Link::Creating(ticket) = self.link {
            // What is being made cannot be deleted.
            self.control.wait_for(ticket);
        }
        let clean = match self.link {
            Link::Lost => !self.control.lock().is_loose,
            Link::Attached | Link::Creating(_) => self.control.delete_queues(self.number, self.stops),
            Link::Stopped => true,
        };
        if clean {
            self.control.give_number(self.number);
        }
        clean
    }
}

#[cold]
fn failure(error: Error) -> Box<Failure> {
    Box::new(Failure { miscompare: is_miscompare(&error), ..Failure::of(&error) })
}
