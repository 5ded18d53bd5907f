//! Synchronisation between the tasks of one core. None of it is `Send` and none of it costs an atomic.

mod notify;

pub use notify::{Notified, Notify};
