//! Synchronisation between the tasks of one core: no atomics, no allocation per wait, none of it
//! `Send`.
//!
//! Everything that waits is a future. It takes its place in the queue with its first poll, and
//! those that wait are served first come, first served. A future that is dropped leaves the queue,
//! and what had been granted to it goes to the next one. So [`rt::timeout`](crate::rt::timeout)
//! gives any of them a deadline, and there is no second method for it:
//!
//! ```
//! use std::time::Duration;
//! use boson::rt;
//! use boson::sync::local::Mutex;
//! # boson::run(async {
//! let mutex = Mutex::new(());
//! let guard = rt::timeout(Duration::from_millis(10), mutex.lock()).await?;
//! let error = rt::timeout(Duration::from_millis(1), mutex.lock()).await.unwrap_err();
//! assert_eq!(error.kind(), boson::ErrorKind::TimedOut);
//! // The wait that timed out left nothing behind.
//! drop(guard);
//! assert!(mutex.try_lock().is_ok());
//! # Ok::<(), boson::Error>(())
//! # })?;
//! # Ok::<(), boson::Error>(())
//! ```
//!
//! Nothing here needs a core: the futures run on any single-threaded executor. Names and shapes
//! follow the cross-core primitives in [`rt::sync`](crate::sync), and every error here becomes a
//! [`boson::Error`](crate::Error) with `?`.
//!
//! Wakers may do anything when they are cloned, woken or dropped, also call back into the primitive
//! that holds them. One that panics while several tasks are woken costs no other its wake.

mod barrier;
pub mod broadcast;
mod condvar;
mod error;
pub mod mpsc;
mod mutex;
mod notify;
mod once_cell;
pub mod oneshot;
mod rwlock;
mod semaphore;
mod wait_group;
mod wait_list;
mod waker_slot;
pub mod watch;

pub use barrier::{Barrier, BarrierWait, BarrierWaitResult};
pub use condvar::Condvar;
pub use error::{AcquireError, SendError, SetError, TryAcquireError, TryLockError, TrySendError};
pub use mutex::{MappedMutexGuard, Mutex, MutexGuard, MutexLock};
pub use notify::{Notified, Notify};
pub use once_cell::OnceCell;
pub use rwlock::{RwLock, RwLockRead, RwLockReadGuard, RwLockWrite, RwLockWriteGuard};
pub use semaphore::{OwnedSemaphorePermit, Semaphore, SemaphoreAcquire, SemaphorePermit};
pub use wait_group::{WaitGroup, WaitGroupWait, WaitToken};
#[cfg(any(feature = "futures", feature = "hyper", feature = "tokio"))]
pub(crate) use waker_slot::WakerSlot;
