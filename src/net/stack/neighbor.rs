//! Which Ethernet address an on-link IP address has: the cache behind ARP (RFC 826) and neighbor discovery (RFC 4861).
//!
//! smoltcp's own cache is a linear list that silences all discovery for a second after each question, and it would be scanned for every
//! packet. This one is hashed, keeps the connections that wait for an answer so that they continue at once, and goes on using an
//! entry while it asks again, so that an active connection never pauses.

use std::collections::HashMap;
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
/// How many addresses the cache holds.
const CAPACITY: usize = 1024;

struct Entry {
    mac: Option<Mac>,
    /// The last sign of life from that station.
    confirmed: Instant,
    questions: u8,
    ask_again: Instant,
    waiters: Vec<ConnectionId>,
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
    entries: HashMap<IpAddr, Entry, Secret>,
    /// Addresses without an answer yet. Short: an address stays at most `MAX_QUESTIONS` seconds.
    unanswered: Vec<IpAddr>,
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
        Self { entries: HashMap::with_hasher(secret), unanswered: Vec::new() }
    }

    /// Where to send for `address`. `heard` is when `waiter` last got a frame from its peer and from which station: it confirms
    /// the entry. If nothing is known, `waiter` is handed back by [`Neighbors::learn`] or [`Neighbors::expire`].
    pub(super) fn resolve(
        &mut self,
        address: IpAddr,
        waiter: ConnectionId,
        heard: Option<(Mac, Instant)>,
        now: Instant,
    ) -> Answer {
        if !self.entries.contains_key(&address) {
            self.make_room(now);
            self.unanswered.push(address);
            let entry = Entry {
                mac: None,
                confirmed: now,
                questions: 1,
                ask_again: now + RETRANSMIT,
                waiters: vec![waiter],
            };
            self.entries.insert(address, entry);
            return Answer::Unknown(Some(Question { address, station: None }));
        }
        let Some(entry) = self.entries.get_mut(&address) else { return Answer::Unknown(None) };
        let Some(mac) = entry.mac else {
            entry.waiters.push(waiter);
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
    /// If the cache is full, an answer that nobody asked for (`solicited` is false) is not recorded.
    pub(super) fn learn(
        &mut self,
        address: IpAddr,
        mac: Mac,
        solicited: bool,
        now: Instant,
    ) -> Vec<ConnectionId> {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.mac = Some(mac);
            entry.confirmed = now;
            entry.questions = 0;
            self.unanswered.retain(|&waiting| waiting != address);
            return std::mem::take(&mut entry.waiters);
        }
        if !solicited && self.entries.len() < CAPACITY {
            let entry =
                Entry { mac: Some(mac), confirmed: now, questions: 0, ask_again: now, waiters: Vec::new() };
            self.entries.insert(address, entry);
        }
        Vec::new()
    }

    /// When [`Neighbors::expire`] has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.unanswered.iter().filter_map(|address| Some(self.entries.get(address)?.ask_again)).min()
    }

    /// Repeats questions that got no answer and gives up on those asked often enough.
    pub(super) fn expire(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        let entries = &mut self.entries;
        self.unanswered.retain(|&address| {
            let Some(entry) = entries.get_mut(&address) else { return false };
            if now < entry.ask_again {
                return true;
            }
            if entry.questions == MAX_QUESTIONS {
                due.unreachable.append(&mut entry.waiters);
                entries.remove(&address);
                return false;
            }
            entry.questions += 1;
            entry.ask_again = now + RETRANSMIT;
            due.questions.push(Question { address, station: None });
            true
        });
        due
    }

    /// Makes room for one more entry: the one that has been silent longest goes. Only a full cache pays for the search.
    fn make_room(&mut self, now: Instant) {
        if self.entries.len() < CAPACITY {
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

    const WAITER: ConnectionId = ConnectionId { index: 5, generation: 1 };

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
        assert_eq!(table.learn(address(1), PEER, true, at(3)), vec![WAITER]);
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
        assert_eq!((questions, unreachable), (3, vec![WAITER]));
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
        table.resolve(address(250), WAITER, None, at(1));
        table.resolve(IpAddr::from([192, 168, 0, 1]), WAITER, None, at(1));
        assert_eq!(table.entries.len(), CAPACITY);
    }
}
