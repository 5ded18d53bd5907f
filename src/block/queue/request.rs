//! What is known of one request.

use std::ptr::NonNull;
use std::task::Waker;

use super::pieces::Pieces;
use super::port::{CommandKind, Failure, Segment};
use crate::mem::DmaBuf;
use crate::time::Instant;

/// What a caller wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) kind: CommandKind,
    /// In bytes.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) len: u64,
    /// A flush follows when everything is written.
    pub(super) then_flush: bool,
}

/// The memory of a request whose future was dropped.
#[expect(dead_code, reason = "what is kept is dropped, and not used otherwise")]
pub(super) enum Kept {
    Nothing,
    One(DmaBuf),
    Two(DmaBuf, DmaBuf),
    Many(Vec<DmaBuf>),
}

/// See the table in [the module](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Free,
    Plain,
    Live,
    Orphaned,
    Done,
    Failed,
}

/// A request. What a plain one needs is in one cache line.
#[repr(align(64))]
pub(super) struct Request {
    pub(super) stage: Stage,
    /// What it counts as.
    pub(super) kind: CommandKind,
    /// In bytes.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) len: u64,
    /// Of a plain one: where its memory is.
    pub(super) memory: NonNull<u8>,
    pub(super) waker: Option<Waker>,
    /// [`Instant::FAR_FUTURE`] until the first turn of the core that sees it.
    pub(super) began: Instant,
    /// Those of the request before it stay, for their memory, until they are made anew.
    parts: Option<Box<Parts>>,
}

const _: () = assert!(size_of::<Request>() == 64, "a cache line");

/// What a request has that is not plain.
pub(super) struct Parts {
    /// What is to be sent: in the end perhaps a flush.
    pub(super) wanted: Wanted,
    /// How many of its bytes were sent.
    pub(super) sent: u64,
    /// There is more to send. It is in line, unless it is being sent at once.
    pub(super) has_more: bool,
    /// Its commands that the device has, or that are to be sent again.
    pub(super) commands: u32,
    /// Commands of it were with the device: whatever a later one says, it may have had an effect.
    pub(super) was_sent: bool,
    pub(super) memory: Pieces,
    pub(super) expected: Pieces,
    pub(super) failure: Option<(Box<Failure>, u64)>,
    pub(super) kept: Kept,
}

impl Request {
    pub(super) const fn free() -> Self {
        Self {
            stage: Stage::Free,
            kind: CommandKind::Flush,
            offset: 0,
            len: 0,
            memory: NonNull::dangling(),
            waker: None,
            began: Instant::FAR_FUTURE,
            parts: None,
        }
    }

    /// What it has that a plain one has not.
    pub(super) fn parts(&mut self) -> &mut Parts {
        self.parts.get_or_insert_with(|| Box::new(Parts::none()))
    }

    /// Drops what nobody wants any more.
    pub(super) fn forget(&mut self) {
        if let Some(parts) = &mut self.parts {
            parts.failure = None;
            parts.kept = Kept::Nothing;
        }
    }

    /// Whether it failed because a compare-and-write found something else.
    pub(super) fn missed(&mut self) -> bool {
        self.parts().failure.as_ref().is_some_and(|(failure, _)| failure.miscompare)
    }

    /// Makes it live, with nothing sent of what is `wanted` and no memory yet.
    pub(super) fn begin_parts(&mut self, wanted: Wanted) -> &mut Parts {
        self.stage = Stage::Live;
        let parts = self.parts();
        parts.wanted = wanted;
        parts.sent = 0;
        parts.has_more = true;
        parts.commands = 0;
        parts.was_sent = false;
        parts.memory.clear();
        parts.expected.clear();
        parts
    }

    /// Makes a plain one, whose one command the device has, a live one.
    pub(super) fn make_live(&mut self) {
        let (kind, offset, len) = (self.kind, self.offset, self.len);
        let piece = Segment { ptr: self.memory, len: usize::try_from(len).unwrap_or(usize::MAX) };
        let parts = self.begin_parts(Wanted { kind, offset, len, then_flush: false });
        parts.memory.push(piece);
        parts.sent = len;
        parts.has_more = false;
        parts.commands = 1;
    }
}

impl Parts {
    const fn none() -> Self {
        Self {
            wanted: Wanted { kind: CommandKind::Flush, offset: 0, len: 0, then_flush: false },
            sent: 0,
            has_more: false,
            commands: 0,
            was_sent: false,
            memory: Pieces::new(),
            expected: Pieces::new(),
            failure: None,
            kept: Kept::Nothing,
        }
    }
}
