//! What one core does: as many operations at once as were asked for, one after the other in each of
//! its tasks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use boson::block::{AnyDevice, AnyNamespace, Device, Namespace};
use boson::mem::DmaBuf;
use boson::observe::Histogram;
use boson::rt::{self, Handle, Instant, RemoteJoin};
use boson::sync::local::WaitGroup;
use boson::thread;
use boson::{Error, ErrorKind, Result};

use super::Style;
use super::load::{Plan, Step, Steps};
use super::pattern::{self, Found};
use super::progress::Progress;

/// A core tells how many operations it did each time that it did this many.
const TELL_EVERY: u64 = 64;
/// How many wrong blocks are told one by one.
const MAX_TOLD: usize = 10;

/// What was done in the measured time.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) reads: Side,
    pub(super) writes: Side,
    /// The longest measured time of a core, in nanoseconds.
    pub(super) measured_nanos: u64,
    /// Blocks that were checked, and those of them that were never written.
    pub(super) checked: u64,
    pub(super) empty: u64,
    wrong: u64,
    told: Vec<String>,
    failure: Option<Error>,
}

#[derive(Debug, Default)]
pub(super) struct Side {
    pub(super) operations: u64,
    pub(super) latency: Histogram,
    pub(super) min_nanos: Option<u64>,
}

impl Side {
    fn record(&mut self, nanos: u64) {
        self.latency.record(nanos);
        self.min_nanos = Some(self.min_nanos.map_or(nanos, |min| min.min(nanos)));
    }

    fn merge(&mut self, other: &Self) {
        self.operations += other.operations;
        self.latency.merge(&other.latency);
        self.min_nanos = self.min_nanos.into_iter().chain(other.min_nanos).min();
    }
}

impl Counts {
    pub(super) fn merge(&mut self, other: Self) {
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.measured_nanos = self.measured_nanos.max(other.measured_nanos);
        self.checked += other.checked;
        self.empty += other.empty;
        self.wrong += other.wrong;
        self.told.extend(other.told);
        self.failure = self.failure.take().or(other.failure);
    }

    /// The `errno` code for what was wrong, as fio has it: 0 if nothing was.
    pub(super) fn error_code(&self) -> i32 {
        match &self.failure {
            Some(failure) => failure.code().unwrap_or(libc::EIO),
            None if self.wrong > 0 => libc::EILSEQ,
            None => 0,
        }
    }

    /// # Errors
    ///
    /// The first operation that failed, or what was wrong with the blocks that were read.
    pub(super) fn verdict(self, namespace: &str) -> Result<()> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.wrong == 0 {
            return Ok(());
        }
        let mut told = self.told;
        told.truncate(MAX_TOLD);
        Err(Error::new(ErrorKind::Corrupt, "verify").at(namespace.to_owned()).because(format!(
            "{} of {} blocks are wrong: {}",
            self.wrong,
            self.checked,
            told.join("; ")
        )))
    }
}

/// Starts `core`'s part of `plan`.
pub(super) fn start(
    core: &Handle,
    device: AnyDevice,
    plan: Plan,
    number: u64,
    progress: Arc<Progress>,
) -> RemoteJoin<Result<Counts>> {
    rt::named("bench").spawn_on(core, move || async move {
        // Also if it panics: whoever shows progress waits for it.
        let _over = CoreIsOver(&progress);
        let job = (plan, number, &progress);
        // Of those whose software counts most, the kind is known when this is compiled.
        match device.attach().await? {
            AnyNamespace::Nvme(namespace) => Job::run(namespace, job).await,
            #[cfg(feature = "spdk")]
            AnyNamespace::Spdk(namespace) => Job::run(namespace, job).await,
            namespace => Job::run(namespace, job).await,
        }
    })
}

struct CoreIsOver<'a>(&'a Progress);

impl Drop for CoreIsOver<'_> {
    fn drop(&mut self) {
        self.0.core_is_over();
    }
}

struct Job<N> {
    namespace: N,
    steps: Steps,
    plan: Plan,
    /// Where the core's blocks begin, in bytes.
    base: u64,
    progress: Arc<Progress>,
    measure_from: Instant,
    until: Instant,
    counts: RefCell<Counts>,
    told: Cell<u64>,
    ended: Cell<bool>,
    verified: Option<RefCell<Verified>>,
}

/// What is known of each block: the number of its last write that completed, and whether an
/// operation on it is under way.
struct Verified {
    blocks: Vec<(u32, bool)>,
    writes: u32,
}

impl<N: Namespace> Job<N> {
    async fn run(namespace: N, (plan, number, progress): (Plan, u64, &Arc<Progress>)) -> Result<Counts> {
        let now = rt::now();
        let blocks = usize::try_from(plan.blocks).unwrap_or(usize::MAX);
        let job = Rc::new(Self {
            namespace,
            steps: Steps::new(&plan, number),
            base: number * plan.blocks * plan.block_bytes,
            progress: Arc::clone(progress),
            measure_from: now + plan.warm_up,
            until: now + plan.warm_up + plan.time,
            counts: RefCell::default(),
            told: Cell::new(0),
            ended: Cell::new(false),
            verified: plan
                .verify
                .then(|| RefCell::new(Verified { blocks: vec![(0, false); blocks], writes: 0 })),
            plan,
        });
        let group = WaitGroup::new();
        for _ in 0..job.plan.depth {
            let (token, job) = (group.token(), Rc::clone(&job));
            match job.plan.style {
                Style::Async => drop(rt::named("operations").spawn(async move {
                    job.work().await;
                    // After the job, which the waiter wants for itself.
                    drop((job, token));
                })),
                Style::Coroutine => {
                    let builder = thread::Builder::new().name("operations".to_owned());
                    let work = move || {
                        boson::wait(job.work());
                        drop((job, token));
                    };
                    builder.spawn(work).map_err(|error| Error::io(error, "spawn a coroutine"))?.detach();
                }
            }
        }
        group.wait().await;
        let now = rt::now();
        let ended = if job.plan.is_one_pass() { now } else { now.min(job.until) };
        let Some(job) = Rc::into_inner(job) else {
            return Err(Error::new(ErrorKind::Panicked, "bench block").because("a task of it panicked"));
        };
        let mut counts = job.counts.into_inner();
        let measured = ended.saturating_since(job.measure_from);
        counts.measured_nanos = u64::try_from(measured.as_nanos()).unwrap_or(u64::MAX);
        Ok(counts)
    }

    /// One operation after the other, until the time is up.
    async fn work(&self) {
        let bytes = usize::try_from(self.plan.block_bytes).unwrap_or(usize::MAX);
        // One to read into, one to write from: what a device compresses, or finds to be zeros, it
        // writes faster than data.
        let mut read_into = self.plan.load.reads().then(|| rt::arena().alloc(bytes));
        let mut write_from = self.plan.load.writes().then(|| {
            let mut buf = rt::arena().alloc(bytes);
            pattern::fill(&mut buf, rt::now().as_nanos(), self.plan.seed);
            buf
        });
        let time_every = self.plan.time_every;
        let mut until_timed = time_every;
        let mut now = rt::now();
        while !self.is_over(now) {
            let Some(step) = self.steps.next() else {
                self.ended.set(true);
                break;
            };
            let place = if step.is_read { &mut read_into } else { &mut write_from };
            let Some(buf) = place.take() else { break };
            until_timed -= 1;
            let is_timed = until_timed == 0;
            if is_timed && time_every > 1 {
                now = rt::now();
            }
            let began = now;
            let failed = match self.verified.as_ref() {
                // The most frequent load, without a future around the one of the read.
                None if step.is_read => match self.namespace.read(self.offset(step.block), buf).await {
                    Ok(buf) => given_back(place, buf),
                    Err(error) => Some(error.into()),
                },
                None => match self.transfer(step, buf).await {
                    Ok(buf) => given_back(place, buf),
                    Err(error) => Some(error),
                },
                Some(verified) => match self.transfer_verified(verified, step, buf).await {
                    Ok(buf) => given_back(place, buf),
                    Err(error) => Some(error),
                },
            };
            if let Some(error) = failed {
                self.ended.set(true);
                self.counts.borrow_mut().failure.get_or_insert(error);
                break;
            }
            if is_timed {
                until_timed = time_every;
                now = rt::now();
            } else {
                now = rt::time::coarse_now();
            }
            self.count(step, began, now, is_timed);
            if self.told.get() == 0 {
                // Memory is never waited for: the others, and the core, want their turn.
                rt::yield_now().await;
            }
        }
        self.progress.add(self.told.take());
    }

    fn is_over(&self, now: Instant) -> bool {
        let is_late = now >= self.until && !self.plan.is_one_pass();
        is_late || self.ended.get() || self.progress.is_stopped()
    }

    /// One operation more, between these times as the clock was last read.
    fn count(&self, step: Step, began: Instant, ended: Instant, is_timed: bool) {
        let told = self.told.get() + 1;
        self.told.set(told);
        if told == TELL_EVERY {
            self.progress.add(self.told.take());
        }
        if began < self.measure_from || (ended > self.until && !self.plan.is_one_pass()) {
            return;
        }
        let mut counts = self.counts.borrow_mut();
        let side = if step.is_read { &mut counts.reads } else { &mut counts.writes };
        side.operations += 1;
        if is_timed {
            side.record(u64::try_from(ended.saturating_since(began).as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn offset(&self, block: u64) -> u64 {
        self.base + block * self.plan.block_bytes
    }

    async fn transfer(&self, step: Step, buf: DmaBuf) -> Result<DmaBuf> {
        let offset = self.offset(step.block);
        let done = if step.is_read {
            self.namespace.read(offset, buf).await
        } else if self.plan.durable {
            self.namespace.write_durable(offset, buf).await
        } else {
            self.namespace.write(offset, buf).await
        };
        done.map_err(Error::from)
    }

    /// The same with a block that nobody else is at, which is filled or checked.
    async fn transfer_verified(
        &self,
        verified: &RefCell<Verified>,
        step: Step,
        mut buf: DmaBuf,
    ) -> Result<DmaBuf> {
        let Some((block, newest, number)) = verified.borrow_mut().take(step) else {
            // Others are at all of them.
            rt::yield_now().await;
            return Ok(buf);
        };
        let step = Step { block, ..step };
        let offset = self.offset(block);
        if !step.is_read {
            pattern::fill(&mut buf, offset, self.generation(number));
        }
        let buf = self.transfer(step, buf).await?;
        verified.borrow_mut().give_back(block, (!step.is_read).then_some(number));
        if step.is_read {
            self.check(&buf, offset, newest);
        }
        Ok(buf)
    }

    /// The generation of the write with this number.
    fn generation(&self, number: u32) -> u64 {
        self.plan.seed << 32 | u64::from(number)
    }

    fn check(&self, block: &[u8], offset: u64, newest: u32) {
        let mut counts = self.counts.borrow_mut();
        counts.checked += 1;
        let found = pattern::check(block, offset);
        let wrong = match found {
            Found::Wrong(why) => why,
            Found::Empty if newest == 0 => {
                counts.empty += 1;
                return;
            }
            Found::Written(generation) if newest == 0 || generation == self.generation(newest) => return,
            Found::Empty | Found::Written(_) => "a completed write to it is lost",
        };
        counts.wrong += 1;
        if counts.told.len() < MAX_TOLD {
            counts.told.push(format!("at {offset} {wrong}"));
        }
    }
}

/// Puts a buffer back to its place. No error is left over.
fn given_back(place: &mut Option<DmaBuf>, buf: DmaBuf) -> Option<Error> {
    *place = Some(buf);
    None
}

impl Verified {
    /// Takes the block of `step`, or the next one that nobody is at: it, the number of its newest
    /// write, and the number of this one if it is a write.
    fn take(&mut self, step: Step) -> Option<(u64, u32, u32)> {
        let first = usize::try_from(step.block).expect("as many blocks as the list has");
        let (before, after) = self.blocks.split_at(first);
        let free = after.iter().chain(before).position(|(_, busy)| !busy)?;
        let at = (first + free) % self.blocks.len();
        let (newest, busy) = &mut self.blocks[at];
        *busy = true;
        if !step.is_read {
            self.writes += 1;
        }
        Some((at as u64, *newest, self.writes))
    }

    /// The operation on `block` completed; a write has the number `written`.
    fn give_back(&mut self, block: u64, written: Option<u32>) {
        let block = &mut self.blocks[usize::try_from(block).expect("it was taken")];
        block.1 = false;
        if let Some(number) = written {
            block.0 = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_somebody_is_at_is_passed_over() {
        let mut verified = Verified { blocks: vec![(0, false); 3], writes: 0 };
        let write = |block| Step { is_read: false, block };
        assert_eq!(verified.take(write(2)), Some((2, 0, 1)));
        assert_eq!(verified.take(write(2)), Some((0, 0, 2)));
        assert_eq!(verified.take(Step { is_read: true, block: 0 }), Some((1, 0, 2)));
        assert_eq!(verified.take(write(1)), None);
        verified.give_back(2, Some(1));
        assert_eq!(verified.take(write(0)), Some((2, 1, 3)));
    }
}
