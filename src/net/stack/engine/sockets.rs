//! What listeners and streams ask of the engine.

use std::collections::VecDeque;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::task::{Context, Poll};

use super::super::connection::{Connection, End, Owner, Waiters};
use super::super::connections::ConnectionId;
use super::super::flow::Flow;
use super::{Engine, Listener, new_interface};
use crate::error::{Error, ErrorKind, Result};
use crate::rt::task::waiting_for;

/// Which half of a connection a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Direction {
    Read,
    Write,
}

fn invalid(operation: &'static str, address: SocketAddr, reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidInput, operation).at(address.to_string()).because(reason)
}

/// The error of an operation on a connection that the stack has already forgotten: it was aborted
/// through another handle.
fn gone(operation: &'static str) -> Error {
    Error::os(libc::ECONNABORTED, operation)
}

impl Engine {
    pub(in super::super) fn listen(&mut self, address: SocketAddr, backlog: usize) -> Result<SocketAddr> {
        let ip = address.ip();
        if !ip.is_unspecified() && !self.identity.owns(ip) {
            return Err(Error::os(libc::EADDRNOTAVAIL, "listen").at(address.to_string()));
        }
        if backlog == 0 {
            return Err(invalid("listen", address, "the backlog must be at least 1"));
        }
        let mut address = SocketAddr::new(ip, address.port());
        if address.port() == 0 {
            let listeners = &self.listeners;
            let port = self.secrets.ephemeral_port(address, address, |port| {
                listeners.keys().any(|listener| listener.port() == port)
            });
            let Some(port) = port else {
                return Err(Error::os(libc::EADDRINUSE, "listen").at(address.to_string()));
            };
            address.set_port(port);
        }
        if self.listeners.contains_key(&address) {
            return Err(Error::os(libc::EADDRINUSE, "listen").at(address.to_string()));
        }
        let listener = Listener {
            backlog,
            half_open: 0,
            handshakes: VecDeque::new(),
            queue: VecDeque::new(),
            acceptors: Waiters::default(),
        };
        self.listeners.insert(address, listener);
        Ok(address)
    }

    /// Forgets a listener and resets the connections that nobody accepted.
    pub(in super::super) fn unlisten(&mut self, address: SocketAddr) {
        let Some(mut listener) = self.listeners.remove(&address) else { return };
        listener.acceptors.wake(&mut self.wakes);
        let pending: Vec<_> = self.connections.ids().filter(|&id| self.belongs_to(id, address)).collect();
        for id in pending {
            self.abort(id);
            self.release(id);
        }
    }

    fn belongs_to(&self, id: ConnectionId, listener_address: SocketAddr) -> bool {
        self.connections.get(id).is_some_and(|connection| match connection.owner {
            Owner::Handshake { listener } | Owner::Backlog { listener } => listener == listener_address,
            Owner::Stream | Owner::Orphan { .. } => false,
        })
    }

    /// The error of everything that begins after the device failed.
    fn down(&self, operation: &'static str, place: SocketAddr) -> Option<Error> {
        let cause = self.down.as_deref()?;
        Some(End::NetworkDown.error(operation, place).because(format!("the network device failed: {cause}")))
    }

    pub(in super::super) fn poll_accept(
        &mut self,
        address: SocketAddr,
        context: &Context<'_>,
    ) -> Poll<Result<(ConnectionId, Flow)>> {
        if let Some(error) = self.down("accept", address) {
            return Poll::Ready(Err(error));
        }
        let Some(listener) = self.listeners.get_mut(&address) else { return Poll::Pending };
        while let Some(id) = listener.queue.pop_front() {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.owner = Owner::Stream;
                return Poll::Ready(Ok((id, connection.flow)));
            }
        }
        listener.acceptors.register(context);
        waiting_for("a connection to accept");
        Poll::Pending
    }

    /// Starts to open a connection to `remote`.
    pub(in super::super) fn connect(&mut self, remote: SocketAddr) -> Result<(ConnectionId, Flow)> {
        let remote = SocketAddr::new(remote.ip(), remote.port());
        if remote.port() == 0 || !is_host(remote.ip()) {
            return Err(invalid("connect", remote, "it must be the address and port of one host"));
        }
        if self.identity.owns(remote.ip()) {
            let reason = "the stack does not connect to itself; use kernel: for connections inside one host";
            return Err(Error::new(ErrorKind::Unsupported, "connect").at(remote.to_string()).because(reason));
        }
        if let Some(error) = self.down("connect", remote) {
            return Err(error);
        }
        let unreachable = || Error::os(libc::ENETUNREACH, "connect").at(remote.to_string());
        let next_hop = self.next_hop(remote.ip()).ok_or_else(unreachable)?;
        let source = self.source_for(remote.ip(), next_hop).ok_or_else(unreachable)?;
        if self.connections.is_full() {
            let limit = self.config.max_connections;
            return Err(Error::new(ErrorKind::LimitReached, "connect")
                .at(remote.to_string())
                .because(format!("the stack already has {limit} connections")));
        }
        let (connections, time_wait, listeners) = (&self.connections, &self.time_wait, &self.listeners);
        let now = self.now;
        let port = self.secrets.ephemeral_port(SocketAddr::new(source, 0), remote, |port| {
            let flow = Flow { local: SocketAddr::new(source, port), remote };
            connections.find(&flow).is_some()
                || time_wait.contains(&flow, now)
                || listeners.contains_key(&flow.local)
        });
        let port = port.ok_or_else(|| Error::os(libc::EADDRNOTAVAIL, "connect").at(remote.to_string()))?;
        let flow = Flow { local: SocketAddr::new(source, port), remote };
        let mut connection = Connection::new(&self.config, &self.buffers, flow, next_hop, Owner::Stream)?;
        let seed = self.secrets.initial_sequence_seed(&flow, now);
        let mut interface = new_interface(&self.identity, &mut self.outbox, seed, now);
        connection
            .socket
            .with(|socket| socket.connect(interface.context(), remote, flow.local))
            .map_err(|_| invalid("connect", remote, "it is not an address to connect to"))?;
        let id = self.connections.insert(connection).ok_or_else(unreachable)?;
        self.stats.opened += 1;
        self.mark_dirty(id);
        Ok((id, flow))
    }

    /// The own address to use towards `remote`: one on the network of the next hop, or else the
    /// first of the family.
    fn source_for(&self, remote: IpAddr, next_hop: IpAddr) -> Option<IpAddr> {
        let mut of_family =
            self.config.addresses.iter().filter(|own| own.address().is_ipv4() == remote.is_ipv4());
        let first = of_family.clone().next()?;
        Some(of_family.find(|own| own.contains(next_hop)).unwrap_or(first).address())
    }

    /// The outcome of [`Engine::connect`], once there is one.
    pub(in super::super) fn poll_connected(
        &mut self,
        id: ConnectionId,
        context: &Context<'_>,
    ) -> Poll<Result<()>> {
        let Some(connection) = self.connections.get_mut(id) else {
            return Poll::Ready(Err(gone("connect")));
        };
        match connection.handshake() {
            Some(Ok(())) => {
                connection.established(&self.config);
                Poll::Ready(Ok(()))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => {
                connection.writers.register(context);
                waiting_for("a connection to be made");
                Poll::Pending
            }
        }
    }

    pub(in super::super) fn read(
        &mut self,
        id: ConnectionId,
        take: impl FnOnce(&[u8]) -> usize,
    ) -> Result<Option<usize>> {
        let connection = self.connections.get_mut(id).ok_or_else(|| gone("read"))?;
        let result = connection.read(take);
        if matches!(result, Ok(Some(1..))) {
            connection.bare_streak = 0;
            // The window grew: the peer may have to be told.
            self.mark_dirty(id);
        }
        result
    }

    pub(in super::super) fn write(&mut self, id: ConnectionId, bytes: &[u8]) -> Result<Option<usize>> {
        let connection = self.connections.get_mut(id).ok_or_else(|| gone("write"))?;
        let result = connection.write(bytes);
        if matches!(result, Ok(Some(1..))) {
            connection.bare_streak = 0;
            self.mark_dirty(id);
        }
        result
    }

    pub(in super::super) fn poll_ready(
        &mut self,
        id: ConnectionId,
        direction: Direction,
        context: &Context<'_>,
    ) -> Poll<()> {
        let Some(connection) = self.connections.get_mut(id) else { return Poll::Ready(()) };
        let (ready, waiters) = match direction {
            Direction::Read => (connection.is_readable(), &mut connection.readers),
            Direction::Write => (connection.is_writable(), &mut connection.writers),
        };
        if ready {
            return Poll::Ready(());
        }
        waiters.register(context);
        waiting_for(match direction {
            Direction::Read => "bytes to receive",
            Direction::Write => "room to send",
        });
        Poll::Pending
    }

    pub(in super::super) fn shutdown(&mut self, id: ConnectionId, how: Shutdown) -> Result<()> {
        let connection = self.connections.get_mut(id).ok_or_else(|| gone("shutdown"))?;
        if let Some(end) = connection.end {
            return Err(end.error("shutdown", connection.flow.remote));
        }
        if matches!(how, Shutdown::Read | Shutdown::Both) {
            connection.reading_ended = true;
            connection.discard_received();
        }
        if matches!(how, Shutdown::Write | Shutdown::Both) {
            connection.close();
        }
        self.mark_dirty(id);
        self.settle(id);
        Ok(())
    }

    pub(in super::super) fn set_nodelay(&mut self, id: ConnectionId, nodelay: bool) -> Result<()> {
        let connection = self.connections.get_mut(id).ok_or_else(|| gone("set nodelay"))?;
        connection.socket.with(|socket| socket.set_nagle_enabled(!nodelay));
        self.mark_dirty(id);
        Ok(())
    }

    /// Resets a connection: the peer is told, and both directions fail from now on.
    pub(in super::super) fn abort(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.end.is_none() && !connection.is_over() {
            connection.end = Some(End::Aborted);
            connection.abort();
            self.mark_dirty(id);
            self.settle(id);
        }
    }

    /// The handle of a connection is dropped: what was written is still delivered, then it closes.
    pub(in super::super) fn release(&mut self, id: ConnectionId) {
        let until = self.now + self.config.linger;
        let Some(connection) = self.connections.get_mut(id) else { return };
        let previous = std::mem::replace(&mut connection.owner, Owner::Orphan { until });
        connection.discard_received();
        connection.close();
        if let Owner::Handshake { listener } = previous
            && let Some(listener) = self.listeners.get_mut(&listener)
        {
            listener.half_open -= 1;
        }
        self.mark_dirty(id);
        self.settle(id);
    }
}

fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_broadcast() && !v4.is_multicast(),
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_multicast(),
    }
}
