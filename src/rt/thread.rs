//! A core on a thread of its own.

use std::thread;
use std::time::Duration;

use super::config::CoreConfig;
use super::core::Core;
use super::handle::Handle;
use super::remote_join::{RemoteJoin, ResultSender, oneshot};
use super::shutdown::{Shutdown, ShutdownReport};
use super::tasks::JoinError;
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;
use crate::user_code::{PanicPayload, contain};

/// What a core's thread does when it is asked to end.
type Stop = (Shutdown, Duration);

/// A core that runs on its own thread and does what its [`Handle`] is given, until this is [shut
/// down](Self::shutdown) or dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the core"]
pub struct CoreThread {
    handle: Handle,
    /// Says how to end the core; dropped, to drop it.
    stop: Option<ResultSender<Stop>>,
    /// Gives `None` if the core was dropped.
    thread: Option<thread::JoinHandle<Result<Option<ShutdownReport>>>>,
    process: Process,
}

impl CoreThread {
    /// Starts a core named `name` (at most 15 bytes are shown by the kernel) and waits until it
    /// runs.
    ///
    /// # Errors
    ///
    /// As for [`Core::new`], and the kernel's code if there is no room for a thread.
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name with a zero byte.
    /// [`Panicked`](ErrorKind::Panicked) with the message if the thread panicked before it ran, as
    /// in the configuration's clock.
    pub fn start(name: impl Into<String>, config: &CoreConfig) -> Result<Self> {
        const OPERATION: &str = "start a core's thread";
        let name = name.into();
        if name.contains('\0') {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION).because("its name has a zero byte"));
        }
        let config = config.clone();
        let (stop, stopped) = oneshot();
        let (report, started) = std::sync::mpsc::sync_channel(1);
        let run = move || {
            let core = match Core::new(&config) {
                Ok(core) => core,
                Err(error) => {
                    drop(report.send(Err(error)));
                    return Ok(None);
                }
            };
            if report.send(Ok(core.handle())).is_err() {
                return Ok(None);
            }
            let ended = run_until(core, stopped);
            if let Err(error) = &ended {
                // Perhaps nobody asks.
                contain(|| tracing::error!("a core ended: {error}"));
            }
            ended
        };
        let failed =
            |error: &std::io::Error| Error::os(error.raw_os_error().unwrap_or(libc::EAGAIN), OPERATION);
        let thread = thread::Builder::new().name(name).spawn(run).map_err(|error| failed(&error))?;
        match started.recv() {
            Ok(Ok(handle)) => {
                Ok(Self { handle, stop: Some(stop), thread: Some(thread), process: Process::current() })
            }
            Ok(Err(error)) => Err(error),
            // Its thread has panicked: a clock or a subscriber to the log is user code.
            Err(_) => Err(match thread.join() {
                Err(payload) => JoinError::Panicked(PanicPayload::new(payload)).into(),
                Ok(_) => Error::os(libc::EAGAIN, OPERATION),
            }),
        }
    }

    /// Where to send work.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Whether the thread has ended: its core failed or panicked, and [`shutdown`](Self::shutdown)
    /// tells why. True in a child process, where there is no such thread.
    pub fn is_finished(&self) -> bool {
        self.process.is_left() || self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    /// Ends the core as [`Core::shutdown`] does, and waits for its thread: until every task has
    /// ended or was cancelled, and all I/O in flight. Tasks get `within`, from the time when the
    /// core comes to it.
    ///
    /// This blocks the calling thread. A task hands it to a thread that may be blocked, as
    /// `rt::offload("shut down", move || thread.shutdown(how, within))`.
    ///
    /// # Errors
    ///
    /// As for [`Core::shutdown`]; what the core failed with before;
    /// [`Panicked`](ErrorKind::Panicked) with the message if its thread panicked outside of a task,
    /// with outcome [`Unknown`](crate::Outcome::Unknown). [`InvalidInput`](ErrorKind::InvalidInput)
    /// on the core's own thread, which cannot wait for itself: the core ends all the same, when it
    /// comes to it. In a child process nothing is ended.
    pub fn shutdown(mut self, how: Shutdown, within: Duration) -> Result<ShutdownReport> {
        const OPERATION: &str = "shut down a core's thread";
        self.process.check(OPERATION)?;
        if let Some(stop) = self.stop.take() {
            stop.send(Ok((how, within)));
        }
        let Some(thread) = self.take_thread() else {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION)
                .because("it is the calling thread: shut it down from another one"));
        };
        match thread.join() {
            Ok(Ok(report)) => report.ok_or_else(|| Error::new(ErrorKind::Cancelled, OPERATION)),
            Ok(Err(error)) => Err(error),
            Err(payload) => Err(JoinError::Panicked(PanicPayload::new(payload)).into()),
        }
    }

    /// The thread to wait for, unless it is the calling one.
    fn take_thread(&mut self) -> Option<thread::JoinHandle<Result<Option<ShutdownReport>>>> {
        self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
    }
}

/// Runs a core until it is told how to end, or that nobody wants it any more.
fn run_until(core: Core, stopped: RemoteJoin<Stop>) -> Result<Option<ShutdownReport>> {
    match core.block_on(stopped) {
        Ok((how, within)) => core.shutdown(how, within).map(Some),
        Err(_) => Ok(None),
    }
}

impl Drop for CoreThread {
    /// Ends the core's tasks at once and waits for its thread, unless that is the calling one, or
    /// another process's. What it failed with is in the log.
    fn drop(&mut self) {
        if self.process.is_left() {
            // The thread is not in this process, and may have held any lock when that was forked.
            std::mem::forget((self.stop.take(), self.thread.take()));
            return;
        }
        drop(self.stop.take());
        if let Some(thread) = self.take_thread() {
            // A panic was reported by the panic hook when it happened.
            let _ = thread.join();
        }
    }
}
