//! Reports a core that is stuck while it is stuck; the core itself can say so only afterwards.

use std::panic::Location;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fork::Process;
use crate::rt::Handle;
use crate::rt::record::{Beat, Phase};
use crate::user_code::contain;

/// How often a core is looked at in the time after which it counts as stuck.
const LOOKS: u32 = 4;

/// A core that is stuck now.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stall {
    /// The name of the core's thread.
    pub core: String,
    /// The name and creation place of the task that the core is in; `None` if it is in a poller, a
    /// waker or a message.
    pub task: Option<(&'static str, &'static Location<'static>)>,
    /// How long it has been stuck, at least.
    pub lasts: Duration,
}

/// A thread that watches cores, until this is dropped. One is enough for a process.
///
/// A core that sleeps is not stuck. Operations that are handed to the kernel with the call that
/// sleeps are part of the sleep: a core whose kernel blocks while it takes them is not reported.
#[derive(Debug)]
#[must_use = "dropping it ends the watch"]
pub struct Watchdog {
    stop: Option<SyncSender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    process: Process,
}

impl Watchdog {
    /// Logs a warning when one of the cores behind `handles` has not gone on for `after`, once for
    /// each time.
    ///
    /// # Errors
    ///
    /// The kernel's code if there is no room for a thread.
    pub fn start(handles: &[Handle], after: Duration) -> Result<Self> {
        Self::start_with(handles, after, |stall| {
            let (task, created_at) = match stall.task {
                Some((name, place)) => (name, place.to_string()),
                None => ("(none)", String::new()),
            };
            let lasts_ms = stall.lasts.as_millis();
            tracing::warn!(core = stall.core, task, created_at, lasts_ms, "a core is stuck");
        })
    }

    /// The same, but tells `report`, on the watchdog's thread. A report that panics is no reason to
    /// stop: the next stall is reported too.
    ///
    /// # Errors
    ///
    /// As for [`Watchdog::start`].
    pub fn start_with(
        handles: &[Handle],
        after: Duration,
        report: impl Fn(&Stall) + Send + 'static,
    ) -> Result<Self> {
        let mut watched: Vec<Watched> = handles.iter().map(|handle| Watched::new(handle.beat())).collect();
        let every = (after / LOOKS).max(Duration::from_millis(1));
        let (stop, stopped) = sync_channel::<()>(0);
        let run = move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                for core in &mut watched {
                    if let Some(stall) = core.look(every) {
                        contain(|| report(&stall));
                    }
                }
            }
        };
        let thread = thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(run)
            .map_err(|error| Error::io(error, "start the watchdog's thread"))?;
        Ok(Self { stop: Some(stop), thread: Some(thread), process: Process::current() })
    }
}

impl Drop for Watchdog {
    /// Waits for a report that is being made, unless that is what drops it.
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
            let _ = thread.join();
        }
    }
}

/// A core, and what the last look at it saw.
struct Watched {
    beat: Arc<Beat>,
    seen: (u64, u64),
    /// Looks since then that saw the same.
    same: u32,
}

impl Watched {
    fn new(beat: &Arc<Beat>) -> Self {
        Self { beat: Arc::clone(beat), seen: (0, 0), same: 0 }
    }

    fn look(&mut self, every: Duration) -> Option<Stall> {
        let seen = (self.beat.turns(), self.beat.polls());
        let phase = self.beat.phase();
        if seen != self.seen || !matches!(phase, Phase::Tasks | Phase::Devices) {
            self.seen = seen;
            self.same = 0;
            return None;
        }
        self.same = self.same.saturating_add(1);
        if self.same != LOOKS {
            return None;
        }
        Some(Stall {
            core: self.beat.core().to_owned(),
            task: self.beat.polling().map(|site| (site.name, site.created_at)),
            lasts: every * self.same,
        })
    }
}
