//! How a core is set up.

use std::sync::Arc;
use std::time::Duration;

use super::machine::{machine_clock, machine_seed};
use crate::error::{Error, ErrorKind, Result};
use crate::reactor::{ReactorChoice, RegisterArena, RingFeatures};
use crate::time::Clock;

/// How a core is set up. [`CoreConfig::from_machine`] gives the defaults with the machine's time
/// and randomness, [`CoreConfig::new`] with others; then change the fields.
///
/// ```
/// # use boson::rt::{Core, CoreConfig, Idle};
/// # fn main() -> boson::Result<()> {
/// let mut config = CoreConfig::from_machine()?;
/// config.idle = Idle::Sleep;
/// let core = Core::new(&config)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct CoreConfig {
    /// The CPU to pin the core's thread to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from: the seed of the core's generator (ChaCha12).
    pub seed: [u8; 32],
    /// What to do I/O through.
    pub reactor: ReactorChoice,
    /// The size of the io_uring's submission queue, in entries: 1 to 32,768; the kernel rounds up
    /// to a power of two.
    pub ring_entries: u32,
    /// Which of the kernel's io_uring features the core may use if they are there.
    pub ring_features: RingFeatures,
    /// The most threads for [`offload`](super::offload()), and without io_uring for files: 1 to
    /// 1,024.
    pub offload_threads: usize,
    /// What the core does when it has nothing to do.
    pub idle: Idle,
    /// The size of the core's arena, in bytes. Pages are touched only with use.
    pub arena_bytes: usize,
    /// Whether the arena is registered with the io_uring.
    pub register_arena: RegisterArena,
    /// A poll of a task that takes longer is a stall. The core counts it and logs it with the
    /// task's name.
    pub stall_after: Duration,
    /// The most messages from other threads (see [`Handle`](super::Handle)) that wait until the
    /// core takes them. It takes all at once and runs them over its next turns, so there may be as
    /// many again that have not run yet.
    pub messages: usize,
}

/// What a core does when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Idle {
    /// Keeps polling, for the shortest latency; takes all of its CPU.
    Poll,
    /// Keeps polling for `spin` after the last event, then sleeps in the kernel. After four spins
    /// in a row that saw nothing come, the core spins for a 64th of it only, until it was woken in
    /// less than `spin` several times in a row: it spends CPU time where that makes answers faster.
    /// A core whose work comes every `spin` or more often does not sleep.
    Adaptive {
        /// The longest spin.
        spin: Duration,
    },
    /// Sleeps in the kernel at once.
    Sleep,
}

/// The most entries that the kernel gives an io_uring (`IORING_MAX_ENTRIES`).
const MAX_RING_ENTRIES: u32 = 32_768;
/// The most threads of a core for blocking calls.
const MAX_OFFLOAD_THREADS: usize = 1024;

impl CoreConfig {
    /// The defaults of [`CoreConfig::new`], on the machine's clocks and with a seed from the
    /// kernel's generator.
    ///
    /// All configurations that this function makes share one
    /// [`MonotonicClock`](crate::rt::time::MonotonicClock), so that the times of their cores can be
    /// compared. Each has a seed of its own: for several cores call it once for each.
    ///
    /// # Errors
    ///
    /// As for [`machine_seed`].
    pub fn from_machine() -> Result<Self> {
        Ok(Self::new(machine_clock(), machine_seed()?))
    }

    /// With time and randomness that the caller brings: those of a simulation or of a test that is
    /// to repeat, or a server's own. The seed makes sequence numbers, ports and hash keys
    /// unguessable: a server on a network takes [`machine_seed`] or the like.
    ///
    /// Not pinned, io_uring with 256 entries or else epoll, 16 threads for blocking work, at most
    /// 50 µs of spinning, a 16 MiB arena that is registered if it has hugepages, stalls from 10 ms
    /// on, 65,536 messages.
    pub fn new(clock: Arc<dyn Clock>, seed: [u8; 32]) -> Self {
        Self {
            cpu: None,
            clock,
            seed,
            reactor: ReactorChoice::Auto,
            ring_entries: 256,
            ring_features: RingFeatures::all(),
            offload_threads: 16,
            idle: Idle::Adaptive { spin: Duration::from_micros(50) },
            arena_bytes: 16 << 20,
            register_arena: RegisterArena::default(),
            stall_after: Duration::from_millis(10),
            messages: 1 << 16,
        }
    }
}

impl CoreConfig {
    /// Whether its numbers are within what is documented.
    pub(super) fn check(&self) -> Result<()> {
        let invalid =
            |detail: String| Err(Error::new(ErrorKind::InvalidInput, "set up a core").because(detail));
        if !(1..=MAX_RING_ENTRIES).contains(&self.ring_entries) {
            return invalid(format!(
                "ring_entries is {}: give a power of two from 1 to {MAX_RING_ENTRIES}",
                self.ring_entries
            ));
        }
        if !(1..=MAX_OFFLOAD_THREADS).contains(&self.offload_threads) {
            return invalid(format!(
                "offload_threads is {}: give 1 to {MAX_OFFLOAD_THREADS}",
                self.offload_threads
            ));
        }
        if self.messages == 0 {
            return invalid("messages is 0: give at least 1".to_owned());
        }
        Ok(())
    }
}

impl std::fmt::Debug for CoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The seed makes sequence numbers and ports unguessable: it does not belong in a log.
        f.debug_struct("CoreConfig")
            .field("cpu", &self.cpu)
            .field("reactor", &self.reactor)
            .field("ring_entries", &self.ring_entries)
            .field("ring_features", &self.ring_features)
            .field("offload_threads", &self.offload_threads)
            .field("idle", &self.idle)
            .field("arena_bytes", &self.arena_bytes)
            .field("register_arena", &self.register_arena)
            .field("stall_after", &self.stall_after)
            .field("messages", &self.messages)
            .finish_non_exhaustive()
    }
}
