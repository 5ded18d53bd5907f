//! Natural numbers of any size: just what conversion between decimal and binary needs.

use std::cmp::Ordering;

/// A natural number.
#[derive(Clone, Debug)]
pub(super) struct Natural {
    /// Least significant first; the last one is not zero.
    limbs: Vec<u32>,
}

impl From<u128> for Natural {
    fn from(value: u128) -> Self {
        let mut limbs: Vec<u32> = (0..4).map(|index| low(value >> (32 * index))).collect();
        trim(&mut limbs);
        Self { limbs }
    }
}

/// The low 32 bits.
fn low(value: u128) -> u32 {
    u32::try_from(value & u128::from(u32::MAX)).unwrap_or(0)
}

fn trim(limbs: &mut Vec<u32>) {
    while limbs.last() == Some(&0) {
        limbs.pop();
    }
}

impl Natural {
    /// The number that `digits` (ASCII decimal digits) write.
    pub(super) fn from_decimal(digits: &[u8]) -> Self {
        let mut value = Self { limbs: Vec::new() };
        for chunk in digits.chunks(9) {
            let power = 10u32.pow(u32::try_from(chunk.len()).unwrap_or(0));
            let chunk = chunk.iter().fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
            value.multiply_add(power, chunk);
        }
        value
    }

    /// Multiplies by `10^power`.
    pub(super) fn multiply_by_power_of_ten(&mut self, mut power: u32) {
        while power > 0 {
            let step = power.min(9);
            self.multiply_add(10u32.pow(step), 0);
            power -= step;
        }
    }

    /// Multiplies by `2^bits`.
    pub(super) fn shift_left(&mut self, bits: u32) {
        if self.limbs.is_empty() {
            return;
        }
        self.multiply_add(1 << (bits % 32), 0);
        let limbs = usize::try_from(bits / 32).unwrap_or(0);
        self.limbs.splice(0..0, std::iter::repeat_n(0, limbs));
    }

    /// The number of bits: 0 for zero.
    fn bits(&self) -> u32 {
        let Some(top) = self.limbs.last() else { return 0 };
        32 * u32::try_from(self.limbs.len()).unwrap_or(u32::MAX) - top.leading_zeros()
    }

    /// The up to 128 most significant bits, by how many bits they are shifted to the right, and
    /// whether any of the bits shifted out is set.
    pub(super) fn top_bits(&self) -> (u128, u32, bool) {
        let (rest, top) = self.limbs.split_at(self.limbs.len().saturating_sub(4));
        let value = top.iter().rev().fold(0, |value, &limb| (value << 32) | u128::from(limb));
        let shift = 32 * u32::try_from(rest.len()).unwrap_or(u32::MAX);
        (value, shift, rest.iter().any(|&limb| limb != 0))
    }

    /// `self / divisor` to at least 66 significant bits: the quotient, the exponent of two it is to
    /// be multiplied by, and whether there is a remainder. Neither number may be zero.
    pub(super) fn divide(mut self, mut divisor: Self) -> (u128, i32, bool) {
        const QUOTIENT_BITS: u32 = 68;
        // Make the quotient of the shifted numbers lie in [1/2, 2): it then has 67 or 68 bits
        // below.
        let shift = i32::try_from(divisor.bits()).unwrap_or(0) - i32::try_from(self.bits()).unwrap_or(0);
        match u32::try_from(shift) {
            Ok(shift) => self.shift_left(shift),
            Err(_) => divisor.shift_left(shift.unsigned_abs()),
        }
        let mut quotient = 0u128;
        for _ in 0..QUOTIENT_BITS {
            quotient <<= 1;
            if self.compare(&divisor) != Ordering::Less {
                self.subtract(&divisor);
                quotient |= 1;
            }
            self.shift_left(1);
        }
        (quotient, -shift - 67, !self.limbs.is_empty())
    }

    /// Appends the number in decimal.
    pub(super) fn push_decimal(mut self, out: &mut Vec<u8>) {
        let start = out.len();
        loop {
            let mut rest = self.divide_by_small(1_000_000_000);
            let last = self.limbs.is_empty();
            for _ in 0..9 {
                out.push(b'0' + u8::try_from(rest % 10).unwrap_or(0));
                rest /= 10;
                if last && rest == 0 {
                    break;
                }
            }
            if last {
                break;
            }
        }
        out[start..].reverse();
    }

    fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for limb in &mut self.limbs {
            let product = u64::from(*limb) * u64::from(factor) + carry;
            *limb = low(product.into());
            carry = product >> 32;
        }
        if carry != 0 {
            self.limbs.push(low(carry.into()));
        }
    }

    fn divide_by_small(&mut self, divisor: u32) -> u32 {
        let mut rest = 0u64;
        for limb in self.limbs.iter_mut().rev() {
            let dividend = (rest << 32) | u64::from(*limb);
            *limb = low((dividend / u64::from(divisor)).into());
            rest = dividend % u64::from(divisor);
        }
        trim(&mut self.limbs);
        low(rest.into())
    }

    fn compare(&self, other: &Self) -> Ordering {
        let by_len = self.limbs.len().cmp(&other.limbs.len());
        by_len.then_with(|| self.limbs.iter().rev().cmp(other.limbs.iter().rev()))
    }

    /// Subtracts `other`, which must not be larger.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        for (index, limb) in self.limbs.iter_mut().enumerate() {
            let (value, first) = limb.overflowing_sub(other.limbs.get(index).copied().unwrap_or(0));
            let (value, second) = value.overflowing_sub(u32::from(borrow));
            *limb = value;
            borrow = first || second;
        }
        trim(&mut self.limbs);
    }
}
