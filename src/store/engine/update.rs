//! Reading a key and writing it in one step, which no other write of the key comes into.
//!
//! The tree does this ([`Pin::update_in`](crate::store::btree::Pin::update_in)): it takes a slot of
//! the leaf only if nobody has written the key since it was read. Here the overlay's entry of the
//! key is brought into the tree before, so that what is read is the newest, and the decision is
//! logged.
//!
//! How long the record is shows only after the decision, and nothing may await then. So the room in
//! the log is taken for the longest value that a leaf has. To decide twice, once for the length,
//! would be no better: the second decision may be another one, and the room too small again. The
//! room is only counted, not touched, and given back with the record; all that it costs is that the
//! buffer counts as full some [`INLINE_BYTES`] bytes early. What turns out to be longer becomes a
//! [transaction](super::transaction) of one key.
//!
//! As the key's state before is known, so is what the write does to the number of keys of its tree.

use std::cell::Cell;

use super::core_store::CoreStore;
use super::operations::{Logged, operation};
use super::space::account::grows_by;
use super::transaction::{Reads, Transaction, too_long_a_value};
use super::values::INLINE_BYTES;
use crate::block::Namespace;
use crate::error::Result;
use crate::store::btree::{Change, TreeRoot, Value};
use crate::store::cache::Room;
use crate::store::env::Env;
use crate::store::options::{Durability, MAX_VALUE_BYTES};
use crate::store::wal::Effect;

/// What is to become of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays as it is. Nothing is logged.
    Keep,
    /// It gets the value that is in the buffer.
    Put,
    /// It is deleted.
    Delete,
}

/// A value as long as it may be to lie with its key.
pub(super) const LONGEST_VALUE: &[u8] = &[0; INLINE_BYTES];
/// The longest buffer that is kept for the next write, in bytes.
const KEPT_BYTES: usize = 4 * INLINE_BYTES;

/// The core's buffer while a step has it.
struct Buffer<'c> {
    of_core: &'c Cell<Vec<u8>>,
    bytes: Vec<u8>,
}

impl<'c> Buffer<'c> {
    fn take(of_core: &'c Cell<Vec<u8>>) -> Self {
        Self { of_core, bytes: of_core.take() }
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        // One that a long value was in is not kept.
        if self.bytes.capacity() <= KEPT_BYTES {
            self.of_core.set(std::mem::take(&mut self.bytes));
        }
    }
}

fn change(decision: Decision, value: &[u8]) -> Option<Change<'_>> {
    match decision {
        Decision::Keep => None,
        Decision::Put => Some(Change::Put(value)),
        Decision::Delete => Some(Change::Delete),
    }
}

/// What a change does to the number of keys.
pub(super) fn effect_of(was_there: bool, change: Change<'_>) -> Effect {
    match (was_there, change) {
        (false, Change::Put(_) | Change::PutReference(_)) => Effect::More,
        (true, Change::Delete) => Effect::Less,
        _ => Effect::None,
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Reads a key, and makes of it what `decide` says, before anybody else writes the key.
    /// `decide` gets the value and an empty buffer for a new one. It may be called several times,
    /// and its last call counts. The number of the write; None if the key was kept.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::write`]; nothing was changed.
    pub(in crate::store) async fn update(
        &self,
        tree: TreeRoot,
        key: &[u8],
        durability: Durability,
        decide: impl FnMut(Option<&[u8]>, &mut Vec<u8>) -> Decision,
    ) -> Result<Option<u64>> {
        self.update_with(tree, key, (durability, Room::Ordinary, Reads::All), decide).await
    }

    /// Puts a value of any length. The number of the write.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::update`].
    pub(in crate::store) async fn put(
        &self,
        tree: TreeRoot,
        key: &[u8],
        value: &[u8],
        durability: Durability,
    ) -> Result<u64> {
        let number = if value.len() > INLINE_BYTES {
            if value.len() > MAX_VALUE_BYTES {
                return too_long_a_value();
            }
            let keys = [(tree, key)];
            let put = |transaction: &mut Transaction<'_>| transaction.put_at(0, value);
            Box::pin(self.transact_reading(Reads::Presence, &keys, durability, put)).await?.1
        } else {
            let decide = |_: Option<&[u8]>, new: &mut Vec<u8>| {
                new.extend_from_slice(value);
                Decision::Put
            };
            self.update_with(tree, key, (durability, Room::Ordinary, Reads::Presence), decide).await?
        };
        Ok(number.expect("what is put is not kept"))
    }

    /// Deletes a key. The number of the write; None if it was not there.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::update`].
    pub(in crate::store) async fn delete(
        &self,
        tree: TreeRoot,
        key: &[u8],
        durability: Durability,
    ) -> Result<Option<u64>> {
        let decide = |found: Option<&[u8]>, _: &mut Vec<u8>| match found {
            Some(_) => Decision::Delete,
            None => Decision::Keep,
        };
        self.update_with(tree, key, (durability, Room::Reserve, Reads::Presence), decide).await
    }

    /// Puts a key that is not there. The number of the write; None if it was there.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::update`].
    pub(in crate::store) async fn insert_if_absent(
        &self,
        tree: TreeRoot,
        key: &[u8],
        value: &[u8],
        durability: Durability,
    ) -> Result<Option<u64>> {
        self.compare_and_swap(tree, key, (None, Some(value)), durability).await
    }

    /// Makes `new` of a key whose value is `expected`; None stands for a key that is not there. The
    /// number of the write; None if the key has another value, or has the new one already.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::update`].
    pub(in crate::store) async fn compare_and_swap(
        &self,
        tree: TreeRoot,
        key: &[u8],
        (expected, new): (Option<&[u8]>, Option<&[u8]>),
        durability: Durability,
    ) -> Result<Option<u64>> {
        let decide = |found: Option<&[u8]>, value: &mut Vec<u8>| match new {
            _ if found != expected => Decision::Keep,
            Some(new) => {
                value.extend_from_slice(new);
                Decision::Put
            }
            None if found.is_some() => Decision::Delete,
            None => Decision::Keep,
        };
        self.update_with(tree, key, (durability, Room::Ordinary, Reads::All), decide).await
    }

    async fn update_with(
        &self,
        tree: TreeRoot,
        key: &[u8],
        (durability, memory, reads): (Durability, Room, Reads),
        mut decide: impl FnMut(Option<&[u8]>, &mut Vec<u8>) -> Decision,
    ) -> Result<Option<u64>> {
        let most = operation(tree, key, Change::Put(LONGEST_VALUE), Effect::Unknown).encoded_len();
        // What was decided last.
        let (mut decision, mut effect) = (Decision::Keep, Effect::Unknown);
        let (mut reserved, mut asked) = (0, 0);
        loop {
            self.wait_for_log().await?;
            self.bring_over(tree, key).await?;
            let mut room = self.log_room(most).await?;
            let latched = self.shared.latches.take((tree, key));
            if !self.may_write(tree, key) {
                continue;
            }
            self.check_tree(tree)?;
            let (mut is_long, mut is_refused) = (false, false);
            // Nothing awaits while a step has it.
            let mut buffer = Buffer::take(&self.buffer);
            let updated = {
                let pin = self.core.pin_with(memory);
                let mut numbers = Logged { room: &mut room };
                pin.update_in(
                    &mut buffer.bytes,
                    tree,
                    key,
                    |found: Option<Value<'_>>, value| {
                        is_long = found.is_some_and(|found| found.is_reference);
                        if is_long {
                            return None;
                        }
                        decision = decide(found.map(|found| found.value), value);
                        is_long = decision == Decision::Put && value.len() > INLINE_BYTES;
                        if is_long {
                            return None;
                        }
                        let change = change(decision, value)?;
                        let adds = grows_by(key, found.map(|found| found.value.len()), change);
                        is_refused = !self.shared.space.admit_up_to(&mut reserved, adds);
                        if is_refused {
                            return None;
                        }
                        effect = effect_of(found.is_some(), change);
                        Some(change)
                    },
                    &mut numbers,
                )
            };
            match updated {
                Ok(None) if is_long => {
                    drop((room, latched, buffer));
                    return Box::pin(self.update_long(tree, key, (durability, reads), decide)).await;
                }
                Ok(None) if is_refused => {
                    drop((room, latched, buffer));
                    Box::pin(self.ask_for_room(&mut asked)).await?;
                }
                Ok(None) => return Ok(None),
                Ok(Some(number)) => {
                    let change = change(decision, &buffer.bytes).expect("what is kept has no number");
                    let operation = operation(tree, key, change, effect);
                    self.lengths.add(tree, number, effect);
                    room.append(operation.encoded_len(), |out| _ = operation.encode(out));
                    drop((room, latched));
                    self.log.commit(number, durability);
                    return Ok(Some(number));
                }
                Err(refusal) => {
                    drop((room, latched, buffer));
                    self.overcome(refusal).await?;
                }
            }
        }
    }

    /// The same where the value that there is, or the new one, does not lie with its key.
    async fn update_long(
        &self,
        tree: TreeRoot,
        key: &[u8],
        (durability, reads): (Durability, Reads),
        mut decide: impl FnMut(Option<&[u8]>, &mut Vec<u8>) -> Decision,
    ) -> Result<Option<u64>> {
        let run = |transaction: &mut Transaction<'_>| {
            let mut value = Vec::new();
            match decide(transaction.get_at(0), &mut value) {
                Decision::Keep => {}
                Decision::Put => transaction.put_at(0, &value),
                Decision::Delete => _ = transaction.delete_at(0),
            }
        };
        let keys = [(tree, key)];
        Ok(Box::pin(self.transact_reading(reads, &keys, durability, run)).await?.1)
    }
}
