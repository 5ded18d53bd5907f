//! Whose step is next: what drives the cores of a world.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::clock::VirtualClock;
use super::stuck::{CoreDump, Stuck, StuckKind};
use super::world::{MAX_CORES, WorldOptions};
use crate::error::Result;
use crate::rt::time::Clock;
use crate::rt::{self, CoreConfig, Instant, Simulation, SteppedCore};

/// Steps that are taken at most in the middle of another core's.
const MOST_NESTED: usize = 16;
/// What a virtual core has for buffers; touched with use.
const ARENA_BYTES: usize = 2 << 20;

pub(super) struct CoreEntry {
    pub(super) name: String,
    number: u64,
    pub(super) core: SteppedCore,
}

pub(super) struct Driver {
    pub(super) options: WorldOptions,
    pub(super) clock: VirtualClock,
    random: RefCell<StdRng>,
    cores: RefCell<Vec<Rc<CoreEntry>>>,
    trace: Cell<u64>,
    steps: Cell<u64>,
    /// Steps since time moved.
    still: Cell<u64>,
    /// A core takes a step in the middle of another one's.
    is_nested: Cell<bool>,
    /// How many calls that run the world or end its tasks there are on the stack.
    running: Cell<usize>,
    /// It ends when none is left.
    is_over: Cell<bool>,
}

thread_local! {
    /// The world that takes a step on this thread.
    static STEPPING: RefCell<Weak<Driver>> = const { RefCell::new(Weak::new()) };
}

/// What came of an attempt to take a step.
pub(super) enum Stepped {
    /// A core took a step, or time moved.
    Did,
    /// Nothing will happen any more until the time that was asked for.
    Nothing,
}

impl Driver {
    pub(super) fn new(options: WorldOptions) -> Self {
        Self {
            random: RefCell::new(StdRng::seed_from_u64(options.seed)),
            options,
            clock: VirtualClock::default(),
            cores: RefCell::default(),
            trace: Cell::new(0),
            steps: Cell::new(0),
            still: Cell::new(0),
            is_nested: Cell::new(false),
            running: Cell::new(0),
            is_over: Cell::new(false),
        }
    }

    pub(super) fn random(&self) -> u64 {
        self.random.borrow_mut().random()
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.get()
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.get() > 0
    }

    /// Ends every core, the first one first, when nothing runs the world any more.
    pub(super) fn end(self: &Rc<Self>) {
        let running = self.run();
        self.is_over.set(true);
        drop(running);
    }

    pub(super) fn add(&self, name: &str) -> Rc<CoreEntry> {
        let number = self.cores.borrow().len();
        assert!(number < MAX_CORES, "a world has {MAX_CORES} cores at most");
        let config = CoreConfig::default()
            .clock(Arc::new(self.clock.clone()))
            .seed(self.random.borrow_mut().random())
            .arena_bytes(ARENA_BYTES)
            // Time stands still in a poll.
            .stall_after(Duration::MAX);
        let simulation = Simulation { between: between_steps, defect: self.options.defect };
        let core = match SteppedCore::new(&config, simulation) {
            Ok(core) => core,
            Err(error) => panic!("no memory for a core: {error}"),
        };
        let entry = Rc::new(CoreEntry { name: name.to_owned(), number: number as u64, core });
        self.cores.borrow_mut().push(Rc::clone(&entry));
        entry
    }

    /// Takes steps until nothing is left to do up to `end`, where the clock then is.
    pub(super) fn run_until(self: &Rc<Self>, end: Instant) -> std::result::Result<(), Stuck> {
        assert!(!rt::is_in_core(), "time passes outside of cores");
        let _running = self.run();
        while let Stepped::Did = self.step(end)? {}
        self.clock.move_to(end);
        self.still.set(0);
        Ok(())
    }

    /// Has a core take a step. If none can, lets time jump to the next deadline, unless that is
    /// after `end`.
    pub(super) fn step(self: &Rc<Self>, end: Instant) -> std::result::Result<Stepped, Stuck> {
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

    fn nth(&self, at: usize, which: impl Fn(&SteppedCore) -> bool) -> Option<Rc<CoreEntry>> {
        self.cores.borrow().iter().filter(|entry| which(&entry.core)).nth(at).cloned()
    }

    fn choose(&self, count: usize) -> usize {
        if count > 1 { self.random.borrow_mut().random_range(0..count) } else { 0 }
    }

    fn take_step(&self, entry: &CoreEntry) -> Result<()> {
        self.begin_step(entry, entry.core.stage() as u64);
        entry.core.step(&|count| self.noted_choice(count))
    }

    /// A thread of the core's blocking pool does a job.
    fn do_job(&self, entry: &CoreEntry) {
        self.begin_step(entry, u64::MAX);
        entry.core.do_job(&|count| self.noted_choice(count));
    }

    fn begin_step(&self, entry: &CoreEntry, what: u64) {
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
    pub(super) fn run(self: &Rc<Self>) -> Running {
        self.running.set(self.running.get() + 1);
        Running(Rc::clone(self))
    }

    /// While the result lives, the wakers that are called on this thread can be preempted.
    fn enter(self: &Rc<Self>) -> Entered {
        Entered(STEPPING.replace(Rc::downgrade(self)))
    }

    pub(super) fn stuck(&self, kind: StuckKind) -> Stuck {
        let dump = |entry: &Rc<CoreEntry>| CoreDump {
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
pub(super) struct Running(Rc<Driver>);

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

struct Entered(Weak<Driver>);

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

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.options.seed)
            .field("now", &self.clock.now())
            .field("steps", &self.steps.get())
            .finish_non_exhaustive()
    }
}
