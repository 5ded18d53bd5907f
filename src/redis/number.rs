//! Integers as the protocol and the commands write them.

/// The longest decimal form of an `i64`, in bytes: a sign and 19 digits.
const MAX_DECIMAL_BYTES: usize = 20;

/// Parses a signed 64-bit integer exactly as Redis accepts one: decimal digits with an optional
/// `-`, and only the form that Redis itself would print (no `+`, no leading zeros, no blanks, no
/// `-0`).
pub(super) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let magnitude = match digits {
        [b'0'] if !negative => 0,
        [b'1'..=b'9', ..] if text.len() <= MAX_DECIMAL_BYTES => parse_digits(digits)?,
        _ => return None,
    };
    if negative { 0i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() }
}

/// Parses decimal digits alone; `None` if one is not a digit, there is none, or the value does not
/// fit.
pub(super) fn parse_digits(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// Appends the decimal form of `value` without allocating anything but `out` itself.
pub(super) fn push_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_u64(out, value.unsigned_abs());
}

/// Appends the decimal form of `value` without allocating anything but `out` itself.
pub(super) fn push_u64(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; MAX_DECIMAL_BYTES];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b"0123456789"[usize::try_from(value % 10).unwrap_or(0)];
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// How many bytes [`push_u64`] appends.
pub(super) fn decimal_len(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| usize::try_from(log).unwrap_or(0) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_an_integer() {
        for (text, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-7", Some(-7)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("18446744073709551616", None),
            ("99999999999999999999999", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("00", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1a", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn printing_is_the_inverse_of_parsing() {
        for value in [0, 1, -1, 9, 10, 99, 100, 12345, i64::MAX, i64::MIN] {
            let mut text = Vec::new();
            push_i64(&mut text, value);
            assert_eq!(text, value.to_string().as_bytes());
            assert_eq!(parse_i64(&text), Some(value));
            assert_eq!(decimal_len(value.unsigned_abs()), value.unsigned_abs().to_string().len());
        }
    }
}
