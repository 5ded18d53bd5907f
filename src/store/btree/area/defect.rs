//! Defects of the area's protocol, put in on purpose: models and tests have to notice each.

/// A way to break the protocol. Models switch one on; nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Defect {
    /// A consolidation takes what is live and leaves reserved slots as they are.
    LeaveReserved,
    /// A writer publishes with a store, over an abort.
    PublishByStore,
    /// A writer draws its number without looking at earlier slots of its key.
    DrawWithoutOrder,
    /// A read-modify-write takes the next free slot, whatever came in since it read.
    IgnoreNewerSlots,
    /// A freeze does not keep writers from taking slots.
    LeaveUnsealed,
    /// Only the writer of the first slot puts the page on a list of dirty pages.
    ListFirstOnly,
    /// Readers take a committed intent for the newest version, whatever lies below the area.
    #[cfg(all(test, loom))]
    TrustIntents,
}
