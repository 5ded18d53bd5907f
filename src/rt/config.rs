//! How a core is set up.

use std::sync::Arc;
use std::time::Duration;

use super::machine::{machine_clock, machine_seed};
use crate::error::{Error, ErrorKind, Result};
use crate::reactor::{ReactorChoice, RegisterArena, RingFeatures};
use crate::time::Clock;

/// How a core is set up. [`CoreConfig::default`] has the machine's time and randomness.
///
/// ```
/// # use boson::rt::{Core, CoreConfig, Idle};
/// # fn main() -> boson::Result<()> {
/// let core = Core::new(&CoreConfig::default().cpu(0).idle(Idle::Sleep))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct CoreConfig {
    pub(super) cpu: Option<usize>,
    pub(super) clock: Arc<dyn Clock>,
    seed: Option<[u8; 32]>,
    pub(super) reactor: ReactorChoice,
    pub(super) ring_entries: u32,
    pub(super) ring_features: RingFeatures,
    pub(super) offload_threads: usize,
    pub(super) idle: Idle,
    pub(super) arena_bytes: usize,
    pub(super) register_arena: RegisterArena,
    pub(super) stall_after: Duration,
    pub(super) messages: usize,
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

impl Default for CoreConfig {
    /// The machine's clock, a seed from the kernel's generator, and what the methods name.
    ///
    /// All default configurations share one [`MonotonicClock`](crate::rt::time::MonotonicClock), so
    /// that the times of their cores can be compared.
    fn default() -> Self {
        Self {
            cpu: None,
            clock: machine_clock(),
            seed: None,
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
    /// Sets the CPU to pin the core's thread to. `None`, the default, leaves it to the kernel.
    #[must_use]
    pub fn cpu(mut self, cpu: impl Into<Option<usize>>) -> Self {
        self.cpu = cpu.into();
        self
    }

    /// Sets where time comes from: the clock of a simulation or of a test, or a program's own.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the seed of the core's generator (ChaCha12), for a simulation or a test that is to
    /// repeat. By default each core gets its own from [`machine_seed`]. The seed makes sequence
    /// numbers, ports and hash keys unguessable: a server on a network must not have a known one.
    #[must_use]
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets what to do I/O through: by default io_uring, or epoll where io_uring is refused.
    #[must_use]
    pub fn reactor(mut self, reactor: ReactorChoice) -> Self {
        self.reactor = reactor;
        self
    }

    /// Sets the size of the io_uring's submission queue, in entries: 1 to 32,768; 256 by default.
    /// The kernel rounds up to a power of two.
    #[must_use]
    pub fn ring_entries(mut self, entries: u32) -> Self {
        self.ring_entries = entries;
        self
    }

    /// Sets which of the kernel's io_uring features the core may use if they are there; all by
    /// default.
    #[must_use]
    pub fn ring_features(mut self, features: RingFeatures) -> Self {
        self.ring_features = features;
        self
    }

    /// Sets the most threads for [`offload`](super::offload()), and without io_uring for files: 1
    /// to 1,024; 16 by default.
    #[must_use]
    pub fn offload_threads(mut self, threads: usize) -> Self {
        self.offload_threads = threads;
        self
    }

    /// Sets what the core does when it has nothing to do: by default it spins for at most 50 µs.
    #[must_use]
    pub fn idle(mut self, idle: Idle) -> Self {
        self.idle = idle;
        self
    }

    /// Sets the size of the core's arena, in bytes; 16 MiB by default. Pages are touched only with
    /// use.
    #[must_use]
    pub fn arena_bytes(mut self, bytes: usize) -> Self {
        self.arena_bytes = bytes;
        self
    }

    /// Sets whether the arena is registered with the io_uring: by default if it has hugepages.
    #[must_use]
    pub fn register_arena(mut self, register: RegisterArena) -> Self {
        self.register_arena = register;
        self
    }

    /// Sets how long a poll of a task may take. A longer one, by default than 10 ms, is a stall: it
    /// is logged with the task's name, and counted.
    #[must_use]
    pub fn stall_after(mut self, longest: Duration) -> Self {
        self.stall_after = longest;
        self
    }

    /// Sets the most messages from other threads (see [`Handle`](super::Handle)) that wait until
    /// the core takes them; 65,536 by default. It takes all at once and runs them over its next
    /// turns, so there may be as many again that have not run yet.
    #[must_use]
    pub fn messages(mut self, messages: usize) -> Self {
        self.messages = messages;
        self
    }

    /// The seed that was set, or a new one from the machine.
    pub(super) fn seed_or_new(&self) -> Result<[u8; 32]> {
        self.seed.map_or_else(machine_seed, Ok)
    }

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
