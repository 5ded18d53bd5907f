//! Reads the headers of a received Ethernet frame and decides what part of the stack it concerns.
//!
//! Everything that fails here is dropped and counted; nothing behind it sees a frame with a wrong
//! length or checksum.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber,
};

use super::flow::Flow;
use crate::net::address::IpCidr;

pub(super) const ETHERNET_HEADER_LEN: usize = 14;

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

pub(super) const BROADCAST: Mac = [0xff; 6];

/// Whether `mac` names one station, not a group or nobody.
pub(super) fn is_unicast(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// A frame that concerns this host.
pub(super) enum Received<'a> {
    /// An ARP packet, not yet examined.
    Arp(&'a [u8]),
    /// A TCP segment to one of this host's addresses, with right checksums.
    Tcp(Segment<'a>),
    /// An IP packet with an ICMP message to one of this host's addresses; checked by whoever
    /// handles it.
    Icmp { packet: &'a [u8], source_mac: Mac },
    /// An IPv6 packet with an ICMPv6 message that may be of neighbor discovery, to this host or to
    /// a group.
    Icmpv6 { packet: &'a [u8], source_mac: Mac, to_us: bool },
}

/// A TCP segment with what the stack itself must know of it.
pub(super) struct Segment<'a> {
    /// The IP packet, header included.
    pub(super) packet: &'a [u8],
    pub(super) source_mac: Mac,
    pub(super) flow: Flow,
    pub(super) seq: TcpSeqNumber,
    pub(super) ack: Option<TcpSeqNumber>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
}

impl Segment<'_> {
    /// Whether it asks for a new connection.
    pub(super) fn opens(&self) -> bool {
        self.syn && self.ack.is_none() && !self.rst && !self.fin
    }
}

/// Why a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drop {
    /// Too short, or its lengths contradict each other.
    Malformed,
    /// A checksum is wrong.
    Checksum,
    /// A fragment of an IPv4 packet: this stack does not reassemble.
    Fragment,
    /// It claims to come from this host, or from an address that no host can have.
    Spoofed,
    /// For another host.
    NotForUs,
    /// A protocol this stack does not speak.
    Unsupported,
}

/// What this host answers to.
pub(super) struct Identity {
    pub(super) mac: Mac,
    pub(super) addresses: Vec<IpCidr>,
    /// Whether checksums must be verified here, because the device does not.
    pub(super) verify_checksums: bool,
}

impl Identity {
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address() == address)
    }

    /// Whether a packet from `source` may be believed at all (RFC 1122 section 3.2.1.3).
    fn is_plausible_source(&self, source: IpAddr) -> bool {
        let is_host = match source {
            IpAddr::V4(v4) => {
                !v4.is_unspecified() && !v4.is_broadcast() && !v4.is_multicast() && !v4.is_loopback()
            }
            IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast() && !v6.is_loopback(),
        };
        is_host && !self.owns(source) && !self.addresses.iter().any(|own| own.broadcast() == Some(source))
    }

    /// Reads the headers of `frame`.
    pub(super) fn classify<'a>(&self, frame: &'a [u8]) -> Result<Received<'a>, Drop> {
        let ethernet = EthernetFrame::new_checked(frame).map_err(|_| Drop::Malformed)?;
        let (destination, source_mac) = (ethernet.dst_addr().0, ethernet.src_addr().0);
        let to_this_station = destination == self.mac;
        if !to_this_station && is_unicast(destination) {
            return Err(Drop::NotForUs);
        }
        if !is_unicast(source_mac) || source_mac == self.mac {
            return Err(Drop::Spoofed);
        }
        match ethernet.ethertype() {
            EthernetProtocol::Arp => Ok(Received::Arp(ethernet.payload())),
            EthernetProtocol::Ipv4 if to_this_station => self.classify_ipv4(ethernet.payload(), source_mac),
            EthernetProtocol::Ipv4 => Err(Drop::NotForUs),
            EthernetProtocol::Ipv6 => self.classify_ipv6(ethernet.payload(), source_mac, to_this_station),
            EthernetProtocol::Unknown(_) => Err(Drop::Unsupported),
        }
    }

    fn classify_ipv4<'a>(&self, packet: &'a [u8], source_mac: Mac) -> Result<Received<'a>, Drop> {
        let ip = Ipv4Packet::new_checked(packet).map_err(|_| Drop::Malformed)?;
        if ip.version() != 4 || ip.header_len() < 20 {
            return Err(Drop::Malformed);
        }
        if self.verify_checksums && !ip.verify_checksum() {
            return Err(Drop::Checksum);
        }
        if !self.owns(ip.dst_addr().into()) {
            return Err(Drop::NotForUs);
        }
        if !self.is_plausible_source(ip.src_addr().into()) {
            return Err(Drop::Spoofed);
        }
        if ip.more_frags() || ip.frag_offset() != 0 {
            return Err(Drop::Fragment);
        }
        match ip.next_header() {
            IpProtocol::Tcp => self.classify_tcp(
                packet,
                ip.payload(),
                ip.src_addr().into(),
                ip.dst_addr().into(),
                source_mac,
            ),
            IpProtocol::Icmp => Ok(Received::Icmp { packet, source_mac }),
            _ => Err(Drop::Unsupported),
        }
    }

    fn classify_ipv6<'a>(
        &self,
        packet: &'a [u8],
        source_mac: Mac,
        to_this_station: bool,
    ) -> Result<Received<'a>, Drop> {
        let ip = Ipv6Packet::new_checked(packet).map_err(|_| Drop::Malformed)?;
        if ip.version() != 6 {
            return Err(Drop::Malformed);
        }
        let destination = ip.dst_addr();
        let to_us = to_this_station && self.owns(destination.into());
        if !to_us && !destination.is_multicast() {
            return Err(Drop::NotForUs);
        }
        // Duplicate address detection asks from the unspecified address (RFC 4862 section 5.4.2).
        if !ip.src_addr().is_unspecified() && !self.is_plausible_source(ip.src_addr().into()) {
            return Err(Drop::Spoofed);
        }
        match ip.next_header() {
            IpProtocol::Icmpv6 => Ok(Received::Icmpv6 { packet, source_mac, to_us }),
            _ if !to_us || ip.src_addr().is_unspecified() => Err(Drop::NotForUs),
            IpProtocol::Tcp => {
                self.classify_tcp(packet, ip.payload(), ip.src_addr().into(), destination.into(), source_mac)
            }
            _ => Err(Drop::Unsupported),
        }
    }

    fn classify_tcp<'a>(
        &self,
        packet: &'a [u8],
        payload: &'a [u8],
        source: IpAddr,
        destination: IpAddr,
        source_mac: Mac,
    ) -> Result<Received<'a>, Drop> {
        let tcp = TcpPacket::new_checked(payload).map_err(|_| Drop::Malformed)?;
        if tcp.src_port() == 0 || tcp.dst_port() == 0 {
            return Err(Drop::Malformed);
        }
        if self.verify_checksums && !tcp.verify_checksum(&source.into(), &destination.into()) {
            return Err(Drop::Checksum);
        }
        Ok(Received::Tcp(Segment {
            packet,
            source_mac,
            flow: Flow {
                local: SocketAddr::new(destination, tcp.dst_port()),
                remote: SocketAddr::new(source, tcp.src_port()),
            },
            seq: tcp.seq_number(),
            ack: tcp.ack().then(|| tcp.ack_number()),
            syn: tcp.syn(),
            fin: tcp.fin(),
            rst: tcp.rst(),
        }))
    }
}
