//! The userspace stack on a TAP interface, with the kernel's own TCP and ping at the other end.
//!
//! It needs the privilege to make network interfaces; without it, it says so and passes, except in
//! CI.

use crate::support::not_run;
use crate::support::parts::Parts;
use std::cell::RefCell;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use boson::mem::IoBuf;
use boson::net::address::{IpCidr, NetAddress};
use boson::net::device::{PacketDevice, TapConfig, TapDevice};
use boson::net::stack::{Stack, StackConfig, StackListener, StackStream};
use boson::net::{Net, NetConfig};
use boson::rt::poller::{Park, Poller, register_poller};
use boson::rt::time::{Clock, MonotonicClock};
use boson::rt::{self, Core, CoreConfig, Idle};

const STACK_IPV4: &str = "10.213.77.1";
const HOST_IPV4: &str = "10.213.77.2";
const STACK_IPV6: &str = "fd77:b050::1";
const HOST_IPV6: &str = "fd77:b050::2";
const PORT: u16 = 7;

fn cidr(address: &str) -> IpCidr {
    let address: std::net::IpAddr = address.parse().expect("an address");
    IpCidr::new(address, if address.is_ipv4() { 24 } else { 64 }).expect("a prefix")
}

/// Gives the calling thread, and those it starts, a network of their own, so that no other test's
/// interface of the same name or address is in the way.
fn leave_the_network() {
    // SAFETY: the call takes no pointer; what it changes is this thread's network namespace.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        eprintln!("in the network of the machine: {}", std::io::Error::last_os_error());
    }
}

fn tap_config(name: &str) -> TapConfig {
    TapConfig::default().name(name).host([cidr(HOST_IPV4), cidr(HOST_IPV6)])
}

pub(crate) fn open(name: &str) -> Option<TapDevice> {
    leave_the_network();
    match TapDevice::open(&tap_config(name)) {
        Ok(device) => Some(device),
        Err(error) => {
            not_run::not_run(&format!("the stack on a TAP interface: {error}"));
            None
        }
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `main` and the stack on this thread, sleeping in the kernel when nothing happens.
fn block_on<T>(clock: &MonotonicClock, stack: &Stack, main: impl Future<Output = T>) -> T {
    let mut poller = stack.poller();
    let mut main = pin!(main);
    let woken = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        if woken.0.swap(false, Ordering::Relaxed)
            && let Poll::Ready(output) = main.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return output;
        }
        let now = clock.now();
        if poller.poll(now, 64) > 0 || woken.0.load(Ordering::Relaxed) {
            continue;
        }
        let patience = poller.next_deadline().map_or(Duration::from_secs(1), |deadline| deadline - now);
        let timeout_ms = i32::try_from(patience.as_millis().min(1000)).expect("at most 1000") + 1;
        match poller.park() {
            Park::Wake(fd) => {
                let mut descriptor = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                // SAFETY: the pointer is to one live `pollfd`, and the count is one.
                unsafe { libc::poll(&mut descriptor, 1, timeout_ms) };
            }
            Park::Nap(nap) => thread::sleep(nap),
            Park::Idle => thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0u64..).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).take(len).collect()
}

async fn echo(stream: &StackStream) -> usize {
    let mut total = 0;
    loop {
        let (read, mut bytes) = stream.read(Vec::with_capacity(32 * 1024)).await.parts();
        let len = read.expect("the connection stands");
        if len == 0 {
            stream.shutdown(Shutdown::Write).expect("the connection stands");
            return total;
        }
        total += len;
        let mut start = 0;
        while start < len {
            let (written, part) = stream.write(bytes.slice(start..len)).await.parts();
            bytes = part.into_inner();
            start += written.expect("the connection stands");
        }
    }
}

/// What the kernel's client does with an echo server on the stack; a thread of its own.
fn use_echo_server(server: SocketAddr) {
    let mut client = TcpStream::connect_timeout(&server, Duration::from_secs(10)).expect("connect");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
    let sent = pattern(10 << 20);
    let mut writer = client.try_clone().expect("a second handle");
    let to_send = sent.clone();
    let writing = thread::spawn(move || {
        writer.write_all(&to_send).expect("write");
        writer.shutdown(Shutdown::Write).expect("shutdown");
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).expect("read");
    writing.join().expect("the writer");
    assert!(received == sent, "{} bytes came back, and not as they were sent", received.len());
}

#[test]
fn the_kernel_talks_to_the_stack() {
    let Some(device) = open("bosontest0") else { return };
    let config = StackConfig::default().addresses([cidr(STACK_IPV4), cidr(STACK_IPV6)]).seed([42; 32]);
    let clock = MonotonicClock::new();
    let stack = Stack::new(Box::new(device), config, clock.now()).expect("a stack");

    for ip in [STACK_IPV4, STACK_IPV6] {
        let address = SocketAddr::new(ip.parse().expect("an address"), PORT);
        let listener = StackListener::bind(&stack, address, 16).expect("listen");
        let client = thread::spawn(move || use_echo_server(address));
        let echoed = block_on(&clock, &stack, async {
            let (stream, _) = listener.accept().await.expect("accept");
            echo(&stream).await
        });
        assert_eq!(echoed, 10 << 20);
        // The listener is still there, and so is the stack, until the client is done.
        block_on_thread(&clock, &stack, client);
    }

    for ip in [STACK_IPV4, STACK_IPV6] {
        let pinging = thread::spawn(move || {
            let output = Command::new("ping").args(["-c", "3", "-i", "0.2", "-W", "5", ip]).output();
            match output {
                Ok(output) => {
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    assert!(text.contains(" 0% packet loss"), "ping {ip}: {text}");
                }
                Err(error) => not_run::not_run(&format!("pinging the stack: {error}")),
            }
        });
        block_on_thread(&clock, &stack, pinging);
    }

    let refused = thread::spawn(|| {
        let closed = SocketAddr::new(STACK_IPV4.parse().expect("an address"), 9);
        let error = TcpStream::connect_timeout(&closed, Duration::from_secs(10)).expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    });
    block_on_thread(&clock, &stack, refused);

    connects_to_the_kernel(&clock, &stack);
    let stats = stack.stats();
    assert_eq!((stats.frames_malformed, stats.bad_checksums), (0, 0), "{stats:?}");
}

/// The other way round: the stack is the client of a kernel server.
fn connects_to_the_kernel(clock: &MonotonicClock, stack: &Stack) {
    for ip in [HOST_IPV4, HOST_IPV6] {
        let listener = TcpListener::bind(SocketAddr::new(ip.parse().expect("an address"), 0)).expect("bind");
        let address = listener.local_addr().expect("an address");
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("accept");
            let mut received = Vec::new();
            connection.read_to_end(&mut received).expect("read");
            connection.write_all(&received).expect("write");
        });
        block_on(clock, stack, async {
            let stream = StackStream::connect(stack, address).await.expect("connect");
            let (written, _) = stream.write(pattern(5000)).await.parts();
            assert_eq!(written.expect("write"), 5000);
            stream.shutdown(Shutdown::Write).expect("shutdown");
            let mut received = Vec::new();
            loop {
                let (read, bytes) = stream.read(Vec::with_capacity(4096)).await.parts();
                match read.expect("read") {
                    0 => break,
                    len => received.extend_from_slice(&bytes[..len]),
                }
            }
            assert!(received == pattern(5000));
        });
        block_on_thread(clock, stack, server);
    }
}

/// Keeps the stack moving until `thread` is done, and fails if it failed.
fn block_on_thread(clock: &MonotonicClock, stack: &Stack, thread: thread::JoinHandle<()>) {
    block_on(
        clock,
        stack,
        std::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            if thread.is_finished() { Poll::Ready(()) } else { Poll::Pending }
        }),
    );
    thread.join().expect("the other side");
}

#[test]
fn an_interface_in_use_is_refused_with_advice() {
    let Some(device) = open("bosontest1") else { return };
    let config = TapConfig::default().name("bosontest1");
    let error = TapDevice::open(&config).expect_err("it is in use");
    assert_eq!(error.kind(), boson::ErrorKind::InUse);
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert_ne!(device.info().mac, [0; 6]);
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_kernels_end_gets_every_address_and_keeps_those_it_has() {
    let Some(device) = open("bosontest2") else { return };
    drop(device);
    ip("tuntap add dev bosontest2 mode tap");
    ip("address add 10.213.78.9/24 dev bosontest2");
    let host: Vec<IpCidr> = ["10.213.77.2", "10.213.79.2", "fd77:b050::2", "fd77:b051::2"].map(cidr).to_vec();
    let config = TapConfig::default().name("bosontest2").host(host.clone()).mtu(1400);
    for _ in 0..2 {
        let _device = TapDevice::open(&config).expect("the first was dropped");
        let has = ip("address show dev bosontest2");
        assert!(has.contains("mtu 1400"), "{has}");
        for own in host.iter().map(ToString::to_string).chain(["10.213.78.9/24".to_owned()]) {
            assert!(has.contains(&format!(" {own} ")), "{own} is missing: {has}");
        }
    }
    // In case the network is the machine's.
    ip("link delete dev bosontest2");
}

#[test]
fn an_interface_made_for_an_unprivileged_user_needs_no_privilege() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    let Some(device) = open("bosontest3") else { return };
    drop(device);
    // The owner is this user, who is root, but is about to lose the right.
    ip("tuntap add dev bosontest3 mode tap user root");
    let mut rights = capabilities(None).expect("this thread's capabilities");
    rights.effective.remove(CapabilitySet::NET_ADMIN);
    let weaken = || set_capabilities(None, rights).expect("fewer capabilities");
    let config = TapConfig::default().name("bosontest3").host([cidr(HOST_IPV4)]);
    let refused = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                weaken();
                TapDevice::open(&config).map(drop).expect_err("it has no address and is not up")
            })
            .join()
            .expect("no panic")
    });
    let advice = "sudo ip address add 10.213.77.2/24 dev bosontest3";
    assert!(refused.to_string().contains(advice), "{refused}");
    ip("address add 10.213.77.2/24 dev bosontest3");
    ip("link set dev bosontest3 up");
    weaken();
    TapDevice::open(&config).expect("nothing is left to set up");
    // In case the network is the machine's.
    ip("link delete dev bosontest3");
}

/// A core that sleeps as soon as it has nothing to do, with a poll on each of its descriptors.
fn core() -> Core {
    let config = CoreConfig::default().idle(Idle::Sleep);
    Core::new(&config).expect("a core")
}

#[test]
fn an_interface_can_be_opened_as_soon_as_the_core_that_had_it_has_ended() {
    if open("bosontest4").is_none() {
        return;
    }
    let address: NetAddress = "tap:bosontest4?ip=10.213.77.1/24".parse().expect("an address");
    for round in 0..50 {
        core().block_on(async {
            if let Err(error) = Net::open(&address, &NetConfig::default()) {
                panic!("round {round}: {error}");
            }
            rt::sleep(Duration::from_millis(1)).await;
        });
    }
}

#[test]
fn an_interface_can_be_opened_as_soon_as_its_poller_was_removed() {
    let Some(mut device) = open("bosontest5") else { return };
    core().block_on(async {
        for round in 0..50 {
            let config = StackConfig::default().addresses([cidr(STACK_IPV4)]).seed([42; 32]);
            let stack = Stack::new(Box::new(device), config, rt::now()).expect("a stack");
            let registration = register_poller(Rc::new(RefCell::new(stack.poller())));
            rt::sleep(Duration::from_millis(1)).await;
            drop((registration, stack));
            device = TapDevice::open(&tap_config("bosontest5"))
                .unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
    });
}
