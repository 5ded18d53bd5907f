//! Stackful coroutines with the surface of [`std::thread`], so that threaded code ports by changing
//! its imports.
//!
//! A coroutine is a task of the core that it was spawned on, with a stack of its own. [`spawn`]
//! starts one from inside a core (from another coroutine or from an async task); [`run`] turns a
//! function into the first coroutine of a core. What blocks here ([`sleep`], [`park`],
//! [`JoinHandle::join`], [`boson::wait`](crate::wait), everything in
//! [`boson::blocking`](crate::blocking)) lets the other tasks of the core run.
//!
//! # Different from `std::thread`
//!
//! - Coroutines of one core take turns: one that computes without ever waiting holds up the others.
//!   [`yield_now`] helps.
//! - What is spawned stays on the core, so it need not be `Send`; a [`JoinHandle`] is not `Send`
//!   either.
//! - A coroutine ends when its core ends: its stack unwinds where it waits. The same happens to one
//!   that is cancelled.
//! - The default stack has [`DEFAULT_STACK_BYTES`] (256 KiB; `std`'s has 2 MiB). It costs memory
//!   only where it was touched.
//! - As with threads, a panic goes to the joiner and leaves the core running;
//!   `std::thread::panicking` is true for every task of the core while a coroutine waits inside a
//!   destructor that a panic runs.
//! - Thread-locals are the core's, not the coroutine's.
//!
//! Outside a coroutine, on a plain thread, [`current`], [`park`], [`sleep`] and [`yield_now`] are
//! `std`'s.

mod name;
mod scope;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::Location;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use scope::{Scope, ScopedJoinHandle, scope};

use crate::error::{Error, ErrorKind};
use crate::rt::coroutine::{self, Coroutine, Identity};
use crate::rt::queue::TaskQueue;
use crate::rt::{self, Cancel, CancelOnDrop, Core, Handle, JoinError, RemoteJoin};
use crate::user_code::PanicPayload;

pub use crate::rt::coroutine::{StackStats, stack_stats, trim_stacks};
pub use std::thread::{AccessError, LocalKey, Result, available_parallelism, panicking};

/// Room on the stack of a coroutine that asks for no other, in bytes. Lazily touched, so the choice
/// costs address space: enough for formatting, TLS handshakes and moderate recursion; small enough
/// for a million in 256 GiB of the 128 TiB there are.
pub const DEFAULT_STACK_BYTES: usize = 256 << 10;

/// Starts a coroutine on this core, on the [queue](rt::queue::TaskQueue) of the task that calls.
///
/// # Panics
///
/// Outside a core, and if there is no room for its stack; [`Builder::spawn`] returns errors
/// instead.
#[track_caller]
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    match Builder::new().spawn_at(Location::caller(), f) {
        Ok(handle) => handle,
        Err(error) => panic!("failed to spawn a coroutine: {error}"),
    }
}

/// Runs `f` as a coroutine on a core of the calling thread, and gives what it returns. This is how
/// a threaded `main` starts; the core has the defaults of [`boson::run`](crate::run()), and ends
/// with it.
///
/// # Panics
///
/// As `f` and [`boson::run`](crate::run()) do, and if there is no room for a stack.
#[track_caller]
pub fn run<F, T>(f: F) -> T
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let created_at = Location::caller();
    returned(crate::run(main_coroutine(created_at, f)))
}

/// The same on `core`, whose other tasks run at the same time.
///
/// # Panics
///
/// As `f` and [`Core::block_on`] do, and if there is no room for a stack.
#[track_caller]
pub fn run_on<F, T>(core: &Core, f: F) -> T
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let created_at = Location::caller();
    returned(core.block_on(main_coroutine(created_at, f)))
}

/// As [`run_on`]. The inner result is an `Err` with the payload if `f` panicked.
///
/// # Errors
///
/// As for [`Core::try_block_on`] and [`Builder::spawn`].
#[track_caller]
pub fn try_run_on<F, T>(core: &Core, f: F) -> crate::Result<Result<T>>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let created_at = Location::caller();
    core.try_block_on(main_coroutine(created_at, f))?
}

/// What the main coroutine of a program returned.
#[track_caller]
fn returned<T>(ended: crate::Result<Result<T>>) -> T {
    match ended {
        Ok(Ok(output)) => output,
        Ok(Err(payload)) => PanicPayload::new(payload).go_on(),
        Err(error) => panic!("{error}"),
    }
}

/// The main coroutine of a program, and how it ended.
async fn main_coroutine<F, T>(created_at: &'static Location<'static>, f: F) -> crate::Result<Result<T>>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    match Builder::new().name("main".to_owned()).spawn_at(created_at, f) {
        Ok(handle) => Ok(handle.await),
        Err(error) => Err(error),
    }
}

/// A coroutine that is about to be started: its name, its stack and its queue.
#[derive(Debug, Default)]
#[must_use = "it starts with `spawn`"]
pub struct Builder {
    name: Option<String>,
    stack_size: Option<usize>,
    queue: Option<TaskQueue>,
}

impl Builder {
    /// No name, a stack of [`DEFAULT_STACK_BYTES`], and the queue of the task that starts it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the coroutine, for messages about it, and its task for
    /// [`observe::tasks`](crate::observe::tasks).
    ///
    /// A task's name is kept forever, so a process has at most 1,024 of those: the tasks of
    /// coroutines with further names are called `coroutine`. [`Thread::name`] has every name.
    pub fn name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// The room on its stack in bytes, rounded up to a power of two; at least 16 KiB, at most 1
    /// GiB.
    pub fn stack_size(mut self, size: usize) -> Self {
        self.stack_size = Some(size);
        self
    }

    /// Puts the coroutine on `queue`, which says how much of the core it gets.
    pub fn queue(mut self, queue: &TaskQueue) -> Self {
        self.queue = Some(queue.clone());
        self
    }

    /// Starts the coroutine on this core.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) outside a core;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a stack above 1 GiB, and for a queue of
    /// another core; what the kernel said if there is no address space, memory or mapping left for
    /// a stack.
    #[track_caller]
    pub fn spawn<F, T>(self, f: F) -> io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        Ok(self.spawn_at(Location::caller(), f)?)
    }

    fn spawn_at<F, T>(self, created_at: &'static Location<'static>, f: F) -> crate::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let queue = self.queue.clone();
        let (identity, coroutine) = self.coroutine(created_at, f)?;
        let named = rt::named(task_name(&identity));
        let builder = queue.as_ref().map_or(named, |queue| named.queue(queue));
        let task = builder.spawn_coroutine_at(created_at, coroutine);
        Ok(JoinHandle { task, thread: Thread(ThreadKind::Coroutine(identity)) })
    }

    /// Starts the coroutine on the core of `core`, from any thread. As for a task that
    /// [`Handle::spawn`] starts: if the core has no room for more messages, it is not started, and
    /// the result is [`JoinError::Full`]; it is [`JoinError::NotStarted`] with the reason if there
    /// is no room for its stack. [`RemoteJoin::cancel`] unwinds it.
    ///
    /// A coroutine waits for the result by [`wait`](crate::wait). A queue that was
    /// [chosen](Self::queue) must be that core's, as it can only be on the core itself; otherwise
    /// it is [`JoinError::NotStarted`].
    #[track_caller]
    pub fn spawn_on<F, T>(self, core: &Handle, f: F) -> RemoteJoin<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let created_at = Location::caller();
        let Self { name, stack_size, queue } = self;
        let task = name.as_deref().map_or(name::UNNAMED, name::task_name);
        let is_there = queue.is_none();
        core.spawn_at(Some(task), created_at, rt::JoinHandle::is_of_a_coroutine, async move || {
            let made = if is_there {
                Self { name, stack_size, queue: None }.coroutine(created_at, f)
            } else {
                Err(foreign_queue())
            };
            match made {
                Ok((_, coroutine)) => Ok(coroutine.await),
                Err(error) => Err(JoinError::NotStarted(error)),
            }
        })
    }

    fn coroutine<T: 'static>(
        self,
        created_at: &'static Location<'static>,
        f: impl FnOnce() -> T + 'static,
    ) -> crate::Result<(Arc<Identity>, Coroutine<T>)> {
        if !rt::is_in_core() {
            return Err(Error::new(ErrorKind::Unsupported, "spawn a coroutine").because(
                "this thread is not inside a boson core: start with `boson::thread::run(|| …)`, or use \
                 `std::thread::spawn` for a thread of the system",
            ));
        }
        if self.queue.is_some_and(|queue| !queue.is_here()) {
            return Err(foreign_queue());
        }
        let identity = Identity::new(self.name);
        let stack_bytes = self.stack_size.unwrap_or(DEFAULT_STACK_BYTES);
        let coroutine = Coroutine::new(stack_bytes, Arc::clone(&identity), created_at, f)?;
        Ok((identity, coroutine))
    }
}

#[cold]
fn foreign_queue() -> Error {
    Error::new(ErrorKind::InvalidInput, "spawn a coroutine").because("its task queue is another core's")
}

/// What the task of a coroutine is called.
fn task_name(identity: &Identity) -> &'static str {
    identity.name().map_or(name::UNNAMED, name::task_name)
}

/// The result of a coroutine. A coroutine waits for it with [`join`](Self::join), an async task
/// with `.await`. Dropping it lets the coroutine run on, detached.
pub struct JoinHandle<T> {
    task: rt::JoinHandle<T>,
    thread: Thread,
}

impl<T> JoinHandle<T> {
    /// Waits for the coroutine to end. `Err` has what it panicked with, or a
    /// [`JoinError::Cancelled`] if it was cancelled.
    ///
    /// # Panics
    ///
    /// If the coroutine has not ended, and this is called in an async task (where `.await` is the
    /// way) or outside the core.
    #[track_caller]
    pub fn join(mut self) -> Result<T> {
        if !self.task.is_finished() {
            assert_joinable();
            return coroutine::wait_unless_cancelled(self).unwrap_or_else(cancelled);
        }
        match Pin::new(&mut self).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => cancelled(),
        }
    }

    /// Whether the coroutine has ended.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// The coroutine, to unpark it.
    pub fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Ends the coroutine where it waits: its stack unwinds, and `join` gives an `Err` with
    /// [`JoinError::Cancelled`]. Takes effect when the core next turns to it; does nothing if it
    /// has ended.
    pub fn cancel(&self) {
        self.task.cancel();
    }

    /// Lets the coroutine run on without anybody to take its result: the same as dropping the
    /// handle, but explicit.
    pub fn detach(self) {
        drop(self);
    }

    /// A handle that cancels the coroutine when it is dropped.
    pub fn cancel_on_drop(self) -> CancelOnDrop<Self> {
        CancelOnDrop::new(self)
    }
}

impl<T> Cancel for JoinHandle<T> {
    fn cancel(&self) {
        JoinHandle::cancel(self);
    }
}

impl<T> CancelOnDrop<JoinHandle<T>> {
    /// As [`JoinHandle::join`]. If the caller is cancelled meanwhile, the coroutine is too.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// As there.
    #[track_caller]
    pub fn join(self) -> Result<T> {
        if self.handle().is_finished() {
            return self.into_inner().join();
        }
        assert_joinable();
        coroutine::wait_unless_cancelled(self).unwrap_or_else(cancelled)
    }
}

#[track_caller]
fn assert_joinable() {
    assert!(
        rt::is_in_core(),
        "join would wait forever: the coroutine's core does not run on this thread now"
    );
}

/// The result of a coroutine that was cancelled.
fn cancelled<T>() -> Result<T> {
    Err(Box::new(JoinError::Cancelled))
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        Pin::new(&mut self.task).poll(cx).map_err(|error| match error {
            JoinError::Panicked(payload) => payload.into_inner(),
            reason => Box::new(reason) as Box<dyn Any + Send>,
        })
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("thread", &self.thread).finish_non_exhaustive()
    }
}

/// A coroutine, or a thread of the system. Handles may be sent to every thread.
#[derive(Clone)]
pub struct Thread(ThreadKind);

#[derive(Clone)]
enum ThreadKind {
    Coroutine(Arc<Identity>),
    System(std::thread::Thread),
}

/// A number that no other coroutine or thread of this process has or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ThreadId(IdKind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum IdKind {
    Coroutine(u64),
    System(std::thread::ThreadId),
}

impl Thread {
    /// Ends its [`park`]: the one that is going on, or the next.
    pub fn unpark(&self) {
        match &self.0 {
            ThreadKind::Coroutine(identity) => identity.unpark(),
            ThreadKind::System(thread) => thread.unpark(),
        }
    }

    /// Its number.
    pub fn id(&self) -> ThreadId {
        ThreadId(match &self.0 {
            ThreadKind::Coroutine(identity) => IdKind::Coroutine(identity.id()),
            ThreadKind::System(thread) => IdKind::System(thread.id()),
        })
    }

    /// The name that it was given.
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            ThreadKind::Coroutine(identity) => identity.name(),
            ThreadKind::System(thread) => thread.name(),
        }
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("id", &self.id()).field("name", &self.name()).finish()
    }
}

/// The coroutine that the caller is in; outside one, the thread.
pub fn current() -> Thread {
    Thread(match coroutine::current_identity() {
        Some(identity) => ThreadKind::Coroutine(identity),
        None => ThreadKind::System(std::thread::current()),
    })
}

/// Waits until [`Thread::unpark`] was called since the last `park` returned. In a destructor of a
/// coroutine that is being cancelled it returns at once.
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn park() {
    match coroutine::current_identity() {
        Some(identity) => drop(coroutine::wait_unless_cancelled(identity.park())),
        None => {
            refuse_in_core("park");
            std::thread::park();
        }
    }
}

/// As [`park`], for `duration` at most.
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn park_timeout(duration: Duration) {
    match coroutine::current_identity() {
        Some(identity) => {
            drop(coroutine::wait_unless_cancelled(rt::timeout(duration, identity.park())));
        }
        None => {
            refuse_in_core("park_timeout");
            std::thread::park_timeout(duration);
        }
    }
}

/// Waits for `duration`; other tasks of the core run meanwhile. In a destructor of a coroutine that
/// is being cancelled it returns at once.
///
/// # Panics
///
/// In an async task, which has [`rt::sleep`].
#[track_caller]
pub fn sleep(duration: Duration) {
    if coroutine::current_identity().is_some() {
        let _ = coroutine::wait_unless_cancelled(rt::sleep(duration));
        return;
    }
    refuse_in_core("sleep");
    let nanoseconds = i64::from(duration.subsec_nanos());
    let mut left = rustix::thread::Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: nanoseconds,
    };
    while let rustix::thread::NanosleepRelativeResult::Interrupted(rest) = rustix::thread::nanosleep(&left) {
        left = rest;
    }
}

/// Lets every other ready task and every poller of the core have a turn; on a plain thread, other
/// threads.
///
/// # Panics
///
/// In an async task, which has [`rt::yield_now`].
#[inline]
#[track_caller]
pub fn yield_now() {
    if !coroutine::yield_now() {
        yield_outside();
    }
}

#[cold]
#[track_caller]
fn yield_outside() {
    // A coroutine that is being cancelled does not yield.
    if coroutine::current_identity().is_none() {
        refuse_in_core("yield_now");
        std::thread::yield_now();
    }
}

#[track_caller]
fn refuse_in_core(function: &str) {
    assert!(
        !rt::is_in_core(),
        "boson::thread::{function} would block this core: call it from a coroutine, or use the function of `boson::rt` with `.await`"
    );
}
