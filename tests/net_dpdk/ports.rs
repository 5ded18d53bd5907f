//! Ports that stand on nothing of the kernel's.

use std::fs;
use std::path::PathBuf;

use boson::ErrorKind;
use boson::net::device::PacketDevice;
use boson::net::device::dpdk::{DpdkPort, Eal, EalConfig, PortConfig};
use boson::rt::poller::Park;

use super::{eal, eal_config, open, pattern, receive, send, small};

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
fn an_mtu_can_be_lowered_but_not_raised_beyond_the_device() {
    let with_mtu = |mtu| DpdkPort::open(eal(), "net_ring_mtu", &small().mtu(mtu));
    let mut port = with_mtu(600).expect("less than the device's");
    assert_eq!(port.info().mtu, 600);
    assert!(!port.transmit(615, &mut |_| panic!("longer than the MTU allows")));
    drop(port);
    let error = with_mtu(60_000).expect_err("more than the device's");
    assert!(error.to_string().contains("set the MTU"), "{error}");
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

    let error = refused("net_ring_small", &small().mbufs(100));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("100 buffers are asked for"), "{error}");

    let error = refused("net_ring_mac", &small().mac([1, 0, 0, 0, 0, 1]));
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    // More memory than the EAL has.
    let error = refused("net_ring_big", &small().mbufs(524_287));
    assert!(error.to_string().contains("MiB, which DPDK does not have"), "{error}");

    // Nothing of a failed attempt stays behind.
    open("net_ring_small");
}

#[test]
fn the_environment_starts_once_with_one_configuration() {
    eal();
    assert!(Eal::init(&eal_config()).is_ok());
    let other = EalConfig::default().arguments("-m 64");
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
