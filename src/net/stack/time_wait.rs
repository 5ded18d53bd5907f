//! TIME-WAIT without a socket: 4-tuples whose old segments may still be under way (RFC 9293 section
//! 3.6.1).

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use smoltcp::wire::TcpSeqNumber;

use super::flow::{Flow, Secret};
use super::outbox::SentSegment;
use crate::rt::Instant;

/// How long a tuple is kept: twice a maximum segment lifetime of 15 s. (RFC 9293 suggests two
/// minutes for that lifetime; no network in use holds a packet so long, and common systems wait 30
/// to 60 s in all.)
pub(super) const DURATION: Duration = Duration::from_secs(30);

/// Finished connections. An entry answers a repeated FIN with an ACK and gives way to a new
/// connection of the same tuple whose sequence numbers lie behind the old ones; it holds no
/// buffers. The oldest entry makes room when the table is full.
pub(super) struct TimeWait {
    entries: HashMap<Flow, ClosedFlow, Secret>,
    /// By expiry: every entry waits equally long.
    order: VecDeque<(Instant, Flow)>,
    capacity: usize,
}

struct ClosedFlow {
    expires: Instant,
    last: SentSegment,
}

impl TimeWait {
    pub(super) fn new(secret: Secret, capacity: usize) -> Self {
        Self { entries: HashMap::with_hasher(secret), order: VecDeque::new(), capacity }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn insert(&mut self, flow: Flow, last: SentSegment, now: Instant) {
        self.expire(now);
        if self.order.len() >= self.capacity {
            self.remove_oldest();
        }
        let expires = now + DURATION;
        self.entries.insert(flow, ClosedFlow { expires, last });
        self.order.push_back((expires, flow));
    }

    pub(super) fn contains(&self, flow: &Flow, now: Instant) -> bool {
        self.get(flow, now).is_some()
    }

    /// The last segment sent on `flow`, if it is in TIME-WAIT.
    pub(super) fn get(&self, flow: &Flow, now: Instant) -> Option<SentSegment> {
        self.entries.get(flow).filter(|entry| now < entry.expires).map(|entry| entry.last)
    }

    /// Gives `flow` up for a new connection that starts at `seq`, if no old segment could be taken
    /// for one of it (RFC 9293 section 3.10.7.4).
    pub(super) fn give_way(&mut self, flow: &Flow, seq: TcpSeqNumber) -> bool {
        let gives_way = self.entries.get(flow).is_some_and(|entry| seq > entry.last.ack);
        if gives_way {
            self.entries.remove(flow);
        }
        gives_way
    }

    pub(super) fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|&(expires, _)| expires <= now) {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        let Some((expires, flow)) = self.order.pop_front() else { return };
        // The tuple may have given way, and may be waiting again for a later connection.
        if self.entries.get(&flow).is_some_and(|entry| entry.expires == expires) {
            self.entries.remove(&flow);
        }
    }
}
