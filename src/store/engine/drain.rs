//! The drain: it brings what the log has, and the trees do not, into the trees: after an opening
//! all of the log, and what large transactions have left to it.
//!
//! It is a task of its own beside the keeper. It waits for memory, and for pages that others load,
//! as everybody does; the keeper waits for neither, so what fills memory is always written.
//!
//! The drain takes one overlay of records after the other, and goes over all that it has, in the
//! order of keys, a few at a time, and lets others run in between. **What it cannot bring in it
//! leaves there**: if a page is damaged, or cannot be read now, the overlay goes on answering for
//! the keys that belong into it, and who writes them gets the error of the page. Everything else
//! goes on. What is left is tried again every [`AGAIN`], and by everybody who writes a key. An
//! overlay with nothing left goes.
//!
//! | state of an overlay | checkpoints | the log is kept from |
//! |---|---|---|
//! | under way: not all has been tried | wait | its first record on |
//! | through, something is left | are taken | the oldest record that is left on |
//! | through, nothing is left | are taken | wherever the flusher says |
//!
//! # What is left would hold the log
//!
//! If it holds back the log's start when the log is half full, the keeper asks the drain to **carry
//! it on**: each record that is left is logged once more, at the end of the log, and when these are
//! durable the old ones may go. The key is claimed while its record gets the new number. So the
//! record is still the key's newest, and whoever brings the key over and writes it draws a larger
//! number. If what is left is longer than 7/8 of the log there is no use in carrying it on.
//!
//! A record that was carried on comes into the tree as the write that it was, with its old number;
//! what the log keeps for the page has been behind that for long, but not behind the new record,
//! and the flusher never goes back. So the flusher is never told of a larger number than that from
//! which on the drain needs the log (`keeper.rs`, `log_start_number`).
//!
//! A record of a group needs the log from the group's first part on, and not from its own number
//! ([`Record::from`]).

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::core_store::{CoreStore, Duty};
use super::counts::{Count, count};
use super::in_flight::What;
use super::overlays::Overlaid;
use super::space::account::added_by;
use crate::block::Namespace;
use crate::error::{Outcome, Result};
use crate::rt::yield_now;
use crate::store::btree::{Miss, Refusal, TreeRoot};
use crate::store::env::Env;
use crate::store::overlay::{Claimed, Hand, Newest, Overlay, Place, Record};
use crate::store::pace::either;
use crate::store::wal::{Effect, Operation};
use crate::store::word::ChildWord;

/// So many keys are brought in before others run: some µs each, and more where a page is split.
const KEYS_AT_ONCE: usize = 8;
/// So many places are asked of the overlay at once.
const PLACES_AT_ONCE: usize = 64;
/// So long the drain waits at most for what it has made of the shape of trees to be written.
const SETTLES_WITHIN: Duration = Duration::from_millis(10);
/// What is left is tried again after this time.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// How far the drain of an overlay has come: for the keeper, and what the keeper asks of it.
#[derive(Debug, Default)]
pub(super) struct Draining {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// All was tried once.
    is_through: bool,
    /// The oldest record that is left.
    oldest: Option<u64>,
    is_to_carry: bool,
}

impl Draining {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all was tried.
    pub(super) fn is_through(&self, overlay: &Overlay) -> bool {
        overlay.is_drained() || self.state().is_through
    }

    /// The log is kept from this number on for what is not in the tree.
    pub(super) fn needs_from(&self, overlay: &Overlay) -> u64 {
        if overlay.is_drained() {
            return u64::MAX;
        }
        let state = self.state();
        if state.is_through { state.oldest.unwrap_or(u64::MAX) } else { overlay.first() }
    }

    /// What is left is to be logged once more, if there is something.
    pub(super) fn carry_on(&self, overlay: &Overlay) {
        if !overlay.is_drained() {
            self.state().is_to_carry = true;
        }
    }

    /// All was tried, and this is left.
    fn through(&self, left: &[Left]) {
        let mut state = self.state();
        state.is_through = true;
        state.oldest = left.iter().map(|left| left.from).min();
    }

    /// Whether what is left is to be carried on. Asked once.
    fn take_to_carry(&self) -> bool {
        std::mem::take(&mut self.state().is_to_carry)
    }
}

/// A record that is not in the tree, with the number from which on the log has it.
#[derive(Clone, Copy, Debug)]
struct Left {
    place: Place,
    from: u64,
}

/// An overlay that was gone over, with what is left of it.
type Tried = (Arc<Overlaid>, Vec<Left>);

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// The drain's task, until the store is closed or has failed.
    pub(super) async fn drain(self: Rc<Self>, duty: Duty) {
        if let Err(error) = self.drain_on().await {
            self.shared.fail(&error);
        }
        duty.done();
    }

    async fn drain_on(&self) -> Result<()> {
        let overlays = &self.shared.overlay;
        let mut tried: Vec<Tried> = Vec::new();
        loop {
            self.try_new(&mut tried).await?;
            if self.shared.is_over() {
                return Ok(());
            }
            let mut has_carried = false;
            for (overlay, left) in &mut tried {
                if overlay.draining.take_to_carry() {
                    self.carry_on(overlay, left).await?;
                    self.is_through(overlay, left);
                    has_carried = true;
                }
            }
            self.shared.keeper.set();
            if has_carried {
                continue;
            }
            if tried.is_empty() {
                overlays.signal.wait().await;
            } else {
                either(overlays.signal.wait(), self.env.sleep(AGAIN)).await;
            }
            for (overlay, left) in &mut tried {
                self.try_again(overlay, left).await?;
                self.is_through(overlay, left);
            }
        }
    }

    /// All of an overlay was tried, and this is left.
    fn is_through(&self, overlay: &Overlaid, left: &[Left]) {
        overlay.draining.through(left);
        // What the log had of dying trees was in the way of their end.
        self.shared.dying.errand.ask();
    }

    /// Goes over the overlays that were not gone over yet, and lets go of those that are drained.
    async fn try_new(&self, tried: &mut Vec<Tried>) -> Result<()> {
        let overlays = &self.shared.overlay;
        for overlay in overlays.list() {
            if !tried.iter().any(|(other, _)| Arc::ptr_eq(other, &overlay)) {
                let left = self.drain_once(&overlay).await?;
                if self.shared.is_over() {
                    return Ok(());
                }
                self.is_through(&overlay, &left);
                self.shared.keeper.set();
                tried.push((overlay, left));
            }
        }
        tried.retain(|(overlay, _)| {
            let is_drained = overlay.is_drained();
            if is_drained {
                overlays.remove(overlay);
                self.overlay.borrow_mut().all(overlays);
            }
            !is_drained
        });
        Ok(())
    }

    /// Tries once more what was left.
    async fn try_again(&self, overlay: &Overlay, left: &mut Vec<Left>) -> Result<()> {
        let mut unreadable = HashSet::new();
        for (at, Left { place, from }) in std::mem::take(left).into_iter().enumerate() {
            if self.bring_in(overlay, place, &mut unreadable).await?.is_some() {
                left.push(Left { place, from });
            }
            if at % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Tries to bring everything into the tree. What is left.
    async fn drain_once(&self, overlay: &Overlay) -> Result<Vec<Left>> {
        let (mut hand, mut left, mut unreadable) = (Hand::default(), Vec::new(), HashSet::new());
        while !overlay.is_drained() && !overlay.is_round(&hand) && !self.shared.is_over() {
            let root_of = |tree: u32| self.shared.trees().root_of(tree).map(|tree| tree.root.bits());
            let places = overlay.take_next(&mut hand, PLACES_AT_ONCE, root_of);
            yield_now().await;
            self.let_growth_settle().await;
            for some in places.chunks(KEYS_AT_ONCE) {
                for place in some {
                    let from = self.bring_in(overlay, *place, &mut unreadable).await?;
                    left.extend(from.map(|from| Left { place: *place, from }));
                }
                yield_now().await;
            }
        }
        Ok(left)
    }

    /// Lets the keeper write what the keys before have made of the tree's shape, if that is much;
    /// but not for ever, as it may wait for somebody's next step.
    async fn let_growth_settle(&self) {
        self.look_at_growth();
        if self.shared.growth.is_reached() {
            let moment = self.shared.progress.now();
            self.shared.keeper.set();
            either(self.shared.progress.since(moment), self.env.sleep(SETTLES_WITHIN)).await;
        }
    }

    /// Brings one key into the tree. From which number on the log is needed for its record if that
    /// cannot be, because what is missing is damaged or one of the `unreadable`.
    async fn bring_in(
        &self,
        overlay: &Overlay,
        place: Place,
        unreadable: &mut HashSet<What>,
    ) -> Result<Option<u64>> {
        let (tree, _) = place;
        let tree = TreeRoot { tree: tree.tree, root: ChildWord::from_bits(tree.root) };
        loop {
            let (refusal, from) = match overlay.claim_at(place) {
                Claimed::Nothing => return Ok(None),
                Claimed::Busy => (Refusal::Again, 0),
                Claimed::Mine(claim) => match self.install(tree, &claim) {
                    Ok(()) => {
                        claim.finish();
                        count(Count::Drained);
                        return Ok(None);
                    }
                    Err(refusal) => (refusal, claim.record().from),
                },
            };
            let missing = match refusal {
                Refusal::Miss(Miss::Damaged(_)) => return Ok(Some(from)),
                Refusal::Miss(Miss::Page(page)) => Some(What::Page(page.id)),
                Refusal::Miss(Miss::Frame(frame)) => Some(What::Frame(frame)),
                _ => None,
            };
            if missing.is_some_and(|missing| unreadable.contains(&missing)) {
                return Ok(Some(from));
            }
            if let Err(error) = self.overcome(refusal).await {
                self.shared.check_failed("drain log", Outcome::Unknown)?;
                tracing::warn!("{}: some of the log stays there for now: {error}", self.shared.name);
                unreadable.extend(missing);
                return Ok(Some(from));
            }
        }
    }

    /// Logs what is left once more. The old records are not needed any more then.
    async fn carry_on(&self, overlay: &Overlay, left: &mut Vec<Left>) -> Result<()> {
        let mut carried = Vec::with_capacity(left.len());
        for Left { place, .. } in left.drain(..) {
            carried.extend(self.log_again(overlay, place).await?.map(|from| Left { place, from }));
            if carried.len() % KEYS_AT_ONCE == 0 {
                yield_now().await;
            }
        }
        if let Some(last) = carried.last() {
            self.log.wait(last.from).await?;
        }
        *left = carried;
        Ok(())
    }

    /// The number that a record has in the log now. None if the tree has it.
    async fn log_again(&self, overlay: &Overlay, place: Place) -> Result<Option<u64>> {
        let (tree, _) = place;
        loop {
            let len = match overlay.claim_at(place) {
                Claimed::Nothing => return Ok(None),
                Claimed::Busy => None,
                Claimed::Mine(claim) => Some(as_operation(tree.tree, &claim.record()).encoded_len()),
            };
            if let Some(len) = len {
                let mut room = self.log.room(1, len).await?;
                // Nobody else writes the key between these two.
                if let Claimed::Mine(claim) = overlay.claim_at(place) {
                    let number = room.draw_one();
                    self.shared.space.reserve(added_by(&as_operation(tree.tree, &claim.record())));
                    room.append(len, |out| _ = as_operation(tree.tree, &claim.record()).encode(out));
                    return Ok(Some(number));
                }
            }
            yield_now().await;
        }
    }
}

/// What the log says of a record once more: it changes nothing.
fn as_operation<'o>(tree: u32, record: &Record<'o>) -> Operation<'o> {
    let (key, effect) = (record.key, Effect::None);
    match record.newest {
        Newest::Put { value, expiry } => Operation::Put { tree, effect, expiry, key, value },
        Newest::PutReference { reference, expiry } => {
            Operation::PutReference { tree, effect, expiry, reference, key }
        }
        Newest::Deleted => Operation::Delete { tree, effect, key },
    }
}
