//! The end of a queue pair.

use std::mem;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use boson_spdk_sys as sys;

use super::super::controller::WhenToFree;
use super::{Link, QueuePair, RawQueuePair};
use crate::time::{Clock, Instant, MonotonicClock};

/// How long a core that ends waits for its commands before it has the controller reset, and until
/// it leaves the queue pair to the control thread; and how often it looks.
const END_PATIENCE: Duration = Duration::from_secs(1);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const END_NAP: Duration = Duration::from_micros(100);

const ENDED_WITH_COMMANDS: &str = "a core ended while it had commands that do not end";

/// Who frees a queue pair.
enum Settled {
    /// This core: it waits for nothing, as the controller has stopped or is not on the bus.
    Here,
    /// The control thread. It has no command, but to free it takes some of the admin queue, for
    /// which SPDK waits.
    Elsewhere,
    /// The control thread, when the controller has stopped. Until then SPDK and the device may use
    /// what its commands name.
    WithCommands,
}

impl QueuePair {
    pub(in crate::block::spdk) fn shut_down(&mut self) -> bool {
        if mem::replace(&mut self.ended, true) {
            return true;
        }
        let is_clean = match self.settle() {
            Settled::Here => {
                self.free();
                self.requests.drain(usize::MAX, |_, _| {});
                // SAFETY: the group's only queue pair is freed.
                let code = unsafe { sys::spdk_nvme_poll_group_destroy(self.group.as_ptr()) };
                code == 0 && self.requests.are_idle()
            }
            Settled::Elsewhere => true,
            Settled::WithCommands => false,
        };
        if !is_clean {
            // What SPDK or the device may still use stays.
            self.requests.leak();
            mem::forget((Rc::clone(&self.reach), Rc::clone(&self.disconnected)));
        }
        is_clean
    }

    /// Sees to it that the queue pair may be freed. One of a controller on the bus that has
    /// commands must wait until these have ended, or the controller has stopped; if that takes too
    /// long it is left to the control thread. One without commands is never waited for.
    fn settle(&mut self) -> Settled {
        if !self.controller.state().is_pci() {
            return Settled::Here;
        }
        let clock = MonotonicClock::new();
        let begin = clock.now();
        loop {
            let raw = match self.link {
                Link::Down { .. } => return Settled::Here,
                Link::Up(raw) | Link::Connecting { raw, .. } if self.requests.are_idle() => {
                    self.leave(raw, WhenToFree::Connected);
                    return Settled::Elsewhere;
                }
                // SPDK may have called back for commands that the controller works on.
                Link::Halted(raw) if self.requests.are_drained() => {
                    self.leave(raw, WhenToFree::Stopped);
                    return Settled::Elsewhere;
                }
                Link::Up(raw) | Link::Connecting { raw, .. } | Link::Halted(raw) => raw,
            };
            let now = clock.now();
            let waited = now.saturating_since(begin);
            if waited > STOP_PATIENCE {
                self.leave(raw, WhenToFree::Stopped);
                self.controller.state().report_loss(ENDED_WITH_COMMANDS);
                return Settled::WithCommands;
            }
            if waited > END_PATIENCE && !matches!(self.link, Link::Halted(_)) {
                self.controller.state().report_loss(ENDED_WITH_COMMANDS);
                self.link = Link::Halted(raw);
            }
            self.poll(now, usize::MAX, |_, _| {});
            thread::park_timeout(END_NAP);
        }
    }

    fn leave(&mut self, raw: RawQueuePair, free: WhenToFree) {
        self.link = Link::Down { retry_at: Instant::FAR_FUTURE };
        // SAFETY: the link is down, so nobody uses the two again; the queue pair was the group's
        // only one. If it has commands, `shut_down` keeps for ever what is called back for them;
        // one that is freed while the controller serves has none.
        unsafe { self.controller.state().abandon(raw, self.group, free) };
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        self.shut_down();
    }
}
