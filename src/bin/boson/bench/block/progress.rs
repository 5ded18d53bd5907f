//! How far the cores are.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use boson::rt;

use super::load::Plan;

/// How often progress is shown on a terminal, and elsewhere.
const ON_TERMINAL: Duration = Duration::from_secs(1);
const ELSEWHERE: Duration = Duration::from_secs(10);

/// What the cores tell while they work. Relaxed is enough: only people and the end of the run look
/// at it.
#[derive(Debug, Default)]
pub(super) struct Progress {
    operations: AtomicU64,
    stopped: AtomicBool,
    over: AtomicUsize,
}

impl Progress {
    pub(super) fn add(&self, operations: u64) {
        self.operations.fetch_add(operations, Ordering::Relaxed);
    }

    /// Asks the cores to end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// One core is at its end.
    pub(super) fn core_is_over(&self) {
        self.over.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self, cores: usize) -> bool {
        self.over.load(Ordering::Relaxed) >= cores
    }
}

/// Shows progress for ever.
pub(super) async fn watch(plan: &Plan, progress: &Progress) {
    let on_terminal = std::io::stderr().is_terminal();
    let every = if on_terminal { ON_TERMINAL } else { ELSEWHERE };
    let (begin, mut shown) = (rt::now(), Duration::ZERO);
    let (mut before, mut counted_at) = (0, begin);
    loop {
        // Often enough that the end is seen soon after it came.
        rt::sleep(Duration::from_millis(20)).await;
        let now = rt::now();
        let elapsed = now.saturating_since(begin);
        if elapsed - shown < every {
            continue;
        }
        shown = elapsed;
        let operations = progress.operations.load(Ordering::Relaxed);
        let seconds = now.saturating_since(counted_at).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "shown to people in whole thousands")]
        let rate = (operations - before) as f64 / seconds / 1000.0;
        (before, counted_at) = (operations, now);
        let total = plan.warm_up + plan.time;
        let of = if plan.is_one_pass() {
            format!("{operations} operations")
        } else {
            format!("{} of {} s", elapsed.as_secs(), total.as_secs())
        };
        let end = if on_terminal { "\r" } else { "\n" };
        // Nobody may read it any more; the run goes on.
        let _ = write!(std::io::stderr(), "{of}, {rate:.0}k operations/s   {end}");
    }
}

/// After a signal: says once what the end waits for, if it does.
pub(super) async fn tell_of_wait() {
    rt::sleep(ON_TERMINAL).await;
    let _ = writeln!(
        std::io::stderr(),
        "waiting for the operations that the device still has; a second signal ends that"
    );
}
