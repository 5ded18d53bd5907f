//! Synchronisation between tasks: in [`local`] for those of one core, and here for any threads.
//!
//! What is here works from every core, every foreign thread and every runtime, and is `Send` and
//! `Sync`. What is in [`local`] costs neither an atomic nor an allocation per wait; take it
//! wherever a task's partners are on its own core, which is where a task stays.
//!
//! | | waits for | order |
//! |---|---|---|
//! | [`Mutex`] | a lock | a task that finds it free takes it; those that wait are served first come, first served, and nobody is overtaken forever |
//! | [`RwLock`], [`Semaphore`] | a lock or permits | first come, first served; no overtaking |
//! | [`Condvar`], [`Notify`] | a change | told in the order of arrival |
//! | [`Barrier`], [`WaitGroup`], [`OnceCell`] | others to come, or to be done | all at once; [`OnceCell`]: first come, first served |
//! | [`oneshot`], [`mpsc`] | a value, or room | values in the order of sending; senders first come, first served |
//! | [`broadcast`], [`watch`] | every value, or the newest | all at once |
//!
//! Most of them are tokio's: its `sync` feature does not depend on its runtime, they are fair, and
//! loom models of its own check their lock-free parts. [`WaitGroup`], which tokio lacks, is built
//! upon them. [`Barrier`] is our own, because tokio's counts tasks that stopped waiting. So are
//! [`Mutex`] and [`Condvar`], with loom models: a lock that is always handed to the next one makes
//! each holder wait until its core has been woken. The names, methods and errors of [`local`]
//! follow them, so that most code moves between the two by changing an import. What differs:
//!
//! - [`local::Mutex`] is handed to the task that has waited longest: on one core that one need not
//!   be woken first.
//! - [`Notify`] here stores one notification for a task that comes later (`notify_one`), because
//!   another thread may come between a check and the wait. Its `notify_waiters` is called
//!   `notify_all` there.
//! - The value of [`local::watch`] comes as `Rc` where a lock guard comes here: it may be kept
//!   across awaits. It is replaced and not changed in place (no `send_modify`), and there is one
//!   sender.
//! - There, only [`local::Semaphore`] has `_owned` methods and guards, and they take an `Rc`. Only
//!   here there are `blocking_` methods.
//! - Some of tokio's less common methods are missing there: what they say of a channel's other end
//!   (`same_channel`, `closed` of [`mpsc`] and [`watch`], weak senders) and what handles many at
//!   once (`recv_many`, `reserve_many`).
//! - [`local::mpsc::UnboundedReceiver`] and the bounded `Receiver` are one type.
//!
//! Tasks that wait for what is boson's own say so in [`rt::look::tasks`](crate::observe::tasks);
//! those that wait for tokio's types ([`RwLock`], [`Semaphore`], [`Notify`], [`OnceCell`] and the
//! channels) do if the future is in [`rt::waits_for`](crate::rt::waits_for).
//!
//! # Deadlines
//!
//! Everything that waits is a future that may be dropped at any time: it leaves its queue, and what
//! had been granted to it goes to the next one. So [`rt::timeout`](crate::rt::timeout) gives any of
//! them a deadline. The errors become a [`boson::Error`](crate::Error) with `?`:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use boson::rt;
//! use boson::sync::{Mutex, mpsc};
//! boson::run(async {
//!     let mutex = Arc::new(Mutex::new(0));
//!     let (sender, mut receiver) = mpsc::channel(1);
//!     let other = Arc::clone(&mutex);
//!     let thread = std::thread::spawn(move || {
//!         *other.blocking_lock() += 1;
//!         sender.blocking_send("counted")
//!     });
//!     assert_eq!(rt::timeout(Duration::from_secs(1), receiver.recv()).await?, Some("counted"));
//!     assert_eq!(*rt::timeout(Duration::from_secs(1), mutex.lock()).await?, 1);
//!     thread.join().expect("no panic")?;
//!     Ok::<(), boson::Error>(())
//! })?;
//! # Ok::<(), boson::Error>(())
//! ```
//!
//! The `blocking_` methods are for threads without a runtime. They block the thread: inside a task
//! they would stop its whole core. Those of [`Mutex`] are for coroutines too, and panic in async
//! tasks.

/// Functions that are `const`, except in loom's models: loom's types cannot be made at compile
/// time.
macro_rules! const_unless_loom {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty)?) -> $result:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$attribute])*
        $visibility const fn $name($($argument: $type)?) -> $result $body

        #[cfg(loom)]
        $(#[$attribute])*
        $visibility fn $name($($argument: $type)?) -> $result $body
    };
}
pub(crate) use const_unless_loom;

mod barrier;
mod condvar;
mod error;
pub mod local;
#[cfg(all(test, loom))]
mod loom_tests;
mod mutex;
mod raw_mutex;
mod wait_group;
mod wait_queue;

pub use barrier::{Barrier, BarrierWaitResult};
pub use condvar::Condvar;
pub use error::{
    AcquireError, RwTryLockError, SendError, SetError, TryAcquireError, TryLockError, TrySendError,
};
pub use mutex::{MappedMutexGuard, Mutex, MutexGuard, MutexLock, OwnedMutexGuard};
pub use tokio::sync::{
    Notify, OnceCell, OwnedRwLockMappedWriteGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard,
    OwnedSemaphorePermit, RwLock, RwLockMappedWriteGuard, RwLockReadGuard, RwLockWriteGuard, Semaphore,
    SemaphorePermit, broadcast, futures, mpsc, oneshot, watch,
};
pub use wait_group::{WaitGroup, WaitToken};
