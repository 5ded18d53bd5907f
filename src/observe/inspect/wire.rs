//! Lines of the protocol.

use std::borrow::Cow;
use std::fmt::{Display, Write};

/// What the first line of a request and of an answer starts with, without the version.
pub(super) const MAGIC: &str = "boson-inspect/";
/// The version that this code speaks.
pub(super) const VERSION: u32 = 1;

/// The first word of a request and of an answer.
pub(super) fn greeting() -> String {
    format!("{MAGIC}{VERSION}")
}

/// Appends a line of `kind` with `fields` to `text`.
pub(super) fn write_line(text: &mut String, kind: &str, fields: &[(&str, &dyn Display)]) {
    text.push_str(kind);
    let mut value = String::new();
    for (name, shown) in fields {
        value.clear();
        // Writing to a String cannot fail.
        let _ = write!(value, "{shown}");
        text.push(' ');
        text.push_str(name);
        text.push('=');
        escape(text, &value);
    }
    text.push('\n');
}

fn escape(text: &mut String, value: &str) {
    for &byte in value.as_bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

/// The reverse of [`escape`]. What is no escape stands for itself; bytes that are no UTF-8 become
/// U+FFFD.
fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('%') {
        return Cow::Borrowed(value);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// A line as it was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    text: &'a str,
}

impl<'a> Line<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text }
    }

    /// Its first word.
    pub(super) fn kind(self) -> &'a str {
        self.text.split(' ').next().unwrap_or_default()
    }

    /// Its names and values after the first word. Words that are no fields are left out.
    pub(super) fn fields(self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        let fields = self.text.split(' ').skip(1).filter_map(|word| word.split_once('='));
        fields.map(|(name, value)| (name, unescape(value)))
    }

    /// The value of the field `name`.
    pub(super) fn field(self, name: &str) -> Option<Cow<'a, str>> {
        self.fields().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The number in the field `name`.
    pub(super) fn number(self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_value_comes_back(first in any::<String>(), second in any::<String>()) {
            let mut text = String::new();
            write_line(&mut text, "kind", &[("a", &first), ("b", &second)]);
            let body = text.strip_suffix('\n').expect("a line");
            prop_assert!(body.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
            let line = Line::new(body);
            prop_assert_eq!(line.kind(), "kind");
            prop_assert_eq!(line.field("a").unwrap_or_default(), first.as_str());
            prop_assert_eq!(line.field("b").unwrap_or_default(), second.as_str());
        }

        #[test]
        fn whatever_is_received_is_taken_apart(text in any::<String>()) {
            let line = Line::new(&text);
            let _ = (line.kind(), line.fields().count(), line.number("a"));
        }
    }

    #[test]
    fn half_an_escape_stands_for_itself() {
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("%4"), "%4");
        assert_eq!(unescape("%zz%41"), "%zzA");
    }
}
