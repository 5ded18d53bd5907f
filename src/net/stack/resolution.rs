//! The messages that ask for and tell Ethernet addresses: ARP and ICMPv6 neighbor discovery.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet,
    Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

use super::frame::{BROADCAST, Identity, Mac, is_unicast};
use super::neighbor::Question;
use super::outbox::{ETHERTYPE_ARP, ETHERTYPE_IPV6, Outbox};

/// What a message told about a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
    /// Whether it was an answer, not a question that gave itself away.
    pub(super) solicited: bool,
}

/// Neighbor discovery is believed only from the same link: nothing a router forwarded has this hop
/// limit (RFC 4861 section 7.1).
const ND_HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Puts `question` on the wire, from the address of this host that shares a prefix with what is
/// asked for.
pub(super) fn ask(outbox: &mut Outbox, identity: &Identity, question: Question) {
    let own = identity.addresses.iter().find(|own| own.contains(question.address));
    match (question.address, own.map(|own| own.address())) {
        (IpAddr::V4(target), Some(IpAddr::V4(source))) => {
            let to = question.station.unwrap_or(BROADCAST);
            send_arp(outbox, identity.mac, ArpOperation::Request, source, to, target, to);
        }
        (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
            let solicit = NdiscRepr::NeighborSolicit {
                target_addr: target,
                lladdr: Some(EthernetAddress(identity.mac).into()),
            };
            let (to, to_mac) = match question.station {
                Some(mac) => (target, mac),
                None => solicited_node(target),
            };
            send_ndisc(outbox, source, to, to_mac, solicit);
        }
        _ => {}
    }
}

/// Handles an ARP packet: answers a question for one of this host's addresses, and returns what it
/// told.
pub(super) fn receive_arp(outbox: &mut Outbox, identity: &Identity, packet: &[u8]) -> Option<Told> {
    let packet = ArpPacket::new_checked(packet).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr: source,
        target_protocol_addr: target,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let mac = source_hardware_addr.0;
    if !identity.owns(target.into()) || !is_neighbor(identity, source.into()) || !is_unicast(mac) {
        return None;
    }
    match operation {
        ArpOperation::Request => {
            send_arp(outbox, identity.mac, ArpOperation::Reply, target, mac, source, mac);
            Some(Told { address: source.into(), mac, solicited: false })
        }
        ArpOperation::Reply => Some(Told { address: source.into(), mac, solicited: true }),
        ArpOperation::Unknown(_) => None,
    }
}

/// What an ICMPv6 message is to the stack.
pub(super) enum Icmpv6 {
    /// Neighbor discovery, handled; with what it told.
    Discovery(Option<Told>),
    /// Something else.
    Other,
}

/// Handles `packet`, an IPv6 packet with an ICMPv6 message, if it is of neighbor discovery.
pub(super) fn receive_icmpv6(outbox: &mut Outbox, identity: &Identity, packet: &[u8]) -> Icmpv6 {
    let Ok(ip) = Ipv6Packet::new_checked(packet) else { return Icmpv6::Discovery(None) };
    let Ok(message) = Icmpv6Packet::new_checked(ip.payload()) else { return Icmpv6::Discovery(None) };
    if !message.msg_type().is_ndisc() {
        return Icmpv6::Other;
    }
    let source = ip.src_addr();
    if ip.hop_limit() != ND_HOP_LIMIT {
        return Icmpv6::Discovery(None);
    }
    let parsed = Icmpv6Repr::parse(&source, &ip.dst_addr(), &message, &ChecksumCapabilities::default());
    let Ok(Icmpv6Repr::Ndisc(message)) = parsed else { return Icmpv6::Discovery(None) };
    Icmpv6::Discovery(receive_discovery(outbox, identity, source, message))
}

fn receive_discovery(
    outbox: &mut Outbox,
    identity: &Identity,
    source: Ipv6Addr,
    message: NdiscRepr<'_>,
) -> Option<Told> {
    match message {
        NdiscRepr::NeighborSolicit { target_addr, lladdr } if identity.owns(target_addr.into()) => {
            let flags = NdiscNeighborFlags::OVERRIDE;
            let advert = |flags| NdiscRepr::NeighborAdvert {
                flags,
                target_addr,
                lladdr: Some(EthernetAddress(identity.mac).into()),
            };
            if source.is_unspecified() {
                // Somebody checks whether the address is in use: tell everybody (RFC 4861 section
                // 7.2.4).
                send_ndisc(outbox, target_addr, ALL_NODES, multicast_mac(ALL_NODES), advert(flags));
                return None;
            }
            let mac = lladdr.and_then(|address| mac_of(&address))?;
            if !is_neighbor(identity, source.into()) && !source.is_unicast_link_local() {
                return None;
            }
            send_ndisc(outbox, target_addr, source, mac, advert(flags | NdiscNeighborFlags::SOLICITED));
            Some(Told { address: source.into(), mac, solicited: false })
        }
        NdiscRepr::NeighborAdvert { target_addr, lladdr, .. }
            if is_neighbor(identity, target_addr.into()) =>
        {
            let mac = lladdr.and_then(|address| mac_of(&address))?;
            Some(Told { address: target_addr.into(), mac, solicited: true })
        }
        _ => None,
    }
}

fn mac_of(address: &smoltcp::wire::RawHardwareAddress) -> Option<Mac> {
    let mac: Mac = address.as_bytes().get(..6)?.try_into().ok()?;
    is_unicast(mac).then_some(mac)
}

/// Whether `address` can be that of another host on this link.
fn is_neighbor(identity: &Identity, address: IpAddr) -> bool {
    !identity.owns(address)
        && identity.addresses.iter().any(|own| own.contains(address) && own.broadcast() != Some(address))
}

/// The group that the owner of `target` listens to, and its Ethernet address (RFC 4291 section
/// 2.7.1).
fn solicited_node(target: Ipv6Addr) -> (Ipv6Addr, Mac) {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    (group, multicast_mac(group))
}

fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

fn send_arp(
    outbox: &mut Outbox,
    mac: Mac,
    operation: ArpOperation,
    source: Ipv4Addr,
    target_mac: Mac,
    target: Ipv4Addr,
    to: Mac,
) {
    let message = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress(target_mac),
        target_protocol_addr: target,
    };
    outbox.stage(to, ETHERTYPE_ARP, message.buffer_len(), |buffer| {
        message.emit(&mut ArpPacket::new_unchecked(buffer));
    });
}

fn send_ndisc(outbox: &mut Outbox, source: Ipv6Addr, to: Ipv6Addr, to_mac: Mac, message: NdiscRepr<'_>) {
    let message = Icmpv6Repr::Ndisc(message);
    let header = Ipv6Repr {
        src_addr: source,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit: ND_HOP_LIMIT,
    };
    let header_len = header.buffer_len();
    outbox.stage(to_mac, ETHERTYPE_IPV6, header_len + message.buffer_len(), |buffer| {
        header.emit(&mut Ipv6Packet::new_unchecked(&mut *buffer));
        message.emit(
            &source,
            &to,
            &mut Icmpv6Packet::new_unchecked(&mut buffer[header_len..]),
            &ChecksumCapabilities::default(),
        );
    });
}
