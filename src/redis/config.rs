//! How a server is set up: [`Config`], and the [`Limits`] that CONFIG SET can change.

use std::time::Duration;

/// Limits that CONFIG SET can change.
///
/// ```
/// use boson::redis::Limits;
///
/// let limits = Limits::default().max_clients(100).bulk_bytes(1 << 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    pub(super) max_clients: usize,
    pub(super) bulk_bytes: usize,
    pub(super) input_bytes: usize,
    pub(super) output_bytes: usize,
    pub(super) reply_bytes: usize,
    pub(super) idle: Option<Duration>,
    pub(super) write: Duration,
}

impl Default for Limits {
    /// 10,000 clients, arguments of 512 MiB, 1 GiB each for waiting requests, waiting replies and
    /// one reply, no limit on idleness, and one minute to take some of the replies.
    ///
    /// A client that writes a pipeline before it reads needs room here for what its own socket does
    /// not hold. Redis sets no limit; 1 GiB is its limit for requests, and more than such a client
    /// would want to hold itself.
    fn default() -> Self {
        Self {
            max_clients: 10_000,
            bulk_bytes: 512 << 20,
            input_bytes: 1 << 30,
            output_bytes: 1 << 30,
            reply_bytes: 1 << 30,
            idle: None,
            write: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Sets how many clients there may be at a time (`maxclients`).
    #[must_use]
    pub fn max_clients(mut self, clients: usize) -> Self {
        self.max_clients = clients;
        self
    }

    /// Sets how long an argument and a value may be, in bytes (`proto-max-bulk-len`).
    #[must_use]
    pub fn bulk_bytes(mut self, bytes: usize) -> Self {
        self.bulk_bytes = bytes;
        self
    }

    /// Sets how many bytes of an incomplete request may wait for the rest; past it the client is
    /// dropped (`client-query-buffer-limit`).
    #[must_use]
    pub fn input_bytes(mut self, bytes: usize) -> Self {
        self.input_bytes = bytes;
        self
    }

    /// Sets how many bytes of replies may wait to be sent. While there are more, nothing is
    /// received from the client and none of its commands run (`client-output-buffer-limit`). One
    /// reply may go beyond it by itself.
    #[must_use]
    pub fn output_bytes(mut self, bytes: usize) -> Self {
        self.output_bytes = bytes;
        self
    }

    /// Sets how long the reply to one request may be, in bytes; past it the client is dropped.
    #[must_use]
    pub fn reply_bytes(mut self, bytes: usize) -> Self {
        self.reply_bytes = bytes;
        self
    }

    /// Sets after how much time a client is dropped that sends nothing and takes nothing
    /// (`timeout`). With `None` or zero, and by default, it never is.
    #[must_use]
    pub fn idle(mut self, time: impl Into<Option<Duration>>) -> Self {
        self.idle = time.into().filter(|time| !time.is_zero());
        self
    }

    /// Sets after how much time a client is dropped that takes none of its replies, if more than
    /// [`output_bytes`](Self::output_bytes) of them wait or the connection is to be closed. A
    /// client with fewer may take them when it likes.
    #[must_use]
    pub fn write(mut self, time: Duration) -> Self {
        self.write = time;
        self
    }
}

/// How a server is set up.
///
/// ```
/// use boson::redis::{Config, Limits};
///
/// let config = Config::default().password("secret").limits(Limits::default().max_clients(100));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    pub(super) limits: Limits,
    pub(super) password: Option<Vec<u8>>,
    pub(super) port: u16,
    pub(super) seed: Option<[u8; 32]>,
    pub(super) process_id: u32,
    pub(super) appendfsync: &'static str,
}

impl Default for Config {
    /// The default limits, no password, port 6380, a seed that each server draws for itself,
    /// process 0 and `everysec`.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            password: None,
            port: 6380,
            seed: None,
            process_id: 0,
            appendfsync: "everysec",
        }
    }
}

impl Config {
    /// Sets the limits at the start.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the password that clients must give with AUTH or HELLO (`requirepass`). By default they
    /// need none.
    #[must_use]
    pub fn password(mut self, password: impl Into<Vec<u8>>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Sets the port that INFO and CONFIG GET name.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets what `run_id` in INFO is made of, and where RANDOMKEY gets its randomness from, for a
    /// test that is to repeat. By default [`Server::new`](super::Server::new) draws it from its
    /// `Env`: it differs between starts, and a simulation repeats.
    #[must_use]
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets the program's process id, for INFO.
    #[must_use]
    pub fn process_id(mut self, process_id: u32) -> Self {
        self.process_id = process_id;
        self
    }

    /// Sets how durable CONFIG GET says a write is when it is acknowledged, in the words of Redis:
    /// `always`, `everysec` or `no`. How durable it is, the store decides.
    #[must_use]
    pub fn appendfsync(mut self, appendfsync: &'static str) -> Self {
        self.appendfsync = appendfsync;
        self
    }
}

impl std::fmt::Debug for Config {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("limits", &self.limits)
            .field("has_password", &self.password.is_some())
            .field("port", &self.port)
            .field("process_id", &self.process_id)
            .field("appendfsync", &self.appendfsync)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As with CONFIG SET `timeout 0`.
    #[test]
    fn an_idle_time_of_zero_is_none() {
        let never = Limits::default();
        let minute = never.idle(Duration::from_secs(60));
        assert_ne!(minute, never);
        assert_eq!(minute.idle(Duration::ZERO), never);
        assert_eq!(minute.idle(None), never);
    }
}
