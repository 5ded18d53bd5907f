//! What ten thousand connections cost: in memory, and to the one that is active.
//!
//! One test per process: it measures the memory of the process and the time of single calls.

use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant as WallClock};

use boson::net::address::IpCidr;
use boson::net::device::MemoryDevice;
use boson::net::stack::{Stack, StackConfig, StackListener, StackPoller, StackStream};
use boson::rt::Instant;
use boson::rt::poller::Poller;

const CONNECTIONS: usize = 10_000;
const ECHOES: u32 = 200;
/// More rounds only make the least of them smaller, so a busy machine gets many.
const ROUNDS: usize = 400;
const TOLERANCE: f64 = 1.5;

/// Two stacks on one wire and their time.
struct Net {
    client: Stack,
    listener: StackListener,
    pollers: [StackPoller; 2],
    now: Instant,
}

impl Net {
    fn new() -> Self {
        let (a, b) = MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1500, 1024);
        let stack = |device, host: u8| {
            let own = IpCidr::new([10, 0, 0, host].into(), 24).expect("a prefix");
            Stack::new(
                Box::new(device),
                StackConfig::default().addresses([own]).seed([host; 32]),
                Instant::ORIGIN,
            )
            .expect("a stack")
        };
        let (client, server) = (stack(a, 1), stack(b, 2));
        let listener =
            StackListener::bind(&server, SocketAddr::from(([10, 0, 0, 2], 7)), 64).expect("the port is free");
        Self { pollers: [client.poller(), server.poller()], client, listener, now: Instant::ORIGIN }
    }

    /// Lets both stacks come to rest.
    fn settle(&mut self) {
        loop {
            self.now += Duration::from_micros(1);
            let handled: usize = self.pollers.iter_mut().map(|poller| poller.poll(self.now, 64)).sum();
            if handled == 0 {
                return;
            }
        }
    }

    fn block_on<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return output;
            }
            self.settle();
        }
    }

    fn open(&mut self) -> (StackStream, StackStream) {
        let client = self.client.clone();
        let address = self.listener.local_addr();
        let near = self.block_on(StackStream::connect(&client, address)).expect("it connects");
        self.settle();
        let accepted = pin!(self.listener.accept()).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok((far, _))) = accepted else { panic!("nothing to accept") };
        (near, far)
    }

    /// Sends 64 bytes there and back, `ECHOES` times, and returns the time one takes.
    fn echo(&mut self, near: &StackStream, far: &StackStream) -> Duration {
        let (message, mut buf) = ([7; 64], [0; 64]);
        let started = WallClock::now();
        for _ in 0..ECHOES {
            assert_eq!(near.try_write(&message).expect("it stands"), Some(64));
            self.settle();
            assert_eq!(far.try_read(&mut buf).expect("it stands"), Some(64));
            assert_eq!(far.try_write(&buf).expect("it stands"), Some(64));
            self.settle();
            assert_eq!(near.try_read(&mut buf).expect("it stands"), Some(64));
        }
        started.elapsed() / ECHOES
    }
}

/// The memory this process has in RAM, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says so");
    let kib: usize = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

#[test]
fn ten_thousand_idle_connections_slow_nobody_and_take_little_memory() {
    own_process!();
    let mut net = Net::new();
    let (near, far) = net.open();
    let before = resident_bytes();
    let mut idle = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let (near, far) = net.open();
        assert_eq!(near.try_write(b"hello").expect("it stands"), Some(5));
        net.settle();
        assert_eq!(far.try_read(&mut [0; 5]).expect("it stands"), Some(5));
        idle.push((near, far));
    }
    // Both ends live in this process.
    let per_connection = (resident_bytes() - before) / (2 * CONNECTIONS);
    let (mut quiet, mut alone, mut crowded) = (Net::new(), Duration::MAX, Duration::MAX);
    let (quiet_near, quiet_far) = quiet.open();
    let ratio = |alone: Duration, crowded: Duration| crowded.as_secs_f64() / alone.as_secs_f64();
    for round in 0..ROUNDS {
        alone = alone.min(quiet.echo(&quiet_near, &quiet_far));
        crowded = crowded.min(net.echo(&near, &far));
        if round > 20 && ratio(alone, crowded) < TOLERANCE {
            break;
        }
    }
    let ratio = ratio(alone, crowded);
    println!(
        "echo alone {alone:?}, among {CONNECTIONS} idle connections {crowded:?} ({ratio:.2} times); \
         {per_connection} bytes of RAM per idle connection"
    );
    // A scan of ten thousand sockets per frame would cost hundreds of times as much; the rest is
    // the processor's caches.
    assert!(ratio < TOLERANCE, "an echo takes {ratio:.2} times as long among {CONNECTIONS} idle connections");
    assert!(per_connection < 12 * 1024, "{per_connection} bytes of RAM per idle connection");

    // A minute of keepalives is answered, and everybody is still there.
    for _ in 0..60 {
        net.now += Duration::from_secs(1);
        net.settle();
    }
    assert_eq!(net.client.stats().connections, CONNECTIONS + 1);
    drop(idle);
    net.settle();
    assert_eq!(net.client.stats().connections, 1);
    assert_eq!(net.client.stats().time_wait, CONNECTIONS);
}
