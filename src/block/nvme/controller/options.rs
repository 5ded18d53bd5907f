//! How a controller is to be used.

use std::time::Duration;

/// How a controller is to be used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ControllerOptions {
    /// What it is called in errors.
    pub name: String,
    /// How many I/O queue pairs to ask for.
    pub queue_pairs: u16,
    /// How long an admin command may take before the controller is reset.
    pub admin_timeout: Duration,
    /// How long an orderly shutdown may take, unless the controller says that it takes longer.
    pub shutdown_timeout: Duration,
    /// How many asynchronous event requests to keep with the controller.
    pub async_events: u16,
    /// Whether to switch the volatile write cache on or off; `None` leaves it.
    pub write_cache: Option<bool>,
}

impl ControllerOptions {
    /// A controller called `name`, one queue pair, a minute for admin commands, ten seconds for a
    /// shutdown, and the write cache as it is.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            queue_pairs: 1,
            admin_timeout: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(10),
            async_events: 4,
            write_cache: None,
        }
    }

    /// With another number of I/O queue pairs.
    #[must_use]
    pub fn queue_pairs(self, queue_pairs: u16) -> Self {
        Self { queue_pairs, ..self }
    }

    /// With another time for admin commands.
    #[must_use]
    pub fn admin_timeout(self, admin_timeout: Duration) -> Self {
        Self { admin_timeout, ..self }
    }

    /// With the volatile write cache switched on or off.
    #[must_use]
    pub fn write_cache(self, enabled: bool) -> Self {
        Self { write_cache: Some(enabled), ..self }
    }
}
