//! What a stack is told when it is made.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::frame::is_unicast;
use crate::error::{Error, ErrorKind, Result};
use crate::net::address::{IpCidr, Station};
use crate::net::device::DeviceInfo;

/// Addresses, limits and timeouts of a stack.
///
/// ```
/// use boson::net::stack::StackConfig;
///
/// let address = "10.9.0.1/24".parse().expect("an address and a prefix");
/// let config = StackConfig::default().addresses([address]).max_connections(1000);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct StackConfig {
    pub(in crate::net) addresses: Vec<IpCidr>,
    pub(in crate::net) gateways: Vec<IpAddr>,
    pub(super) seed: Option<[u8; 32]>,
    pub(super) max_connections: usize,
    pub(super) receive_buffer_bytes: usize,
    pub(super) send_buffer_bytes: usize,
    pub(super) ack_delay: Duration,
    pub(super) keepalive: Duration,
    pub(super) user_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) linger: Duration,
}

/// As many addresses as the interface inside holds (smoltcp's feature `iface-max-addr-count-8`).
const MAX_ADDRESSES: usize = 8;
const MIN_BUFFER_BYTES: usize = 4096;
const MAX_BUFFER_BYTES: usize = 1 << 30;
/// The largest window without scaling.
const UNSCALED_WINDOW: usize = 65_535;

impl Default for StackConfig {
    /// No address and no seed yet, and the limits and times that the methods name.
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            gateways: Vec::new(),
            seed: None,
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
}

impl fmt::Debug for StackConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed makes sequence numbers and ports unguessable: it does not belong in a log.
        f.debug_struct("StackConfig")
            .field("addresses", &self.addresses)
            .field("gateways", &self.gateways)
            .field("max_connections", &self.max_connections)
            .field("receive_buffer_bytes", &self.receive_buffer_bytes)
            .field("send_buffer_bytes", &self.send_buffer_bytes)
            .field("ack_delay", &self.ack_delay)
            .field("keepalive", &self.keepalive)
            .field("user_timeout", &self.user_timeout)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("linger", &self.linger)
            .finish_non_exhaustive()
    }
}

impl StackConfig {
    /// The defaults, with the addresses and gateways of `station`.
    pub fn for_station(station: &Station) -> Self {
        Self::default()
            .addresses(station.addresses.iter().copied())
            .gateways(station.gateways.iter().copied())
    }

    /// Sets this host's addresses: 1 to 8 of them, each that of a single host. There is no default.
    #[must_use]
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = IpCidr>) -> Self {
        self.addresses = addresses.into_iter().collect();
        self
    }

    /// Sets the routers for destinations that share no network with this host's addresses. Each is
    /// on one of those networks, and the first of a family counts. By default there are none.
    #[must_use]
    pub fn gateways(mut self, gateways: impl IntoIterator<Item = IpAddr>) -> Self {
        self.gateways = gateways.into_iter().collect();
        self
    }

    /// Sets where ports, sequence numbers and hash keys come from. The seed must be unpredictable
    /// and differ between starts. By default [`Net::on_device`](crate::net::Net::on_device) draws
    /// one from the core's generator; a stack that is made by itself must be given one.
    #[must_use]
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets how many connections may exist, in any state but TIME-WAIT; as many tuples again may be
    /// in TIME-WAIT. At least 1; 65,536 by default.
    #[must_use]
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections;
        self
    }

    /// Sets the size of each connection's receive buffer, in bytes: what its window can be. At
    /// least 4096 and at most 1 GiB; above 65,535, which is the default, it is rounded down to
    /// 65,535 times a power of two. A page of the buffer is in RAM from its first use until the
    /// connection ends.
    #[must_use]
    pub fn receive_buffer_bytes(mut self, bytes: usize) -> Self {
        self.receive_buffer_bytes = bytes;
        self
    }

    /// Sets the size of each connection's send buffer, in bytes: how much can be under way. At
    /// least 4096 and at most 1 GiB; 64 KiB by default.
    #[must_use]
    pub fn send_buffer_bytes(mut self, bytes: usize) -> Self {
        self.send_buffer_bytes = bytes;
        self
    }

    /// Sets how long an acknowledgement may wait for data to go with it; 5 ms by default.
    #[must_use]
    pub fn ack_delay(mut self, delay: Duration) -> Self {
        self.ack_delay = delay;
        self
    }

    /// Sets how long a connection is idle before the peer is asked whether it is still there; 30 s
    /// by default.
    #[must_use]
    pub fn keepalive(mut self, keepalive: Duration) -> Self {
        self.keepalive = keepalive;
        self
    }

    /// Sets how long a peer may be silent, though asked or sent to, before the connection ends with
    /// [`TimedOut`](ErrorKind::TimedOut). Longer than the keepalive time; 180 s by default.
    #[must_use]
    pub fn user_timeout(mut self, timeout: Duration) -> Self {
        self.user_timeout = timeout;
        self
    }

    /// Sets how long a handshake may take, in either direction; 30 s by default.
    #[must_use]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how long a connection whose stream was dropped may take to deliver what was written;
    /// 30 s by default.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// The same configuration, with a seed from `draw` if it has none.
    pub(crate) fn seeded(mut self, draw: impl FnOnce() -> [u8; 32]) -> Self {
        self.seed.get_or_insert_with(draw);
        self
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

    /// Refuses a configuration that contradicts itself or the device; returns its seed.
    pub(super) fn validate(&self, device: &DeviceInfo) -> Result<[u8; 32]> {
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
            return refuse("the user timeout must be longer than the keepalive time".to_owned());
        }
        let Some(seed) = self.seed else {
            return refuse("a stack that is made by itself needs a seed; see StackConfig::seed".to_owned());
        };
        Ok(seed)
    }
}
