//! Promises that the page store breaks on purpose, so that its tests prove that they would notice.

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum PagesDefect {
    /// A segment is opened again before the superblock that frees it is durable.
    ReuseEarly,
    /// A segment is trimmed when the checkpoint that frees it is written, not when it is durable.
    TrimEarly,
    /// A page goes into a bundle without the pages that have to be durable with it.
    PartnerLater,
    /// A bundle is named in a batch of the log that ends before its newest write.
    PagesBeforeLog,
    /// A page that cleaning moved counts even if it was written again in between.
    MovedWins,
}
