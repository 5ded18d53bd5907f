//! Conversions, bits, and the seeded sequences that the workloads draw from.

/// A count as an id. No simulation here has 2^32 of anything.
pub(crate) fn id(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than 2^32 of everything")
}

/// The whole part of a positive number of bytes or records.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and far below 2^52")]
pub(crate) fn whole(x: f64) -> u64 {
    x as u64
}

/// `bytes` rounded up to granules of 64.
pub(crate) fn granules(bytes: u64) -> u64 {
    bytes.div_ceil(64) * 64
}

/// One bit per key.
#[derive(Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn new(count: u32) -> Self {
        Self(vec![0; count as usize / 64 + 1])
    }

    pub(crate) fn get(&self, index: u32) -> bool {
        self.0[index as usize / 64] >> (index % 64) & 1 == 1
    }

    /// Sets a bit; whether it was clear.
    pub(crate) fn set(&mut self, index: u32) -> bool {
        let word = &mut self.0[index as usize / 64];
        let was_clear = *word >> (index % 64) & 1 == 0;
        *word |= 1 << (index % 64);
        was_clear
    }

    /// Clears `low..high`.
    pub(crate) fn clear(&mut self, low: u32, high: u32) {
        let mut at = low;
        while at < high {
            let end = high.min(at - at % 64 + 64);
            let count = end - at;
            let mask = if count == 64 { u64::MAX } else { ((1 << count) - 1) << (at % 64) };
            self.0[at as usize / 64] &= !mask;
            at = end;
        }
    }

    /// The set bits of `low..high`, ascending.
    pub(crate) fn ones(&self, low: u32, high: u32) -> impl Iterator<Item = u32> {
        let mut at = low;
        std::iter::from_fn(move || {
            while at < high {
                let rest = self.0[at as usize / 64] >> (at % 64);
                if rest == 0 {
                    at = at - at % 64 + 64;
                    continue;
                }
                at += rest.trailing_zeros();
                if at >= high {
                    return None;
                }
                at += 1;
                return Some(at - 1);
            }
            None
        })
    }
}

/// A generator of pseudo-random numbers (splitmix64): the same seed, the same table.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `limit`.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(((self.next() >> 32) * u64::from(limit)) >> 32).expect("below a u32")
    }

    /// In 0..1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// YCSB's scrambled zipfian: ranks by Gray's method, spread over the keys by a hash.
pub(crate) struct Zipf {
    keys: u32,
    theta: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    pub(crate) fn new(keys: u32, theta: f64) -> Self {
        let zeta = (1..=keys).map(|rank| f64::from(rank).powf(-theta)).sum::<f64>();
        let two = 1.0 + 0.5_f64.powf(theta);
        let eta = (1.0 - (2.0 / f64::from(keys)).powf(1.0 - theta)) / (1.0 - two / zeta);
        Self { keys, theta, zeta, eta }
    }

    /// A key, scrambled.
    pub(crate) fn draw(&self, random: &mut Random) -> u32 {
        let rank = u64::from(self.rank(random));
        u32::try_from(mix(rank + 1) % u64::from(self.keys)).expect("below a u32")
    }

    /// A rank: 0 is the most frequent.
    pub(crate) fn rank(&self, random: &mut Random) -> u32 {
        let u = random.unit();
        let scaled = u * self.zeta;
        let rank = if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5_f64.powf(self.theta) {
            1
        } else {
            let at = (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - self.theta));
            whole(f64::from(self.keys) * at)
        };
        u32::try_from(rank.min(u64::from(self.keys) - 1)).expect("below a u32")
    }
}

/// All keys once, in random order.
pub(crate) fn shuffled(keys: u32, random: &mut Random) -> Vec<u32> {
    let mut order: Vec<u32> = (0..keys).collect();
    for index in (1..keys).rev() {
        order.swap(index as usize, random.below(index + 1) as usize);
    }
    order
}
