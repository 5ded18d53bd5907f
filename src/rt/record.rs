//! What a core records about itself: counters, latencies, and the beat that other threads read.

mod beat;
mod counters;
mod histogram;
mod site;
mod task_info;
mod users;

pub(crate) use beat::{Beat, Phase};
pub use counters::{CoreLatencies, CoreStats};
pub(in crate::rt) use counters::{Counters, add, add_time, micros, millis, nanos};
pub use histogram::Histogram;
pub(in crate::rt) use site::{Site, SiteCache};
pub use task_info::{TaskInfo, TaskOrder, TaskRange, TaskState};
pub use users::{PollerStats, TaskQueueStats};
