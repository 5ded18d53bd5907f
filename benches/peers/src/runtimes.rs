//! One trait over the async runtimes, so that each row is written once and differs only in the
//! runtime.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use boson::rt::{Core, CoreConfig};

/// An executor on the calling thread, with its defaults.
pub trait Runtime: 'static {
    /// Makes the runtime, runs `future` in it and ends it.
    fn run<F: Future + 'static>(future: F) -> F::Output
    where
        F::Output: 'static;

    /// Starts a task; the result waits for it. Dropping the result detaches the task.
    fn spawn<F: Future + 'static>(future: F) -> impl Future<Output = F::Output> + 'static
    where
        F::Output: 'static;

    /// The runtime's own yield where it has one.
    fn yield_now() -> impl Future<Output = ()> {
        wake_and_return()
    }

    /// The runtime's own timer.
    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static;
}

/// The yield that every executor understands: the task wakes itself and returns.
pub fn wake_and_return() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}

pub struct Boson;

impl Runtime for Boson {
    fn run<F: Future + 'static>(future: F) -> F::Output
    where
        F::Output: 'static,
    {
        let core = Core::new(&CoreConfig::default()).expect("io_uring is usable");
        core.block_on(future)
    }

    fn spawn<F: Future + 'static>(future: F) -> impl Future<Output = F::Output> + 'static
    where
        F::Output: 'static,
    {
        let join = boson::rt::named("bench").spawn(future);
        async { join.await.expect("no panic") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        boson::rt::yield_now()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        boson::rt::sleep(duration)
    }
}

/// tokio's runtime for one thread and tasks that stay on it.
pub struct Tokio;

impl Runtime for Tokio {
    fn run<F: Future + 'static>(future: F) -> F::Output
    where
        F::Output: 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default())
            .expect("tokio starts");
        runtime.block_on(future)
    }

    fn spawn<F: Future + 'static>(future: F) -> impl Future<Output = F::Output> + 'static
    where
        F::Output: 'static,
    {
        let join = tokio::task::spawn_local(future);
        async { join.await.expect("no panic") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        tokio::task::yield_now()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }
}

/// tokio's older way: a `LocalSet` on a current-thread runtime.
pub struct TokioLocalSet;

impl Runtime for TokioLocalSet {
    fn run<F: Future + 'static>(future: F) -> F::Output
    where
        F::Output: 'static,
    {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio starts");
        tokio::task::LocalSet::new().block_on(&runtime, future)
    }

    fn spawn<F: Future + 'static>(future: F) -> impl Future<Output = F::Output> + 'static
    where
        F::Output: 'static,
    {
        Tokio::spawn(future)
    }

    fn yield_now() -> impl Future<Output = ()> {
        tokio::task::yield_now()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }
}

/// tokio with the self-waking yield, which takes its local queue and not its deferred one.
pub struct TokioWaking;

impl Runtime for TokioWaking {
    fn run<F: Future + 'static>(future: F) -> F::Output
    where
        F::Output: 'static,
    {
        Tokio::run(future)
    }

    fn spawn<F: Future + 'static>(future: F) -> impl Future<Output = F::Output> + 'static
    where
        F::Output: 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        tokio::time::sleep(duration)
    }
}

pub struct Monoio;

impl Runtime for Monoio {
    fn run<F: Future + 'static>(future: F) -> F::Output
    where
        F::Output: 'static,
    {
        let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
            .enable_timer()
            .build()
            .expect("monoio starts");
        runtime.block_on(future)
    }

    fn spawn<F: Future + 'static>(future: F) -> impl Future<Output = F::Output> + 'static
    where
        F::Output: 'static,
    {
        monoio::spawn(future)
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        monoio::time::sleep(duration)
    }
}

pub struct Glommio;

impl Runtime for Glommio {
    fn run<F: Future + 'static>(future: F) -> F::Output
    where
        F::Output: 'static,
    {
        let executor =
            glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound).make().expect("glommio starts");
        executor.run(future)
    }

    fn spawn<F: Future + 'static>(future: F) -> impl Future<Output = F::Output> + 'static
    where
        F::Output: 'static,
    {
        let join = glommio::spawn_local(future).detach();
        async { join.await.expect("not cancelled") }
    }

    fn yield_now() -> impl Future<Output = ()> {
        wake_and_return()
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        glommio::timer::sleep(duration)
    }
}

pub struct Compio;

impl Runtime for Compio {
    fn run<F: Future + 'static>(future: F) -> F::Output
    where
        F::Output: 'static,
    {
        compio::runtime::Runtime::new().expect("compio starts").block_on(future)
    }

    fn spawn<F: Future + 'static>(future: F) -> impl Future<Output = F::Output> + 'static
    where
        F::Output: 'static,
    {
        let join = compio::runtime::spawn(future);
        async { join.await.expect("no panic") }
    }

    fn sleep(duration: Duration) -> impl Future<Output = ()> + 'static {
        compio::runtime::time::sleep(duration)
    }
}
