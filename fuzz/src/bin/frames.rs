//! Frames into the userspace stack: whatever arrives, it comes to rest.
//!
//! The input is a list of steps: a frame as it is; a frame whose addresses and checksums are made
//! right, so that it is taken; a TCP segment near the sequence numbers that the stack expects;
//! time. A listener accepts, and echoes.
#![no_main]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use boson::net::address::IpCidr;
use boson::net::device::{MemoryDevice, PacketDevice};
use boson::net::stack::{Stack, StackConfig, StackListener, StackPoller, StackStream};
use boson::rt::Instant;
use boson::rt::poller::Poller;
use libfuzzer_sys::fuzz_target;

const STACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const STACK_IP: [u8; 4] = [10, 0, 0, 1];
const PEER_IP: [u8; 4] = [10, 0, 0, 2];
const PORT: u16 = 7;
const MTU: usize = 1500;
/// Of the peer.
const FIRST_SEQUENCE: u32 = 1000;
const SYN: u8 = 0x02;

/// The Internet checksum over `bytes`, on top of `sum`.
fn internet_checksum(mut sum: u32, bytes: &[u8]) -> u16 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// Makes addresses and checksums right, as far as `frame` is long enough and is what it says.
fn make_right(frame: &mut [u8]) {
    if frame.len() < 34 {
        return;
    }
    frame[..6].copy_from_slice(&STACK_MAC);
    frame[6..12].copy_from_slice(&PEER_MAC);
    if frame[12..14] != [8, 0] {
        return;
    }
    frame[26..30].copy_from_slice(&PEER_IP);
    frame[30..34].copy_from_slice(&STACK_IP);
    let header = usize::from(frame[14] & 0x0f) * 4;
    if header < 20 || frame.len() < 14 + header {
        return;
    }
    frame[24..26].fill(0);
    let sum = internet_checksum(0, &frame[14..14 + header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let (start, end) = (14 + header, (14 + total).min(frame.len()));
    let (protocol, field) = match frame[23] {
        6 => (6, 16),
        1 => (0, 2),
        _ => return,
    };
    if end < start + field + 2 {
        return;
    }
    frame[start + field..start + field + 2].fill(0);
    let pseudo = if protocol == 6 {
        let addresses = STACK_IP.chunks(2).chain(PEER_IP.chunks(2));
        let sum: u32 = addresses.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        sum + 6 + u32::try_from(end - start).expect("a frame")
    } else {
        0
    };
    let sum = internet_checksum(pseudo, &frame[start..end]);
    frame[start + field..start + field + 2].copy_from_slice(&sum.to_be_bytes());
}

fn arp_request() -> Vec<u8> {
    let mut frame = [&[0xff; 6], &PEER_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1][..]].concat();
    frame.extend([&PEER_MAC, &PEER_IP[..], &[0; 6], &STACK_IP].concat());
    frame
}

struct Bench {
    poller: StackPoller,
    listener: StackListener,
    streams: Vec<StackStream>,
    peer: MemoryDevice,
    now: Instant,
    /// The stack's next sequence number, as far as the peer saw.
    next_sequence: u32,
}

impl Bench {
    fn new() -> Self {
        let (device, peer) = MemoryDevice::pair([STACK_MAC, PEER_MAC], MTU, 256);
        let own = IpCidr::new(STACK_IP.into(), 24).expect("a prefix");
        let config = StackConfig::default().addresses([own]).seed([9; 32]);
        let stack = Stack::new(Box::new(device), config, Instant::ORIGIN).expect("a stack");
        let listener = StackListener::bind(&stack, (STACK_IP, PORT).into(), 4).expect("a free port");
        let poller = stack.poller();
        let mut bench =
            Self { poller, listener, streams: Vec::new(), peer, now: Instant::ORIGIN, next_sequence: 0 };
        bench.send(&arp_request());
        bench
    }

    fn send(&mut self, frame: &[u8]) {
        let frame = &frame[..frame.len().min(MTU + 14)];
        self.peer.transmit(frame.len(), &mut |buffer| buffer.copy_from_slice(frame));
        self.turn();
    }

    /// A segment with right checksums. `sequence` and `acknowledgement` are relative to what the
    /// stack expects.
    fn segment(&mut self, flags: u8, sequence: i16, acknowledgement: i16, rest: &[u8]) {
        let (options, payload) = match rest.split_first() {
            Some((&len, rest)) => rest.split_at(rest.len().min(usize::from(len % 11) * 4) & !3),
            None => (rest, rest),
        };
        let total = 40 + options.len() + payload.len();
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(u16::try_from(total).expect("a short input").to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend([0; 8]);
        frame.extend([0x9c, 0x40]);
        frame.extend(PORT.to_be_bytes());
        frame.extend(FIRST_SEQUENCE.wrapping_add_signed(sequence.into()).to_be_bytes());
        frame.extend(self.next_sequence.wrapping_add_signed(acknowledgement.into()).to_be_bytes());
        let words = 5 + u8::try_from(options.len() / 4).expect("at most 10");
        frame.extend([words << 4, flags, 0x40, 0, 0, 0, 0, 0]);
        frame.extend(options);
        frame.extend(payload);
        make_right(&mut frame);
        self.send(&frame);
    }

    /// Polls the stack until it rests, and lets the application do its part.
    fn turn(&mut self) {
        for round in 0.. {
            self.now += Duration::from_micros(1);
            if self.poller.poll(self.now, 32) == 0 {
                break;
            }
            assert!(round < 10_000, "the stack does not come to rest");
        }
        let next_sequence = &mut self.next_sequence;
        let mut see = |frame: &mut [u8]| {
            assert!((14..=MTU + 14).contains(&frame.len()), "{} bytes", frame.len());
            if frame.len() >= 54 && frame[12..14] == [8, 0] && frame[23] == 6 {
                let sequence = u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]]);
                *next_sequence = sequence.wrapping_add(u32::from(frame[47] & SYN != 0));
            }
        };
        self.peer.receive(usize::MAX, &mut see).expect("memory does not fail");
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(Ok((stream, _))) = pin!(self.listener.accept()).poll(&mut context) {
            self.streams.push(stream);
        }
        let mut bytes = [0; 256];
        self.streams.retain(|stream| match stream.try_read(&mut bytes) {
            Ok(Some(0)) | Err(_) => false,
            Ok(Some(len)) => stream.try_write(&bytes[..len]).is_ok(),
            Ok(None) => true,
        });
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bench = Bench::new();
    let mut rest = data;
    while let [kind, len, after @ ..] = rest {
        let (step, after) = after.split_at(after.len().min(usize::from(*len)));
        rest = after;
        match (kind % 4, step) {
            (0, frame) => bench.send(frame),
            (1, frame) => {
                let mut frame = frame.to_vec();
                make_right(&mut frame);
                bench.send(&frame);
            }
            (2, [flags, a, b, c, d, rest @ ..]) => {
                bench.segment(*flags, i16::from_le_bytes([*a, *b]), i16::from_le_bytes([*c, *d]), rest);
            }
            (_, [a, b, ..]) => {
                bench.now += Duration::from_millis(u16::from_le_bytes([*a, *b]).into());
                bench.turn();
            }
            _ => {}
        }
    }
    drop(bench.streams);
});
