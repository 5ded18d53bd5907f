//! Where frames leave: smoltcp's device for one packet, over the real device or over a staging
//! queue.

use std::collections::VecDeque;

use smoltcp::phy::{self, DeviceCapabilities};
use smoltcp::time::Instant;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

use super::frame::{ETHERNET_HEADER_LEN, Mac};
use crate::net::device::PacketDevice;

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// How many frames may wait for the device. Answers past it are dropped and counted; data of
/// connections never is, because nothing more is taken from them while a frame waits.
const STAGED_MAX: usize = 512;

/// Frames that could not go straight into the device: answers written while it was handing out
/// received frames, and what met a full transmit queue.
pub(super) struct Outbox {
    mac: Mac,
    capabilities: DeviceCapabilities,
    staged: VecDeque<Vec<u8>>,
    /// Emptied buffers, kept for reuse.
    spare: Vec<Vec<u8>>,
    /// Answers dropped because `STAGED_MAX` frames waited.
    pub(super) dropped: u64,
    /// TCP segments with RST that were sent.
    pub(super) resets: u64,
    /// The TCP segment emitted last.
    pub(super) last_segment: Option<SentSegment>,
}

/// What TIME-WAIT must remember of the last segment a connection sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentSegment {
    /// The sequence number after the segment: SND.NXT.
    pub(super) next_seq: TcpSeqNumber,
    /// What it acknowledged: RCV.NXT.
    pub(super) ack: TcpSeqNumber,
    /// Whether it took no sequence numbers: a bare acknowledgement.
    pub(super) is_bare: bool,
}

impl Outbox {
    pub(super) fn new(mac: Mac, capabilities: DeviceCapabilities) -> Self {
        Self {
            mac,
            capabilities,
            staged: VecDeque::new(),
            spare: Vec::new(),
            dropped: 0,
            resets: 0,
            last_segment: None,
        }
    }

    /// Whether frames wait for room in the device.
    pub(super) fn is_waiting(&self) -> bool {
        !self.staged.is_empty()
    }

    /// A device that yields `packet` once and stages what is sent in answer, to the station `to`.
    pub(super) fn answering<'a>(&'a mut self, packet: &'a [u8], to: Mac) -> OutPort<'a> {
        OutPort { packet: Some(packet), device: None, outbox: self, to }
    }

    /// A device that only sends, to the station `to`.
    pub(super) fn sending<'a>(&'a mut self, device: &'a mut dyn PacketDevice, to: Mac) -> OutPort<'a> {
        OutPort { packet: None, device: Some(device), outbox: self, to }
    }

    /// Stages a frame of `len` bytes after its Ethernet header, written by `fill`.
    pub(super) fn stage(&mut self, to: Mac, ethertype: u16, len: usize, fill: impl FnOnce(&mut [u8])) {
        let mut frame = self.spare.pop().unwrap_or_default();
        frame.clear();
        frame.resize(ETHERNET_HEADER_LEN + len, 0);
        write_header(&mut frame, to, self.mac, ethertype);
        fill(&mut frame[ETHERNET_HEADER_LEN..]);
        self.push(frame);
    }

    fn push(&mut self, frame: Vec<u8>) {
        if self.staged.len() < STAGED_MAX {
            self.staged.push_back(frame);
        } else {
            self.dropped += 1;
            self.spare.push(frame);
        }
    }

    /// Moves waiting frames into the device until it is full; returns how many.
    pub(super) fn drain(&mut self, device: &mut dyn PacketDevice) -> usize {
        let mut sent = 0;
        while let Some(frame) = self.staged.front() {
            if !device.transmit(frame.len(), &mut |buffer| buffer.copy_from_slice(frame)) {
                break;
            }
            sent += 1;
            self.spare.extend(self.staged.pop_front());
        }
        sent
    }
}

/// The TCP segment in the IP packet `packet`, if that is what it holds, and whether it has RST.
fn observe(packet: &[u8]) -> Option<(SentSegment, bool)> {
    let payload = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(packet).ok()?;
            (ip.next_header() == IpProtocol::Tcp).then(|| ip.payload())?
        }
        6 => {
            let ip = Ipv6Packet::new_checked(packet).ok()?;
            (ip.next_header() == IpProtocol::Tcp).then(|| ip.payload())?
        }
        _ => return None,
    };
    let tcp = TcpPacket::new_checked(payload).ok()?;
    let len = tcp.segment_len();
    let segment = SentSegment { next_seq: tcp.seq_number() + len, ack: tcp.ack_number(), is_bare: len == 0 };
    Some((segment, tcp.rst()))
}

fn write_header(frame: &mut [u8], to: Mac, from: Mac, ethertype: u16) {
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&from);
    frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
}

/// smoltcp's view of the network for the time of one call.
pub(super) struct OutPort<'a> {
    packet: Option<&'a [u8]>,
    device: Option<&'a mut dyn PacketDevice>,
    outbox: &'a mut Outbox,
    to: Mac,
}

impl phy::Device for OutPort<'_> {
    type RxToken<'t>
        = Packet<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Departure<'t>
    where
        Self: 't;

    fn receive(&mut self, _now: Instant) -> Option<(Packet<'_>, Departure<'_>)> {
        let packet = self.packet.take()?;
        Some((Packet(packet), Departure { device: None, outbox: self.outbox, to: self.to }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Departure<'_>> {
        if self.outbox.is_waiting() {
            return None;
        }
        let device: Option<&mut dyn PacketDevice> = match &mut self.device {
            Some(device) => Some(&mut **device),
            None => None,
        };
        Some(Departure { device, outbox: self.outbox, to: self.to })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.outbox.capabilities.clone()
    }
}

/// The received packet.
pub(super) struct Packet<'t>(&'t [u8]);

impl phy::RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

/// The right to send one packet.
pub(super) struct Departure<'t> {
    device: Option<&'t mut dyn PacketDevice>,
    outbox: &'t mut Outbox,
    to: Mac,
}

impl phy::TxToken for Departure<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let Self { device, outbox, to } = self;
        let frame_len = ETHERNET_HEADER_LEN + len;
        let from = outbox.mac;
        let mut write = Some(write);
        let mut result = None;
        let mut observed = None;
        let mut fill = |frame: &mut [u8]| {
            let Some(write) = write.take() else { return };
            result = Some(write(&mut frame[ETHERNET_HEADER_LEN..]));
            let ethertype =
                if frame[ETHERNET_HEADER_LEN] >> 4 == 6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
            write_header(frame, to, from, ethertype);
            observed = observe(&frame[ETHERNET_HEADER_LEN..]);
        };
        if !device.is_some_and(|device| device.transmit(frame_len, &mut fill)) {
            let mut frame = outbox.spare.pop().unwrap_or_default();
            frame.clear();
            frame.resize(frame_len, 0);
            fill(&mut frame);
            outbox.push(frame);
        }
        if let Some((segment, is_reset)) = observed {
            outbox.last_segment = Some(segment);
            outbox.resets += u64::from(is_reset);
        }
        match (result, write) {
            (Some(result), _) => result,
            // A device that took the frame without letting it be filled has lost it; TCP sends it
            // again.
            (None, Some(write)) => write(&mut vec![0; len]),
            (None, None) => unreachable!("`fill` stores a result whenever it takes `write`"),
        }
    }
}
