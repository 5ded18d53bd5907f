//! A server on one core.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::client::Client;
use super::config::{Config, Limits};
use super::expiry::SharedExpiryCycle;
use super::keyspace::{Keyspace, UnixMs};
use super::lock::lock;
use super::shared::{Clients, Setup, SharedState};
use super::stats::{Counted, Counts, Stats};
use crate::Result;
use crate::block::Namespace;
use crate::rt::Instant;
use crate::rt::time::Clock;
use crate::store::{Db, Env};

/// The version of Redis whose behaviour this server has, as clients ask for it.
pub const REDIS_VERSION: &str = "7.0.15";

/// A [`Server`] on its way to further cores. [`Server::shared`] gives it; it is cheap to clone, and
/// may be sent to any core.
///
/// A client does not notice which core it is connected to: the cores have the same databases (by
/// [`SharedDb`](crate::store::SharedDb)), settings and list of clients.
#[derive(Clone, Debug)]
pub struct SharedServer {
    state: Arc<SharedState>,
}

impl SharedServer {
    /// The server on another core: `db` is that core's handle of the same store, and `env` gives
    /// timers there.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](crate::ErrorKind::LimitReached) if the store has too many other trees.
    pub fn attach<E: Env, N: Namespace>(&self, env: E, db: Db<E, N>) -> Result<Rc<Server<E, N>>> {
        Server::of(&self.state, env, db)
    }
}

/// A Redis server on one core: its handles of the databases, and what it [shares](SharedServer)
/// with the same server on other cores.
pub struct Server<E: Env, N: Namespace> {
    pub(super) keyspace: Keyspace<E, N>,
    pub(super) env: E,
    pub(super) shared: Arc<SharedState>,
    counts: Arc<Counts>,
    /// As this core saw them last.
    limits: Cell<(u64, Limits)>,
    random: RefCell<StdRng>,
    expiry: SharedExpiryCycle,
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
        let seed = config.seed.unwrap_or_else(|| {
            let mut drawn = [0; 32];
            env.fill_random(&mut drawn);
            drawn
        });
        let mut random = StdRng::from_seed(seed);
        let run_id = (0..5).map(|_| format!("{:08x}", random.next_u32())).collect();
        Self::of(&Arc::new(SharedState::new(Setup { clock, seed, run_id, config })), env, db)
    }

    /// This core's part of the server.
    pub(super) fn of(shared: &Arc<SharedState>, env: E, db: Db<E, N>) -> Result<Rc<Self>> {
        let (counts, core) = shared.counts.add_core();
        // Each core draws numbers of its own.
        let mut seed = shared.seed;
        seed.iter_mut().zip(core.to_le_bytes()).for_each(|(byte, core)| *byte ^= core);
        Ok(Rc::new(Self {
            keyspace: Keyspace::new(db, Arc::clone(shared), Arc::clone(&counts))?,
            env,
            shared: Arc::clone(shared),
            counts,
            limits: Cell::new(shared.limits()),
            random: RefCell::new(StdRng::from_seed(seed)),
            expiry: SharedExpiryCycle::new(),
        }))
    }

    /// This server, for further cores.
    pub fn shared(&self) -> SharedServer {
        SharedServer { state: Arc::clone(&self.shared) }
    }

    pub(super) fn count(&self, counted: Counted, amount: usize) {
        self.counts.add(counted, amount);
    }

    /// The limits that CONFIG SET can change.
    pub(super) fn limits(&self) -> Limits {
        if let Some(new) = self.shared.limits_since(self.limits.get().0) {
            self.limits.set(new);
        }
        self.limits.get().1
    }

    /// Monotonic time.
    pub(super) fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    /// The time that keys expire by.
    pub(super) fn unix_ms(&self) -> UnixMs {
        UnixMs::try_from(self.unix_time().as_millis()).unwrap_or(UnixMs::MAX)
    }

    /// Wall-clock time since the Unix epoch.
    pub(super) fn unix_time(&self) -> Duration {
        self.shared.clock.unix_time()
    }

    pub(super) fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// The counts of all cores since the start or the last CONFIG RESETSTAT.
    pub fn stats(&self) -> Stats {
        self.shared.counts.get()
    }

    /// The clients of all cores.
    pub(super) fn clients(&self) -> MutexGuard<'_, Clients> {
        lock(&self.shared.clients)
    }

    /// How many clients are connected, to all cores together.
    pub fn client_count(&self) -> usize {
        self.clients().by_id.len()
    }

    /// Whether clients must authenticate.
    pub(super) fn needs_password(&self) -> bool {
        self.shared.needs_password()
    }

    /// Registers a client; `None` if there are too many.
    pub(super) fn admit(&self, peer: String, local: String) -> Option<Arc<Client>> {
        let mut clients = self.clients();
        if clients.by_id.len() >= self.limits().max_clients {
            self.count(Counted::RejectedConnections, 1);
            return None;
        }
        let id = clients.last + 1;
        clients.last = id;
        let client = Arc::new(Client::new(id, peer, local, self.now(), !self.needs_password()));
        clients.by_id.insert(id, Arc::clone(&client));
        self.count(Counted::Connections, 1);
        Some(client)
    }

    pub(super) fn forget(&self, client: &Client) {
        let forgotten = self.clients().by_id.remove(&client.id);
        drop(forgotten);
        self.keyspace.tracking().disable(client);
    }

    /// Deletes expired keys: visits at most `budget` keys and returns how many it visited, which is
    /// fewer than `budget` if there was no more to do. Call it regularly, for example ten times a
    /// second with a budget of 1,000, on one core.
    ///
    /// # Errors
    ///
    /// Those of the store.
    pub async fn expire_step(&self, budget: usize) -> Result<usize> {
        self.expiry.step(&self.keyspace, self.unix_ms(), budget).await
    }

    /// Asks the program to end, as SHUTDOWN does. Every core hears of it.
    pub fn request_shutdown(&self) {
        self.shared.request_shutdown();
    }

    /// Whether a client has asked the program to end.
    pub fn shutdown_is_requested(&self) -> bool {
        self.shared.shutdown_is_requested()
    }

    /// Completes when a client has asked the program to end.
    pub async fn shutdown_requested(&self) {
        self.shared.shutdown_requested().await;
    }

    /// Makes all connections check their limits again.
    pub(super) fn wake_all(&self) {
        self.clients().by_id.values().for_each(|client| client.wake());
    }

    /// Ends all connections, of every core, as soon as they next wait.
    pub fn kill_all(&self) {
        // Killing wakes tasks but runs none.
        self.clients().by_id.values().for_each(|client| client.kill());
    }
}

impl<E: Env, N: Namespace> std::fmt::Debug for Server<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("stats", &self.stats())
            .field("limits", &self.limits())
            .finish_non_exhaustive()
    }
}
