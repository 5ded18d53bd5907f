//! What a stack is told when it is made.

use std::net::IpAddr;
use std::time::Duration;

use super::frame::is_unicast;
use crate::error::{Error, ErrorKind, Result};
use crate::net::address::{IpCidr, Station};
use crate::net::device::DeviceInfo;

/// Addresses, limits and timeouts of a stack.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// This host's addresses, 1 to 8 of them, each that of a single host.
    pub addresses: Vec<IpCidr>,
    /// Routers, at most one per family counts: for destinations that no address of ours shares a
    /// network with. Each is on a network of ours.
    pub gateways: Vec<IpAddr>,
    /// Where ports, sequence numbers and hash keys come from. It must be unpredictable and differ
    /// between starts.
    pub seed: [u8; 32],
    /// How many connections may exist, in any state but TIME-WAIT; as many tuples again may be in
    /// TIME-WAIT. At least 1.
    pub max_connections: usize,
    /// The size of each connection's receive buffer, in bytes: what its window can be. At least
    /// 4096 and at most 1 GiB; above 65,535 it is rounded down to 65,535 times a power of two. A
    /// page of it is in RAM once it was used, until the connection ends.
    pub receive_buffer_bytes: usize,
    /// The size of each connection's send buffer, in bytes: how much can be under way. At least
    /// 4096 and at most 1 GiB.
    pub send_buffer_bytes: usize,
    /// How long an acknowledgement may wait for data to go with it.
    pub ack_delay: Duration,
    /// How long a connection is idle before the peer is asked whether it is still there.
    pub keepalive: Duration,
    /// How long a peer may be silent, though asked or sent to, before the connection ends with
    /// [`TimedOut`](ErrorKind::TimedOut). Longer than `keepalive`.
    pub user_timeout: Duration,
    /// How long a handshake may take, in either direction.
    pub handshake_timeout: Duration,
    /// How long a connection whose stream was dropped may take to deliver what was written.
    pub linger: Duration,
}

/// As many addresses as the interface inside holds (smoltcp's feature `iface-max-addr-count-8`).
const MAX_ADDRESSES: usize = 8;
const MIN_BUFFER_BYTES: usize = 4096;
const MAX_BUFFER_BYTES: usize = 1 << 30;
/// The largest window without scaling.
const UNSCALED_WINDOW: usize = 65_535;

impl StackConfig {
    /// The defaults: 65,536 connections, 64 KiB buffers, keepalive after 30 s, user timeout 180 s,
    /// handshake and linger 30 s.
    pub fn new(addresses: Vec<IpCidr>, seed: [u8; 32]) -> Self {
        Self {
            addresses,
            gateways: Vec::new(),
            seed,
            max_connections: 65_536,
            receive_buffer_bytes: UNSCALED_WINDOW,
            send_buffer_bytes: 65_536,
            ack_delay: Duration::from_millis(5),
            keepalive: Duration::from_secs(30),
            user_timeout: Duration::from_secs(180),
            handshake_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(30),
        }
    }

    /// The defaults, with the addresses and gateways of `station`.
    pub fn for_station(station: &Station, seed: [u8; 32]) -> Self {
        Self { gateways: station.gateways.clone(), ..Self::new(station.addresses.clone(), seed) }
    }

    /// The size of the receive buffer in use.
    ///
    /// smoltcp takes the window of its SYN, which is never scaled, for a scaled one, and so accepts
    /// up to 65,535 << shift bytes at the start. A buffer of exactly that size holds what it
    /// accepts.
    pub(super) fn receive_window(&self) -> usize {
        let mut window = self.receive_buffer_bytes.min(UNSCALED_WINDOW);
        while window >= UNSCALED_WINDOW && window * 2 <= self.receive_buffer_bytes {
            window *= 2;
        }
        window
    }

    pub(super) fn validate(&self, device: &DeviceInfo) -> Result<()> {
        let refuse = |reason: String| Err(Error::new(ErrorKind::InvalidInput, "start stack").because(reason));
        if !is_unicast(device.mac) {
            return refuse(format!(
                "the device's Ethernet address {:02x?} is not that of one station",
                device.mac
            ));
        }
        if self.addresses.is_empty() || self.addresses.len() > MAX_ADDRESSES {
            let count = self.addresses.len();
            return refuse(format!("it needs 1 to {MAX_ADDRESSES} addresses and was given {count}"));
        }
        if let Some(own) = self.addresses.iter().find(|own| !own.is_host()) {
            return refuse(format!("{own} is not the address of one host on a network"));
        }
        let own_addresses = || self.addresses.iter().map(IpCidr::address);
        let off_link = |gateway: &&IpAddr| {
            !self.addresses.iter().any(|own| own.contains(**gateway))
                || own_addresses().any(|own| own == **gateway)
        };
        if let Some(gateway) = self.gateways.iter().find(off_link) {
            return refuse(format!(
                "the gateway {gateway} is not another host on a network of the given addresses"
            ));
        }
        let min_mtu = if own_addresses().any(|own| own.is_ipv6()) { 1280 } else { 576 };
        if !(min_mtu..=65_535).contains(&device.mtu) {
            return refuse(format!("an MTU of {} bytes is not within {min_mtu} and 65535", device.mtu));
        }
        if self.max_connections == 0 || u32::try_from(self.max_connections).is_err() {
            return refuse(format!(
                "a limit of {} connections is not within 1 and 2^32",
                self.max_connections
            ));
        }
        for bytes in [self.receive_buffer_bytes, self.send_buffer_bytes] {
            if !(MIN_BUFFER_BYTES..=MAX_BUFFER_BYTES).contains(&bytes) {
                return refuse(format!("a buffer of {bytes} bytes is not within 4096 and 1 GiB"));
            }
        }
        if self.user_timeout <= self.keepalive {
            return refuse("the user timeout must be longer than the keepalive interval".to_owned());
        }
        Ok(())
    }
}
