//! The time that the process takes.

use std::time::Duration;

use boson::rt;
use rustix::time::{ClockId, clock_gettime};

/// What the process took since it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) wall: Duration,
    pub(super) user: Duration,
    pub(super) system: Duration,
}

impl Usage {
    /// Without procfs all of it counts as the user's.
    pub(super) fn now() -> Self {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let total = Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0));
        let system = system_share().map_or(Duration::ZERO, |share| total.mul_f64(share));
        Self { wall: Duration::from_nanos(rt::now().as_nanos()), user: total - system, system }
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            wall: self.wall.saturating_sub(earlier.wall),
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    /// `part` of the wall-clock time, in percent.
    pub(super) fn percent(self, part: Duration) -> f64 {
        if self.wall.is_zero() { 0.0 } else { part.as_secs_f64() / self.wall.as_secs_f64() * 100.0 }
    }
}

/// How much of the process's time the kernel took, by the ticks in `/proc/self/stat` (fields 14 and
/// 15, proc(5)).
fn system_share() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = text.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    let (user, system) = (fields.next()??, fields.next()??);
    (user + system > 0.0).then(|| system / (user + system))
}
