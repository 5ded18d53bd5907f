//! How long a core may sleep for the sake of a device that cannot wake it.

use std::time::Duration;

use crate::rt::poller::Park;

/// A device stays hot for this many empty turns of its core's loop: some milliseconds, which cover
/// the round trip to a client on the same network.
const SPIN_TURNS: u32 = 10_000;

/// The first nap, and the longest. A nap delays the first frame after a pause by at most its
/// length; a longer one costs less: measured on a virtual machine, naps of 1 ms take 1.7 % of an
/// idle core, naps of 2 ms less than 1 %.
const SHORTEST_NAP: Duration = Duration::from_micros(50);
const LONGEST_NAP: Duration = Duration::from_millis(2);

/// Naps of one length before the next is twice as long. The longest is reached half a second after
/// the last frame.
const NAPS_PER_LENGTH: u32 = 128;

/// Decides between spinning and napping by how many turns ago there last was a frame.
///
/// It counts turns, not time, because a turn without work is short and a device reads no clock.
#[derive(Debug)]
pub(crate) struct Idle {
    empty_turns: u32,
    naps: u32,
    nap: Duration,
}

impl Idle {
    pub(crate) fn new() -> Self {
        Self { empty_turns: 0, naps: 0, nap: SHORTEST_NAP }
    }

    /// Frames came or went: stay awake.
    pub(crate) fn busy(&mut self) {
        *self = Self::new();
    }

    /// One more turn without a frame.
    pub(crate) fn park(&mut self) -> Park {
        if self.empty_turns < SPIN_TURNS {
            self.empty_turns += 1;
            return Park::Spin;
        }
        if self.naps == NAPS_PER_LENGTH {
            self.naps = 0;
            self.nap = (self.nap * 2).min(LONGEST_NAP);
        }
        self.naps += 1;
        Park::Nap(self.nap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_first_then_naps_longer_and_longer_until_a_frame_comes() {
        let mut idle = Idle::new();
        for _ in 0..SPIN_TURNS {
            assert_eq!(idle.park(), Park::Spin);
        }
        assert_eq!(idle.park(), Park::Nap(SHORTEST_NAP));
        let mut longest = SHORTEST_NAP;
        for _ in 0..10 * NAPS_PER_LENGTH {
            let Park::Nap(nap) = idle.park() else { panic!("it naps until a frame comes") };
            assert!(nap >= longest && nap <= LONGEST_NAP);
            longest = nap;
        }
        assert_eq!(longest, LONGEST_NAP);

        idle.busy();
        assert_eq!(idle.park(), Park::Spin);
    }
}
