//! The runtime: one polling scheduler per core.
//!
//! A [`Core`] is a thread, pinned to a CPU if asked for ([`CoreConfig::cpu`]), that runs tasks,
//! polls devices ([`Poller`](poller::Poller)) and its io_uring (or epoll), and fires timers. A task
//! never changes its core. Inside a core the functions of this module ([`spawn`], [`sleep`],
//! [`now`], …) act on that core; outside one they panic ([`is_in_core`] tells). A [`Handle`]
//! reaches a core from other threads.
//!
//! [`boson::run`](run), [`spawn`] and [`sleep`] are all that a first program needs: see the
//! [example](crate#example). Coroutines are tasks too: [`thread`](crate::thread) starts them, and
//! [`wait`] lets them await.
//!
//! | for | use |
//! |---|---|
//! | cores | [`run`]; [`Core`] on this thread, [`CoreThread`] on its own; [`CoreConfig`]; [`Shutdown`] |
//! | tasks | [`spawn`], [`named`], [`TaskBuilder`]; [`JoinHandle`], [`JoinError`]; [`TaskGroup`]; more in [`task`]; [`task_local`](macro@task_local), [`yield_now`] |
//! | time | [`now`], [`sleep`], [`timeout`], [`interval`]; more in [`time`] |
//! | several things at once | `join!`, `try_join!` and `select_biased!` of the `futures` crate, see [below](#several-things-at-once); [`TaskGroup`] |
//! | cancelling | [`CancelToken`], [`CancelOnDrop`]; [`signal`]: SIGTERM, SIGINT and others as events |
//! | locks and channels | [`sync`](crate::sync) between threads, [`sync::local`](crate::sync::local) within a core |
//! | other threads | [`handle`], [`Handle::spawn`], [`RemoteJoin`]; [`offload`] for calls that block |
//! | shares of a core | [`queue`] |
//! | devices | [`poller`]; [`arena`] |
//! | looking inside | [`observe`](crate::observe); [`waits_for`] for futures of your own |
//! | the machine | [`reactor`]: io_uring and its features; [`random`] |
//!
//! # Several things at once
//!
//! Waiting for several futures needs nothing of this crate. `join!`, `try_join!` and
//! `select_biased!` of the `futures` crate work on a core as anywhere, also with timers, sockets
//! and the handles of tasks and coroutines, which are futures all of them:
//!
//! ```
//! # use std::time::Duration;
//! use std::pin::pin;
//!
//! use boson::rt;
//! use futures_util::{FutureExt, join, select_biased, try_join}; // or `futures`
//! # boson::run(async {
//!
//! let task = rt::named("a task").spawn(async { 20 });
//! let (a, b) = join!(task, async { 22 });
//! assert_eq!(a.expect("no panic") + b, 42);
//!
//! // The first error ends the other.
//! let timely = rt::timeout(Duration::from_millis(1), std::future::pending::<()>());
//! let late = rt::timeout(Duration::from_secs(3600), std::future::pending::<()>());
//! assert!(try_join!(timely, late).is_err());
//!
//! // Outside of the loop, what goes on from one turn to the next; in it, what starts anew.
//! let mut enough = pin!(rt::sleep(Duration::from_millis(5)).fuse());
//! let mut interval = rt::interval(Duration::from_millis(1));
//! let mut ticks = 0;
//! loop {
//!     select_biased! {
//!         () = enough => break,
//!         _ = interval.tick().fuse() => ticks += 1,
//!     }
//! }
//! assert!(ticks > 0);
//! # Ok::<(), boson::Error>(())
//! # })?;
//! # Ok::<(), boson::Error>(())
//! ```
//!
//! `select_biased!` asks its branches in the order in which they are written. `select!` shuffles
//! them by randomness of its own, which is no core's: a simulation does not repeat it.
//!
//! In a coroutine [`wait`] does the same, and what blocks becomes a future by a coroutine of its
//! own. The first of two closures:
//!
//! ```
//! # use std::time::Duration;
//! use boson::thread;
//! use futures_util::future::{Either, select};
//!
//! # boson::run(async {
//! let first = thread::spawn(|| {
//!     let tortoise = thread::spawn(|| thread::sleep(Duration::from_secs(3600)));
//!     let hare = thread::spawn(|| thread::sleep(Duration::from_millis(1)));
//!     match boson::wait(select(tortoise, hare)) {
//!         Either::Left(_) => "the tortoise",
//!         // With the handle of the other one, which would run on.
//!         Either::Right((_, tortoise)) => {
//!             tortoise.cancel();
//!             "the hare"
//!         }
//!     }
//! });
//! assert_eq!(first.await.expect("no panic"), "the hare");
//! # });
//! # Ok::<(), boson::Error>(())
//! ```
//!
//! For any number of tasks there is [`TaskGroup`].
//!
//! A panic in a task is its joiner's [`JoinError::Panicked`] and leaves the core running.

mod cancel;
mod config;
mod core;
mod core_local;
pub(crate) mod coroutine;
mod deadline;
mod handle;
mod interval;
pub(crate) mod look;
mod machine;
mod offload;
mod poll;
pub(crate) mod record;
mod register_poller;
mod remote_join;
mod scheduler;
mod shutdown;
mod sleep;
mod spawn;
mod stack;
mod task_group;
mod task_local;
mod task_queue;
mod task_span;
mod tasks;
mod this_core;
mod thread;
mod timer;
mod waits_for;
mod yield_now;

pub use crate::time::Instant;
pub use cancel::CancelToken;
pub use config::{CoreConfig, Idle};
pub use core::{Core, run};
pub(crate) use core_local::CoreLocal;
pub use coroutine::wait;
pub use deadline::timeout;
pub use handle::Handle;
pub use interval::interval;
pub use offload::offload;
pub use remote_join::RemoteJoin;
pub(crate) use scheduler::{Stage, SteppedCore};
pub use shutdown::{Shutdown, ShutdownReport};
pub use sleep::sleep;
pub use spawn::{TaskBuilder, named, spawn};
pub use task_group::TaskGroup;
pub use task_local::task_local;
pub(crate) use tasks::{Cancel, Simulation, defect, noted, noted_over};
pub use tasks::{CancelOnDrop, JoinError, JoinHandle};
pub(crate) use this_core::never_sleeps;
pub use this_core::{arena, handle, is_in_core, now};
pub use thread::CoreThread;
pub use waits_for::waits_for;
pub use yield_now::yield_now;

/// Time: clocks, and the types behind [`sleep`], [`interval`] and [`timeout`].
pub mod time {
    pub use super::deadline::{Deadline, timeout_at};
    pub use super::interval::{Interval, MissedTick, interval_at};
    pub use super::sleep::{Sleep, sleep_until};
    pub use super::this_core::{coarse_now, unix_time};
    pub use crate::time::{Clock, MonotonicClock};
}

/// Task queues: shares of a core, and how soon a ready task runs.
pub mod queue {
    pub use super::task_queue::TaskQueue;
    pub use super::tasks::{LatencyClass, MAX_TASK_QUEUES, Shares};
}

/// What a core does I/O with: io_uring with its features, or epoll.
pub mod reactor {
    pub use super::this_core::ring_features;
    pub use crate::reactor::{
        ReactorChoice, ReactorKind, RegisterArena, RingFeature, RingFeatures, probe_io_uring,
        probe_ring_features,
    };
}

/// Devices that a core polls.
pub mod poller {
    pub use super::poll::{Park, Poller};
    pub use super::register_poller::{PollerRegistration, register_poller, register_poller_with_budget};
}

/// Signals of the process as events: SIGTERM, SIGINT and others.
pub mod signal {
    pub use crate::reactor::{Signal, Signals};
}

/// Random bytes: those of a core, which a simulation repeats, and the machine's.
pub mod random {
    pub use super::machine::machine_seed;
    pub use super::this_core::fill_random;
}

/// The less common parts of tasks: futures of functions, and what handles have in common.
pub mod task {
    pub use super::cancel::{Cancelled, DropGuard};
    pub use super::offload::Offload;
    pub use super::task_local::TaskLocal;
    pub use super::tasks::{TaskHandle, waiting_for};
    pub use super::waits_for::WaitsFor;
    pub use super::yield_now::YieldNow;
    pub use crate::user_code::PanicPayload;
}
