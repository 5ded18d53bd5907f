//! Virtual cores on one thread: their steps in a seeded order, on virtual time.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::Location;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::clock::VirtualClock;
use super::stuck::{CoreDump, Stuck, StuckKind};
use crate::error::Result;
use crate::rt::defect::Defect;
use crate::rt::{
    self, Clock, CoreConfig, CoreStats, Handle, Instant, JoinError, JoinHandle, Simulation, SteppedCore,
    TaskInfo,
};

/// Cores of a world at most.
pub const MAX_CORES: usize = 64;
/// Steps that are taken at most in the middle of another core's.
const MOST_NESTED: usize = 16;

/// How a [`World`] is set up. [`WorldOptions::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// What every choice follows from.
    pub seed: u64,
    /// A way to break the runtime on purpose, so that a test can show that it would notice; in builds with debug assertions.
    pub defect: Option<Defect>,
    /// How many steps are taken at most while time stands still, until the world is taken to go round in circles.
    pub most_steps: u64,
}

impl WorldOptions {
    /// No defect, 100 million steps.
    pub fn new(seed: u64) -> Self {
        Self { seed, defect: None, most_steps: 100_000_000 }
    }
}

/// Any number of virtual cores in one thread, on virtual time, whose steps a seed puts in order.
///
/// The cores are the runtime's own: the same scheduler, timers and wakers and the same protocol between cores run as on a
/// machine, without a kernel, without threads, and without waiting. Whatever uses [`rt`] alone runs in it: tasks, timers,
/// synchronisation, work sent to other cores by their [`Handle`]s. What a machine's timing decides, the seed decides here: which core goes
/// on, at every step of its loop and of the protocol by which cores wake each other; which ready task is polled next; how many are before
/// the devices and the inbox are looked at. Where no core has anything to do, time jumps to the next deadline. Where there is none
/// either, the world is [`Stuck`], and says what every task waits for.
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
///         let work = back.spawn("work", || async {
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
/// - The kernel: sockets, files and signals fail with [`Unsupported`](crate::ErrorKind::Unsupported), and so does a
///   [`Poller`](rt::Poller) that waits for a descriptor. A simulated disk is [`Disk`](super::Disk).
/// - Threads: what is given to [`rt::offload`](rt::offload()) runs in this thread, as a step, while cores go on. A
///   [`CoreThread`](rt::CoreThread) and other threads work as ever, at the machine's time, which no seed decides. A world
///   that waits for one is stuck.
/// - Memory: cores step in a sequentially consistent order. Where loads and stores of a lock-free algorithm may be seen in
///   another, its own test with loom shows it. A poll of a task is one step: what a task does between two awaits is not interleaved.
/// - What draws on the process: `std`'s `HashMap` has an order of its own in every run, and so have the branches of tokio's and
///   futures' `select!` unless they are `biased`.
#[derive(Debug)]
pub struct World {
    inner: Rc<Inner>,
}

/// A core of a [`World`]. Cheap to clone.
#[derive(Clone)]
pub struct VirtualCore {
    world: Rc<Inner>,
    core: Rc<Entry>,
}

struct Entry {
    name: String,
    number: u64,
    core: SteppedCore,
}

struct Inner {
    options: WorldOptions,
    clock: VirtualClock,
    random: RefCell<StdRng>,
    cores: RefCell<Vec<Rc<Entry>>>,
    trace: Cell<u64>,
    steps: Cell<u64>,
    /// Steps since time moved.
    still: Cell<u64>,
    is_nested: Cell<bool>,
    /// How many calls that run the world or end its tasks there are on the stack.
    running: Cell<usize>,
    /// It ends when none is left.
    is_over: Cell<bool>,
}

thread_local! {
    /// The world that takes a step on this thread.
    static STEPPING: RefCell<Weak<Inner>> = const { RefCell::new(Weak::new()) };
}

impl World {
    /// A world without cores at time zero, whose choices follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with(WorldOptions::new(seed))
    }

    /// A world with other options.
    pub fn with(options: WorldOptions) -> Self {
        let random = RefCell::new(StdRng::seed_from_u64(options.seed));
        let inner = Inner {
            options,
            clock: VirtualClock::default(),
            random,
            cores: RefCell::default(),
            trace: Cell::new(0),
            steps: Cell::new(0),
            still: Cell::new(0),
            is_nested: Cell::new(false),
            running: Cell::new(0),
            is_over: Cell::new(false),
        };
        Self { inner: Rc::new(inner) }
    }

    /// Adds a core. The name is for reports.
    ///
    /// # Panics
    ///
    /// With [`MAX_CORES`] already, or if the kernel gives no memory for the core's arena (2 MiB, touched with use).
    pub fn core(&self, name: &str) -> VirtualCore {
        self.inner.add(name)
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    /// The clock, for what takes one.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.inner.clock.clone())
    }

    /// The seed that every choice follows from.
    pub fn seed(&self) -> u64 {
        self.inner.options.seed
    }

    /// A number from the world's seed.
    pub fn random(&self) -> u64 {
        self.inner.random.borrow_mut().random()
    }

    /// A hash of every step so far: which core took it, what it was, and when. Two runs of one build from one seed have the same.
    pub fn trace(&self) -> u64 {
        self.inner.trace.get()
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.inner.steps.get()
    }

    /// Lets `duration` pass with everything that happens in it; the clock ends there.
    ///
    /// # Panics
    ///
    /// With the report of [`Stuck`] if a core sleeps through a wake or the world goes round in circles, and when called from inside a core.
    /// That every task waits for something that will never happen is no error here.
    pub fn run_for(&self, duration: Duration) {
        let end = self.now() + duration;
        if let Err(stuck) = self.inner.run_until(end) {
            panic!("{stuck}");
        }
    }
}

impl Drop for World {
    /// Ends every core, the first one first, also if a [`VirtualCore`] is left. If a task of its own drops it, that waits for the
    /// end of the `block_on` that runs the world.
    fn drop(&mut self) {
        let running = self.inner.run();
        self.inner.is_over.set(true);
        drop(running);
    }
}

impl VirtualCore {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// The time of its world.
    pub fn now(&self) -> Instant {
        self.world.clock.now()
    }

    /// The clock of its world, for what takes one.
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(self.world.clock.clone())
    }

    /// A number from the seed of its world.
    pub fn random(&self) -> u64 {
        self.world.random.borrow_mut().random()
    }

    /// Reaches it from the other cores.
    pub fn handle(&self) -> Handle {
        self.core.core.handle()
    }

    /// Starts a task on it, as [`rt::spawn`] does inside. `None`, and the future is dropped, if its world is gone.
    #[track_caller]
    pub fn spawn<F: Future + 'static>(&self, name: &'static str, future: F) -> Option<JoinHandle<F::Output>> {
        self.core.core.spawn(name, Location::caller(), future)
    }

    /// Runs `future` on this core, and the whole world with it, until it is done.
    ///
    /// # Panics
    ///
    /// As the future does; with the report of [`Stuck`] if it never will be done; when called from inside a core; and if the world is
    /// gone.
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
        assert!(!self.world.is_over.get(), "the world of this core is gone");
        let _running = self.world.run();
        let created_at = Location::caller();
        let step = |waits_for: Option<&'static str>| {
            let root = || Some((self.name().to_owned(), waits_for));
            match self.world.step(Instant::FAR_FUTURE) {
                Ok(Stepped::Did) => Ok(()),
                Ok(Stepped::Nothing) => Err(Stuck { root: root(), ..self.world.stuck(StuckKind::Deadlock) }),
                Err(stuck) => Err(Stuck { root: root(), ..stuck }),
            }
        };
        match self.core.core.block_on(created_at, future, step)? {
            Ok(output) => Ok(output),
            Err(JoinError::Panicked(payload)) => std::panic::resume_unwind(payload),
            Err(error) => unreachable!("nobody has the handle to cancel it: {error}"),
        }
    }

    /// Drops every task of the core where it stands, its timers and its messages, as the end of its process does. It then goes on
    /// with none.
    ///
    /// # Panics
    ///
    /// When called from inside a core.
    pub fn crash(&self) {
        assert!(!rt::is_in_core(), "a core is crashed from outside");
        let _running = self.world.run();
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

/// What came of an attempt to take a step.
enum Stepped {
    /// A core took a step, or time moved.
    Did,
    /// Nothing will happen any more until the time that was asked for.
    Nothing,
}

impl Inner {
    fn add(self: &Rc<Self>, name: &str) -> VirtualCore {
        let number = self.cores.borrow().len();
        assert!(number < MAX_CORES, "a world has {MAX_CORES} cores at most");
        let mut config = CoreConfig::new(Arc::new(self.clock.clone()), self.random.borrow_mut().random());
        config.arena_bytes = 2 << 20;
        // Time stands still in a poll.
        config.stall_after = Duration::MAX;
        let simulation = Simulation { between: between_steps, defect: self.options.defect };
        let core = match SteppedCore::new(&config, simulation) {
            Ok(core) => core,
            Err(error) => panic!("no memory for a core: {error}"),
        };
        let core = Rc::new(Entry { name: name.to_owned(), number: number as u64, core });
        self.cores.borrow_mut().push(Rc::clone(&core));
        VirtualCore { world: Rc::clone(self), core }
    }

    /// Takes steps until nothing is left to do up to `end`, where the clock then is.
    fn run_until(self: &Rc<Self>, end: Instant) -> std::result::Result<(), Stuck> {
        assert!(!rt::is_in_core(), "time passes outside of cores");
        let _running = self.run();
        while let Stepped::Did = self.step(end)? {}
        self.clock.move_to(end);
        self.still.set(0);
        Ok(())
    }

    /// Has a core take a step. If none can, lets time jump to the next deadline, unless that is after `end`.
    fn step(self: &Rc<Self>, end: Instant) -> std::result::Result<Stepped, Stuck> {
        let now = self.clock.now();
        let is_busy = |core: &SteppedCore| core.idle_until(now).is_err();
        let (busy, jobs) = (self.count(is_busy), self.count(SteppedCore::has_job));
        if busy + jobs > 0 {
            if self.still.get() >= self.options.most_steps {
                return Err(self.stuck(StuckKind::Livelock));
            }
            let _stepping = self.enter();
            let chosen = self.choose(busy + jobs);
            if let Some(entry) = self.nth(chosen, is_busy) {
                let stepped = self.take_step(&entry);
                return stepped.map(|()| Stepped::Did).map_err(|error| self.stuck(StuckKind::Failed(error)));
            }
            if let Some(entry) = self.nth(chosen - busy, SteppedCore::has_job) {
                self.do_job(&entry);
            }
            return Ok(Stepped::Did);
        }
        let (mut next, mut missed) = (None::<Instant>, false);
        for entry in self.cores.borrow().iter() {
            if let Ok(Some(until)) = entry.core.idle_until(now) {
                next = Some(next.map_or(until, |next| next.min(until)));
            }
            missed |= entry.core.missed_a_wake();
        }
        if missed {
            return Err(self.stuck(StuckKind::LostWake));
        }
        match next {
            Some(next) if next <= end => {
                self.clock.move_to(next);
                self.still.set(0);
                Ok(Stepped::Did)
            }
            _ => Ok(Stepped::Nothing),
        }
    }

    fn count(&self, which: impl Fn(&SteppedCore) -> bool) -> usize {
        self.cores.borrow().iter().filter(|entry| which(&entry.core)).count()
    }

    fn nth(&self, at: usize, which: impl Fn(&SteppedCore) -> bool) -> Option<Rc<Entry>> {
        self.cores.borrow().iter().filter(|entry| which(&entry.core)).nth(at).cloned()
    }

    fn choose(&self, count: usize) -> usize {
        if count > 1 { self.random.borrow_mut().random_range(0..count) } else { 0 }
    }

    fn take_step(&self, entry: &Entry) -> Result<()> {
        self.begin_step(entry, entry.core.stage() as u64);
        entry.core.step(&|count| self.noted_choice(count))
    }

    /// A thread of the core's blocking pool does a job.
    fn do_job(&self, entry: &Entry) {
        self.begin_step(entry, u64::MAX);
        entry.core.do_job(&|count| self.noted_choice(count));
    }

    fn begin_step(&self, entry: &Entry, what: u64) {
        self.steps.set(self.steps.get() + 1);
        self.still.set(self.still.get() + 1);
        self.note([entry.number, what, self.clock.now().as_nanos()]);
    }

    fn noted_choice(&self, count: usize) -> usize {
        let choice = self.choose(count);
        self.note([choice as u64, 0, 0]);
        choice
    }

    /// FNV-1a, a word at a time.
    fn note(&self, words: [u64; 3]) {
        let mut hash = self.trace.get();
        for word in words {
            hash = (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
        }
        self.trace.set(hash);
    }

    /// A core is between two steps of waking another: others may take steps of that protocol here.
    fn interleave(&self) {
        if self.is_nested.replace(true) {
            return;
        }
        for _ in 0..MOST_NESTED {
            let now = self.clock.now();
            let can_step = |core: &SteppedCore| core.can_step_alone(now);
            let count = self.count(can_step);
            if count == 0 || self.choose(2) == 0 {
                break;
            }
            let Some(entry) = self.nth(self.choose(count), can_step) else { break };
            // The steps that are taken here cannot fail: no poller is asked.
            drop(self.take_step(&entry));
        }
        self.is_nested.set(false);
    }

    /// While the result lives, the world does not end.
    fn run(self: &Rc<Self>) -> Running {
        self.running.set(self.running.get() + 1);
        Running(Rc::clone(self))
    }

    /// While the result lives, the wakers that are called on this thread can be preempted.
    fn enter(self: &Rc<Self>) -> Entered {
        Entered(STEPPING.replace(Rc::downgrade(self)))
    }

    fn stuck(&self, kind: StuckKind) -> Stuck {
        let dump = |entry: &Rc<Entry>| CoreDump {
            name: entry.name.clone(),
            stage: entry.core.stage(),
            tasks: entry.core.tasks(),
        };
        let cores = self.cores.borrow().iter().map(dump).collect();
        Stuck {
            kind,
            seed: self.options.seed,
            steps: self.steps.get(),
            now: self.clock.now(),
            root: None,
            cores,
        }
    }
}

/// The world is being run. With the last of these a world that is over ends.
struct Running(Rc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        let world = &self.0;
        if world.running.get() == 1 && world.is_over.get() {
            let cores = world.cores.take();
            for entry in &cores {
                entry.core.end();
            }
        }
        world.running.set(world.running.get() - 1);
    }
}

struct Entered(Weak<Inner>);

impl Drop for Entered {
    fn drop(&mut self) {
        STEPPING.replace(std::mem::take(&mut self.0));
    }
}

/// Called by wakers in the middle; on threads of no world too.
fn between_steps() {
    // Not while the thread's locals are destroyed.
    let world = STEPPING.try_with(|stepping| stepping.borrow().upgrade());
    if let Ok(Some(world)) = world {
        world.interleave();
    }
}

impl std::fmt::Debug for VirtualCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtualCore").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.options.seed)
            .field("now", &self.clock.now())
            .field("steps", &self.steps.get())
            .finish_non_exhaustive()
    }
}
