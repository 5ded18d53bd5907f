//! Inline commands: a line of words, for a person at a terminal.

use super::{ArgumentSpan, ProtocolError};

/// Splits `line` into words and appends their bytes to `unquoted` and their places in it to
/// `words`.
///
/// White space separates words. Inside double quotes, `\n \r \t \b \a`, `\xHH` and `\` with any
/// other byte are escapes; inside single quotes only `\'` is. A closing quote must end its word.
pub(super) fn split(
    line: &[u8],
    unquoted: &mut Vec<u8>,
    words: &mut Vec<ArgumentSpan>,
) -> Result<(), ProtocolError> {
    let mut rest = skip_blanks(line);
    while !rest.is_empty() {
        let start = unquoted.len();
        rest = skip_blanks(word(rest, unquoted)?);
        words.push(ArgumentSpan { start, end: unquoted.len() });
    }
    Ok(())
}

/// Appends the word at the start of `rest` to `unquoted` and returns what follows it.
fn word<'a>(mut rest: &'a [u8], unquoted: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match *rest {
            [] => return Ok(rest),
            [blank, ..] if ends_a_word(blank) => return Ok(rest),
            [b'"', ref quoted @ ..] => return double_quoted(quoted, unquoted),
            [b'\'', ref quoted @ ..] => return single_quoted(quoted, unquoted),
            [byte, ref tail @ ..] => {
                unquoted.push(byte);
                rest = tail;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], unquoted: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, tail) = match *rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', ref tail @ ..] => return behind_quote(tail),
            [b'\\', b'x', high, low, ref tail @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex_value(high) * 16 + hex_value(low), tail)
            }
            [b'\\', escaped, ref tail @ ..] => (unescape(escaped), tail),
            [byte, ref tail @ ..] => (byte, tail),
        };
        unquoted.push(byte);
        rest = tail;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], unquoted: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, tail) = match *rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\\', b'\'', ref tail @ ..] => (b'\'', tail),
            [b'\'', ref tail @ ..] => return behind_quote(tail),
            [byte, ref tail @ ..] => (byte, tail),
        };
        unquoted.push(byte);
        rest = tail;
    }
}

fn behind_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(&byte) if !is_blank(byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn unescape(escaped: u8) -> u8 {
    match escaped {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

/// What may stand between words: C's `isspace`, which includes vertical tab and form feed.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// What ends an unquoted word: unlike between words, a vertical tab or a form feed does not.
fn ends_a_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

fn skip_blanks(line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|&&byte| is_blank(byte)).count();
    &line[blanks..]
}
