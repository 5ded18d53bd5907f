//! Virtual cores on one thread: their steps in a seeded order, on virtual time.

use std::future::Future;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::driver::{CoreEntry, Driver, Stepped};
use super::stuck::{Stuck, StuckKind};
use crate::observe::{CoreStats, TaskInfo};
use crate::rt::defect::Defect;
use crate::rt::time::Clock;
use crate::rt::{self, Handle, Instant, JoinError, JoinHandle};

/// Cores of a world at most.
pub const MAX_CORES: usize = 64;

/// How a [`World`] is set up. [`WorldOptions::new`] gives the defaults.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorldOptions {
    /// What every choice follows from.
    pub seed: u64,
    /// A way to break the runtime on purpose, so that a test can show that it would notice; in
    /// builds with debug assertions.
    pub defect: Option<Defect>,
    /// How many steps are taken at most while time stands still, until the world is taken to go
    /// round in circles.
    pub most_steps: u64,
}

impl WorldOptions {
    /// No defect, 100 million steps.
    pub fn new(seed: u64) -> Self {
        Self { seed, defect: None, most_steps: 100_000_000 }
    }

    /// With the runtime broken in this way.
    #[must_use]
    pub fn defect(self, defect: Defect) -> Self {
        Self { defect: Some(defect), ..self }
    }

    /// With this many steps at most while time stands still.
    #[must_use]
    pub fn most_steps(self, most_steps: u64) -> Self {
        Self { most_steps, ..self }
    }
}

/// Any number of virtual cores in one thread, on virtual time, whose steps a seed puts in order.
///
/// The cores are the runtime's own: the same scheduler, timers and wakers and the same protocol
/// between cores run as on a machine, without a kernel, without threads, and without waiting.
/// Whatever uses [`rt`] alone runs in it: tasks, coroutines, timers, synchronisation, work sent to
/// other cores by their [`Handle`]s. What a machine's timing decides, the seed decides here: which
/// core goes on, at every step of its loop and of the protocol by which cores wake each other;
/// which ready task is polled next; how many are before the devices and the inbox are looked at.
/// Where no core has anything to do, time jumps to the next deadline. Where there is none either,
/// the world is [`Stuck`], and says what every task waits for.
///
/// The same seed gives the same run, in the same build: see [`World::trace`].
///
/// ```
/// use std::time::Duration;
///
/// use boson::rt;
/// use boson::sim::World;
///
/// for seed in 0..100 {
///     let world = World::new(seed);
///     let (front, back) = (world.core("front"), world.core("back"));
///     let back = back.handle();
///     let answer = front.block_on(async move {
///         let work = back.spawn(|| async {
///             rt::sleep(Duration::from_secs(3600)).await;
///             42
///         });
///         work.await.expect("no panic")
///     });
///     assert_eq!(answer, 42, "seed {seed}");
///     assert!(world.now().as_nanos() >= 3600 * 1_000_000_000);
/// }
/// ```
///
/// # What is not simulated
///
/// - A deadlock beside a device that cannot wake its core is not found: while a poller spins or
///   naps, time goes on.
/// - The kernel: sockets, files and signals fail with
///   [`Unsupported`](crate::ErrorKind::Unsupported), and so does a [`Poller`](rt::poller::Poller)
///   that waits for a descriptor. A simulated disk is [`Disk`](super::Disk).
/// - Threads: what is given to [`rt::offload`](rt::offload()) runs in this thread, as a step, while
///   cores go on. A [`CoreThread`](rt::CoreThread) and other threads work as ever, at the machine's
///   time, which no seed decides. A world that waits for one is stuck.
/// - Memory: cores step in a sequentially consistent order. Where loads and stores of a lock-free
///   algorithm may be seen in another, its own test with loom shows it. A poll of a task is one
///   step: what a task does between two awaits is not interleaved.
/// - What draws on the process: `std`'s `HashMap` has an order of its own in every run, and so have
///   the branches of tokio's and futures' `select!` unless they are `biased`.
#[derive(Debug)]
pub struct World {
    driver: Rc<Driver>,
}

/// A core of a [`World`]. Cheap to clone.
#[derive(Clone)]
pub struct VirtualCore {
    driver: Rc<Driver>,
    core: Rc<CoreEntry>,
}

impl World {
    /// A world without cores at time zero, whose choices follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with(WorldOptions::new(seed))
    }

    /// A world with other options.
    pub fn with(options: WorldOptions) -> Self {
        Self { driver: Rc::new(Driver::new(options)) }
    }

    /// Adds a core. The name is for reports.
    ///
    /// # Panics
    ///
    /// With [`MAX_CORES`] already, or if the kernel gives no memory for the core's arena (2 MiB,
    /// touched with use).
    pub fn core(&self, name: &str) -> VirtualCore {
        VirtualCore { driver: Rc::clone(&self.driver), core: self.driver.add(name) }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.driver.clock.now()
    }

    /// The clock, for what takes one.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.driver.clock.clone())
    }

    /// The seed that every choice follows from.
    pub fn seed(&self) -> u64 {
        self.driver.options.seed
    }

    /// A number from the world's seed.
    pub fn random(&self) -> u64 {
        self.driver.random()
    }

    /// A hash of every step so far: which core took it, what it was, and when. Two runs of one
    /// build from one seed have the same.
    pub fn trace(&self) -> u64 {
        self.driver.trace()
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.driver.steps()
    }

    /// Lets `duration` pass with everything that happens in it; the clock ends there.
    ///
    /// # Panics
    ///
    /// With the report of [`Stuck`] if a core sleeps through a wake or the world goes round in
    /// circles, and when called from inside a core. That every task waits for something that will
    /// never happen is no error here.
    pub fn run_for(&self, duration: Duration) {
        let end = self.now() + duration;
        if let Err(stuck) = self.driver.run_until(end) {
            panic!("{stuck}");
        }
    }
}

impl Drop for World {
    /// Ends every core, the first one first, also if a [`VirtualCore`] is left. If a task of its
    /// own drops it, that waits for the end of the `block_on` that runs the world.
    fn drop(&mut self) {
        self.driver.end();
    }
}

impl VirtualCore {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// The time of its world.
    pub fn now(&self) -> Instant {
        self.driver.clock.now()
    }

    /// The clock of its world, for what takes one.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.driver.clock.clone())
    }

    /// A number from the seed of its world.
    pub fn random(&self) -> u64 {
        self.driver.random()
    }

    /// Reaches it from the other cores.
    pub fn handle(&self) -> Handle {
        Handle::of_stepped(&self.core.core)
    }

    /// Starts a task on it, as [`rt::spawn`] does inside. `None`, and the future is dropped, if its
    /// world is gone.
    #[track_caller]
    pub fn spawn<F: Future + 'static>(&self, future: F) -> Option<JoinHandle<F::Output>> {
        self.core.core.spawn(None, Location::caller(), future)
    }

    /// As [`spawn`](Self::spawn), with a name for statistics and messages.
    #[track_caller]
    pub fn spawn_named<F: Future + 'static>(
        &self,
        name: &'static str,
        future: F,
    ) -> Option<JoinHandle<F::Output>> {
        self.core.core.spawn(Some(name), Location::caller(), future)
    }

    /// Runs `future` on this core, and the whole world with it, until it is done.
    ///
    /// # Panics
    ///
    /// As the future does; with the report of [`Stuck`] if it never will be done; when called from
    /// inside a core; and if the world is gone.
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self.try_block_on(future) {
            Ok(output) => output,
            Err(stuck) => panic!("{stuck}"),
        }
    }

    /// The same, with an error if the world is stuck.
    ///
    /// # Errors
    ///
    /// [`Stuck`].
    ///
    /// # Panics
    ///
    /// As the future does, when called from inside a core, and if the world is gone.
    #[track_caller]
    pub fn try_block_on<F: Future>(&self, future: F) -> std::result::Result<F::Output, Stuck> {
        assert!(!rt::is_in_core(), "this thread is inside a core already: spawn a task or await the future");
        assert!(!self.driver.is_over(), "the world of this core is gone");
        let _running = self.driver.run();
        let created_at = Location::caller();
        let step = |waits_for: Option<&'static str>| {
            let root = || Some((self.name().to_owned(), waits_for));
            match self.driver.step(Instant::FAR_FUTURE) {
                Ok(Stepped::Did) => Ok(()),
                Ok(Stepped::Nothing) => Err(Stuck { root: root(), ..self.driver.stuck(StuckKind::Deadlock) }),
                Err(stuck) => Err(Stuck { root: root(), ..stuck }),
            }
        };
        match self.core.core.block_on(created_at, future, step)? {
            Ok(output) => Ok(output),
            Err(JoinError::Panicked(payload)) => payload.go_on(),
            Err(error) => unreachable!("nobody has the handle to cancel it: {error}"),
        }
    }

    /// Drops every task of the core where it stands, its timers and its messages, as the end of its
    /// process does. It then goes on with none.
    ///
    /// # Panics
    ///
    /// While its world runs.
    pub fn crash(&self) {
        assert!(!self.driver.is_running(), "a core is crashed while its world stands still");
        let _running = self.driver.run();
        self.core.core.crash();
    }

    /// What is known of its tasks.
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.core.core.tasks()
    }

    /// Its counters.
    pub fn stats(&self) -> CoreStats {
        self.core.core.stats()
    }
}

impl std::fmt::Debug for VirtualCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualCore").field("name", &self.name()).finish_non_exhaustive()
    }
}
