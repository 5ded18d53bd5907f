//! Promises that the log breaks on purpose, so that its tests prove that they would notice.

/// A promise to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum WalDefect {
    /// Numbers count as published as soon as they are drawn.
    CutTooLate,
    /// The horizon does not look at the snapshots.
    HorizonIgnored,
    /// Batches count as flushed when they are written.
    SkipFlush,
    /// Batches count as durable when they are formed.
    AckBeforeWrite,
    /// Replay takes batches after a hole in the log.
    IgnoreChain,
}
