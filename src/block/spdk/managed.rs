//! A controller in the hands of the control thread: its admin queue, its resets, its end.

use std::mem;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use boson_spdk_sys as sys;

use super::controller::ControllerState;
use super::description::Description;
use super::env::{capture, strerror, words};
use super::gate::Phase;
use crate::error::{Error, ErrorKind, Result};
use crate::time::Instant;

/// The first pause before another reset, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// A controller that is lost sooner than this after its reset, this many times in a row, gets a
/// pause before the next one.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
const LOSSES_IN_A_ROW: u32 = 3;

/// How often the bus is looked at for removed devices.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// How far the control thread is with a controller.
///
/// | stage | until | next |
/// |---|---|---|
/// | `Serving` | the admin queue fails, or a core lost its queue pair, or it was removed | on the bus `Halting`, else `Draining` |
/// | `Halting` | no core is inside of SPDK with it | `Stopping` |
/// | `Stopping` | the admin queue is down, and the controller touches no memory | `Draining`; `Gone` if it was removed |
/// | `Draining` | the cores have freed their queue pairs | `Disconnecting`; `Pausing` if it is lost again and again; `Stopping` if SPDK says that it was removed |
/// | `Disconnecting` | the admin queue is down, and the controller touches no memory | `Reconnecting` |
/// | `Reconnecting` | SPDK is done | `Serving`, or `Pausing` |
/// | `Pausing` | its time, or it was removed | `Disconnecting`; `Halting` if it was removed, or `Stopping` if SPDK says so |
/// | `Gone` | the cores have freed their queue pairs | `Detaching` |
/// | `Detaching` | SPDK is done | it is forgotten, or `Released` if there are handles |
/// | `Released` | the last handle is gone | it is forgotten |
///
/// When the last handle goes, `Serving`, `Draining`, `Disconnecting`, `Pausing` and `Gone` end in
/// `Detaching`, once nothing is left that cores left behind. The others come to one of these first.
/// SPDK may refuse to detach: instead of `Detaching` comes `Released` then, and the controller
/// stays until the process ends.
///
/// Over TCP a connection's commands are over with it, and queue pairs are freed first. On the bus
/// the controller is stopped first: it may write to memory until then.
#[derive(Clone, Copy)]
enum Stage {
    Serving,
    Halting,
    Stopping,
    Draining,
    Disconnecting,
    Reconnecting,
    Pausing { until: Instant },
    Gone,
    Detaching(NonNull<sys::spdk_nvme_detach_ctx>),
    Released,
}

pub(super) struct Managed {
    state: Arc<ControllerState>,
    stage: Stage,
    pause: Duration,
    scanned: Instant,
    /// Since when it serves, and how often it did so for a short time only, in a row.
    served: Instant,
    losses: u32,
    /// The device was pulled off the bus.
    is_removed: bool,
    /// When it was told to stop, by us and not by SPDK.
    disabled: Option<Instant>,
    /// It did not stop, and is kept from memory by its PCI function.
    is_muted: bool,
    /// Who asked what a namespace is.
    describing: Vec<(u32, Sender<Result<Description>>)>,
    /// The last handle is gone: who waits for the end.
    detach: Option<Sender<()>>,
}

impl Managed {
    pub(super) fn new(state: Arc<ControllerState>, now: Instant) -> Self {
        state.watch();
        Self {
            state,
            stage: Stage::Serving,
            pause: FIRST_PAUSE,
            scanned: now,
            served: now,
            losses: 0,
            is_removed: false,
            disabled: None,
            is_muted: false,
            describing: Vec::new(),
            detach: None,
        }
    }

    pub(super) fn is(&self, state: &Arc<ControllerState>) -> bool {
        Arc::ptr_eq(&self.state, state)
    }

    pub(super) fn name(&self) -> &str {
        self.state.name()
    }

    /// Whether it wants another turn soon.
    pub(super) fn is_busy(&self) -> bool {
        self.detach.is_some()
            || self.state.has_abandoned()
            || !matches!(self.stage, Stage::Serving | Stage::Pausing { .. } | Stage::Gone | Stage::Released)
    }

    pub(super) fn detach(&mut self, reply: Sender<()>) {
        self.detach = Some(reply);
    }

    pub(super) fn describe(&mut self, nsid: u32, reply: Sender<Result<Description>>) {
        self.describing.push((nsid, reply));
    }

    /// Goes on. Returns whether there is still a controller.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        // What was begun runs to its end first: SPDK holds the controller's lock while it connects,
        // and what cores left behind is freed when the controller has stopped.
        if self.detach.is_some()
            && !self.state.has_abandoned()
            && matches!(
                self.stage,
                Stage::Serving | Stage::Draining | Stage::Disconnecting | Stage::Pausing { .. } | Stage::Gone
            )
        {
            self.start_detaching();
        }
        match self.stage {
            Stage::Serving => self.serve(now),
            Stage::Halting => self.halt(),
            Stage::Stopping => {
                if self.is_stopped(now) {
                    let (phase, stage) = if self.is_removed {
                        (Phase::Gone, Stage::Gone)
                    } else {
                        (Phase::Draining, Stage::Draining)
                    };
                    self.state.gate().set_phase(phase);
                    self.stage = stage;
                }
            }
            Stage::Draining => self.drain(now),
            Stage::Disconnecting => {
                if self.is_stopped(now) {
                    self.start_reconnecting(now);
                }
            }
            Stage::Reconnecting => self.reconnect(now),
            Stage::Pausing { until } => {
                self.look_at_bus(now);
                if !self.is_removed && now >= until {
                    self.disconnect();
                }
            }
            Stage::Gone => {
                self.state.free_abandoned(true);
                // The kernel waits for the device to be let go of, also while there are handles.
                if self.state.queue_pairs() == 0 {
                    self.start_detaching();
                }
            }
            Stage::Released => {
                if self.detach.is_some() {
                    self.finish();
                    return false;
                }
            }
            Stage::Detaching(context) => {
                // SAFETY: the context is that of a detaching that is not done: it is forgotten
                // then.
                let code = unsafe { sys::spdk_nvme_detach_poll_async(context.as_ptr()) };
                if code != -libc::EAGAIN {
                    self.stage = Stage::Released;
                }
            }
        }
        self.answer();
        true
    }

    /// Answers who asked about namespaces, when that can be said: SPDK's lists change during a
    /// reset, and end with the controller.
    fn answer(&mut self) {
        let name = self.state.name();
        let why = match self.stage {
            Stage::Serving => None,
            Stage::Pausing { .. } => Some(self.state.reason()),
            Stage::Gone | Stage::Detaching(_) | Stage::Released => {
                Some("the controller was removed".to_owned())
            }
            _ => return,
        };
        for (nsid, reply) in mem::take(&mut self.describing) {
            let answer = match &why {
                None => Description::of(&self.state, nsid),
                Some(why) => Err(Error::new(ErrorKind::Closed, "open namespace")
                    .at(name.to_owned())
                    .because(why.clone())),
            };
            // Who asked may be gone.
            let _ = reply.send(answer);
        }
    }

    fn serve(&mut self, now: Instant) {
        let code = self.poll_admin();
        self.look_at_bus(now);
        if !matches!(self.stage, Stage::Serving) {
            return;
        }
        let lost = self.state.take_loss();
        if code >= 0 && !lost {
            self.state.free_abandoned(false);
        }
        if code < 0 && !lost {
            self.state.set_reason(if self.state.is_pci() {
                "its admin queue failed"
            } else {
                "its connection to the target is lost"
            });
        }
        if code < 0 || lost {
            tracing::warn!("{}: {}; resetting it", self.state.name(), self.state.reason());
            let is_early = now.saturating_since(self.served) < SETTLED_AFTER;
            if is_early {
                self.losses += 1;
            } else {
                (self.losses, self.pause) = (0, FIRST_PAUSE);
            }
            if self.state.is_pci() {
                self.start_halting();
            } else {
                self.state.gate().set_phase(Phase::Draining);
                self.stage = Stage::Draining;
            }
        }
    }

    /// Looks at the bus, if it is time to, and while the controller serves at its status too. A
    /// device that is unplugged reads as all ones, or the kernel says that it is to go.
    fn look_at_bus(&mut self, now: Instant) {
        if !self.state.is_pci() || now.saturating_since(self.scanned) < SCAN_EVERY {
            return;
        }
        self.scanned = now;
        // SAFETY: this is the control thread, on which all attaching and detaching happens.
        unsafe { sys::boson_spdk_scan_bus() };
        let status = self.status();
        if self.state.is_removed() || status & sys::BOSON_SPDK_REMOVED != 0 {
            self.remove();
        } else if !matches!(self.stage, Stage::Serving) {
            // What ails it is known.
        } else if status & sys::BOSON_SPDK_FATAL != 0 {
            self.state.count_failure();
            self.state.report_loss("it reports a fatal status (CSTS.CFS)");
        } else if status & sys::BOSON_SPDK_READY == 0 {
            self.state.count_failure();
            self.state.report_loss("it was disabled (CSTS.RDY is 0)");
        }
    }

    fn status(&self) -> u32 {
        // SAFETY: the controller is attached.
        unsafe { sys::boson_spdk_controller_status(self.state.raw()) }
    }

    fn remove(&mut self) {
        tracing::error!("{}: the controller was removed", self.state.name());
        self.is_removed = true;
        self.state.set_reason("it was removed");
        self.start_halting();
    }

    /// Keeps the cores from a controller on the bus.
    fn start_halting(&mut self) {
        self.state.gate().set_phase(Phase::Stopping);
        self.stage = Stage::Halting;
        self.halt();
    }

    fn halt(&mut self) {
        // What SPDK frees when it disconnects a controller is what they write to.
        if self.state.gate().is_anyone_inside() {
            return;
        }
        if self.is_removed {
            // From here on SPDK sends it nothing.
            // SAFETY: the controller is attached.
            unsafe { sys::spdk_nvme_ctrlr_fail(self.state.raw()) };
        } else {
            self.disconnect();
        }
        self.stage = Stage::Stopping;
    }

    /// Begins to disconnect the controller; on the bus that disables it.
    fn disconnect(&mut self) {
        self.disabled = None;
        self.stage = Stage::Disconnecting;
        // SAFETY: the controller is attached, and the phase keeps the cores from it.
        let code = unsafe { sys::spdk_nvme_ctrlr_disconnect(self.state.raw()) };
        // It is busy if it was disconnected before, which is as good.
        if code == -libc::ENXIO {
            tracing::error!("{}: the controller was removed", self.state.name());
            self.is_removed = true;
            self.state.set_reason("it was removed");
            self.stage = Stage::Stopping;
        }
    }

    /// Whether the controller is disconnected and touches no memory any more.
    fn is_stopped(&mut self, now: Instant) -> bool {
        // It says "no such device" when the admin queue is down.
        if self.poll_admin() >= 0 {
            return false;
        }
        if !self.state.is_pci() || self.is_muted {
            return true;
        }
        let status = self.status();
        if status & sys::BOSON_SPDK_REMOVED != 0 || status & sys::BOSON_SPDK_READY == 0 {
            return true;
        }
        // SPDK disables none whose admin queue was down already, and gives up one that takes long.
        let Some(since) = self.disabled else {
            // SAFETY: the controller is attached, and its registers are there.
            unsafe { sys::boson_spdk_disable(self.state.raw()) };
            self.disabled = Some(now);
            return false;
        };
        // SAFETY: the controller is attached.
        let timeout_ms = unsafe { sys::boson_spdk_ready_timeout_ms(self.state.raw()) };
        if now.saturating_since(since) < Duration::from_millis(timeout_ms.into()) {
            return false;
        }
        tracing::error!("{}: it does not stop; it is kept from memory", self.state.name());
        self.is_muted = self.set_bus_master(false);
        // Nobody gets memory back until one or the other has worked.
        self.disabled = Some(now);
        self.is_muted
    }

    /// Returns whether its PCI function took it.
    fn set_bus_master(&self, allowed: bool) -> bool {
        // SAFETY: the controller is attached.
        let code = unsafe { sys::boson_spdk_set_bus_master(self.state.raw(), allowed) };
        if code != 0 {
            tracing::error!("{}: its PCI function cannot be told: {}", self.state.name(), strerror(code));
        }
        code == 0
    }

    fn drain(&mut self, now: Instant) {
        self.state.free_abandoned(true);
        if !self.state.is_pci() {
            self.poll_admin();
        }
        if self.state.queue_pairs() > 0 {
            return;
        }
        if self.losses >= LOSSES_IN_A_ROW {
            self.rest(now);
            return;
        }
        self.state.gate().set_phase(Phase::Resetting);
        self.disconnect();
    }

    fn start_reconnecting(&mut self, now: Instant) {
        if self.is_muted {
            if self.status() & sys::BOSON_SPDK_READY != 0 {
                self.give_up_for_now("it does not stop", now);
                return;
            }
            self.set_bus_master(true);
            self.is_muted = false;
        }
        let (io_queues, interrupts) = (self.state.io_queues(), self.state.has_interrupts());
        // SAFETY: the controller is disconnected, and has no queue pair.
        unsafe { sys::boson_spdk_ask_for(self.state.raw(), io_queues, interrupts) };
        // SPDK holds the controller's lock, on this thread, until the reconnecting is done.
        // SAFETY: the controller is disconnected, and has no queue pair.
        unsafe { sys::spdk_nvme_ctrlr_reconnect_async(self.state.raw()) };
        self.stage = Stage::Reconnecting;
    }

    /// Keep-alive, events and completions of the admin queue. Negative if it is down.
    fn poll_admin(&self) -> i32 {
        // SAFETY: the controller is attached; the function takes SPDK's lock.
        unsafe { sys::spdk_nvme_ctrlr_process_admin_completions(self.state.raw()) }
    }

    fn reconnect(&mut self, now: Instant) {
        let (code, reason) = capture(|| {
            // SAFETY: this is the thread that started the reconnecting, which is not done.
            unsafe { sys::spdk_nvme_ctrlr_reconnect_poll_async(self.state.raw()) }
        });
        if code == -libc::EAGAIN {
            return;
        }
        if code != 0 {
            self.give_up_for_now(&words(code, reason), now);
            return;
        }
        // SAFETY: the controller is attached.
        if self.state.has_interrupts() && !unsafe { sys::boson_spdk_has_interrupts(self.state.raw()) } {
            // SPDK's groups, of which each core has one, are with interrupts or without for ever.
            self.give_up_for_now("its interrupts cannot be enabled again", now);
            return;
        }
        self.served = now;
        // What was reported before the reset is over with it.
        self.state.take_loss();
        self.state.gate().set_phase(Phase::Serving);
        self.stage = Stage::Serving;
        tracing::warn!("{}: the controller is back", self.state.name());
    }

    fn give_up_for_now(&mut self, why: &str, now: Instant) {
        self.state.set_reason(&format!("{}, and it does not answer: {why}", self.first_reason()));
        self.rest(now);
    }

    /// Refuses commands until the next attempt.
    fn rest(&mut self, now: Instant) {
        self.state.gate().set_phase(Phase::Down);
        self.stage = Stage::Pausing { until: now.checked_add(self.pause).unwrap_or(Instant::FAR_FUTURE) };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.losses = 0;
    }

    fn first_reason(&self) -> String {
        let reason = self.state.reason();
        reason.split(", and it does not answer").next().unwrap_or_default().to_owned()
    }

    fn start_detaching(&mut self) {
        // Every queue pair holds a handle, so there is none.
        let mut context = ptr::null_mut();
        // SAFETY: the controller is attached, nobody uses it any more, and `context` is a place for
        // a pointer.
        let code = unsafe { sys::spdk_nvme_detach_async(self.state.raw(), &raw mut context) };
        if let Some(context) = NonNull::new(context).filter(|_| code == 0) {
            self.stage = Stage::Detaching(context);
            return;
        }
        tracing::error!(
            "{}: it stays with this process until it ends, as SPDK does not detach it: {}",
            self.state.name(),
            strerror(code)
        );
        self.state.watch_no_more();
        // SPDK still has the controller.
        mem::forget(Arc::clone(&self.state));
        self.stage = Stage::Released;
    }

    fn finish(&mut self) {
        if let Some(reply) = self.detach.take() {
            // Who waited may have stopped.
            let _ = reply.send(());
        }
    }
}
