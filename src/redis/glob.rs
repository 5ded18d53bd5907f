//! Glob patterns as KEYS, SCAN and CONFIG GET use them.

/// Whether `text` as a whole matches `pattern`, byte by byte.
///
/// `*` stands for any bytes, `?` for one, `[abc]`, `[a-z]` and `[^x]` for one of (not of) a set;
/// `\` takes the next byte literally. A set that is not closed ends with the pattern. As in Redis
/// 7, an empty `text` matches only an empty pattern.
///
/// Takes at most `pattern.len() * text.len()` steps and no recursion: when a byte does not match,
/// only the last `*` is tried with one byte more, because whatever an earlier `*` could take
/// instead, the last one can take as well.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // The pattern after the last `*`, and where in `text` its match was last tried.
    let mut last_star = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            last_star = Some((p, t));
        } else if let Some(next) = pattern.get(p..).and_then(|rest| match_one(rest, text[t])) {
            p += next;
            t += 1;
        } else if let Some((after_star, tried)) = last_star {
            p = after_star;
            t = tried + 1;
            last_star = Some((after_star, t));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// What every text that matches `pattern` begins with: the bytes before the first that is not
/// literal.
pub(super) fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let special = pattern.iter().position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'));
    &pattern[..special.unwrap_or(pattern.len())]
}

/// How many bytes of `pattern` match `byte`: `None` if its first element does not, or if there is
/// none.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ref set @ ..] => {
            let (matched, len) = match_set(set, byte);
            matched.then_some(1 + len)
        }
        [b'\\', literal, ..] => (literal == byte).then_some(2),
        [literal, ..] => (literal == byte).then_some(1),
    }
}

/// Matches what follows a `[`: whether `byte` is in the set, and how long the set is with its `]`.
fn match_set(set: &[u8], byte: u8) -> (bool, usize) {
    let negated = set.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match set[at..] {
            [b'\\', literal, ..] => {
                found |= literal == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [] => break,
            [first, b'-', last, ..] => {
                found |= (first.min(last)..=first.max(last)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
    (found != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        // `tests/redis/parity.rs` compares thousands of random patterns with redis-server; these
        // are the rules by name.
        for (pattern, text, expected) in [
            ("*", "abc", true),
            ("**", "abc", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("*b", "abc", false),
            ("a*c", "abc", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("abc*", "abc", true),
            ("abc**", "abc", true),
            ("abc?", "abc", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("h[a-b]llo", "hcllo", false),
            ("h[a-", "h-", true),
            ("h[a", "ha", true),
            ("h[a", "hb", false),
            ("h[", "h", false),
            ("h[^", "hx", true),
            ("[\\]]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("[]]", "]", false),
            ("", "a", false),
            ("", "", true),
            ("*", "", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "*a".repeat(2_000) + "b";
        let text = "a".repeat(4_000);
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }
}
