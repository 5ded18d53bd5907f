//! A controller's life: enabled, identified, reset, shut down (Base 3.5, 3.6, 3.7). Time comes in
//! with every call; nothing here waits.
//!
//! | phase | left when | for |
//! |---|---|---|
//! | `New` | first `poll` | `AwaitingReady` if it is being enabled by somebody, else `Disabling` |
//! | `AwaitingReady` | CSTS.RDY = 1, or CAP.TO passed | `Disabling` |
//! | `Disabling` | CSTS.RDY = 0 | `Enabling`, with [`Event::Stopped`] |
//! | `Enabling` | CSTS.RDY = 1 | `Identifying` |
//! | `Identifying` | the last answer | `Ready`, with [`Event::Ready`] |
//! | `Ready` | CSTS.CFS, an admin command past its deadline, `reset` | `Disabling` |
//! | `Enabling`, `Identifying` | `reset` | `AwaitingReady` |
//! | any but the next three | `shutdown` | `ShuttingDown` |
//! | `ShuttingDown` | CSTS.SHST = 10b, or its time passed | `Off` |
//! | any but `Off` | CSTS reads as all ones | `Removed` |
//! | `Disabling`, `Enabling`, `Identifying` | CAP.TO or a deadline passed, a refusal | `Failed` |
//! | `Failed`, `Removed`, `Off` | `restart` | `New` |

mod admin_queue;
mod bring_up;
mod events;
mod options;
mod requests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::command_id::CommandIds;
use super::dma::{DmaMemory, DmaRegion};
use super::identify::{ControllerIdentity, NamespaceIdentity};
use super::registers::{
    ACQ, ALL_ONES, AQA, ASQ, CAP, CC, CC_ENABLE, CC_SHUTDOWN_MASK, CC_SHUTDOWN_NORMAL, CRTO, CSTS,
    CSTS_FATAL, CSTS_READY, CSTS_SHUTDOWN_COMPLETE, CSTS_SHUTDOWN_MASK, Capabilities, Registers, VS,
    enabled_configuration,
};
use super::rings::{COMPLETION_BYTES, ENTRY_BYTES, Rings};
use super::shadow::ShadowDoorbells;
use crate::error::{Error, ErrorKind, Result};
use crate::rt::Instant;

use admin_queue::{AdminCommand, Purpose};
use bring_up::Step;
pub use events::Event;
pub use options::ControllerOptions;
use requests::Job;
pub use requests::{QueueSpec, Reply, Request, Ticket};

/// Entries of the admin queues.
const ADMIN_ENTRIES: u16 = 16;
/// The controller's pages have 4096 bytes, which every controller in use offers.
const PAGE_SHIFT: u32 = 12;
/// Bytes for the data of each admin command.
const PAGE_BYTES: usize = 4096;
/// How often in a row a controller that fails by itself is reset.
const MAX_RESETS: u32 = 5;
/// A controller that was ready for this long has recovered.
const RECOVERED_AFTER: Duration = Duration::from_secs(30);
/// The most events that wait to be taken; the oldest go first.
const MAX_EVENTS: usize = 64;

/// Where a controller is in its life; the table is at the top of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Nothing was done yet.
    New,
    /// Somebody enabled it and it is not ready: disabling it now has no defined result.
    AwaitingReady,
    /// It is to stop.
    Disabling,
    /// It is to start.
    Enabling,
    /// It says what it is.
    Identifying,
    /// It takes requests and I/O.
    Ready,
    /// It prepares to lose power.
    ShuttingDown,
    /// It was shut down.
    Off,
    /// It does not work; [`Controller::failure`] says why.
    Failed,
    /// It is not there any more.
    Removed,
}

/// Why a controller is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCause {
    /// Somebody asked for it.
    Requested,
    /// A command did not complete in time.
    TimedOut,
    /// It said that it failed (CSTS.CFS).
    Fatal,
}

/// One controller: its registers, its admin queues and what is known about it.
pub struct Controller<R> {
    options: ControllerOptions,
    registers: R,
    capabilities: Capabilities,
    page_shift: u32,
    rings: Rings<R>,
    ids: CommandIds,
    commands: [Option<AdminCommand>; ADMIN_ENTRIES as usize - 1],
    pages: DmaRegion,
    phase: Phase,
    /// When the phase has taken too long.
    deadline: Instant,
    /// It was ready before: what fails now is a reset, not the first start.
    was_ready: bool,
    ready_since: Option<Instant>,
    resets: u32,
    cause: ResetCause,
    failure: Option<String>,
    identity: Option<ControllerIdentity>,
    namespaces: Vec<NamespaceIdentity>,
    /// Numbers of namespaces that are still to be identified.
    unidentified: VecDeque<u32>,
    queue_pairs: u16,
    volatile_cache: bool,
    shadow: Arc<ShadowDoorbells>,
    /// The controller reads its doorbells there.
    is_shadowed: bool,
    jobs: Vec<Job>,
    next_ticket: u64,
    events: VecDeque<Event>,
    /// What the last event about its health said.
    health: &'static str,
    strays: u64,
}

impl<R> fmt::Debug for Controller<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller")
            .field("name", &self.options.name)
            .field("phase", &self.phase)
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl<R: Registers + Clone> Controller<R> {
    /// A controller behind `registers`, whose admin queues lie in `memory`. Nothing is written yet.
    ///
    /// # Errors
    ///
    /// No controller answers, it does not have the NVM command set, or there is no memory.
    pub fn new(registers: R, memory: &dyn DmaMemory, options: ControllerOptions) -> Result<Self> {
        const OPEN: &str = "open controller";
        let cap = registers.read64(CAP);
        let refused =
            |kind, why: &str| Err(Error::new(kind, OPEN).at(options.name.clone()).because(why.to_owned()));
        if cap == u64::MAX {
            return refused(
                ErrorKind::NotFound,
                "its registers read as all ones: the device is gone or its memory space is disabled",
            );
        }
        let capabilities = Capabilities::new(cap).with_ready_timeouts(registers.read32(CRTO));
        if !capabilities.nvm_command_set && !capabilities.all_command_sets {
            return refused(ErrorKind::Unsupported, "it has no NVM command set: it is no block device");
        }
        let [page_shift, _] = capabilities.page_shifts;
        if page_shift > PAGE_SHIFT {
            return refused(
                ErrorKind::Unsupported,
                "its smallest pages are larger than the driver's 4096 bytes",
            );
        }
        if capabilities.max_queue_entries < 2 {
            return refused(
                ErrorKind::Unsupported,
                "its queues have one entry; the specification asks for two",
            );
        }
        let rings = Rings::new(
            registers.clone(),
            &capabilities,
            0,
            ADMIN_ENTRIES,
            memory.allocate((usize::from(ADMIN_ENTRIES) * ENTRY_BYTES).next_multiple_of(PAGE_BYTES))?,
            memory.allocate((usize::from(ADMIN_ENTRIES) * COMPLETION_BYTES).next_multiple_of(PAGE_BYTES))?,
        );
        let slots = usize::from(ADMIN_ENTRIES) - 1;
        Ok(Self {
            page_shift: PAGE_SHIFT,
            registers,
            capabilities,
            rings,
            ids: CommandIds::new(slots),
            commands: [None; ADMIN_ENTRIES as usize - 1],
            pages: memory.allocate(slots * PAGE_BYTES)?,
            phase: Phase::New,
            deadline: Instant::FAR_FUTURE,
            was_ready: false,
            ready_since: None,
            resets: 0,
            cause: ResetCause::Requested,
            failure: None,
            identity: None,
            namespaces: Vec::new(),
            unidentified: VecDeque::new(),
            queue_pairs: 0,
            volatile_cache: false,
            shadow: Arc::new(ShadowDoorbells::new(memory)?),
            is_shadowed: false,
            jobs: Vec::new(),
            next_ticket: 0,
            events: VecDeque::new(),
            health: "",
            strays: 0,
            options,
        })
    }

    /// Goes on as far as the registers and queues allow. Call it after an interrupt of vector 0,
    /// while anything is pending, and a few times a second otherwise, to notice that a controller
    /// failed or was removed.
    pub fn poll(&mut self, now: Instant) -> Phase {
        if matches!(self.phase, Phase::Off | Phase::Failed | Phase::Removed) {
            return self.phase;
        }
        let status = self.registers.read32(CSTS);
        if status == ALL_ONES {
            self.removed();
            return self.phase;
        }
        let ready = status & CSTS_READY != 0;
        let late = now >= self.deadline;
        match self.phase {
            Phase::New => self.stop(now),
            Phase::AwaitingReady if ready || late || status & CSTS_FATAL != 0 => self.disable(now),
            Phase::Disabling if !ready => self.enable(now),
            Phase::Disabling if late => self.fail("it does not stop (CSTS.RDY stays 1) within its own limit"),
            Phase::Enabling if status & CSTS_FATAL != 0 => {
                self.fail("it reports a fatal status (CSTS.CFS) while it is enabled");
            }
            Phase::Enabling if ready => self.identify(now),
            Phase::Enabling if late => {
                self.fail("it does not become ready (CSTS.RDY stays 0) within its own limit");
            }
            Phase::Identifying | Phase::Ready => {
                if status & CSTS_FATAL != 0 {
                    self.recover(ResetCause::Fatal, now);
                } else {
                    self.poll_admin(now);
                }
            }
            Phase::ShuttingDown if status & CSTS_SHUTDOWN_MASK == CSTS_SHUTDOWN_COMPLETE || late => {
                if late {
                    self.failure = Some("it did not complete its shutdown in time".to_owned());
                }
                self.phase = Phase::Off;
            }
            _ => {}
        }
        self.phase
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Why it is [`Phase::Failed`] or [`Phase::Removed`].
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// The error of an operation on a controller that does not work.
    pub fn error(&self, operation: &'static str) -> Error {
        let (kind, why) = match self.phase {
            Phase::Removed => (ErrorKind::Closed, "the device was removed"),
            Phase::Failed => (ErrorKind::Os, "the controller failed"),
            Phase::Off | Phase::ShuttingDown => (ErrorKind::Closed, "the controller is shut down"),
            _ => (ErrorKind::Os, "the controller is being reset"),
        };
        let why = match &self.failure {
            Some(failure) => format!("{why}: {failure}"),
            None => why.to_owned(),
        };
        Error::new(kind, operation).at(self.options.name.clone()).because(why)
    }

    /// Why it was reset last. After [`ResetCause::Fatal`] its cache may be lost.
    pub fn reset_cause(&self) -> ResetCause {
        self.cause
    }

    /// What its capability register says.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Its page size as a power of two.
    pub fn page_shift(&self) -> u32 {
        self.page_shift
    }

    /// What it says about itself, from [`Phase::Ready`] on.
    pub fn identity(&self) -> Option<&ControllerIdentity> {
        self.identity.as_ref()
    }

    /// Its active namespaces, as of [`Phase::Ready`], or when it was asked for one since.
    pub fn namespaces(&self) -> &[NamespaceIdentity] {
        &self.namespaces
    }

    /// How many I/O queue pairs it granted.
    pub fn queue_pairs(&self) -> u16 {
        self.queue_pairs
    }

    /// Whether it has a volatile write cache that is on.
    pub fn volatile_cache(&self) -> bool {
        self.volatile_cache
    }

    /// Its doorbells in memory, if it has such. A queue pair wants them anew after each
    /// reset.
    pub fn shadow_doorbells(&self) -> Option<Arc<ShadowDoorbells>> {
        self.is_shadowed.then(|| Arc::clone(&self.shadow))
    }

    /// Completions of its admin queue for no command in flight.
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// What happened since the last call, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Controller::poll`] is needed even if nothing else happens.
    pub fn next_deadline(&self) -> Instant {
        let commands = self.commands.iter().flatten().map(|command| command.deadline).min();
        self.deadline.min(commands.unwrap_or(Instant::FAR_FUTURE))
    }

    /// Resets it: I/O queues are gone when it is ready again. [`Event::Stopped`] says when it
    /// touches no memory any more, [`Event::Ready`] when queues can be created anew.
    pub fn reset(&mut self, cause: ResetCause, now: Instant) {
        if matches!(self.phase, Phase::Enabling | Phase::Identifying | Phase::Ready) {
            self.recover(cause, now);
        }
    }

    /// Begins an orderly shutdown (CC.SHN); I/O queue pairs have nothing in flight. It ends with
    /// [`Phase::Off`].
    pub fn shutdown(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Off | Phase::Failed | Phase::Removed | Phase::ShuttingDown) {
            return;
        }
        self.fail_jobs("the controller is shut down");
        let theirs = self.identity.as_ref().map_or(0, |identity| identity.shutdown_micros);
        let limit = self.options.shutdown_timeout.max(Duration::from_micros(theirs.into()));
        let configuration = self.registers.read32(CC) & !CC_SHUTDOWN_MASK;
        self.registers.write32(CC, configuration | CC_SHUTDOWN_NORMAL);
        self.deadline = now + limit;
        self.phase = Phase::ShuttingDown;
    }

    /// Starts over after the function was reset from outside, or the device is there again.
    pub fn restart(&mut self, now: Instant) {
        self.fail_jobs("the controller starts over");
        self.failure = None;
        self.resets = 0;
        self.phase = Phase::New;
        self.deadline = now + self.capabilities.timeout;
    }

    /// Makes it stop, whatever it is doing.
    fn stop(&mut self, now: Instant) {
        let enabled = self.registers.read32(CC) & CC_ENABLE != 0;
        let status = self.registers.read32(CSTS);
        if enabled && status & (CSTS_READY | CSTS_FATAL) == 0 {
            // Base 3.1.3.5: EN is not cleared before RDY has followed it.
            self.deadline = now + self.capabilities.timeout;
            self.phase = Phase::AwaitingReady;
        } else {
            self.disable(now);
        }
    }

    fn disable(&mut self, now: Instant) {
        let configuration = self.registers.read32(CC);
        self.registers.write32(CC, configuration & !(CC_ENABLE | CC_SHUTDOWN_MASK));
        self.deadline = now + self.capabilities.timeout;
        self.phase = Phase::Disabling;
    }

    /// It has stopped: it gets clean queues and starts.
    fn enable(&mut self, now: Instant) {
        for (index, command) in self.commands.iter_mut().enumerate() {
            if command.take().is_some() {
                self.ids.revoke(index);
            }
        }
        self.rings.clear();
        self.is_shadowed = false;
        self.shadow.clear();
        self.push_event(Event::Stopped);
        let [submissions, completions] = self.rings.device_addresses();
        let last = u32::from(ADMIN_ENTRIES - 1);
        self.registers.write32(AQA, last | last << 16);
        self.registers.write64(ASQ, submissions);
        self.registers.write64(ACQ, completions);
        let all_command_sets = !self.capabilities.nvm_command_set;
        self.registers.write32(CC, enabled_configuration(self.page_shift, all_command_sets));
        self.deadline = now + self.capabilities.timeout;
        self.phase = Phase::Enabling;
    }

    fn identify(&mut self, now: Instant) {
        self.phase = Phase::Identifying;
        self.deadline = Instant::FAR_FUTURE;
        self.namespaces.clear();
        self.unidentified.clear();
        self.bring_up(Step::Controller, now);
    }

    fn became_ready(&mut self, now: Instant) {
        self.phase = Phase::Ready;
        self.was_ready = true;
        self.ready_since = Some(now);
        self.push_event(Event::Ready);
        self.request_events(now);
    }

    /// Resets a controller that worked before, unless it fails again and again.
    fn recover(&mut self, cause: ResetCause, now: Instant) {
        self.cause = cause;
        self.fail_jobs("the controller was reset before it answered");
        let since = self.ready_since.take();
        if since.is_some_and(|since| now.saturating_since(since) >= RECOVERED_AFTER) {
            self.resets = 0;
        }
        if cause != ResetCause::Requested {
            self.resets += 1;
        }
        if self.resets > MAX_RESETS {
            self.fail("it failed again after each of five resets");
            return;
        }
        self.stop(now);
    }

    fn fail(&mut self, why: &str) {
        let limit = self.capabilities.timeout;
        self.failure = Some(format!("{why} (CAP.TO allows {limit:?})"));
        self.end_of_life(Phase::Failed);
    }

    fn refuse(&mut self, error: &Error) {
        self.failure = Some(error.to_string());
        self.end_of_life(Phase::Failed);
    }

    fn removed(&mut self) {
        self.failure = Some("its registers read as all ones".to_owned());
        self.end_of_life(Phase::Removed);
    }

    fn end_of_life(&mut self, phase: Phase) {
        self.phase = phase;
        self.deadline = Instant::FAR_FUTURE;
        self.fail_jobs("the controller failed or was removed");
        self.push_event(if phase == Phase::Removed { Event::Removed } else { Event::Failed });
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn version(&self) -> u32 {
        self.registers.read32(VS)
    }
}
