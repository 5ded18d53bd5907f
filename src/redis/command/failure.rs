//! Why commands fail, and the texts of their errors.

use std::borrow::Cow;

use super::super::number::parse_i64;
use super::table::Command;
use crate::{Error, ErrorKind};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The text of the error reply.
    Reply(Cow<'static, [u8]>),
    /// The store could not do it.
    Store(Error),
}

impl Failure {
    pub(super) const SYNTAX: Self = Self::text("ERR syntax error");
    pub(super) const NOT_AN_INTEGER: Self = Self::text("ERR value is not an integer or out of range");
    pub(super) const NOT_A_FLOAT: Self = Self::text("ERR value is not a valid float");
    pub(super) const TOO_LONG: Self =
        Self::text("ERR string exceeds maximum allowed size (proto-max-bulk-len)");

    pub(super) const fn text(text: &'static str) -> Self {
        Self::Reply(Cow::Borrowed(text.as_bytes()))
    }

    /// An error reply that quotes what the client sent between two texts.
    pub(super) fn quoting(before: &str, quoted: &[u8], after: &str) -> Self {
        Self::Reply(Cow::Owned([before.as_bytes(), as_c_string(quoted), after.as_bytes()].concat()))
    }

    pub(super) fn wrong_arity(command: &Command) -> Self {
        let name = command.full_name;
        Self::Reply(Cow::Owned(format!("ERR wrong number of arguments for '{name}' command").into_bytes()))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

/// The text of the reply to a command that failed for `error`.
pub(in super::super) fn describe_store_error(error: &Error) -> Vec<u8> {
    let code = match error.kind() {
        // What clients know as "writes are refused, reads and deletions go on".
        ErrorKind::NoSpace => "OOM",
        // What clients know as "the server cannot write to its disk".
        ErrorKind::Os
        | ErrorKind::PermissionDenied
        | ErrorKind::OutOfMemory
        | ErrorKind::Closed
        | ErrorKind::TimedOut => "MISCONF",
        _ => "ERR",
    };
    format!("{code} {error}").into_bytes()
}

/// How a command ended.
pub(super) type CommandResult = Result<(), Failure>;

/// What C prints of `bytes` with `%s`, which is how Redis quotes arguments.
pub(super) fn as_c_string(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

pub(super) fn integer(argument: &[u8]) -> Result<i64, Failure> {
    parse_i64(argument).ok_or(Failure::NOT_AN_INTEGER)
}
