//! What the tasks of a core do: one operation after the other, each checked.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use boson::rt::{self, Handle, Instant};
use boson::sync::local::WaitGroup;
use boson::{Error, ErrorKind, Result};

use super::counts::Counts;
use super::data::{self, Key, KeyOrder, Values};
use super::engine::{Elsewhere, Engine, Store};
use super::progress::Progress;
use super::workload::{Kind, Plan, Population, Step, Steps};

/// After this many operations a task yields to the others, because what is in memory makes no task
/// wait.
const OPERATIONS_AT_ONCE: u32 = 16;
/// The version of the records that a load starts with. What overwrites them has larger ones.
const FIRST_VERSION: u64 = 1;

/// What a run does, on every core.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) plan: Plan,
    pub(super) values: Values,
    /// It ends after this time.
    pub(super) time: Option<Duration>,
    pub(super) progress: Arc<Progress>,
}

/// What the tasks of a core share.
struct Job<E> {
    engine: E,
    work: Work,
    order: KeyOrder,
    population: Arc<Population>,
    until: Option<Instant>,
    counts: RefCell<Counts>,
    version: Cell<u64>,
    checkpoint_under_way: Arc<AtomicBool>,
    failure: RefCell<Option<Error>>,
}

impl<E: Engine> Job<E> {
    fn new(
        engine: E,
        work: &Work,
        population: &Arc<Population>,
        checkpoint_under_way: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            engine,
            work: work.clone(),
            order: work.plan.workload.key_order(),
            population: Arc::clone(population),
            until: work.time.map(|time| rt::now() + time),
            counts: RefCell::default(),
            version: Cell::new(FIRST_VERSION),
            checkpoint_under_way: Arc::clone(checkpoint_under_way),
            failure: RefCell::default(),
        }
    }

    /// Does its share of the work; what it counted.
    async fn run(self, share: Vec<Steps>) -> Result<Counts> {
        let job = Rc::new(self);
        let group = WaitGroup::new();
        for steps in share {
            let (job, token) = (Rc::clone(&job), group.token());
            rt::named("bench store")
                .spawn(async move {
                    let _token = token;
                    if let Err(error) = job.work(steps).await {
                        job.failure.borrow_mut().get_or_insert(error);
                        job.work.progress.stop();
                    }
                })
                .detach();
        }
        group.wait().await;
        let Some(job) = Rc::into_inner(job) else {
            return Err(Error::new(ErrorKind::Panicked, "bench store").because("a task of it panicked"));
        };
        match job.failure.into_inner() {
            Some(failure) => Err(failure),
            None => Ok(job.counts.into_inner()),
        }
    }
}

/// Does `work` to its end, or until its progress is stopped, on this core and on `others`, which
/// share its tasks: what was counted, and how long it took. With `checkpoints` one follows the
/// other all the while.
pub(super) async fn run(
    store: &Store,
    others: Vec<(Handle, Elsewhere)>,
    work: &Work,
    checkpoints: bool,
) -> Result<(Counts, Duration)> {
    let plan = &work.plan;
    let population = Arc::new(Population::new(if plan.workload.fills() { 0 } else { plan.records }));
    let checkpoint_under_way = Arc::new(AtomicBool::new(false));
    let cores = others.len() + 1;
    let mut shares: Vec<Vec<Steps>> = (0..cores).map(|_| Vec::new()).collect();
    for (task, steps) in Steps::of_all(plan, &population).into_iter().enumerate() {
        shares[task % cores].push(steps);
    }
    let own = shares.remove(0);
    // All are there before the first begins.
    let mut ready = Vec::new();
    for (handle, elsewhere) in others {
        let attached = rt::named("bench attach").spawn_on(&handle, move || async move {
            ATTACHED.set(Some(elsewhere.attach().await?));
            Ok::<_, Error>(())
        });
        attached.await??;
        ready.push(handle);
    }
    let began = rt::now();
    let mut running = Vec::new();
    for (handle, share) in ready.into_iter().zip(shares) {
        let (work, population, checkpoints) =
            (work.clone(), Arc::clone(&population), Arc::clone(&checkpoint_under_way));
        running.push(rt::named("bench core").spawn_on(&handle, move || async move {
            let store = ATTACHED.take().expect("it was attached");
            let counts = Job::new(store.clone(), &work, &population, &checkpoints).run(share).await;
            store.detach().await.and(counts)
        }));
    }
    let checkpointing = checkpoints.then(|| {
        let (store, under_way) = (store.clone(), Arc::clone(&checkpoint_under_way));
        let ended = Rc::new(Cell::new(false));
        let of_task = Rc::clone(&ended);
        let taking = rt::named("bench checkpoints")
            .spawn(async move { take_checkpoints(&store, &under_way, &of_task).await });
        (taking, ended)
    });
    let mut counts = Job::new(store.clone(), work, &population, &checkpoint_under_way).run(own).await;
    for other in running {
        let other = other.await.unwrap_or_else(|error| Err(error.into()));
        counts = counts.and_then(|mut counts| {
            counts.merge(other?);
            Ok(counts)
        });
    }
    let measured = rt::now().saturating_since(began);
    if let Some((taking, ended)) = checkpointing {
        ended.set(true);
        taking.await??;
    }
    Ok((counts?, measured))
}

thread_local! {
    /// What a further core has of the store before it begins.
    static ATTACHED: RefCell<Option<Store>> = const { RefCell::new(None) };
}

async fn take_checkpoints(store: &Store, under_way: &AtomicBool, ended: &Cell<bool>) -> Result<()> {
    /// So long nothing is under way, for comparison.
    const PAUSE: Duration = Duration::from_millis(500);
    while !ended.get() {
        rt::sleep(PAUSE).await;
        under_way.store(true, Ordering::Relaxed);
        store.checkpoint().await?;
        under_way.store(false, Ordering::Relaxed);
    }
    Ok(())
}

impl<E: Engine> Job<E> {
    async fn work(&self, mut steps: Steps) -> Result<()> {
        let mut value = Vec::new();
        let mut pairs = Vec::new();
        let mut until_turn = OPERATIONS_AT_ONCE;
        let mut now = rt::now();
        while !self.work.progress.is_stopped() && self.until.is_none_or(|until| now < until) {
            let Some(step) = steps.next() else { break };
            let began = now;
            let before = self.checkpoint_under_way.load(Ordering::Relaxed);
            let records = self.operate(step, &mut value, &mut pairs).await?;
            now = rt::now();
            let during = before || self.checkpoint_under_way.load(Ordering::Relaxed);
            let nanos = u64::try_from(now.saturating_since(began).as_nanos()).unwrap_or(u64::MAX);
            self.counts.borrow_mut().count(step, records, nanos, during, &self.work.values);
            self.work.progress.add(records);
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
        let (engine, values) = (&self.engine, &self.work.values);
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
                if step.kind == Kind::Insert && !self.work.plan.workload.fills() {
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
            counts.check(step, Some(self.work.values.check(found_key, value)));
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
