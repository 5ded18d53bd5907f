//! What a queue pair is attached to, what becomes of its commands in a reset, and what it counted.

use super::super::queue::CommandKind;

/// What a queue pair is attached to: one namespace in one format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    /// What it is called in errors.
    pub(super) name: String,
    /// The namespace's number (NSID).
    pub(super) namespace: u32,
    /// Its block size as a power of two.
    pub(super) block_shift: u32,
    /// Whether the controller has fused compare and write.
    pub(super) fused: bool,
    /// The controller's page size as a power of two.
    pub(super) page_shift: u32,
    /// The alignment of SGL pieces in bytes (1 or 4), where the controller has SGLs.
    pub(super) sgl_alignment: Option<u32>,
}

/// What is to become of a command that was in flight when its controller stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
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
pub(super) fn default_fate(kind: CommandKind, announced: bool, healthy: bool) -> Fate {
    match kind {
        _ if !announced => Fate::Replay,
        CommandKind::Read => Fate::Replay,
        CommandKind::Flush if healthy => Fate::Replay,
        _ => Fate::Fail,
    }
}

/// What a queue pair counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct QueueCounts {
    /// Commands that were taken.
    pub(super) submitted: u64,
    /// Commands that were reported as done.
    pub(super) completed: u64,
    /// Writes of the submission queue's doorbell.
    pub(super) tail_doorbells: u64,
    /// Writes of the completion queue's doorbell.
    pub(super) head_doorbells: u64,
    /// Commands that were tried again after a transient status.
    pub(super) retries: u64,
    /// Commands that were sent again after a reset.
    pub(super) replays: u64,
    /// Completions for no command in flight: unknown, duplicate or too late.
    pub(super) strays: u64,
    /// Completions that said the controller read entries which there are not.
    pub(super) wrong_heads: u64,
}
