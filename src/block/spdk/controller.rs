//! A controller that is attached once per process: what its cores and the control thread share.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use boson_spdk_sys as sys;

use super::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// Where a controller is.
///
/// | phase | what cores do | who ends it |
/// |---|---|---|
/// | `Serving` | create queue pairs and use them | the control thread, when a core or the admin queue lost the controller, or it was removed |
/// | `Draining` | free their queue pairs, each on its own core; commands wait | the control thread, when there are none |
/// | `Resetting` | nothing; commands wait | the control thread: `Serving`, or `Down` |
/// | `Down` | refuse commands | the control thread, which tries again now and then |
/// | `Gone` | free their queue pairs, refuse commands | nobody: the device was removed |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    Serving,
    Draining,
    Resetting,
    Down,
    Gone,
}

impl Phase {
    const ALL: [Self; 5] = [Self::Serving, Self::Draining, Self::Resetting, Self::Down, Self::Gone];
}

/// Who keeps controllers: the control thread.
pub(super) trait Keeper: Send + Sync {
    /// Something of a controller is to be looked at.
    fn look(&self);

    /// The last handle is gone. Waits for a bounded time until the controller is detached.
    fn detach(&self, controller: &Arc<ControllerState>);
}

/// What the control thread and the queue pairs of a controller share.
pub(super) struct ControllerState {
    raw: NonNull<sys::spdk_nvme_ctrlr>,
    env: Env,
    keeper: &'static dyn Keeper,
    /// Its address, for messages.
    name: String,
    is_pci: bool,
    phase: AtomicU8,
    /// How many queue pairs there are, or are about to be.
    queue_pairs: AtomicU32,
    /// A core lost its queue pair: the control thread is to reset the controller.
    lost: AtomicBool,
    /// SPDK says that the device was pulled off the bus.
    removed: AtomicBool,
    /// Why it is not serving.
    reason: Mutex<String>,
}

// SAFETY: the pointer is to a structure that SPDK guards with a lock of its own where it is not the
// control thread's alone. What the cores call with it (making and freeing queue pairs, asking for
// data) SPDK allows from any thread, and the phases keep them from it during a reset.
unsafe impl Send for ControllerState {}
// SAFETY: as above.
unsafe impl Sync for ControllerState {}

impl ControllerState {
    pub(super) fn new(
        raw: NonNull<sys::spdk_nvme_ctrlr>,
        env: Env,
        keeper: &'static dyn Keeper,
        name: String,
        is_pci: bool,
    ) -> Self {
        Self {
            raw,
            env,
            keeper,
            name,
            is_pci,
            phase: AtomicU8::new(Phase::Serving as u8),
            queue_pairs: AtomicU32::new(0),
            lost: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            reason: Mutex::default(),
        }
    }

    pub(super) fn raw(&self) -> *mut sys::spdk_nvme_ctrlr {
        self.raw.as_ptr()
    }

    pub(super) fn env(&self) -> Env {
        self.env
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_pci(&self) -> bool {
        self.is_pci
    }

    pub(super) fn phase(&self) -> Phase {
        // With `enter_queue_pair` this is one total order: either the control thread sees the queue
        // pair that a core is about to make, or the core sees that it must not.
        Phase::ALL[usize::from(self.phase.load(Ordering::SeqCst))]
    }

    /// Only the control thread changes the phase.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    pub(super) fn queue_pairs(&self) -> u32 {
        self.queue_pairs.load(Ordering::SeqCst)
    }

    /// Counts a queue pair that is about to be made, if there may be one now.
    pub(super) fn enter_queue_pair(&self) -> bool {
        self.queue_pairs.fetch_add(1, Ordering::SeqCst);
        if self.phase() == Phase::Serving {
            return true;
        }
        self.leave_queue_pair();
        false
    }

    /// A queue pair that was counted is freed.
    pub(super) fn leave_queue_pair(&self) {
        self.queue_pairs.fetch_sub(1, Ordering::SeqCst);
    }

    /// A core lost its queue pair, or cannot make one.
    pub(super) fn report_loss(&self, why: &str) {
        if !self.lost.swap(true, Ordering::SeqCst) {
            self.set_reason(why);
            self.keeper.look();
        }
    }

    /// Has SPDK say when the device is pulled off the bus.
    pub(super) fn watch_removal(self: &Arc<Self>) {
        let context = Arc::as_ptr(self).cast_mut().cast();
        // SAFETY: the controller is attached, and whoever keeps it keeps this value until it is
        // detached.
        unsafe { sys::spdk_nvme_ctrlr_set_remove_cb(self.raw(), Some(on_removal), context) };
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Whether a core lost its queue pair since the last call.
    pub(super) fn take_loss(&self) -> bool {
        self.lost.swap(false, Ordering::SeqCst)
    }

    pub(super) fn set_reason(&self, why: &str) {
        why.clone_into(&mut self.reason.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An attached controller. The last handle detaches it.
pub(super) struct Controller(Arc<ControllerState>);

impl Controller {
    pub(super) fn new(state: Arc<ControllerState>) -> Self {
        Self(state)
    }

    pub(super) fn state(&self) -> &Arc<ControllerState> {
        &self.0
    }

    /// What namespace `nsid` is.
    pub(super) fn describe(&self, nsid: u32) -> Result<Description> {
        let state = &*self.0;
        if state.phase() == Phase::Gone {
            return Err(Error::new(ErrorKind::Closed, "open namespace")
                .at(state.name.clone())
                .because("the controller was removed"));
        }
        let mut namespace = sys::boson_spdk_namespace::default();
        // SAFETY: the controller is attached as long as `self` is, and `namespace` is a place for
        // the description.
        let code = unsafe { sys::boson_spdk_describe_namespace(state.raw(), nsid, &raw mut namespace) };
        if code != 0 {
            return Err(Error::new(ErrorKind::NotFound, "open namespace").at(state.name.clone()).because(
                format!("the controller has no active namespace {nsid}; it has {}", self.namespaces()),
            ));
        }
        // SAFETY: the controller is attached.
        let identify = unsafe { sys::boson_spdk_identify_controller(state.raw()) };
        // SAFETY: the description above succeeded, so the namespace exists.
        let ns = unsafe { sys::spdk_nvme_ctrlr_get_ns(state.raw(), nsid) };
        // SAFETY: `ns` is that namespace.
        let identify_ns = unsafe { sys::boson_spdk_identify_namespace(ns) };
        Ok(Description { namespace, controller: copy(identify), identify_namespace: copy(identify_ns) })
    }

    fn namespaces(&self) -> String {
        let mut numbers = Vec::new();
        // SAFETY: the controller is attached as long as `self` is.
        let mut nsid = unsafe { sys::spdk_nvme_ctrlr_get_first_active_ns(self.0.raw()) };
        while nsid != 0 && numbers.len() < 64 {
            numbers.push(nsid.to_string());
            // SAFETY: as above.
            nsid = unsafe { sys::spdk_nvme_ctrlr_get_next_active_ns(self.0.raw(), nsid) };
        }
        if numbers.is_empty() { "none".to_owned() } else { numbers.join(", ") }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.0.keeper.detach(&self.0);
    }
}

/// SPDK says that a device was pulled off the bus.
unsafe extern "C" fn on_removal(context: *mut c_void, _controller: *mut sys::spdk_nvme_ctrlr) {
    // SAFETY: `watch_removal` gave the state's address, and the state is kept until the controller
    // is detached, after which SPDK does not call this.
    let state = unsafe { &*context.cast::<ControllerState>() };
    state.removed.store(true, Ordering::SeqCst);
}

const IDENTIFY_BYTES: usize = 4096;

/// A copy of identify data, which SPDK changes when it identifies again.
fn copy(data: *const u8) -> Box<[u8]> {
    if data.is_null() {
        return vec![0; IDENTIFY_BYTES].into_boxed_slice();
    }
    // SAFETY: SPDK keeps 4096 bytes of identify data there as long as the controller is attached,
    // and changes them only during a reset, when a stale or mixed copy is replaced by the next one.
    unsafe { std::slice::from_raw_parts(data, IDENTIFY_BYTES) }.into()
}

/// What SPDK and the identify data say of a namespace.
pub(super) struct Description {
    pub(super) namespace: sys::boson_spdk_namespace,
    controller: Box<[u8]>,
    identify_namespace: Box<[u8]>,
}

impl Description {
    /// MN, Identify Controller bytes 24 to 63 (Base 2.0c, figure 275).
    pub(super) fn model(&self) -> String {
        String::from_utf8_lossy(&self.controller[24..64]).trim().to_owned()
    }

    /// VWC, byte 525, bit 0: a volatile write cache is present.
    pub(super) fn has_volatile_cache(&self) -> bool {
        self.controller[525] & 1 == 1
    }

    /// The power-fail atomic write unit and boundary, in blocks: those of the namespace (NSFEAT bit
    /// 1, NAWUPF, NABSPF; NVM 1.0c, figure 97), or the controller's (AWUPF).
    pub(super) fn atomic_blocks(&self) -> (u32, u32) {
        let of = |data: &[u8], at: usize| u32::from(u16::from_le_bytes([data[at], data[at + 1]]));
        let ns = &self.identify_namespace;
        let boundary = of(ns, 44);
        if ns[24] & 2 != 0 && of(ns, 36) != 0 {
            (of(ns, 36) + 1, boundary)
        } else {
            (of(&self.controller, 528) + 1, boundary)
        }
    }

    /// NSATTR, byte 99, bit 0: the namespace is write protected.
    pub(super) fn is_read_only(&self) -> bool {
        self.identify_namespace[99] & 1 == 1
    }
}
