//! The reactor: how a core does I/O with the kernel.
//!
//! It submits operations to an io_uring, or makes them when epoll says that a descriptor is ready,
//! or on a thread of the core's pool, and completes them. It knows nothing of tasks: it takes
//! wakers and a clock. One room, from the top down:
//!
//! | module | what |
//! |---|---|
//! | `ops` | operations as futures, which own their buffers until the kernel is done: the seam to the rooms above |
//! | `feed`, `fixed_file`, `polled_device` | what an io_uring adds to them, where there is one: multishot requests, registered files, polled devices |
//! | `signal` | signals of the process as something a task awaits |
//! | `current` | the reactor of the core that the thread is inside of |
//! | this file | [`Reactor`]: io_uring, epoll, or none in a simulation |
//! | `uring`, `epoll` | the two ways, each with the values of operations that nobody awaits any more |
//! | `pool` | threads for calls that block |
//! | `doorbell`, `patience` | waking a core that sleeps; how long a core that ends waits |

pub(crate) mod current;
pub(crate) mod doorbell;
mod epoll;
mod feed;
mod fixed_file;
pub(crate) mod ops;
pub(crate) mod patience;
mod polled_device;
pub(crate) mod pool;
mod signal;
mod uring;

use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use crate::error::{Error, ErrorKind, Result};
use crate::mem::{Arena, PageKind};
use crate::time::Instant;

pub(crate) use current::{Attachment, is_simulated, may_call_directly, ring_features, ring_has};
use doorbell::Doorbell;
pub(crate) use feed::{Arrival, CHUNK_BYTES, Chunk, Feed};
pub(crate) use fixed_file::FixedFile;
use patience::Patience;
pub(crate) use polled_device::PolledDevice;
use pool::Pool;
pub use signal::{Signal, Signals};
pub(crate) use uring::{COMMAND_BYTES, CommandRing, DeviceCommand};
pub use uring::{RingFeature, RingFeatures, probe_io_uring, probe_ring_features};

/// What a core is asked to do its I/O through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReactorChoice {
    /// io_uring; epoll where it is forbidden, absent, too old, or where it gets no memory. The
    /// first core of a process that takes epoll says so in the log, with the reason.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// epoll, also where io_uring is allowed.
    Epoll,
}

/// What a core does its I/O through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReactorKind {
    /// Not known: of a core that did not answer, or whose process runs an older or newer version of
    /// boson.
    #[default]
    Unknown,
    /// io_uring.
    IoUring,
    /// epoll for sockets, the core's blocking pool for files.
    Epoll,
    /// Nothing: a core of a simulation ([`sim::World`](crate::sim::World)) does no I/O with the
    /// kernel.
    Simulated,
}

impl ReactorKind {
    /// `io_uring`, `epoll`, `simulated` or `unknown`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
            Self::Simulated => "simulated",
        }
    }

    /// The one of this name; `Unknown` if there is none.
    pub(crate) fn named(name: &str) -> Self {
        let kinds = [Self::IoUring, Self::Epoll, Self::Simulated];
        kinds.into_iter().find(|kind| kind.name() == name).unwrap_or_default()
    }
}

/// Whether a core's arena is registered with its io_uring, which saves pinning memory for each read
/// and write of a namespace, and makes all of the arena resident and locked (`RLIMIT_MEMLOCK`).
/// Where the kernel refuses, the core does without and says so in the log once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterArena {
    /// Never.
    Never,
    /// If it consists of hugepages, which are set aside and locked in any case.
    #[default]
    IfHuge,
    /// Always: all of the arena's memory is used from the start.
    Always,
}

/// A core's reactor.
#[derive(Clone)]
pub(crate) enum Reactor {
    Uring(Rc<uring::Ring>),
    Epoll(Rc<epoll::Epoll>),
    /// No kernel: operations fail with `EOPNOTSUPP`.
    Simulated,
}

impl Reactor {
    pub(crate) fn new(
        choice: ReactorChoice,
        ring_entries: u32,
        ring_features: RingFeatures,
        doorbell: &Arc<Doorbell>,
        pool: &Arc<Pool>,
    ) -> Result<Self> {
        let reason = match choice {
            ReactorChoice::Epoll => None,
            ReactorChoice::IoUring | ReactorChoice::Auto => {
                match uring::Ring::new(ring_entries, ring_features, doorbell) {
                    Ok(ring) => return Ok(Self::Uring(Rc::new(ring))),
                    Err(error) if choice == ReactorChoice::Auto && is_refusal(&error) => Some(error),
                    Err(error) => return Err(error),
                }
            }
        };
        let reactor = epoll::Epoll::new(doorbell, pool)?;
        if let Some(reason) = reason {
            static SAID: AtomicBool = AtomicBool::new(false);
            // No `Once`: a subscriber to the log may panic, or make a core.
            if !SAID.swap(true, Ordering::Relaxed) {
                warn!("I/O goes through epoll, which costs more system calls, because: {reason}");
            }
        }
        Ok(Self::Epoll(Rc::new(reactor)))
    }

    pub(crate) fn kind(&self) -> ReactorKind {
        match self {
            Self::Uring(_) => ReactorKind::IoUring,
            Self::Epoll(_) => ReactorKind::Epoll,
            Self::Simulated => ReactorKind::Simulated,
        }
    }

    /// The io_uring, if it is one.
    pub(crate) fn ring(&self) -> Option<&Rc<uring::Ring>> {
        match self {
            Self::Uring(ring) => Some(ring),
            Self::Epoll(_) | Self::Simulated => None,
        }
    }

    /// Registers the core's arena if it is to be.
    pub(crate) fn register(&self, wanted: RegisterArena, arena: &Arena) {
        let wanted = match wanted {
            RegisterArena::Never => false,
            RegisterArena::IfHuge => arena.stats().pages == PageKind::Huge2M,
            RegisterArena::Always => true,
        };
        let Some(ring) = self.ring().filter(|ring| wanted && ring.may_register_buffers()) else { return };
        if let Err(error) = ring.register_arena(arena) {
            static SAID: AtomicBool = AtomicBool::new(false);
            // As above.
            if !SAID.swap(true, Ordering::Relaxed) {
                warn!(
                    "memory is pinned for each read and write, because the arena of {} bytes cannot be registered: {error}; \
                     raise `ulimit -l`",
                    arena.stats().total_bytes
                );
            }
        }
    }

    /// System calls made so far to submit or wait.
    pub(crate) fn enters(&self) -> u64 {
        match self {
            Self::Uring(ring) => ring.enters(),
            Self::Epoll(epoll) => epoll.enters(),
            Self::Simulated => 0,
        }
    }

    /// Hands queued operations to the kernel and wakes the tasks whose operations are done or can
    /// go on; returns how many that were.
    pub(crate) fn poll(&self, now: Instant) -> Result<usize> {
        match self {
            Self::Uring(ring) => ring.poll(),
            Self::Epoll(epoll) => epoll.poll(now),
            Self::Simulated => Ok(0),
        }
    }

    /// The same, but queued operations may stay queued until the next [`Reactor::poll`].
    pub(crate) fn poll_completions(&self, now: Instant) -> Result<usize> {
        match self {
            Self::Uring(ring) => ring.poll_completions(),
            Self::Epoll(_) | Self::Simulated => self.poll(now),
        }
    }

    /// Whether something is under way that ends no sleep in `wait`.
    pub(crate) fn must_be_polled(&self) -> bool {
        self.ring().is_some_and(|ring| ring.must_be_polled())
    }

    /// Whether operations are queued, or deferred by the kernel, until the next system call of
    /// `poll` or `wait`.
    pub(crate) fn needs_kernel(&self) -> bool {
        self.ring().is_some_and(|ring| ring.needs_kernel())
    }

    /// Hands queued operations to the kernel, and sleeps from `now` until one is done or can go on,
    /// the doorbell rings, a watched descriptor is readable, or `until` then at the latest. May
    /// end for nothing. Wakes tasks as `poll` does; returns how many operations that were.
    pub(crate) fn wait(&self, now: Instant, until: Option<Instant>) -> Result<usize> {
        match self {
            Self::Uring(ring) => ring.wait(now, until),
            Self::Epoll(epoll) => epoll.wait(until.map(|until| until - now)),
            // The driver of the core lets it sleep.
            Self::Simulated => Ok(0),
        }
    }

    /// Wakes a core that sleeps in `wait` when `descriptor` is readable, once.
    pub(crate) fn wake_when_readable(&self, descriptor: RawFd) -> Result<()> {
        match self {
            Self::Uring(ring) => ring.wake_when_readable(descriptor),
            Self::Epoll(epoll) => epoll.wake_when_readable(descriptor),
            Self::Simulated => Err(Error::new(ErrorKind::Unsupported, "watch a descriptor")
                .because("a simulated core does not sleep in the kernel")),
        }
    }

    /// Watches no descriptor any more, and returns when the kernel uses none of them: for before
    /// one is closed. The next `wake_when_readable` starts anew.
    pub(crate) fn unwatch_all(&self) {
        match self {
            Self::Uring(ring) => ring.unwatch_all(),
            Self::Epoll(epoll) => epoll.unwatch_all(),
            Self::Simulated => {}
        }
    }

    /// Cancels everything and waits until nobody uses an operation's memory any more, or `patience`
    /// is over.
    pub(crate) fn shut_down(&self, patience: Patience<'_>) {
        match self {
            Self::Uring(ring) => ring.shut_down(patience),
            Self::Epoll(epoll) => epoll.shut_down(patience),
            Self::Simulated => {}
        }
    }
}

/// Whether io_uring cannot be had here, which no other configuration of the ring would change.
/// `ENOMEM` is among them: before Linux 5.12 rings count as locked memory, of which containers give
/// 64 KiB, and a machine that is really out of memory refuses epoll as well.
fn is_refusal(error: &Error) -> bool {
    let codes = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOMEM];
    error.kind() == ErrorKind::Unsupported || error.code().is_some_and(|code| codes.contains(&code))
}
