//! Clients that write all their requests before they read a reply, as client libraries do with a
//! pipeline. Every reply comes and is right, over each network. Also: what clients cost that read
//! late or never.

mod pipeline;

use crate::support::not_run;
use crate::support::parts::Parts;
use crate::support::server;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use boson::block::MemoryNamespace;
use boson::net::address::IpCidr;
use boson::net::device::MemoryDevice;
use boson::net::stack::StackConfig;
use boson::net::{Net, TcpListener};
use boson::redis::{self, Config};
use boson::rt::time::MonotonicClock;
use boson::rt::{self, Core, CoreConfig};
use boson::store::{Db, Options, RtEnv};
use pipeline::{Pipeline, Pipelines, bulk, request};
use rustix::net::{AddressFamily, SocketType, sockopt};
use server::{Client, Directory, Reply, Server};

/// How long to wait while nothing happens.
const PATIENCE: Duration = Duration::from_secs(30);

/// The seeds to try: that of `BOSON_SEED`, or some.
fn seeds(count: u64) -> std::ops::Range<u64> {
    match std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..count,
    }
}

/// Says where `received` departs from `expected`, of which it should be the part from `at` on.
fn check(received: &[u8], expected: &[u8], at: usize, seed: u64) {
    let expected = &expected[at..];
    assert!(received.len() <= expected.len(), "BOSON_SEED={seed}: more replies than requests");
    if let Some(wrong) = received.iter().zip(expected).position(|(a, b)| a != b) {
        panic!("BOSON_SEED={seed}: the replies differ from byte {} on", at + wrong);
    }
}

/// Connects a socket with these buffers. They are set before it connects: to make them smaller when
/// the window is known stops the kernel's TCP, with redis-server too.
fn connect(address: SocketAddr, buffers_bytes: Option<(usize, usize)>) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    if let Some((send, receive)) = buffers_bytes {
        sockopt::set_socket_send_buffer_size(&socket, send).expect("set");
        sockopt::set_socket_recv_buffer_size(&socket, receive).expect("set");
    }
    rustix::net::connect(&socket, &address).expect("the server listens");
    socket.into()
}

/// Writes the whole pipeline, then reads.
fn converse(address: SocketAddr, pipeline: &Pipeline, seed: u64) {
    let mut stream = connect(address, pipeline.buffers_bytes);
    stream.set_nodelay(seed.is_multiple_of(2)).expect("set");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    for piece in pipeline.requests.chunks(pipeline.piece_bytes) {
        stream.write_all(piece).unwrap_or_else(|error| panic!("BOSON_SEED={seed}: writing: {error}"));
    }
    let (mut at, mut chunk) = (0, vec![0; 64 << 10]);
    while at < pipeline.replies.len() {
        let len = stream
            .read(&mut chunk)
            .unwrap_or_else(|error| panic!("BOSON_SEED={seed}: reading at byte {at}: {error}"));
        assert!(len > 0, "BOSON_SEED={seed}: the connection ended at byte {at}");
        check(&chunk[..len], &pipeline.replies, at, seed);
        at += len;
    }
    stream.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(stream.read(&mut chunk).expect("an orderly end"), 0, "BOSON_SEED={seed}: and nothing more");
}

fn random_pipelines_complete(server: &Server, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        assert_eq!(server.client().run("FLUSHALL"), Reply::ok());
        let mut pipelines = Pipelines::new(seed);
        // The second finds what the first has left.
        for _ in 0..2 {
            converse(server.address(), &pipelines.next_pipeline(), seed);
        }
    }
    println!("connections afterwards: {:?}", server.client().run("CLIENT LIST"));
}

#[test]
fn random_pipelines_complete_over_the_kernel() {
    let directory = Directory::new("pipelines");
    let server = Server::start(directory.path(), &["--store", "mem:512M"]);
    random_pipelines_complete(&server, seeds(24));
    assert!(server.terminate().success());
}

/// Replies wait here for the device as well.
#[test]
fn random_pipelines_complete_when_every_write_is_synced() {
    let directory = Directory::new("pipelines-synced");
    let server = Server::start(directory.path(), &["--durability", "sync"]);
    random_pipelines_complete(&server, seeds(2));
    assert!(server.terminate().success());
}

#[test]
fn random_pipelines_complete_over_another_core() {
    let directory = Directory::new("pipelines-cores");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        not_run::not_run("two cores are needed for a connection of another core");
        return;
    }
    let server = Server::start(directory.path(), &["--store", "mem:512M", "--cores", "0,1"]);
    random_pipelines_complete(&server, seeds(12));
    assert!(server.terminate().success());
}

#[test]
fn random_pipelines_complete_over_the_userspace_stack() {
    let core = Core::new(&CoreConfig::default().seed([0; 32])).expect("a core");
    core.block_on(async {
        let (a, b) = MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1500, 256);
        let net = |device, host: u8| {
            let own = IpCidr::new([10, 0, 0, host].into(), 24).expect("a prefix");
            Net::on_device(Box::new(device), StackConfig::default().addresses([own]).seed([host; 32]))
                .expect("a stack")
        };
        let (near, far) = (net(a, 1), net(b, 2));
        let listener = TcpListener::bind_on(&far, SocketAddr::from(([10, 0, 0, 2], 6380))).expect("free");
        let namespace = MemoryNamespace::new("mem:", 512 << 20, 4096).expect("memory");
        let db =
            Db::open_on(RtEnv, namespace, Options::default().identity([1; 16])).await.expect("a fresh store");
        let server = redis::Server::new(RtEnv, db, Arc::new(MonotonicClock::new()), Config::default())
            .expect("room for the databases");
        let serving = rt::named("serve").spawn({
            let server = server.clone();
            async move { redis::serve(&server, &listener).await }
        });
        for seed in seeds(4) {
            // The databases are those of the seed before.
            let pipeline = Pipelines::new(seed).next_pipeline();
            let mut requests = Vec::new();
            request(&mut requests, &[b"FLUSHALL"]);
            let expected = [b"+OK\r\n", pipeline.replies.as_slice()].concat();
            requests.extend(&pipeline.requests);
            let stream = boson::net::TcpStream::connect_on(&near, SocketAddr::from(([10, 0, 0, 2], 6380)));
            let stream = stream.await.expect("connected");
            let converse = async {
                stream.write_all(requests).await.expect("written");
                let (mut at, mut chunk) = (0, vec![0; 64 << 10]);
                while at < expected.len() {
                    let (result, buffer) = stream.read(chunk).await.parts();
                    chunk = buffer;
                    let len = result.expect("replies");
                    assert!(len > 0, "BOSON_SEED={seed}: the connection ended at byte {at}");
                    check(&chunk[..len], &expected, at, seed);
                    at += len;
                }
            };
            let in_time = rt::timeout(2 * PATIENCE, converse).await;
            assert!(in_time.is_ok(), "BOSON_SEED={seed}: the pipeline does not complete");
        }
        server.request_shutdown();
        serving.await.expect("no panic").expect("its network is not lost");
    });
}

/// The pipeline of the report: 20 MB of requests, and as much of replies.
#[test]
fn a_pipeline_of_a_client_library_completes() {
    let directory = Directory::new("pipeline-library");
    let server = Server::start(directory.path(), &["--store", "mem:256M"]);
    let mut pipeline =
        Pipeline { requests: Vec::new(), replies: Vec::new(), piece_bytes: 64 << 10, buffers_bytes: None };
    let value = [b'v'; 1000];
    for index in 0..20_000 {
        request(&mut pipeline.requests, &[b"SET", b"q", &value, b"GET"]);
        if index == 0 {
            pipeline.replies.extend_from_slice(b"$-1\r\n");
        } else {
            bulk(&mut pipeline.replies, &value);
        }
    }
    converse(server.address(), &pipeline, 0);
    assert!(server.terminate().success());
}

fn info(client: &mut Client, name: &str) -> u64 {
    let Reply::Bulk(text) = client.run("INFO") else { panic!("INFO replies with text") };
    let text = String::from_utf8(text).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {text}")).parse().expect("a number")
}

/// How much the field `name` of CLIENT LIST is for the client at `address`.
fn listed(client: &mut Client, address: SocketAddr, name: &str) -> Option<u64> {
    let Reply::Bulk(text) = client.run("CLIENT LIST") else { panic!("CLIENT LIST replies with text") };
    let text = String::from_utf8(text).expect("text");
    let line = text.lines().find(|line| line.contains(&format!(" addr={address} ")))?;
    line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// Writes GETs of `key` until the server takes no more, or `count` are written. Returns how many it
/// took whole.
fn write_gets(client: &mut Client, key: &str, count: usize) -> usize {
    const AT_ONCE: usize = 20;
    let mut requests = Vec::new();
    (0..AT_ONCE).for_each(|_| request(&mut requests, &[b"GET", key.as_bytes()]));
    sockopt::set_socket_send_buffer_size(client.stream(), 64 << 10).expect("set");
    client.stream().set_write_timeout(Some(Duration::from_millis(300))).expect("set");
    (0..count).step_by(AT_ONCE).take_while(|_| client.stream().write_all(&requests).is_ok()).count() * AT_ONCE
}

#[test]
fn a_client_that_never_reads_is_held_back_then_dropped_counted_and_logged_once() {
    const BOUND: u64 = 4 << 20;
    let directory = Directory::new("never-reads");
    let server = Server::start(directory.path(), &["--store", "mem:256M"]);
    let mut other = server.client();
    let limit = b"normal 0 4mb 3";
    let set = other.call(&[b"CONFIG", b"SET", b"client-output-buffer-limit", limit]).expect("a reply");
    assert_eq!(set, Reply::ok());
    let Reply::Array(shown) = other.run("CONFIG GET client-output-buffer-limit") else { panic!("an array") };
    assert_eq!(shown[1], Reply::bulk("normal 0 4194304 3 slave 0 0 0 pubsub 0 0 0"));
    assert_eq!(other.call(&[b"SET", b"k", &vec![b'v'; 100_000]]).expect("a reply"), Reply::ok());
    let before = resident_bytes(server.id());

    let mut slow = server.client();
    let address = slow.stream().local_addr().expect("connected");
    let written = write_gets(&mut slow, "k", 1_000_000);
    assert!((40..1_000_000).contains(&written), "{written} requests were taken");
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut largest = 0;
    while Instant::now() < deadline {
        let unsent = ["obl", "omem"].map(|name| listed(&mut other, address, name));
        let [Some(current), Some(queued)] = unsent else { break };
        largest = largest.max(current + queued);
        if queued > 0 {
            assert!(listed(&mut other, address, "oll").unwrap_or(1) > 0);
        }
        let buffers = info(&mut other, "mem_clients_normal");
        assert!(buffers < BOUND + (3 << 20), "{buffers} bytes of buffers");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!((BOUND..BOUND + (2 << 20)).contains(&largest), "at most {largest} bytes of replies waited");
    let grown = resident_bytes(server.id()).saturating_sub(before);
    assert!(grown < 32 << 20, "the server grew by {grown} bytes");

    let deadline = Instant::now() + PATIENCE;
    while listed(&mut other, address, "id").is_some() {
        assert!(Instant::now() < deadline, "the client is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(info(&mut other, "client_output_buffer_limit_disconnections"), 1);
    let log = server.log();
    assert_eq!(log.matches("bytes of replies").count(), 1, "{log}");
    assert!(log.contains(&address.to_string()) && log.contains("4194304"), "{log}");
    let end = slow.stream().read_to_end(&mut Vec::new());
    assert!(end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "a reset, not an end");
    assert!(server.terminate().success());
}

/// As in Redis: only memory that others may need is a reason to drop it.
#[test]
fn a_client_below_the_bound_may_read_when_it_likes() {
    let directory = Directory::new("reads-late");
    let server = Server::start(directory.path(), &["--store", "mem:256M"]);
    let mut other = server.client();
    let limit = b"normal 0 64mb 1";
    let set = other.call(&[b"CONFIG", b"SET", b"client-output-buffer-limit", limit]).expect("a reply");
    assert_eq!(set, Reply::ok());
    assert_eq!(other.call(&[b"SET", b"k", &vec![b'v'; 100_000]]).expect("a reply"), Reply::ok());
    let mut late = server.client();
    assert_eq!(write_gets(&mut late, "k", 300), 300);
    std::thread::sleep(Duration::from_secs(3));
    for _ in 0..300 {
        assert_eq!(late.receive().expect("a reply"), Reply::Bulk(vec![b'v'; 100_000]));
    }
    assert_eq!(info(&mut other, "client_output_buffer_limit_disconnections"), 0);
    assert!(info(&mut other, "mem_clients_normal") < 256 << 10, "its buffers are released");
    assert!(server.terminate().success());
}

/// A client that takes its replies slowly is not dropped however far beyond the bound it is.
#[test]
fn a_client_beyond_the_bound_that_reads_slowly_gets_everything() {
    let directory = Directory::new("reads-slowly");
    let server = Server::start(directory.path(), &["--store", "mem:256M"]);
    let mut other = server.client();
    let limit = b"normal 1mb 0 0";
    let set = other.call(&[b"CONFIG", b"SET", b"client-output-buffer-limit", limit]).expect("a reply");
    assert_eq!(set, Reply::ok());
    // One reply is larger than the bound.
    assert_eq!(other.call(&[b"SET", b"k", &vec![b'v'; 3 << 20]]).expect("a reply"), Reply::ok());
    let mut slow = server.client();
    assert_eq!(write_gets(&mut slow, "k", 20), 20);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(slow.receive().expect("a reply"), Reply::Bulk(vec![b'v'; 3 << 20]));
    }
    assert!(server.terminate().success());
}

/// Not even by taking something every now and then does it stay.
#[test]
fn a_killed_client_that_reads_slowly_ends() {
    let directory = Directory::new("killed");
    let server = Server::start(directory.path(), &["--store", "mem:256M"]);
    let mut other = server.client();
    assert_eq!(other.call(&[b"SET", b"k", &vec![b'v'; 100_000]]).expect("a reply"), Reply::ok());
    let mut slow = server.client();
    let address = slow.stream().local_addr().expect("connected");
    assert_eq!(write_gets(&mut slow, "k", 1_000), 1_000);
    assert_eq!(slow.receive().expect("a reply"), Reply::Bulk(vec![b'v'; 100_000]));
    let killed = format!("CLIENT KILL ADDR {address}");
    assert_eq!(other.run(&killed), Reply::Integer(1));
    let started = Instant::now();
    while listed(&mut other, address, "id").is_some() {
        assert!(started.elapsed() < Duration::from_secs(5), "it is still there");
        let _ = slow.stream().read(&mut vec![0; 100_000]);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.terminate().success());
}

/// One client's endless pipeline leaves the others their turns.
#[test]
fn others_are_served_beside_an_endless_pipeline() {
    let directory = Directory::new("endless");
    let server = Server::start(directory.path(), &["--store", "mem:256M"]);
    let mut other = server.client();
    assert_eq!(other.call(&[b"SET", b"k", &vec![b'v'; 20_000]]).expect("a reply"), Reply::ok());
    let endless = server.client();
    let stop = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        let mut writer = { endless }.stream().try_clone().expect("a second handle");
        let mut reader = writer.try_clone().expect("a third handle");
        scope.spawn(move || {
            let mut requests = Vec::new();
            (0..100).for_each(|_| request(&mut requests, &[b"GET", b"k"]));
            while Instant::now() < stop {
                writer.write_all(&requests).expect("taken");
            }
            writer.shutdown(Shutdown::Write).expect("half-closed");
        });
        scope.spawn(move || {
            let mut chunk = vec![0; 1 << 20];
            while reader.read(&mut chunk).expect("replies up to an orderly end") > 0 {}
        });
        let (mut longest, mut calls) = (Duration::ZERO, 0);
        while Instant::now() < stop {
            let asked = Instant::now();
            assert_eq!(other.run("PING"), Reply::Status("PONG".to_owned()));
            longest = longest.max(asked.elapsed());
            calls += 1;
        }
        println!("{calls} calls beside it, the longest took {longest:?}");
        assert!(calls > 20 && longest < Duration::from_secs(1), "{calls} calls, {longest:?}");
    });
    assert!(server.terminate().success());
}
