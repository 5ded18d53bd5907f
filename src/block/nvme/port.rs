//! A core's queue pair as the queue above it takes it, through resets of the controller too.
//!
//! | link | the controller | next |
//! |---|---|---|
//! | `Attached` | knows the queues | `Stopped`: it was stopped; `Lost` |
//! | `Stopped` | does not, and is not ready | `Creating`: it is ready again; `Lost` |
//! | `Creating` | is making them | `Attached`; `Stopped`: it was stopped again; `Lost`: it refuses |
//! | `Lost` | is gone or does not work | |

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::super::queue::{Command, CommandKind, Failure, Port, Refused};
use super::bus::Bus;
use super::control::{Control, ControlState};
use super::controller::{Phase, Reply, Request, ResetCause, Ticket};
use super::interrupt::Interrupt;
use super::io::{Fate, default_fate};
use super::retirement::{KnownQueues, Retirement};
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
    /// `None` once it is shut down.
    queues: Option<KnownQueues<B>>,
    now: Instant,
    next_look: Instant,
    /// Some commands are refused: [`NvmePort::refusal`] says which.
    is_suspect: bool,
    link: Link,
    /// Why it is lost although the controller works: what that said when it was to make the queues
    /// anew.
    not_made: Option<Error>,
    control: Arc<Control<B>>,
    /// Without one the core polls while it waits.
    interrupt: Option<Interrupt>,
    /// How often the controller had failed when the queues were made.
    fatal_stops: u32,
    /// It failed since: the next flush says that what was written may be lost.
    may_have_lost: bool,
    /// How often namespaces had changed when this one was identified last.
    changes: u32,
    identifying: Option<Ticket>,
    /// Its size in bytes, where that is news.
    resized: Option<u64>,
    /// Why nothing is sent to the namespace any more: it was formatted anew.
    misfit: Option<String>,
}

impl<B: Bus> NvmePort<B> {
    /// Over queues that the controller has made. The namespace was identified after `changes`
    /// changes of any, and has a size that is news, if it is `resized`.
    pub(super) fn new(
        mut queues: KnownQueues<B>,
        control: Arc<Control<B>>,
        changes: u32,
        resized: Option<u64>,
        now: Instant,
    ) -> Self {
        queues.pair.resume();
        let vector = queues.pair.spec().vector;
        let fatal_stops = control.lock().fatal_stops;
        Self {
            queues: Some(queues),
            now,
            next_look: now,
            is_suspect: false,
            link: Link::Attached,
            not_made: None,
            interrupt: vector.and_then(|vector| control.bus().vector(vector)).map(Interrupt::new),
            control,
            fatal_stops,
            may_have_lost: false,
            changes,
            identifying: None,
            resized,
            misfit: None,
        }
    }

    /// Looks at the controller, and follows it.
    #[cold]
    fn look(&mut self, done: &mut dyn FnMut(u16, Result<(), Error>)) {
        let control = Arc::clone(&self.control);
        let (Some(mut state), Some(queues)) = (control.tick(self.now), &mut self.queues) else {
            self.next_look = self.now + LOOK_SOON;
            return;
        };
        let phase = state.controller.phase();
        let error = |kind| error_of(&state, None, kind);
        // Also while the queues are made anew after a stop that was none of these.
        let healthy = std::mem::replace(&mut self.fatal_stops, state.fatal_stops) == state.fatal_stops;
        if !healthy {
            self.may_have_lost |= state.controller.volatile_cache();
            queues.pair.fail_waiting(CommandKind::Flush, &error, done);
        }
        if matches!(phase, Phase::Failed | Phase::Removed | Phase::Off) {
            self.lose(&state, done);
        } else if matches!(self.link, Link::Attached) && state.stops != queues.stops {
            let mut decide = |_slot, kind, announced| -> Fate {
                if kind == CommandKind::Flush && !healthy {
                    return Fate::Fail;
                }
                default_fate(kind, announced, healthy)
            };
            queues.pair.stop(&error, &mut decide, done);
            self.link = Link::Stopped;
        }
        self.follow(&mut state, done);
        self.is_suspect = self.may_have_lost || self.misfit.is_some() || matches!(self.link, Link::Lost);
        let is_waiting = self.identifying.is_some()
            || self.queues.as_ref().is_some_and(|queues| queues.pair.in_flight() > 0);
        self.next_look = self.now
            + match self.link {
                Link::Attached if is_waiting => LOOK_BUSY,
                Link::Attached | Link::Lost => LOOK_IDLE,
                Link::Stopped | Link::Creating(_) => LOOK_SOON,
            };
    }

    /// Has the queues made anew after a stop, and looks after what is with the controller.
    fn follow(&mut self, state: &mut ControlState<B>, done: &mut dyn FnMut(u16, Result<(), Error>)) {
        let Some(queues) = &mut self.queues else { return };
        let phase = state.controller.phase();
        match self.link {
            Link::Stopped if phase == Phase::Ready => {
                queues.pair.mirror(state.controller.capabilities(), state.controller.shadow_doorbells());
                let request = Request::CreateQueues(queues.pair.spec());
                if let Ok(ticket) = state.controller.request(request, self.now) {
                    queues.are_asked_for(state.stops);
                    self.link = Link::Creating(ticket);
                }
            }
            Link::Creating(ticket) if state.stops != queues.stops => {
                state.controller.forget(ticket);
                self.link = Link::Stopped;
            }
            Link::Creating(ticket) => match state.controller.take(ticket) {
                None => {}
                Some(Ok(_)) => {
                    // What is sent again begins anew.
                    queues.pair.restart_clocks(self.now);
                    queues.pair.resume();
                    queues.pair.kick();
                    self.link = Link::Attached;
                }
                // Another reset came in between, or there was no room for the command.
                Some(Err(error)) if phase != Phase::Ready || error.kind() == ErrorKind::LimitReached => {
                    self.link = Link::Stopped;
                }
                Some(Err(error)) => {
                    warn!("{}: a core lost its queues: {error}", self.control.name());
                    self.not_made = Some(error);
                    self.lose(state, done);
                }
            },
            Link::Attached => {
                self.watch_commands(state);
                self.watch_namespace(state);
            }
            Link::Stopped | Link::Lost => {}
        }
    }

    fn lose(&mut self, state: &ControlState<B>, done: &mut dyn FnMut(u16, Result<(), Error>)) {
        if matches!(self.link, Link::Lost) {
            return;
        }
        self.link = Link::Lost;
        if let Some(queues) = &mut self.queues
            // It may still work on the memory of what is in flight: nobody gets that back.
            && !state.is_loose
        {
            let not_made = self.not_made.as_ref();
            queues.pair.give_up(&|kind| error_of(state, not_made, kind), done);
        }
    }

    /// Identifies the namespace again after it was said to have changed.
    fn watch_namespace(&mut self, state: &mut ControlState<B>) {
        let Some(queues) = &self.queues else { return };
        if let Some(ticket) = self.identifying
            && let Some(answer) = state.controller.take(ticket)
        {
            self.identifying = None;
            match answer {
                Ok(Reply::Namespace(Some(found))) => {
                    self.misfit = found.misfit(queues.pair.block_shift());
                    match &self.misfit {
                        Some(why) => warn!("{}: {why}", queues.pair.name()),
                        None => self.resized = Some(found.size_bytes()),
                    }
                }
                // It is gone: commands say so.
                Ok(Reply::Namespace(None)) => self.resized = Some(0),
                Ok(_) => {}
                // Asked again below.
                Err(_) => self.changes = state.changes.wrapping_sub(1),
            }
        }
        if self.changes != state.changes && self.identifying.is_none() {
            let asked = state.controller.request(Request::Namespace(queues.pair.namespace()), self.now);
            // Without room it is asked at the next look.
            if let Ok(ticket) = asked {
                (self.changes, self.identifying) = (state.changes, Some(ticket));
            }
        }
    }

    /// Why a command is not even tried.
    #[cold]
    fn refusal(&mut self, kind: CommandKind) -> Option<Failure> {
        let not_started =
            |kind, why: String| Failure { outcome: Outcome::NotStarted, ..Failure::new(kind, why) };
        if matches!(self.link, Link::Lost) {
            let error = error_of(&self.control.lock(), self.not_made.as_ref(), kind);
            return Some(Failure::of(&error.outcome_is(Outcome::NotStarted)));
        }
        if let Some(why) = &self.misfit {
            return Some(not_started(ErrorKind::UnsupportedFormat, why.clone()));
        }
        if kind == CommandKind::Flush && std::mem::take(&mut self.may_have_lost) {
            return Some(Failure::writes_may_be_lost());
        }
        None
    }

    /// Aborts commands that take too long, and resets a controller that does not even abort.
    fn watch_commands(&mut self, state: &mut ControlState<B>) {
        let Some(queues) = &mut self.queues else { return };
        let pair = &mut queues.pair;
        if pair.in_flight() == 0 {
            return;
        }
        for slot in 0..pair.slots() {
            let Some((at, was_aborted)) = pair.began(slot) else { continue };
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
            } else if let Some(command_id) = pair.command_id(slot) {
                warn!("{}: a command takes {took:?}: aborting it", self.control.name());
                let request = Request::Abort { queue: queues.number, command_id };
                if let Ok(ticket) = state.controller.request(request, self.now) {
                    state.controller.forget(ticket);
                    pair.set_aborted(slot);
                }
            }
        }
    }
}

/// The error of a command that the controller does not do, or did not end: it has stopped, or it
/// works and has `not_made` the queues for it.
fn error_of<B: Bus>(state: &ControlState<B>, not_made: Option<&Error>, kind: CommandKind) -> Error {
    let error = match not_made {
        Some(error) => Error::new(ErrorKind::Closed, kind.name()).because(format!(
            "the controller was reset and has not made this core's queues anew: {}: attach again",
            error.detail().unwrap_or("it does not say why")
        )),
        None => state.controller.error(kind.name()),
    };
    error.outcome_is(Outcome::Unknown)
}

// SAFETY: the controller works on memory that a command names from `submit` on. `QueuePair::poll`
// reports a slot once the controller has completed its command, with the id that the command had
// then; `stop` and `give_up` report slots when the controller was stopped, or is gone, or was reset
// from outside (`is_loose` is false). `shut_down` is true if the controller deleted the queues,
// which ends their commands, or one of these holds.
unsafe impl<B: Bus> Port for NvmePort<B> {
    const NAME: &'static str = "nvme";

    fn slots(&self) -> u16 {
        self.queues.as_ref().map_or(0, |queues| queues.pair.slots())
    }

    #[inline]
    unsafe fn submit(&mut self, slot: u16, command: &Command<'_>) -> Result<(), Refused> {
        if self.is_suspect
            && let Some(failure) = self.refusal(command.kind)
        {
            return Err(Refused::Failed(failure));
        }
        let Some(queues) = &mut self.queues else { return Err(Refused::Full) };
        // SAFETY: the caller keeps the memory valid, and to itself, until the slot is done.
        unsafe { queues.pair.submit(slot, command, self.now) }
    }

    #[inline]
    fn kick(&mut self) {
        if let Some(queues) = &mut self.queues {
            queues.pair.kick();
        }
    }

    #[inline]
    fn poll(
        &mut self,
        now: Instant,
        budget: usize,
        mut done: impl FnMut(u16, Result<(), Box<Failure>>),
    ) -> usize {
        self.now = now;
        self.control.bus().turn();
        let Some(queues) = &mut self.queues else { return 0 };
        let mut events = queues.pair.poll(budget, |slot, result| done(slot, result.map_err(failure)));
        if events > 0
            && let Some(interrupt) = &mut self.interrupt
        {
            interrupt.completions_were_taken();
        }
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
        let Some(queues) = &self.queues else { return Park::Idle };
        match self.link {
            Link::Lost => Park::Idle,
            Link::Stopped | Link::Creating(_) => Park::Nap(LOOK_SOON),
            Link::Attached if in_use == 0 => Park::Idle,
            Link::Attached => match &mut self.interrupt {
                Some(interrupt) => interrupt.park(|| queues.pair.has_completion()),
                None => Park::Spin,
            },
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let has_commands = self.queues.as_ref().is_some_and(|queues| queues.pair.in_flight() > 0);
        // An interrupt may have been lost. The last look may have found nothing to wait for.
        Some(if has_commands { self.next_look.min(self.now + LOOK_BUSY) } else { self.next_look })
    }

    fn resized(&mut self) -> Option<u64> {
        self.resized.take()
    }

    /// With nothing in flight the memory of callers is safe already, and the poller sees to the
    /// queues. Otherwise the core ends, and waits.
    fn shut_down(&mut self) -> bool {
        let Some(mut queues) = self.queues.take() else { return true };
        let mut state = self.control.lock();
        if let Some(ticket) = self.identifying.take() {
            state.controller.forget(ticket);
        }
        let (is_loose, is_quiet) = (state.is_loose, state.is_quiet(queues.stops));
        drop(state);
        let ticket = match self.link {
            Link::Lost if is_loose => return false,
            Link::Lost => {
                queues.are_forgotten();
                return true;
            }
            // Nothing was sent since it stopped, so that no command is with it. But a reset may
            // have come while it made the queues anew: until it has stopped it may know them.
            Link::Stopped => {
                if is_quiet {
                    queues.are_forgotten();
                }
                Retirement::begin(queues, None);
                return true;
            }
            Link::Creating(ticket) => Some(ticket),
            Link::Attached => None,
        };
        if queues.pair.in_flight() == 0 {
            Retirement::begin(queues, ticket);
            return true;
        }
        Retirement::wait_for(queues, ticket)
    }
}

#[cold]
fn failure(error: Error) -> Box<Failure> {
    Box::new(Failure { miscompare: is_miscompare(&error), ..Failure::of(&error) })
}
