//! A controller that is attached once per process: what its cores and the control thread share.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use boson_spdk_sys as sys;

use super::description::Description;
use super::env::Env;
use super::gate::{Gate, Phase, Presence};
use crate::error::Result;

/// SPDK is to say nothing of how long commands take: their cores look after them. It must know a
/// time, to have one for the admin queue.
const COMMAND_TIMEOUT_US: u64 = u32::MAX as u64;
/// How long an admin command may take before the controller is reset. SPDK waits for some of them
/// while it holds the controller's lock.
pub(super) const ADMIN_TIMEOUT_MS: u32 = 5_000;

/// Who keeps controllers: the control thread.
pub(super) trait Keeper: Send + Sync {
    /// Something of a controller is to be looked at.
    fn look(&self);

    /// What namespace `nsid` of the controller is, once that can be said. Blocks.
    fn describe(&self, controller: &Arc<ControllerState>, nsid: u32) -> Result<Description>;

    /// The last handle is gone. Waits for a bounded time until the controller is detached.
    fn detach(&self, controller: &Arc<ControllerState>);
}

/// A queue pair that its core left to the control thread, and its group.
pub(super) struct Abandoned {
    raw: NonNull<sys::spdk_nvme_qpair>,
    group: NonNull<sys::spdk_nvme_poll_group>,
    free: WhenToFree,
}

/// When a queue pair that was left behind may be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenToFree {
    /// Also while the controller serves, once it is connected: it has no command. SPDK waits for
    /// the admin queue, up to five seconds if that is dead. To free one that is being connected it
    /// would do so without an end.
    Connected,
    /// When the controller has stopped.
    Stopped,
}

impl Abandoned {
    /// Goes on connecting it, if it is one of those. 0 when that is done, or a negative `errno`
    /// code, which is `EAGAIN` until then.
    fn connect(&self) -> i32 {
        if self.free == WhenToFree::Stopped {
            return -libc::EAGAIN;
        }
        // SAFETY: the group is nobody else's, and this is no callback of it; it has no command, and
        // `ignore` does not use the group's context, which is gone.
        unsafe { sys::spdk_nvme_poll_group_process_completions(self.group.as_ptr(), 0, Some(ignore)) };
        // SAFETY: the group is nobody else's.
        unsafe { sys::spdk_nvme_poll_group_all_connected(self.group.as_ptr()) }
    }
}

/// A queue pair that was left behind is disconnected: it is freed with the next reset.
unsafe extern "C" fn ignore(_queue_pair: *mut sys::spdk_nvme_qpair, _context: *mut c_void) {}

// SAFETY: the core that used them does so no more, and whoever has this value is the only one who
// knows them. SPDK binds neither to a thread.
unsafe impl Send for Abandoned {}

/// What the control thread and the queue pairs of a controller share.
pub(super) struct ControllerState {
    raw: NonNull<sys::spdk_nvme_ctrlr>,
    env: Env,
    keeper: &'static dyn Keeper,
    /// Its address, for messages.
    name: String,
    is_pci: bool,
    /// How many queue pairs it is asked for.
    io_queues: u32,
    has_interrupts: bool,
    gate: Gate,
    /// How many queue pairs there are, or are about to be.
    queue_pairs: AtomicU32,
    /// A core lost its queue pair: the control thread is to reset the controller.
    lost: AtomicBool,
    /// SPDK says that the device was pulled off the bus.
    removed: AtomicBool,
    /// How often SPDK told of something that happened to the controller or its namespaces.
    events: AtomicU32,
    /// How often it failed in a way that may have cost it its cache.
    failures: AtomicU32,
    /// Why it is not serving.
    reason: Mutex<String>,
    abandoned: Mutex<Vec<Abandoned>>,
    /// How many were left and are not freed yet.
    abandoned_count: AtomicU32,
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
        io_queues: u32,
    ) -> Self {
        Self {
            // SAFETY: the controller is attached.
            has_interrupts: unsafe { sys::boson_spdk_has_interrupts(raw.as_ptr()) },
            raw,
            env,
            keeper,
            name,
            is_pci,
            io_queues,
            gate: Gate::new(),
            queue_pairs: AtomicU32::new(0),
            lost: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            events: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            reason: Mutex::default(),
            abandoned: Mutex::default(),
            abandoned_count: AtomicU32::new(0),
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

    /// How many queue pairs it is asked for.
    pub(super) fn io_queues(&self) -> u32 {
        self.io_queues
    }

    /// Whether it wakes cores that sleep. This stays true through resets.
    pub(super) fn has_interrupts(&self) -> bool {
        self.has_interrupts
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(super) fn phase(&self) -> Phase {
        self.gate.phase()
    }

    pub(super) fn queue_pairs(&self) -> u32 {
        self.queue_pairs.load(Ordering::SeqCst)
    }

    /// Calls `make` for a queue pair, if there may be one now, and counts what it made. The phase
    /// may change meanwhile, but the controller is neither disconnected nor detached.
    pub(super) fn make_queue_pair<T>(
        &self,
        presence: &Presence,
        make: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        // Before the phase is looked at: whoever changes it sees the queue pair.
        self.queue_pairs.fetch_add(1, Ordering::SeqCst);
        let made = self.gate.pass(presence, make).flatten();
        if made.is_none() {
            self.leave_queue_pair();
        }
        made
    }

    /// A queue pair that was counted is freed.
    pub(super) fn leave_queue_pair(&self) {
        self.queue_pairs.fetch_sub(1, Ordering::SeqCst);
    }

    /// The current core leaves a queue pair to the control thread.
    ///
    /// # Safety
    ///
    /// Nobody uses the two again, the queue pair is the group's only one, and what SPDK calls back
    /// for its commands, if it has any, stays for ever. One that is freed once it is connected has
    /// none.
    pub(super) unsafe fn abandon(
        &self,
        raw: NonNull<sys::spdk_nvme_qpair>,
        group: NonNull<sys::spdk_nvme_poll_group>,
        free: WhenToFree,
    ) {
        let left = Abandoned { raw, group, free };
        self.abandoned_count.fetch_add(1, Ordering::SeqCst);
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push(left);
        self.keeper.look();
    }

    /// Whether a queue pair that a core left behind is not freed yet.
    pub(super) fn has_abandoned(&self) -> bool {
        self.abandoned_count.load(Ordering::SeqCst) > 0
    }

    /// Frees what cores left behind: all of it if the controller `has_stopped`, or else what is
    /// connected and has no command. Only on the control thread.
    pub(super) fn free_abandoned(&self, has_stopped: bool) {
        let mut all = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        let mut has_failed = false;
        let may_be_freed = |left: &mut Abandoned| {
            let code = if has_stopped { 0 } else { left.connect() };
            has_failed |= code != 0 && code != -libc::EAGAIN;
            code == 0
        };
        let ready: Vec<_> = all.extract_if(.., may_be_freed).collect();
        drop(all);
        if has_failed {
            self.report_loss("a queue pair cannot be connected");
        }
        for Abandoned { raw, group, .. } in ready {
            // SAFETY: nobody else knows the queue pair, and what it calls back stays (`abandon`).
            unsafe { sys::spdk_nvme_ctrlr_free_io_qpair(raw.as_ptr()) };
            // SAFETY: its only queue pair is freed, and nobody else knows it.
            unsafe { sys::spdk_nvme_poll_group_destroy(group.as_ptr()) };
            self.leave_queue_pair();
            self.abandoned_count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A core lost its queue pair, or cannot make one.
    pub(super) fn report_loss(&self, why: &str) {
        if !self.lost.swap(true, Ordering::SeqCst) {
            self.set_reason(why);
            self.keeper.look();
        }
    }

    /// Has SPDK say when the device is pulled off the bus, when an admin command does not end, and
    /// when something happens to the namespaces.
    pub(super) fn watch(self: &Arc<Self>) {
        let context = Arc::as_ptr(self).cast_mut().cast();
        let admin_us = u64::from(ADMIN_TIMEOUT_MS) * 1_000;
        // SAFETY: for these three: the controller is attached, and whoever keeps it keeps this
        // value until it is detached or no longer watched; the functions have the signatures that
        // SPDK calls.
        unsafe { sys::spdk_nvme_ctrlr_set_remove_cb(self.raw(), Some(on_removal), context) };
        // SAFETY: as above.
        unsafe {
            sys::spdk_nvme_ctrlr_register_timeout_callback(
                self.raw(),
                COMMAND_TIMEOUT_US,
                admin_us,
                Some(on_timeout),
                context,
            );
        }
        // SAFETY: as above.
        unsafe { sys::spdk_nvme_ctrlr_register_aer_callback(self.raw(), Some(on_event), context) };
    }

    /// Has SPDK say nothing any more.
    pub(super) fn watch_no_more(&self) {
        // SAFETY: for these three: the controller is attached, and no function needs no context.
        unsafe { sys::spdk_nvme_ctrlr_set_remove_cb(self.raw(), None, ptr::null_mut()) };
        // SAFETY: as above.
        unsafe {
            sys::spdk_nvme_ctrlr_register_timeout_callback(self.raw(), 0, 0, None, ptr::null_mut());
        }
        // SAFETY: as above.
        unsafe { sys::spdk_nvme_ctrlr_register_aer_callback(self.raw(), None, ptr::null_mut()) };
    }

    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Whether a core lost its queue pair since the last call.
    pub(super) fn take_loss(&self) -> bool {
        self.lost.swap(false, Ordering::SeqCst)
    }

    /// A number that changes with each event of the controller.
    pub(super) fn events(&self) -> u32 {
        self.events.load(Ordering::Acquire)
    }

    /// How often it failed in a way that may have cost it its cache.
    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Acquire)
    }

    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
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

    /// What namespace `nsid` is. Blocks while the controller is reset.
    pub(super) fn describe(&self, nsid: u32) -> Result<Description> {
        self.0.keeper.describe(&self.0, nsid)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.0.keeper.detach(&self.0);
    }
}

/// The state that SPDK hands back.
///
/// # Safety
///
/// `context` is what [`ControllerState::watch`] gave SPDK.
unsafe fn state_of<'a>(context: *mut c_void) -> &'a ControllerState {
    // SAFETY: `watch` gave the state's address, and the state is kept until the controller is
    // detached or no longer watched, after which SPDK does not call back.
    unsafe { &*context.cast::<ControllerState>() }
}

/// SPDK says that a device was pulled off the bus.
unsafe extern "C" fn on_removal(context: *mut c_void, _controller: *mut sys::spdk_nvme_ctrlr) {
    // SAFETY: SPDK passes what `watch` gave it.
    unsafe { state_of(context) }.removed.store(true, Ordering::SeqCst);
}

/// The controller tells of an event. SPDK has asked again what the namespaces are by then, if it
/// was about them.
unsafe extern "C" fn on_event(context: *mut c_void, _completion: *const sys::spdk_nvme_cpl) {
    // SAFETY: SPDK passes what `watch` gave it.
    unsafe { state_of(context) }.events.fetch_add(1, Ordering::Release);
}

/// A command does not end; one of the admin queue if `queue_pair` is null. SPDK says it once for
/// each, on the thread that polls its queue.
unsafe extern "C" fn on_timeout(
    context: *mut c_void,
    _controller: *mut sys::spdk_nvme_ctrlr,
    queue_pair: *mut sys::spdk_nvme_qpair,
    _number: u16,
) {
    if queue_pair.is_null() {
        // SAFETY: SPDK passes what `watch` gave it.
        unsafe { state_of(context) }.report_loss("it does not answer a command of its admin queue");
    }
}
