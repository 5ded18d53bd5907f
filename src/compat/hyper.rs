//! hyper's I/O traits, executor and timer.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant as StdInstant};

use hyper::rt::{Executor, Read, ReadBufCursor, Sleep, Timer, Write};
use pin_project_lite::pin_project;
use send_wrapper::SendWrapper;

use super::poll_io::PollIo;
use super::socket::Socket;
use crate::rt::{self, Instant};

/// A socket with [`hyper::rt::Read`] and [`hyper::rt::Write`].
///
/// See [the module](super) for what it promises.
#[derive(Debug)]
pub struct HyperIo<S>(PollIo<S>);

super::adapter!(HyperIo);

impl<S: Socket> Read for HyperIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let received = ready!(self.0.poll_fill(cx))?;
        let len = received.len().min(room);
        buf.put_slice(&received[..len]);
        self.0.consume(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> Write for HyperIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes).map_err(io::Error::from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_vectored(cx, pieces).map_err(io::Error::from)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx).map_err(io::Error::from)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx).map_err(io::Error::from)
    }
}

/// Starts hyper's tasks on the current core. Unlike a thread pool's executor it takes futures that
/// are not `Send`.
#[derive(Clone, Copy, Debug, Default)]
pub struct HyperExecutor;

impl<F: Future + 'static> Executor<F> for HyperExecutor {
    /// # Panics
    ///
    /// Outside a core.
    fn execute(&self, future: F) {
        drop(rt::named("hyper").spawn(future));
    }
}

/// Measures time for hyper by the core's clock, which may be virtual.
///
/// hyper names points in time by [`std::time::Instant`], which only the machine can make. So the
/// timer is told one, and counts from there by the core's clock: use [`HyperTimer::now`] for
/// whatever is compared with hyper's deadlines.
#[derive(Clone, Copy, Debug)]
pub struct HyperTimer {
    origin: StdInstant,
    origin_on_core: Instant,
}

impl HyperTimer {
    /// A timer that calls the current instant of the core's clock `now`: usually the machine's.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn new(now: StdInstant) -> Self {
        Self { origin: now, origin_on_core: rt::now() }
    }
}

impl Timer for HyperTimer {
    /// # Panics
    ///
    /// Outside a core.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(TimerSleep(on_core(rt::time::sleep_until(rt::now() + duration))))
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn Sleep>> {
        let deadline = self.origin_on_core + deadline.saturating_duration_since(self.origin);
        Box::pin(TimerSleep(on_core(rt::time::sleep_until(deadline))))
    }

    /// # Panics
    ///
    /// Outside a core.
    fn now(&self) -> StdInstant {
        let passed = rt::now() - self.origin_on_core;
        // A clock that is centuries ahead is as far as this type can say.
        self.origin.checked_add(passed).unwrap_or(self.origin)
    }
}

/// What [`HyperTimer`] gives to hyper.
#[derive(Debug)]
pub struct TimerSleep(OnCore<rt::time::Sleep>);

impl Future for TimerSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl Sleep for TimerSleep {}

pin_project! {
    /// A future that is `Send` by promise. Made by [`on_core`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless awaited"]
    pub struct OnCore<F> {
        #[pin]
        future: SendWrapper<F>,
    }
}

impl<F> OnCore<F> {
    /// The future, as it was given.
    ///
    /// # Panics
    ///
    /// On another thread than that of [`on_core`].
    pub fn into_inner(self) -> F {
        self.future.take()
    }
}

impl<F: Future> Future for OnCore<F> {
    type Output = F::Output;

    /// # Panics
    ///
    /// On another thread than that of [`on_core`].
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(cx)
    }
}

/// Makes `future` `Send` by the promise that it stays on this thread, for libraries that ask for
/// `Send` of futures which a core never sends anywhere: axum's handlers, for example. Sockets,
/// timers and stores of the core can be used in it.
///
/// The result panics when another thread polls or drops it.
pub fn on_core<F: Future>(future: F) -> OnCore<F> {
    OnCore { future: SendWrapper::new(future) }
}
