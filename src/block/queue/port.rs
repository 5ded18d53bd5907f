//! What a device with queues of its own is to the rest: something that takes commands by number.

use std::borrow::Cow;
use std::ptr::NonNull;

use crate::error::{Error, ErrorKind, Outcome};
use crate::rt::poller::Park;
use crate::time::Instant;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandKind {
    /// Fills the command's memory.
    Read,
    /// Writes the command's memory; if `durable`, it is done when the bytes are (forced unit
    /// access).
    Write { durable: bool },
    /// Makes what was written durable.
    Flush,
    /// Deallocates a range.
    Trim,
    /// Makes a range zeros.
    WriteZeroes,
    /// Writes the command's memory if what is there equals `expected`.
    CompareAndWrite,
}

impl CommandKind {
    /// The operation's name in errors.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write { .. } => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::WriteZeroes => "write zeroes",
            Self::CompareAndWrite => "compare and write",
        }
    }

    /// Whether it leaves the device as it is.
    pub(crate) const fn only_reads(self) -> bool {
        matches!(self, Self::Read)
    }
}

/// A piece of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) ptr: NonNull<u8>,
    pub(crate) len: usize,
}

/// One command, as a device takes it: whole blocks inside the namespace, no more than its largest
/// transfer, across no boundary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command<'a> {
    pub(crate) kind: CommandKind,
    /// In bytes.
    pub(crate) offset: u64,
    /// In bytes.
    pub(crate) len: u64,
    /// The memory to fill or to write: `len` bytes in all, or nothing.
    pub(crate) memory: &'a [Segment],
    /// What a compare-and-write expects: `len` bytes in all.
    #[allow(dead_code, reason = "of a port that has no such command nobody reads it")]
    pub(crate) expected: &'a [Segment],
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    /// The `errno` code, if there is one.
    pub(crate) code: Option<i32>,
    /// A sentence: the device's status in words.
    pub(crate) detail: Cow<'static, str>,
    /// Whether it may have had an effect, where the device says; a read has none.
    pub(crate) outcome: Outcome,
    /// The device asks to send it again.
    pub(crate) retry: bool,
    /// A compare-and-write found something else. Then nothing was written.
    pub(crate) miscompare: bool,
}

impl Failure {
    /// A failure of which nothing else is known.
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            code: None,
            detail: detail.into(),
            outcome: Outcome::Unknown,
            retry: false,
            miscompare: false,
        }
    }

    /// That of a flush after the controller failed, which may have cost it its cache.
    #[cold]
    pub(crate) fn writes_may_be_lost() -> Self {
        Self::new(
            ErrorKind::Os,
            "the controller failed and was reset since the last flush: what was written before may be lost",
        )
    }

    /// The failure that `error` tells of.
    pub(crate) fn of(error: &Error) -> Self {
        let detail = error.detail().map_or_else(|| error.to_string(), str::to_owned);
        Self { code: error.code(), outcome: error.outcome(), ..Self::new(error.kind(), detail) }
    }

    /// As an error of `kind` at `offset` of the namespace `name`.
    pub(super) fn into_error(self, kind: CommandKind, name: &str, offset: u64) -> Error {
        let error = match self.code {
            Some(code) => Error::os(code, kind.name()),
            None => Error::new(self.kind, kind.name()),
        };
        let place = match kind {
            CommandKind::Flush => name.to_owned(),
            _ => format!("{name} offset {offset}"),
        };
        let outcome = if kind.only_reads() { Outcome::NotStarted } else { self.outcome };
        error.at(place).because(self.detail).outcome_is(outcome)
    }
}

/// Why a command was not taken.
#[derive(Clone, Debug)]
pub(crate) enum Refused {
    /// There is no room now: after a completion there may be.
    Full,
    /// The device cannot reach this memory, or take it in these pieces: it is copied, and the
    /// command comes again.
    Copy,
    /// It cannot be done.
    Failed(Failure),
}

/// A queue pair, or something like it, of one core.
///
/// Commands are numbered by slots, from 0 to less than [`Port::slots`]. A slot is in use from a
/// [`Port::submit`] that succeeded until [`Port::poll`] says that it is done.
///
/// # Safety
///
/// A device works on the memory of a command only between its `submit` and the moment at which
/// `poll` says, once, that its slot is done. [`Port::poll`] names no slot that is not in use. If
/// [`Port::shut_down`] returns true, the device works on no memory any more.
pub(crate) unsafe trait Port: 'static {
    /// The name of the poller, for statistics.
    const NAME: &'static str;

    /// How many commands there can be at once.
    fn slots(&self) -> u16;

    /// Whether the device can reach `memory` and take it in these pieces. Otherwise it is copied. A
    /// port that finds out only while it queues a command says [`Refused::Copy`] there.
    fn accepts(&self, _memory: &[Segment]) -> bool {
        true
    }

    /// Queues a command. The device need not see it before [`Port::kick`].
    ///
    /// # Errors
    ///
    /// Then the device never sees the command. A read or write that is refused leaves the port as
    /// it was: it may come again at once.
    ///
    /// # Safety
    ///
    /// `slot` is not in use, and less than [`Port::slots`]. Whatever memory the command has stays
    /// valid, and is used by nobody else, until the slot is done.
    unsafe fn submit(&mut self, slot: u16, command: &Command<'_>) -> Result<(), Refused>;

    /// Shows the device what was queued since the last call.
    fn kick(&mut self);

    /// Calls `done` for each command that is done, at most `budget` times, with its slot and
    /// result. Returns how many events it handled.
    fn poll(&mut self, now: Instant, budget: usize, done: impl FnMut(u16, Result<(), Box<Failure>>))
    -> usize;

    /// What the core may do while nothing happens and `in_use` slots are in use. As
    /// [`Poller::park`](crate::rt::poller::Poller::park).
    fn park(&mut self, in_use: usize) -> Park;

    /// When to poll even if nothing arrives.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// The namespace's size now, in bytes, if the device said that it changed.
    fn resized(&mut self) -> Option<u64> {
        None
    }

    /// Stops the device's work on this queue, for ever, within a bounded time. Returns whether it
    /// is certain that the device works on no memory any more.
    fn shut_down(&mut self) -> bool;
}
