//! A core on a thread of its own.

use std::thread;

use super::fork::Process;
use super::handle::{Handle, Sender, oneshot};
use super::{Core, CoreConfig};
use crate::error::{Error, Result};

/// A core that runs on its own thread and does what its [`Handle`] is given, until this is dropped.
#[derive(Debug)]
pub struct CoreThread {
    handle: Handle,
    /// Dropped to end the core's main future.
    stop: Option<Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    process: Process,
}

impl CoreThread {
    /// Starts a core named `name` (at most 15 bytes are shown by the kernel) and waits until it runs.
    ///
    /// # Errors
    ///
    /// As for [`Core::new`], and the kernel's code if there is no room for a thread.
    pub fn start(name: String, config: CoreConfig) -> Result<Self> {
        let (stop, stopped) = oneshot();
        let (report, started) = std::sync::mpsc::sync_channel(1);
        let run = move || {
            let core = match Core::new(&config) {
                Ok(core) => core,
                Err(error) => return drop(report.send(Err(error))),
            };
            if report.send(Ok(core.handle())).is_err() {
                return;
            }
            if let Err(error) = core.block_on(stopped) {
                tracing::error!("a core ended: {error}");
            }
        };
        let failed = |error: &std::io::Error| {
            Error::os(error.raw_os_error().unwrap_or(libc::EAGAIN), "start a core's thread")
        };
        let thread = thread::Builder::new().name(name).spawn(run).map_err(|error| failed(&error))?;
        match started.recv() {
            Ok(Ok(handle)) => {
                Ok(Self { handle, stop: Some(stop), thread: Some(thread), process: Process::current() })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::os(libc::EAGAIN, "start a core's thread")),
        }
    }

    /// Where to send work.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for CoreThread {
    /// Ends the core's tasks and waits for its thread, unless that is the calling one, or another process's.
    fn drop(&mut self) {
        if self.process.is_left() {
            // The thread is not in this process, and may have held any lock when that was forked.
            std::mem::forget((self.stop.take(), self.thread.take()));
            return;
        }
        drop(self.stop.take());
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
        {
            // A panic was reported by the panic hook when it happened.
            let _ = thread.join();
        }
    }
}
