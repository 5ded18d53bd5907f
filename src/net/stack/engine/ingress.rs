//! Received frames: to the connection they belong to, to a listener, or to an answer.

use smoltcp::iface::SocketSet;
use smoltcp::socket::tcp::State;
use smoltcp::wire::IpListenEndpoint;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::super::connection::{Connection, End, Owner};
use super::super::connections::ConnectionId;
use super::super::frame::{Drop, Mac, Received, Segment};
use super::super::outbox::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, SentSegment};
use super::super::resolution::{self, Icmpv6, Told};
use super::super::tcp_answer;
use super::{Engine, Listener, new_interface, wire_time};

/// How long a handshake has for itself when others wait for its place: more than any round trip.
const PATIENCE: Duration = Duration::from_secs(1);

impl Engine {
    /// Takes one frame from the device.
    pub(in super::super) fn ingress(&mut self, frame: &[u8]) {
        self.stats.frames_received += 1;
        match self.identity.classify(frame) {
            Ok(Received::Tcp(segment)) => self.segment(&segment),
            Ok(Received::Arp(packet)) => {
                let told = resolution::receive_arp(&mut self.outbox, &self.identity, packet);
                self.told(told);
            }
            Ok(Received::Icmp { packet, source_mac }) => self.show_nobody(packet, source_mac),
            Ok(Received::Icmpv6 { packet, source_mac, to_us }) => {
                match resolution::receive_icmpv6(&mut self.outbox, &self.identity, packet) {
                    Icmpv6::Discovery(told) => self.told(told),
                    Icmpv6::Other if to_us => self.show_nobody(packet, source_mac),
                    Icmpv6::Other => self.stats.frames_ignored += 1,
                }
            }
            Err(Drop::Malformed) => self.stats.frames_malformed += 1,
            Err(Drop::Checksum) => self.stats.bad_checksums += 1,
            Err(Drop::Fragment) => self.stats.fragments_dropped += 1,
            Err(Drop::Spoofed) => self.stats.spoofed_dropped += 1,
            Err(Drop::NotForUs | Drop::Unsupported) => self.stats.frames_ignored += 1,
        }
    }

    /// Remembers where a neighbor is and lets the connections go on that waited for it.
    fn told(&mut self, told: Option<Told>) {
        let Some(told) = told else { return };
        let waiters = self.neighbors.learn(told.address, told.mac, told.solicited, self.now);
        for id in waiters {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.waits_for_neighbor = false;
            }
            self.mark_dirty(id);
        }
    }

    /// Shows a packet to the interface without any socket: it answers pings, and segments without a
    /// connection with RST.
    fn show_nobody(&mut self, packet: &[u8], source_mac: Mac) {
        let mut port = self.outbox.answering(packet, source_mac);
        self.interface.poll_ingress_single(wire_time(self.now), &mut port, &mut self.nobody);
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        if let Some(id) = self.connections.find(&segment.flow) {
            return self.deliver(id, segment);
        }
        if let Some(last) = self.time_wait.get(&segment.flow, self.now) {
            let gives_way = segment.opens() && self.time_wait.give_way(&segment.flow, segment.seq);
            if !gives_way {
                return self.answer_time_wait(segment, last);
            }
        }
        if segment.opens()
            && let Some(listener) = self.listener_for(segment.flow.local)
        {
            return self.open_passively(listener, segment);
        }
        self.show_nobody(segment.packet, segment.source_mac);
    }

    /// A segment of a connection.
    fn deliver(&mut self, id: ConnectionId, segment: &Segment<'_>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.heard = Some((segment.source_mac, self.now));
        connection.bare_streak = 0;
        let before = connection.state();
        let mut port = self.outbox.answering(segment.packet, segment.source_mac);
        let interface = &mut self.interface;
        connection.socket.with_set(|set| interface.poll_ingress_single(wire_time(self.now), &mut port, set));
        let after = connection.state();
        // smoltcp takes a reset handshake back to LISTEN; here a listener is not a socket, so it is
        // over.
        let ended = before != after && matches!(after, State::Closed | State::Listen);
        if ended && segment.rst && connection.end.is_none() {
            connection.end = Some(if before == State::SynSent { End::Refused } else { End::Reset });
            self.stats.resets_received += 1;
        }
        if after == State::Listen {
            connection.silent = true;
        }
        let discards = matches!(connection.owner, Owner::Orphan { .. }) || connection.reading_ended;
        if discards && connection.discard_received() > 0 && after == State::FinWait2 {
            // Everything written has arrived and nobody will read: tell the peer to stop (RFC 9293
            // section 3.6.1).
            if matches!(connection.owner, Owner::Orphan { .. }) {
                connection.abort();
            }
        }
        self.mark_dirty(id);
        self.settle(id);
    }

    fn answer_time_wait(&mut self, segment: &Segment<'_>, last: SentSegment) {
        // A reset must not cut TIME-WAIT short (RFC 1337), and an ACK must not be answered by
        // another.
        if segment.rst || !(segment.fin || segment.syn) {
            return;
        }
        let ethertype = if segment.flow.local.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        let answer = tcp_answer::Ack { flow: segment.flow, seq: last.next_seq, ack: last.ack };
        self.outbox.stage(segment.source_mac, ethertype, answer.len(), |buffer| answer.emit(buffer));
    }

    /// The listener that a connection to `local` belongs to: one for that very address, or one for
    /// all of the family.
    fn listener_for(&self, local: SocketAddr) -> Option<SocketAddr> {
        let any: IpAddr =
            if local.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        [local, SocketAddr::new(any, local.port())].into_iter().find(|key| self.listeners.contains_key(key))
    }

    /// A SYN to a listening port.
    fn open_passively(&mut self, key: SocketAddr, segment: &Segment<'_>) {
        let Some(listener) = self.listeners.get(&key) else { return };
        let is_full = |listener: &Listener| listener.half_open + listener.queue.len() >= listener.backlog;
        if (is_full(listener) || self.connections.is_full()) && self.give_up_handshake(key) {
            self.stats.handshakes_given_up += 1;
        }
        let Some(listener) = self.listeners.get(&key) else { return };
        if is_full(listener) {
            self.stats.syns_dropped_backlog += 1;
            return;
        }
        if self.connections.is_full() {
            self.stats.syns_dropped_limit += 1;
            return;
        }
        let Some(next_hop) = self.next_hop(segment.flow.remote.ip()) else {
            self.stats.syns_dropped_unroutable += 1;
            return;
        };
        let owner = Owner::Handshake { listener: key };
        let Ok(mut connection) = Connection::new(&self.config, &self.buffers, segment.flow, next_hop, owner)
        else {
            self.stats.syns_dropped_limit += 1;
            return;
        };
        connection.heard = Some((segment.source_mac, self.now));
        let local = segment.flow.local;
        let endpoint = IpListenEndpoint { addr: Some(local.ip().into()), port: local.port() };
        let listens = connection.socket.with(|socket| socket.listen(endpoint)).is_ok();
        connection.socket.with_set(|set| self.process_with_fresh_numbers(set, segment));
        if !listens || connection.state() != State::SynReceived {
            self.stats.frames_malformed += 1;
            return;
        }
        if let Some(id) = self.connections.insert(connection) {
            let connections = &self.connections;
            if let Some(listener) = self.listeners.get_mut(&key) {
                listener.half_open += 1;
                if listener.handshakes.len() >= 2 * listener.backlog {
                    listener.handshakes.retain(|&(_, id)| connections.is_handshake(id));
                }
                listener.handshakes.push_back((self.now, id));
            }
            self.mark_dirty(id);
        }
    }

    /// Gives up the listener's oldest handshake if it has waited for `PATIENCE`; whether it did. A
    /// flood of SYNs from made-up addresses would else keep everybody out for as long as a
    /// handshake may take.
    fn give_up_handshake(&mut self, key: SocketAddr) -> bool {
        let Some(listener) = self.listeners.get_mut(&key) else { return false };
        while let Some(&(since, id)) = listener.handshakes.front() {
            let waits = self.connections.is_handshake(id);
            if waits && self.now.saturating_since(since) < PATIENCE {
                return false;
            }
            listener.handshakes.pop_front();
            if waits {
                self.remove(id);
                return true;
            }
        }
        false
    }

    /// Shows `segment` to `sockets` through an interface made for it: smoltcp draws initial
    /// sequence numbers from a generator in the interface whose state a few of its numbers betray,
    /// so every connection gets a generator of its own.
    fn process_with_fresh_numbers(&mut self, sockets: &mut SocketSet<'_>, segment: &Segment<'_>) {
        let seed = self.secrets.initial_sequence_seed(&segment.flow, self.now);
        let mut interface = new_interface(&self.identity, &mut self.outbox, seed, self.now);
        let mut port = self.outbox.answering(segment.packet, segment.source_mac);
        interface.poll_ingress_single(wire_time(self.now), &mut port, sockets);
    }

    /// Follows up on a change of a connection's state: moves it along its listener, wakes tasks,
    /// removes it when it is done.
    pub(super) fn settle(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let state = connection.state();
        if let Owner::Handshake { listener: key } = connection.owner
            && matches!(state, State::Established | State::CloseWait)
        {
            connection.owner = Owner::Backlog { listener: key };
            connection.established(&self.config);
            self.stats.accepted += 1;
            if let Some(listener) = self.listeners.get_mut(&key) {
                listener.half_open -= 1;
                listener.queue.push_back(id);
                listener.acceptors.wake(&mut self.wakes);
            }
        }
        if !connection.readers.is_empty() && connection.is_readable() {
            connection.readers.wake(&mut self.wakes);
        }
        if !connection.writers.is_empty() && connection.is_writable() {
            connection.writers.wake(&mut self.wakes);
        }
        if !connection.is_over() {
            return;
        }
        let (flow, last) = (connection.flow, connection.last_segment);
        match connection.owner {
            Owner::Stream if state == State::TimeWait => {}
            // The stream still reports how it ended, but its tuple may serve another connection.
            Owner::Stream => self.connections.unlink(id),
            // The peer closed, or reset, what nobody accepted yet; what it sent before a FIN can
            // still be accepted.
            Owner::Backlog { .. } if connection.end.is_none() => {}
            Owner::Handshake { .. } | Owner::Backlog { .. } | Owner::Orphan { .. } => {
                self.remove(id);
                if state == State::TimeWait
                    && let Some(last) = last
                {
                    self.time_wait.insert(flow, last, self.now);
                }
            }
        }
    }
}
