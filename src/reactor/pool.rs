//! Threads beside a core, for calls that block.
//!
//! Every core has a pool of its own: up to [`CoreConfig::offload_threads`](crate::rt::CoreConfig)
//! threads, which start as they are needed and end after ten idle seconds. They run on the CPUs
//! that the process was given, not on the core's, with all signals blocked, and are named after
//! what they run. Up to 1,024 jobs wait in the queue; later ones wait for room, in the order of
//! arrival.

mod thread;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use rustix::thread::CpuSet;
use tracing::warn;

use super::epoll::CallJob;
use crate::user_code::{contain, drop_contained, wake_all};

/// The most jobs that wait for a thread. Later submitters wait for room.
const QUEUE_LIMIT: usize = 1024;
/// A thread without work ends after this long.
const IDLE: Duration = Duration::from_secs(10);

/// A piece of work.
pub(crate) struct Job {
    /// What the thread is called while it runs the job.
    pub(crate) name: &'static str,
    pub(crate) work: Work,
}

/// What there is to do.
pub(crate) enum Work {
    Closure(Box<dyn FnOnce() + Send>),
    /// A system call of the reactor, which allocates nothing.
    Call(CallJob),
}

impl Work {
    fn run(self) {
        match self {
            Self::Closure(run) => run(),
            Self::Call(call) => call.run(),
        }
    }
}

/// Names a queued job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JobId(u64);

/// Somebody's place in the line of those who wait for room in the queue.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<u64>);

/// Why a job was not queued; it comes back.
pub(crate) enum Refused {
    /// There is no room. The waker is woken when there is; then submit again with the same place.
    Full(Job),
    /// The pool has no thread and got none, for the reason in the `errno`.
    NoThread(Job, i32),
}

/// The threads of one core that may block.
pub(crate) struct Pool {
    state: Mutex<PoolState>,
    /// A job was queued, or the pool closes.
    work: Condvar,
    max_threads: usize,
    /// Where the threads may run: the core's own thread may be pinned, and they inherit that.
    cpus: Option<CpuSet>,
}

#[derive(Default)]
struct PoolState {
    queue: VecDeque<(JobId, Job)>,
    /// Submitters that wait for room.
    waiting: VecDeque<(u64, Waker)>,
    /// Room that is kept for those who were woken and have not come back yet.
    granted: usize,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    next_id: u64,
    closed: bool,
}

impl PoolState {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The waker of somebody who waits for room.
    fn waker_of(&mut self, number: u64) -> Option<&mut Waker> {
        self.waiting.iter_mut().find(|(other, _)| *other == number).map(|(_, waker)| waker)
    }

    fn has_room(&self) -> bool {
        self.queue.len() + self.granted < QUEUE_LIMIT
    }

    /// Keeps free room for the first who waits, and returns its waker.
    #[must_use]
    fn grant(&mut self) -> Option<Waker> {
        if !self.has_room() {
            return None;
        }
        let (_, waker) = self.waiting.pop_front()?;
        self.granted += 1;
        Some(waker)
    }
}

impl Pool {
    /// A pool without threads yet. They may run on `cpus`; `None` leaves them where the submitting
    /// thread may run.
    pub(crate) fn new(max_threads: usize, cpus: Option<CpuSet>) -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), max_threads: max_threads.max(1), cpus }
    }

    /// A pool whose jobs somebody else does, one by one, with [`Pool::work_once`]: a simulation.
    pub(crate) fn without_threads() -> Self {
        Self { state: Mutex::default(), work: Condvar::new(), max_threads: 0, cpus: None }
    }

    /// Whether a job waits for a thread.
    pub(crate) fn has_work(&self) -> bool {
        !self.lock().queue.is_empty()
    }

    /// Does the job that was submitted after `choose` (of how many there are) others, on the
    /// calling thread.
    pub(crate) fn work_once(&self, choose: impl FnOnce(usize) -> usize) {
        let mut state = self.lock();
        let len = state.queue.len();
        let Some((_, job)) = (len > 0).then(|| choose(len)).and_then(|at| state.queue.remove(at)) else {
            return;
        };
        let next = state.grant();
        drop(state);
        do_job(job, next);
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // Nothing panics while it holds the lock: jobs, wakers and their destructors run without
        // it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `place` is in the line still, with `waker` from now on. If not, its turn to submit
    /// has come.
    pub(crate) fn is_in_line(&self, place: &Place, waker: &Waker) -> bool {
        let Some(number) = place.0 else { return false };
        match self.lock().waker_of(number) {
            None => return false,
            Some(current) if current.will_wake(waker) => return true,
            Some(_) => {}
        }
        // Cloned before the lock is taken again, and dropped after: wakers are user code.
        let mut kept = waker.clone();
        let mut state = self.lock();
        let current = state.waker_of(number);
        let is_in_line = current.is_some();
        if let Some(current) = current {
            std::mem::swap(current, &mut kept);
        }
        drop(state);
        drop(kept);
        is_in_line
    }

    /// Queues `job`. `place` is the submitter's own: new for its first try, and the same again
    /// after [`Refused::Full`].
    pub(crate) fn submit(
        self: &Arc<Self>,
        job: Job,
        place: &mut Place,
        waker: &Waker,
    ) -> Result<JobId, Refused> {
        // Cloned before the lock is taken, and dropped after: wakers are user code.
        let mut kept = Some(waker.clone());
        let mut state = self.lock();
        if state.closed {
            drop(state);
            return Err(Refused::NoThread(job, libc::ECANCELED));
        }
        match place.0 {
            Some(number) => {
                if let Some(current) = state.waker_of(number) {
                    kept = kept.map(|waker| std::mem::replace(current, waker));
                    drop(state);
                    drop(kept);
                    return Err(Refused::Full(job));
                }
                state.granted -= 1;
                place.0 = None;
            }
            None if state.has_room() && state.waiting.is_empty() => {}
            None => {
                let number = state.next_id();
                place.0 = Some(number);
                state.waiting.extend(kept.take().map(|waker| (number, waker)));
                return Err(Refused::Full(job));
            }
        }
        let id = JobId(state.next_id());
        state.queue.push_back((id, job));
        let wants_thread = state.idle < state.queue.len() && state.threads < self.max_threads;
        state.threads += usize::from(wants_thread);
        drop(state);
        self.work.notify_one();
        if wants_thread { self.start_thread(id) } else { Ok(id) }
    }

    /// Starts a thread that is counted already. If there is none at all, job `id` comes back.
    fn start_thread(self: &Arc<Self>, id: JobId) -> Result<JobId, Refused> {
        let pool = Arc::clone(self);
        let Err(error) = thread::spawn_without_signals("boson-offload", move || pool.work()) else {
            return Ok(id);
        };
        let mut state = self.lock();
        state.threads -= 1;
        let threads = state.threads;
        let refused = if threads == 0 { take(&mut state.queue, id) } else { None };
        drop(state);
        // Should it panic, the job would be lost.
        contain(|| warn!("a thread for blocking work cannot be started, {threads} go on: {error}"));
        match refused {
            Some(job) => Err(Refused::NoThread(job, error.raw_os_error().unwrap_or(libc::EAGAIN))),
            None => Ok(id),
        }
    }

    /// Gives up a place in the line.
    pub(crate) fn leave(&self, place: Place) {
        let Some(number) = place.0 else { return };
        let mut state = self.lock();
        let waiting = state.waiting.iter().position(|(other, _)| *other == number);
        let left = waiting.and_then(|at| state.waiting.remove(at));
        let next = if left.is_none() {
            // It was woken and does not come: the next one's turn.
            state.granted -= 1;
            state.grant()
        } else {
            None
        };
        drop(state);
        // Mostly in a destructor, which a panic may run: a second one would end the process.
        drop_contained(left);
        wake_all(next);
    }

    /// Takes a job back that no thread has begun.
    pub(crate) fn take_back(&self, id: JobId) -> Option<Job> {
        let mut state = self.lock();
        let job = take(&mut state.queue, id)?;
        let next = state.grant();
        drop(state);
        wake_all(next);
        Some(job)
    }

    /// Takes no more jobs. The threads end when they have done those that are queued.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        state.granted += waiting.len();
        drop(state);
        self.work.notify_all();
        wake_all(waiting.into_iter().map(|(_, waker)| waker));
    }

    /// What a thread does.
    fn work(&self) {
        if let Some(cpus) = &self.cpus {
            // If it is not allowed any more, the job runs where the thread may run.
            let _ = rustix::thread::sched_setaffinity(None, cpus);
        }
        let mut named = "";
        let mut state = self.lock();
        loop {
            if let Some((_, job)) = state.queue.pop_front() {
                let next = state.grant();
                drop(state);
                if !std::ptr::eq(named, job.name) {
                    named = job.name;
                    thread::name_this_thread(named);
                }
                do_job(job, next);
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, timeout) =
                self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

/// Does a job, and tells `next` that there is room in the queue.
fn do_job(job: Job, next: Option<Waker>) {
    wake_all(next);
    // A closure of `offload` catches its own panic; what is left are destructors and wakers.
    contain(|| job.work.run());
}

fn take(queue: &mut VecDeque<(JobId, Job)>, id: JobId) -> Option<Job> {
    let at = queue.iter().position(|(other, _)| *other == id)?;
    queue.remove(at).map(|(_, job)| job)
}
