//! Why the store never stands still, and what happens if it does nevertheless.
//!
//! Writers wait for the keeper: while the log is as long as it may be, while as much as may be has
//! to be durable together, and while there is no memory. So **the keeper needs no writer**, nor
//! anybody else who may wait for it. Whatever holds the log's start is let go by somebody who waits
//! for nothing of these:
//!
//! | what holds the log's start, or memory | until | who sees to that, with what |
//! |---|---|---|
//! | a page that is dirty | a bundle with it is durable | the keeper; segments: `make_room`, of which some are kept (`space`); images are not made in the memory of nodes |
//! | a page of a bundle under way | the batch that names it is durable | the log, which has room for that when writers wait (`log_limit`) |
//! | a page that is removed or moved, and that the page above still has | the step above is done | whoever began it, or the keeper, which [finishes](CoreStore::finish_changes) what others leave before it writes; memory: the reserve |
//! | the same, once no page above has it | its heirs are durable | the keeper: heirs are dirty, and come first |
//! | what the log had at the opening | it is in the tree, or in the log once more | the drain, which leaves what it cannot bring in; it waits for memory, but not for the log |
//! | what a large transaction has changed | it is in the trees | the drain, in the same way |
//! | the parts of a large transaction that are logged | it is decided, or given up | the transaction, which has claimed its length of the log before the first, and waits for nothing but the log's buffer from there on |
//! | lengths as of a cut | the checkpoint after the next | the keeper (`lengths`) |
//! | changed pages that are in nobody's way but memory's | they are clean, and evicted | the keeper: the evicter wants them |
//! | pages whose shape changed, while a visitor is at one of them | the visitor goes on | the keeper lets some writers pass (`growth`) |
//!
//! A writer that waits is at no step: it has drawn no number that it does not publish, and has
//! given back every page that nobody else knows. What it may leave is the third line.
//!
//! No line depends on sizes but by two bounds, which hold for every geometry: what has to be
//! durable together fits a group ([`growth_bytes`](super::streams::Streams::growth_bytes)), and a
//! group, a checkpoint and the log at its longest fit what no write is admitted to fill
//! (`space/account.rs`, `reserve`; who may take how much of it is in `clean.rs`).
//!
//! # If it stands still
//!
//! A page that cannot be read, or a defect, may break this. So the keeper watches: if somebody
//! waits, and nothing has moved for [`PATIENCE`], writers get an error in place of waiting for
//! ever, and so does who waits for memory. As soon as something moves they may wait again.

use std::time::Duration;

use super::core_store::CoreStore;
use super::counts::{Count, count};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::{Instant, yield_now};
use crate::store::btree::{CorePages, Refusal};
use crate::store::cache::Room;
use crate::store::env::Env;
use crate::store::events::Event;
use crate::store::flush::Load;
use crate::store::pace::either;

/// Nothing moves for so long: then nothing will.
const PATIENCE: Duration = Duration::from_secs(5);
/// The keeper waits so long for a page that it needs to finish a change: it may be that who loads
/// it waits for memory.
const LOAD_WITHIN: Duration = Duration::from_millis(100);

/// What is different if something has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Of the log: from where on it has to be kept, and where it starts.
    pub(super) needed_from: u64,
    pub(super) starts_at: u64,
    /// Pages that are to be written.
    pub(super) dirty: u64,
    pub(super) wanted: u64,
    pub(super) used_bytes: u64,
    pub(super) drained: bool,
}

/// Watches whether anything moves while somebody waits.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Option<(Seen, Instant)>,
}

impl Watch {
    /// Whether nothing has moved for too long.
    pub(super) fn stands_still(&mut self, is_waited_for: bool, seen: Seen, now: Instant) -> bool {
        match self.last {
            Some((before, since)) if is_waited_for && before == seen => {
                now.saturating_since(since) >= PATIENCE
            }
            _ => {
                self.last = is_waited_for.then_some((seen, now));
                false
            }
        }
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Finishes the changes of shape that others have begun and could not finish.
    pub(super) async fn finish_changes(&self) {
        /// What is more is for the next time.
        const MOST_STEPS: u32 = 256;
        for _ in 0..MOST_STEPS {
            let is_left = |marked| {
                let pages = CorePages { core: &self.core, homes: &self.durable_pages() };
                let mut take = |all: &mut Vec<Event>| self.shared.take_events(all);
                self.shared.flusher().is_unposted(marked, &pages, &mut take)
            };
            let refusal = match self.core.pin_with(Room::Reserve).finish_undone(is_left) {
                None => return,
                Some(Ok(())) => {
                    count(Count::Finished);
                    continue;
                }
                Some(Err(refusal)) => refusal,
            };
            match refusal {
                Refusal::Miss(miss) => {
                    let mut loaded = None;
                    let load = async { loaded = Some(self.load(miss).await) };
                    either(load, self.env.sleep(LOAD_WITHIN)).await;
                    match loaded {
                        Some(Ok(())) => {}
                        // What is written meanwhile may make room.
                        None => return,
                        Some(Err(error)) => {
                            tracing::warn!("{}: a change is not finished for now: {error}", self.shared.name);
                            return;
                        }
                    }
                }
                // Others free memory too.
                _ if !self.evict_now(|_| {}) => return,
                _ => {}
            }
            yield_now().await;
        }
    }

    /// Looks whether anything moves, if somebody waits for it.
    pub(super) fn watch(&self, watch: &mut Watch, load: &Load) {
        let (log, growth) = (self.shared.log_limit.is_reached(), self.shared.growth.is_reached());
        let is_waited_for = log || growth || self.shared.take_memory_waited_for();
        let seen = Seen {
            needed_from: self.log_start_number(),
            starts_at: self.shared.state().superblock.sequence,
            dirty: load.dirty,
            wanted: load.wanted,
            used_bytes: self.shared.memory.account().used_bytes(),
            drained: self.shared.overlay.is_through(),
        };
        let stands_still = watch.stands_still(is_waited_for, seen, self.env.now());
        if stands_still != self.shared.stands_still() {
            self.shared.set_standing_still(stands_still);
            if stands_still {
                tracing::error!("store {} stands still: {seen:?}", self.shared.name);
            }
            self.shared.progress.tell();
        }
    }

    /// There is no use in waiting, if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NoSpace`] on the namespace, or [`ErrorKind::LimitReached`]: nothing moves.
    pub(super) fn check_moves(&self, operation: &'static str) -> Result<()> {
        if self.shared.space.is_stuck() {
            return Err(self.no_room(operation));
        }
        if self.shared.stands_still() {
            return Err(Error::new(ErrorKind::LimitReached, operation)
                .at(self.shared.name.clone())
                .because("the store stands still: what it has to write first cannot be written now")
                .outcome_is(Outcome::NotStarted));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_move_for_long_while_somebody_waits_stands_still() {
        let at = |seconds| Instant::ORIGIN + Duration::from_secs(seconds);
        let seen = |needed_from| Seen { needed_from, ..Seen::default() };
        let mut watch = Watch::default();
        assert!(!watch.stands_still(false, seen(1), at(0)));
        assert!(!watch.stands_still(false, seen(1), at(100)), "nobody waits");
        assert!(!watch.stands_still(true, seen(1), at(101)));
        assert!(!watch.stands_still(true, seen(1), at(105)));
        assert!(watch.stands_still(true, seen(1), at(106)));
        assert!(watch.stands_still(true, seen(1), at(200)));
        assert!(!watch.stands_still(true, seen(2), at(201)), "it has moved");
        assert!(!watch.stands_still(true, seen(2), at(205)));
        assert!(watch.stands_still(true, seen(2), at(206)));
        assert!(!watch.stands_still(false, seen(2), at(207)), "nobody waits any more");
        assert!(!watch.stands_still(true, seen(2), at(208)));
    }
}
