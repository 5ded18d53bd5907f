//! The two servers: redis-server as a process, boson's in this one.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::not_run::not_run;
use boson::block::MemoryNamespace;
use boson::redis::{Config, Server, Session, Stage};
use boson::rt::time::MonotonicClock;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, Options};

/// How long redis-server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A redis-server of our own, on a Unix socket; ended when dropped.
pub(crate) struct Redis {
    process: Child,
    socket: PathBuf,
    stream: UnixStream,
    received: Vec<u8>,
}

impl Redis {
    /// Starts one; `None`, and a word about it, if it is not installed. In CI that is a failure.
    pub(crate) fn start() -> Option<Self> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("boson-parity-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory for the socket");
        let socket = directory.join("redis.sock");
        let spawned = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(&directory)
            .stdout(Stdio::null())
            .spawn();
        let process = match spawned {
            Ok(process) => process,
            Err(error) => {
                not_run(&format!("redis-server cannot be started to compare replies with it: {error}"));
                return None;
            }
        };
        let stream = connect(&socket);
        Some(Self { process, socket, stream, received: Vec::new() })
    }

    /// Sends `request` and waits for one reply.
    pub(crate) fn call(&mut self, request: &[u8]) -> Vec<u8> {
        self.stream.write_all(request).expect("redis-server takes the request");
        loop {
            if let Some(len) = reply_len(&self.received) {
                return self.received.drain(..len).collect();
            }
            let mut chunk = [0; 16 * 1024];
            let len = self.stream.read(&mut chunk).expect("redis-server replies");
            assert!(len > 0, "redis-server closed the connection after {}", request.escape_ascii());
            self.received.extend_from_slice(&chunk[..len]);
        }
    }

    /// One more connection.
    #[allow(dead_code, reason = "not every test that shares this file uses it")]
    pub(crate) fn connect(&self) -> UnixStream {
        connect(&self.socket)
    }

    /// Sends `bytes` on a connection of their own and returns what comes until its end.
    pub(crate) fn converse(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = connect(&self.socket);
        stream.write_all(bytes).expect("redis-server takes the bytes");
        stream.shutdown(std::net::Shutdown::Write).expect("half-closed");
        let mut received = Vec::new();
        // A reset after the reply is an end, too.
        let _ = stream.read_to_end(&mut received);
        received
    }

    pub(crate) fn scan(&mut self, options: &str) -> Vec<Vec<u8>> {
        scan(options, |request| self.call(request))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(directory) = self.socket.parent() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

fn connect(socket: &PathBuf) -> UnixStream {
    for _ in 0..500 {
        if let Ok(stream) = UnixStream::connect(socket) {
            stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
            return stream;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("redis-server does not listen");
}

/// boson's server with one connection, without a socket.
pub(crate) struct Boson {
    session: Session<SimEnv, MemoryNamespace>,
    executor: Executor,
}

impl Boson {
    pub(crate) fn new() -> Self {
        Self::with_config(Config::default())
    }

    pub(crate) fn with_password(password: &[u8]) -> Self {
        Self::with_config(Config::default().password(password))
    }

    fn with_config(config: Config) -> Self {
        let executor = Executor::new(1);
        let namespace = MemoryNamespace::new("mem:4G", 4 << 30, 4096).expect("memory");
        let options = Options::default().identity([1; 16]).log_bytes(1 << 30);
        let db = run(&executor, Db::open_on(executor.env(), namespace, options)).expect("a fresh store");
        // The time that keys expire by is the one that redis-server sees, too.
        let server = Server::new(executor.env(), db, Arc::new(MonotonicClock::new()), config)
            .expect("room for the databases");
        let session = Session::new(&server, "127.0.0.1:1", "127.0.0.1:6380").expect("room for a client");
        Self { session, executor }
    }

    /// Sends `request` and returns the reply.
    pub(crate) fn call(&mut self, request: &[u8]) -> Vec<u8> {
        self.session.feed(request);
        run(&self.executor, self.session.run());
        self.session.take_replies()
    }

    /// One more connection.
    #[allow(dead_code, reason = "not every test that shares this file uses it")]
    pub(crate) fn connect(&self) -> Session<SimEnv, MemoryNamespace> {
        Session::new(self.session.server(), "127.0.0.1:2", "127.0.0.1:6380").expect("room for a client")
    }

    /// Sends `request` on `session` and returns everything that is to be sent then.
    #[allow(dead_code, reason = "not every test that shares this file uses it")]
    pub(crate) fn call_on(&self, session: &mut Session<SimEnv, MemoryNamespace>, request: &[u8]) -> Vec<u8> {
        session.feed(request);
        run(&self.executor, session.run());
        let mut received = Vec::new();
        while session.has_replies() {
            let replies = session.take_replies();
            received.extend_from_slice(&replies);
            session.sent(replies);
        }
        received
    }

    /// Sends `request` this many times and throws the replies away, as a connection does once they
    /// are sent.
    #[allow(dead_code, reason = "not every test that shares this file uses it")]
    pub(crate) fn discard(&mut self, request: &[u8], times: usize) {
        let session = &mut self.session;
        run(&self.executor, async {
            for _ in 0..times {
                session.feed(request);
                session.run().await;
                let replies = session.take_replies();
                session.sent(replies);
            }
        });
    }

    /// Sends `bytes` and returns what comes until the connection ends or more bytes are awaited.
    pub(crate) fn converse(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.session.feed(bytes);
        let mut received = Vec::new();
        loop {
            let stage = run(&self.executor, self.session.run());
            if matches!(stage, Stage::Ended(_)) {
                // What is already sent has arrived; Redis drops the connection without the rest,
                // too.
                return received;
            }
            received.extend(self.session.take_replies());
            if stage != Stage::Running {
                return received;
            }
        }
    }

    pub(crate) fn scan(&mut self, options: &str) -> Vec<Vec<u8>> {
        scan(options, |request| self.call(request))
    }
}

fn scan(options: &str, mut call: impl FnMut(&[u8]) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut cursor = "0".to_owned();
    for _ in 0..10_000 {
        let reply = call(format!("scan {cursor} {options}\r\n").as_bytes());
        let strings = bulk_strings(&reply);
        cursor = String::from_utf8(strings[0].clone()).expect("a number");
        found.extend_from_slice(&strings[1..]);
        if cursor == "0" {
            return found;
        }
    }
    panic!("scan {options} does not end");
}

/// How long the reply at the start of `bytes` is; `None` if it is not complete.
pub(crate) fn reply_len(bytes: &[u8]) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&bytes[1..line - 2]).ok()?.parse::<i64>().ok();
    let (children, payload) = match bytes[0] {
        b'$' | b'=' => (0, number()?.try_into().map_or(0, |len: usize| len + 2)),
        b'*' | b'~' | b'>' => (number()?.max(0), 0),
        b'%' => (number()? * 2, 0),
        _ => (0, 0),
    };
    let mut end = line + payload;
    for _ in 0..children {
        end += reply_len(bytes.get(end..)?)?;
    }
    (end <= bytes.len()).then_some(end)
}

/// All bulk strings in a reply, in order.
fn bulk_strings(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut strings = Vec::new();
    let mut at = 0;
    while at < reply.len() {
        let line = at + reply[at..].windows(2).position(|pair| pair == b"\r\n").expect("a line") + 2;
        at = line;
        if reply[..line].rsplit(|&byte| byte == b'\n').nth(1).is_some_and(|line| line.starts_with(b"$")) {
            let head = reply[..line - 2].rsplit(|&byte| byte == b'\n').next().expect("the head");
            let len: usize = std::str::from_utf8(&head[1..]).expect("digits").parse().expect("a length");
            strings.push(reply[line..line + len].to_vec());
            at = line + len + 2;
        }
    }
    strings
}

/// The parts of a reply, sorted: the same for replies that differ only in the order of elements.
pub(crate) fn sorted(reply: &[u8]) -> Vec<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = reply.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    parts.sort();
    parts
}

/// What kind of reply it is.
pub(crate) fn kind(reply: &[u8]) -> Option<u8> {
    reply.first().copied()
}

/// Runs `future` together with the store's tasks.
fn run<F: Future>(executor: &Executor, future: F) -> F::Output {
    executor.block_on(future)
}
