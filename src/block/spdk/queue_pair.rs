//! One core's queue pair of a controller, and what becomes of it when the controller is lost.

mod end;
mod late;
mod submission;

use std::cell::Cell;
use std::ffi::c_void;
use std::mem;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use boson_spdk_sys as sys;

use super::super::queue::Failure;
use super::attach::{QUEUE_ENTRIES, REQUESTS};
use super::controller::Controller;
use super::description::Description;
use super::env::{capture, strerror};
use super::gate::{Phase, Presence};
use super::reach::Reach;
use super::requests::{Requests, StatusField};
use super::status;
use crate::eal::idle::Idle;
use crate::error::{Error, ErrorKind, Result};
use crate::rt::poller::Park;
use crate::time::Instant;

/// The most commands at once. One entry of a queue is never used, and a fused command takes two.
const SLOTS: u16 = 128;

/// How long a queue pair may take to connect before its controller is reset.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before another attempt to make one.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How long commands wait for a queue pair that the controller does not give before they fail.
const STARVED_AFTER: Duration = Duration::from_secs(1);

/// How often a core looks for commands that take too long.
const LOOK_FOR_LATE: Duration = Duration::from_secs(1);

/// The naps of a core whose queue pair has no command, and of one whose queue pair is connected or
/// waits for its controller: a loss is seen this late at most.
const IDLE_NAP: Duration = Duration::from_millis(100);
const CONNECT_NAP: Duration = Duration::from_micros(50);
const WAIT_NAP: Duration = Duration::from_millis(2);

const STATUS_TYPE_AND_CODE: StatusField = 0x07ff;

type RawQueuePair = NonNull<sys::spdk_nvme_qpair>;

/// | link | commands | next |
/// |---|---|---|
/// | `Down` | wait; refused if the controller does not answer or is gone | `Connecting`, once the controller serves |
/// | `Connecting` | wait | `Up`; `Down` after a failure, which has the controller reset |
/// | `Up` | are sent | `Down`, if the queue pair fails or the controller no longer serves |
/// | `Halted` | wait | `Down`, once the controller has stopped |
///
/// A queue pair of a controller on the bus goes to `Down` by way of `Halted`: it is not touched
/// before the controller has stopped.
#[derive(Clone, Copy)]
enum Link {
    Down { retry_at: Instant },
    Connecting { raw: RawQueuePair, since: Option<Instant> },
    Up(RawQueuePair),
    Halted(RawQueuePair),
}

/// What became of an attempt to make a queue pair.
enum Made {
    /// There is one, if only to be given up later.
    One,
    /// The controller gives no more of them, or there is no memory for one.
    NoneLeft,
    /// The controller does not serve.
    NotNow,
}

/// A queue pair of one core for one namespace.
pub(super) struct QueuePair {
    controller: Arc<Controller>,
    /// Says when this core is inside of SPDK with the queue pair.
    presence: Arc<Presence>,
    nsid: u32,
    ns: *mut sys::spdk_nvme_ns,
    block_shift: u32,
    max_segments: usize,
    link: Link,
    /// SPDK's group, of which the queue pair is the only one: it polls what needs polling.
    group: NonNull<sys::spdk_nvme_poll_group>,
    /// SPDK says here that the queue pair is disconnected.
    disconnected: Rc<Cell<bool>>,
    requests: Requests,
    reach: Rc<Reach>,
    idle: Idle,
    polled: Instant,
    /// When to look for commands that take too long.
    next_look: Instant,
    /// The phase at the last poll.
    seen: Phase,
    /// Since when the controller gives no queue pair, and whether that is too long to wait for.
    starved: Option<Instant>,
    is_starved: bool,
    /// The controller's events that were seen, and a size that nobody was told of yet.
    events: u32,
    size_bytes: u64,
    told_bytes: u64,
    /// How often the controller had failed when somebody was told.
    failures: u32,
    /// Why the last queue pair was lost.
    loss: String,
    ended: bool,
}

impl QueuePair {
    /// Has the controller make a queue pair for the current core.
    pub(super) fn attach(controller: Arc<Controller>, nsid: u32, description: &Description) -> Result<Self> {
        let state = controller.state();
        if state.phase() == Phase::Gone {
            return Err(Error::new(ErrorKind::Closed, "attach to namespace")
                .at(state.name().to_owned())
                .because("the controller was removed"));
        }
        state.env().eal().register_thread();
        let reach = Reach::of_this_core();
        if state.is_pci() && !reach.is_reachable() {
            return Err(Error::new(ErrorKind::Unsupported, "attach to namespace")
                .at(state.name().to_owned())
                .because(
                    "the core's arena is on normal pages, which the controller cannot reach without an \
                     IOMMU: give the machine hugepages (as root: sysctl vm.nr_hugepages=512)",
                ));
        }
        let disconnected = Rc::new(Cell::new(false));
        let context = Rc::as_ptr(&disconnected).cast_mut().cast();
        // SAFETY: the context lives as long as the group, which ends in `shut_down`; without a
        // table of functions SPDK uses its own.
        let group = unsafe { sys::spdk_nvme_poll_group_create(context, ptr::null_mut()) };
        let Some(group) = NonNull::new(group) else {
            return Err(Error::new(ErrorKind::OutOfMemory, "attach to namespace").at(state.name().to_owned()));
        };
        let size_bytes = description.identity.size_bytes();
        let mut queue_pair = Self {
            presence: state.gate().presence(),
            nsid,
            ns: ptr::null_mut(),
            block_shift: description.namespace.block_bytes.trailing_zeros(),
            max_segments: description.namespace.max_segments.max(1) as usize,
            link: Link::Down { retry_at: Instant::ORIGIN },
            group,
            disconnected,
            requests: Requests::new(SLOTS),
            reach,
            idle: Idle::new(),
            polled: Instant::ORIGIN,
            next_look: Instant::ORIGIN,
            seen: Phase::Serving,
            starved: None,
            is_starved: false,
            events: 0,
            size_bytes,
            told_bytes: size_bytes,
            failures: controller.state().failures(),
            loss: String::new(),
            ended: false,
            controller,
        };
        // What cores left behind is free again soon: until then commands wait.
        let is_one_freed = queue_pair.controller.state().has_abandoned();
        if let Made::NoneLeft = queue_pair.connect()
            && !is_one_freed
        {
            return Err(Error::new(ErrorKind::LimitReached, "attach to namespace")
                .at(queue_pair.controller.state().name().to_owned())
                .because(format!(
                    "the controller has no queue pair left (it gave {}), or DPDK no memory: use fewer cores, \
                     or give DPDK more with --eal",
                    description.namespace.io_queues
                )));
        }
        Ok(queue_pair)
    }

    pub(super) fn slots(&self) -> u16 {
        self.requests.count()
    }

    pub(super) fn poll(
        &mut self,
        now: Instant,
        budget: usize,
        mut done: impl FnMut(u16, Result<(), Box<Failure>>),
    ) -> usize {
        self.polled = now;
        let mut events = self.follow_controller(now);
        if matches!(self.link, Link::Up(_) | Link::Connecting { .. }) {
            let most = u32::try_from(budget).unwrap_or(u32::MAX);
            let group = self.group.as_ptr();
            let code = self.controller.state().gate().pass(&self.presence, || {
                // SAFETY: the group is this core's, and this is no callback of it; the controller
                // is not disconnected during the call.
                unsafe { sys::spdk_nvme_poll_group_process_completions(group, most, Some(on_disconnect)) }
            });
            // The next poll follows the controller that stops at this moment.
            let Some(code) = code else { return events };
            if code < 0 || self.disconnected.get() {
                self.lose(now);
                events += 1;
            } else if let Link::Connecting { raw, since } = self.link {
                events += usize::from(self.go_on_connecting(raw, since, now));
            }
            if let Link::Up(raw) = self.link
                && now >= self.next_look
            {
                self.next_look = now.checked_add(LOOK_FOR_LATE).unwrap_or(Instant::FAR_FUTURE);
                self.look_for_late_commands(raw, now);
            }
        }
        // SPDK calls back for all commands of a controller that is to be removed, while that may
        // still work on them. The memory is given back when it has stopped.
        if matches!(self.link, Link::Halted(_)) {
            return events;
        }
        // A queue pair is deleted for no other reason; SPDK may say so a poll later.
        let loss = Some(self.loss.as_str());
        events += self.requests.drain(budget, |slot, field| {
            let result =
                if field & STATUS_TYPE_AND_CODE == 0 { Ok(()) } else { Err(status::failure(field, loss)) };
            done(slot, result);
        });
        if events > 0 {
            self.idle.busy();
        }
        events
    }

    /// Does what the controller's phase asks for. Returns how many events that was: those that wait
    /// learn of it.
    fn follow_controller(&mut self, now: Instant) -> usize {
        let phase = self.controller.state().phase();
        let changed = mem::replace(&mut self.seen, phase) != phase;
        match (phase, self.link) {
            (Phase::Serving, Link::Down { retry_at }) if now >= retry_at => self.try_again(now),
            (Phase::Serving, _) | (_, Link::Down { .. }) | (Phase::Stopping, Link::Halted(_)) => {}
            (Phase::Stopping, Link::Up(raw) | Link::Connecting { raw, .. }) => self.link = Link::Halted(raw),
            (_, Link::Up(_) | Link::Connecting { .. } | Link::Halted(_)) => {
                self.loss = self.controller.state().reason();
                self.free();
            }
        }
        usize::from(changed)
    }

    fn try_again(&mut self, now: Instant) {
        self.link = Link::Down { retry_at: now.checked_add(RETRY_AFTER).unwrap_or(now) };
        match self.connect() {
            Made::One | Made::NotNow => self.starved = None,
            Made::NoneLeft => {
                self.starved.get_or_insert(now);
            }
        }
        self.is_starved = self.starved.is_some_and(|since| now.saturating_since(since) >= STARVED_AFTER);
    }

    /// Makes a queue pair and begins to connect it.
    fn connect(&mut self) -> Made {
        let controller = Arc::clone(&self.controller);
        let state = controller.state();
        let mut made = Made::NotNow;
        let presence = Arc::clone(&self.presence);
        // SPDK does not batch doorbells of a controller with interrupts.
        let batches = state.is_pci() && !state.has_interrupts();
        state.make_queue_pair(&presence, || {
            // SAFETY: the controller is attached, and is neither disconnected nor detached during
            // this call.
            self.ns = unsafe { sys::spdk_nvme_ctrlr_get_ns(state.raw(), self.nsid) };
            if self.ns.is_null() {
                made = Made::NoneLeft;
                return None;
            }
            // SAFETY: as above.
            let raw = unsafe { sys::boson_spdk_qpair_allocate(state.raw(), REQUESTS, batches) };
            let Some(raw) = NonNull::new(raw) else {
                made = Made::NoneLeft;
                return None;
            };
            self.disconnected.set(false);
            // SAFETY: the queue pair is new, so it is not connected and in no group.
            let mut code = unsafe { sys::spdk_nvme_poll_group_add(self.group.as_ptr(), raw.as_ptr()) };
            if code == 0 {
                // SAFETY: the queue pair is of that controller, and not connected.
                code = unsafe { sys::spdk_nvme_ctrlr_connect_io_qpair(state.raw(), raw.as_ptr()) };
            }
            made = Made::One;
            self.link = Link::Connecting { raw, since: None };
            if code != 0 {
                state.report_loss(&format!("a queue pair cannot be connected: {}", strerror(code)));
                self.give_up(Instant::ORIGIN);
            }
            Some(())
        });
        made
    }

    /// Returns whether it is up now.
    fn go_on_connecting(&mut self, raw: RawQueuePair, since: Option<Instant>, now: Instant) -> bool {
        let since = since.unwrap_or(now);
        self.link = Link::Connecting { raw, since: Some(since) };
        let state = self.controller.state();
        // The queue pair of a PCI device is made by commands of the admin queue, whose own thread
        // looks only now and then.
        let admin = state.gate().pass(&self.presence, || {
            // SAFETY: the controller is attached, and not disconnected during the call, which takes
            // SPDK's lock.
            unsafe { sys::spdk_nvme_ctrlr_process_admin_completions(state.raw()) }
        });
        let Some(admin) = admin else { return false };
        // SAFETY: the group is this core's.
        let code = unsafe { sys::spdk_nvme_poll_group_all_connected(self.group.as_ptr()) };
        if code == 0 {
            self.link = Link::Up(raw);
            self.loss.clear();
            self.learn_size();
            return true;
        }
        let failed = code != -libc::EAGAIN || admin < 0;
        if failed || now.saturating_since(since) > CONNECT_TIMEOUT {
            state.report_loss("a queue pair cannot be connected");
            self.lose(now);
        }
        false
    }

    /// The queue pair is of no use any more.
    fn lose(&mut self, now: Instant) {
        let was_up = matches!(self.link, Link::Up(_));
        let state = self.controller.state();
        let reason = match self.link {
            Link::Up(raw) | Link::Connecting { raw, .. } => {
                // SAFETY: the queue pair is not freed yet.
                unsafe { sys::spdk_nvme_qpair_get_failure_reason(raw.as_ptr()) }
            }
            Link::Down { .. } | Link::Halted(_) => return,
        };
        self.loss = match reason {
            sys::spdk_nvme_qp_failure_reason_SPDK_NVME_QPAIR_FAILURE_REMOTE => {
                "the other side closed the connection"
            }
            _ if state.is_pci() => "its queue pair failed",
            _ => "the connection to the target is lost",
        }
        .to_owned();
        if !was_up || state.is_pci() {
            // It was not the queue pair alone.
            state.report_loss(&self.loss);
        }
        tracing::warn!("{}: {}", state.name(), self.loss);
        self.give_up(now.checked_add(RETRY_AFTER).unwrap_or(now));
    }

    /// Frees the queue pair, or leaves it until the controller has stopped. Another one may be made
    /// at `retry_at`.
    fn give_up(&mut self, retry_at: Instant) {
        match self.link {
            Link::Up(raw) | Link::Connecting { raw, .. } if self.controller.state().is_pci() => {
                self.link = Link::Halted(raw);
            }
            _ => {
                self.free();
                self.link = Link::Down { retry_at };
            }
        }
    }

    /// Frees the queue pair, if there is one. SPDK calls back for every command that it had.
    fn free(&mut self) {
        let link = mem::replace(&mut self.link, Link::Down { retry_at: Instant::ORIGIN });
        let (Link::Up(raw) | Link::Connecting { raw, .. } | Link::Halted(raw)) = link else { return };
        // SPDK logs an error for a connection that it closes itself.
        let (code, _) = capture(|| {
            // SAFETY: the queue pair is this core's, this is no callback of it, and nobody uses it
            // after this.
            unsafe { sys::spdk_nvme_ctrlr_free_io_qpair(raw.as_ptr()) }
        });
        debug_assert_eq!(code, 0, "freeing a queue pair has no error");
        self.controller.state().leave_queue_pair();
    }

    /// The namespace's size now, if the controller said that it changed.
    pub(super) fn resized(&mut self) -> Option<u64> {
        let events = self.controller.state().events();
        if mem::replace(&mut self.events, events) != events && matches!(self.link, Link::Up(_)) {
            self.learn_size();
        }
        (mem::replace(&mut self.told_bytes, self.size_bytes) != self.size_bytes).then_some(self.size_bytes)
    }

    fn learn_size(&mut self) {
        // SAFETY: the namespace is one of the attached controller, for which this core has a queue
        // pair.
        let bytes = unsafe { sys::boson_spdk_namespace_bytes(self.ns) };
        // One that is not there any more says so with each command.
        if bytes > 0 {
            self.size_bytes = bytes;
        }
    }

    pub(super) fn park(&mut self, in_use: usize) -> Park {
        match self.link {
            Link::Connecting { .. } => Park::Nap(CONNECT_NAP),
            Link::Down { .. } | Link::Halted(_) => Park::Nap(WAIT_NAP),
            Link::Up(_) if in_use > 0 && self.controller.state().has_interrupts() => self.arm(),
            Link::Up(_) if in_use > 0 => self.idle.park(),
            Link::Up(_) => {
                self.idle.busy();
                Park::Nap(IDLE_NAP)
            }
        }
    }

    /// Has the controller's next interrupt wake the core.
    fn arm(&self) -> Park {
        // SAFETY: the group is this core's.
        let descriptors = unsafe { sys::spdk_nvme_poll_group_get_fd_group(self.group.as_ptr()) };
        // This takes what interrupts left, if there was one since the last time, and looks for
        // completions then: one that comes later makes the group's descriptor readable.
        let looked = self.controller.state().gate().pass(&self.presence, || {
            // SAFETY: the descriptors are those of this core's group, this is no callback of it,
            // and the controller is not disconnected during the call.
            unsafe { sys::spdk_fd_group_wait(descriptors, 0) }
        });
        match looked {
            Some(0..) if self.requests.has_finished() => Park::Spin,
            // SAFETY: as above.
            Some(0..) => Park::Wake(unsafe { sys::spdk_fd_group_get_fd(descriptors) }),
            Some(_) => Park::Nap(WAIT_NAP),
            // The controller stops at this moment.
            None => Park::Spin,
        }
    }

    /// A core that waits for an interrupt looks at the controller now and then.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waits = matches!(self.link, Link::Up(_)) && self.controller.state().has_interrupts();
        waits.then(|| self.polled.checked_add(IDLE_NAP).unwrap_or(Instant::FAR_FUTURE))
    }
}

/// The group's only queue pair is disconnected. SPDK says it at every poll from then on.
unsafe extern "C" fn on_disconnect(_queue_pair: *mut sys::spdk_nvme_qpair, context: *mut c_void) {
    // SAFETY: the context of the group is the cell, which its `QueuePair` keeps.
    let disconnected = unsafe { &*context.cast::<Cell<bool>>() };
    disconnected.set(true);
}

const _: () = assert!(SLOTS as u32 * 2 <= QUEUE_ENTRIES, "a queue has entries for all commands");
