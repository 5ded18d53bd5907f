//! Which connection a segment belongs to, and the numbers an attacker must not guess.

use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;

use siphasher::sip::SipHasher13;

use crate::rt::Instant;

/// The 4-tuple of a connection, seen from this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// A SipHash key. As a `BuildHasher` it keys the tables that remote hosts choose the keys of, so
/// that nobody can make them collide.
#[derive(Clone, Copy)]
pub(super) struct Secret {
    key: [u8; 16],
}

impl BuildHasher for Secret {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.key)
    }
}

/// What every derived number is about; keeps the uses of one key apart.
#[derive(Clone, Copy)]
enum Purpose {
    Port = 1,
    InitialSequence = 2,
}

/// The stack's secrets, derived from the seed it was given.
pub(super) struct Secrets {
    /// Keys the hash tables.
    pub(super) tables: Secret,
    /// Keys ports and initial sequence numbers.
    numbers: Secret,
    /// Counts every number drawn, so that no two draws are alike.
    drawn: u64,
}

/// The range that ephemeral ports come from: RFC 6335's dynamic ports and those below them that
/// common systems use too.
const EPHEMERAL_FIRST: u16 = 32_768;
const EPHEMERAL_COUNT: u16 = u16::MAX - EPHEMERAL_FIRST;

impl Secrets {
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        let mut tables = [0; 16];
        let mut numbers = [0; 16];
        tables.copy_from_slice(&seed[..16]);
        numbers.copy_from_slice(&seed[16..]);
        Self { tables: Secret { key: tables }, numbers: Secret { key: numbers }, drawn: 0 }
    }

    fn number(&self, purpose: Purpose, flow: (SocketAddr, SocketAddr), salt: u64) -> u64 {
        use std::hash::Hash;
        let mut hasher = self.numbers.build_hasher();
        hasher.write_u8(purpose as u8);
        flow.hash(&mut hasher);
        hasher.write_u64(salt);
        hasher.finish()
    }

    /// The seed of the generator that draws a new connection's initial sequence number.
    ///
    /// RFC 6528 wants numbers that cannot be guessed and that grow per 4-tuple. These are a keyed
    /// hash of the 4-tuple, the time and a counter: they cannot be guessed, but do not grow,
    /// because smoltcp draws the number itself. What growth is for (a reused 4-tuple in TIME-WAIT)
    /// is answered on our side by the table of such tuples.
    pub(super) fn initial_sequence_seed(&mut self, flow: &Flow, now: Instant) -> u64 {
        self.drawn = self.drawn.wrapping_add(1);
        let salt = now.as_nanos() ^ self.drawn.rotate_left(40);
        self.number(Purpose::InitialSequence, (flow.local, flow.remote), salt)
    }

    /// A free local port for a connection to `remote`: RFC 6056, algorithm 3 (simple hash-based
    /// selection).
    ///
    /// `local` has port zero. Returns `None` if `taken` says so of every port.
    pub(super) fn ephemeral_port(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        taken: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let offset = self.number(Purpose::Port, (local, remote), 0);
        for _ in 0..EPHEMERAL_COUNT {
            self.drawn = self.drawn.wrapping_add(1);
            let index = offset.wrapping_add(self.drawn) % u64::from(EPHEMERAL_COUNT);
            let port = EPHEMERAL_FIRST + u16::try_from(index).expect("the index is below a u16's range");
            if !taken(port) {
                return Some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> (SocketAddr, SocketAddr) {
        (SocketAddr::from(([10, 0, 0, 1], 0)), SocketAddr::from(([10, 0, 0, 2], 80)))
    }

    #[test]
    fn ports_differ_stay_in_range_and_depend_on_the_seed() {
        let (local, remote) = addresses();
        let draw = |seed: u8| {
            let mut secrets = Secrets::new(&[seed; 32]);
            (0..100)
                .map(|_| secrets.ephemeral_port(local, remote, |_| false).expect("a free port"))
                .collect::<Vec<_>>()
        };
        let mut ports = draw(1);
        assert_ne!(ports, draw(2));
        assert!(ports.iter().all(|&port| port >= EPHEMERAL_FIRST));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
    }

    #[test]
    fn taken_ports_are_skipped_until_none_is_left() {
        let (local, remote) = addresses();
        let mut secrets = Secrets::new(&[7; 32]);
        assert_eq!(secrets.ephemeral_port(local, remote, |port| port != 40_000), Some(40_000));
        assert_eq!(secrets.ephemeral_port(local, remote, |_| true), None);
    }

    #[test]
    fn initial_sequence_seeds_differ_for_one_flow_at_one_time() {
        let (local, remote) = addresses();
        let flow = Flow { local, remote };
        let mut secrets = Secrets::new(&[7; 32]);
        let first = secrets.initial_sequence_seed(&flow, Instant::ORIGIN);
        assert_ne!(first, secrets.initial_sequence_seed(&flow, Instant::ORIGIN));
        assert_ne!(first, Secrets::new(&[8; 32]).initial_sequence_seed(&flow, Instant::ORIGIN));
    }
}
