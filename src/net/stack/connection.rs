//! One TCP connection: a smoltcp socket, and what the stack knows about it.

use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Waker};

use smoltcp::socket::tcp::{CongestionControl, RecvError, State};
use smoltcp::time::Duration as WireDuration;

use super::StackConfig;
use super::flow::Flow;
use super::frame::Mac;
use super::outbox::SentSegment;
use super::socket::{BufferPool, PooledSocket};
use crate::error::{Error, ErrorKind, Result};
use crate::rt::Instant;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A listener's, before the handshake is complete.
    Handshake { listener: SocketAddr },
    /// A listener's, waiting to be accepted.
    Backlog { listener: SocketAddr },
    /// A stream's.
    Stream,
    /// Without an owner: its stream was dropped. What was written is still delivered, but not after
    /// `until`.
    Orphan { until: Instant },
}

/// How a connection ended other than by both sides closing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer sent RST.
    Reset,
    /// The peer answered SYN with RST.
    Refused,
    /// The peer did not answer in time.
    TimedOut,
    /// The next hop did not answer ARP or neighbor discovery.
    Unreachable,
    /// This side aborted it.
    Aborted,
    /// The device failed for good.
    NetworkDown,
}

impl End {
    pub(super) fn error(self, operation: &'static str, peer: SocketAddr) -> Error {
        let code = match self {
            End::Reset => libc::ECONNRESET,
            End::Refused => libc::ECONNREFUSED,
            End::TimedOut => libc::ETIMEDOUT,
            End::Unreachable => libc::EHOSTUNREACH,
            End::Aborted => libc::ECONNABORTED,
            End::NetworkDown => libc::ENETDOWN,
        };
        Error::os(code, operation).at(peer.to_string())
    }
}

/// Tasks that wait for one condition.
#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waker>);

impl Waiters {
    pub(super) fn register(&mut self, context: &Context<'_>) {
        if !self.0.iter().any(|waker| waker.will_wake(context.waker())) {
            self.0.push(context.waker().clone());
        }
    }

    /// Moves every waker to `wakes`, whose owner wakes them once nothing is borrowed.
    pub(super) fn wake(&mut self, wakes: &mut Vec<Waker>) {
        wakes.append(&mut self.0);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) struct Connection {
    pub(super) flow: Flow,
    pub(super) next_hop: IpAddr,
    pub(super) owner: Owner,
    pub(super) socket: PooledSocket,
    pub(super) readers: Waiters,
    pub(super) writers: Waiters,
    pub(super) end: Option<End>,
    /// Whether the reader said it wants no more: what arrives is discarded.
    pub(super) reading_ended: bool,
    /// Whether it is on the list of connections that may have something to send.
    pub(super) dirty: bool,
    /// Whether the neighbor cache is going to hand it back.
    pub(super) waits_for_neighbor: bool,
    /// What it is armed for in the timers.
    pub(super) armed: Option<Instant>,
    /// The station that the last segment came from, and when.
    pub(super) heard: Option<(Mac, Instant)>,
    pub(super) last_segment: Option<SentSegment>,
    /// How many bare acknowledgements were sent since anything was received, read or written.
    pub(super) bare_streak: u32,
    /// Whether it has nothing left to send, ever. smoltcp must not run its timers any more: in
    /// TIME-WAIT they would throw away received bytes that nobody read yet.
    pub(super) silent: bool,
}

fn wire_duration(duration: std::time::Duration) -> WireDuration {
    WireDuration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

impl Connection {
    /// A closed connection with the options of `config`, in memory from `pool`.
    pub(super) fn new(
        config: &StackConfig,
        pool: &BufferPool,
        flow: Flow,
        next_hop: IpAddr,
        owner: Owner,
    ) -> Result<Self> {
        let mut socket = PooledSocket::new(pool)?;
        socket.with(|socket| {
            // As the kernel's streams: a small write does not wait for the acknowledgement of the
            // one before.
            socket.set_nagle_enabled(false);
            socket.set_congestion_control(CongestionControl::Cubic);
            socket.set_ack_delay(Some(wire_duration(config.ack_delay)));
            socket.set_keep_alive(Some(wire_duration(config.keepalive)));
            socket.set_timeout(Some(wire_duration(config.handshake_timeout)));
        });
        Ok(Self {
            flow,
            next_hop,
            owner,
            socket,
            readers: Waiters::default(),
            writers: Waiters::default(),
            end: None,
            reading_ended: false,
            dirty: false,
            waits_for_neighbor: false,
            armed: None,
            heard: None,
            last_segment: None,
            bare_streak: 0,
            silent: false,
        })
    }

    pub(super) fn state(&self) -> State {
        self.socket.get().state()
    }

    /// The handshake is complete: from now on silence is judged by the user timeout.
    pub(super) fn established(&mut self, config: &StackConfig) {
        self.socket.with(|socket| socket.set_timeout(Some(wire_duration(config.user_timeout))));
    }

    /// Sends FIN once everything written was sent.
    pub(super) fn close(&mut self) {
        self.socket.with(|socket| socket.close());
    }

    /// Sends RST.
    pub(super) fn abort(&mut self) {
        self.socket.with(|socket| socket.abort());
    }

    /// Whether nothing will be sent on it any more.
    pub(super) fn is_over(&self) -> bool {
        let socket = self.socket.get();
        self.silent || (socket.state() == State::Closed && socket.remote_endpoint().is_none())
    }

    /// Whether a read would not have to wait.
    pub(super) fn is_readable(&self) -> bool {
        let socket = self.socket.get();
        self.end.is_some() || self.reading_ended || socket.can_recv() || !socket.may_recv()
    }

    /// Whether a write would not have to wait.
    pub(super) fn is_writable(&self) -> bool {
        let socket = self.socket.get();
        self.end.is_some() || socket.can_send() || !socket.may_send()
    }

    /// The handshake's outcome, once there is one.
    pub(super) fn handshake(&self) -> Option<Result<()>> {
        if let Some(end) = self.end {
            return Some(Err(end.error("connect", self.flow.remote)));
        }
        (!is_handshaking(self.state())).then_some(Ok(()))
    }

    /// Hands received bytes to `take`, which returns how many of them it took; `None` if there are
    /// none yet, `Some(0)` at the end of the stream.
    pub(super) fn read(&mut self, take: impl FnOnce(&[u8]) -> usize) -> Result<Option<usize>> {
        if self.reading_ended {
            return Ok(Some(0));
        }
        let (end, peer) = (self.end, self.flow.remote);
        self.socket.with(|socket| {
            if socket.can_recv() {
                let taking = |bytes: &mut [u8]| {
                    let taken = take(bytes);
                    (taken, taken)
                };
                return Ok(socket.recv(taking).ok());
            }
            match end {
                Some(end) => Err(end.error("read", peer)),
                None if socket.may_recv() => Ok(None),
                None => match socket.recv(|_| (0, ())) {
                    Err(RecvError::Finished) => Ok(Some(0)),
                    _ if is_handshaking(socket.state()) => Ok(None),
                    _ => Err(End::Reset.error("read", peer)),
                },
            }
        })
    }

    /// Takes as many of `bytes` as there is room for; `None` if there is none.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        let (end, peer) = (self.end, self.flow.remote);
        if let Some(end) = end {
            return Err(end.error("write", peer));
        }
        if !self.socket.get().may_send() {
            if is_handshaking(self.state()) {
                return Ok(None);
            }
            return Err(Error::os(libc::EPIPE, "write").at(peer.to_string()));
        }
        match self.socket.with(|socket| socket.send_slice(bytes)) {
            Ok(0) if !bytes.is_empty() => Ok(None),
            Ok(written) => Ok(Some(written)),
            Err(_) => Err(Error::new(ErrorKind::Closed, "write").at(peer.to_string())),
        }
    }

    /// Throws away what was received and returns how many bytes that were.
    pub(super) fn discard_received(&mut self) -> usize {
        let mut discarded = 0;
        let mut discard = || self.socket.with(|socket| socket.recv(|bytes| (bytes.len(), bytes.len())));
        while let Ok(taken @ 1..) = discard() {
            discarded += taken;
        }
        discarded
    }
}

fn is_handshaking(state: State) -> bool {
    matches!(state, State::SynSent | State::SynReceived)
}
