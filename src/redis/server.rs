//! What all connections of a core share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::client::Client;
use super::config::{Config, Limits};
use super::cursor::ScanCursors;
use super::expiry::SharedExpiryCycle;
use super::keyspace::{Keyspace, UnixMs};
use crate::Result;
use crate::block::Namespace;
use crate::rt::Instant;
use crate::rt::time::Clock;
use crate::store::{Db, Env};
use crate::sync::local::Notify;

/// The version of Redis whose behaviour this server has, as clients ask for it.
pub const REDIS_VERSION: &str = "7.0.15";

/// Counts since the start or the last CONFIG RESETSTAT.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections that were accepted.
    pub connections: Cell<u64>,
    /// Connections that were refused because there were too many.
    pub rejected_connections: Cell<u64>,
    /// Commands that were run.
    pub commands: Cell<u64>,
    /// Error replies.
    pub errors: Cell<u64>,
    /// Bytes received.
    pub input_bytes: Cell<u64>,
    /// Bytes sent.
    pub output_bytes: Cell<u64>,
    /// Clients dropped because they did not take their replies.
    pub dropped_clients: Cell<u64>,
}

pub(super) fn add(counter: &Cell<u64>, amount: usize) {
    counter.set(counter.get().saturating_add(u64::try_from(amount).unwrap_or(u64::MAX)));
}

impl Stats {
    pub(super) fn reset(&self) {
        let Self {
            connections,
            rejected_connections,
            commands,
            errors,
            input_bytes,
            output_bytes,
            dropped_clients,
        } = self;
        for counter in
            [connections, rejected_connections, commands, errors, input_bytes, output_bytes, dropped_clients]
        {
            counter.set(0);
        }
    }
}

/// A Redis server on one core: its databases, clients, settings and counts.
pub struct Server<E: Env, N: Namespace> {
    pub(super) keyspace: Keyspace<E, N>,
    pub(super) env: E,
    pub(super) stats: Stats,
    pub(super) limits: Cell<Limits>,
    pub(super) password: RefCell<Option<Vec<u8>>>,
    pub(super) port: u16,
    pub(super) process_id: u32,
    pub(super) appendfsync: &'static str,
    pub(super) run_id: String,
    pub(super) started_at: Instant,
    pub(super) clients: RefCell<BTreeMap<u64, Rc<Client>>>,
    pub(super) cursors: RefCell<ScanCursors>,
    clock: Arc<dyn Clock>,
    random: RefCell<StdRng>,
    last_client: Cell<u64>,
    expiry: SharedExpiryCycle,
    shutdown: Cell<bool>,
    shutdown_requested: Notify,
}

impl<E: Env, N: Namespace> Server<E, N> {
    /// A server for the databases of the store `db`. `env` gives timers, and the seed unless
    /// [`Config::seed`] sets one; `clock` gives the time that keys expire by.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](crate::ErrorKind::LimitReached) if the store has too many other trees.
    ///
    /// # Panics
    ///
    /// With [`RtEnv`](crate::store::RtEnv) and without a seed, outside a core.
    pub fn new(env: E, db: Db<E, N>, clock: Arc<dyn Clock>, config: Config) -> Result<Rc<Self>> {
        let keyspace = Keyspace::new(db)?;
        let seed = config.seed.unwrap_or_else(|| {
            let mut drawn = [0; 32];
            env.fill_random(&mut drawn);
            drawn
        });
        let mut random = StdRng::from_seed(seed);
        keyspace.tracking().output_bytes.set(config.limits.output_bytes);
        let run_id = (0..5).map(|_| format!("{:08x}", random.next_u32())).collect();
        Ok(Rc::new(Self {
            keyspace,
            env,
            stats: Stats::default(),
            limits: Cell::new(config.limits),
            password: RefCell::new(config.password),
            port: config.port,
            process_id: config.process_id,
            appendfsync: config.appendfsync,
            run_id,
            started_at: clock.now(),
            clients: RefCell::default(),
            cursors: RefCell::default(),
            clock,
            random: RefCell::new(random),
            last_client: Cell::new(0),
            expiry: SharedExpiryCycle::new(),
            shutdown: Cell::new(false),
            shutdown_requested: Notify::new(),
        }))
    }

    pub(super) fn set_limits(&self, limits: Limits) {
        self.limits.set(limits);
        self.keyspace.tracking().output_bytes.set(limits.output_bytes);
    }

    /// Monotonic time.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The time that keys expire by.
    pub(super) fn unix_ms(&self) -> UnixMs {
        UnixMs::try_from(self.clock.unix_time().as_millis()).unwrap_or(UnixMs::MAX)
    }

    /// Wall-clock time since the Unix epoch.
    pub(super) fn unix_time(&self) -> Duration {
        self.clock.unix_time()
    }

    pub(super) fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// The counts since the start or the last CONFIG RESETSTAT.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How many clients are connected.
    pub fn client_count(&self) -> usize {
        self.clients.borrow().len()
    }

    /// Whether clients must authenticate.
    pub(super) fn needs_password(&self) -> bool {
        self.password.borrow().is_some()
    }

    /// Whether `password` is right. Takes the same time wherever it differs.
    pub(super) fn accepts_password(&self, password: &[u8]) -> bool {
        match &*self.password.borrow() {
            None => true,
            Some(expected) => {
                let differences = expected.iter().zip(password).fold(0, |sum, (a, b)| sum | (a ^ b));
                expected.len() == password.len() && differences == 0
            }
        }
    }

    /// Registers a client; `None` if there are too many.
    pub(super) fn admit(&self, peer: String, local: String) -> Option<Rc<Client>> {
        if self.client_count() >= self.limits.get().max_clients {
            add(&self.stats.rejected_connections, 1);
            return None;
        }
        let id = self.last_client.get() + 1;
        self.last_client.set(id);
        let client = Rc::new(Client::new(id, peer, local, self.now(), !self.needs_password()));
        self.clients.borrow_mut().insert(id, client.clone());
        add(&self.stats.connections, 1);
        Some(client)
    }

    pub(super) fn forget(&self, client: &Client) {
        self.clients.borrow_mut().remove(&client.id);
        self.keyspace.tracking().disable(client);
    }

    /// Deletes expired keys: visits at most `budget` keys and returns how many it visited, which is
    /// fewer than `budget` if there was no more to do. Call it regularly, for example ten times a
    /// second with a budget of 1,000.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn expire_step(&self, budget: usize) -> Result<usize> {
        self.expiry.step(&self.keyspace, self.unix_ms(), budget).await
    }

    /// Asks the program to end, as SHUTDOWN does.
    pub fn request_shutdown(&self) {
        self.shutdown.set(true);
        self.shutdown_requested.notify_all();
    }

    /// Whether a client has asked the program to end.
    pub fn shutdown_is_requested(&self) -> bool {
        self.shutdown.get()
    }

    /// Completes when a client has asked the program to end.
    pub async fn shutdown_requested(&self) {
        while !self.shutdown.get() {
            self.shutdown_requested.notified().await;
        }
    }

    /// Makes all connections check their limits again.
    pub(super) fn wake_all(&self) {
        for client in self.clients.borrow().values() {
            client.wake();
        }
    }

    /// Ends all connections as soon as they next wait.
    pub fn kill_all(&self) {
        // Killing wakes tasks but runs none, so nobody else borrows the list meanwhile.
        for client in self.clients.borrow().values() {
            client.kill();
        }
    }
}

impl<E: Env, N: Namespace> std::fmt::Debug for Server<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("stats", &self.stats)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
