//! A server without sockets on a simulated disk, for the tests of sessions.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::block::MemoryOptions;
use crate::redis::{Config, Server, Session, Stage};
use crate::rt::Instant;
use crate::rt::time::Clock;
use crate::sim::{Disk, Executor, SimEnv};
use crate::store::{Db, Options};

/// Wall-clock time that passes only when a test lets it.
#[derive(Debug, Default)]
pub(super) struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed) * 1_000_000)
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_700_000_000) + Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A server, its disk and its clock.
pub(super) struct World {
    pub(super) server: Rc<Server<SimEnv, Disk>>,
    pub(super) disk: Disk,
    executor: Rc<RefCell<Executor>>,
    clock: Arc<TestClock>,
    config: Config,
    options: Options,
}

/// A client of a [`World`].
pub(super) struct TestClient {
    pub(super) session: Session<SimEnv, Disk>,
    executor: Rc<RefCell<Executor>>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        Self::seeded(1, config)
    }

    /// All that is random in it follows from `seed`.
    pub(super) fn seeded(seed: u64, config: Config) -> Self {
        let options = Options::default().identity([7; 16]).log_bytes(1 << 20);
        Self::start(Executor::new(seed), config, options, 64 << 20)
    }

    pub(super) fn on_disk(config: Config, options: Options, disk_bytes: u64) -> Self {
        Self::start(Executor::new(1), config, options, disk_bytes)
    }

    fn start(executor: Executor, config: Config, options: Options, disk_bytes: u64) -> Self {
        let disk = Disk::new(MemoryOptions::disk(disk_bytes), 2);
        let clock = Arc::new(TestClock::default());
        let server = open(&executor, &disk, &clock, &config, &options);
        Self { server, disk, executor: Rc::new(RefCell::new(executor)), clock, config, options }
    }

    /// The process is killed and starts anew on the same disk.
    pub(super) fn restart(self) -> Self {
        let Self { server, disk, clock, config, options, .. } = self;
        drop(server);
        disk.kill();
        let executor = Executor::new(3);
        let disk = disk.attach_again();
        let server = open(&executor, &disk, &clock, &config, &options);
        Self { server, disk, executor: Rc::new(RefCell::new(executor)), clock, config, options }
    }

    /// Lets time pass.
    pub(super) fn advance_ms(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    pub(super) fn connect(&self) -> TestClient {
        self.try_connect().expect("room for a client")
    }

    pub(super) fn try_connect(&self) -> Option<TestClient> {
        let session = Session::new(&self.server, "192.0.2.1:5000", "192.0.2.2:6380")?;
        Some(TestClient { session, executor: self.executor.clone() })
    }

    pub(super) fn run<F: Future>(&self, future: F) -> F::Output {
        run(&self.executor.borrow(), future)
    }
}

fn open(
    executor: &Executor,
    disk: &Disk,
    clock: &Arc<TestClock>,
    config: &Config,
    options: &Options,
) -> Rc<Server<SimEnv, Disk>> {
    let db =
        run(executor, Db::open_on(executor.env(), disk.clone(), options.clone())).expect("the store opens");
    Server::new(executor.env(), db, clock.clone(), config.clone()).expect("room for the databases")
}

impl TestClient {
    /// Sends `bytes`, runs them and returns the replies and the stage that the connection is in
    /// then.
    pub(super) fn send(&mut self, bytes: &[u8]) -> (Vec<u8>, Stage) {
        self.session.feed(bytes);
        let stage = run(&self.executor.borrow(), self.session.run());
        let replies = self.session.take_replies();
        self.session.sent(replies.clone());
        (replies, stage)
    }

    /// Sends an inline command and returns its reply as text.
    pub(super) fn call(&mut self, command: &str) -> String {
        let (reply, stage) = self.send(format!("{command}\r\n").as_bytes());
        assert_eq!(stage, Stage::Receiving, "after {command}");
        String::from_utf8(reply).expect("text")
    }
}

/// Runs `future` together with the store's tasks, on simulated time.
fn run<F: Future>(executor: &Executor, future: F) -> F::Output {
    executor.block_on(future)
}
