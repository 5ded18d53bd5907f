//! What a core polls of a device of SPDK: a queue pair of a controller, or a channel.

use super::super::queue::{Command, Failure, Port, Refused, Segment};
use super::bdev::channel::Channel;
use super::queue_pair::QueuePair;
use crate::rt::poller::Park;
use crate::time::Instant;

pub(crate) enum SpdkPort {
    QueuePair(QueuePair),
    Channel(Channel),
}

// SAFETY: either kind names a slot in `poll` when SPDK has called back for it, once for each
// `submit`, and SPDK's devices work on memory only until then. `shut_down` frees the queue pair, or
// gives the channel back when it has no command, and says so if that cannot be done.
unsafe impl Port for SpdkPort {
    const NAME: &'static str = "spdk";

    fn slots(&self) -> u16 {
        match self {
            Self::QueuePair(queue_pair) => queue_pair.slots(),
            Self::Channel(channel) => channel.slots(),
        }
    }

    fn accepts(&self, memory: &[Segment]) -> bool {
        match self {
            Self::QueuePair(queue_pair) => queue_pair.accepts(memory),
            Self::Channel(channel) => channel.accepts(memory),
        }
    }

    unsafe fn submit(&mut self, slot: u16, command: &Command<'_>) -> Result<(), Refused> {
        match self {
            // SAFETY: the caller's promise.
            Self::QueuePair(queue_pair) => unsafe { queue_pair.submit(slot, command) },
            // SAFETY: the caller's promise.
            Self::Channel(channel) => unsafe { channel.submit(slot, command) },
        }
    }

    fn kick(&mut self) {
        // SPDK rings doorbells, and sends to sockets, when it is polled.
    }

    fn poll(
        &mut self,
        now: Instant,
        budget: usize,
        done: impl FnMut(u16, Result<(), Box<Failure>>),
    ) -> usize {
        match self {
            Self::QueuePair(queue_pair) => queue_pair.poll(now, budget, done),
            Self::Channel(channel) => channel.poll(budget, done),
        }
    }

    fn park(&mut self, in_use: usize) -> Park {
        match self {
            Self::QueuePair(queue_pair) => queue_pair.park(in_use),
            Self::Channel(channel) => channel.park(in_use),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::QueuePair(queue_pair) => queue_pair.next_deadline(),
            Self::Channel(_) => None,
        }
    }

    fn resized(&mut self) -> Option<u64> {
        match self {
            Self::QueuePair(queue_pair) => queue_pair.resized(),
            Self::Channel(channel) => channel.resized(),
        }
    }

    fn shut_down(&mut self) -> bool {
        match self {
            Self::QueuePair(queue_pair) => queue_pair.shut_down(),
            Self::Channel(channel) => channel.shut_down(),
        }
    }
}
