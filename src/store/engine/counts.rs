//! How often things happened, so that a test notices a workload that tests nothing. Counted by
//! thread, and in builds of tests only.

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Loads,
    Frames,
    Evictions,
    Bundles,
    Groups,
    Checkpoints,
    Splits,
    RootSplits,
    Removals,
    Collapses,
    Packs,
    Drained,
    LogWaits,
    GrowthWaits,
    MemoryWaits,
    Trims,
    /// Large transactions, and changes of others for which there was no memory.
    LargeTransactions,
    LateChanges,
    /// Bundles of pages that cleaning moved.
    Moves,
    /// Changes of shape that the keeper has finished for others.
    Finished,
    /// Long values of which it was said that they cannot be reclaimed.
    ValuesLeft,
    /// Reads of several keys that did not fit memory together.
    CopiedReads,
}

#[cfg(test)]
pub(super) const COUNTS: usize = Count::CopiedReads as usize + 1;

#[cfg(test)]
thread_local! {
    static COUNTED: std::cell::Cell<[u64; COUNTS]> = const { std::cell::Cell::new([0; COUNTS]) };
}

/// It happened once more.
pub(super) fn count(what: Count) {
    #[cfg(test)]
    {
        let mut counted = COUNTED.get();
        counted[what as usize] += 1;
        COUNTED.set(counted);
    }
    #[cfg(not(test))]
    let _ = what;
}

/// All that was counted on this thread.
#[cfg(test)]
pub(super) fn counted() -> [u64; COUNTS] {
    COUNTED.get()
}
