//! What a load does, and in which order.

use std::cell::Cell;
use std::time::Duration;

use clap::ValueEnum;

use super::Style;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Load {
    /// Reads, one block after the other.
    Read,
    /// Writes, one block after the other.
    Write,
    /// Reads at random.
    #[value(name = "randread")]
    RandRead,
    /// Writes at random.
    #[value(name = "randwrite")]
    RandWrite,
    /// Reads and writes, one block after the other.
    Rw,
    /// Reads and writes at random.
    #[value(name = "randrw")]
    RandRw,
}

impl Load {
    pub(super) fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::RandRead)
    }

    pub(super) fn reads(self) -> bool {
        !matches!(self, Self::Write | Self::RandWrite)
    }

    pub(super) fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite | Self::RandRw)
    }

    fn is_mixed(self) -> bool {
        matches!(self, Self::Rw | Self::RandRw)
    }

    /// As it is written on the command line, which is fio's name for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::Rw => "rw",
            Self::RandRw => "randrw",
        }
    }
}

/// What every core does.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) load: Load,
    pub(super) reads_of_100: u8,
    pub(super) block_bytes: u64,
    /// How many blocks each core has of its own.
    pub(super) blocks: u64,
    /// What all cores have together, in bytes.
    pub(super) size_bytes: u64,
    pub(super) depth: u32,
    pub(super) warm_up: Duration,
    pub(super) time: Duration,
    pub(super) style: Style,
    /// One of this many operations of a task is timed.
    pub(super) time_every: u32,
    pub(super) verify: bool,
    pub(super) durable: bool,
    pub(super) seed: u64,
}

impl Plan {
    /// A verified sequential load goes through its blocks once; others go on until the time is up.
    pub(super) fn is_one_pass(&self) -> bool {
        self.verify && !self.load.is_random()
    }
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) is_read: bool,
    /// A block of the core's own.
    pub(super) block: u64,
}

/// The operations of one core, in order.
pub(super) struct Steps {
    plan: Plan,
    random: Cell<u64>,
    next: Cell<u64>,
}

impl Steps {
    pub(super) fn new(plan: &Plan, job: u64) -> Self {
        // SplitMix64 makes good states of neighbouring seeds, and none is zero for long.
        let state = split_mix(plan.seed.wrapping_add(job.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Self { plan: plan.clone(), random: Cell::new(state.max(1)), next: Cell::new(0) }
    }

    /// The next one; `None` when a load that goes through its blocks once is at the end.
    pub(super) fn next(&self) -> Option<Step> {
        let block = if self.plan.load.is_random() {
            let product = u128::from(self.draw()) * u128::from(self.plan.blocks);
            u64::try_from(product >> 64).expect("less than the number of blocks")
        } else {
            let block = self.next.get();
            if block == self.plan.blocks && self.plan.is_one_pass() {
                return None;
            }
            let block = if block == self.plan.blocks { 0 } else { block };
            self.next.set(block + 1);
            block
        };
        let is_read = if self.plan.load.is_mixed() {
            self.draw() % 100 < u64::from(self.plan.reads_of_100)
        } else {
            !self.plan.load.writes()
        };
        Some(Step { is_read, block })
    }

    /// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators,
    /// scrambled").
    fn draw(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// SplitMix64's output function (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators").
pub(super) fn split_mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(load: Load, verify: bool) -> Plan {
        Plan {
            load,
            reads_of_100: 70,
            block_bytes: 4096,
            blocks: 100,
            size_bytes: 409_600,
            depth: 1,
            warm_up: Duration::ZERO,
            time: Duration::from_secs(1),
            style: Style::Async,
            time_every: 1,
            verify,
            durable: false,
            seed: 1,
        }
    }

    #[test]
    fn random_offsets_reach_every_block_and_nothing_else() {
        let steps = Steps::new(&plan(Load::RandRead, false), 0);
        let mut seen = [0; 100];
        for _ in 0..10_000 {
            let step = steps.next().expect("it goes on");
            assert!(step.is_read);
            seen[usize::try_from(step.block).expect("small")] += 1;
        }
        assert!(seen.iter().all(|&count| (40..200).contains(&count)), "{seen:?}");
    }

    #[test]
    fn a_sequential_load_starts_anew_unless_it_is_verified() {
        let blocks = |steps: &Steps| (0..150).map_while(|_| steps.next()).map(|step| step.block).collect();
        let around: Vec<u64> = blocks(&Steps::new(&plan(Load::Write, false), 0));
        assert!(around.iter().copied().eq((0..100).chain(0..50)));
        let once: Vec<u64> = blocks(&Steps::new(&plan(Load::Write, true), 0));
        assert!(once.iter().copied().eq(0..100));
    }

    #[test]
    fn a_mixed_load_reads_as_often_as_it_is_told() {
        let steps = Steps::new(&plan(Load::RandRw, false), 3);
        let reads = (0..10_000).filter(|_| steps.next().is_some_and(|step| step.is_read)).count();
        assert!((6_800..7_200).contains(&reads), "{reads} of 10,000");
    }

    #[test]
    fn cores_draw_different_offsets_and_a_seed_the_same_ones() {
        let draw = |job| {
            let steps = Steps::new(&plan(Load::RandRead, false), job);
            (0..20).map(|_| steps.next().expect("it goes on").block).collect::<Vec<_>>()
        };
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
    }
}
