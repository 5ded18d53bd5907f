//! CLIENT TRACKING: what clients that keep copies are pushed, and when, as redis-server does it;
//! and that no change is missed.

use crate::support::redis_peer as peer;
use crate::support::server;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use boson::block::{MemoryNamespace, MemoryOptions};
use boson::redis::{Config, Server as RedisServer, Session, Stage};
use boson::rt::time::MonotonicClock;
use boson::sim::{Disk, Executor, SimEnv};
use boson::store::{Db, Options};
use peer::{Boson, Redis, reply_len};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use server::{Directory, Server};

const CLIENTS: usize = 3;

/// Each line is a client and what it sends. `sleep` lets keys expire.
const SCRIPT: &str = "
    # Reads, and writes of others and of one's own.
    0 hello 3
    0 client tracking on
    0 get a
    1 set a 1
    1 set a 2
    0 get a
    0 set a 3
    0 get a
    0 get a
    1 append a x
    0 mget a b c
    1 mset a 1 b 2
    1 mset c 3 d 4
    0 exists a b
    1 del a b nosuch
    1 del a
    0 get nosuch
    1 set nosuch v
    0 strlen n
    1 incr n
    0 get n
    1 incrbyfloat n 1.5
    0 getrange n 0 1
    1 setrange n 0 9
    0 ttl n
    1 expire n 1000
    0 get n
    1 persist n
    0 type n
    1 rename n m
    0 get m
    1 rename m n
    0 get n
    1 getdel n
    0 get n
    1 getset n 1
    0 get n
    1 getex n
    1 getex n ex 1000
    0 get n
    1 expire n -1
    0 touch n
    1 setnx n 1
    0 get n
    1 setnx n 2
    1 set n 3 nx
    1 set n 3 xx
    0 get n
    1 expire n 100 xx
    1 unlink n
    # Every client that has read is told, and those only.
    2 hello 3
    2 client tracking on
    0 get x
    2 get x
    1 set x 1
    1 set x 2
    2 get x
    1 set x 3
    # Another database, the same name: Redis does not tell them apart.
    0 get y
    1 select 5
    1 set y v
    1 select 0
    # Expiry.
    1 set short v px 20
    0 get short
    sleep
    1 get short
    1 exists short
    # Flushes.
    0 get a
    1 flushdb
    0 get a
    0 flushall
    2 client tracking off
    1 flushall
    # What is no read of keys by name.
    1 set k v
    0 keys *
    0 dbsize
    0 randomkey
    1 set k w
    # Options.
    0 client trackinginfo
    0 client getredir
    0 client caching yes
    0 client tracking on optin optout
    0 client tracking on bcast
    0 client tracking on prefix a
    0 client tracking on bcast optin
    0 client tracking on nosuch
    0 client tracking maybe
    0 client tracking on redirect x
    0 client tracking on redirect 99999
    0 client tracking on redirect
    0 client tracking
    0 client tracking on optin
    0 client trackinginfo
    0 client tracking on optout
    0 get k
    1 set k 1
    0 client caching no
    0 client caching maybe
    0 client caching
    0 client caching yes
    0 client trackinginfo
    0 client id x
    0 get k
    0 client trackinginfo
    1 set k 2
    0 client caching yes
    0 ping
    0 get k
    1 set k 3
    0 client caching yes
    0 nosuch
    0 get k
    1 set k 4
    0 client tracking off
    0 client trackinginfo
    0 client getredir
    0 client caching yes
    0 client tracking on optout
    0 client caching yes
    0 get k
    1 set k 5
    0 client caching no
    0 client trackinginfo
    0 get k
    1 set k 6
    0 get k
    1 set k 7
    0 client tracking off
    0 client tracking on noloop
    0 client trackinginfo
    0 get k
    0 set k 8
    1 set k 9
    0 get k
    1 set k 9
    0 get k
    0 flushall
    0 client tracking off
    # Broadcasts.
    0 client tracking on bcast
    0 client trackinginfo
    1 set anything v
    1 set anything v
    1 del nosuch
    0 set own v
    1 flushdb
    0 client tracking on
    0 client tracking off
    0 client tracking on bcast prefix user: prefix item: noloop
    0 client trackinginfo
    0 client tracking on bcast prefix user:1
    0 client tracking on bcast prefix us
    0 client tracking on bcast prefix a prefix ab
    0 client tracking on bcast prefix user:
    1 set user:1 v
    1 set item:1 v
    1 set other:1 v
    0 set user:2 v
    1 del user:1
    1 set user:3 v px 20
    sleep
    1 get user:3
    0 client tracking on bcast prefix new:
    0 client trackinginfo
    1 set new:1 v
    # RESP2: accepted, and nothing is pushed.
    0 client tracking off
    0 hello 2
    0 client tracking on
    0 client trackinginfo
    0 get k
    1 set k v
    0 client tracking on redirect
    # Replies that are not sent do not stop pushes.
    2 client tracking on
    2 get k
    1 set k v
    2 reset
    2 client trackinginfo
    2 client getredir
    1 set k v
";

/// Some connections to one of the servers.
trait Peers {
    /// Sends `request` as one of the clients, and returns all that this client gets up to the
    /// reply, and maybe more.
    fn call(&mut self, client: usize, request: &str) -> Vec<u8>;
}

struct RedisPeers {
    _redis: Redis,
    streams: Vec<UnixStream>,
}

impl Peers for RedisPeers {
    fn call(&mut self, client: usize, request: &str) -> Vec<u8> {
        let stream = &mut self.streams[client];
        stream.write_all(format!("{request}\r\n").as_bytes()).expect("redis-server takes the request");
        let (mut received, mut at) = (Vec::new(), 0);
        loop {
            while let Some(len) = received.get(at..).and_then(reply_len) {
                let is_push = received[at] == b'>';
                at += len;
                if !is_push {
                    return received;
                }
            }
            let mut chunk = [0; 4096];
            let len = stream.read(&mut chunk).expect("redis-server replies");
            assert!(len > 0, "redis-server closed the connection after {request}");
            received.extend_from_slice(&chunk[..len]);
        }
    }
}

struct BosonPeers {
    boson: Boson,
    sessions: Vec<Session<SimEnv, MemoryNamespace>>,
}

impl BosonPeers {
    fn new() -> Self {
        let boson = Boson::new();
        let sessions = (0..CLIENTS).map(|_| boson.connect()).collect();
        Self { boson, sessions }
    }
}

impl Peers for BosonPeers {
    fn call(&mut self, client: usize, request: &str) -> Vec<u8> {
        self.boson.call_on(&mut self.sessions[client], format!("{request}\r\n").as_bytes())
    }
}

/// What each client gets for each line of the script, as text.
fn run(peers: &mut dyn Peers) -> Vec<String> {
    let mut transcript = Vec::new();
    for line in SCRIPT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line == "sleep" {
            std::thread::sleep(std::time::Duration::from_millis(60));
            continue;
        }
        let (client, request) = line.split_once(' ').expect("a client and a request");
        let client: usize = client.parse().expect("a client");
        let mut received = vec![Vec::new(); CLIENTS];
        received[client] = peers.call(client, request);
        if request.starts_with("hello") {
            // It tells the version and the client's id.
            received[client].clear();
        }
        // What comes behind the reply, and what the others get, comes in front of the reply to
        // this.
        for (client, received) in received.iter_mut().enumerate() {
            received.extend(peers.call(client, "echo ."));
            let text = String::from_utf8_lossy(received).replace("\r\n", " ").replace("$1 . ", "");
            transcript.push(format!("{line} => {client}: {text}"));
        }
    }
    transcript
}

#[test]
fn clients_that_track_are_pushed_what_redis_pushes() {
    let Some(redis) = Redis::start() else { return };
    let streams = (0..CLIENTS).map(|_| redis.connect()).collect();
    let expected = run(&mut RedisPeers { _redis: redis, streams });
    let actual = run(&mut BosonPeers::new());
    let differences: Vec<String> = expected
        .iter()
        .zip(&actual)
        .filter(|(expected, actual)| expected != actual)
        .map(|(expected, actual)| format!("redis {expected}\nboson {actual}"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(expected.len(), actual.len());
    assert!(actual.iter().filter(|line| line.contains("invalidate")).count() > 40, "pushes are compared");
}

/// The invalidations among `received`, and the rest.
fn split_pushes(received: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (mut pushes, mut rest, mut at) = (Vec::new(), Vec::new(), 0);
    while at < received.len() {
        let len = reply_len(&received[at..]).expect("whole replies");
        if received[at] == b'>' {
            pushes.push(received[at..at + len].to_vec());
        } else {
            rest.extend_from_slice(&received[at..at + len]);
        }
        at += len;
    }
    (pushes, rest)
}

/// Clients that cache whatever they read and drop what they are told to never have an old value
/// once they have been told.
#[test]
fn a_copy_is_never_old() {
    let first = std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + 40u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut peers = BosonPeers::new();
        // So small that keys are dropped from it.
        let table = random.random_range(1..12);
        peers.call(0, &format!("config set tracking-table-max-keys {table}"));
        let mut copies: Vec<HashMap<String, Vec<u8>>> = vec![HashMap::new(); CLIENTS];
        let mut hits = 0;
        for client in 0..CLIENTS {
            peers.call(client, "hello 3");
            peers.call(client, "client tracking on");
        }
        for step in 0..400 {
            let client = random.random_range(0..CLIENTS);
            let key = format!("k{}", random.random_range(0..10));
            let is_read = random.random_bool(0.6);
            let request = match random.random_range(0..40) {
                _ if is_read => format!("get {key}"),
                0..=20 => format!("set {key} {step}"),
                21..=25 => format!("append {key} {step}"),
                26..=30 => format!("del {key}"),
                31..=33 => format!("rename {key} k{}", random.random_range(0..10)),
                34..=35 => format!("expire {key} -1"),
                36..=38 => format!("mset {key} {step} k{} {step}", random.random_range(0..10)),
                _ => "flushall".to_owned(),
            };
            // Everybody looks at what was pushed, before anybody uses a copy.
            let mut received = vec![Vec::new(); CLIENTS];
            received[client] = peers.call(client, &request);
            for (client, copies) in copies.iter_mut().enumerate() {
                received[client].extend(peers.call(client, ""));
                let (pushes, rest) = split_pushes(&received[client]);
                if request.starts_with("get") && !rest.is_empty() {
                    copies.insert(key.clone(), rest);
                }
                for push in pushes {
                    let text = String::from_utf8(push).expect("text");
                    match text.split("\r\n").nth(5) {
                        Some(key) => drop(copies.remove(key)),
                        None => copies.clear(),
                    }
                }
            }
            for (client, copies) in copies.iter().enumerate() {
                if let Some(copy) = copies.get(&key) {
                    let truth = peers.boson.call(format!("get {key}\r\n").as_bytes());
                    let truth = if truth == b"$-1\r\n" { b"_\r\n".to_vec() } else { truth };
                    hits += 1;
                    assert_eq!(
                        copy.escape_ascii().to_string(),
                        truth.escape_ascii().to_string(),
                        "BOSON_SEED={seed}: the copy of client {client} of {key} is old after {request}"
                    );
                }
            }
        }
        assert!(hits > 20, "BOSON_SEED={seed}: {hits} copies were looked at");
    }
}

/// A client that does not take its pushes is disconnected when they are more than its output limit,
/// and only then.
#[test]
fn a_client_that_cannot_be_told_is_disconnected() {
    let mut peers = BosonPeers::new();
    peers.call(0, "hello 3");
    peers.call(0, "client tracking on bcast");
    peers.call(1, "config set client-output-buffer-limit \"normal 1000000 0 0\"");
    let key = "k".repeat(60_000);
    for _ in 0..16 {
        peers.call(1, &format!("set {key} v"));
    }
    assert!(!peers.sessions[0].is_killed(), "960,000 bytes may wait");
    assert!(peers.sessions[0].take_replies().len() > 960_000);
    for _ in 0..17 {
        peers.call(1, &format!("set {key} v"));
    }
    assert!(peers.sessions[0].is_killed(), "more than 1,000,000 may not");
    let info = String::from_utf8(peers.call(1, "info stats")).expect("text");
    assert!(info.contains("client_output_buffer_limit_disconnections:1\r\n"), "{info}");
}

/// The same when commands of several clients run at once and wait in between for values that are
/// not in memory.
#[test]
fn a_copy_is_never_old_when_commands_overlap() {
    const KEYS: usize = 4;
    let first = std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + 20u64 {
        let mut random = StdRng::seed_from_u64(seed);
        let executor = Executor::new(seed);
        let slow = MemoryOptions::disk(256 << 20).read_latency(Duration::from_millis(2));
        let disk = Disk::new(slow, seed);
        // So little memory that values are read from the disk, and so small a log that they get
        // there.
        let options = Options::default().identity([1; 16]).log_bytes(512 << 10).cache_bytes(64 << 10);
        let db = executor.block_on(Db::open_on(executor.env(), disk, options)).expect("a fresh store");
        let clock = Arc::new(MonotonicClock::new());
        let server =
            RedisServer::new(executor.env(), db, clock, Config::default()).expect("room for the databases");
        let mut sessions: Vec<_> =
            (0..=CLIENTS).map(|_| Session::new(&server, "1", "2").expect("room for a client")).collect();
        let mut copies: Vec<HashMap<usize, Vec<u8>>> = vec![HashMap::new(); CLIENTS];
        sessions.iter_mut().for_each(|session| session.feed(b"hello 3\r\n"));
        sessions[..CLIENTS].iter_mut().for_each(|session| session.feed(b"client tracking on\r\n"));
        run_all(&executor, &mut sessions);
        for round in 0..60 {
            let mut asked: Vec<Vec<Option<usize>>> = vec![Vec::new(); CLIENTS];
            for (client, asked) in asked.iter_mut().enumerate() {
                for number in 0..random.random_range(0..4) {
                    let key = random.random_range(0..KEYS);
                    let request = if random.random_bool(0.5) {
                        asked.push(Some(key));
                        format!("get k{key}\r\n")
                    } else {
                        asked.push(None);
                        // So large that it lies on the device, not in a leaf.
                        let value =
                            format!("{round}-{client}-{number}").repeat(random.random_range(1_000..4_000));
                        format!("set k{key} {value}\r\n")
                    };
                    sessions[client].feed(request.as_bytes());
                }
            }
            let received = run_all(&executor, &mut sessions);
            for (client, received) in received[..CLIENTS].iter().enumerate() {
                let (copies, mut asked) = (&mut copies[client], asked[client].iter());
                let mut at = 0;
                while at < received.len() {
                    let len = reply_len(&received[at..]).expect("whole replies");
                    let reply = &received[at..at + len];
                    at += len;
                    if reply[0] == b'>' {
                        let text = String::from_utf8_lossy(reply);
                        let key = text.split("\r\n").nth(5).expect("a key");
                        copies.remove(&key[1..].parse().expect("its number"));
                    } else if let Some(key) = asked.next().expect("one reply for each request") {
                        copies.insert(*key, reply.to_vec());
                    }
                }
                assert_eq!(asked.next(), None, "one reply for each request");
            }
            for key in 0..KEYS {
                sessions[CLIENTS].feed(format!("get k{key}\r\n").as_bytes());
                let truth = run_all(&executor, &mut sessions[CLIENTS..]).remove(0);
                for (client, copies) in copies.iter().enumerate() {
                    assert!(
                        copies.get(&key).is_none_or(|copy| *copy == truth),
                        "BOSON_SEED={seed}: the copy of client {client} of k{key} is old after round {round}"
                    );
                }
            }
        }
    }
}

/// A value that is changed while it is being read from the disk: a client that gets the old one is
/// told right after it.
#[test]
fn an_old_value_that_was_slow_to_read_is_followed_by_its_invalidation() {
    let mut old_values = 0;
    for seed in 0..20 {
        let executor = Executor::new(seed);
        let slow = MemoryOptions::disk(64 << 20).read_latency(Duration::from_millis(2));
        let disk = Disk::new(slow, seed);
        let open = || {
            let db = Db::open_on(executor.env(), disk.clone(), Options::default().identity([1; 16]));
            executor.block_on(db).expect("opens")
        };
        let connect = |db: Db<SimEnv, Disk>| {
            let clock = Arc::new(MonotonicClock::new());
            let server = RedisServer::new(executor.env(), db, clock, Config::default())
                .expect("room for the databases");
            [0, 1].map(|_| Session::new(&server, "1", "2").expect("room for a client"))
        };
        let db = open();
        let mut sessions = connect(db.clone());
        // So short that it may have been read before its room is given back.
        let old = "o".repeat(10_000);
        let set = |value: &str| format!("*3\r\n$3\r\nset\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len());
        sessions[0].feed(set(&old).as_bytes());
        run_all(&executor, &mut sessions);
        drop(sessions);
        executor.block_on(db.close()).expect("closes");
        drop(db);
        // Nothing is in memory now.
        let mut sessions = connect(open());
        sessions[0].feed(b"hello 3\r\nclient tracking on\r\n");
        run_all(&executor, &mut sessions);
        sessions[0].feed(b"get k\r\n");
        sessions[1].feed(set("new").as_bytes());
        let received = run_all(&executor, &mut sessions).remove(0);
        let push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
        if received.starts_with(b"$10000\r\n") {
            old_values += 1;
            assert!(received.ends_with(push), "seed {seed}: the client keeps the old value");
        } else {
            assert!(received.starts_with(b"$3\r\nnew\r\n"), "seed {seed}");
        }
    }
    assert!(old_values > 0, "no value was changed while it was read");
}

/// Runs what was fed to `sessions`, all at once, and returns what is to be sent on each.
fn run_all(executor: &Executor, sessions: &mut [Session<SimEnv, Disk>]) -> Vec<Vec<u8>> {
    let runs = sessions.iter_mut().map(|session| async { while session.run().await == Stage::Running {} });
    executor.block_on(futures_util::future::join_all(runs));
    // Only now: what one of them did last is pushed to the others.
    let everything = |session: &mut Session<SimEnv, Disk>| {
        let mut received = Vec::new();
        while session.has_replies() {
            received.extend(session.take_replies());
        }
        received
    };
    sessions.iter_mut().map(everything).collect()
}

/// Reads from `stream` until it has received `expected`.
fn expect_bytes(stream: &mut TcpStream, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).expect("so many bytes");
    assert_eq!(received.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

/// A client that sends nothing is pushed to at once, over a socket, also when a key expires by
/// itself.
#[test]
fn a_client_that_waits_is_pushed_to() {
    let directory = Directory::new("tracking");
    let server = Server::start(directory.path(), &["--store", "mem:64M"]);
    let mut writer = server.client();
    let mut reader = server.client();
    let stream = reader.stream();
    let push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
    stream.write_all(b"hello 3\r\n").expect("sent");
    let mut hello = [0; 4096];
    let len = stream.read(&mut hello).expect("a reply");
    assert!(hello[..len].starts_with(b"%7\r\n"));
    stream.write_all(b"client tracking on\r\nget k\r\n").expect("sent");
    expect_bytes(stream, b"+OK\r\n_\r\n");
    for _ in 0..3 {
        writer.run("set k v");
        expect_bytes(stream, push);
        stream.write_all(b"get k\r\n").expect("sent");
        expect_bytes(stream, b"$1\r\nv\r\n");
    }
    writer.run("pexpire k 50");
    expect_bytes(stream, push);
    stream.write_all(b"get k\r\n").expect("sent");
    expect_bytes(stream, b"$1\r\nv\r\n");
    expect_bytes(stream, push);
    writer.run("flushall");
    expect_bytes(stream, b">2\r\n$10\r\ninvalidate\r\n_\r\n");
}
