//! Requests: what clients send.
//!
//! A request is an array of bulk strings (`*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`) or an inline command
//! (`GET k\r\n`). The parser is incremental: it is given the bytes that have arrived so far, and
//! remembers where it was when they were not enough, so that the work is proportional to the bytes
//! however they were split. It allocates only for what has arrived, never for what a length
//! announces.

#![cfg_attr(not(fuzzing), expect(unreachable_pub, reason = "the fuzzer has what is public here"))]

mod inline;

use std::fmt;
use std::ops::Index;

use super::number::parse_i64;

/// The longest inline command, and the longest line that announces a count or a length, in bytes.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// The most arguments of one request.
const MAX_ARGUMENTS: usize = 1024 * 1024;

/// The most arguments of one request of a client that must authenticate first.
const MAX_UNAUTHENTICATED_ARGUMENTS: usize = 10;

/// The longest argument of a client that must authenticate first, in bytes.
const MAX_UNAUTHENTICATED_BULK_BYTES: usize = 16 * 1024;

/// How many arguments' places the parser keeps from one request to the next.
const KEPT_ARGUMENTS: usize = 1024;

/// How many unquoted bytes of inline commands the parser keeps room for.
const KEPT_INLINE_BYTES: usize = 1024;

/// What the parser accepts.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// The longest argument, in bytes (`proto-max-bulk-len`).
    pub bulk_bytes: usize,
    /// The client must authenticate before it may send large requests.
    pub auth_required: bool,
}

/// Why the bytes are no request. `Display` gives the text that Redis replies with; the connection
/// then ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number after `*` is no integer or too large.
    InvalidMultibulkLength,
    /// The line after `*` does not end.
    TooBigMultibulkCount,
    /// More arguments than a client may send before it authenticates.
    UnauthenticatedMultibulkLength,
    /// An argument does not start with `$` but with this byte.
    ExpectedDollar(u8),
    /// The number after `$` is no integer, negative or too large.
    InvalidBulkLength,
    /// The line after `$` does not end.
    TooBigBulkCount,
    /// A longer argument than a client may send before it authenticates.
    UnauthenticatedBulkLength,
    /// An inline command does not end.
    TooBigInline,
    /// An inline command has a quote without its partner.
    UnbalancedQuotes,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::InvalidMultibulkLength => f.write_str("invalid multibulk length"),
            Self::TooBigMultibulkCount => f.write_str("too big mbulk count string"),
            Self::UnauthenticatedMultibulkLength => f.write_str("unauthenticated multibulk length"),
            Self::ExpectedDollar(byte) => write!(f, "expected '$', got '{}'", char::from(*byte)),
            Self::InvalidBulkLength => f.write_str("invalid bulk length"),
            Self::TooBigBulkCount => f.write_str("too big bulk count string"),
            Self::UnauthenticatedBulkLength => f.write_str("unauthenticated bulk length"),
            Self::TooBigInline => f.write_str("too big inline request"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// What [`RequestParser::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseProgress {
    /// The request is not complete. It has at least `wanted_bytes` bytes in all, more than have
    /// arrived.
    Incomplete {
        /// A lower bound of the request's length in bytes, as announced: not to be allocated up
        /// front.
        wanted_bytes: usize,
    },
    /// A request is complete: [`RequestParser::request`] gives it. It may have no argument (an
    /// empty line, `*0`): such a request gets no reply.
    Complete,
}

/// Where an argument lies.
#[derive(Clone, Copy, Debug)]
struct ArgumentSpan {
    start: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug, Default)]
enum ParseState {
    /// At the first byte of a request.
    #[default]
    Start,
    /// Inside an inline command.
    Inline,
    /// Inside the line that gives the number of arguments.
    Count,
    /// Inside the line that gives an argument's length.
    Length { arguments_left: usize },
    /// Inside an argument of `len` bytes.
    Bulk { arguments_left: usize, len: usize },
    /// Behind a request.
    Complete { inline: bool },
}

/// The incremental parser of one connection.
#[derive(Debug, Default)]
pub struct RequestParser {
    state: ParseState,
    /// Everything before is understood.
    position: usize,
    /// No line ends between `position` and here.
    scanned: usize,
    arguments: Vec<ArgumentSpan>,
    /// The arguments of an inline command, without their quotes.
    unquoted: Vec<u8>,
}

impl RequestParser {
    /// A parser at the start of a request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Parses `input`, which begins with the first byte of the current request: what it began with
    /// in the previous call (if that was incomplete), and whatever has arrived since.
    ///
    /// # Errors
    ///
    /// The bytes break the protocol; the connection is of no further use.
    pub fn parse(&mut self, input: &[u8], limits: &RequestLimits) -> Result<ParseProgress, ProtocolError> {
        loop {
            match self.state {
                ParseState::Start => match input.first() {
                    None => return Ok(ParseProgress::Incomplete { wanted_bytes: 1 }),
                    Some(b'*') => self.state = ParseState::Count,
                    Some(_) => self.state = ParseState::Inline,
                },
                ParseState::Inline => {
                    let Some(end) = self.find(input, b'\n', ProtocolError::TooBigInline)? else {
                        return Ok(ParseProgress::Incomplete { wanted_bytes: input.len() + 1 });
                    };
                    let line = &input[..end];
                    let line = line.strip_suffix(b"\r").unwrap_or(line);
                    inline::split(line, &mut self.unquoted, &mut self.arguments)?;
                    self.go_on_at(end + 1);
                    self.state = ParseState::Complete { inline: true };
                }
                ParseState::Count => {
                    let Some(end) = self.find_line_end(input, ProtocolError::TooBigMultibulkCount)? else {
                        return Ok(ParseProgress::Incomplete { wanted_bytes: input.len() + 1 });
                    };
                    let count = parse_i64(&input[1..end]).ok_or(ProtocolError::InvalidMultibulkLength)?;
                    // A negative count is an empty request, as zero is.
                    let count = usize::try_from(count).unwrap_or(0);
                    if count > MAX_ARGUMENTS {
                        return Err(ProtocolError::InvalidMultibulkLength);
                    }
                    if limits.auth_required && count > MAX_UNAUTHENTICATED_ARGUMENTS {
                        return Err(ProtocolError::UnauthenticatedMultibulkLength);
                    }
                    self.go_on_at(end + 2);
                    self.state = ParseState::Length { arguments_left: count };
                }
                ParseState::Length { arguments_left: 0 } => {
                    self.state = ParseState::Complete { inline: false }
                }
                ParseState::Length { arguments_left } => {
                    let Some(end) = self.find_line_end(input, ProtocolError::TooBigBulkCount)? else {
                        return Ok(ParseProgress::Incomplete { wanted_bytes: input.len() + 1 });
                    };
                    let line = &input[self.position..end];
                    let len = match line.split_first() {
                        Some((b'$', digits)) => parse_i64(digits).and_then(|len| usize::try_from(len).ok()),
                        Some((&other, _)) => return Err(ProtocolError::ExpectedDollar(other)),
                        None => return Err(ProtocolError::ExpectedDollar(b'\r')),
                    };
                    let len = len
                        .filter(|&len| len <= limits.bulk_bytes)
                        .ok_or(ProtocolError::InvalidBulkLength)?;
                    if limits.auth_required && len > MAX_UNAUTHENTICATED_BULK_BYTES {
                        return Err(ProtocolError::UnauthenticatedBulkLength);
                    }
                    self.go_on_at(end + 2);
                    self.state = ParseState::Bulk { arguments_left, len };
                }
                ParseState::Bulk { arguments_left, len } => {
                    let end = self.position + len;
                    if input.len() < end + 2 {
                        return Ok(ParseProgress::Incomplete { wanted_bytes: end + 2 });
                    }
                    self.arguments.push(ArgumentSpan { start: self.position, end });
                    // As in Redis, the two bytes behind an argument are skipped, whatever they are.
                    self.go_on_at(end + 2);
                    self.state = ParseState::Length { arguments_left: arguments_left - 1 };
                }
                ParseState::Complete { .. } => return Ok(ParseProgress::Complete),
            }
        }
    }

    /// The request that [`RequestParser::parse`] found complete in `input`.
    pub fn request<'a>(&'a self, input: &'a [u8]) -> Request<'a> {
        let bytes =
            if matches!(self.state, ParseState::Complete { inline: true }) { &self.unquoted } else { input };
        Request { bytes, arguments: &self.arguments }
    }

    /// How many bytes of the input the complete request took.
    pub fn consumed(&self) -> usize {
        self.position
    }

    /// Goes to the start of the next request, and releases what an unusually large one needed.
    pub fn reset(&mut self) {
        self.state = ParseState::Start;
        self.go_on_at(0);
        self.arguments.clear();
        self.arguments.shrink_to(KEPT_ARGUMENTS);
        self.unquoted.clear();
        self.unquoted.shrink_to(KEPT_INLINE_BYTES);
    }

    fn go_on_at(&mut self, position: usize) {
        self.position = position;
        self.scanned = position;
    }

    /// The position of the next `byte`, looking only at what no earlier call looked at; `too_long`
    /// if the line up to there is longer than [`MAX_LINE_BYTES`].
    fn find(
        &mut self,
        input: &[u8],
        byte: u8,
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let unseen = input.get(self.scanned..).unwrap_or_default();
        let found = unseen.iter().position(|&other| other == byte).map(|offset| self.scanned + offset);
        self.scanned = found.unwrap_or(input.len());
        if self.scanned - self.position > MAX_LINE_BYTES {
            return Err(too_long);
        }
        Ok(found)
    }

    /// The position of the next `\r`, once the byte behind it (which is skipped unseen, as in
    /// Redis) is there as well.
    fn find_line_end(
        &mut self,
        input: &[u8],
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        Ok(self.find(input, b'\r', too_long)?.filter(|end| end + 1 < input.len()))
    }
}

/// A complete request: the command's name and its arguments, borrowed from the bytes that arrived.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    bytes: &'a [u8],
    arguments: &'a [ArgumentSpan],
}

impl<'a> Request<'a> {
    /// How many arguments there are, the command's name included.
    pub(super) fn len(&self) -> usize {
        self.arguments.len()
    }

    /// The argument `index`; 0 is the command's name.
    pub(super) fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.arguments.get(index).map(|span| &self.bytes[span.start..span.end])
    }

    /// The arguments from `first` on.
    pub fn iter_from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let bytes = self.bytes;
        self.arguments[first.min(self.arguments.len())..].iter().map(|span| &bytes[span.start..span.end])
    }

    /// The request that the arguments from `first` on are themselves (COMMAND GETKEYS).
    pub(super) fn tail(&self, first: usize) -> Request<'a> {
        Request { bytes: self.bytes, arguments: &self.arguments[first.min(self.arguments.len())..] }
    }
}

impl Index<usize> for Request<'_> {
    type Output = [u8];

    /// Panics if there are not that many arguments: commands index only what their arity promises.
    fn index(&self, index: usize) -> &[u8] {
        let span = self.arguments[index];
        &self.bytes[span.start..span.end]
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter_from(0).map(|argument| argument.escape_ascii().to_string())).finish()
    }
}

#[cfg(test)]
mod tests;
