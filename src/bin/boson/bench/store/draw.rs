//! Numbers at random: uniform, zipfian, and what YCSB makes of them. Shared with `benches/peers`,
//! so it uses nothing but the standard library.

/// The exponent that YCSB has (`ZIPFIAN_CONSTANT`).
const THETA: f64 = 0.99;
/// `ScrambledZipfianGenerator.ITEM_COUNT` and its zeta, `ZETAN`.
const SCRAMBLED_ITEMS: u64 = 10_000_000_000;
const SCRAMBLED_ZETA: f64 = 26.469_028_201_783_02;

/// SplitMix64's output function (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators"). A bijection.
pub(super) fn split_mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators,
/// scrambled").
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The stream `stream` of `seed`. Streams and seeds next to each other are unlike.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let state = split_mix(split_mix(seed) ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self(state.max(1))
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        let product = u128::from(self.draw()) * u128::from(limit);
        u64::try_from(product >> 64).expect("less than the limit")
    }

    /// In [0, 1), with 53 bits.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    fn fraction(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Ranks from 0, of which rank r has the probability 1 / ((r + 1)^0.99 ζ). By the method of Gray
/// and others, "Quickly generating billion-record synthetic databases", 1994, as in YCSB: exact for
/// the first two ranks, approximate for the others.
#[derive(Clone, Debug)]
pub(super) struct Zipfian {
    items: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// Over `items` ranks, at least 1. Takes some 20 ns for each.
    pub(super) fn new(items: u64) -> Self {
        let mut zipfian = Self { items: 0, zeta: 0.0, eta: 0.0 };
        zipfian.grow(items.max(1));
        zipfian
    }

    fn with_zeta(items: u64, zeta: f64) -> Self {
        Self { items, zeta, eta: eta(items, zeta) }
    }

    /// Goes on over `items` ranks, if these are more than before.
    pub(super) fn grow(&mut self, items: u64) {
        if items > self.items {
            self.zeta += (self.items..items).map(weight).sum::<f64>();
            *self = Self::with_zeta(items, self.zeta);
        }
    }

    pub(super) fn rank(&self, random: &mut Random) -> u64 {
        let u = random.fraction();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + weight(1) {
            return 1.min(self.items - 1);
        }
        #[expect(clippy::cast_precision_loss, reason = "ranks are below 2^53")]
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and below the number of items but for rounding"
        )]
        let rank = rank as u64;
        rank.min(self.items - 1)
    }
}

/// The weight of a rank.
#[expect(clippy::cast_precision_loss, reason = "ranks are below 2^53")]
fn weight(rank: u64) -> f64 {
    ((rank + 1) as f64).powf(-THETA)
}

#[expect(clippy::cast_precision_loss, reason = "ranks are below 2^53")]
fn eta(items: u64, zeta: f64) -> f64 {
    (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - (1.0 + weight(1)) / zeta)
}

/// YCSB's `ScrambledZipfianGenerator`: a zipfian rank of 10^10, hashed onto the items, so that the
/// popular ones lie apart from each other. Ranks that meet at one item add up.
#[derive(Clone, Debug)]
pub(super) struct ScrambledZipfian(Zipfian);

impl ScrambledZipfian {
    pub(super) fn new() -> Self {
        Self(Zipfian::with_zeta(SCRAMBLED_ITEMS, SCRAMBLED_ZETA))
    }

    /// One of `items`, which is not 0.
    pub(super) fn item(&self, random: &mut Random, items: u64) -> u64 {
        fnv_hash(self.0.rank(random)) % items
    }
}

/// `Utils.fnvhash64` of YCSB.
fn fnv_hash(value: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in value.to_le_bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    hash.cast_signed().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 1_000_000;

    fn is_near(found: u32, probability: f64, percent: f64) {
        let expected = probability * f64::from(DRAWS);
        let off = (f64::from(found) - expected).abs() / expected * 100.0;
        assert!(off < percent, "{found} of {DRAWS}, where {expected:.0} are expected: {off:.1} %");
    }

    /// How many of the draws have a rank below each of `limits`.
    fn below(zipfian: &Zipfian, limits: &[u64]) -> Vec<u32> {
        let mut random = Random::new(7, 0);
        let mut counts = vec![0; limits.len()];
        for _ in 0..DRAWS {
            let rank = zipfian.rank(&mut random);
            counts.iter_mut().zip(limits).for_each(|(count, &limit)| *count += u32::from(rank < limit));
        }
        counts
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    fn ranks_are_as_frequent_as_the_formula_says() {
        const ITEMS: u64 = 100_000;
        let zipfian = Zipfian::new(ITEMS);
        let limits = [1, 2, 10, 100, 1000, 10_000, ITEMS];
        let weight = |rank: u64| 1.0 / ((rank + 1) as f64).powf(0.99);
        let zeta: f64 = (0..ITEMS).map(weight).sum();
        for (found, &limit) in below(&zipfian, &limits).into_iter().zip(&limits) {
            // The method is exact for two ranks; the next ones it draws some 5 % too often.
            let percent = if limit <= 2 { 1.0 } else { 7.0 };
            is_near(found, (0..limit).map(weight).sum::<f64>() / zeta, percent);
        }
    }

    #[test]
    fn a_grown_one_is_like_one_that_was_as_large_from_the_start() {
        let mut grown = Zipfian::new(1);
        [2, 10, 9, 5000].into_iter().for_each(|items| grown.grow(items));
        let whole = Zipfian::new(5000);
        assert!((grown.zeta - whole.zeta).abs() < 1e-9 && (grown.eta - whole.eta).abs() < 1e-9);
        let mut random = Random::new(1, 0);
        assert!((0..1000).all(|_| Zipfian::new(1).rank(&mut random) == 0));
    }

    #[test]
    fn scrambled_ranks_keep_their_frequency_and_lie_apart() {
        const ITEMS: u64 = 1000;
        let zipfian = ScrambledZipfian::new();
        let mut random = Random::new(3, 0);
        let mut counts = vec![0u32; 1000];
        for _ in 0..DRAWS {
            counts[usize::try_from(zipfian.item(&mut random, ITEMS)).expect("small")] += 1;
        }
        let hottest = usize::try_from(fnv_hash(0) % ITEMS).expect("small");
        // What of the other ranks meets at one of a thousand items is small, and known.
        let rest = (1.0 - 1.0 / SCRAMBLED_ZETA) / 1000.0;
        is_near(counts[hottest], 1.0 / SCRAMBLED_ZETA + rest, 5.0);
        assert!(counts.iter().all(|&count| count > 0), "every item is drawn");
        let mut order: Vec<usize> = (0..1000).collect();
        order.sort_by_key(|&item| std::cmp::Reverse(counts[item]));
        let neighbours = order[..50].windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count();
        assert!(neighbours < 5, "the popular ones are scattered: {:?}", &order[..50]);
    }

    #[test]
    fn the_hash_is_that_of_ycsb() {
        // Offset basis and prime of FNV-1 with 64 bits, computed by hand for eight zero bytes.
        let expected = (0..8).fold(0xcbf2_9ce4_8422_2325_u64, |hash, _| hash.wrapping_mul(0x100_0000_01b3));
        assert_eq!(fnv_hash(0), expected.cast_signed().unsigned_abs());
    }

    #[test]
    fn streams_are_repeated_by_their_seed_and_unlike_each_other() {
        let draw = |seed, stream| {
            let mut random = Random::new(seed, stream);
            (0..8).map(|_| random.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
        assert_ne!(draw(1, 0), draw(2, 0));
        assert_ne!(draw(0, 1), draw(1, 0));
    }
}
