//! Making room in memory: clean pages are evicted, and what is dirty is wanted by those who wait.

use std::time::Duration;

use super::core_store::CoreStore;
use super::counts::{Count, count};
use crate::block::Namespace;
use crate::error::{Outcome, Result};
use crate::rt::yield_now;
use crate::store::btree::Eviction;
use crate::store::cache::hand::{Attempt, Look, Resident, Sweep};
use crate::store::env::Env;
use crate::store::pace::either;
use crate::store::word::PageId;

/// How many bytes a core evicts at once for those that wait.
const EVICTED_AT_ONCE: u64 = 128 << 10;
/// Who waits for memory looks again after this time: others free some without a word.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Evicts some pages that are clean, and says which of those that it came by are `dirty`. False
    /// if there were none to evict.
    pub(super) fn evict_now(&self, dirty: impl FnMut(PageId)) -> bool {
        let stepped = self.hand.step(&InMemory { store: self }, EVICTED_AT_ONCE, dirty);
        self.core.collect();
        stepped.bytes > 0
    }

    /// Makes room in memory for the nodes of what is about to be written, if there is little: a
    /// page becomes clean by a node of its own, and without one it would be written again and
    /// again. Those who wait for memory evict as well, but there may be nobody who waits.
    pub(super) async fn free_memory(&self) {
        /// A round over a large map takes more: what is missing then is found the next time.
        const MOST_STEPS: u32 = 64;
        let (memory, nodes) = (&self.shared.memory, &self.shared.nodes);
        for _ in 0..MOST_STEPS {
            if memory.pressure_bytes(nodes.retired_bytes()) == 0 {
                break;
            }
            _ = self.evict_now(|_| {});
            yield_now().await;
        }
        if memory.pressure_bytes(0) > 0 {
            // What was retired is free three steps later.
            (0..3).for_each(|_| self.core.collect());
        }
    }

    /// Waits until there may be room for a node: evicts what is clean, and has what is dirty
    /// written. The keeper does the latter, and so never comes here itself.
    ///
    /// # Errors
    ///
    /// The store has failed, or nothing can be written ([`CoreStore::check_moves`]).
    pub(super) async fn wait_for_memory(&self) -> Result<()> {
        count(Count::MemoryWaits);
        let moment = self.shared.progress.now();
        let mut dirty = Vec::new();
        if self.evict_now(|page| dirty.push(page)) {
            // It is free when others have looked away, and may not be enough: they come first.
            yield_now().await;
            return Ok(());
        }
        self.shared.want(dirty);
        self.shared.check_failed("wait for memory", Outcome::NotStarted)?;
        self.check_moves("wait for memory")?;
        self.shared.wait_for_memory_begins();
        self.shared.ask_for_memory();
        self.shared.keeper.set();
        either(self.shared.progress.since(moment), self.env.sleep(LOOK_AGAIN)).await;
        Ok(())
    }
}

/// The pages that a hand goes over.
struct InMemory<'s, E: Env, N: Namespace> {
    store: &'s CoreStore<E, N>,
}

impl<E: Env, N: Namespace> Sweep for InMemory<'_, E, N> {
    const FRAME_PAGES: u64 = crate::store::btree::FRAME_PAGES;

    fn frames(&self) -> u32 {
        u32::try_from(self.store.shared.nodes.map().next_page() / Self::FRAME_PAGES).unwrap_or(u32::MAX)
    }

    fn look(&self, page: PageId) -> Look {
        match self.store.core.pin().resident(page) {
            Ok(Some((touched, level))) => Look::Resident(Resident { touched, level }),
            Ok(None) => Look::Nothing,
            Err(_) => Look::NoFrame,
        }
    }

    fn set_touched(&self, page: PageId, touched: u8) {
        self.store.core.pin().set_touched(page, touched);
    }

    fn has_child_in_memory(&self, page: PageId) -> bool {
        self.store.core.pin().has_child_in_memory(page)
    }

    fn try_evict(&self, page: PageId) -> Attempt {
        if self.store.spared.borrow().contains(&page) {
            return Attempt::Changed;
        }
        match self.store.core.pin().try_evict(page) {
            Eviction::Evicted { bytes } => {
                count(Count::Evictions);
                self.store.shared.meters.evictions.add(1);
                Attempt::Evicted { bytes }
            }
            Eviction::Dirty => Attempt::Dirty,
            Eviction::NotInMemory | Eviction::Busy => Attempt::Changed,
        }
    }
}
