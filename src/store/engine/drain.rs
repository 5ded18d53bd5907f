//! The drain: after an opening it brings what the log had into the tree.
//!
//! It is a task of its own beside the keeper. It waits for memory, and for pages that others load,
//! as everybody does; the keeper waits for neither, so what fills memory is always written.
//!
//! The drain goes over all that the overlay of records has, in the order of keys, a few at a time,
//! and lets others run in between. **What it cannot bring in it leaves there**: if a page is
//! damaged, or cannot be read now, the overlay goes on answering for the keys that belong into it,
//! and who writes them gets the error of the page. Everything else goes on. What is left is tried
//! again every [`AGAIN`], and by everybody who writes a key.
//!
//! | state | checkpoints | the log is kept from |
//! |---|---|---|
//! | under way: not all has been tried | wait | the overlay's first record on |
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

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::core_store::{CoreStore, Duty};
use super::counts::{Count, count};
use super::in_flight::What;
use super::signal::Signal;
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
/// What is left is tried again after this time.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// How far the drain has come: for the keeper, and what the keeper asks of it.
#[derive(Debug, Default)]
pub(super) struct Draining {
    state: Mutex<State>,
    /// There is something for the drain to do.
    signal: Signal,
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

    /// Whether checkpoints may be taken.
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
            self.signal.set();
        }
    }

    /// Makes the task look.
    pub(super) fn wake(&self) {
        self.signal.set();
    }
}

/// A record that is not in the tree, with its newest number in the log.
#[derive(Clone, Copy, Debug)]
struct Left {
    place: Place,
    number: u64,
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// The drain's task, until all is in the tree, or the store is closed or has failed.
    pub(super) async fn drain(self: Rc<Self>, duty: Duty) {
        if let Err(error) = self.drain_on().await {
            self.shared.fail(&error);
        }
        duty.done();
    }

    async fn drain_on(&self) -> Result<()> {
        let overlay = Arc::clone(&self.shared.overlay);
        let mut left = self.drain_once(&overlay).await?;
        // What the log had of dying trees was in the way of their end.
        self.shared.dying.errand.ask();
        loop {
            let is_to_carry = {
                let mut state = self.shared.draining.state();
                state.is_through = true;
                state.oldest = left.iter().map(|left| left.number).min();
                std::mem::take(&mut state.is_to_carry)
            };
            self.shared.keeper.set();
            if left.is_empty() || self.shared.is_over() {
                return Ok(());
            }
            if is_to_carry {
                self.carry_on(&overlay, &mut left).await?;
                continue;
            }
            either(self.shared.draining.signal.wait(), self.env.sleep(AGAIN)).await;
            let places: Vec<_> = left.iter().map(|left| left.place).collect();
            let (mut unreadable, mut numbers) = (HashSet::new(), left.iter().map(|left| left.number));
            let mut again = Vec::new();
            for (at, place) in places.into_iter().enumerate() {
                let number = numbers.next().expect("each has one");
                if self.bring_in(&overlay, place, &mut unreadable).await?.is_some() {
                    again.push(Left { place, number });
                }
                if at % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
                    yield_now().await;
                }
            }
            left = again;
        }
    }

    /// Tries to bring everything into the tree. What is left.
    async fn drain_once(&self, overlay: &Overlay) -> Result<Vec<Left>> {
        let (mut hand, mut left, mut unreadable) = (Hand::default(), Vec::new(), HashSet::new());
        while !overlay.is_drained() && !overlay.is_round(&hand) && !self.shared.is_over() {
            let root_of = |tree: u32| self.shared.trees().root_of(tree).map(|tree| tree.root.bits());
            let places = overlay.take_next(&mut hand, PLACES_AT_ONCE, root_of);
            yield_now().await;
            for some in places.chunks(KEYS_AT_ONCE) {
                for place in some {
                    let number = self.bring_in(overlay, *place, &mut unreadable).await?;
                    left.extend(number.map(|number| Left { place: *place, number }));
                }
                yield_now().await;
            }
        }
        Ok(left)
    }

    /// Brings one key into the tree. The number of its record if that cannot be, because what is
    /// missing is damaged or one of the `unreadable`.
    async fn bring_in(
        &self,
        overlay: &Overlay,
        place: Place,
        unreadable: &mut HashSet<What>,
    ) -> Result<Option<u64>> {
        let (tree, _) = place;
        let tree = TreeRoot { tree: tree.tree, root: ChildWord::from_bits(tree.root) };
        loop {
            let (refusal, number) = match overlay.claim_at(place) {
                Claimed::Nothing => return Ok(None),
                Claimed::Busy => (Refusal::Again, 0),
                Claimed::Mine(claim) => match self.install(tree, &claim) {
                    Ok(()) => {
                        claim.finish();
                        count(Count::Drained);
                        return Ok(None);
                    }
                    Err(refusal) => (refusal, claim.record().number),
                },
            };
            let missing = match refusal {
                Refusal::Miss(Miss::Damaged(_)) => return Ok(Some(number)),
                Refusal::Miss(Miss::Page(page)) => Some(What::Page(page.id)),
                Refusal::Miss(Miss::Frame(frame)) => Some(What::Frame(frame)),
                _ => None,
            };
            if missing.is_some_and(|missing| unreadable.contains(&missing)) {
                return Ok(Some(number));
            }
            if let Err(error) = self.overcome(refusal).await {
                self.shared.check_failed("drain log", Outcome::Unknown)?;
                tracing::warn!("{}: some of the log stays there for now: {error}", self.shared.name);
                unreadable.extend(missing);
                return Ok(Some(number));
            }
        }
    }

    /// Logs what is left once more. The old records are not needed any more then.
    async fn carry_on(&self, overlay: &Overlay, left: &mut Vec<Left>) -> Result<()> {
        let mut carried = Vec::with_capacity(left.len());
        for Left { place, .. } in left.drain(..) {
            carried.extend(self.log_again(overlay, place).await?.map(|number| Left { place, number }));
            if carried.len() % KEYS_AT_ONCE == 0 {
                yield_now().await;
            }
        }
        if let Some(last) = carried.last() {
            self.log.wait(last.number).await?;
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
