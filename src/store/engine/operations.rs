//! Reads and writes of one core: what is missed is loaded, what has no room waits for it, and the
//! operation starts over.

use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::keeper::Who;
use super::space::added_bytes;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::btree::{Change, Numbers, Refusal, TreeRoot};
use crate::store::cache::Room;
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::overlay::{Claimed, Newest, TreeRoot as OverlaidTree};
use crate::store::wal::{Effect, Operation, Room as LogRoom};
use crate::store::word::ChildWord;

/// The numbers of one record.
pub(super) struct Logged<'r, 'a> {
    pub(super) room: &'r mut LogRoom<'a>,
}

impl Numbers for Logged<'_, '_> {
    fn at_least(&mut self) -> u64 {
        self.room.at_least()
    }

    fn draw(&mut self) -> u64 {
        self.room.draw_one()
    }

    fn can_draw(&self) -> bool {
        self.room.can_draw()
    }
}

/// The number of a write that is in the log already.
pub(super) struct Known(pub(super) u64);

impl Numbers for Known {
    fn at_least(&mut self) -> u64 {
        self.0
    }

    fn draw(&mut self) -> u64 {
        self.0
    }
}

/// A tree as the overlay of records names it.
pub(super) fn overlaid(tree: TreeRoot) -> OverlaidTree {
    OverlaidTree { tree: tree.tree, root: tree.root.bits() }
}

/// What the log says of a change.
pub(super) fn operation<'k>(
    TreeRoot { tree, .. }: TreeRoot,
    key: &'k [u8],
    change: Change<'k>,
    effect: Effect,
) -> Operation<'k> {
    match change {
        Change::Put(value) => Operation::Put { tree, effect, expiry: None, key, value },
        Change::PutReference(reference) => {
            Operation::PutReference { tree, effect, expiry: None, reference: *reference, key }
        }
        Change::Delete => Operation::Delete { tree, effect, key },
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// What `read` makes of the value of `key`.
    ///
    /// # Errors
    ///
    /// As for loading a page.
    pub(in crate::store) async fn get<R>(
        &self,
        tree: TreeRoot,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        loop {
            if let Some(overlay) = self.overlay.borrow_mut().get()
                && let Some(newest) = overlay.get(overlaid(tree), key)
            {
                return match newest {
                    Newest::Put { value, .. } => Ok(Some(read(value))),
                    Newest::Deleted => Ok(None),
                    Newest::PutReference { .. } => Err(no_references()),
                };
            }
            let miss = match self.core.pin().get(tree, key) {
                Ok(None) => return Ok(None),
                Ok(Some(found)) if found.is_reference => return Err(no_references()),
                Ok(Some(found)) => return Ok(Some(read(found.value))),
                Err(miss) => miss,
            };
            self.load(miss, Who::Anyone).await?;
        }
    }

    /// Puts or deletes one key, and says how durable that is to be. The number of the write.
    ///
    /// # Errors
    ///
    /// Nothing was changed: as for loading a page, that key or value are too long, or that the
    /// store takes no writes.
    pub(in crate::store) async fn write(
        &self,
        tree: TreeRoot,
        key: &[u8],
        change: Change<'_>,
        durability: Durability,
    ) -> Result<u64> {
        let operation = operation(tree, key, change, Effect::Unknown);
        let len = operation.encoded_len();
        let adds = added_bytes(key, change);
        let (mut is_admitted, mut asked) = (false, 0);
        loop {
            self.wait_for_log().await?;
            self.bring_over(tree, key).await?;
            let mut room = self.log.room(1, len).await?;
            if !is_admitted && !self.shared.space.admit(adds) {
                drop(room);
                if self.adds_nothing(tree, key, change).await? {
                    self.shared.space.shrinks();
                    is_admitted = true;
                } else {
                    self.ask_for_room(&mut asked).await?;
                }
                continue;
            }
            is_admitted = true;
            // Nothing awaits from here to the record. The key may have come into the overlay's
            // hands again only by this core's own operations, and there were none.
            let written = {
                let pin = self.core.pin_with(room_of(change));
                pin.write(tree, key, change, &mut Logged { room: &mut room })
            };
            match written {
                Ok(number) => {
                    room.append(len, |out| _ = operation.encode(out));
                    drop(room);
                    self.log.commit(number, durability);
                    return Ok(number);
                }
                Err(refusal) => {
                    drop(room);
                    self.overcome(refusal, Who::Anyone).await?;
                }
            }
        }
    }

    /// Completes when the write with this number is durable.
    ///
    /// # Errors
    ///
    /// The log has failed; the write may be found again after the store is reopened.
    pub(in crate::store) async fn wait(&self, number: u64) -> Result<()> {
        self.log.wait(number).await
    }

    /// Waits while the log is as long as it may be.
    pub(super) async fn wait_for_log(&self) -> Result<()> {
        loop {
            let moment = self.shared.progress.now();
            self.shared.check_failed("write to store", Outcome::NotStarted)?;
            if !self.shared.log_limit.is_reached() {
                return Ok(());
            }
            count(Count::LogWaits);
            if self.shared.space.is_stuck() {
                return Err(self.no_room("write to store"));
            }
            self.shared.keeper.set();
            self.shared.progress.since(moment).await;
        }
    }

    /// Makes it possible to try again.
    pub(super) async fn overcome(&self, refusal: Refusal, who: Who) -> Result<()> {
        let too_long = |what: &str| {
            Err(Error::new(ErrorKind::InvalidInput, "write to store")
                .because(format!("the {what} is longer than a store takes"))
                .outcome_is(Outcome::NotStarted))
        };
        match refusal {
            Refusal::Miss(miss) => self.load(miss, who).await,
            Refusal::NoRoom => self.wait_for_memory(who).await,
            Refusal::Again => {
                crate::rt::yield_now().await;
                Ok(())
            }
            Refusal::KeyTooLong => too_long("key"),
            Refusal::ValueTooLong => too_long("value"),
        }
    }

    /// Brings what the overlay has of `key` into the tree, before it is written to.
    pub(super) async fn bring_over(&self, tree: TreeRoot, key: &[u8]) -> Result<()> {
        loop {
            let refusal = {
                let mut access = self.overlay.borrow_mut();
                let Some(overlay) = access.get() else { return Ok(()) };
                match overlay.claim(overlaid(tree), key) {
                    Claimed::Nothing => return Ok(()),
                    Claimed::Busy => Refusal::Again,
                    Claimed::Mine(claim) => match self.install(tree, &claim) {
                        Ok(()) => {
                            claim.finish();
                            return Ok(());
                        }
                        Err(refusal) => refusal,
                    },
                }
            };
            self.overcome(refusal, Who::Anyone).await?;
        }
    }

    /// Puts what a claim says into the tree.
    fn install(
        &self,
        tree: TreeRoot,
        claim: &crate::store::overlay::Claim<'_>,
    ) -> std::result::Result<(), Refusal> {
        let record = claim.record();
        let change = match &record.newest {
            Newest::Put { value, .. } => Change::Put(value),
            Newest::PutReference { reference, .. } => Change::PutReference(reference),
            Newest::Deleted => Change::Delete,
        };
        let pin = self.core.pin_with(Room::Ordinary);
        pin.write(tree, record.key, change, &mut Known(record.number)).map(drop)
    }

    /// Brings some of what the overlay has into the tree; whether there is more.
    ///
    /// # Errors
    ///
    /// As for loading a page.
    pub(super) async fn drain_overlay(&self, hand: &mut crate::store::overlay::Hand) -> Result<bool> {
        const AT_ONCE: usize = 64;
        let overlay = std::sync::Arc::clone(&self.shared.overlay);
        if overlay.is_drained() {
            return Ok(false);
        }
        let root_of = |tree: u32| self.shared.trees().root_of(tree).map(|tree| tree.root.bits());
        let taken = overlay.take_next(hand, AT_ONCE, root_of);
        for place in taken {
            let (OverlaidTree { tree, root }, _) = place;
            let tree = TreeRoot { tree, root: ChildWord::from_bits(root) };
            loop {
                let refusal = match overlay.claim_at(place) {
                    Claimed::Nothing => break,
                    Claimed::Busy => Refusal::Again,
                    Claimed::Mine(claim) => match self.install(tree, &claim) {
                        Ok(()) => {
                            claim.finish();
                            count(Count::Drained);
                            break;
                        }
                        Err(refusal) => refusal,
                    },
                };
                self.overcome(refusal, Who::Keeper).await?;
            }
        }
        Ok(!overlay.is_drained())
    }
}

/// What a change may use of the memory.
fn room_of(change: Change<'_>) -> Room {
    match change {
        Change::Delete => Room::Reserve,
        Change::Put(_) | Change::PutReference(_) => Room::Ordinary,
    }
}

/// Values that lie elsewhere come with a later step.
pub(super) fn no_references() -> Error {
    Error::new(ErrorKind::Unsupported, "read store").because("the value lies in pages of its own")
}
