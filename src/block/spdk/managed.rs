//! A controller in the hands of the control thread: its admin queue, its resets, its end.

use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use boson_spdk_sys as sys;

use super::controller::{ControllerState, Phase};
use super::env::{capture, words};
use crate::time::Instant;

/// The first pause before another reset, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How often the bus is looked at for removed devices.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// How far the control thread is with a controller.
///
/// | stage | until | next |
/// |---|---|---|
/// | `Serving` | the admin queue fails, or a core lost its queue pair | `Draining` |
/// | `Draining` | the cores have freed their queue pairs | `Disconnecting` |
/// | `Disconnecting` | the admin queue is down | `Reconnecting` |
/// | `Reconnecting` | SPDK is done | `Serving`, or `Pausing` |
/// | `Pausing` | its time | `Disconnecting` |
/// | `Gone` | the cores have freed their queue pairs | `Detaching` |
/// | `Detaching` | SPDK is done | it is forgotten, or `Released` if there are handles |
/// | `Released` | the last handle is gone | it is forgotten |
#[derive(Clone, Copy)]
enum Stage {
    Serving,
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
    /// The last handle is gone: who waits for the end.
    detach: Option<Sender<()>>,
}

impl Managed {
    pub(super) fn new(state: Arc<ControllerState>, now: Instant) -> Self {
        state.watch_removal();
        Self { state, stage: Stage::Serving, pause: FIRST_PAUSE, scanned: now, detach: None }
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
            || matches!(
                self.stage,
                Stage::Draining | Stage::Disconnecting | Stage::Reconnecting | Stage::Detaching(_)
            )
    }

    pub(super) fn detach(&mut self, reply: Sender<()>) {
        self.detach = Some(reply);
    }

    /// Goes on. Returns whether there is still a controller.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        // A reset runs to its end first: SPDK holds the controller's lock during it.
        if self.detach.is_some()
            && !matches!(self.stage, Stage::Reconnecting | Stage::Detaching(_) | Stage::Released)
        {
            self.start_detaching();
        }
        match self.stage {
            Stage::Serving => self.serve(now),
            Stage::Draining => {
                self.poll_admin();
                if self.state.queue_pairs() == 0 {
                    self.state.set_phase(Phase::Resetting);
                    self.stage = Stage::Disconnecting;
                    self.disconnect();
                }
            }
            Stage::Disconnecting => {
                // It says "no such device" when the admin queue is down.
                if self.poll_admin() < 0 {
                    // SPDK holds the controller's lock, on this thread, until the reconnecting is
                    // done. SAFETY: the controller is disconnected, and has no queue pair.
                    unsafe { sys::spdk_nvme_ctrlr_reconnect_async(self.state.raw()) };
                    self.stage = Stage::Reconnecting;
                }
            }
            Stage::Reconnecting => self.reconnect(now),
            Stage::Pausing { until } => {
                if now >= until {
                    self.stage = Stage::Disconnecting;
                    self.disconnect();
                }
            }
            Stage::Gone => {
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
        true
    }

    fn serve(&mut self, now: Instant) {
        let code = self.poll_admin();
        if self.state.is_pci() && now.saturating_since(self.scanned) >= SCAN_EVERY {
            self.scanned = now;
            self.look_for_removal();
        }
        if matches!(self.stage, Stage::Gone) {
            return;
        }
        let lost = self.state.take_loss();
        if code < 0 {
            self.state.set_reason(if self.state.is_pci() {
                "its admin queue failed"
            } else {
                "its connection to the target is lost"
            });
        }
        if code < 0 || lost {
            tracing::warn!("{}: {}; resetting it", self.state.name(), self.state.reason());
            self.state.set_phase(Phase::Draining);
            self.stage = Stage::Draining;
        }
    }

    /// A device that is unplugged reads as all ones, or the kernel says that it is to go.
    fn look_for_removal(&mut self) {
        // SAFETY: this is the control thread, on which all attaching and detaching happens.
        unsafe { sys::boson_spdk_scan_bus() };
        if self.state.is_removed() {
            self.remove();
            return;
        }
        // SAFETY: the controller is attached.
        let status = unsafe { sys::boson_spdk_controller_status(self.state.raw()) };
        if status == 1 {
            self.remove();
        } else if status == 2 {
            self.state.report_loss("it reports a fatal status (CSTS.CFS)");
        }
    }

    fn remove(&mut self) {
        tracing::error!("{}: the controller was removed", self.state.name());
        self.state.set_reason("it was removed");
        self.state.set_phase(Phase::Gone);
        self.stage = Stage::Gone;
    }

    /// Keep-alive, events and completions of the admin queue. Negative if it is down.
    fn poll_admin(&self) -> i32 {
        // SAFETY: the controller is attached; the function takes SPDK's lock.
        unsafe { sys::spdk_nvme_ctrlr_process_admin_completions(self.state.raw()) }
    }

    fn disconnect(&mut self) {
        // SAFETY: the controller is attached, and no core has a queue pair of it.
        let code = unsafe { sys::spdk_nvme_ctrlr_disconnect(self.state.raw()) };
        if code == -libc::ENXIO {
            self.remove();
        }
    }

    fn reconnect(&mut self, now: Instant) {
        let (code, reason) = capture(|| {
            // SAFETY: this is the thread that started the reconnecting, which is not done.
            unsafe { sys::spdk_nvme_ctrlr_reconnect_poll_async(self.state.raw()) }
        });
        if code == -libc::EAGAIN {
            return;
        }
        if code == 0 {
            self.pause = FIRST_PAUSE;
            // What was reported before the reset is over with it.
            self.state.take_loss();
            self.state.set_phase(Phase::Serving);
            self.stage = Stage::Serving;
            tracing::warn!("{}: the controller is back", self.state.name());
            return;
        }
        self.state.set_reason(&format!(
            "{}, and it does not answer: {}",
            self.first_reason(),
            words(code, reason)
        ));
        self.state.set_phase(Phase::Down);
        self.stage = Stage::Pausing { until: now.checked_add(self.pause).unwrap_or(Instant::FAR_FUTURE) };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
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
        match NonNull::new(context) {
            Some(context) if code == 0 => {
                self.stage = Stage::Detaching(context);
            }
            _ => {
                // Nothing is left to wait for.
                self.stage = Stage::Released;
            }
        }
    }

    fn finish(&mut self) {
        if let Some(reply) = self.detach.take() {
            // Who waited may have stopped.
            let _ = reply.send(());
        }
    }
}
