//! The stack without its device: frames and the time go in; frames, and wakers to call, come out.

mod egress;
mod ingress;
mod sockets;

pub(super) use sockets::Direction;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Checksum, DeviceCapabilities, Medium};
use smoltcp::time::Instant as WireInstant;
use smoltcp::wire::{HardwareAddress, IpCidr as WireCidr};

use super::StackConfig;
use super::connection::{End, Owner, Waiters};
use super::connections::{ConnectionId, Connections};
use super::flow::{Secret, Secrets};
use super::frame::Identity;
use super::neighbor::Neighbors;
use super::outbox::Outbox;
use super::socket::BufferPool;
use super::stats::StackStats;
use super::time_wait::TimeWait;
use super::timers::Timers;
use crate::error::{Error, Result};
use crate::net::device::DeviceInfo;
use crate::rt::Instant;

/// A listening port: the connections that were asked for and not accepted yet.
pub(super) struct Listener {
    backlog: usize,
    /// Connections whose handshake is under way.
    half_open: usize,
    /// When those began, oldest first; and some that are no handshakes any more.
    handshakes: VecDeque<(Instant, ConnectionId)>,
    /// Connections to accept, in the order their handshakes completed.
    queue: VecDeque<ConnectionId>,
    acceptors: Waiters,
}

pub(super) struct Engine {
    pub(super) config: StackConfig,
    identity: Identity,
    secrets: Secrets,
    interface: Interface,
    outbox: Outbox,
    /// The set that frames without a connection are shown to: it stays empty.
    nobody: SocketSet<'static>,
    buffers: BufferPool,
    connections: Connections,
    listeners: HashMap<SocketAddr, Listener, Secret>,
    neighbors: Neighbors,
    time_wait: TimeWait,
    timers: Timers,
    /// Connections that may have something to send.
    dirty: VecDeque<ConnectionId>,
    /// Tasks to wake once the engine is no longer borrowed.
    pub(super) wakes: Vec<Waker>,
    stats: StackStats,
    /// Whether the device failed for good.
    down: Option<String>,
    /// The time of the last poll.
    now: Instant,
}

impl Engine {
    pub(super) fn new(config: StackConfig, device: &DeviceInfo, now: Instant) -> Result<Self> {
        let seed = config.validate(device)?;
        let secrets = Secrets::new(&seed);
        let identity = Identity {
            mac: device.mac,
            addresses: config.addresses.clone(),
            verify_checksums: !device.checksum_offload_rx,
        };
        let mut outbox = Outbox::new(device.mac, capabilities(device));
        let interface = new_interface(&identity, &mut outbox, 0, now);
        Ok(Self {
            buffers: BufferPool::new(config.receive_window(), config.send_buffer_bytes),
            connections: Connections::new(secrets.tables, config.max_connections),
            listeners: HashMap::with_hasher(secrets.tables),
            neighbors: Neighbors::new(secrets.tables),
            time_wait: TimeWait::new(secrets.tables, config.max_connections),
            timers: Timers::default(),
            dirty: VecDeque::new(),
            wakes: Vec::new(),
            stats: StackStats::default(),
            nobody: SocketSet::new(Vec::new()),
            config,
            identity,
            secrets,
            interface,
            outbox,
            down: None,
            now,
        })
    }

    pub(super) fn stats(&self) -> StackStats {
        StackStats {
            connections: self.connections.len(),
            time_wait: self.time_wait.len(),
            resets_sent: self.outbox.resets,
            answers_dropped: self.outbox.dropped,
            ..self.stats
        }
    }

    /// Whether there is something to send that no deadline or frame will bring up.
    pub(super) fn has_work(&self) -> bool {
        !self.dirty.is_empty() || self.outbox.is_waiting()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.down.is_some() {
            return None;
        }
        if self.has_work() {
            return Some(self.now);
        }
        [self.timers.next_deadline(), self.neighbors.next_deadline()].into_iter().flatten().min()
    }

    /// The station a packet to `destination` goes to first: itself if it is on a network of ours,
    /// or else a gateway of its family.
    fn next_hop(&self, destination: IpAddr) -> Option<IpAddr> {
        if self.config.addresses.iter().any(|own| own.contains(destination)) {
            return Some(destination);
        }
        self.config.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == destination.is_ipv4())
    }

    /// The device failed for good: every connection ends, and no new one begins.
    pub(super) fn device_failed(&mut self, cause: &Error) {
        self.down = Some(cause.to_string());
        let all: Vec<_> = self.connections.ids().collect();
        for id in all {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.end.get_or_insert(End::NetworkDown);
                connection.silent = true;
            }
            self.settle(id);
        }
        for listener in self.listeners.values_mut() {
            listener.acceptors.wake(&mut self.wakes);
        }
    }

    /// Closes every connection as if its stream were dropped.
    pub(super) fn close_all(&mut self) {
        let all: Vec<_> = self.connections.ids().collect();
        for id in all {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.close();
            }
            self.mark_dirty(id);
        }
    }

    fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// Removes a connection from every table. Its tasks are woken, and find it gone.
    fn remove(&mut self, id: ConnectionId) {
        let Some(mut connection) = self.connections.remove(id) else { return };
        self.timers.disarm(id.index, &mut connection.armed);
        connection.readers.wake(&mut self.wakes);
        connection.writers.wake(&mut self.wakes);
        match connection.owner {
            Owner::Handshake { listener } => {
                if let Some(listener) = self.listeners.get_mut(&listener) {
                    listener.half_open -= 1;
                }
            }
            Owner::Backlog { listener } => {
                if let Some(listener) = self.listeners.get_mut(&listener) {
                    listener.queue.retain(|&queued| queued != id);
                }
            }
            Owner::Stream | Owner::Orphan { .. } => {}
        }
    }
}

/// smoltcp counts microseconds.
fn wire_time(now: Instant) -> WireInstant {
    WireInstant::from_micros(i64::try_from(now.as_nanos() / 1000).unwrap_or(i64::MAX))
}

fn from_wire_time(time: WireInstant) -> Instant {
    Instant::from_nanos(u64::try_from(time.total_micros()).unwrap_or(0).saturating_mul(1000))
}

/// What smoltcp may assume: whole IP packets (Ethernet is ours), with checksums that were verified
/// before it sees them.
fn capabilities(device: &DeviceInfo) -> DeviceCapabilities {
    let checksum = if device.checksum_offload_tx { Checksum::None } else { Checksum::Tx };
    let mut capabilities = DeviceCapabilities::default();
    capabilities.medium = Medium::Ip;
    capabilities.max_transmission_unit = device.mtu;
    capabilities.checksum.ipv4 = checksum;
    capabilities.checksum.tcp = checksum;
    capabilities
}

/// An interface with this host's addresses whose random numbers start from `seed`.
fn new_interface(identity: &Identity, outbox: &mut Outbox, seed: u64, now: Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut port = outbox.answering(&[], identity.mac);
    let mut interface = Interface::new(config, &mut port, wire_time(now));
    interface.update_ip_addrs(|addresses| {
        for own in &identity.addresses {
            let pushed = addresses.push(WireCidr::new(own.address().into(), own.prefix_len()));
            debug_assert!(pushed.is_ok(), "StackConfig::validate bounds the number of addresses");
        }
    });
    interface
}
