//! Which Ethernet address an on-link IP address has: the cache behind ARP (RFC 826) and neighbor
//! discovery (RFC 4861).
//!
//! smoltcp's own cache is a linear list that silences all discovery for a second after each
//! question, and it would be scanned for every packet. This one is hashed, keeps the connections
//! that wait for an answer so that they continue at once, and goes on using an entry while it asks
//! again, so that an active connection never pauses.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::connections::ConnectionId;
use super::flow::Secret;
use super::frame::Mac;
use crate::rt::Instant;

/// How long an entry counts as right without a sign of life (RFC 4861 REACHABLE_TIME).
const REACHABLE: Duration = Duration::from_secs(30);
/// How long to wait for an answer before asking again (RFC 4861 RETRANS_TIMER).
const RETRANSMIT: Duration = Duration::from_secs(1);
/// How often to ask before giving up (RFC 4861 MAX_MULTICAST_SOLICIT).
const MAX_QUESTIONS: u8 = 3;
/// How many addresses with an answer the cache holds. Those without one are at most as many as
/// there are connections.
const CAPACITY: usize = 1024;

struct NeighborEntry {
    mac: Option<Mac>,
    /// The last sign of life from that station.
    confirmed: Instant,
    questions: u8,
    ask_again: Instant,
    waiters: Vec<ConnectionId>,
}

impl NeighborEntry {
    /// Whether it has no answer, and is to be asked for again at `when`.
    fn waits_until(&self, when: Instant) -> bool {
        self.mac.is_none() && self.ask_again == when
    }
}

/// A question to put on the wire: who has `address`? Sent to `station` alone if one is believed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) address: IpAddr,
    pub(super) station: Option<Mac>,
}

/// What is known of a next hop.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Send there; and ask the question, if there is one, to see whether it still holds.
    Known(Mac, Option<Question>),
    /// The caller waits, and the question, if there is one, must be asked.
    Unknown(Option<Question>),
}

pub(super) struct Neighbors {
    entries: HashMap<IpAddr, NeighborEntry, Secret>,
    /// How many entries have no answer yet. Each stays at most `MAX_QUESTIONS` seconds.
    unanswered: usize,
    /// When to ask again for which address, in the order of time, for every question gets the same
    /// time. An entry that was answered meanwhile is skipped when its turn comes.
    to_ask: VecDeque<(Instant, IpAddr)>,
}

/// What became due in [`Neighbors::expire`].
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) questions: Vec<Question>,
    /// Connections whose next hop did not answer.
    pub(super) unreachable: Vec<ConnectionId>,
}

impl Neighbors {
    pub(super) fn new(secret: Secret) -> Self {
        Self { entries: HashMap::with_hasher(secret), unanswered: 0, to_ask: VecDeque::new() }
    }

    /// Where to send for `address`. `heard` is when `waiter` last got a frame from its peer and
    /// from which station: it confirms the entry. If nothing is known, `waiter` is handed back by
    /// [`Neighbors::learn`] or [`Neighbors::expire`]; `None` waits already.
    pub(super) fn resolve(
        &mut self,
        address: IpAddr,
        waiter: Option<ConnectionId>,
        heard: Option<(Mac, Instant)>,
        now: Instant,
    ) -> Answer {
        if !self.entries.contains_key(&address) {
            let ask_again = now + RETRANSMIT;
            self.unanswered += 1;
            self.to_ask.push_back((ask_again, address));
            let waiters = waiter.into_iter().collect();
            let entry = NeighborEntry { mac: None, confirmed: now, questions: 1, ask_again, waiters };
            self.entries.insert(address, entry);
            return Answer::Unknown(Some(Question { address, station: None }));
        }
        let Some(entry) = self.entries.get_mut(&address) else { return Answer::Unknown(None) };
        let Some(mac) = entry.mac else {
            entry.waiters.extend(waiter);
            return Answer::Unknown(None);
        };
        if let Some((from, when)) = heard
            && from == mac
            && when > entry.confirmed
        {
            entry.confirmed = when;
            entry.questions = 0;
        }
        if now.saturating_since(entry.confirmed) < REACHABLE || now < entry.ask_again {
            return Answer::Known(mac, None);
        }
        if entry.questions == MAX_QUESTIONS {
            // The station fell silent: forget it and ask everybody.
            self.entries.remove(&address);
            return self.resolve(address, waiter, None, now);
        }
        entry.questions += 1;
        entry.ask_again = now + RETRANSMIT;
        Answer::Known(mac, Some(Question { address, station: Some(mac) }))
    }

    /// Records that `address` is at `mac` and returns the connections that waited for it.
    ///
    /// If the cache is full, an answer that nobody asked for (`solicited` is false) is not
    /// recorded.
    pub(super) fn learn(
        &mut self,
        address: IpAddr,
        mac: Mac,
        solicited: bool,
        now: Instant,
    ) -> Vec<ConnectionId> {
        if let Some(entry) = self.entries.get_mut(&address) {
            let is_answer = entry.mac.replace(mac).is_none();
            entry.confirmed = now;
            entry.questions = 0;
            let waiters = std::mem::take(&mut entry.waiters);
            if is_answer {
                self.unanswered -= 1;
                self.skip_answered();
                self.make_room(now);
            }
            return waiters;
        }
        if !solicited && self.answered() < CAPACITY {
            let entry = NeighborEntry {
                mac: Some(mac),
                confirmed: now,
                questions: 0,
                ask_again: now,
                waiters: Vec::new(),
            };
            self.entries.insert(address, entry);
        }
        Vec::new()
    }

    /// When [`Neighbors::expire`] has something to do next, or earlier.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.to_ask.front().map(|&(when, _)| when)
    }

    /// Repeats questions that got no answer and gives up on those asked often enough.
    pub(super) fn expire(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        while let Some(&(when, address)) = self.to_ask.front()
            && when <= now
        {
            self.to_ask.pop_front();
            let Some(entry) = self.entries.get_mut(&address).filter(|entry| entry.waits_until(when)) else {
                continue;
            };
            if entry.questions == MAX_QUESTIONS {
                due.unreachable.append(&mut entry.waiters);
                self.entries.remove(&address);
                self.unanswered -= 1;
                continue;
            }
            entry.questions += 1;
            entry.ask_again = now + RETRANSMIT;
            self.to_ask.push_back((entry.ask_again, address));
            due.questions.push(Question { address, station: None });
        }
        self.skip_answered();
        due
    }

    fn answered(&self) -> usize {
        self.entries.len() - self.unanswered
    }

    /// Drops what need not be asked any more from the front of `to_ask`.
    fn skip_answered(&mut self) {
        while let Some((when, address)) = self.to_ask.front()
            && !self.entries.get(address).is_some_and(|entry| entry.waits_until(*when))
        {
            self.to_ask.pop_front();
        }
    }

    /// After one more answer: if they are too many, the one that has been silent longest goes. Only
    /// a full cache pays for the search. Entries without an answer do not count: a flood of packets
    /// from made-up addresses must not push out the neighbors that exist.
    fn make_room(&mut self, now: Instant) {
        if self.answered() <= CAPACITY {
            return;
        }
        let longest_silent = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.mac.is_some())
            .max_by_key(|(_, entry)| now.saturating_since(entry.confirmed))
            .map(|(&address, _)| address);
        if let Some(address) = longest_silent {
            self.entries.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::stack::flow::Secrets;

    const PEER: Mac = [2, 0, 0, 0, 0, 9];

    fn neighbors() -> Neighbors {
        Neighbors::new(Secrets::new(&[3; 32]).tables)
    }

    fn address(host: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, host])
    }

    fn at(millis: u64) -> Instant {
        Instant::ORIGIN + Duration::from_millis(millis)
    }

    const ID: ConnectionId = ConnectionId { index: 5, generation: 1 };
    const WAITER: Option<ConnectionId> = Some(ID);

    #[test]
    fn one_unresolved_neighbor_does_not_silence_another() {
        let mut table = neighbors();
        let ask = |host| Answer::Unknown(Some(Question { address: address(host), station: None }));
        assert_eq!(table.resolve(address(1), WAITER, None, at(0)), ask(1));
        assert_eq!(table.resolve(address(2), WAITER, None, at(0)), ask(2));
        assert_eq!(table.resolve(address(1), WAITER, None, at(1)), Answer::Unknown(None));
    }

    #[test]
    fn an_answer_hands_back_who_waited() {
        let mut table = neighbors();
        table.resolve(address(1), WAITER, None, at(0));
        assert_eq!(table.learn(address(1), PEER, true, at(3)), vec![ID]);
        assert_eq!(table.resolve(address(1), WAITER, None, at(4)), Answer::Known(PEER, None));
        assert_eq!(table.next_deadline(), None);
    }

    #[test]
    fn silence_ends_the_wait_after_three_questions() {
        let mut table = neighbors();
        table.resolve(address(1), WAITER, None, at(0));
        let mut questions = 1;
        let mut unreachable = Vec::new();
        while let Some(deadline) = table.next_deadline() {
            let due = table.expire(deadline);
            questions += due.questions.len();
            unreachable.extend(due.unreachable);
        }
        assert_eq!((questions, unreachable), (3, vec![ID]));
    }

    #[test]
    fn a_stale_entry_is_used_while_it_is_checked_and_dropped_when_it_stays_silent() {
        let mut table = neighbors();
        table.learn(address(1), PEER, false, at(0));
        let check = Some(Question { address: address(1), station: Some(PEER) });
        for second in 31..34 {
            assert_eq!(
                table.resolve(address(1), WAITER, None, at(second * 1000)),
                Answer::Known(PEER, check),
                "second {second}"
            );
            assert_eq!(
                table.resolve(address(1), WAITER, None, at(second * 1000 + 1)),
                Answer::Known(PEER, None)
            );
        }
        assert!(matches!(table.resolve(address(1), WAITER, None, at(34_000)), Answer::Unknown(Some(_))));
    }

    #[test]
    fn traffic_from_the_station_confirms_it() {
        let mut table = neighbors();
        table.learn(address(1), PEER, false, at(0));
        let heard = Some((PEER, at(30_000)));
        assert_eq!(table.resolve(address(1), WAITER, heard, at(40_000)), Answer::Known(PEER, None));
        let other = Some(([2, 0, 0, 0, 0, 8], at(70_000)));
        assert!(matches!(table.resolve(address(1), WAITER, other, at(70_000)), Answer::Known(PEER, Some(_))));
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut table = neighbors();
        for host in 0..2 * u32::try_from(CAPACITY).expect("small") {
            table.learn(IpAddr::from((0x0a00_0000 + host).to_be_bytes()), PEER, false, at(0));
        }
        assert_eq!(table.entries.len(), CAPACITY);
        table.resolve([192, 168, 0, 1].into(), WAITER, None, at(1));
        table.learn([192, 168, 0, 1].into(), PEER, true, at(2));
        assert_eq!(table.entries.len(), CAPACITY);
        assert_eq!(table.resolve([192, 168, 0, 1].into(), WAITER, None, at(3)), Answer::Known(PEER, None));
    }

    #[test]
    fn addresses_that_nobody_has_do_not_push_out_neighbors_and_are_forgotten() {
        let mut table = neighbors();
        table.learn(address(1), PEER, false, at(0));
        let made_up = |host: u32| IpAddr::from((0x0a01_0000 + host).to_be_bytes());
        for host in 0..4 * u32::try_from(CAPACITY).expect("small") {
            table.resolve(made_up(host), WAITER, None, at(u64::from(host) / 10));
            assert_eq!(table.resolve(address(1), WAITER, None, at(500)), Answer::Known(PEER, None), "{host}");
        }
        let mut unreachable = 0;
        while let Some(deadline) = table.next_deadline() {
            unreachable += table.expire(deadline).unreachable.len();
        }
        assert_eq!((unreachable, table.entries.len(), table.unanswered), (4 * CAPACITY, 1, 0));
    }
}
