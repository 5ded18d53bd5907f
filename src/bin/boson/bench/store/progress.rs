//! How far a run is.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use boson::rt;

/// How often progress is shown.
const EVERY: Duration = Duration::from_secs(1);

/// What the tasks of all cores tell while they work. Relaxed is enough: people look at it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    operations: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    pub(super) fn add(&self, operations: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }

    /// Asks the tasks to end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Shows every second, for ever, what is done of `what`.
    pub(super) async fn watch(&self, what: &str) {
        let end = if std::io::stderr().is_terminal() { "\r" } else { "\n" };
        let begin = rt::now();
        let (mut before, mut counted_at) = (self.operations.load(Ordering::Relaxed), begin);
        loop {
            rt::sleep(EVERY).await;
            let (now, operations) = (rt::now(), self.operations.load(Ordering::Relaxed));
            let seconds = now.saturating_since(counted_at).as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "shown to people in whole thousands")]
            let rate = (operations - before) as f64 / seconds / 1000.0;
            (before, counted_at) = (operations, now);
            let elapsed = now.saturating_since(begin).as_secs();
            // Nobody may read it any more; the run goes on.
            let _ = write!(
                std::io::stderr(),
                "{what}: {elapsed} s, {operations} records, {rate:.0}k a second   {end}"
            );
        }
    }
}
