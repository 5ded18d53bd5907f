//! A peer made of bytes: it sends whatever frame a test wants and sees whatever the stack sends.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, IpRepr,
    Ipv4Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use crate::net::address::IpCidr;
use crate::net::device::{MemoryDevice, PacketDevice};
use crate::net::stack::{Stack, StackConfig, StackPoller};
use crate::rt::Instant;
use crate::rt::poller::Poller;

pub(super) const STACK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(super) const STACK_IP: [u8; 4] = [10, 0, 0, 1];
pub(super) const PEER_IP: [u8; 4] = [10, 0, 0, 2];
pub(super) const PORT: u16 = 7;

/// A stack, and the bare other end of its wire.
pub(super) struct Bench {
    pub(super) stack: Stack,
    pub(super) poller: StackPoller,
    pub(super) peer: MemoryDevice,
    pub(super) now: Instant,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with_config(|_| {})
    }

    fn with_config(change: impl FnOnce(&mut StackConfig)) -> Self {
        let (device, peer) = MemoryDevice::pair([STACK_MAC, PEER_MAC], 1500, 1024);
        let own = IpCidr::new(STACK_IP.into(), 24).expect("a prefix");
        let mut config = StackConfig::default().addresses([own]).seed([9; 32]);
        change(&mut config);
        let stack = Stack::new(Box::new(device), config, Instant::ORIGIN).expect("a stack");
        let poller = stack.poller();
        Self { stack, poller, peer, now: Instant::ORIGIN }
    }

    /// One in which the stack already knows where the peer is.
    pub(super) fn acquainted() -> Self {
        Self::with(|_| {})
    }

    /// The same, with another configuration.
    pub(super) fn with(change: impl FnOnce(&mut StackConfig)) -> Self {
        let mut bench = Self::with_config(change);
        bench.send(&arp(ArpOperation::Request));
        assert_eq!(bench.turn().len(), 1, "an answer to the ARP request");
        bench
    }

    pub(super) fn send(&mut self, frame: &[u8]) {
        assert!(self.peer.transmit(frame.len(), &mut |buffer| buffer.copy_from_slice(frame)));
    }

    /// Polls the stack until it rests, and returns the frames that it sent.
    pub(super) fn turn(&mut self) -> Vec<Vec<u8>> {
        for round in 0.. {
            self.now += Duration::from_micros(1);
            if self.poller.poll(self.now, 32) == 0 {
                break;
            }
            assert!(round < 10_000, "the stack does not come to rest");
        }
        let mut frames = Vec::new();
        self.peer.receive(usize::MAX, &mut |frame| frames.push(frame.to_vec())).expect("memory");
        frames
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, duration: Duration) {
        self.now += duration;
    }

    /// Sends a segment and returns the segments that come back.
    pub(super) fn exchange(&mut self, segment: &Seg) -> Vec<Seg> {
        self.send(&segment.frame());
        self.turn().iter().filter_map(|frame| Seg::parse(frame)).collect()
    }

    /// Completes a handshake to `PORT` and returns the peer's next sequence number and
    /// acknowledgement.
    pub(super) fn handshake(&mut self, peer_port: u16) -> (i32, i32) {
        let answers = self.exchange(&Seg { port: peer_port, seq: 1000, syn: true, ..Seg::default() });
        let [answer] = &answers[..] else { panic!("one SYN|ACK, not {answers:?}") };
        assert!(answer.syn && answer.ack == Some(1001), "{answer:?}");
        let ack = answer.seq.wrapping_add(1);
        self.exchange(&Seg { port: peer_port, seq: 1001, ack: Some(ack), ..Seg::default() });
        (1001, ack)
    }
}

pub(super) fn arp(operation: ArpOperation) -> Vec<u8> {
    let message = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(PEER_MAC),
        source_protocol_addr: PEER_IP.into(),
        target_hardware_addr: EthernetAddress(STACK_MAC),
        target_protocol_addr: STACK_IP.into(),
    };
    ethernet(EthernetProtocol::Arp, message.buffer_len(), |buffer| {
        message.emit(&mut ArpPacket::new_unchecked(buffer));
    })
}

pub(super) fn ethernet(protocol: EthernetProtocol, len: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = vec![0; 14 + len];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_dst_addr(EthernetAddress(STACK_MAC));
    frame.set_src_addr(EthernetAddress(PEER_MAC));
    frame.set_ethertype(protocol);
    fill(frame.payload_mut());
    bytes
}

/// A TCP segment between the stack's `PORT` and the peer's `port`.
#[derive(Clone, Debug, Default)]
pub(super) struct Seg {
    pub(super) port: u16,
    pub(super) seq: i32,
    pub(super) ack: Option<i32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    pub(super) window: Option<u16>,
    pub(super) payload: Vec<u8>,
}

impl Seg {
    pub(super) fn frame(&self) -> Vec<u8> {
        let control = match (self.syn, self.fin, self.rst) {
            (true, _, _) => TcpControl::Syn,
            (_, true, _) => TcpControl::Fin,
            (_, _, true) => TcpControl::Rst,
            _ => TcpControl::None,
        };
        let tcp = TcpRepr {
            src_port: self.port,
            dst_port: PORT,
            control,
            seq_number: TcpSeqNumber(self.seq),
            ack_number: self.ack.map(TcpSeqNumber),
            window_len: self.window.unwrap_or(60_000),
            window_scale: self.syn.then_some(0),
            max_seg_size: self.syn.then_some(1460),
            sack_permitted: self.syn,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &self.payload,
        };
        let (peer, stack): (IpAddr, IpAddr) = (PEER_IP.into(), STACK_IP.into());
        let ip = IpRepr::new(peer.into(), stack.into(), IpProtocol::Tcp, tcp.buffer_len(), 64);
        let checksums = ChecksumCapabilities::default();
        ethernet(EthernetProtocol::Ipv4, ip.buffer_len(), |buffer| {
            ip.emit(&mut *buffer, &checksums);
            let mut packet = TcpPacket::new_unchecked(&mut buffer[ip.header_len()..]);
            tcp.emit(&mut packet, &peer.into(), &stack.into(), &checksums);
        })
    }

    /// The segment in a frame from the stack, if it is one; its checksums must be right.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).expect("a frame");
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        assert_eq!((ethernet.src_addr().0, ethernet.dst_addr().0), (STACK_MAC, PEER_MAC));
        let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("a packet");
        assert!(ip.verify_checksum());
        if ip.next_header() != IpProtocol::Tcp {
            return None;
        }
        let tcp = TcpPacket::new_checked(ip.payload()).expect("a segment");
        assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        Some(Self {
            port: tcp.dst_port(),
            seq: tcp.seq_number().0,
            ack: tcp.ack().then(|| tcp.ack_number().0),
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            window: Some(tcp.window_len()),
            payload: tcp.payload().to_vec(),
        })
    }
}

pub(super) fn listen_address() -> SocketAddr {
    SocketAddr::from((STACK_IP, PORT))
}
