//! Rules that the flusher breaks on purpose, so that its tests prove that they would notice.

/// A broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum FlushDefect {
    /// 1: a page goes without the new page that its split names.
    NoPartner,
    /// 2: a parent goes without the children whose epochs it states.
    ParentAhead,
    /// 3: a page goes that the durable tree does not reach, or two epochs ahead.
    ChildTwoAhead,
    /// 4: the id of a removed page is free with the next bundle, whatever is in that.
    RemovalAlone,
    /// 4: the log forgets what emptied a page when that is removed.
    LogForgets,
    /// 5: a page goes before the parent that gave it a larger range.
    RangeBeforeOwner,
    /// A bundle is sealed without a look at what happened while it was put together.
    NoSecondDrain,
    /// A page that was written to after its capture counts as clean when the bundle is durable.
    CleanByMistake,
}
