//! Reads and writes of one core: what is missed is loaded, what has no room waits for it, and the
//! operation starts over.

use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::defect::{Defects, EngineDefect};
use super::space::account::{Held, Kind, added_bytes};
use super::values::Reference;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::btree::{Change, KnownSince, Miss, Numbers, Refusal, TreeRoot};
use crate::store::cache::Room;
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::overlay::{Claimed, Newest, TreeRoot as OverlaidTree};
use crate::store::wal::{Effect, Operation, Room as LogRoom};

/// What a key has.
pub(super) enum Look<R> {
    Absent,
    /// What was made of its value.
    Value(R),
    Elsewhere(Reference),
}

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
    /// As for loading a page, and for a long value that there is no memory for its copy.
    pub(in crate::store) async fn get<R>(
        &self,
        tree: TreeRoot,
        key: &[u8],
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        let (mut read, mut failed) = (Some(read), None);
        loop {
            match self.look(tree, key, &mut read) {
                Ok(Look::Absent) => return Ok(None),
                Ok(Look::Value(made)) => return Ok(Some(made)),
                Ok(Look::Elsewhere(reference)) => {
                    // Boxed: few values are long, and a long one's future asks for pieces by `get`.
                    let value = Box::pin(self.read_value(&reference, &mut failed)).await?;
                    if let Some(value) = value {
                        return Ok(read.take().map(|read| read(&value)));
                    }
                }
                Err(miss) => Box::pin(self.load(miss)).await?,
            }
        }
    }

    /// What is known of a key without waiting. `read` is there until it has read a value.
    ///
    /// # Panics
    ///
    /// If `read` is not there.
    pub(super) fn look<R, F: FnOnce(&[u8]) -> R>(
        &self,
        tree: TreeRoot,
        key: &[u8],
        read: &mut Option<F>,
    ) -> std::result::Result<Look<R>, Miss> {
        let mut made = |value: &[u8]| Look::Value(read.take().expect("it reads once")(value));
        for overlay in self.overlay.borrow_mut().all(&self.shared.overlay) {
            if let Some(newest) = overlay.get(overlaid(tree), key) {
                return Ok(match newest {
                    Newest::Put { value, .. } => made(value),
                    Newest::Deleted => Look::Absent,
                    Newest::PutReference { reference, .. } => Look::Elsewhere(reference),
                });
            }
        }
        Ok(match self.core.pin().get(tree, key)? {
            None => Look::Absent,
            Some(found) if found.is_reference => Look::Elsewhere(reference_of(found.value)),
            Some(found) => made(found.value),
        })
    }

    /// Puts or deletes one key, and says how durable that is to be. The number of the write.
    ///
    /// # Errors
    ///
    /// Nothing was changed: as for loading a page, that key or value are too long, that the store
    /// is full, or takes no writes.
    pub(in crate::store) async fn write(
        &self,
        tree: TreeRoot,
        key: &[u8],
        change: Change<'_>,
        durability: Durability,
    ) -> Result<u64> {
        let number = self.write_admitted(tree, key, change, None).await?;
        self.log.commit(number, durability);
        Ok(number)
    }

    /// The same where what it adds is held for it already, for no durability.
    pub(super) async fn write_held(
        &self,
        tree: TreeRoot,
        key: &[u8],
        change: Change<'_>,
        held: &mut Held<'_>,
    ) -> Result<u64> {
        let number = self.write_admitted(tree, key, change, Some(held)).await?;
        self.log.commit(number, Durability::None);
        Ok(number)
    }

    async fn write_admitted(
        &self,
        tree: TreeRoot,
        key: &[u8],
        change: Change<'_>,
        held: Option<&mut Held<'_>>,
    ) -> Result<u64> {
        let operation = operation(tree, key, change, Effect::Unknown);
        let len = operation.encoded_len();
        let adds = added_bytes(key, change);
        let (mut is_admitted, mut asked) = (held.is_some(), 0);
        loop {
            self.wait_for_log().await?;
            self.bring_over(tree, key).await?;
            let mut room = self.log_room(len).await?;
            let latched = self.shared.latches.take((tree, key));
            if !self.may_write(tree, key) {
                continue;
            }
            self.check_tree(tree)?;
            // Here, as its number is drawn soon after.
            if !is_admitted && !self.shared.space.admit(adds, Kind::Adds) {
                drop((room, latched));
                if self.adds_nothing(tree, key, change).await? {
                    self.shared.space.shrinks();
                    is_admitted = true;
                } else {
                    Box::pin(self.ask_for_room(&mut asked)).await?;
                }
                continue;
            }
            is_admitted = true;
            // Nothing awaits from the look at the overlays to the record.
            let written = {
                let pin = self.core.pin_with(room_of(change));
                pin.write(tree, key, change, &mut Logged { room: &mut room })
            };
            match written {
                Ok(number) => {
                    room.append(len, |out| _ = operation.encode(out));
                    drop((room, latched));
                    if let Some(held) = held {
                        held.wrote(adds);
                    }
                    return Ok(number);
                }
                Err(refusal) => {
                    drop((room, latched));
                    self.overcome(refusal).await?;
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

    /// Waits while the log is as long as it may be, and while as much as may be has to become
    /// durable together.
    pub(super) async fn wait_for_log(&self) -> Result<()> {
        while self.must_wait()?.is_some() {
            let moment = self.shared.progress.now();
            // Once more: what was told before that moment wakes nobody.
            let Some(why) = self.must_wait()? else { break };
            count(why);
            self.shared.keeper.set();
            self.shared.progress.since(moment).await;
        }
        Ok(())
    }

    /// What a write has to wait for, if anything.
    fn must_wait(&self) -> Result<Option<Count>> {
        self.shared.check_writable("write to store")?;
        // It may be much less than what was counted.
        self.look_at_growth();
        let why = match (self.shared.log_limit.is_reached(), self.shared.growth.is_reached()) {
            (false, false) => return Ok(None),
            (true, _) => Count::LogWaits,
            (false, true) => Count::GrowthWaits,
        };
        // If it would be for ever.
        self.check_moves("write to store")?;
        Ok(Some(why))
    }

    /// Room for the record of a write, while the log is not as long as it may be. Nothing may await
    /// from here to the record.
    pub(super) async fn log_room(&self, len: usize) -> Result<LogRoom<'_>> {
        loop {
            let room = self.claimed_room(len).await?;
            // Once more: many may have waited for room in the buffer.
            if !self.shared.log_limit.is_reached() {
                return Ok(room);
            }
            drop(room);
            self.wait_for_log().await?;
        }
    }

    /// The same for what the log was claimed for, however long it is.
    pub(super) async fn claimed_room(&self, len: usize) -> Result<LogRoom<'_>> {
        let room = self.log.room(1, len).await;
        // The store may have been closed while the log had none; what became of the log after that
        // is of no interest.
        self.shared.check_writable("write to store")?;
        room
    }

    /// Makes it possible to try again.
    pub(super) async fn overcome(&self, refusal: Refusal) -> Result<()> {
        let too_long = |what: &str| {
            Err(Error::new(ErrorKind::InvalidInput, "write to store")
                .because(format!("the {what} is longer than a store takes"))
                .outcome_is(Outcome::NotStarted))
        };
        match refusal {
            // Boxed, as what is rare: who waits for an operation holds its future.
            Refusal::Miss(miss) => Box::pin(self.load(miss)).await,
            Refusal::NoRoom => Box::pin(self.wait_for_memory()).await,
            Refusal::Again => {
                crate::rt::yield_now().await;
                Ok(())
            }
            Refusal::KeyTooLong => too_long("key"),
            Refusal::ValueTooLong => too_long("value"),
        }
    }

    /// Waits while a transaction that is not decided has `key`, and brings what an overlay has of
    /// it into the tree, before it is written to. The writer asks [`CoreStore::may_write`] in the
    /// step in which it writes.
    pub(super) async fn bring_over(&self, tree: TreeRoot, key: &[u8]) -> Result<()> {
        self.wait_until_decided(tree, key).await?;
        self.bring_into_tree(tree, key).await
    }

    /// Whether a write of the key may be made in this step: nothing of it is to be brought over,
    /// and no transaction that is not decided has it. If not the writer starts over. What was
    /// brought over before may have come to an overlay again while the writer waited.
    pub(super) fn may_write(&self, tree: TreeRoot, key: &[u8]) -> bool {
        // In this order: what is not pending any more is in an overlay already.
        if self.is_pending(tree, key) {
            return false;
        }
        let mut access = self.overlay.borrow_mut();
        access.all(&self.shared.overlay).iter().all(|overlay| overlay.get(overlaid(tree), key).is_none())
    }

    /// Brings what an overlay has of `key` into the tree.
    pub(super) async fn bring_into_tree(&self, tree: TreeRoot, key: &[u8]) -> Result<()> {
        loop {
            let refusal = {
                let mut access = self.overlay.borrow_mut();
                let overlays = access.all(&self.shared.overlay).iter();
                let mut claims = overlays.map(|overlay| overlay.claim(overlaid(tree), key));
                match claims.find(|claimed| !matches!(claimed, Claimed::Nothing)) {
                    None | Some(Claimed::Nothing) => return Ok(()),
                    Some(Claimed::Busy) => Refusal::Again,
                    Some(Claimed::Mine(claim)) => match self.install(tree, &claim) {
                        Ok(()) => {
                            claim.finish();
                            return Ok(());
                        }
                        Err(refusal) => refusal,
                    },
                }
            };
            self.overcome(refusal).await?;
        }
    }

    /// Puts what a claim says into the tree.
    pub(super) fn install(
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
        let pin = self.core.pin_with(room_of(change));
        let mut numbers = KnownSince { number: record.number, from: record.from };
        if Defects::now().has(EngineDefect::GroupHeldFromItsEnd) {
            numbers.from = record.number;
        }
        pin.write(tree, record.key, change, &mut numbers).map(drop)
    }
}

/// What a change may use of the memory.
fn room_of(change: Change<'_>) -> Room {
    match change {
        Change::Delete => Room::Reserve,
        Change::Put(_) | Change::PutReference(_) => Room::Ordinary,
    }
}

/// The reference that an entry of the kind has.
pub(super) fn reference_of(value: &[u8]) -> Reference {
    value.try_into().expect("a leaf's reference has its length")
}
