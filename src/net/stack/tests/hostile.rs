//! Whatever arrives, the stack neither panics nor stops working.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::raw::{Bench, PEER_MAC, STACK_MAC, Seg, arp, listen_address};
use crate::net::stack::{StackListener, StackStream};

fn accept(listener: &StackListener) -> Option<StackStream> {
    match pin!(listener.accept()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(accepted) => Some(accepted.expect("the device works").0),
        Poll::Pending => None,
    }
}

/// The stack still answers a handshake and carries data.
fn assert_alive(bench: &mut Bench, listener: &StackListener) {
    while accept(listener).is_some() {}
    bench.send(&arp(smoltcp::wire::ArpOperation::Request));
    bench.turn();
    let (seq, ack) = bench.handshake(61_234);
    let stream = accept(listener).expect("a connection");
    let data = Seg { port: 61_234, seq, ack: Some(ack), payload: b"alive".to_vec(), ..Seg::default() };
    bench.exchange(&data);
    let mut buf = [0; 10];
    assert_eq!(stream.try_read(&mut buf).expect("it stands"), Some(5));
    assert_eq!(&buf[..5], b"alive");
}

/// Frames that are valid but for what a mutation does to them.
fn valid_frames() -> Vec<Vec<u8>> {
    let syn = Seg { port: 5000, seq: 1000, syn: true, ..Seg::default() };
    let data = Seg { port: 5001, seq: 1001, ack: Some(5), payload: vec![7; 100], ..Seg::default() };
    let mut ipv6 = vec![0; 14 + 40 + 24];
    ipv6[..6].copy_from_slice(&STACK_MAC);
    ipv6[6..12].copy_from_slice(&PEER_MAC);
    ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
    ipv6[14] = 0x60;
    ipv6[19] = 24;
    ipv6[20] = 58;
    ipv6[21] = 255;
    vec![syn.frame(), data.frame(), arp(smoltcp::wire::ArpOperation::Request), ipv6]
}

#[derive(Clone, Debug)]
enum Garbage {
    Random(Vec<u8>),
    /// Random bytes behind a good Ethernet header of this type.
    Typed(u16, Vec<u8>),
    /// A valid frame with some bytes overwritten, cut or extended to a length.
    Mutated {
        which: usize,
        changes: Vec<(usize, u8)>,
        len: usize,
    },
}

fn garbage() -> impl Strategy<Value = Garbage> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200).prop_map(Garbage::Random),
        (
            prop_oneof![Just(0x0800u16), Just(0x0806), Just(0x86dd), any::<u16>()],
            proptest::collection::vec(any::<u8>(), 0..200)
        )
            .prop_map(|(kind, bytes)| Garbage::Typed(kind, bytes)),
        (0usize..4, proptest::collection::vec((0usize..160, any::<u8>()), 0..6), 0usize..200)
            .prop_map(|(which, changes, len)| Garbage::Mutated { which, changes, len }),
    ]
}

impl Garbage {
    fn frame(&self) -> Vec<u8> {
        match self {
            Garbage::Random(bytes) => bytes.clone(),
            Garbage::Typed(kind, bytes) => [&STACK_MAC[..], &PEER_MAC, &kind.to_be_bytes(), bytes].concat(),
            Garbage::Mutated { which, changes, len } => {
                let mut frame = valid_frames().swap_remove(*which);
                for &(at, byte) in changes {
                    if let Some(slot) = frame.get_mut(at) {
                        *slot = byte;
                    }
                }
                if *len > 20 {
                    frame.resize(*len, 0);
                }
                frame
            }
        }
    }
}

/// What a peer that speaks TCP, but means harm, does next on an established connection.
#[derive(Clone, Debug)]
struct Attack {
    seq_offset: i32,
    ack_offset: Option<i32>,
    flags: u8,
    window: u16,
    len: usize,
    wait_ms: u16,
    /// What the application does: read, write, shut down.
    application: u8,
}

fn attack() -> impl Strategy<Value = Attack> {
    let offset = || {
        prop_oneof![
            4 => -3i32..3,
            3 => -2000i32..70_000,
            1 => any::<i32>(),
            2 => prop_oneof![Just(65_534), Just(65_535), Just(65_536), Just(131_069), Just(131_070), Just(-65_535)],
        ]
    };
    let window = prop_oneof![2 => Just(0u16), 4 => Just(60_000), 2 => any::<u16>()];
    let len = prop_oneof![3 => Just(0usize), 3 => 1usize..20, 2 => Just(1400)];
    let wait = prop_oneof![4 => Just(0u16), 1 => 0u16..50, 1 => 900u16..20_000];
    (offset(), proptest::option::weighted(0.9, offset()), 0u8..16, window, len, wait, 0u8..16).prop_map(
        |(seq_offset, ack_offset, flags, window, len, wait_ms, application)| Attack {
            seq_offset,
            ack_offset,
            flags,
            window,
            len,
            wait_ms,
            application,
        },
    )
}

/// Follows the connection well enough that most attacks hit the window.
struct Attacker {
    next_seq: i32,
    next_ack: i32,
}

impl Attacker {
    fn apply(&mut self, bench: &mut Bench, stream: &StackStream, attack: &Attack) {
        match attack.application {
            0..4 => {
                let _ = stream.try_read(&mut [0; 3000]);
            }
            4..8 => {
                let _ = stream.try_write(&[1; 5000]);
            }
            8 => {
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
            _ => {}
        }
        let segment = Seg {
            port: 5000,
            seq: self.next_seq.wrapping_add(attack.seq_offset),
            ack: attack.ack_offset.map(|offset| self.next_ack.wrapping_add(offset)),
            syn: attack.flags == 1,
            fin: attack.flags == 2 || attack.flags == 3,
            rst: attack.flags == 4 && attack.seq_offset != 0,
            window: Some(attack.window),
            payload: vec![9; attack.len],
        };
        bench.wait(Duration::from_millis(attack.wait_ms.into()));
        for answer in bench.exchange(&segment) {
            if let Some(ack) = answer.ack {
                self.next_seq = ack;
            }
            let len = i32::try_from(answer.payload.len()).expect("at most an MTU");
            self.next_ack = answer.seq.wrapping_add(len).wrapping_add(i32::from(answer.fin));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_is_dropped_and_counted(frames in proptest::collection::vec(garbage(), 1..60)) {
        let mut bench = Bench::acquainted();
        let listener = StackListener::bind(&bench.stack, listen_address(), 64).expect("free");
        let before = bench.stack.stats().frames_received;
        for garbage in &frames {
            bench.send(&garbage.frame());
            bench.turn();
        }
        prop_assert_eq!(bench.stack.stats().frames_received - before, frames.len() as u64);
        assert_alive(&mut bench, &listener);
    }

    #[test]
    fn a_hostile_peer_hurts_nobody(attacks in proptest::collection::vec(attack(), 1..80)) {
        let mut bench = Bench::acquainted();
        let listener = StackListener::bind(&bench.stack, listen_address(), 64).expect("free");
        let (next_seq, next_ack) = bench.handshake(5000);
        let stream = accept(&listener).expect("a connection");
        let mut attacker = Attacker { next_seq, next_ack };
        for attack in &attacks {
            attacker.apply(&mut bench, &stream, attack);
        }
        assert_alive(&mut bench, &listener);
    }
}

#[test]
fn each_kind_of_garbage_has_its_counter() {
    let mut bench = Bench::acquainted();
    let _listener = StackListener::bind(&bench.stack, listen_address(), 8).expect("free");
    let syn = Seg { port: 5000, seq: 1, syn: true, ..Seg::default() }.frame();
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut frame = syn.clone();
        change(&mut frame);
        // The IPv4 header's checksum is right again; the TCP checksum covers only its addresses.
        smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..34]).fill_checksum();
        frame
    };
    let cases: [(&str, Vec<u8>); 9] = [
        ("malformed", syn[..13].to_vec()),
        ("malformed", syn[..30].to_vec()),
        ("malformed", changed(|frame| frame[16..18].copy_from_slice(&[0xff, 0xff]))),
        ("checksum", {
            let mut frame = syn.clone();
            *frame.last_mut().expect("bytes") ^= 1;
            frame
        }),
        ("checksum", {
            let mut frame = syn.clone();
            frame[24] ^= 1;
            frame
        }),
        ("fragment", changed(|frame| frame[20] = 0x20)),
        ("spoofed", changed(|frame| frame[26..30].copy_from_slice(&[10, 0, 0, 1]))),
        ("spoofed", changed(|frame| frame[26..30].copy_from_slice(&[10, 0, 0, 255]))),
        ("ignored", {
            let mut frame = syn.clone();
            frame[5] = 99;
            frame
        }),
    ];
    for (kind, frame) in cases {
        let before = bench.stack.stats();
        bench.send(&frame);
        assert!(bench.turn().is_empty(), "{kind} was answered");
        let after = bench.stack.stats();
        let counted = [
            ("malformed", after.frames_malformed - before.frames_malformed),
            ("checksum", after.bad_checksums - before.bad_checksums),
            ("fragment", after.fragments_dropped - before.fragments_dropped),
            ("spoofed", after.spoofed_dropped - before.spoofed_dropped),
            ("ignored", after.frames_ignored - before.frames_ignored),
        ];
        for (name, count) in counted {
            assert_eq!(count, u64::from(name == kind), "{name} counted for {kind}: {frame:02x?}");
        }
    }
    assert_eq!(bench.stack.stats().connections, 0);
}

/// smoltcp believes at first that it offered its window scaled, and takes data that far ahead; the
/// buffer must hold it.
#[test]
fn data_far_ahead_of_a_fresh_connection_does_no_harm() {
    for receive_buffer_bytes in [65_535, 65_536, 100_000, 1 << 20] {
        let mut bench = Bench::with(|config| config.receive_buffer_bytes = receive_buffer_bytes);
        let listener = StackListener::bind(&bench.stack, listen_address(), 64).expect("free");
        let (seq, ack) = bench.handshake(5000);
        let stream = accept(&listener).expect("a connection");
        for offset in [65_000, 65_530, 65_536, 99_000, 131_000, 1_000_000] {
            let ahead = Seg {
                port: 5000,
                seq: seq + offset,
                ack: Some(ack),
                payload: vec![9; 1000],
                ..Seg::default()
            };
            bench.exchange(&ahead);
        }
        let first = Seg { port: 5000, seq, ack: Some(ack), payload: b"first".to_vec(), ..Seg::default() };
        bench.exchange(&first);
        assert_eq!(stream.try_read(&mut [0; 100]).expect("it stands"), Some(5));
        assert_alive(&mut bench, &listener);
    }
}

/// A peer can leave smoltcp's zero-window timer running with nothing to probe for; it then wants to
/// send without end.
#[test]
fn a_window_closed_over_the_last_data_does_not_start_a_storm() {
    for waits_for_time_wait in [false, true] {
        let mut bench = Bench::acquainted();
        let listener = StackListener::bind(&bench.stack, listen_address(), 64).expect("free");
        let (seq, first) = bench.handshake(5000);
        let stream = accept(&listener).expect("a connection");
        // Nagle's algorithm keeps the rest back, so that it goes with the FIN.
        stream.set_nodelay(false).expect("it stands");
        assert_eq!(stream.try_write(&[1; 2000]).expect("it stands"), Some(2000));
        assert_eq!(bench.turn().len(), 1);
        stream.shutdown(std::net::Shutdown::Write).expect("it stands");
        let ack = |bytes: i32, window, fin| {
            let ack = Some(first.wrapping_add(bytes));
            Seg { port: 5000, seq, ack, fin, window: Some(window), ..Seg::default() }
        };
        let rest = bench.exchange(&ack(0, 60_000, false));
        assert!(rest.iter().any(|segment| segment.fin), "{rest:?}");
        bench.exchange(&ack(1999, 0, false));
        bench.exchange(&ack(2001, 0, false));
        if waits_for_time_wait {
            bench.exchange(&ack(2001, 0, true));
        }
        let mut frames = 0;
        for _ in 0..600 {
            bench.wait(Duration::from_millis(100));
            frames += bench.turn().len();
        }
        assert!(frames < 80, "{frames} frames in a minute");
    }
}

/// Handshakes that are never completed hold the places of a backlog for a second each, not for the
/// half minute that a handshake may take.
#[test]
fn a_slow_flood_of_syns_does_not_keep_others_out() {
    let mut bench = Bench::acquainted();
    let listener = StackListener::bind(&bench.stack, listen_address(), 16).expect("free");
    let syn = |port| Seg { port, seq: 1, syn: true, ..Seg::default() };
    for port in 1..=16 {
        bench.exchange(&syn(port));
    }
    assert!(bench.exchange(&syn(100)).is_empty(), "handshakes that just began keep their places");
    for port in 200..500 {
        bench.wait(Duration::from_millis(100));
        bench.exchange(&syn(port));
        assert!(bench.stack.stats().connections <= 16);
    }
    bench.wait(Duration::from_millis(100));
    bench.turn();
    bench.handshake(5000);
    assert_eq!(accept(&listener).expect("it got through").peer_addr().port(), 5000);
    let stats = bench.stack.stats();
    assert!(stats.handshakes_given_up > 100 && stats.syns_dropped_backlog < 200, "{stats:?}");
    bench.wait(Duration::from_secs(60));
    bench.turn();
    bench.wait(Duration::from_secs(60));
    bench.turn();
    assert_alive(&mut bench, &listener);
}
