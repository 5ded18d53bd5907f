//! What the store needs from the world besides a namespace: tasks and time.

use std::future::Future;
use std::time::Duration;

use crate::rt::{self, Instant};

/// Tasks and time for a store. boson's runtime is one, the simulator another; all of a store's
/// tasks run on one core.
pub trait Env: Clone + 'static {
    /// Monotonic time.
    fn now(&self) -> Instant;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Fills `bytes` with random ones, which differ between stores.
    fn fill_random(&self, bytes: &mut [u8]);

    /// Runs `task` in the background on this core. The caller is where the task comes from.
    #[track_caller]
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static);
}

/// The boson core that the store runs on. Using a store outside its core panics; dropping it there
/// does not, but what was not durable yet may be lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct RtEnv;

impl Env for RtEnv {
    fn now(&self) -> Instant {
        rt::now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        rt::sleep(duration)
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        rt::random::fill_random(bytes);
    }

    #[track_caller]
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        if !rt::is_in_core() {
            // The last handle of a store was dropped outside: there is nobody left to run its
            // closing.
            tracing::warn!("`{name}` is not run: the store was dropped outside its core; close it inside");
            return;
        }
        // Dropping the handle detaches the task.
        drop(rt::named(name).spawn(task));
    }
}
