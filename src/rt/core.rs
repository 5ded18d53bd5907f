//! A core as its owner sees it: made, run, ended.

use std::future::Future;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::thread::CpuSet;

use super::config::{CoreConfig, Idle};
use super::deadline::timeout;
use super::handle::Handle;
use super::record::{CoreLatencies, CoreStats};
use super::scheduler::current::{self, Inside};
use super::scheduler::{CoreState, Idler};
use super::shutdown::{Shutdown, ShutdownReport};
use super::tasks::{Inbox, JoinError, bury};
use crate::error::{Error, ErrorKind, Result};
use crate::mem::Arena;
use crate::reactor::Reactor;
use crate::reactor::doorbell::Doorbell;
use crate::reactor::pool::Pool;

/// One core: a scheduler with its tasks, timers, pollers and io_uring, on the thread that made it.
#[doc(alias = "Runtime")]
#[doc(alias = "LocalExecutor")]
pub struct Core {
    state: Rc<CoreState>,
}

impl Core {
    /// A core on the calling thread, which is pinned if the configuration says so, and stays pinned
    /// when the core is gone. A thread that gets no core stays on the CPUs that it had.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a number that is out of its range in the
    /// configuration, and for a CPU that does not exist or is not allowed here; the kernel's code
    /// if there is no memory or no descriptor left, and those of io_uring if the configuration
    /// insists on it where it is forbidden.
    pub fn new(config: &CoreConfig) -> Result<Self> {
        config.check()?;
        // Before it is pinned: the pool's threads are to run elsewhere.
        let cpus = rustix::thread::sched_getaffinity(None).ok();
        let pinned = config.cpu.map(|cpu| Pinned::new(cpu, cpus)).transpose()?;
        let doorbell = Arc::new(Doorbell::new()?);
        let pool = Arc::new(Pool::new(config.offload_threads, cpus));
        let reactor =
            Reactor::new(config.reactor, config.ring_entries, config.ring_features, &doorbell, &pool)?;
        let inbox = Arc::new(Inbox::new(config.messages, Box::new(move || doorbell.ring()), bury));
        let arena = Arena::new(config.arena_bytes)?;
        reactor.register(config.register_arena, &arena);
        let seed = config.seed_or_new()?;
        // For good.
        std::mem::forget(pinned);
        Ok(Self { state: Rc::new(CoreState::new(config, seed, inbox, reactor, pool, arena)) })
    }

    /// Runs `future` and every task on this core until `future` is done, and gives its output.
    /// Other tasks then stay where they are, and go on in the next `block_on`.
    ///
    /// # Panics
    ///
    /// As `future` does; when called from inside a core, or in a child process of the one that made
    /// the core; and if the io_uring or epoll fails. [`try_block_on`](Self::try_block_on) returns
    /// the last three as errors.
    #[track_caller]
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self.try_block_on(future) {
            Ok(output) => output,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`block_on`](Self::block_on), for a program that goes on when its core cannot run.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) when called from inside a core, or in a child
    /// process of the one that made the core; otherwise a failure of the io_uring or of epoll.
    ///
    /// # Panics
    ///
    /// As `future` does.
    #[track_caller]
    pub fn try_block_on<F: Future>(&self, future: F) -> Result<F::Output> {
        let created_at = Location::caller();
        if current::is_inside() {
            return Err(Error::new(ErrorKind::InvalidInput, "block_on").because(
                "this thread is inside a boson core already: spawn a task or await the future instead",
            ));
        }
        self.state.process().check("block_on")?;
        let _inside = Inside::enter(&self.state);
        let mut root = self.state.start_root(created_at, future);
        let mut idler = Idler::new(self.state.idle());
        loop {
            let worked = self.state.turn(idler.sleeps_at_once(), || root.has_ended())?;
            if let Some(result) = root.take() {
                return match result {
                    Ok(output) => Ok(output),
                    Err(JoinError::Panicked(payload)) => payload.go_on(),
                    Err(_) => Err(Error::new(ErrorKind::Cancelled, "block_on")),
                };
            }
            let now = self.state.last_reading();
            if worked {
                idler.worked(now);
            } else if idler.should_park(now, self.state.needs_kernel()) {
                self.state.park(now)?;
            } else if self.state.idle() != Idle::Poll {
                // Eases the other thread of the processor's core, for some 40 ns. A core that polls
                // all the time is to see what comes at once.
                std::hint::spin_loop();
            }
        }
    }

    /// Ends the core: every task, and then all I/O in flight, whose buffers are freed. Tasks get
    /// `within` to end if they are to be drained; the I/O that they leave gets what remains of it,
    /// and 100 ms at least. What a device does not give back then is leaked, with a warning. (A
    /// core that is dropped without this call gives its I/O 10 s.)
    ///
    /// # Errors
    ///
    /// As for [`Core::block_on`]; a core that gets one is dropped.
    #[track_caller]
    pub fn shutdown(self, how: Shutdown, within: Duration) -> Result<ShutdownReport> {
        self.state.process().check("shut down a core")?;
        self.state.set_io_deadline(self.state.read_clock() + within);
        let ended = self.state.stats().ended;
        let mut in_time = Ok(());
        if how == Shutdown::Drain {
            let drained = self.state.drained();
            // At its deadline the report says what is left.
            in_time = self.try_block_on(async move { drop(timeout(within, drained).await) });
        }
        let report = ShutdownReport {
            // The task of `block_on` is not one of them.
            finished: (self.state.stats().ended - ended).saturating_sub(1),
            cancelled: self.state.task_sites(),
        };
        drop(self);
        in_time.map(|()| report)
    }

    /// A handle that other threads can send work through.
    pub fn handle(&self) -> Handle {
        Handle::of(&self.state)
    }

    /// Counters.
    pub fn stats(&self) -> CoreStats {
        self.state.stats()
    }

    /// How long things took.
    pub fn latencies(&self) -> CoreLatencies {
        self.state.latencies()
    }
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Drop for Core {
    /// Ends every task by dropping its future, then waits for the I/O that they left in flight.
    /// Tasks that destructors spawn meanwhile are ended too, up to 1,000 and nine for each task and
    /// timer that there was: those beyond that are leaked, with a warning, and their join handles
    /// wait forever. The thread may be inside another core meanwhile. In a child process nothing
    /// is ended: the tasks and the ring are the parent's, and their copies are leaked.
    fn drop(&mut self) {
        if self.state.process().is_left() {
            std::mem::forget(Rc::clone(&self.state));
            return;
        }
        // Whatever panics before: wakers that outlive the core point to an inbox that only a closed
        // one keeps for them.
        let _closes = self.state.closing();
        let _inside = Inside::enter(&self.state);
        self.state.end();
    }
}

/// Runs a program on one core of the calling thread, with the machine's time and randomness and the
/// defaults of [`CoreConfig`], and gives the output of `future`. The core ends with it.
///
/// ```
/// let sum = boson::run(async {
///     let task = boson::rt::spawn(async { 20 });
///     task.await.expect("no panic") + 22
/// });
/// assert_eq!(sum, 42);
/// ```
///
/// # Panics
///
/// As `future` does; when called from inside a core; and if the kernel gives the core no memory or
/// descriptor. [`Core::new`] and [`Core::try_block_on`] return the last two as errors.
#[track_caller]
pub fn run<F: Future>(future: F) -> F::Output {
    match Core::new(&CoreConfig::default()) {
        Ok(core) => core.block_on(future),
        Err(error) => panic!("a core for the program: {error}"),
    }
}

/// The calling thread is pinned, until this is dropped.
struct Pinned {
    /// Where it may run otherwise, if the kernel said so.
    before: Option<CpuSet>,
}

impl Pinned {
    fn new(cpu: usize, before: Option<CpuSet>) -> Result<Self> {
        pin_thread(cpu).map(|()| Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // They were allowed a moment ago. If they no longer are, the caller hears of a failure
            // already.
            let _ = rustix::thread::sched_setaffinity(None, before);
        }
    }
}

fn pin_thread(cpu: usize) -> Result<()> {
    let invalid = |detail: String| {
        Error::new(ErrorKind::InvalidInput, "pin core").at(format!("CPU {cpu}")).because(detail)
    };
    if cpu >= CpuSet::MAX_CPU {
        return Err(invalid(format!("CPU numbers end at {}", CpuSet::MAX_CPU - 1)));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).map_err(|errno| {
        if errno == rustix::io::Errno::INVAL {
            let allowed = rustix::thread::sched_getaffinity(None).map_or(0, |set| set.count());
            invalid(format!(
                "no such CPU, or not allowed for this process (it may use {allowed}); see `nproc`"
            ))
        } else {
            Error::os(errno.raw_os_error(), "pin core").at(format!("CPU {cpu}"))
        }
    })
}
