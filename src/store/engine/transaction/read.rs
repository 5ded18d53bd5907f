//! Reading several keys at one moment.
//!
//! | step | awaits |
//! |---|---|
//! | all keys are read, and the closure runs | no |
//! | if something was missing: pages and long values are loaded, and it starts over | yes |
//!
//! Nothing is written, so nothing that writers wait for is waited for: not the log, not room on the
//! namespace, not the turn of a transaction. It works on a store that is full, or closed, or has
//! failed, as far as memory has room for what is to be loaded.
//!
//! What large transactions do is seen whole: it comes with one step, as an overlay, and if the list
//! of overlays changes while the keys are read they are read once more. The same is done if
//! another core has written to one of them ([`latches`](crate::store::engine::latches)).
//!
//! # Keys that do not fit memory
//!
//! If the pages are not in memory all at once after [`LOADS`] tries the keys are read one after the
//! other, and copied. That is one moment if nobody has written anything meanwhile. If somebody has,
//! the keys become pending for the next try, as those of a large transaction, so that their writers
//! wait; unless a large transaction is under way. Whatever that waits for, others write little
//! meanwhile, and this tries again.

use std::sync::Arc;
use std::time::Duration;

use super::long::{Seen, Values};
use super::{Found, Key, Reads};
use crate::block::Namespace;
use crate::error::Result;
use crate::rt::yield_now;
use crate::store::btree::Miss;
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::counts::{Count, count};
use crate::store::engine::operations::{Look, overlaid, reference_of};
use crate::store::engine::overlays::Overlaid;
use crate::store::engine::values::Reference;
use crate::store::env::Env;
use crate::store::overlay::Newest;
use crate::store::pace::either;

/// So many keys are loaded, or copied, before others run: some µs each.
const KEYS_AT_ONCE: usize = 16;
/// How often the pages of all keys are loaded until they are read one after the other.
const LOADS: u32 = 3;
/// How often others may come in between until they are kept away.
const DISTURBED: u32 = 8;
/// So long it waits at most for the end of a large transaction.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What a closure sees that reads several keys: the declared ones by their places.
///
/// # Panics
///
/// [`Reading::get_at`] panics for places of no key.
pub struct Reading<'r> {
    keys: &'r [Key<'r>],
    found: Found<'r>,
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl<'r> Reading<'r> {
    /// What was found of each key.
    pub(super) fn found<'t>(&self) -> Found<'t>
    where
        'r: 't,
    {
        // One by one, as each is as long-lived as it has to be, and all are not.
        let mut found = Found::<'t>::with_capacity(self.found.len());
        for of_key in &self.found {
            found.push(*of_key);
        }
        found
    }

    /// How many keys were declared.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none was declared.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The place of a declared key.
    pub(in crate::store) fn place_of(&self, tree: u32, key: &[u8]) -> Option<usize> {
        self.keys.iter().position(|(of, declared)| of.tree == tree && *declared == key)
    }

    /// The value of a key.
    pub fn get_at(&self, place: usize) -> Option<&[u8]> {
        self.found[place]
    }
}

/// What became of an attempt to read all keys in one step.
enum Attempt<R> {
    Read(R),
    Missed(Miss),
    /// A long value is to be read first.
    Long,
    /// Another core has written to one of the keys meanwhile, or a large transaction was done.
    Outdated,
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// What `run` makes of these keys, which are read at one moment.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::get`]. One of the trees has lost its name
    /// ([`lost_name`](crate::store::engine::dying::lost_name)).
    pub(in crate::store) async fn read<R>(
        &self,
        keys: &[Key<'_>],
        run: impl FnOnce(&Reading<'_>) -> R,
    ) -> Result<R> {
        let (mut run, mut long, mut failed, mut tries) = (Some(run), Values::new(), None, 0);
        let mut outdated = 0;
        while tries < LOADS {
            let read = {
                // Whoever is disturbed again and again keeps the others away.
                let keeps = outdated >= DISTURBED;
                let _latched = keeps.then(|| self.shared.latches.take_all(keys));
                self.read_now(keys, (&long, keeps), &mut run)?
            };
            match read {
                Attempt::Read(result) => return Ok(result),
                Attempt::Long => _ = self.read_long(keys, &mut long, &mut failed).await?,
                Attempt::Missed(miss) => {
                    tries += 1;
                    self.load(miss).await?;
                    self.load_leaves(keys).await?;
                }
                Attempt::Outdated => outdated += 1,
            }
        }
        drop(long);
        Box::pin(self.read_copies(keys, run.expect("it did not run"))).await
    }

    /// Reads all keys in one step. `run` is there until it has run.
    fn read_now<R, F: FnOnce(&Reading<'_>) -> R>(
        &self,
        keys: &[Key<'_>],
        (long, is_latched): (&Values, bool),
        run: &mut Option<F>,
    ) -> Result<Attempt<R>> {
        self.check_trees(keys)?;
        let moment = (!is_latched).then(|| self.shared.latches.moment(keys));
        let (overlays, version) = {
            let mut access = self.overlay.borrow_mut();
            let overlays: Vec<Arc<Overlaid>> = access.all(&self.shared.overlay).to_vec();
            (overlays, access.version())
        };
        let pin = self.core.pin();
        let mut found = Found::with_capacity(keys.len());
        for (tree, key) in keys {
            let newest = overlays.iter().find_map(|overlay| overlay.get(overlaid(*tree), key));
            let (value, reference) = match newest {
                Some(Newest::Put { value, .. }) => (Some(value), None),
                Some(Newest::PutReference { reference, .. }) => (None, Some(reference)),
                Some(Newest::Deleted) => (None, None),
                None => match pin.get(*tree, key) {
                    Ok(Some(found)) if found.is_reference => (None, Some(reference_of(found.value))),
                    Ok(found) => (found.map(|found| found.value), None),
                    Err(miss) => return Ok(Attempt::Missed(miss)),
                },
            };
            found.push(match reference.map(|reference| long.get(&reference)) {
                Some(None) => return Ok(Attempt::Long),
                Some(Some(value)) => Some(&value[..]),
                None => value,
            });
        }
        // A tree that was cleared on another core is taken apart there.
        self.check_trees(keys)?;
        let is_disturbed = moment.is_some_and(|moment| !self.shared.latches.is_still(&moment));
        if is_disturbed || self.shared.overlay.version() != version {
            return Ok(Attempt::Outdated);
        }
        let run = run.take().expect("it runs once");
        Ok(Attempt::Read(run(&Reading { keys, found })))
    }

    /// Brings the pages of all keys into memory, one after the other.
    async fn load_leaves(&self, keys: &[Key<'_>]) -> Result<()> {
        for (at, (tree, key)) in keys.iter().enumerate() {
            while let Err(miss) = self.look(*tree, key, &mut Some(|_: &[u8]| ())) {
                self.load(miss).await?;
            }
            if at % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Reads keys one after the other, and runs on copies, once nobody has come in between.
    async fn read_copies<R>(&self, keys: &[Key<'_>], run: impl FnOnce(&Reading<'_>) -> R) -> Result<R> {
        count(Count::CopiedReads);
        let mut failed = None;
        let (seen, long) = loop {
            let moment = self.shared.progress.now();
            let (quiet, next) = (self.shared.latches.moment(keys), self.log.log().next_number());
            self.check_trees(keys)?;
            let copied = self.copy(Reads::All, keys, &mut failed).await?;
            self.check_trees(keys)?;
            // Whoever has drawn a number before may be writing still.
            let is_quiet = self.shared.latches.is_still(&quiet) && self.log.log().next_number() == next;
            if let Some(copied) = copied.filter(|_| is_quiet) {
                break copied;
            }
            let Some(turn) = self.try_turn() else {
                either(self.shared.progress.since(moment), self.env.sleep(LOOK_AGAIN)).await;
                continue;
            };
            self.make_pending(&turn, keys).await;
            self.keep_others_away();
            let copied = self.copy(Reads::All, keys, &mut failed).await?;
            self.check_trees(keys)?;
            if let Some(copied) = copied {
                break copied;
            }
        };
        let found = super::large::found(&seen, &long, keys.len());
        Ok(run(&Reading { keys, found }))
    }

    /// What the keys have, each at another moment, and the long values among that, if they are to
    /// be read. None if one was replaced while it was read; `failed` is for the next call.
    pub(super) async fn copy(
        &self,
        reads: Reads,
        keys: &[Key<'_>],
        failed: &mut Option<Reference>,
    ) -> Result<Option<(Seen, Values)>> {
        let (mut seen, mut long) = (Seen::default(), Values::new());
        for (at, (tree, key)) in keys.iter().enumerate() {
            loop {
                let looked = self.look(*tree, key, &mut Some(|value: &[u8]| seen.push(Some((value, false)))));
                match looked {
                    Ok(Look::Value(())) => {}
                    Ok(Look::Absent) => seen.push(None),
                    Ok(Look::Elsewhere(reference)) => {
                        seen.push(Some((&reference, true)));
                        if reads == Reads::All && !long.contains_key(&reference) {
                            match Box::pin(self.read_value(&reference, failed)).await? {
                                Some(value) => _ = long.insert(reference, value),
                                None => return Ok(None),
                            }
                        }
                    }
                    Err(miss) => {
                        self.load(miss).await?;
                        continue;
                    }
                }
                break;
            }
            if at % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        Ok(Some((seen, long)))
    }
}
