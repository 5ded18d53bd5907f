//! DPDK ports: loops and files that need no rights, and a veth pair with the kernel's network stack at its other end.
//!
//! The EAL starts once per process, so every test here shares it; it runs on normal pages, as on a machine without
//! hugepages, unless `BOSON_TEST_EAL` holds other EAL arguments (none: hugepages where there are some). The tests on a veth pair need root (for the network namespace); without it they say so and pass, except
//! where `CI` is set: there they fail.
#![cfg(feature = "dpdk")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use boson::ErrorKind;
use boson::net::device::PacketDevice;
use boson::net::device::dpdk::{DpdkPort, Eal, EalConfig, PortConfig};
use boson::rt::Park;

fn eal_config() -> EalConfig {
    let arguments = std::env::var("BOSON_TEST_EAL").unwrap_or_else(|_| "--no-huge -m 256".to_owned());
    EalConfig { pci_devices: Vec::new(), arguments }
}

fn eal() -> Eal {
    let affinity = || rustix::thread::sched_getaffinity(None).expect("a thread may read its own");
    let before = affinity();
    let eal = Eal::init(&eal_config()).expect("DPDK starts without hugepages, rights or devices");
    assert_eq!(affinity(), before, "starting DPDK leaves its thread where it was");
    eal
}

/// The smallest pool that the default queues allow, so that a leak shows soon.
fn small() -> PortConfig {
    PortConfig { rx_descriptors: 256, tx_descriptors: 256, mbufs: 2_047, ..PortConfig::default() }
}

fn open(devargs: &str) -> DpdkPort {
    DpdkPort::open(eal(), devargs, &small()).expect("the port opens")
}

/// Frame number `number`: its length and every byte depend on it.
fn pattern(number: usize) -> Vec<u8> {
    let length = 60 + (number * 37) % 1_455;
    (0..length).map(|index| u8::try_from((number * 31 + index * 7) % 251).expect("below 251")).collect()
}

fn send(port: &mut DpdkPort, frame: &[u8]) -> bool {
    port.transmit(frame.len(), &mut |buffer| buffer.copy_from_slice(frame))
}

fn receive(port: &mut DpdkPort, budget: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let count = port.receive(budget, &mut |frame| frames.push(frame.to_vec())).expect("the port works");
    assert_eq!(count, frames.len());
    frames
}

#[test]
fn a_ring_gives_back_what_was_sent_in_order() {
    let mut port = open("net_ring_order");
    assert_eq!(port.driver(), "net_ring");
    assert_eq!(port.info().mtu, 1_500);
    let frames: Vec<_> = (0..200).map(pattern).collect();
    for frame in &frames {
        assert!(send(&mut port, frame));
    }
    port.flush();

    assert_eq!(receive(&mut port, 3), frames[..3], "no more than the budget");
    assert_eq!(receive(&mut port, 1_000), frames[3..]);
    assert_eq!(receive(&mut port, 1_000), Vec::<Vec<u8>>::new());

    let bytes: u64 = frames.iter().map(|frame| frame.len() as u64).sum();
    let stats = port.stats();
    assert_eq!((stats.tx_frames, stats.rx_frames), (200, 200));
    assert_eq!((stats.tx_bytes, stats.rx_bytes), (bytes, bytes));
    assert_eq!((stats.tx_dropped, stats.rx_errors), (0, 0));
}

#[test]
fn no_buffer_is_lost_however_many_frames_pass() {
    let mut port = open("net_ring_leak");
    // Five times the pool.
    for number in 0..10_000 {
        assert!(send(&mut port, &pattern(number)), "frame {number} found no buffer");
        if number % 50 == 49 {
            port.flush();
            assert_eq!(receive(&mut port, 64).len(), 50);
        }
    }
    assert_eq!(port.stats().tx_dropped, 0);
}

#[test]
fn what_a_full_queue_does_not_take_is_dropped_counted_and_its_buffer_reused() {
    let mut port = open("net_ring_full");
    let mut accepted = 0;
    for number in 0..20_000 {
        if send(&mut port, &pattern(number)) {
            accepted += 1;
        }
    }
    port.flush();
    let stats = port.stats();
    assert_eq!(accepted, 20_000, "a frame that the device drops gives its buffer back at once");
    assert_eq!(stats.tx_frames + stats.tx_dropped, 20_000);
    assert!(stats.tx_dropped > 0, "the ring holds no 20,000 frames");

    let survivors = receive(&mut port, usize::MAX);
    assert_eq!(survivors.len() as u64, stats.tx_frames);
    assert_eq!(survivors[0], pattern(0));
}

#[test]
fn a_frame_of_a_wrong_length_is_refused() {
    let mut port = open("net_ring_length");
    for length in [0, port.info().mtu + 15, usize::MAX] {
        assert!(!port.transmit(length, &mut |_| panic!("there is no buffer to fill")));
    }
    assert_eq!(port.stats().tx_dropped, 3);
    let longest = vec![7; port.info().mtu + 14];
    assert!(send(&mut port, &longest));
    port.flush();
    assert_eq!(receive(&mut port, 64), [longest]);
}

#[test]
fn a_panic_in_the_stack_costs_no_buffer() {
    let mut port = open("net_ring_panic");
    for _ in 0..5_000 {
        let filled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            port.transmit(60, &mut |_| std::panic::resume_unwind(Box::new("fill")))
        }));
        assert!(filled.is_err());
        assert!(send(&mut port, &pattern(1)), "every earlier buffer came back");
        port.flush();
        let received = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            port.receive(1, &mut |_| std::panic::resume_unwind(Box::new("sink")))
        }));
        assert!(received.is_err());
    }
}

#[test]
fn an_idle_port_spins_then_naps_and_a_frame_ends_that() {
    let mut port = open("net_ring_idle");
    assert_eq!(port.park(), Park::Spin);
    let naps = (0..100_000).find(|_| matches!(port.park(), Park::Nap(_)));
    assert!(naps.is_some(), "an idle port lets its core sleep");
    assert!(send(&mut port, &pattern(0)));
    port.flush();
    assert_eq!(receive(&mut port, 1).len(), 1);
    assert_eq!(port.park(), Park::Spin);
}

#[test]
fn a_port_is_open_once_and_can_be_opened_again() {
    let port = open("net_ring_once");
    let error = DpdkPort::open(eal(), "net_ring_once", &small()).expect_err("it is open");
    assert_eq!(error.kind(), ErrorKind::InUse);
    drop(port);
    for _ in 0..20 {
        let mut port = open("net_ring_once");
        assert!(send(&mut port, &pattern(0)));
        // Dropped with a frame queued.
    }
}

#[test]
fn threads_have_their_own_ports() {
    eal();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut port = open(&format!("net_ring_thread{thread}"));
                for number in 0..2_000 {
                    assert!(send(&mut port, &pattern(number)));
                    port.flush();
                    assert_eq!(receive(&mut port, 64), [pattern(number)]);
                }
            });
        }
    });
}

#[test]
fn opening_what_is_not_there_says_what_is() {
    let refused = |devargs: &str, config: &PortConfig| {
        DpdkPort::open(eal(), devargs, config).expect_err("this does not open")
    };
    let error = refused("net_af_packet9,iface=nosuch0", &small());
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no interface nosuch0; it has"), "{error}");

    let error = refused("ffff:ff:1f.7", &small());
    assert_eq!(error.kind(), ErrorKind::NotFound);

    let error = refused("net_nosuchdriver0", &small());
    assert!(error.to_string().contains("net_nosuchdriver0"), "{error}");
    assert!(error.to_string().len() > "open DPDK port net_nosuchdriver0: ".len(), "{error}");

    let error = refused("net_ring_small", &PortConfig { mbufs: 100, ..small() });
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("100 buffers are asked for"), "{error}");

    let error = refused("net_ring_mac", &PortConfig { mac: Some([1, 0, 0, 0, 0, 1]), ..small() });
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    // More memory than the EAL has.
    let error = refused("net_ring_big", &PortConfig { mbufs: 524_287, ..small() });
    assert!(error.to_string().contains("MiB, which DPDK does not have"), "{error}");

    // Nothing of a failed attempt stays behind.
    open("net_ring_small");
}

#[test]
fn the_environment_starts_once_with_one_configuration() {
    eal();
    assert!(Eal::init(&eal_config()).is_ok());
    let other = EalConfig { arguments: "-m 64".to_owned(), ..eal_config() };
    assert_eq!(Eal::init(&other).expect_err("it runs with other arguments").kind(), ErrorKind::InUse);
    assert!(Eal::version().starts_with("DPDK "), "{}", Eal::version());
}

/// A file that is removed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in the temporary directory: leaving it there does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

/// A capture file (libpcap's format) with one record per frame.
fn capture_file(name: &str, frames: &[Vec<u8>]) -> Scratch {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_ne_bytes());
    }
    for frame in frames {
        let length = u32::try_from(frame.len()).expect("a frame");
        for word in [0, 0, length, length] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(frame);
    }
    let path = std::env::temp_dir().join(format!("boson-{}-{name}.pcap", std::process::id()));
    fs::write(&path, bytes).expect("the temporary directory is writable");
    Scratch(path)
}

#[test]
fn a_frame_too_long_for_one_buffer_is_dropped_and_counted() {
    let frames = [pattern(1), vec![9; 5_000], pattern(2), Vec::new(), pattern(3)];
    let file = capture_file("segments", &frames);
    let mut port = open(&format!("net_pcap_segments,rx_pcap={}", file.0.display()));
    let mut received = Vec::new();
    for _ in 0..10 {
        received.extend(receive(&mut port, 2));
    }
    assert_eq!(received, [pattern(1), pattern(2), pattern(3)]);
    assert_eq!((port.stats().rx_frames, port.stats().rx_errors), (3, 2));
}

/// Runs `ip`, `ping` and the like to their end.
fn run(command: &[&str]) -> Output {
    Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn run_well(command: &[&str]) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {} {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair: `near` is here, without an address; the other end is in a network namespace with 10.77.1.2/24.
struct Lab {
    namespace: String,
    near: String,
}

impl Lab {
    /// `None`, with the reason on stderr, where it cannot be made; under CI that is a failure.
    fn new(number: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI runs these tests as root");
            eprintln!("not run: a network namespace with a veth pair needs root");
            return None;
        }
        let id = format!("bd{}x{number}", std::process::id());
        let lab = Self { namespace: id.clone(), near: format!("{id}n") };
        let far = format!("{id}f");
        run_well(&["ip", "netns", "add", &lab.namespace]);
        run_well(&[
            "ip",
            "link",
            "add",
            &lab.near,
            "type",
            "veth",
            "peer",
            "name",
            &far,
            "netns",
            &lab.namespace,
        ]);
        // The kernel must not answer or speak on our end.
        let quiet = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", lab.near);
        if fs::exists(&quiet).unwrap_or(false) {
            fs::write(&quiet, "1").expect("root may set it");
        }
        run_well(&["ip", "link", "set", &lab.near, "up"]);
        for command in [
            &["ip", "link", "set", &far, "up"][..],
            &["ip", "addr", "add", "10.77.1.2/24", "dev", &far],
            &["ethtool", "-K", &far, "tx", "off"],
        ] {
            lab.inside(command);
        }
        Some(lab)
    }

    /// The kernel's idea of the near end's Ethernet address.
    fn mac(&self) -> String {
        let address = fs::read_to_string(format!("/sys/class/net/{}/address", self.near)).expect("readable");
        address.trim().to_owned()
    }

    fn inside(&self, command: &[&str]) -> String {
        run_well(&[&["ip", "netns", "exec", &self.namespace], command].concat())
    }

    fn open(&self, config: &PortConfig) -> DpdkPort {
        let devargs = format!("net_af_packet_{},iface={}", self.near, self.near);
        DpdkPort::open(eal(), &devargs, config).expect("root may open a packet socket")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The far end goes with its namespace, and the near end with the far one.
        run(&["ip", "link", "del", &self.near]);
        run(&["ip", "netns", "del", &self.namespace]);
    }
}

/// Answers ARP requests for `address` and ICMP echo requests to it (RFC 826, RFC 792).
fn answer(frame: &[u8], mac: [u8; 6], address: [u8; 4]) -> Option<Vec<u8>> {
    let mut reply = frame.to_vec();
    reply.get_mut(..14)?;
    let sender: [u8; 6] = frame[6..12].try_into().ok()?;
    reply[..6].copy_from_slice(&sender);
    reply[6..12].copy_from_slice(&mac);
    match frame[12..14] {
        [8, 6] if frame.get(20..22)? == [0, 1] && frame.get(38..42)? == address => {
            reply[20..22].copy_from_slice(&[0, 2]);
            reply[22..28].copy_from_slice(&mac);
            reply[28..32].copy_from_slice(&address);
            reply[32..42].copy_from_slice(&frame[22..32]);
            Some(reply)
        }
        [8, 0] if frame.get(23)? == &1 && frame.get(30..34)? == address && frame.get(34)? == &8 => {
            reply[26..30].copy_from_slice(&address);
            reply[30..34].copy_from_slice(&frame[26..30]);
            reply[34] = 0;
            // The type went from 8 to 0, so the checksum grows by as much (RFC 1624).
            let sum = u32::from(u16::from_be_bytes([reply[36], reply[37]])) + 0x0800;
            let sum = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("the carry is folded in");
            reply[36..38].copy_from_slice(&sum.to_be_bytes());
            Some(reply)
        }
        _ => None,
    }
}

/// Answers on `port` until `done` says so, at most for 30 seconds.
fn respond(port: &mut DpdkPort, address: [u8; 4], mut done: impl FnMut() -> bool) {
    let mac = port.info().mac;
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(30), "the client never ends");
        let mut replies = Vec::new();
        port.receive(64, &mut |frame| replies.extend(answer(frame, mac, address))).expect("the port works");
        for reply in &replies {
            assert!(send(port, reply));
        }
        port.flush();
        if replies.is_empty() {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Runs `command` in the namespace while `port` answers for 10.77.1.1.
fn while_answering(lab: &Lab, port: &mut DpdkPort, command: &[&str]) -> Output {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.namespace])
        .args(command)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("ip runs");
    respond(port, [10, 77, 1, 1], || child.try_wait().expect("it is our child").is_some());
    child.wait_with_output().expect("it has ended")
}

#[test]
fn the_kernel_pings_a_port_over_a_veth_pair() {
    let Some(lab) = Lab::new(1) else { return };
    let mut port = lab.open(&PortConfig::default());
    assert_eq!(port.driver(), "net_af_packet");
    assert_eq!(port.link_is_up(), Some(true));
    let mac: Vec<_> = port.info().mac.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(mac.join(":"), lab.mac());

    // The largest packet that is not fragmented, and a flood of at most 2,000.
    for arguments in
        [&["-c", "20", "-i", "0.01", "-s", "1472", "-M", "do"][..], &["-f", "-c", "2000", "-s", "64"]]
    {
        let ping = [&["ping", "-q", "-w", "20"][..], arguments, &["10.77.1.1"]].concat();
        let output = while_answering(&lab, &mut port, &ping);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(" 0% packet loss"), "{text}");
    }
    let stats = port.stats();
    assert!(stats.rx_frames >= 2_020 && stats.tx_frames >= 2_020, "{stats:?}");
    assert_eq!((stats.tx_dropped, stats.rx_errors), (0, 0));
}

#[test]
fn a_port_takes_the_address_it_is_given_and_the_interfaces_mtu() {
    let Some(lab) = Lab::new(2) else { return };
    run_well(&["ip", "link", "set", &lab.near, "mtu", "1280"]);
    let mac = [0x02, 0, 0, 0xb0, 0x50, 0x01];
    let mut port = lab.open(&PortConfig { mac: Some(mac), ..PortConfig::default() });
    assert_eq!(port.info().mac, mac);
    assert_eq!(lab.mac(), "02:00:00:b0:50:01", "the device knows, so that its filter lets our frames in");
    assert_eq!(port.info().mtu, 1_280);
    let output =
        while_answering(&lab, &mut port, &["ping", "-q", "-c", "3", "-i", "0.05", "-w", "10", "10.77.1.1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(lab.inside(&["ip", "neigh"]).contains("02:00:00:b0:50:01"));
}

#[test]
fn frames_into_a_link_that_is_down_are_lost_without_harm() {
    let Some(lab) = Lab::new(3) else { return };
    let mut port = lab.open(&small());
    run_well(&["ip", "link", "set", &lab.near, "down"]);
    assert_eq!(port.link_is_up(), Some(false));
    for number in 0..5_000 {
        send(&mut port, &pattern(number));
        if number % 32 == 0 {
            port.flush();
        }
    }
    run_well(&["ip", "link", "set", &lab.near, "up"]);
    let output =
        while_answering(&lab, &mut port, &["ping", "-q", "-c", "5", "-i", "0.1", "-w", "20", "10.77.1.1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
