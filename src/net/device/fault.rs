//! A bad network, on purpose: a packet device whose received frames get lost, late, doubled and
//! damaged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{DeviceInfo, DeviceStats, PacketDevice};
use crate::error::Result;
use crate::rt::Instant;
use crate::rt::poller::Park;
use crate::rt::time::Clock;

/// How bad a [`Fault`] makes a network. Chances are per frame, from 0 to 1. By default nothing is
/// wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct FaultConfig {
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    pub(crate) delay: Duration,
    pub(crate) reorder: f64,
    pub(crate) jitter: Duration,
}

impl FaultConfig {
    /// Sets the chance that a frame is lost.
    #[must_use]
    pub const fn loss(mut self, loss: f64) -> Self {
        self.loss = loss;
        self
    }

    /// Sets the chance that a frame arrives twice.
    #[must_use]
    pub const fn duplicate(mut self, duplicate: f64) -> Self {
        self.duplicate = duplicate;
        self
    }

    /// Sets the chance that one bit of a frame is flipped.
    #[must_use]
    pub const fn corrupt(mut self, corrupt: f64) -> Self {
        self.corrupt = corrupt;
        self
    }

    /// Sets how late every frame arrives.
    #[must_use]
    pub const fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sets the chance that a frame is later still, and so may be overtaken.
    #[must_use]
    pub const fn reorder(mut self, reorder: f64) -> Self {
        self.reorder = reorder;
        self
    }

    /// Sets how much later such a frame is at most.
    #[must_use]
    pub const fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }
}

/// What a [`Fault`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultStats {
    /// Frames lost, by chance or because too many were under way.
    pub lost: u64,
    /// Frames that arrived twice.
    pub duplicated: u64,
    /// Frames with a flipped bit.
    pub corrupted: u64,
    /// Frames held back longer than others.
    pub delayed: u64,
}

/// How many frames may be under way; more are lost.
const UNDER_WAY_MAX: usize = 4096;

/// A device with faults on its receiving side. The same seed and the same frames give the same
/// faults.
pub struct Fault<D> {
    device: D,
    config: FaultConfig,
    clock: Arc<dyn Clock>,
    random: StdRng,
    /// By time of arrival, then by a running number.
    under_way: BTreeMap<(Instant, u64), Vec<u8>>,
    next_number: u64,
    faults: FaultStats,
}

impl<D: PacketDevice> Fault<D> {
    /// `device` with the faults of `config`, drawn from `seed`; `clock` says when a delayed frame
    /// is due.
    pub fn new(device: D, config: FaultConfig, seed: u64, clock: Arc<dyn Clock>) -> Self {
        Self {
            device,
            config,
            clock,
            random: StdRng::seed_from_u64(seed),
            under_way: BTreeMap::new(),
            next_number: 0,
            faults: FaultStats::default(),
        }
    }

    /// What it did so far.
    pub fn faults(&self) -> FaultStats {
        self.faults
    }
}

/// The faults drawn for one frame.
struct Fate {
    copies: usize,
    flipped_bit: Option<usize>,
    due: Instant,
}

fn draw(
    config: &FaultConfig,
    random: &mut StdRng,
    faults: &mut FaultStats,
    len: usize,
    now: Instant,
) -> Fate {
    let mut chance = |probability: f64| random.random_bool(probability.clamp(0.0, 1.0));
    if chance(config.loss) {
        faults.lost += 1;
        return Fate { copies: 0, flipped_bit: None, due: now };
    }
    let doubled = chance(config.duplicate);
    let damaged = chance(config.corrupt);
    let late = chance(config.reorder);
    let mut due = now + config.delay;
    if late {
        faults.delayed += 1;
        due += config.jitter.mul_f64(random.random());
    }
    faults.duplicated += u64::from(doubled);
    faults.corrupted += u64::from(damaged);
    let flipped_bit = (damaged && len > 0).then(|| random.random_range(0..len * 8));
    Fate { copies: 1 + usize::from(doubled), flipped_bit, due }
}

impl<D: PacketDevice> PacketDevice for Fault<D> {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn receive(&mut self, budget: usize, sink: &mut dyn FnMut(&mut [u8])) -> Result<usize> {
        let now = self.clock.now();
        let Self { device, config, random, under_way, next_number, faults, .. } = self;
        device.receive(budget, &mut |frame| {
            let fate = draw(config, random, faults, frame.len(), now);
            for _ in 0..fate.copies {
                if under_way.len() == UNDER_WAY_MAX {
                    faults.lost += 1;
                    break;
                }
                let mut copy = frame.to_vec();
                if let Some(bit) = fate.flipped_bit {
                    copy[bit / 8] ^= 1 << (bit % 8);
                }
                under_way.insert((fate.due, *next_number), copy);
                *next_number += 1;
            }
        })?;
        let mut received = 0;
        while received < budget
            && let Some(next) = self.under_way.first_entry()
            && next.key().0 <= now
        {
            received += 1;
            sink(&mut next.remove());
        }
        Ok(received)
    }

    fn transmit(&mut self, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> bool {
        self.device.transmit(len, fill)
    }

    fn flush(&mut self) {
        self.device.flush();
    }

    fn park(&mut self) -> Park {
        let inner = self.device.park();
        let Some((&(due, _), _)) = self.under_way.first_key_value() else { return inner };
        match (inner, due.saturating_since(self.clock.now())) {
            (Park::Spin, _) | (_, Duration::ZERO) => Park::Spin,
            (Park::Nap(nap), wait) => Park::Nap(nap.min(wait)),
            // One descriptor cannot stand for both the device and the time, so a frame may wait as
            // long as the nap.
            (Park::Idle | Park::Wake(_), wait) => Park::Nap(wait.min(Duration::from_millis(1))),
        }
    }

    fn stats(&self) -> DeviceStats {
        self.device.stats()
    }
}

impl<D> fmt::Debug for Fault<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("config", &self.config)
            .field("faults", &self.faults)
            .field("under_way", &self.under_way.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::device::MemoryDevice;

    struct Stopped(Instant);

    impl Clock for Stopped {
        fn now(&self) -> Instant {
            self.0
        }

        fn unix_time(&self) -> Duration {
            Duration::ZERO
        }
    }

    /// Sends 2000 numbered frames through `config` and returns those that arrive after `wait`, with
    /// the counters.
    fn run(config: FaultConfig, seed: u64, wait: Duration) -> (Vec<Vec<u8>>, FaultStats) {
        let (mut sender, receiver) = MemoryDevice::pair([[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]], 1500, 4096);
        let mut early = Fault::new(receiver, config, seed, Arc::new(Stopped(Instant::ORIGIN)));
        for number in 0u32..2000 {
            assert!(sender.transmit(20, &mut |frame| frame[..4].copy_from_slice(&number.to_be_bytes())));
        }
        let mut frames = Vec::new();
        let mut sink = |frame: &mut [u8]| frames.push(frame.to_vec());
        early.receive(usize::MAX, &mut sink).expect("memory");
        early.clock = Arc::new(Stopped(Instant::ORIGIN + wait));
        early.receive(usize::MAX, &mut sink).expect("memory");
        let faults = early.faults();
        (frames, faults)
    }

    fn is_about(count: u64, chance: f64) -> bool {
        (chance * 1000.0..chance * 3000.0).contains(&f64::from(u32::try_from(count).expect("small")))
    }

    #[test]
    fn faults_come_as_often_as_configured_and_are_counted() {
        let config = FaultConfig::default().loss(0.1).duplicate(0.1).corrupt(0.1);
        let (frames, faults) = run(config, 1, Duration::ZERO);
        let FaultStats { lost, duplicated, corrupted, .. } = faults;
        assert!(is_about(lost, 0.1) && is_about(duplicated, 0.1) && is_about(corrupted, 0.1), "{faults:?}");
        assert_eq!(frames.len() as u64, 2000 - lost + duplicated);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_gives_others() {
        let config =
            FaultConfig::default().loss(0.1).corrupt(0.1).reorder(0.2).jitter(Duration::from_millis(1));
        let late = Duration::from_secs(1);
        assert_eq!(run(config, 1, late), run(config, 1, late));
        assert_ne!(run(config, 1, late).0, run(config, 2, late).0);
    }

    #[test]
    fn delayed_frames_arrive_when_they_are_due_and_late_ones_are_overtaken() {
        let delay = FaultConfig::default().delay(Duration::from_millis(5));
        assert_eq!(run(delay, 1, Duration::from_millis(4)).0.len(), 0);
        let (in_order, _) = run(delay, 1, Duration::from_millis(5));
        assert!(in_order.len() == 2000 && in_order.is_sorted());
        let jitter = delay.reorder(0.5).jitter(Duration::from_millis(1));
        let (frames, faults) = run(jitter, 1, Duration::from_millis(6));
        assert!(frames.len() == 2000 && !frames.is_sorted() && faults.delayed > 500);
    }
}
