//! Transactions that read, write or replace long values.
//!
//! | step | awaits |
//! |---|---|
//! | the closure has run; what it saw of each key is noted | no |
//! | what they add is admitted, all of it at once ([`space`](crate::store::engine::space)) | yes |
//! | long values are written, each with a marker; short ones of them wait for the record | yes |
//! | leaves of all keys, markers and pieces are loaded, room is made | yes |
//! | what each key has is compared with what was seen | no |
//! | one record: all changes; the markers of new values go, those of replaced ones come | no |
//!
//! If a key has something else by then nothing is changed, and what was written is reclaimed.

use std::collections::HashMap;

use super::{Changes, Key, OneChange, Reach, To, too_long};
use crate::block::Namespace;
use crate::error::Result;
use crate::store::btree::{Change, Miss, Value, ValueReference};
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::operations::{Look, reference_of};
use crate::store::engine::registry::values;
use crate::store::engine::space::account::{Held, Kind, added_by_long, added_bytes};
use crate::store::engine::values::numbers::MARKER_ENTRY_BYTES;
use crate::store::engine::values::{DIRECT_BYTES, INLINE_BYTES, Reference, Unreferenced, dead_marker};
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::wal::Effect;

/// Long values that were read, by their references.
pub(super) type Values = HashMap<Reference, Vec<u8>>;

/// What the keys had when the closure ran: bytes, and whether these are a reference.
pub(super) struct Seen(Vec<Option<(Box<[u8]>, bool)>>);

impl Seen {
    pub(super) fn new(seen: &[Option<Value<'_>>]) -> Self {
        Self(seen.iter().map(|seen| seen.map(|seen| (seen.value.into(), seen.is_reference))).collect())
    }

    /// Whether the key at `place` still has that.
    fn is(&self, place: usize, now: Option<Value<'_>>) -> bool {
        let seen = self.0[place].as_ref().map(|(bytes, is_reference)| (&bytes[..], *is_reference));
        seen == now.map(|now| (now.value, now.is_reference))
    }

    /// How long the value is that the key at `place` had.
    fn value_bytes(&self, place: usize) -> Option<u64> {
        let (bytes, is_reference) = self.0[place].as_ref()?;
        let long = is_reference.then(|| ValueReference::decode(&reference_of(bytes))).flatten();
        Some(long.map_or(bytes.len() as u64, |long| long.len))
    }

    /// The long value that the key at `place` had.
    fn reference(&self, place: usize) -> Option<Reference> {
        let (bytes, is_reference) = self.0[place].as_ref()?;
        is_reference.then(|| reference_of(bytes))
    }
}

/// Keys of the tree of values that a record has besides those of the transaction, in the order of
/// their places.
#[derive(Default)]
struct Extra {
    keys: Vec<Vec<u8>>,
}

impl Extra {
    /// One more change, of a key behind `declared` others.
    fn push(&mut self, declared: usize, key: &[u8], to: To) -> OneChange {
        self.keys.push(key.to_vec());
        OneChange { place: declared + self.keys.len() - 1, to, effect: Effect::Unknown }
    }
}

/// What changes add, long values included, and what kind of them they are.
fn adds(declared: &[Key<'_>], changes: &Changes, seen: &Seen) -> (u64, Kind) {
    let (mut all, mut kind) = (0, Kind::Replaces);
    for OneChange { place, to, .. } in &changes.list {
        let To::Put(range) = to else { continue };
        let (key, value) = (declared[*place].1, &changes.staged[range.clone()]);
        let is_longer = seen.value_bytes(*place).is_none_or(|old| old < value.len() as u64);
        if is_longer {
            kind = Kind::Adds;
        }
        all += match value.len() > INLINE_BYTES {
            true => added_by_long(key, value.len()),
            // Its bytes come in the place of others in its leaf.
            false if !is_longer && seen.reference(*place).is_none() => 0,
            false => added_bytes(key, Change::Put(value)),
        };
    }
    (all, kind)
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Reads the long values that these keys have, but for those that are `known`; whether none was
    /// replaced meanwhile. `failed` is for the next call.
    pub(super) async fn read_long(
        &self,
        keys: &[Key<'_>],
        known: &mut Values,
        failed: &mut Option<Reference>,
    ) -> Result<bool> {
        // Those that no key refers to any more go.
        let mut before = std::mem::take(known);
        for (tree, key) in keys {
            // A page that is missing now is missed again later.
            let Ok(Look::Elsewhere(reference)) = self.look(*tree, key, &mut Some(|_: &[u8]| ())) else {
                continue;
            };
            if let Some(value) = before.remove(&reference) {
                known.insert(reference, value);
            }
            if known.contains_key(&reference) {
                continue;
            }
            match Box::pin(self.read_value(&reference, failed)).await? {
                Some(value) => _ = known.insert(reference, value),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Makes changes with long values. The number of the write; None if the keys have something
    /// else by now.
    pub(super) async fn carry_out(
        &self,
        declared: &[Key<'_>],
        mut changes: Changes,
        seen: &Seen,
        (durability, reach): (Durability, Reach),
    ) -> Result<Option<u64>> {
        let mut held = self.hold(adds(declared, &changes, seen)).await?;
        let (mut extra, mut pieces, mut markers) = (Extra::default(), Vec::new(), Vec::new());
        let mut marked = 0;
        let mut written: Vec<Unreferenced<'_>> = Vec::new();
        let mut direct = self.log.log().max_record_bytes() / 2;
        for change in &mut changes.list {
            if let To::Put(range) = &change.to
                && range.len() > INLINE_BYTES
            {
                let value = &changes.staged[range.clone()];
                let reference = if value.len() <= DIRECT_BYTES.min(direct) {
                    direct -= value.len();
                    let reference = self.new_reference(value);
                    for (key, piece) in Self::pieces_of(&reference) {
                        let piece = range.start + piece.start..range.start + piece.end;
                        pieces.push(extra.push(declared.len(), &key, To::Put(piece)));
                    }
                    reference
                } else {
                    let value = self.write_value(value, &mut held).await?;
                    markers.push(extra.push(declared.len(), &value.marker_key(), To::Delete));
                    written.push(value);
                    written[written.len() - 1].reference
                };
                change.to = To::Reference(reference.encode());
            }
            if let Some((key, marker)) = seen.reference(change.place).as_ref().and_then(dead_marker) {
                let start = changes.staged.len();
                changes.staged.extend_from_slice(&marker);
                marked += MARKER_ENTRY_BYTES;
                markers.push(extra.push(declared.len(), &key, To::Put(start..start + marker.len())));
            }
        }
        // Whoever sees a key's entry finds the pieces, and whoever sees a marker no entry any more.
        pieces.append(&mut changes.list);
        pieces.append(&mut markers);
        changes.list = pieces;
        let extra = extra.keys.iter().map(|key| (values(), &key[..]));
        let keys: Vec<Key<'_>> = declared.iter().copied().chain(extra).collect();
        let len = changes.record_bytes(&keys);
        if len > self.log.log().max_record_bytes() {
            return too_long();
        }
        loop {
            self.wait_for_log().await?;
            self.prepare(&keys).await?;
            let mut room = self.log_room(len).await?;
            if !self.has_memory(keys.len()) {
                continue;
            }
            if reach == Reach::Named {
                self.check_trees(declared)?;
            }
            // Nothing awaits from here to the record.
            if let Err(refusal) = self.is_ready(&keys) {
                drop(room);
                self.overcome(refusal).await?;
                continue;
            }
            match self.is_unchanged(declared, seen) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(miss) => {
                    drop(room);
                    self.load(miss).await?;
                    continue;
                }
            }
            let number = self.apply(&keys, &changes, &mut room)?;
            drop(room);
            held.wrote_all();
            // These are never refused: what they are for is more than they are.
            self.shared.space.reserve(marked);
            self.log.commit(number, durability);
            written.into_iter().for_each(Unreferenced::refer_to);
            if changes.list.iter().any(|change| seen.0.get(change.place).is_some_and(is_long)) {
                self.shared.values.errand.ask();
            }
            return Ok(Some(number));
        }
    }

    /// Holds what long values add, as soon as there is room.
    async fn hold(&self, (bytes, kind): (u64, Kind)) -> Result<Held<'_>> {
        let mut asked = 0;
        loop {
            if let Some(held) = self.shared.space.hold(bytes, kind) {
                return Ok(held);
            }
            self.ask_for_room(&mut asked).await?;
        }
    }

    /// Whether the keys have what was seen of them.
    fn is_unchanged(&self, keys: &[Key<'_>], seen: &Seen) -> std::result::Result<bool, Miss> {
        let pin = self.core.pin();
        for (place, (tree, key)) in keys.iter().enumerate() {
            let now = pin.get(*tree, key)?;
            if place < seen.0.len() && !seen.is(place, now) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn is_long(seen: &Option<(Box<[u8]>, bool)>) -> bool {
    seen.as_ref().is_some_and(|(_, is_reference)| *is_reference)
}
