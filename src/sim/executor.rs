//! A world of one core, for what runs on an [`Env`]: a store.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{VirtualCore, World};
use crate::rt::time::Clock;
use crate::rt::{self, Instant};
use crate::store::Env;

/// A [`World`] with one core.
///
/// Dropping it, or [`Executor::crash`], drops every task where it stands, as the end of a process
/// does.
#[derive(Debug)]
pub struct Executor {
    world: World,
    core: VirtualCore,
}

/// The environment of an [`Executor`]'s tasks: spawning, virtual time, timers. Cheap to clone.
#[derive(Clone)]
pub struct SimEnv {
    core: VirtualCore,
}

impl Executor {
    /// An executor whose choices follow from `seed`, at time zero.
    ///
    /// # Panics
    ///
    /// As [`World::core`].
    pub fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let core = world.core("executor");
        Self { world, core }
    }

    /// The environment that its tasks use.
    pub fn env(&self) -> SimEnv {
        SimEnv { core: self.core.clone() }
    }

    /// Runs until `future` completes, together with everything that was spawned.
    ///
    /// # Panics
    ///
    /// As [`VirtualCore::block_on`].
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.core.block_on(future)
    }

    /// Runs for `duration` of virtual time, or until nothing is left to do; the clock ends there
    /// either way.
    ///
    /// # Panics
    ///
    /// As [`World::run_for`].
    pub fn run_for(&self, duration: Duration) {
        self.world.run_for(duration);
    }

    /// Drops every task where it stands.
    ///
    /// # Panics
    ///
    /// While it runs.
    pub fn crash(&self) {
        self.core.crash();
    }
}

impl SimEnv {
    /// The clock, for what takes a [`Clock`].
    pub fn clock(&self) -> Arc<dyn Clock> {
        self.core.clock()
    }

    /// A random number from the executor's seed.
    pub fn random(&self) -> u64 {
        self.core.random()
    }
}

impl Env for SimEnv {
    fn now(&self) -> Instant {
        self.core.now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        rt::sleep(duration)
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            piece.copy_from_slice(&self.random().to_ne_bytes()[..piece.len()]);
        }
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        // Dropping the handle detaches the task.
        drop(self.core.spawn_named(name, task));
    }
}

impl std::fmt::Debug for SimEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimEnv").field("now", &self.now()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn trace(seed: u64) -> Vec<(u64, Instant)> {
        let executor = Executor::new(seed);
        let env = executor.env();
        let log = Rc::new(RefCell::new(Vec::new()));
        for task in 0..8 {
            let (env_of_task, log) = (env.clone(), Rc::clone(&log));
            env.spawn("task", async move {
                for _ in 0..4 {
                    env_of_task.sleep(Duration::from_micros(env_of_task.random() % 3)).await;
                    log.borrow_mut().push((task, env_of_task.now()));
                }
            });
        }
        executor.run_for(Duration::from_secs(1));
        assert_eq!(env.now(), Instant::ORIGIN + Duration::from_secs(1));
        log.take()
    }

    #[test]
    fn a_seed_decides_everything() {
        assert_eq!(trace(1).len(), 32);
        assert_eq!(trace(1), trace(1));
        assert_ne!(trace(1), trace(2));
    }

    #[test]
    fn time_jumps_to_timers_and_a_crash_drops_tasks() {
        let executor = Executor::new(0);
        let env = executor.env();
        let value = executor.block_on({
            let env = env.clone();
            async move {
                env.sleep(Duration::from_secs(3600)).await;
                env.now()
            }
        });
        let late = value - (Instant::ORIGIN + Duration::from_secs(3600));
        assert!(value >= Instant::ORIGIN + Duration::from_secs(3600) && late < Duration::from_micros(17));
        let held = Rc::new(());
        let kept = Rc::clone(&held);
        let env_of_task = env.clone();
        env.spawn("sleeper", async move {
            env_of_task.sleep(Duration::from_secs(1)).await;
            drop(kept);
        });
        executor.run_for(Duration::from_millis(1));
        assert_eq!(Rc::strong_count(&held), 2);
        executor.crash();
        assert_eq!(Rc::strong_count(&held), 1);
    }
}
