//! What the cores of one server have in common.
//!
//! Each core has a [`Server`](super::Server) with its own handles of the databases, and runs the
//! commands of its own connections. Everything else that one connection can see of another is here,
//! once: the list of clients, the settings, who tracks which keys, where scans are, when keys
//! expire. A core locks what it needs for a moment, and never while it awaits. What every command
//! needs costs no lock that cores share: the [limits](SharedState::limits) are copied when they
//! have changed, and [counts](super::stats) are each core's own.
//!
//! Who holds more than one lock takes them in this order: the trackers of [`Tracking`], then those
//! of one client.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::{array, fmt};

use super::client::Client;
use super::config::{Config, Limits};
use super::cursor::ScanCursors;
use super::lock::lock;
use super::stats::AllCounts;
use super::tracking::Tracking;
use super::volatile::{DATABASES, VolatileKeys};
use crate::sync::Notify;
use crate::time::{Clock, Instant};

/// See the head of the module.
pub(super) struct SharedState {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seed: [u8; 32],
    pub(super) port: u16,
    pub(super) process_id: u32,
    pub(super) appendfsync: &'static str,
    pub(super) run_id: String,
    pub(super) started_at: Instant,
    pub(super) clients: Mutex<Clients>,
    pub(super) counts: AllCounts,
    pub(super) cursors: Mutex<ScanCursors>,
    pub(super) tracking: Tracking,
    pub(super) volatile: [VolatileKeys; DATABASES],
    limits: Mutex<Limits>,
    /// How often the limits have changed.
    limits_version: AtomicU64,
    password: Mutex<Option<Vec<u8>>>,
    has_password: AtomicBool,
    shutdown: AtomicBool,
    shutdown_requested: Notify,
}

/// Those that are connected.
#[derive(Debug, Default)]
pub(super) struct Clients {
    pub(super) by_id: BTreeMap<u64, Arc<Client>>,
    /// The id of the newest.
    pub(super) last: u64,
}

/// What [`SharedState::new`] is told.
pub(super) struct Setup {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seed: [u8; 32],
    pub(super) run_id: String,
    pub(super) config: Config,
}

impl SharedState {
    pub(super) fn new(Setup { clock, seed, run_id, config }: Setup) -> Self {
        let started_at = clock.now();
        let state = Self {
            clock,
            seed,
            port: config.port,
            process_id: config.process_id,
            appendfsync: config.appendfsync,
            run_id,
            started_at,
            clients: Mutex::default(),
            counts: AllCounts::default(),
            cursors: Mutex::default(),
            tracking: Tracking::new(),
            volatile: array::from_fn(|_| VolatileKeys::new()),
            limits: Mutex::new(config.limits),
            limits_version: AtomicU64::new(0),
            has_password: AtomicBool::new(config.password.is_some()),
            password: Mutex::new(config.password),
            shutdown: AtomicBool::new(false),
            shutdown_requested: Notify::new(),
        };
        state.tracking.set_output_bytes(config.limits.output_bytes);
        state
    }

    /// The limits, and the version of them that [`SharedState::limits_since`] asks for.
    pub(super) fn limits(&self) -> (u64, Limits) {
        let limits = lock(&self.limits);
        (self.limits_version.load(Ordering::Relaxed), *limits)
    }

    /// The limits, unless they are still those of `version`.
    pub(super) fn limits_since(&self, version: u64) -> Option<(u64, Limits)> {
        (self.limits_version.load(Ordering::Acquire) != version).then(|| self.limits())
    }

    pub(super) fn set_limits(&self, new: Limits) {
        let mut limits = lock(&self.limits);
        *limits = new;
        self.tracking.set_output_bytes(new.output_bytes);
        self.limits_version.fetch_add(1, Ordering::Release);
    }

    pub(super) fn password(&self) -> Option<Vec<u8>> {
        lock(&self.password).clone()
    }

    pub(super) fn set_password(&self, new: Option<Vec<u8>>) {
        let mut password = lock(&self.password);
        self.has_password.store(new.is_some(), Ordering::Relaxed);
        *password = new;
    }

    /// Whether clients must authenticate.
    pub(super) fn needs_password(&self) -> bool {
        self.has_password.load(Ordering::Relaxed)
    }

    /// Whether `password` is right. Takes the same time wherever it differs.
    pub(super) fn accepts_password(&self, password: &[u8]) -> bool {
        match &*lock(&self.password) {
            None => true,
            Some(expected) => {
                let differences = expected.iter().zip(password).fold(0, |sum, (a, b)| sum | (a ^ b));
                expected.len() == password.len() && differences == 0
            }
        }
    }

    pub(super) fn request_shutdown(&self) {
        self.shutdown.store(true, Ordering::SeqCst);
        self.shutdown_requested.notify_waiters();
    }

    pub(super) fn shutdown_is_requested(&self) -> bool {
        self.shutdown.load(Ordering::SeqCst)
    }

    pub(super) async fn shutdown_requested(&self) {
        loop {
            // It counts as waiting from here on, so that no request falls in between.
            let notified = self.shutdown_requested.notified();
            if self.shutdown_is_requested() {
                return;
            }
            notified.await;
        }
    }
}

impl fmt::Debug for SharedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedState").field("run_id", &self.run_id).finish_non_exhaustive()
    }
}
