//! A server without sockets, for the tests of this module.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::keyspace::{Keyspace, standin};
use super::{Config, Server, Session, Verdict};
use crate::mem::DmaBuf;
use crate::rt::{Clock, Instant};
use crate::{BufResult, Result};

/// Time that passes only when a test says so.
#[derive(Debug)]
pub(super) struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed) * 1_000_000)
    }

    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_700_000_000) + Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

/// A server and its clock.
pub(super) struct World {
    pub(super) server: Rc<Server<TestEnv, TestNamespace>>,
    clock: Arc<TestClock>,
}

/// A client of a [`World`].
pub(super) struct TestClient {
    pub(super) session: Session<TestEnv, TestNamespace>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        let clock = Arc::new(TestClock(AtomicU64::new(0)));
        let server = Server::new(TestEnv, Keyspace::new(standin::Db::new()), clock.clone(), config);
        Self { server, clock }
    }

    /// Lets time pass.
    pub(super) fn advance_ms(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::Relaxed);
    }

    pub(super) fn connect(&self) -> TestClient {
        self.try_connect().expect("room for a client")
    }

    pub(super) fn try_connect(&self) -> Option<TestClient> {
        Session::new(&self.server, "192.0.2.1:5000", "192.0.2.2:6380").map(|session| TestClient { session })
    }

    pub(super) fn run<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }
}

impl TestClient {
    /// Sends `bytes`, runs them and returns the replies and what is to be done.
    pub(super) fn send(&mut self, bytes: &[u8]) -> (Vec<u8>, Verdict) {
        self.session.feed(bytes);
        let verdict = block_on(self.session.run());
        let replies = self.session.take_replies();
        self.session.sent(replies.clone());
        (replies, verdict)
    }

    /// Sends an inline command and returns its reply as text.
    pub(super) fn call(&mut self, command: &str) -> String {
        let (reply, verdict) = self.send(format!("{command}\r\n").as_bytes());
        assert_eq!(verdict, Verdict::Receive, "after {command}");
        String::from_utf8(reply).expect("text")
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct TestEnv;
impl crate::store::Env for TestEnv {
    fn now(&self) -> Instant {
        Instant::ORIGIN
    }
    fn sleep(&self, _: Duration) -> impl Future<Output = ()> {
        std::future::pending()
    }
    fn spawn(&self, _: &'static str, _: impl Future<Output = ()> + 'static) {}
}
#[derive(Clone, Debug)]
pub(super) struct TestNamespace;
impl crate::block::Namespace for TestNamespace {
    fn info(&self) -> &crate::block::NamespaceInfo {
        unreachable!()
    }
    fn size_bytes(&self) -> u64 {
        0
    }
    async fn read(&self, _: u64, buf: DmaBuf) -> BufResult<(), DmaBuf> {
        (Ok(()), buf)
    }
    async fn write(&self, _: u64, buf: DmaBuf) -> BufResult<(), DmaBuf> {
        (Ok(()), buf)
    }
    async fn flush(&self) -> Result<()> {
        Ok(())
    }
    async fn trim(&self, _: u64, _: u64) -> Result<()> {
        Ok(())
    }
    async fn grow(&self, _: u64) -> Result<()> {
        Ok(())
    }
}
