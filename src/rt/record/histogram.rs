//! Distributions of times, in a fixed space.

use std::fmt;

/// Each power of two is cut into this many buckets, so that a value is known to 1 part in 32.
const SUB_BITS: u32 = 5;
const SUB: usize = 1 << SUB_BITS;
/// Values from 2⁴⁰ (18 minutes in nanoseconds) on share the last bucket.
const MAX_BITS: u32 = 40;
const BUCKETS: usize = (MAX_BITS - SUB_BITS + 1) as usize * SUB;

/// Counts values by size, with a relative error of at most 1/32 (log-linear buckets, as in
/// HdrHistogram by Gil Tene). 9 KiB, allocated once.
#[derive(Clone)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// Without any value.
    pub fn new() -> Self {
        Self { buckets: vec![0; BUCKETS].into_boxed_slice(), count: 0, sum: 0, max: 0 }
    }

    /// Counts `value`.
    #[inline]
    pub fn record(&mut self, value: u64) {
        self.buckets[bucket_of(value)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (own, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *own = own.saturating_add(*other);
        }
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// What was counted since `earlier`, an older state of the same histogram. The maximum is known
    /// to 1/32 only, because that of the whole may be older.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut newer = self.clone();
        for (own, earlier) in newer.buckets.iter_mut().zip(&earlier.buckets) {
            *own = own.saturating_sub(*earlier);
        }
        newer.count = newer.buckets.iter().fold(0u64, |sum, count| sum.saturating_add(*count));
        newer.sum = self.sum.saturating_sub(earlier.sum);
        newer.max = newer.buckets().last().map_or(0, |(top, _)| top.min(self.max));
        newer
    }

    /// The histogram of which [`buckets`](Self::buckets), [`sum`](Self::sum) and [`max`](Self::max)
    /// are known.
    pub(crate) fn restored(buckets: impl Iterator<Item = (u64, u64)>, sum: u64, max: u64) -> Self {
        let mut histogram = Self { sum, max, ..Self::new() };
        for (top, count) in buckets {
            let bucket = &mut histogram.buckets[bucket_of(top)];
            *bucket = bucket.saturating_add(count);
            histogram.count = histogram.count.saturating_add(count);
        }
        histogram
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sum of all values, at most `u64::MAX`.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest value; 0 without any.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value that the part `quantile` (0 to 1) of all values does not exceed, rounded up by
    /// 1/32 at most; 0 without any.
    pub fn quantile(&self, quantile: f64) -> u64 {
        // Large counts are rounded, which moves the rank by less than one part in 2⁵⁰.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "clamped to 0..=1 of a count"
        )]
        let rank = {
            let product = self.count as f64 * quantile.clamp(0.0, 1.0);
            // 0.07 of 100 is a little more than 7, and not the eighth.
            ((product - 2.0 * f64::EPSILON * product).ceil() as u64).max(1)
        };
        let mut seen = 0u64;
        for (at, bucket) in self.buckets.iter().enumerate() {
            // Counts that another process told (see `restored`) may be anything.
            seen = seen.saturating_add(*bucket);
            if seen >= rank {
                return top_of(at).min(self.max);
            }
        }
        self.max
    }

    /// The buckets that hold values: the largest value that each stands for, and how many it holds;
    /// smallest first.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(at, count)| (top_of(at), *count))
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count)
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("max", &self.max)
            .finish()
    }
}

fn bucket_of(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    if bits <= SUB_BITS {
        return usize::try_from(value).unwrap_or(0);
    }
    if bits > MAX_BITS {
        return BUCKETS - 1;
    }
    let shift = bits - SUB_BITS - 1;
    // `value >> shift` has 6 bits, the first of them set: 32 buckets for each number of bits.
    let sub = usize::try_from(value >> shift).unwrap_or(0) - SUB;
    (shift as usize + 1) * SUB + sub
}

/// The largest value of a bucket.
fn top_of(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    if bucket == BUCKETS - 1 {
        return u64::MAX;
    }
    let shift = bucket / SUB - 1;
    (((bucket % SUB + SUB + 1) as u64) << shift).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rank_is_not_rounded_up_because_a_fraction_is() {
        let mut histogram = Histogram::new();
        (1..=100).for_each(|value| histogram.record(value));
        for percent in 1..=32u32 {
            assert_eq!(histogram.quantile(f64::from(percent) / 100.0), u64::from(percent));
        }
    }

    proptest! {
        /// Against a sorted list: a quantile is never below the value that has the rank, and above
        /// it by 1/32 at most.
        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(prop_oneof![0..100u64, 0..1u64 << 20, 0..1u64 << 39], 1..200),
            per_mille in 0..=1000u32,
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut whole, mut rest) = (Histogram::new(), Histogram::new());
            let cut = cut.index(values.len());
            values[..cut].iter().for_each(|value| whole.record(*value));
            values[cut..].iter().for_each(|value| rest.record(*value));
            whole.merge(&rest);
            values.sort_unstable();
            let rank = (values.len() * per_mille as usize).div_ceil(1000).max(1);
            let exact = values[rank - 1];
            let found = whole.quantile(f64::from(per_mille) / 1000.0);
            prop_assert!(found >= exact, "{found} for {exact}");
            prop_assert!(found - exact <= exact / 32, "{found} for {exact}");
            let newer = whole.since(&rest);
            prop_assert_eq!(newer.count(), cut as u64);
            prop_assert_eq!(newer.sum(), whole.sum() - rest.sum());
            let restored = Histogram::restored(whole.buckets(), whole.sum(), whole.max());
            prop_assert!(restored.buckets().eq(whole.buckets()));
            prop_assert_eq!(restored.count(), whole.count());
            prop_assert_eq!(whole.count(), values.len() as u64);
            prop_assert_eq!(whole.max(), *values.last().expect("one at least"));
            prop_assert_eq!(whole.sum(), values.iter().sum::<u64>());
        }
    }

    #[test]
    fn values_without_a_bucket_of_their_own_are_counted_too() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5), 0);
        histogram.record(u64::MAX);
        histogram.record(u64::MAX);
        assert_eq!(histogram.quantile(0.5), u64::MAX);
        assert_eq!(histogram.sum(), u64::MAX);
    }

    #[test]
    fn counts_that_another_process_made_up_saturate() {
        let wild = || Histogram::restored([(1, u64::MAX / 2 + 1), (40, u64::MAX / 2 + 1)].into_iter(), 0, 40);
        let mut histogram = wild();
        assert_eq!(histogram.quantile(1.0), 40);
        assert_eq!(histogram.since(&Histogram::new()).count(), u64::MAX);
        histogram.merge(&wild());
        assert_eq!(histogram.count(), u64::MAX);
    }
}
