//! The text that `boson store dump` writes and `boson store load` reads: that of Berkeley DB's
//! `db_dump` and LMDB's `mdb_dump`, whose loaders read it too.
//!
//! A header of `name=value` lines for each tree, then a key and a value in turn, each on a line of
//! its own behind a space, in hexadecimal (`bytevalue`) or, which is read only, as characters with
//! `\` and two digits for all that are not printable (`print`).

use std::mem;

use boson::store::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

const END_OF_HEADER: &str = "HEADER=END";
pub(super) const END_OF_DATA: &str = "DATA=END";
/// The longest line: that of the longest value.
pub(super) const MAX_LINE_BYTES: usize = 2 * MAX_VALUE_BYTES + 2;

/// Appends the header of a tree.
pub(super) fn write_header(out: &mut Vec<u8>, tree: &str) {
    out.extend_from_slice(b"VERSION=3\nformat=bytevalue\ndatabase=");
    for byte in tree.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            // The rest of a character in UTF-8 stays as it is.
            b' '..=b'~' | 0x80.. => out.push(byte),
            _ => {
                out.push(b'\\');
                push_hex(out, byte);
            }
        }
    }
    out.extend_from_slice(format!("\ntype=btree\n{END_OF_HEADER}\n").as_bytes());
}

/// Appends a key and its value.
pub(super) fn write_pair(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.reserve(2 * (key.len() + value.len()) + 4);
    for bytes in [key, value] {
        out.push(b' ');
        bytes.iter().for_each(|byte| push_hex(out, *byte));
        out.push(b'\n');
    }
}

/// Appends the end of a tree.
pub(super) fn write_end(out: &mut Vec<u8>) {
    out.extend_from_slice(END_OF_DATA.as_bytes());
    out.push(b'\n');
}

fn push_hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// What a line completes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// The keys of this tree follow.
    Tree(String),
    Pair(Vec<u8>, Vec<u8>),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    #[default]
    ByteValue,
    Print,
}

#[derive(Debug, Default)]
struct Header {
    format: Format,
    tree: Option<String>,
    /// Whether there was a line of it.
    is_begun: bool,
}

#[derive(Debug)]
enum State {
    Header(Header),
    Data(Format, Option<Vec<u8>>),
}

/// Reads a dump, line by line.
#[derive(Debug)]
pub(super) struct Parser {
    /// The name of a tree whose header has none.
    default_tree: Option<String>,
    state: State,
    trees: usize,
}

impl Parser {
    pub(super) fn new(default_tree: Option<String>) -> Self {
        Self { default_tree, state: State::Header(Header::default()), trees: 0 }
    }

    /// Takes a line, without its end.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<Option<Item>, String> {
        match mem::replace(&mut self.state, State::Header(Header::default())) {
            State::Header(header) => self.header(header, line),
            State::Data(format, key) => self.data(format, key, line),
        }
    }

    /// Whether a dump may end here.
    ///
    /// # Errors
    ///
    /// What is missing.
    pub(super) fn end(&self) -> Result<(), String> {
        match &self.state {
            State::Header(header) if !header.is_begun && self.trees > 0 => Ok(()),
            State::Header(header) if !header.is_begun => Err("it is empty".to_owned()),
            State::Header(_) => Err(format!("it ends in a header, before {END_OF_HEADER}")),
            State::Data(..) => Err(format!("it ends before {END_OF_DATA}, so some of it is missing")),
        }
    }

    fn header(&mut self, mut header: Header, line: &[u8]) -> Result<Option<Item>, String> {
        let text = str::from_utf8(line).map_err(|_| "a line of the header is no text".to_owned())?;
        if text == END_OF_HEADER {
            let tree = header.tree.or_else(|| self.default_tree.clone());
            let tree = tree.ok_or("the header names no database: say with --tree which tree it is for")?;
            self.state = State::Data(header.format, None);
            self.trees += 1;
            return Ok(Some(Item::Tree(tree)));
        }
        let Some((name, value)) = text.split_once('=') else {
            return Err(format!("`{}` is no line of a header", shown(line)));
        };
        match (name, value) {
            ("VERSION", "2" | "3") => {}
            ("VERSION", _) => return Err(format!("version {value} of the format is not known, 2 and 3 are")),
            ("format", "bytevalue") => header.format = Format::ByteValue,
            ("format", "print") => header.format = Format::Print,
            ("format", _) => return Err(format!("the format {value} is not known, bytevalue and print are")),
            ("type", "btree" | "hash") => {}
            ("type", _) => return Err(format!("a database of type {value} has no keys of bytes")),
            ("duplicates" | "dupsort", "1") => {
                return Err("its keys may have several values, and a key of a tree has one".to_owned());
            }
            ("database", _) => {
                let name = unescape(value.as_bytes())?;
                header.tree = Some(String::from_utf8(name).map_err(|_| "the name is no UTF-8".to_owned())?);
            }
            // How another program lays out its file.
            _ => {}
        }
        header.is_begun = true;
        self.state = State::Header(header);
        Ok(None)
    }

    fn data(&mut self, format: Format, key: Option<Vec<u8>>, line: &[u8]) -> Result<Option<Item>, String> {
        if line == END_OF_DATA.as_bytes() {
            return if key.is_none() { Ok(None) } else { Err("the last key has no value".to_owned()) };
        }
        let Some(line) = line.strip_prefix(b" ") else {
            return Err(format!("`{}` does not begin with a space, as keys and values do", shown(line)));
        };
        let bytes = match format {
            Format::ByteValue => from_hex(line)?,
            Format::Print => unescape(line)?,
        };
        let (what, most) = if key.is_none() { ("key", MAX_KEY_BYTES) } else { ("value", MAX_VALUE_BYTES) };
        if bytes.len() > most {
            return Err(format!("a {what} of {} bytes: a store takes {most} at most", bytes.len()));
        }
        let (key, item) = match key {
            None => (Some(bytes), None),
            Some(key) => (None, Some(Item::Pair(key, bytes))),
        };
        self.state = State::Data(format, key);
        Ok(item)
    }
}

/// The beginning of a line, for an error.
fn shown(line: &[u8]) -> String {
    const SHOWN: usize = 40;
    let end = if line.len() > SHOWN { "…" } else { "" };
    format!("{}{end}", line[..line.len().min(SHOWN)].escape_ascii())
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn from_hex(line: &[u8]) -> Result<Vec<u8>, String> {
    let (pairs, []) = line.as_chunks::<2>() else { return Err("half a byte at the end".to_owned()) };
    let byte = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let bytes = pairs.iter().map(byte).collect::<Option<_>>();
    bytes.ok_or_else(|| format!("`{}` is not hexadecimal", shown(line)))
}

fn unescape(line: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&first, behind)) = rest.split_first() {
        let (byte, left) = match (first, behind) {
            (b'\\', [b'\\', left @ ..]) => (b'\\', left),
            (b'\\', [high, low, left @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, left),
                _ => return Err(format!("`{}` is no escaped byte", shown(&rest[..3]))),
            },
            (b'\\', _) => return Err("a `\\` at the end".to_owned()),
            _ => (first, behind),
        };
        bytes.push(byte);
        rest = left;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Item>, String> {
        let mut parser = Parser::new(None);
        let mut items = Vec::new();
        for line in text.lines() {
            items.extend(parser.line(line.as_bytes())?);
        }
        parser.end().map(|()| items)
    }

    #[test]
    fn what_was_written_is_read() {
        let mut text = Vec::new();
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let names = ["plain", "with spaces and = signs", "two\nlines \\ and \u{7f}", "größe", ""];
        for name in names {
            write_header(&mut text, name);
            write_pair(&mut text, &all, b"");
            write_pair(&mut text, b"", &all);
            write_end(&mut text);
        }
        let text = String::from_utf8(text).expect("names are UTF-8, and all else is ASCII");
        let expected = names.into_iter().flat_map(|name| {
            [Item::Tree(name.to_owned()), Item::Pair(all.clone(), vec![]), Item::Pair(vec![], all.clone())]
        });
        assert_eq!(parse(&text), Ok(expected.collect()));
    }

    #[test]
    fn what_others_write_is_read() {
        let text = "VERSION=3\nformat=print\ndatabase=t\ntype=btree\nmapsize=1048576\nmaxreaders=126\n\
                    db_pagesize=4096\nHEADER=END\n a\\00\\\\b\n \\ffz\nDATA=END\n";
        let expected = vec![Item::Tree("t".to_owned()), Item::Pair(b"a\0\\b".to_vec(), b"\xffz".to_vec())];
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let header = "VERSION=3\nformat=bytevalue\ndatabase=t\ntype=btree\nHEADER=END\n";
        for (text, what) in [
            (String::new(), "empty"),
            ("VERSION=4\n".to_owned(), "version 4"),
            ("format=json\n".to_owned(), "json"),
            ("type=recno\n".to_owned(), "recno"),
            ("duplicates=1\n".to_owned(), "several values"),
            ("no header\n".to_owned(), "no header"),
            ("VERSION=3\n".to_owned(), "before HEADER=END"),
            ("VERSION=3\nHEADER=END\n".to_owned(), "--tree"),
            (header.to_owned(), "before DATA=END"),
            (format!("{header} 61\n 62\n"), "before DATA=END"),
            (format!("{header} 61\nDATA=END\n"), "no value"),
            (format!("{header}61\n"), "space"),
            (format!("{header} 6\n"), "half a byte"),
            (format!("{header} 6g\n"), "hexadecimal"),
            (format!("{header} {}\n", "61".repeat(MAX_KEY_BYTES + 1)), "4097 bytes"),
            (header.replace("bytevalue", "print") + " a\\6\n", "at the end"),
            (header.replace("bytevalue", "print") + " a\\6xb\n", "escaped"),
        ] {
            let error = parse(&text).expect_err(&text);
            assert!(error.contains(what), "{text:?}: {error}");
        }
    }
}
