//! Extended-precision floating point, in which INCRBYFLOAT computes.
//!
//! Redis adds C `long double`s, which on its usual platforms are the x87's 80-bit numbers: 64 bits
//! of significand and 15 of exponent. `f64` gives other last digits, so this module computes with
//! the same numbers: parsing as `strtold`, adding with rounding to nearest and ties to even (IEEE
//! 754), and printing as `%.17Lf` without trailing zeros. The results are those of Redis on x86-64,
//! digit for digit; where `long double` is wider (arm64), Redis itself differs.

mod natural;

use natural::Natural;

use super::number::{parse_digits, push_u64};

/// The longest text that is parsed, in bytes; Redis has the same limit.
pub(super) const MAX_TEXT_BYTES: usize = 5 * 1024 - 1;

/// The exponent of the least bit of the smallest numbers.
const MIN_EXPONENT: i32 = -16445;
/// The exponent of the least bit of the largest numbers.
const MAX_EXPONENT: i32 = 16383 - 63;
/// Decimal places that are printed.
const DECIMAL_PLACES: u32 = 17;
/// No number with a larger decimal exponent is finite.
const MAX_DECIMAL_EXPONENT: i64 = 4940;
/// Every number with a smaller decimal exponent rounds to zero.
const MIN_DECIMAL_EXPONENT: i64 = -4960;

/// A number of x87 extended precision: `significand * 2^exponent`, or an infinity. Never NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extended {
    negative: bool,
    magnitude: Magnitude,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Magnitude {
    /// The significand's top bit is set, unless the exponent is [`MIN_EXPONENT`].
    Finite {
        significand: u64,
        exponent: i32,
    },
    Infinite,
}

impl Extended {
    /// Zero.
    pub(super) const ZERO: Self =
        Self { negative: false, magnitude: Magnitude::Finite { significand: 0, exponent: MIN_EXPONENT } };

    /// Parses what C's `strtold` accepts as a whole, without blanks in front: decimal and
    /// hexadecimal numbers with an optional exponent, and infinities. `None` for everything else,
    /// NaN, a number too large or too close to zero to be represented, and a text longer than
    /// [`MAX_TEXT_BYTES`].
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] => (false, digits),
            digits => (false, digits),
        };
        if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            return Some(Self { negative, magnitude: Magnitude::Infinite });
        }
        let magnitude = match digits {
            [b'0', b'x' | b'X', hex @ ..] => parse_hexadecimal(hex),
            decimal => parse_decimal(decimal),
        }?;
        Some(Self { negative, magnitude })
    }

    /// The rounded sum; `None` if it is infinite or undefined.
    pub(super) fn checked_add(self, other: Self) -> Option<Self> {
        let (
            Magnitude::Finite { significand: a, exponent: a_exponent },
            Magnitude::Finite { significand: b, exponent: b_exponent },
        ) = (self.magnitude, other.magnitude)
        else {
            return None;
        };
        let (large, small, large_negative, small_negative) = if a_exponent >= b_exponent {
            ((a, a_exponent), (b, b_exponent), self.negative, other.negative)
        } else {
            ((b, b_exponent), (a, a_exponent), other.negative, self.negative)
        };
        // 62 guard bits: the sum still fits, and whatever of the smaller number lies below them is
        // only sticky.
        const GUARD_BITS: u32 = 62;
        let distance = large.1.abs_diff(small.1);
        let wide_large = u128::from(large.0) << GUARD_BITS;
        let wide_small = u128::from(small.0) << GUARD_BITS;
        let (wide_small, sticky) = if distance < u128::BITS {
            (wide_small >> distance, wide_small & ((1 << distance) - 1) != 0)
        } else {
            (0, wide_small != 0)
        };
        let (negative, sum) = if large_negative == small_negative {
            (large_negative, wide_large + wide_small)
        } else if wide_large >= wide_small {
            // With sticky bits the true difference is a little below: one less, and a little above
            // that.
            (large_negative, wide_large - wide_small - u128::from(sticky))
        } else {
            (small_negative, wide_small - wide_large)
        };
        match round(sum, large.1 - 62, sticky) {
            Magnitude::Infinite => None,
            finite => Some(Self { negative, magnitude: finite }),
        }
    }

    /// Appends the number with at most 17 decimal places, rounded to nearest (ties to even),
    /// without trailing zeros and without an exponent; an infinity as `inf`.
    pub(super) fn push_decimal(self, out: &mut Vec<u8>) {
        let (significand, exponent) = match self.magnitude {
            Magnitude::Finite { significand, exponent } => (significand, exponent),
            Magnitude::Infinite => {
                out.extend_from_slice(if self.negative { b"-inf" } else { b"inf" });
                return;
            }
        };
        if let Ok(shift) = u32::try_from(exponent) {
            if self.negative {
                out.push(b'-');
            }
            let mut integer = Natural::from(u128::from(significand));
            integer.shift_left(shift);
            integer.push_decimal(out);
            return;
        }
        let (integer, fraction) = split_decimal(significand, exponent.unsigned_abs());
        if self.negative && (integer, fraction) != (0, 0) {
            out.push(b'-');
        }
        push_u64(out, integer);
        if fraction != 0 {
            // One more in front keeps the fraction's leading zeros; the point takes its place.
            let point = out.len();
            push_u64(out, ONE_IN_PLACES + fraction);
            out[point] = b'.';
            while out.last() == Some(&b'0') {
                out.pop();
            }
        }
    }
}

/// One, in units of the last decimal place.
const ONE_IN_PLACES: u64 = 10u64.pow(DECIMAL_PLACES);

/// `significand / 2^shift` as an integer and a fraction in units of the last decimal place.
fn split_decimal(significand: u64, shift: u32) -> (u64, u64) {
    // Below 2^-124 even the largest significand times 10^17 is less than half a unit.
    if shift > 124 {
        return (0, 0);
    }
    let wide = u128::from(significand);
    let integer = u64::try_from(wide >> shift).unwrap_or(0);
    let scaled = (wide & ((1 << shift) - 1)) * u128::from(ONE_IN_PLACES);
    let fraction = u64::try_from(round_shift(scaled, shift, false)).unwrap_or(0);
    if fraction == ONE_IN_PLACES { (integer + 1, 0) } else { (integer, fraction) }
}

/// `value / 2^shift` rounded to nearest, ties to even; `sticky` if the true value is a little more
/// than `value`.
fn round_shift(value: u128, shift: u32, sticky: bool) -> u128 {
    if shift == 0 {
        return value;
    }
    if shift > u128::BITS {
        return 0;
    }
    let quotient = value.checked_shr(shift).unwrap_or(0);
    let half = 1u128 << (shift - 1);
    let rest = value & (half | (half - 1));
    let up = rest > half || (rest == half && (sticky || quotient % 2 == 1));
    quotient + u128::from(up)
}

/// The representable number nearest to `value * 2^exponent`; `sticky` if the true value is a little
/// more.
fn round(value: u128, exponent: i32, sticky: bool) -> Magnitude {
    let bits = u128::BITS - value.leading_zeros();
    if bits == 0 {
        return Extended::ZERO.magnitude;
    }
    let surplus = i32::try_from(bits).unwrap_or(0) - 64;
    let shift = surplus.max(MIN_EXPONENT - exponent);
    let mut exponent = exponent + shift;
    let mut significand = match u32::try_from(shift) {
        Ok(right) => round_shift(value, right, sticky),
        Err(_) => value << shift.unsigned_abs(),
    };
    if significand >> 64 != 0 {
        significand >>= 1;
        exponent += 1;
    }
    if exponent > MAX_EXPONENT {
        return Magnitude::Infinite;
    }
    Magnitude::Finite { significand: u64::try_from(significand).unwrap_or(u64::MAX), exponent }
}

/// Refuses what `strtold` reports as out of range.
fn in_range(magnitude: Magnitude) -> Option<Magnitude> {
    match magnitude {
        Magnitude::Infinite | Magnitude::Finite { significand: 0, .. } => None,
        representable => Some(representable),
    }
}

/// The parts of a number's text: the digits without the point, how many stand behind it, and the
/// exponent.
struct Literal {
    digits: Vec<u8>,
    places: i64,
    exponent: i64,
}

/// Splits `digits[.digits][marker[sign]digits]`.
fn split_literal(text: &[u8], is_digit: fn(&u8) -> bool, marker: u8) -> Option<Literal> {
    let at = text.iter().position(|byte| byte.eq_ignore_ascii_case(&marker));
    let (number, exponent) = match at {
        Some(at) => (&text[..at], parse_exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let point = number.iter().position(|&byte| byte == b'.');
    let (whole, fraction) = point.map_or((number, &[][..]), |point| (&number[..point], &number[point + 1..]));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = [whole, fraction].concat();
    digits.iter().all(is_digit).then(|| Literal {
        digits,
        places: i64::try_from(fraction.len()).unwrap_or(i64::MAX),
        exponent,
    })
}

/// An exponent's value; one that is beyond all range saturates far outside it.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    const FAR: u64 = 1 << 40;
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = i64::try_from(parse_digits(digits).unwrap_or(FAR).min(FAR)).unwrap_or(0);
    Some(if negative { -value } else { value })
}

fn parse_decimal(text: &[u8]) -> Option<Magnitude> {
    let literal = split_literal(text, u8::is_ascii_digit, b'e')?;
    let leading_zeros = literal.digits.iter().take_while(|&&digit| digit == b'0').count();
    let significant = &literal.digits[leading_zeros..];
    if significant.is_empty() {
        return Some(Extended::ZERO.magnitude);
    }
    let exponent = literal.exponent - literal.places;
    let decimal_exponent = exponent + i64::try_from(significant.len()).unwrap_or(i64::MAX) - 1;
    if !(MIN_DECIMAL_EXPONENT..=MAX_DECIMAL_EXPONENT).contains(&decimal_exponent) {
        return None;
    }
    let mut numerator = Natural::from_decimal(significant);
    // In range by the check above: the text has at most 5,119 digits.
    let power = u32::try_from(exponent.unsigned_abs()).ok()?;
    if exponent >= 0 {
        numerator.multiply_by_power_of_ten(power);
        let (top, shift, sticky) = numerator.top_bits();
        return in_range(round(top, i32::try_from(shift).ok()?, sticky));
    }
    let mut denominator = Natural::from(1);
    denominator.multiply_by_power_of_ten(power);
    let (quotient, exponent, sticky) = numerator.divide(denominator);
    in_range(round(quotient, exponent, sticky))
}

fn parse_hexadecimal(text: &[u8]) -> Option<Magnitude> {
    let literal = split_literal(text, u8::is_ascii_hexdigit, b'p')?;
    let mut value = 0u128;
    let mut sticky = false;
    let mut exponent = literal.exponent - 4 * literal.places;
    for &digit in &literal.digits {
        let digit = char::from(digit).to_digit(16)?;
        if value >> (u128::BITS - 4) == 0 {
            value = (value << 4) | u128::from(digit);
        } else {
            sticky |= digit != 0;
            exponent += 4;
        }
    }
    if value == 0 {
        return Some(Extended::ZERO.magnitude);
    }
    // Far outside the range either way; keeps the sums below from overflowing.
    let exponent = i32::try_from(exponent.clamp(-100_000, 100_000)).ok()?;
    in_range(round(value, exponent, sticky))
}

#[cfg(test)]
mod tests;
