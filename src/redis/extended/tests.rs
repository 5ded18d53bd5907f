use super::*;

fn add(a: &str, b: &str) -> Option<String> {
    let sum = Extended::parse(a.as_bytes())?.checked_add(Extended::parse(b.as_bytes())?)?;
    let mut text = Vec::new();
    sum.push_decimal(&mut text);
    Some(String::from_utf8(text).expect("digits are ASCII"))
}

#[test]
fn sums_are_those_of_redis() {
    // Every sum was taken from redis-server 7.0.15 on x86-64 (SET k a, INCRBYFLOAT k b).
    for (a, b, expected) in [
        ("0", "0", "0"),
        ("0.1", "0.2", "0.3"),
        ("10.50", "0.1", "10.6"),
        ("5.0e3", "2.0e2", "5200"),
        ("3", "1.1", "4.1"),
        ("1", "-1", "0"),
        ("-0", "0", "0"),
        ("1e-30", "-2e-30", "0"),
        ("0.00000000000000001", "0", "0.00000000000000001"),
        ("17179869184", "1.5", "17179869185.5"),
        ("1e18", "0.5", "1000000000000000000.5"),
        ("1e19", "0.5", "10000000000000000000"),
        ("1e20", "1", "100000000000000000000"),
        ("18446744073709551615", "1", "18446744073709551616"),
        ("18446744073709551617", "0", "18446744073709551616"),
        ("18446744073709551619", "0", "18446744073709551620"),
        ("18446744073709551620", "-1", "18446744073709551620"),
        ("18446744073709551618", "-1", "18446744073709551616"),
        // A little below the middle between two numbers: one plus 2^-63 is subtracted.
        (
            "18446744073709551620",
            "-1.000000000000000000108420217248550443400745280086994171142578125",
            "18446744073709551618",
        ),
        ("0x10", "0x1p-1", "16.5"),
        ("3.141592653589793238462643383279", "0", "3.14159265358979324"),
    ] {
        assert_eq!(add(a, b).as_deref(), Some(expected), "{a} + {b}");
    }
}

#[test]
fn the_largest_number_prints_all_its_digits() {
    let text = add("1e4932", "0").expect("a finite number");
    assert_eq!(text.len(), 4933);
    assert!(text.starts_with("1000000000000000000"), "{text}");
    assert_eq!(add("1e4932", "1e4932"), None);
}

#[test]
fn only_whole_numbers_are_parsed() {
    let digits = "1".repeat(MAX_TEXT_BYTES + 1);
    for text in [
        "",
        " 1",
        "1 ",
        "+",
        "-",
        ".",
        "e5",
        "1e",
        "1e+",
        "1x",
        "0x",
        "0x1p",
        "nan",
        "NaN",
        "1e4933",
        "1e-4960",
        "--1",
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "1.2.3",
        "1\0",
        "infinit",
        &digits,
    ] {
        assert_eq!(Extended::parse(text.as_bytes()), None, "{text:?}");
    }
    for text in [
        "1",
        "+1",
        "-1",
        ".5",
        "5.",
        "1e5",
        "1E-5",
        "1e+5",
        "0x1F",
        "0X.8p1",
        "inf",
        "-INF",
        "Infinity",
        "0e99999999999999999999",
        "1e-4940",
        &digits[..100],
    ] {
        assert!(Extended::parse(text.as_bytes()).is_some(), "{text:?}");
    }
}

#[test]
fn infinities_are_no_sums() {
    assert_eq!(add("inf", "1"), None);
    assert_eq!(add("inf", "-inf"), None);
}

/// Parsing rounds correctly: the text of an `f64` with all its digits is that number, and 64 bits
/// hold it exactly.
#[test]
fn doubles_are_exact() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for _ in 0..2_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = f64::from_bits(state & !(1 << 63));
        if !value.is_normal() {
            continue;
        }
        let bits = value.to_bits();
        let exponent = i32::try_from(bits >> 52).expect("11 bits") - 1075;
        let significand = ((bits & ((1 << 52) - 1)) | (1 << 52)) << 11;
        let expected = Extended {
            negative: false,
            magnitude: Magnitude::Finite { significand, exponent: exponent - 11 },
        };
        assert_eq!(Extended::parse(format!("{value:e}").as_bytes()).map(shorten), Some(shorten(expected)));
        assert_eq!(Extended::parse(format!("{value:.1100}").as_bytes()), Some(expected), "{value:e}");
    }
}

/// The nearest number of 53 bits: the shortest text of an `f64` gives that number and no other.
fn shorten(value: Extended) -> (u64, i32) {
    let Magnitude::Finite { significand, exponent } = value.magnitude else { return (0, 0) };
    let rounded = round_shift(significand.into(), 11, false);
    let carry = i32::from(rounded >> 53 != 0);
    (u64::try_from(rounded >> carry).expect("53 bits"), exponent + 11 + carry)
}
