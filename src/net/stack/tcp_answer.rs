//! Bare segments that the stack answers with on its own, without a socket.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use super::flow::Flow;

/// An empty segment that acknowledges.
pub(super) struct Ack {
    pub(super) flow: Flow,
    pub(super) seq: TcpSeqNumber,
    pub(super) ack: TcpSeqNumber,
}

const HOP_LIMIT: u8 = 64;

impl Ack {
    fn reprs(&self) -> (IpRepr, TcpRepr<'static>) {
        let tcp = TcpRepr {
            src_port: self.flow.local.port(),
            dst_port: self.flow.remote.port(),
            control: TcpControl::None,
            seq_number: self.seq,
            ack_number: Some(self.ack),
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let (local, remote): (IpAddr, IpAddr) = (self.flow.local.ip(), self.flow.remote.ip());
        let ip = IpRepr::new(local.into(), remote.into(), IpProtocol::Tcp, tcp.buffer_len(), HOP_LIMIT);
        (ip, tcp)
    }

    /// The length of the IP packet, in bytes.
    pub(super) fn len(&self) -> usize {
        self.reprs().0.buffer_len()
    }

    /// Writes the IP packet, with its checksums.
    pub(super) fn emit(&self, buffer: &mut [u8]) {
        let (ip, tcp) = self.reprs();
        let checksums = ChecksumCapabilities::default();
        ip.emit(&mut *buffer, &checksums);
        let mut packet = TcpPacket::new_unchecked(&mut buffer[ip.header_len()..]);
        tcp.emit(&mut packet, &ip.src_addr(), &ip.dst_addr(), &checksums);
    }
}
