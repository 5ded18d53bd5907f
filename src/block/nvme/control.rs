//! One controller, as all cores of the process share it.
//!
//! An I/O passes through its queue pair alone. What is here is behind a lock, which cores take when
//! they attach and detach, and now and then for a moment to see whether the controller has
//! something to say ([`Control::tick`]). No thread is kept for that.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use tracing::{info, warn};

use super::bus::Bus;
use super::controller::{Controller, ControllerOptions, Event, Phase, Reply, Request, ResetCause, Ticket};
use super::identify::NamespaceIdentity;
use super::registers::{ALL_ONES, CC, CSTS, CSTS_READY, Registers};
use crate::error::{Error, ErrorKind, Result};
use crate::rt;
use crate::rt::Instant;

/// How long the controller's slow answers are waited for before it is asked again.
pub(super) const ASK_EVERY: Duration = Duration::from_micros(200);
/// How long a core that ends waits for its queues to be deleted, and the process for the controller
/// to shut down.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// How long a controller that took all of that is given to stop.
const LAST_PATIENCE: Duration = Duration::from_millis(200);

/// A controller and what is known of it.
pub(super) struct Control<B: Bus> {
    /// Before the bus, on which it ends.
    state: Mutex<ControlState<B>>,
    bus: B,
    name: String,
}

pub(super) struct ControlState<B: Bus> {
    pub(super) controller: Controller<B::Registers>,
    /// Numbers of queue pairs that nobody has.
    free: Vec<u16>,
    /// How many queue pairs are being deleted.
    pub(super) retiring: usize,
    /// How often it stopped: queues that were made before are gone.
    pub(super) stops: u32,
    /// How often it stopped because it failed: what was in its cache may be lost.
    pub(super) fatal_stops: u32,
    /// It failed, and could not be kept from writing to memory.
    pub(super) is_loose: bool,
    /// How often namespaces were said to have changed.
    pub(super) changes: u32,
    /// The last time that anybody looked.
    now: Instant,
}

impl<B: Bus> Control<B> {
    /// Brings the controller on `bus` up.
    ///
    /// # Errors
    ///
    /// It does not come up, or is none.
    pub(super) async fn open(bus: B, name: String, queue_pairs: u16) -> Result<Self> {
        let options = ControllerOptions::new(name.clone()).queue_pairs(queue_pairs);
        let controller = Controller::new(bus.registers(), &bus, options)?;
        let state = ControlState {
            controller,
            free: Vec::new(),
            retiring: 0,
            stops: 0,
            fatal_stops: 0,
            is_loose: false,
            changes: 0,
            now: rt::now(),
        };
        let control = Self { state: Mutex::new(state), bus, name };
        control.until_ready().await?;
        let mut state = control.lock();
        state.free = (1..=state.controller.queue_pairs()).rev().collect();
        drop(state);
        Ok(control)
    }

    pub(super) fn bus(&self) -> &B {
        &self.bus
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, ControlState<B>> {
        // A core that panicked with it has done a whole step, or none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the controller go on, unless another core is at it.
    pub(super) fn tick(&self, now: Instant) -> Option<MutexGuard<'_, ControlState<B>>> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.advance(&mut state, now);
        Some(state)
    }

    pub(super) fn advance(&self, state: &mut ControlState<B>, now: Instant) {
        // Cores may have clocks of their own.
        state.now = state.now.max(now);
        self.bus.turn();
        let now = state.now;
        if let Err(error) = self.bus.heed_removal() {
            state.is_loose = true;
            warn!("{}: memory that it may write to stays allocated: {error}", self.name);
        }
        state.controller.poll(now);
        while let Some(event) = state.controller.next_event() {
            match event {
                Event::Stopped => {
                    state.stops += 1;
                    if state.controller.reset_cause() == ResetCause::Fatal {
                        state.fatal_stops += 1;
                    }
                }
                Event::Removed => {
                    state.stops += 1;
                    warn!("{}: the controller was removed", self.name);
                }
                Event::Failed => {
                    let why = state.controller.failure().unwrap_or("it does not say why").to_owned();
                    warn!("{}: the controller failed: {why}", self.name);
                    // It may still be writing.
                    if let Err(error) = self.bus.reset() {
                        state.is_loose = true;
                        warn!("{}: memory that it may write to stays allocated: {error}", self.name);
                    }
                }
                Event::NamespacesChanged(_) => state.changes += 1,
                Event::Health(what, _) => warn!("{}: {what}: see `boson device info`", self.name),
                Event::Error(what) => warn!("{}: the controller reports {what}", self.name),
                Event::Ready if state.stops > 1 => info!("{}: the controller was reset", self.name),
                Event::Ready | Event::Other(_) => {}
            }
        }
    }

    /// Waits until the controller takes requests.
    ///
    /// # Errors
    ///
    /// It never will.
    pub(super) async fn until_ready(&self) -> Result<()> {
        while !self.is_ready()? {
            rt::sleep(ASK_EVERY).await;
        }
        Ok(())
    }

    fn is_ready(&self) -> Result<bool> {
        let mut state = self.lock();
        self.advance(&mut state, rt::now());
        match state.controller.phase() {
            Phase::Ready => Ok(true),
            Phase::Failed | Phase::Removed | Phase::Off => Err(state.controller.error("open")),
            _ => Ok(false),
        }
    }

    /// The answer to a request, when it is there.
    ///
    /// # Errors
    ///
    /// The controller refuses, or is not there.
    pub(super) async fn answer(&self, ticket: Ticket) -> Result<Reply> {
        loop {
            if let Some(answer) = self.take(ticket, rt::now()) {
                return answer;
            }
            rt::sleep(ASK_EVERY).await;
        }
    }

    fn take(&self, ticket: Ticket, now: Instant) -> Option<Result<Reply>> {
        let mut state = self.lock();
        self.advance(&mut state, now);
        state.controller.take(ticket)
    }

    /// What the controller says now about the namespace with this number; `None` if it is not
    /// active.
    ///
    /// # Errors
    ///
    /// The controller refuses, or is not there.
    pub(super) async fn identify(&self, number: u32) -> Result<Option<Box<NamespaceIdentity>>> {
        loop {
            self.until_ready().await?;
            let asked = self.lock().controller.request(Request::Namespace(number), rt::now());
            let answer = match asked {
                Ok(ticket) => {
                    let asked = Asked { control: self, ticket };
                    self.answer(asked.ticket).await
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(Reply::Namespace(found)) => return Ok(found),
                // There was no room for the request, or a reset came in between.
                Err(error) if matches!(error.kind(), ErrorKind::LimitReached | ErrorKind::Cancelled) => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            rt::sleep(ASK_EVERY).await;
        }
    }

    /// The number of a queue pair for one core. If all are taken, but some are about to come back,
    /// it waits for those.
    ///
    /// # Errors
    ///
    /// All are taken.
    pub(super) async fn take_number(&self) -> Result<u16> {
        let until = rt::now() + PATIENCE;
        loop {
            if let Some(number) = self.free_number(rt::now() < until)? {
                return Ok(number);
            }
            rt::sleep(ASK_EVERY).await;
        }
    }

    /// A free number; `None` if one is about to come back, and the caller has the `patience`.
    fn free_number(&self, patience: bool) -> Result<Option<u16>> {
        let mut state = self.lock();
        let number = state.free.pop();
        if number.is_some() || (state.retiring > 0 && patience) {
            return Ok(number);
        }
        let all = state.controller.queue_pairs();
        Err(Error::new(ErrorKind::LimitReached, "attach").at(self.name.clone()).because(format!(
            "its {all} queue pairs are in use, one by each core and namespace: use fewer cores"
        )))
    }

    pub(super) fn give_number(&self, number: u16) {
        self.lock().free.push(number);
    }

    /// Queues are gone: their `number` is free, unless they are leaked. `were_retiring` says
    /// whether they were counted as such.
    pub(super) fn end_queues(&self, number: Option<u16>, were_retiring: bool) {
        let mut state = self.lock();
        state.free.extend(number);
        state.retiring -= usize::from(were_retiring);
    }
}

/// A request whose answer nobody waits for any more is forgotten.
struct Asked<'a, B: Bus> {
    control: &'a Control<B>,
    ticket: Ticket,
}

impl<B: Bus> Drop for Asked<'_, B> {
    fn drop(&mut self) {
        self.control.lock().controller.forget(self.ticket);
    }
}

impl<B: Bus> ControlState<B> {
    /// The last time that anybody looked.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// Whether queues that were made after `stops` stops are none of the controller's any more.
    pub(super) fn is_quiet(&self, stops: u32) -> bool {
        let ended = matches!(self.controller.phase(), Phase::Failed | Phase::Removed | Phase::Off);
        !self.is_loose && (ended || self.stops != stops)
    }
}

impl<B: Bus> Drop for Control<B> {
    /// Shuts the controller down in an orderly way, so that it need not recover when it starts, and
    /// disables it: an enabled one may look at its queues although it was shut down.
    ///
    /// The thread waits for that, as nobody else could: the process may be about to end, or to open
    /// the controller again. One that hangs is waited for once. No memory is at stake here: before
    /// the admin queue's memory is freed it is unmapped, and the bus resets the controller.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.controller.shutdown(state.now);
        let (mut now, until) = (state.now, state.now + PATIENCE);
        let is_over = |phase| matches!(phase, Phase::Off | Phase::Failed | Phase::Removed);
        while now < until && !is_over(state.controller.poll(now)) {
            now += ASK_EVERY;
            self.bus.pause(ASK_EVERY);
            self.bus.turn();
        }
        let registers = self.bus.registers();
        registers.write32(CC, 0);
        let until = until.max(now + LAST_PATIENCE);
        while now < until && is_ready(registers.read32(CSTS)) {
            now += ASK_EVERY;
            self.bus.pause(ASK_EVERY);
            self.bus.turn();
        }
    }
}

/// Whether the controller is enabled; one that was removed is not.
fn is_ready(status: u32) -> bool {
    status != ALL_ONES && status & CSTS_READY != 0
}
