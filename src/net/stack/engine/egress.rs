//! Timers, and what connections have to send.

use std::time::Duration;

use smoltcp::iface::PollResult;
use smoltcp::socket::tcp::State;

use super::super::connection::{End, Owner};
use super::super::connections::ConnectionId;
use super::super::neighbor::{Answer, Question};
use super::super::resolution;
use super::{Engine, from_wire_time, wire_time};
use crate::net::device::PacketDevice;
use crate::rt::Instant;

/// How many frames one connection may send before the others get their turn.
const BURST: usize = 16;
/// When a connection that wanted to be looked at at once, but had nothing to send, is looked at
/// again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

impl Engine {
    /// Starts a turn at time `now`.
    pub(in super::super) fn begin(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Puts connections whose time has come on the list of those to look at, at most `budget`, and
    /// repeats questions to neighbors.
    pub(in super::super) fn run_timers(&mut self, budget: usize) -> usize {
        let mut fired = 0;
        while fired < budget
            && let Some(index) = self.timers.pop_due(self.now)
        {
            fired += 1;
            if let Some(id) = self.connections.at(index) {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.armed = None;
                }
                self.mark_dirty(id);
            }
        }
        if self.neighbors.next_deadline().is_some_and(|deadline| deadline <= self.now) {
            let due = self.neighbors.expire(self.now);
            for question in due.questions {
                self.ask(question);
            }
            for id in due.unreachable {
                self.unreachable(id);
            }
        }
        self.time_wait.expire(self.now);
        fired
    }

    fn ask(&mut self, question: Question) {
        resolution::ask(&mut self.outbox, &self.identity, question);
    }

    /// The next hop of `id` does not answer: a new connection fails at once; an old one keeps
    /// trying until its timeout.
    fn unreachable(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.waits_for_neighbor = false;
        if connection.state() == State::SynSent {
            connection.end = Some(End::Unreachable);
            connection.silent = true;
            self.settle(id);
        } else {
            self.mark_dirty(id);
        }
    }

    /// Sends what waits for room in the device; returns how many frames.
    pub(in super::super) fn drain(&mut self, device: &mut dyn PacketDevice) -> usize {
        self.outbox.drain(device)
    }

    /// Lets connections send, at most about `budget` frames; returns how many.
    pub(in super::super) fn egress(&mut self, device: &mut dyn PacketDevice, budget: usize) -> usize {
        let mut sent = 0;
        // Each connection on the list now gets one turn, so that one with much to send cannot hold
        // up the rest.
        for _ in 0..self.dirty.len() {
            if sent >= budget || self.outbox.is_waiting() {
                break;
            }
            let Some(id) = self.dirty.pop_front() else { break };
            sent += self.serve(id, device, BURST.min(budget - sent));
            // A question to a neighbor is staged; it must not count as a full device.
            self.outbox.drain(device);
        }
        self.stats.frames_sent += u64::try_from(sent).unwrap_or(u64::MAX);
        sent
    }

    fn serve(&mut self, id: ConnectionId, device: &mut dyn PacketDevice, limit: usize) -> usize {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else { return 0 };
        connection.dirty = false;
        let overdue = matches!(connection.owner, Owner::Orphan { until } if now >= until);
        if overdue && !connection.is_over() {
            connection.end = Some(End::TimedOut);
            connection.abort();
        }
        if connection.is_over() {
            self.settle(id);
            return 0;
        }
        let waiter = (!connection.waits_for_neighbor).then_some(id);
        let answer = self.neighbors.resolve(connection.next_hop, waiter, connection.heard, now);
        let to = match answer {
            Answer::Known(to, question) => {
                if let Some(question) = question {
                    resolution::ask(&mut self.outbox, &self.identity, question);
                    self.outbox.drain(device);
                }
                to
            }
            Answer::Unknown(question) => {
                connection.waits_for_neighbor = true;
                self.wait_for_neighbor(id, overdue);
                if let Some(question) = question {
                    self.ask(question);
                }
                return 0;
            }
        };
        let before = connection.state();
        let mut sent = 0;
        let mut exhausted = false;
        while sent < limit {
            let mut port = self.outbox.sending(device, to);
            let result =
                connection.socket.with_set(|set| self.interface.poll_egress(wire_time(now), &mut port, set));
            if result == PollResult::None {
                exhausted = !self.outbox.is_waiting();
                break;
            }
            sent += 1;
            connection.last_segment = self.outbox.last_segment.take();
            if connection.last_segment.is_some_and(|segment| segment.is_bare) {
                // What can be sent goes with an acknowledgement, so after a bare one there is
                // nothing more.
                connection.bare_streak = connection.bare_streak.saturating_add(1);
                exhausted = !self.outbox.is_waiting();
                break;
            }
            connection.bare_streak = 0;
        }
        let after = connection.state();
        if before != State::Closed && after == State::Closed && before != State::TimeWait {
            connection.end.get_or_insert(End::TimedOut);
            self.stats.timed_out += 1;
        }
        if after == State::TimeWait && exhausted {
            connection.silent = true;
        }
        if overdue {
            connection.silent = true;
        }
        if exhausted {
            self.rearm(id, sent);
        } else {
            self.mark_dirty(id);
        }
        self.settle(id);
        sent
    }

    /// Arms `id` for the time smoltcp wants to look at it again, having just sent `sent` frames.
    fn rearm(&mut self, id: ConnectionId, sent: usize) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let linger = match connection.owner {
            Owner::Orphan { until } => Some(until),
            _ => None,
        };
        let wanted = if connection.silent {
            None
        } else {
            let poll_at = connection.socket.with_set(|set| self.interface.poll_at(wire_time(self.now), set));
            poll_at.map(from_wire_time)
        };
        let Some(deadline) = [linger, wanted].into_iter().flatten().min() else { return };
        let soonest = self.now + hold_off(sent, connection.bare_streak);
        self.timers.arm(id.index, &mut connection.armed, deadline.max(soonest));
    }

    /// Leaves `id` to be woken by the neighbor cache, or to fail when its peer has been silent for
    /// the user timeout.
    fn wait_for_neighbor(&mut self, id: ConnectionId, overdue: bool) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let state = connection.state();
        let patience = if state == State::SynReceived {
            self.config.handshake_timeout
        } else {
            self.config.user_timeout
        };
        // A peer that was never heard of is being connected to; that ends with the neighbor cache's
        // last question.
        let deadline = connection.heard.map(|(_, when)| when + patience);
        if overdue || state == State::Closed || deadline.is_some_and(|deadline| self.now >= deadline) {
            connection.end.get_or_insert(End::TimedOut);
            connection.silent = true;
            self.stats.timed_out += 1;
            self.settle(id);
        } else if let Some(deadline) = deadline {
            self.timers.arm(id.index, &mut connection.armed, deadline);
        }
    }
}

/// How long a connection that just sent `sent` frames must at least wait before it is looked at
/// again on its own account.
///
/// smoltcp can want to send the same bare acknowledgement forever: a peer that acknowledges a FIN
/// with a closed window leaves the zero-window timer running in a state that never stops it. So
/// bare acknowledgements that nothing called for come ever slower.
fn hold_off(sent: usize, bare_streak: u32) -> Duration {
    match bare_streak {
        0 | 1 if sent > 0 => Duration::ZERO,
        0 | 1 => LOOK_AGAIN,
        streak => LOOK_AGAIN * (1 << streak.min(10)),
    }
}
