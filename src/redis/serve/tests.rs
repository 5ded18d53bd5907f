use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;
use crate::block::MemoryNamespace;
use crate::net::Net;
use crate::redis::client::Client;
use crate::redis::{Config, Limits};
use crate::rt::time::MonotonicClock;
use crate::rt::{self, Core, CoreConfig};
use crate::store::{Db, Options, RtEnv};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a core of its own; ended by SHUTDOWN when dropped.
struct RunningServer {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl RunningServer {
    fn start(limits: Limits) -> Self {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let core = Core::new(&CoreConfig::default().seed([0; 32])).expect("a core");
            core.block_on(async move {
                let listener = TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0)));
                let listener = listener.expect("a free port");
                let namespace = MemoryNamespace::new("mem:", 256 << 20, 4096).expect("memory");
                let db = Db::open_on(RtEnv, namespace, Options::default().identity([1; 16]))
                    .await
                    .expect("a fresh store");
                let config = Config::default().limits(limits);
                let server = Server::new(RtEnv, db, Arc::new(MonotonicClock::new()), config)
                    .expect("room for the databases");
                drop(rt::named("expiry").spawn(expire_keys(server.clone())));
                sender.send(listener.local_addr()).expect("the test waits for it");
                serve(&server, &listener).await.expect("its network is not lost");
                assert_eq!(server.client_count(), 0, "all connections have ended");
            });
        });
        let address = receiver.recv_timeout(PATIENCE).expect("the server starts");
        Self { address, thread: Some(thread) }
    }

    fn connect(&self) -> StdStream {
        let stream = StdStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    }

    /// Sends `bytes`, then the end of the stream, and returns what comes back until its end.
    fn converse(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("sent");
        stream.shutdown(Shutdown::Write).expect("half-closed");
        read_to_end(&mut stream)
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        if let Ok(mut stream) = StdStream::connect(self.address) {
            let _ = stream.write_all(b"shutdown\r\n");
            let _ = stream.read(&mut [0]);
        }
        let result = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(result, Some(Ok(()))), "the server panicked");
    }
}

fn read_to_end(stream: &mut StdStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text up to an orderly end");
    text
}

fn line(stream: &StdStream) -> String {
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line).expect("a line");
    line
}

/// Ten thousand idle connections should cost no more than some 60 MB, apart from the sockets' own
/// memory.
#[test]
fn an_idle_connection_is_small() {
    let core = Core::new(&CoreConfig::default().seed([0; 32])).expect("a core");
    let bytes = core.block_on(async {
        let net = Net::kernel();
        let listener =
            TcpListener::bind_on(&net, SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let namespace = MemoryNamespace::new("mem:", 64 << 20, 4096).expect("memory");
        let db =
            Db::open_on(RtEnv, namespace, Options::default().identity([1; 16])).await.expect("a fresh store");
        let server = Server::new(RtEnv, db, Arc::new(MonotonicClock::new()), Config::default())
            .expect("room for the databases");
        let stream = TcpStream::connect_on(&net, listener.local_addr()).await.expect("it listens");
        let mut session = Session::new(&server, "peer", "local").expect("room for a client");
        let buffer = session.take_buffer().into_inner().capacity();
        size_of_val(&serve_connection(server, stream)) + buffer + size_of::<Client>()
    });

    println!("{bytes} bytes");
    assert!(bytes <= 6 * 1024, "{bytes} bytes");
}

#[test]
fn a_half_closed_client_gets_all_its_replies() {
    let server = RunningServer::start(Limits::default());
    assert_eq!(server.converse(b"set k v\r\nget k\r\nping"), "+OK\r\n$1\r\nv\r\n");
    assert_eq!(server.converse("ping\r\n".repeat(10_000).as_bytes()), "+PONG\r\n".repeat(10_000));
}

#[test]
fn the_last_reply_arrives_although_the_client_keeps_sending() {
    let server = RunningServer::start(Limits::default());
    let garbage = "*1\r\n!\r\n".to_owned() + &"x".repeat(200_000);
    assert_eq!(server.converse(garbage.as_bytes()), "-ERR Protocol error: expected '$', got '!'\r\n");
}

#[test]
fn large_values_go_in_and_out() {
    let server = RunningServer::start(Limits::default());
    let value = "v".repeat(20 << 20);
    let request =
        format!("*3\r\n$3\r\nset\r\n$1\r\nk\r\n${}\r\n{value}\r\nget k\r\nstrlen k\r\n", value.len());
    let expected = format!("+OK\r\n${0}\r\n{value}\r\n:{0}\r\n", value.len());
    assert!(server.converse(request.as_bytes()) == expected, "a value of 20 MiB");
}

#[test]
fn a_client_too_many_is_told_so() {
    let server = RunningServer::start(Limits::default().max_clients(1));
    let mut first = server.connect();
    first.write_all(b"ping\r\n").expect("sent");
    assert_eq!(line(&first), "+PONG\r\n");
    assert_eq!(read_to_end(&mut server.connect()), "-ERR max number of clients reached\r\n");
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while server.converse(b"ping\r\n") != "+PONG\r\n" {
        assert!(Instant::now() < deadline, "the place of a client that left stays taken");
    }
}

#[test]
fn a_client_that_takes_no_replies_is_dropped_and_others_are_not() {
    let limits = Limits::default().write(Duration::from_millis(300)).output_bytes(8 << 20);
    let server = RunningServer::start(limits);
    let mut slow = server.connect();
    let request = format!("*3\r\n$3\r\nset\r\n$1\r\nk\r\n${}\r\n{}\r\n", 4 << 20, "v".repeat(4 << 20));
    slow.write_all(request.as_bytes()).expect("sent");
    assert_eq!(line(&slow), "+OK\r\n");
    slow.write_all("get k\r\n".repeat(20).as_bytes()).expect("sent");
    let other = server.connect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(600) {
        (&other).write_all(b"ping\r\n").expect("sent");
        assert_eq!(line(&other), "+PONG\r\n");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut rest = Vec::new();
    let end = slow.read_to_end(&mut rest);
    assert!(
        end.is_err() || rest.len() < 20 * (4 << 20),
        "{} bytes were sent to a client that took none",
        rest.len()
    );
    (&other).write_all(b"info stats\r\n").expect("sent");
    let info = std::iter::repeat_with(|| line(&other))
        .find(|line| line.starts_with("client_output_buffer"))
        .expect("a line");
    assert_eq!(info, "client_output_buffer_limit_disconnections:1\r\n");
}

#[test]
fn an_idle_client_is_dropped_if_so_configured() {
    let server = RunningServer::start(Limits::default().idle(Duration::from_millis(200)));
    let mut idle = server.connect();
    let mut rest = Vec::new();
    // An orderly end or a reset, but before the read times out.
    let started = Instant::now();
    let _ = idle.read_to_end(&mut rest);
    assert!(rest.is_empty() && started.elapsed() < PATIENCE / 2);
}

#[test]
fn killing_reaches_a_client_that_waits() {
    let server = RunningServer::start(Limits::default());
    let mut waiting = server.connect();
    waiting.write_all(b"client id\r\n").expect("sent");
    let id = line(&waiting);
    let kill = format!("client kill id {}\r\n", id.trim().trim_start_matches(':'));
    assert_eq!(server.converse(kill.as_bytes()), ":1\r\n");
    let _ = waiting.read_to_end(&mut Vec::new());
}

#[test]
fn shutdown_ends_everything() {
    let mut server = RunningServer::start(Limits::default());
    let mut waiting = server.connect();
    waiting.write_all(b"ping\r\n").expect("sent");
    assert_eq!(line(&waiting), "+PONG\r\n");
    assert_eq!(server.converse(b"set k v\r\nshutdown\r\nping\r\n"), "+OK\r\n");
    server.thread.take().expect("not joined yet").join().expect("no panic");
    let _ = waiting.read_to_end(&mut Vec::new());
    assert!(StdStream::connect(server.address).is_err(), "nobody listens any more");
    // Nothing is left for the drop to end.
    std::mem::forget(server);
}

#[test]
fn keys_expire_although_nobody_asks_for_them() {
    let server = RunningServer::start(Limits::default());
    server.converse(b"set a 1 px 50\r\nset b 2\r\n");
    let deadline = Instant::now() + PATIENCE;
    while server.converse(b"dbsize\r\n") != ":1\r\n" {
        assert!(Instant::now() < deadline, "the key is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
