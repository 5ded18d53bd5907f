//! What a caller asks of a queue pair, and what it gets back.

use std::ptr::NonNull;

use crate::error::Error;

/// A piece of memory of a command: contiguous, in a region that the device reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    ptr: NonNull<u8>,
    len: usize,
}

impl Segment {
    /// The `len` bytes from `ptr`.
    ///
    /// # Safety
    ///
    /// They are valid for reads and writes, and nothing else writes them (or, if a device is to
    /// write them, reads them), until the command that they are given to is reported as done.
    pub unsafe fn new(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len }
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "an empty segment is as good as any")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its address in this process.
    pub fn address(&self) -> usize {
        self.ptr.addr().get()
    }
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads into the memory.
    Read,
    /// Writes the memory; `durable` writes survive a power failure once they complete (FUA).
    Write {
        /// Whether it is to be on the medium when it completes.
        durable: bool,
    },
    /// Makes every write that completed before it durable.
    Flush,
    /// Says that blocks hold nothing of use (Dataset Management, deallocate).
    Trim,
    /// Makes blocks read as zeros.
    WriteZeroes,
    /// Writes the memory if the blocks are as `expected` (fused compare and write).
    CompareAndWrite,
}

impl Operation {
    /// Its name in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write { .. } => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
            Self::WriteZeroes => "write zeroes",
            Self::CompareAndWrite => "compare and write",
        }
    }

    /// Whether it changes the namespace or what is durable of it.
    pub(super) fn changes(self) -> bool {
        self != Self::Read
    }
}

/// A command: whole blocks, no more than the controller's largest transfer.
#[derive(Clone, Copy, Debug)]
pub struct Transfer<'a> {
    /// What to do.
    pub operation: Operation,
    /// Where in the namespace, in bytes.
    pub offset: u64,
    /// How much of it, in bytes; 0 for a flush.
    pub len: u64,
    /// The memory, of `len` bytes; none for a flush, a trim and zeroes.
    pub memory: &'a [Segment],
    /// What a compare-and-write expects to find, of `len` bytes.
    pub expected: &'a [Segment],
}

/// Why a command was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// No place in the queue now; some after the next completions.
    Full,
    /// The memory is in too odd pieces for this controller, or it does not reach it: copy it into
    /// one piece of the core's arena.
    Odd,
    /// It will not be taken at all.
    Failed(Error),
}

/// What a queue pair is attached to: one namespace in one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What it is called in errors.
    pub name: String,
    /// The namespace's number (NSID).
    pub namespace: u32,
    /// Its block size as a power of two.
    pub block_shift: u32,
    /// Whether the controller has fused compare and write.
    pub fused: bool,
    /// The controller's page size as a power of two.
    pub page_shift: u32,
    /// The alignment of SGL pieces in bytes (1 or 4), where the controller has SGLs.
    pub sgl_alignment: Option<u32>,
}

/// What is to become of a command that was in flight when its controller stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sent again when the queue pair resumes.
    Replay,
    /// It fails, and its error says that it may have taken effect.
    Fail,
}

/// What to do with a command when a controller was reset. `announced` says whether the controller
/// was told about it at all, `healthy` that the host wanted the reset and the controller had not
/// failed.
///
/// - What was never announced did not happen: it is replayed.
/// - A read changes nothing: it is replayed.
/// - A flush is replayed after a healthy reset, which keeps the controller's cache. A controller
///   that failed may have lost the cache, and a second flush would call lost writes durable: it
///   fails.
/// - A write, trim or compare-and-write may have taken effect, and a write to the same blocks that
///   came after it would be undone if its caller has given it up: it fails. A caller that knows
///   that somebody still waits for a write may replay it.
pub fn default_fate(operation: Operation, announced: bool, healthy: bool) -> Fate {
    match operation {
        _ if !announced => Fate::Replay,
        Operation::Read => Fate::Replay,
        Operation::Flush if healthy => Fate::Replay,
        _ => Fate::Fail,
    }
}

/// What a queue pair counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Commands that were taken.
    pub submitted: u64,
    /// Commands that were reported as done.
    pub completed: u64,
    /// Writes of the submission queue's doorbell.
    pub tail_doorbells: u64,
    /// Writes of the completion queue's doorbell.
    pub head_doorbells: u64,
    /// Commands that were tried again after a transient status.
    pub retries: u64,
    /// Commands that were sent again after a reset.
    pub replays: u64,
    /// Completions for no command in flight: unknown, duplicate or too late.
    pub strays: u64,
    /// Completions that said the controller read entries which there are not.
    pub wrong_heads: u64,
}
