//! A single-threaded executor with virtual time and a seeded order of tasks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::rt::{Clock, Instant};
use crate::store::Env;

/// Runs tasks on virtual time. When no task is ready, time jumps to the next timer.
///
/// Dropping it, or [`Executor::crash`], drops every task where it stands, as the end of a process does.
#[derive(Debug)]
pub struct Executor {
    env: SimEnv,
}

/// The environment of simulated tasks: spawning, virtual time, timers. Cheap to clone.
#[derive(Clone)]
pub struct SimEnv {
    inner: Rc<Inner>,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct Inner {
    clock: SimClock,
    random: RefCell<StdRng>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    next_id: Cell<u64>,
    ready: Arc<ReadyQueue>,
    timers: RefCell<BTreeMap<(Instant, u64), Waker>>,
}

/// Tasks that were woken. Wakers may cross threads by their contract, so it is locked; nobody else ever holds it.
#[derive(Default)]
struct ReadyQueue(Mutex<Vec<u64>>);

impl ReadyQueue {
    fn push(&self, id: u64) {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&id) {
            ready.push(id);
        }
    }

    fn take(&self, random: &mut StdRng) -> Option<u64> {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.is_empty() {
            return None;
        }
        let index = random.random_range(0..ready.len());
        Some(ready.swap_remove(index))
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

struct TaskWaker {
    id: u64,
    ready: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.id);
    }
}

/// Virtual time: it starts at a fixed wall-clock time and moves only when the executor says so.
#[derive(Clone, Debug, Default)]
struct SimClock(Arc<AtomicU64>);

/// 2026-01-01T00:00:00Z.
const UNIX_START: Duration = Duration::from_secs(1_767_225_600);

impl Clock for SimClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn unix_time(&self) -> Duration {
        UNIX_START + Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

impl Executor {
    /// An executor whose choices follow from `seed`, at time zero.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            clock: SimClock::default(),
            random: RefCell::new(StdRng::seed_from_u64(seed)),
            tasks: RefCell::default(),
            next_id: Cell::new(0),
            ready: Arc::default(),
            timers: RefCell::default(),
        };
        Self { env: SimEnv { inner: Rc::new(inner) } }
    }

    /// The environment that its tasks use.
    pub fn env(&self) -> SimEnv {
        self.env.clone()
    }

    /// Runs until `future` completes, together with everything that was spawned.
    ///
    /// # Panics
    ///
    /// If nothing is left that could ever wake it.
    pub fn block_on<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        self.env.spawn("main", async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        while result.borrow().is_none() {
            assert!(self.step(Instant::FAR_FUTURE), "every task waits for something that will never happen");
        }
        let value = result.borrow_mut().take();
        value.expect("the loop ended because it is there")
    }

    /// Runs for `duration` of virtual time, or until nothing is left to do; the clock ends there either way.
    pub fn run_for(&self, duration: Duration) {
        let end = self.env.now() + duration;
        while self.step(end) {}
        self.env.inner.clock.0.fetch_max(end.as_nanos(), Ordering::Relaxed);
    }

    /// Polls one ready task, or lets time jump to the next timer not after `end`. Returns whether there was
    /// either.
    pub fn step(&self, end: Instant) -> bool {
        let inner = &self.env.inner;
        let next = inner.ready.take(&mut inner.random.borrow_mut());
        let Some(id) = next else { return self.advance(end) };
        let Some(mut task) = inner.tasks.borrow_mut().remove(&id) else { return true };
        let waker = Waker::from(Arc::new(TaskWaker { id, ready: Arc::clone(&inner.ready) }));
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            inner.tasks.borrow_mut().insert(id, task);
        }
        true
    }

    fn advance(&self, end: Instant) -> bool {
        let inner = &self.env.inner;
        let mut timers = inner.timers.borrow_mut();
        match timers.first_entry() {
            Some(first) if first.key().0 <= end => {
                inner.clock.0.fetch_max(first.key().0.as_nanos(), Ordering::Relaxed);
                let waker = first.remove();
                drop(timers);
                waker.wake();
                true
            }
            _ => false,
        }
    }

    /// Drops every task where it stands.
    pub fn crash(&self) {
        let inner = &self.env.inner;
        loop {
            // A task's own destructors may spawn; those tasks die too.
            let tasks = std::mem::take(&mut *inner.tasks.borrow_mut());
            if tasks.is_empty() {
                break;
            }
            drop(tasks);
        }
        inner.ready.clear();
        inner.timers.borrow_mut().clear();
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.crash();
    }
}

impl SimEnv {
    /// The clock, for what takes a [`Clock`].
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.inner.clock.clone())
    }

    /// A random number from the executor's seed.
    pub fn random(&self) -> u64 {
        self.inner.random.borrow_mut().random()
    }
}

impl Env for SimEnv {
    fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        Sleep { env: self.clone(), until: self.now() + duration, key: None }
    }

    fn spawn(&self, _name: &'static str, task: impl Future<Output = ()> + 'static) {
        let id = self.inner.next_id.get();
        self.inner.next_id.set(id + 1);
        self.inner.tasks.borrow_mut().insert(id, Box::pin(task));
        self.inner.ready.push(id);
    }
}

impl std::fmt::Debug for SimEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimEnv").field("now", &self.now()).finish_non_exhaustive()
    }
}

struct Sleep {
    env: SimEnv,
    until: Instant,
    key: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.env.now() >= self.until {
            return Poll::Ready(());
        }
        let inner = Rc::clone(&self.env.inner);
        let until = self.until;
        let key = *self.key.get_or_insert_with(|| {
            let id = inner.next_id.get();
            inner.next_id.set(id + 1);
            (until, id)
        });
        inner.timers.borrow_mut().insert(key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.env.inner.timers.borrow_mut().remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(value, Instant::ORIGIN + Duration::from_secs(3600));
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
