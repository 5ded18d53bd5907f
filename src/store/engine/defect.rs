//! Promises that the engine breaks on purpose, so that the simulation of crashes proves that it
//! would notice. A test sets them for its thread, on which all of its virtual cores are.

use crate::store::flush::FlushDefect;
use crate::store::pages::PagesDefect;
use crate::store::wal::WalDefect;

/// A promise of the engine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "tests break it"))]
pub(super) enum EngineDefect {
    /// A bundle is named in the log before it is flushed.
    NamedBeforeFlushed,
    /// A bundle is installed before the batch that names it is durable, and a checkpoint that has
    /// it does not wait for the log.
    InstalledBeforeDurable,
    /// The log starts behind all that was written, durable or not.
    LogStartsLate,
    /// The epoch of an opening is not made durable.
    EpochNotWritten,
    /// A checkpoint has numbers of keys as of a moment to which the log is not durable.
    CutNotWaitedFor,
    /// Effects below the number as of which a checkpoint counts keys are counted again.
    EffectsCountedTwice,
    /// A checkpoint counts keys as of the one before, and the log starts where it likes.
    LogStartPassesCut,
    /// Parts of a group count although the last one is not there.
    GroupNeedsNoEnd,
    /// The log is kept for the pages of a group from its last part on.
    GroupHeldFromItsEnd,
    /// A checkpoint whose cut lies in a group does not keep the group's first part.
    GroupNotHeldForCut,
    /// Writers write keys that are pending.
    PendingIgnored,
    /// A long value is written once more whenever another writer of its key was faster.
    ValuesWrittenAgain,
    /// The keeper writes no pages.
    NothingFlushed,
}

/// What is broken, of which part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Defects {
    pub(super) engine: Option<EngineDefect>,
    pub(super) wal: Option<WalDefect>,
    pub(super) pages: Option<PagesDefect>,
    pub(super) flush: Option<FlushDefect>,
}

#[cfg(test)]
thread_local! {
    static DEFECTS: std::cell::Cell<Defects> = const {
        std::cell::Cell::new(Defects { engine: None, wal: None, pages: None, flush: None })
    };
}

impl Defects {
    /// What is broken now: nothing, but in tests.
    pub(super) fn now() -> Self {
        #[cfg(test)]
        return DEFECTS.get();
        #[cfg(not(test))]
        Self::default()
    }

    /// Breaks this, and nothing else, on this thread.
    #[cfg(test)]
    pub(super) fn set(self) {
        DEFECTS.set(self);
    }

    pub(super) fn has(self, defect: EngineDefect) -> bool {
        self.engine == Some(defect)
    }
}
