//! What TCP promises, checked between two stacks: on a perfect wire, and on bad ones.

use std::future::Future;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::Duration;

use super::world::{Handle, World, wire};
use crate::error::ErrorKind;
use crate::error::Parts;
use crate::mem::IoBuf;
use crate::net::address::IpCidr;
use crate::net::device::FaultConfig;
use crate::net::stack::{Stack, StackConfig, StackListener, StackStream};

/// Two hosts, a network between them, and the version of IP to use.
#[derive(Clone)]
pub(super) struct Net {
    pub(super) handle: Handle,
    pub(super) client: Stack,
    pub(super) server: Stack,
    server_ip: IpAddr,
    is_clean: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Conditions {
    faults: FaultConfig,
    seed: u64,
    is_ipv6: bool,
}

pub(super) const CLEAN: Conditions = Conditions {
    faults: FaultConfig {
        loss: 0.0,
        duplicate: 0.0,
        corrupt: 0.0,
        delay: Duration::ZERO,
        reorder: 0.0,
        jitter: Duration::ZERO,
    },
    seed: 0,
    is_ipv6: false,
};
const CLEAN_IPV6: Conditions = Conditions { is_ipv6: true, ..CLEAN };

const fn bad(seed: u64) -> Conditions {
    Conditions {
        faults: FaultConfig {
            loss: 0.02,
            duplicate: 0.02,
            corrupt: 0.01,
            delay: Duration::from_micros(200),
            reorder: 0.05,
            jitter: Duration::from_millis(2),
        },
        seed,
        is_ipv6: seed % 2 == 1,
    }
}

pub(super) const PORT: u16 = 7;

pub(super) fn config(host: u8, conditions: Conditions) -> StackConfig {
    let address = |text: &str, len| IpCidr::new(format!("{text}{host}").parse().expect("an address"), len);
    let addresses = [address("10.0.0.", 24), address("fd00::", 64)].map(|own| own.expect("a prefix"));
    let mut seed = [host; 32];
    seed[..8].copy_from_slice(&conditions.seed.to_le_bytes());
    StackConfig::default().addresses(addresses.to_vec()).seed(seed)
}

pub(super) fn build(conditions: Conditions, change: impl Fn(&mut StackConfig)) -> (World, Net) {
    let mut world = World::default();
    let [client_device, server_device] = wire(&world, conditions.faults, conditions.seed);
    let [client_config, server_config] = [1, 2].map(|host| {
        let mut config = config(host, conditions);
        change(&mut config);
        config
    });
    let address = usize::from(conditions.is_ipv6);
    let server_ip = server_config.addresses[address].address();
    let client = world.add(client_device, client_config);
    let server = world.add(server_device, server_config);
    let is_clean = conditions.faults == FaultConfig::default();
    let net = Net { handle: world.handle.clone(), client, server, server_ip, is_clean };
    (world, net)
}

impl Net {
    pub(super) fn server_addr(&self) -> SocketAddr {
        SocketAddr::new(self.server_ip, PORT)
    }

    pub(super) fn listen(&self) -> StackListener {
        StackListener::bind(&self.server, self.server_addr(), 64).expect("the port is free")
    }

    pub(super) async fn connect(&self) -> StackStream {
        StackStream::connect(&self.client, self.server_addr()).await.expect("somebody listens")
    }

    /// A connected pair: the client's end and the server's.
    pub(super) async fn pair(&self) -> (StackStream, StackStream, StackListener) {
        let listener = self.listen();
        let client = self.connect().await;
        let (server, peer) = listener.accept().await.expect("a connection");
        assert_eq!((peer, server.peer_addr()), (client.local_addr(), client.local_addr()));
        assert_eq!(client.peer_addr(), server.local_addr());
        (client, server, listener)
    }

    /// A server that echoes on every connection until its end.
    pub(super) fn echo_server(&self) {
        let (listener, handle) = (self.listen(), self.handle.clone());
        self.handle.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                handle.spawn(async move {
                    echo(&stream).await;
                });
            }
        });
    }
}

async fn echo(stream: &StackStream) {
    let mut buf = Vec::with_capacity(16 * 1024);
    loop {
        buf.clear();
        let (read, filled) = stream.read(buf).await.parts();
        buf = filled;
        match read {
            Ok(0) | Err(_) => return,
            Ok(_) => buf = write_all(stream, buf).await,
        }
    }
}

pub(super) async fn write_all(stream: &StackStream, bytes: Vec<u8>) -> Vec<u8> {
    let mut rest = bytes;
    let mut start = 0;
    while start < rest.len() {
        let end = rest.len();
        let (written, part) = stream.write(rest.slice(start..end)).await.parts();
        rest = part.into_inner();
        start += written.expect("the connection stands");
    }
    rest
}

pub(super) async fn read_exact(stream: &StackStream, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let (read, part) = stream.read(Vec::with_capacity(len - bytes.len())).await.parts();
        let read = read.expect("the connection stands");
        assert!(read > 0, "the stream ended after {} of {len} bytes", bytes.len());
        bytes.extend_from_slice(&part[..read]);
    }
    bytes
}

async fn read_to_end(stream: &StackStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let (read, part) = stream.read(Vec::with_capacity(16 * 1024)).await.parts();
        match read.expect("a clean end") {
            0 => return bytes,
            read => bytes.extend_from_slice(&part[..read]),
        }
    }
}

/// `len` bytes that differ everywhere, so that a lost, doubled or swapped part is noticed.
fn pattern(len: usize, salt: u64) -> Vec<u8> {
    (0u64..)
        .flat_map(|word| {
            word.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt).rotate_left(29).to_le_bytes()
        })
        .take(len)
        .collect()
}

fn check<F: Future<Output = ()> + 'static>(conditions: Conditions, scenario: impl FnOnce(Net) -> F) {
    let (mut world, net) = build(conditions, |_| {});
    world.run(scenario(net));
}

async fn echoes(net: Net) {
    net.echo_server();
    let stream = net.connect().await;
    for round in 0..50 {
        let message = pattern(1 + 37 * round, round as u64);
        write_all(&stream, message.clone()).await;
        assert_eq!(read_exact(&stream, message.len()).await, message, "round {round}");
    }
}

async fn transfers_ten_megabytes_both_ways(net: Net) {
    let total = if net.is_clean { 10 << 20 } else { 1 << 20 };
    let (client, server, _listener) = net.pair().await;
    let handle = net.handle.clone();
    handle.spawn(async move {
        let received = read_exact(&server, total).await;
        assert!(received == pattern(total, 1), "the server received something else");
        write_all(&server, pattern(total, 2)).await;
    });
    write_all(&client, pattern(total, 1)).await;
    assert!(read_to_end(&client).await == pattern(total, 2), "the client received something else");
}

async fn reads_and_writes_at_the_same_time(net: Net) {
    net.echo_server();
    let stream = std::rc::Rc::new(net.connect().await);
    let writer = std::rc::Rc::clone(&stream);
    let total = 300_000;
    net.handle.spawn(async move {
        write_all(&writer, pattern(total, 3)).await;
        writer.shutdown(Shutdown::Write).expect("it stands");
    });
    assert!(read_to_end(&stream).await == pattern(total, 3));
}

async fn half_closes_client_first(net: Net) {
    let (client, server, _listener) = net.pair().await;
    write_all(&client, b"question".to_vec()).await;
    client.shutdown(Shutdown::Write).expect("it stands");
    assert_eq!(read_to_end(&server).await, b"question");
    // The other direction still works, long after.
    net.handle.sleep(Duration::from_secs(20)).await;
    write_all(&server, b"answer".to_vec()).await;
    assert_eq!(read_exact(&client, 6).await, b"answer");
    let (written, _) = client.write(b"more".to_vec()).await.parts();
    assert_eq!(written.expect_err("it is shut").code(), Some(libc::EPIPE));
    drop(server);
    assert_eq!(read_to_end(&client).await, b"");
}

async fn half_closes_server_first(net: Net) {
    let (client, server, _listener) = net.pair().await;
    server.shutdown(Shutdown::Write).expect("it stands");
    assert_eq!(read_to_end(&client).await, b"");
    write_all(&client, pattern(100_000, 4)).await;
    drop(client);
    assert!(read_to_end(&server).await == pattern(100_000, 4));
}

/// Data that arrived before the end is still there when somebody reads it much later than TIME-WAIT
/// lasts.
async fn reads_late(net: Net) {
    let (client, server, _listener) = net.pair().await;
    client.shutdown(Shutdown::Write).expect("it stands");
    write_all(&server, pattern(30_000, 5)).await;
    drop(server);
    net.handle.sleep(Duration::from_secs(300)).await;
    let first = read_exact(&client, 10_000).await;
    net.handle.sleep(Duration::from_secs(60)).await;
    let rest = read_to_end(&client).await;
    assert!([first, rest].concat() == pattern(30_000, 5));
}

async fn delivers_what_was_written_before_a_drop(net: Net) {
    let (client, server, _listener) = net.pair().await;
    let (written, _) = client.write(pattern(60_000, 6)).await.parts();
    drop(client);
    assert!(read_to_end(&server).await == pattern(written.expect("room"), 6));
    drop(server);
    net.handle.sleep(Duration::from_secs(120)).await;
    // Expired entries go when the stack is next polled.
    net.handle.sleep(Duration::from_secs(1)).await;
    assert_eq!((net.client.stats().connections, net.server.stats().connections), (0, 0));
    assert_eq!((net.client.stats().time_wait, net.server.stats().time_wait), (0, 0));
}

async fn resets(net: Net) {
    let (client, server, _listener) = net.pair().await;
    write_all(&server, b"last words".to_vec()).await;
    net.handle.sleep(Duration::from_secs(5)).await;
    server.abort();
    let (read, _) = server.read(vec![0; 10]).await.parts();
    assert_eq!(read.expect_err("aborted").code(), Some(libc::ECONNABORTED));
    // A lost RST is not repeated; the next thing the client sends is answered by another.
    while net.client.stats().resets_received == 0 {
        let _ = client.try_write(b"x");
        net.handle.sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(read_exact(&client, 10).await, b"last words");
    let (read, _) = client.read(vec![0; 10]).await.parts();
    let error = read.expect_err("reset");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Closed, Some(libc::ECONNRESET)));
    let (written, _) = client.write(vec![0; 10]).await.parts();
    assert_eq!(written.expect_err("reset").code(), Some(libc::ECONNRESET));
}

async fn refuses(net: Net) {
    let error = StackStream::connect(&net.client, net.server_addr()).await.expect_err("nobody listens");
    assert_eq!(error.code(), Some(libc::ECONNREFUSED));
    assert_eq!(net.client.stats().connections, 0);
    assert!(net.server.stats().resets_sent >= 1);
}

async fn many_connections(net: Net) {
    net.echo_server();
    let mut streams = Vec::new();
    for number in 0..200u64 {
        let stream = net.connect().await;
        write_all(&stream, pattern(500, number)).await;
        streams.push(stream);
    }
    for (number, stream) in (0u64..).zip(&streams) {
        assert!(read_exact(stream, 500).await == pattern(500, number), "connection {number}");
    }
    assert_eq!(net.server.stats().connections, 200);
    drop(streams);
    net.handle.sleep(Duration::from_secs(300)).await;
    assert_eq!((net.client.stats().connections, net.server.stats().connections), (0, 0));
}

/// A reader that does not read stops the writer; when it reads at last, everything arrives.
async fn flow_control(net: Net) {
    let (client, server, _listener) = net.pair().await;
    let mut written = 0;
    let data = pattern(1 << 20, 7);
    while let Some(result) =
        net.handle.within(Duration::from_secs(20), client.write(data[written..].to_vec())).await
    {
        written += result.parts().0.expect("it stands");
    }
    assert!((60_000..400_000).contains(&written), "{written} bytes went into two buffers");
    net.handle.sleep(Duration::from_secs(100)).await;
    assert_eq!(client.try_write(b"x").expect("it stands"), None);
    net.handle.spawn(async move {
        let rest = data[written..].to_vec();
        write_all(&client, rest).await;
    });
    assert!(read_to_end(&server).await == pattern(1 << 20, 7));
}

/// A read that is dropped while it waits takes nothing with it.
async fn dropped_reads_lose_nothing(net: Net) {
    let (client, server, _listener) = net.pair().await;
    let data = pattern(20_000, 8);
    let sent = data.clone();
    let handle = net.handle.clone();
    net.handle.spawn(async move {
        for part in sent.chunks(999) {
            write_all(&server, part.to_vec()).await;
            handle.sleep(Duration::from_micros(700)).await;
        }
    });
    let mut received = Vec::new();
    let mut abandoned = 0;
    while received.len() < data.len() {
        match net.handle.within(Duration::from_micros(50), client.read(Vec::with_capacity(300))).await {
            Some(read) => {
                let (len, bytes) = read.expect("it stands");
                received.extend_from_slice(&bytes[..len]);
            }
            None => abandoned += 1,
        }
    }
    assert!(received == data);
    assert!(abandoned > 10, "only {abandoned} reads were dropped while they waited");
}

async fn idle_connections_stay(net: Net) {
    let (client, server, _listener) = net.pair().await;
    net.handle.sleep(Duration::from_secs(1800)).await;
    write_all(&client, b"still here".to_vec()).await;
    assert_eq!(read_exact(&server, 10).await, b"still here");
}

async fn tuples_are_reused(net: Net) {
    net.echo_server();
    for round in 0..300u64 {
        let stream = net.connect().await;
        write_all(&stream, pattern(10, round)).await;
        assert_eq!(read_exact(&stream, 10).await, pattern(10, round));
    }
    net.handle.sleep(Duration::from_secs(1)).await;
    let (client, server) = (net.client.stats(), net.server.stats());
    if net.is_clean {
        assert_eq!(client.time_wait, 300, "{client:?}");
    }
    assert!(server.connections < 50, "{server:?}");
}

/// Small writes go out at once, but much data goes in full segments, also when a window does not
/// end with one (the silly window syndrome, RFC 9293, section 3.8.6.2.1).
#[test]
fn much_data_goes_in_full_segments() {
    const SEGMENT_BYTES: usize = 1460;
    let total = 10 << 20;
    let (mut world, net) = build(CLEAN, |_| {});
    world.run(async move {
        let (client, server, _listener) = net.pair().await;
        let before = net.client.stats().frames_sent;
        net.handle.spawn(async move {
            write_all(&client, pattern(total, 1)).await;
        });
        read_exact(&server, total).await;
        let frames = usize::try_from(net.client.stats().frames_sent - before).expect("few");
        let fewest = total / SEGMENT_BYTES;
        println!("{frames} frames, {fewest} at least");
        assert!(frames < fewest + fewest / 20, "{frames} frames, though {fewest} would do");
    });
}

/// Bytes of many buffers arrive in many other buffers in their order, also through small windows.
async fn gathers_and_scatters(net: Net) {
    let (client, server, _listener) = net.pair().await;
    let data = pattern(300_000, 9);
    let bufs: Vec<Vec<u8>> = data.chunks(777).flat_map(|part| [part.to_vec(), Vec::new()]).collect();
    net.handle.spawn(async move {
        let mut bufs = bufs;
        let (mut written, len) = (0, bufs.iter().map(Vec::len).sum());
        while written < len {
            let (result, back) = client.transfer_write_vectored(bufs, written).await;
            written += result.expect("it stands");
            bufs = back;
        }
        client.shutdown(Shutdown::Write).expect("it stands");
        read_to_end(&client).await;
    });
    let mut received = Vec::new();
    loop {
        let bufs = [5, 0, 300, 4000].map(Vec::with_capacity).into();
        let (result, bufs) = server.transfer_read_vectored(bufs).await;
        let len = result.expect("it stands");
        let before = received.len();
        bufs.iter().for_each(|buf: &Vec<u8>| received.extend_from_slice(buf));
        assert_eq!(received.len() - before, len);
        if len == 0 {
            break;
        }
    }
    assert!(received == data);
}

macro_rules! suite {
    ($($name:ident: $conditions:expr;)*) => {$(
        mod $name {
            use super::*;

            suite!(@tests $conditions; echoes transfers_ten_megabytes_both_ways reads_and_writes_at_the_same_time
                half_closes_client_first half_closes_server_first reads_late delivers_what_was_written_before_a_drop
                resets refuses many_connections flow_control dropped_reads_lose_nothing idle_connections_stay
                tuples_are_reused gathers_and_scatters);
        }
    )*};
    (@tests $conditions:expr; $($scenario:ident)*) => {$(
        #[test]
        fn $scenario() {
            check($conditions, super::$scenario);
        }
    )*};
}

suite! {
    clean_ipv4: CLEAN;
    clean_ipv6: CLEAN_IPV6;
    bad_seed_1: bad(1);
    bad_seed_2: bad(2);
    bad_seed_3: bad(3);
    bad_seed_4: bad(4);
}
