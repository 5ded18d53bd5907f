//! What each thread does: one operation after the other, each checked, as the tasks of `boson bench
//! store` do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::counts::Counts;
use super::data::{self, Key, KeyOrder, Values};
use super::engine::{Engine, Result};
use super::workload::{Kind, Plan, Population, Step, Steps};

/// The version of the records that a load starts with. What overwrites them has larger ones.
const FIRST_VERSION: u64 = 1;
/// Between two checkpoints nothing is under way for so long, for comparison.
const PAUSE: Duration = Duration::from_millis(500);

struct Job<'a> {
    engine: &'a dyn Engine,
    plan: Plan,
    values: Values,
    order: KeyOrder,
    population: &'a Population,
    until: Option<Instant>,
    version: AtomicU64,
    stopped: AtomicBool,
    checkpoint_under_way: AtomicBool,
}

/// Runs `plan` to its end or for `time`: what was counted, and how long it took.
pub fn run(
    engine: &Arc<dyn Engine>,
    plan: &Plan,
    values: Values,
    time: Option<Duration>,
    checkpoints: bool,
) -> Result<(Counts, Duration)> {
    let population = Arc::new(Population::new(if plan.workload.fills() { 0 } else { plan.records }));
    let tasks = Steps::of_all(plan, &population);
    let began = Instant::now();
    let job = Job {
        engine: &**engine,
        plan: *plan,
        values,
        order: plan.workload.key_order(),
        population: &population,
        until: time.map(|time| began + time),
        version: AtomicU64::new(FIRST_VERSION),
        stopped: AtomicBool::new(false),
        checkpoint_under_way: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = tasks.into_iter().map(|steps| scope.spawn(|| job.work(steps))).collect();
        let ended = AtomicBool::new(false);
        let ended = &ended;
        let job = &job;
        std::thread::scope(|scope| {
            if checkpoints {
                scope.spawn(move || {
                    while !ended.load(Ordering::Relaxed) {
                        std::thread::sleep(PAUSE);
                        job.checkpoint_under_way.store(true, Ordering::Relaxed);
                        job.engine.settle().expect("a checkpoint of a store that works");
                        job.checkpoint_under_way.store(false, Ordering::Relaxed);
                    }
                });
            }
            let mut all = Counts::default();
            let mut failure = None;
            for thread in threads {
                match thread.join().expect("a thread that does not panic") {
                    Ok(counts) => all.merge(counts),
                    Err(error) => failure = Some(error),
                }
            }
            let measured = began.elapsed();
            ended.store(true, Ordering::Relaxed);
            failure.map_or(Ok((all, measured)), Err)
        })
    })
}

impl Job<'_> {
    fn work(&self, mut steps: Steps) -> Result<Counts> {
        let (mut counts, mut value, mut pairs) = (Counts::default(), Vec::new(), Vec::new());
        let mut now = Instant::now();
        while !self.stopped.load(Ordering::Relaxed) && self.until.is_none_or(|until| now < until) {
            let Some(step) = steps.next() else { break };
            let before = self.checkpoint_under_way.load(Ordering::Relaxed);
            let records = match self.operate(step, &mut value, &mut pairs, &mut counts) {
                Ok(records) => records,
                Err(error) => {
                    self.stopped.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            };
            let began = std::mem::replace(&mut now, Instant::now());
            let during = before || self.checkpoint_under_way.load(Ordering::Relaxed);
            counts.count(step, records, (now - began).as_nanos() as u64, during, &self.values);
        }
        Ok(counts)
    }

    fn operate(
        &self,
        step: Step,
        value: &mut Vec<u8>,
        pairs: &mut Vec<(Key, Vec<u8>)>,
        counts: &mut Counts,
    ) -> Result<u64> {
        let (engine, values) = (self.engine, &self.values);
        let key = data::key(step.number, self.order);
        match step.kind {
            Kind::Read | Kind::Missing => {
                let found = self.find(&key)?;
                counts.check(step, found);
            }
            Kind::Update | Kind::Insert if step.length > 1 => {
                let version = self.next_version();
                pairs.resize_with(step.length as usize, Default::default);
                for ((key, value), number) in pairs.iter_mut().zip(step.number..) {
                    *key = data::key(number, self.order);
                    values.fill(&*key, version, value);
                }
                engine.put_all(pairs)?;
                return Ok(step.length);
            }
            Kind::Update | Kind::Insert => {
                values.fill(&key, self.next_version(), value);
                engine.put(&key, value)?;
                if step.kind == Kind::Insert && !self.plan.workload.fills() {
                    self.population.inserted(step.number);
                }
            }
            Kind::Modify => {
                // A read and then a write, as in YCSB; boson does both in one step.
                let found = self.find(&key)?;
                counts.check(step, found);
                values.fill(&key, self.next_version(), value);
                engine.put(&key, value)?;
            }
            Kind::Delete => engine.delete(&key)?,
            Kind::Scan | Kind::Seek => return self.scan(step, key, counts),
        }
        Ok(1)
    }

    fn find(&self, key: &Key) -> Result<Option<std::result::Result<u64, &'static str>>> {
        let mut found = None;
        self.engine.read(key, &mut |value| found = Some(self.values.check(key, value)))?;
        Ok(found)
    }

    fn scan(&self, step: Step, key: Key, counts: &mut Counts) -> Result<u64> {
        let mut before = key.to_vec();
        let mut found = 0;
        let mut each = |found_key: &[u8], value: &[u8]| {
            counts.check(step, Some(self.values.check(found_key, value)));
            if found_key < &before[..] || (found > 0 && found_key == before) {
                counts.tell(format!("a scan from record {} is out of order", step.number));
            }
            found += 1;
            before.clear();
            before.extend_from_slice(found_key);
        };
        let records = self.engine.scan(&key, step.length, &mut each)?;
        if step.kind == Kind::Scan && records == 0 {
            counts.check(Step { kind: Kind::Read, ..step }, None);
        }
        Ok(records)
    }

    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::Relaxed) + 1
    }
}
