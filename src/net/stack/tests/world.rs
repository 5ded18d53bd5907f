//! Two stacks on one wire, tasks that use them, and a clock that jumps to the next thing that
//! happens.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::net::device::{Fault, FaultConfig, MemoryDevice, PacketDevice};
use crate::net::stack::{Stack, StackConfig, StackPoller};
use crate::rt::Instant;
use crate::rt::poller::{Park, Poller};
use crate::rt::time::Clock;

pub(super) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Frames each direction of the wire holds.
pub(super) const WIRE_FRAMES: usize = 256;

#[derive(Default)]
pub(super) struct VirtualClock(AtomicU64);

impl VirtualClock {
    fn set(&self, now: Instant) {
        self.0.store(now.as_nanos(), Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed))
    }

    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    future: BoxedFuture,
    woken: Arc<Flag>,
}

/// What tasks may ask of the world.
#[derive(Clone, Default)]
pub(super) struct Handle {
    clock: Arc<VirtualClock>,
    spawned: Rc<RefCell<Vec<BoxedFuture>>>,
    sleepers: Rc<RefCell<Vec<(Instant, Waker)>>>,
}

impl Handle {
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(future));
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        let until = self.now() + duration;
        poll_fn(|context| {
            if self.now() >= until {
                return Poll::Ready(());
            }
            self.sleepers.borrow_mut().push((until, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// `future`'s output, or `None` if it takes longer than `limit`. The future is dropped either
    /// way.
    pub(super) async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
        let mut future = Box::pin(future);
        let mut sleep = Box::pin(self.sleep(limit));
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            sleep.as_mut().poll(context).map(|()| None)
        })
        .await
    }
}

/// Runs tasks and stacks on one thread, deterministically.
#[derive(Default)]
pub(super) struct World {
    pub(super) handle: Handle,
    pollers: Vec<StackPoller>,
    tasks: Vec<Task>,
}

impl World {
    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.handle.clock) as Arc<dyn Clock>
    }

    /// A stack on `device` that the world polls.
    pub(super) fn add(&mut self, device: Box<dyn PacketDevice>, config: StackConfig) -> Stack {
        let stack = Stack::new(device, config, self.handle.now()).expect("a valid configuration");
        self.pollers.push(stack.poller());
        stack
    }

    /// Stops polling a stack for good: its host vanished.
    pub(super) fn vanish(&mut self, index: usize) {
        // Dropping it would say goodbye.
        std::mem::forget(self.pollers.remove(index));
    }

    /// Ends the core of a stack.
    pub(super) fn end(&mut self, index: usize) {
        self.pollers.remove(index);
    }

    /// Runs until `main` is done, which must not take longer than an hour of virtual time.
    pub(super) fn run<T: 'static>(&mut self, main: impl Future<Output = T> + 'static) -> T {
        let output = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&output);
        self.handle.spawn(async move {
            let value = main.await;
            *slot.borrow_mut() = Some(value);
        });
        let started = self.handle.now();
        loop {
            if let Some(value) = output.borrow_mut().take() {
                return value;
            }
            let elapsed = self.handle.now() - started;
            assert!(elapsed < Duration::from_secs(3600), "still not done after an hour of virtual time");
            self.turn();
        }
    }

    /// Runs everything for `duration`.
    pub(super) fn run_for(&mut self, duration: Duration) {
        let handle = self.handle.clone();
        self.run(async move { handle.sleep(duration).await });
    }

    fn turn(&mut self) {
        for future in self.handle.spawned.borrow_mut().drain(..) {
            self.tasks.push(Task { future, woken: Arc::new(Flag(AtomicBool::new(true))) });
        }
        let mut progress = 0;
        let mut index = 0;
        while index < self.tasks.len() {
            let task = &mut self.tasks[index];
            if !task.woken.0.swap(false, Ordering::Relaxed) {
                index += 1;
                continue;
            }
            progress += 1;
            let waker = Waker::from(Arc::clone(&task.woken));
            if task.future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                let finished = self.tasks.swap_remove(index);
                drop(finished);
            } else {
                index += 1;
            }
        }
        let now = self.handle.now();
        for poller in &mut self.pollers {
            progress += poller.poll(now, 64);
        }
        let next = if progress > 0 { now + Duration::from_micros(1) } else { self.next_event(now) };
        self.handle.clock.set(next);
        let now = self.handle.now();
        self.handle.sleepers.borrow_mut().retain(|(until, waker)| {
            if *until <= now {
                waker.wake_by_ref();
            }
            *until > now
        });
    }

    fn next_event(&mut self, now: Instant) -> Instant {
        let mut next = self.handle.sleepers.borrow().iter().map(|&(until, _)| until).min();
        let mut consider = |at: Instant| next = Some(next.map_or(at, |next| next.min(at)));
        for poller in &mut self.pollers {
            if let Some(deadline) = poller.next_deadline() {
                consider(deadline);
            }
            match poller.park() {
                Park::Idle => {}
                Park::Nap(nap) => consider(now + nap),
                Park::Spin | Park::Wake(_) => consider(now + Duration::from_micros(1)),
            }
        }
        let runnable = !self.handle.spawned.borrow().is_empty()
            || self.tasks.iter().any(|task| task.woken.0.load(Ordering::Relaxed));
        if runnable {
            consider(now);
        }
        next.expect("every task waits, and nothing will ever happen").max(now + Duration::from_micros(1))
    }
}

/// Both ends of a wire with `faults` on both directions.
pub(super) fn wire(world: &World, faults: FaultConfig, seed: u64) -> [Box<dyn PacketDevice>; 2] {
    let (client, server) = MemoryDevice::pair([CLIENT_MAC, SERVER_MAC], 1500, WIRE_FRAMES);
    if faults == FaultConfig::default() {
        return [Box::new(client), Box::new(server)];
    }
    [
        Box::new(Fault::new(client, faults, seed, world.clock())),
        Box::new(Fault::new(server, faults, seed ^ 0xff, world.clock())),
    ]
}
