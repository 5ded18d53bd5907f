//! What the tasks of a core do: one operation after the other, each checked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use boson::rt::{self, Instant};
use boson::sync::local::WaitGroup;
use boson::{Error, ErrorKind, Result};

use super::counts::Counts;
use super::data::{self, Key, KeyOrder, Values};
use super::engine::Engine;
use super::progress::Progress;
use super::workload::{Kind, Plan, Population, Step, Steps};

/// After this many operations a task yields to the others, because what is in memory makes no task
/// wait.
const OPERATIONS_AT_ONCE: u32 = 16;
/// The version of the records that a load starts with. What overwrites them has larger ones.
const FIRST_VERSION: u64 = 1;

/// What the tasks of a run share.
struct Job<E> {
    engine: E,
    plan: Plan,
    values: Values,
    order: KeyOrder,
    population: Arc<Population>,
    progress: Rc<Progress>,
    until: Option<Instant>,
    counts: RefCell<Counts>,
    version: Cell<u64>,
    checkpoint_under_way: Cell<bool>,
    failure: RefCell<Option<Error>>,
}

/// Runs `plan` to its end, or until `progress` is stopped, or for `time`: what was counted, and how
/// long it took. With `checkpoints` one follows the other all the while.
pub(super) async fn run<E: Engine>(
    engine: &E,
    plan: &Plan,
    values: Values,
    time: Option<Duration>,
    checkpoints: bool,
    progress: &Rc<Progress>,
) -> Result<(Counts, Duration)> {
    let population = Arc::new(Population::new(if plan.workload.fills() { 0 } else { plan.records }));
    let tasks = Steps::of_all(plan, &population);
    let began = rt::now();
    let job = Rc::new(Job {
        engine: engine.clone(),
        plan: *plan,
        values,
        order: plan.workload.key_order(),
        population,
        progress: Rc::clone(progress),
        until: time.map(|time| began + time),
        counts: RefCell::default(),
        version: Cell::new(FIRST_VERSION),
        checkpoint_under_way: Cell::new(false),
        failure: RefCell::default(),
    });
    let (group, checkpointing) = (WaitGroup::new(), WaitGroup::new());
    let ended = Rc::new(Cell::new(false));
    for steps in tasks {
        let (job, token) = (Rc::clone(&job), group.token());
        rt::named("bench store")
            .spawn(async move {
                let _token = token;
                if let Err(error) = job.work(steps).await {
                    job.failure.borrow_mut().get_or_insert(error);
                    job.progress.stop();
                }
            })
            .detach();
    }
    if checkpoints {
        let (job, token, ended) = (Rc::clone(&job), checkpointing.token(), Rc::clone(&ended));
        rt::named("bench checkpoints")
            .spawn(async move {
                let _token = token;
                if let Err(error) = job.take_checkpoints(&ended).await {
                    job.failure.borrow_mut().get_or_insert(error);
                    job.progress.stop();
                }
            })
            .detach();
    }
    group.wait().await;
    let measured = rt::now().saturating_since(began);
    ended.set(true);
    checkpointing.wait().await;
    let Some(job) = Rc::into_inner(job) else {
        return Err(Error::new(ErrorKind::Panicked, "bench store").because("a task of it panicked"));
    };
    match job.failure.into_inner() {
        Some(failure) => Err(failure),
        None => Ok((job.counts.into_inner(), measured)),
    }
}

impl<E: Engine> Job<E> {
    async fn take_checkpoints(&self, ended: &Cell<bool>) -> Result<()> {
        /// So long nothing is under way, for comparison.
        const PAUSE: Duration = Duration::from_millis(500);
        while !ended.get() {
            rt::sleep(PAUSE).await;
            self.checkpoint_under_way.set(true);
            self.engine.checkpoint().await?;
            self.checkpoint_under_way.set(false);
        }
        Ok(())
    }

    async fn work(&self, mut steps: Steps) -> Result<()> {
        let mut value = Vec::new();
        let mut pairs = Vec::new();
        let mut until_turn = OPERATIONS_AT_ONCE;
        let mut now = rt::now();
        while !self.progress.is_stopped() && self.until.is_none_or(|until| now < until) {
            let Some(step) = steps.next() else { break };
            let began = now;
            let before = self.checkpoint_under_way.get();
            let records = self.operate(step, &mut value, &mut pairs).await?;
            now = rt::now();
            let during = before || self.checkpoint_under_way.get();
            let nanos = u64::try_from(now.saturating_since(began).as_nanos()).unwrap_or(u64::MAX);
            self.counts.borrow_mut().count(step, records, nanos, during, &self.values);
            self.progress.add(records);
            until_turn -= 1;
            if until_turn == 0 {
                until_turn = OPERATIONS_AT_ONCE;
                rt::yield_now().await;
                // The others' turn is no part of the next operation.
                now = rt::now();
            }
        }
        Ok(())
    }

    /// Carries `step` out; returns how many records it had.
    async fn operate(&self, step: Step, value: &mut Vec<u8>, pairs: &mut Vec<(Key, Vec<u8>)>) -> Result<u64> {
        let (engine, values) = (&self.engine, &self.values);
        let key = data::key(step.number, self.order);
        match step.kind {
            Kind::Read | Kind::Missing => {
                let found = engine.read(&key, |value| values.check(&key, value)).await?;
                self.counts.borrow_mut().check(step, found);
            }
            Kind::Update | Kind::Insert if step.length > 1 => {
                let version = self.next_version();
                pairs.resize_with(usize::try_from(step.length).unwrap_or(usize::MAX), Default::default);
                for ((key, value), number) in pairs.iter_mut().zip(step.number..) {
                    *key = data::key(number, self.order);
                    values.fill(key, version, value);
                }
                engine.put_all(pairs).await?;
                return Ok(step.length);
            }
            Kind::Update | Kind::Insert => {
                values.fill(&key, self.next_version(), value);
                engine.put(&key, value).await?;
                if step.kind == Kind::Insert && !self.plan.workload.fills() {
                    self.population.inserted(step.number);
                }
            }
            Kind::Modify => {
                let version = self.next_version();
                let modify = |old: Option<&[u8]>, new: &mut Vec<u8>| {
                    values.fill(&key, version, new);
                    old.map(|value| values.check(&key, value))
                };
                let found = engine.modify(&key, modify).await?;
                self.counts.borrow_mut().check(step, found);
            }
            Kind::Delete => {
                if !engine.delete(&key).await? {
                    self.counts.borrow_mut().check(Step { kind: Kind::Read, ..step }, None);
                }
            }
            Kind::Scan | Kind::Seek => return self.scan(step, key).await,
        }
        Ok(1)
    }

    async fn scan(&self, step: Step, key: Key) -> Result<u64> {
        let mut before = key.to_vec();
        let mut found = 0;
        let each = |found_key: &[u8], value: &[u8]| {
            let mut counts = self.counts.borrow_mut();
            counts.check(step, Some(self.values.check(found_key, value)));
            // The first may be the very key; each of the others comes after the one before it.
            if found_key < &before[..] || (found > 0 && found_key == before) {
                counts.tell(format!("a scan from record {} is out of order", step.number));
            }
            found += 1;
            before.clear();
            before.extend_from_slice(found_key);
        };
        let records = self.engine.scan(&key, step.length, each).await?;
        if step.kind == Kind::Scan && records == 0 {
            self.counts.borrow_mut().check(Step { kind: Kind::Read, ..step }, None);
        }
        Ok(records)
    }

    fn next_version(&self) -> u64 {
        self.version.set(self.version.get() + 1);
        self.version.get()
    }
}
