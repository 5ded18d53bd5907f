//! The end of a queue pair.

use std::mem;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use boson_spdk_sys as sys;

use super::{Link, QueuePair};
use crate::time::{Clock, Instant, MonotonicClock};

/// How long a core that ends waits for its commands before it has the controller reset, and until
/// it leaves the queue pair to the control thread; and how often it looks.
const END_PATIENCE: Duration = Duration::from_secs(1);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const END_NAP: Duration = Duration::from_micros(100);

impl QueuePair {
    pub(in crate::block::spdk) fn shut_down(&mut self) -> bool {
        if mem::replace(&mut self.ended, true) {
            return true;
        }
        let is_clean = self.settle() && {
            self.free();
            self.requests.drain(usize::MAX, |_, _| {});
            // SAFETY: the group's only queue pair is freed.
            let code = unsafe { sys::spdk_nvme_poll_group_destroy(self.group.as_ptr()) };
            code == 0 && self.requests.are_idle()
        };
        if !is_clean {
            // What SPDK or the device may still use stays.
            self.requests.leak();
            mem::forget((Rc::clone(&self.reach), Rc::clone(&self.disconnected)));
        }
        is_clean
    }

    /// Waits until the queue pair may be freed: one of a controller on the bus has no command, or
    /// the controller has stopped. If that takes too long, leaves the queue pair to the control
    /// thread and returns false.
    fn settle(&mut self) -> bool {
        if !self.controller.state().is_pci() {
            return true;
        }
        let clock = MonotonicClock::new();
        let begin = clock.now();
        loop {
            let raw = match self.link {
                Link::Down { .. } => return true,
                Link::Up(_) if self.requests.are_idle() => return true,
                Link::Up(raw) | Link::Connecting { raw, .. } | Link::Halted(raw) => raw,
            };
            let now = clock.now();
            let waited = now.saturating_since(begin);
            if waited > STOP_PATIENCE {
                self.link = Link::Down { retry_at: Instant::FAR_FUTURE };
                // SAFETY: the link is down, so nobody uses the two again; the queue pair was the
                // group's only one; the caller keeps for ever what is called back for its commands.
                unsafe { self.controller.state().abandon(raw, self.group) };
                return false;
            }
            if waited > END_PATIENCE && !matches!(self.link, Link::Halted(_)) {
                self.controller.state().report_loss("a core ended while it had commands that do not end");
                self.link = Link::Halted(raw);
            }
            self.poll(now, usize::MAX, |_, _| {});
            thread::park_timeout(END_NAP);
        }
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.shut_down();
    }
}
