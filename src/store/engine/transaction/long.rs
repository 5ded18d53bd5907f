//! Transactions that read, write or replace long values.
//!
//! | step | awaits |
//! |---|---|
//! | the closure has run; what it saw of each key is noted | no |
//! | their record is laid out: it is known how long it is | yes |
//! | what they add is admitted, all of it at once ([`space`](crate::store::engine::space)) | yes |
//! | long values are written, each with a marker; short ones of them wait for the record | yes |
//! | leaves of all keys, markers and pieces are loaded, room is made | yes |
//! | what each key has is compared with what was seen | no |
//! | one record: all changes; the markers of new values go, those of replaced ones come | no |
//!
//! If a key has something else by then nothing is changed, and the closure runs again. What was
//! written is kept for that ([`Spare`]): if it puts the same value once more the key refers to what
//! is there, else that is reclaimed. So of many writers of one key each writes its value once. If
//! it turns out that the record would be too long the transaction is a [large](super::large) one.

use std::collections::HashMap;
use std::ops::Range;

use super::{Changes, Key, OneChange, Reach, TRIES, To};
use crate::block::Namespace;
use crate::error::Result;
use crate::rt::yield_now;
use crate::store::btree::{Change, Miss, VALUE_REFERENCE_BYTES, Value, ValueReference};
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::defect::{Defects, EngineDefect};
use crate::store::engine::operations::{Look, reference_of};
use crate::store::engine::registry::values;
use crate::store::engine::space::account::{Held, Kind, added_by_long, added_bytes};
use crate::store::engine::values::numbers::MARKER_ENTRY_BYTES;
use crate::store::engine::values::{
    DIRECT_BYTES, INLINE_BYTES, Reference, Unreferenced, dead_marker, marker_key,
};
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::wal::Effect;

/// So many changes are looked at before others run.
const CHANGES_AT_ONCE: usize = 256;

/// Long values that were read, by their references.
pub(super) type Values = HashMap<Reference, Vec<u8>>;

/// What the keys had when the closure ran: bytes, and whether these are a reference.
#[derive(Default)]
pub(super) struct Seen {
    /// The bytes of all keys, one after the other.
    bytes: Vec<u8>,
    all: Vec<Option<(Range<usize>, bool)>>,
}

impl Seen {
    pub(super) fn new(seen: &[Option<Value<'_>>]) -> Self {
        let mut all = Self::default();
        seen.iter().for_each(|seen| all.push(seen.map(|seen| (seen.value, seen.is_reference))));
        all
    }

    /// What the key at the next place had.
    pub(super) fn push(&mut self, seen: Option<(&[u8], bool)>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(seen.map_or(&[], |(bytes, _)| bytes));
        self.all.push(seen.map(|(_, is_reference)| (start..self.bytes.len(), is_reference)));
    }

    /// What the key at `place` had.
    pub(super) fn get(&self, place: usize) -> Option<(&[u8], bool)> {
        let (range, is_reference) = self.all.get(place)?.as_ref()?;
        Some((&self.bytes[range.clone()], *is_reference))
    }

    /// Whether the key at `place` still has that.
    fn is(&self, place: usize, now: Option<Value<'_>>) -> bool {
        self.get(place) == now.map(|now| (now.value, now.is_reference))
    }

    /// How long the value is that the key at `place` had.
    fn value_bytes(&self, place: usize) -> Option<u64> {
        let (bytes, is_reference) = self.get(place)?;
        let long = is_reference.then(|| ValueReference::decode(&reference_of(bytes))).flatten();
        Some(long.map_or(bytes.len() as u64, |long| long.len))
    }

    /// The long value that the key at `place` had.
    pub(super) fn reference(&self, place: usize) -> Option<Reference> {
        let (bytes, is_reference) = self.get(place)?;
        is_reference.then(|| reference_of(bytes))
    }
}

/// What became of an attempt to make changes with long values.
pub(super) enum Carried<'s> {
    /// The number of the write.
    Out(u64),
    /// The keys have something else by now. What was written for them is left.
    Changed(Spare<'s>),
    /// The record would be too long.
    Large,
}

/// What changes are besides themselves.
#[derive(Default)]
pub(super) struct LaidOut<'s> {
    /// Keys of the tree of values, whose places are behind those of the declared ones.
    extra: Vec<Vec<u8>>,
    /// What is not written yet.
    unwritten: Vec<LongValue>,
    written: Vec<Written<'s>>,
    /// What the markers of replaced values add.
    marked: u64,
    replaces: bool,
}

/// A long value that is written, and that no key refers to yet.
struct Written<'s> {
    /// Of the key that is to refer to it.
    place: usize,
    /// Where its bytes are among the staged ones.
    range: Range<usize>,
    value: Unreferenced<'s>,
}

/// Long values that were written for changes that could not be made. What no key refers to in the
/// end is reclaimed.
#[derive(Default)]
pub(super) struct Spare<'s> {
    staged: Vec<u8>,
    written: Vec<Written<'s>>,
}

impl<'s> Spare<'s> {
    /// Where the value of the key at `place` is, if it is this one.
    fn find(&self, place: usize, value: &[u8]) -> Option<usize> {
        if Defects::now().has(EngineDefect::ValuesWrittenAgain) {
            return None;
        }
        self.written
            .iter()
            .position(|written| written.place == place && self.staged[written.range.clone()] == *value)
    }

    fn take(&mut self, place: usize, value: &[u8]) -> Option<Unreferenced<'s>> {
        let at = self.find(place, value)?;
        Some(self.written.swap_remove(at).value)
    }
}

impl LaidOut<'_> {
    /// The keys of all changes: the declared ones, and those behind them.
    pub(super) fn keys<'k>(&'k self, declared: &[Key<'k>]) -> Vec<Key<'k>> {
        let extra = self.extra.iter().map(|key| (values(), &key[..]));
        declared.iter().copied().chain(extra).collect()
    }

    /// One more change, of a key behind `declared` others.
    fn push(&mut self, declared: usize, key: &[u8], to: To) -> OneChange {
        self.extra.push(key.to_vec());
        OneChange { place: declared + self.extra.len() - 1, to, effect: Effect::Unknown }
    }
}

/// A value that is to be written before the record. The change has an empty reference until then,
/// and its marker an empty number: they are as long as what comes.
struct LongValue {
    /// Which change, and of which key.
    at: usize,
    place: usize,
    /// Among the staged bytes.
    range: Range<usize>,
    /// Which key behind the declared ones is its marker's.
    marker: usize,
}

const NO_REFERENCE: Reference = [0; VALUE_REFERENCE_BYTES];

/// What changes add, long values included but for those that are written, and what kind of them
/// they are.
pub(super) fn adds(
    declared: &[Key<'_>],
    changes: &Changes,
    (seen, spare): (&Seen, &Spare<'_>),
) -> (u64, Kind) {
    let (mut all, mut kind) = (0, Kind::Replaces);
    for OneChange { place, to, .. } in &changes.list {
        let To::Put(range) = to else { continue };
        let (key, value) = (declared[*place].1, &changes.staged[range.clone()]);
        let old = seen.value_bytes(*place);
        let is_longer = old.is_none_or(|old| old < value.len() as u64);
        kind = kind.and(Kind::of(old, value.len() as u64));
        all += match value.len() > INLINE_BYTES {
            true if spare.find(*place, value).is_some() => {
                added_bytes(key, Change::PutReference(&[0; VALUE_REFERENCE_BYTES]))
            }
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

    /// Makes changes with long values, if the keys have what was `seen`. What an attempt before
    /// has written is `spare`.
    pub(super) async fn carry_out<'s>(
        &'s self,
        declared: &[Key<'_>],
        mut changes: Changes,
        (seen, spare): (&Seen, Spare<'s>),
        (durability, reach): (Durability, Reach),
    ) -> Result<Carried<'s>> {
        let adds = adds(declared, &changes, (seen, &spare));
        let mut laid_out = self.lay_out(declared, &mut changes, seen).await;
        let len = changes.record_bytes(&laid_out.keys(declared));
        if len > self.log.log().max_record_bytes() {
            return Ok(Carried::Large);
        }
        let mut held = self.hold(adds).await?;
        self.write_long(&mut changes, &mut laid_out, (spare, &mut held)).await?;
        let keys = laid_out.keys(declared);
        let mut tries = 0;
        loop {
            self.wait_for_log().await?;
            self.prepare(&keys).await?;
            let mut room = self.log_room(len).await?;
            let latched = self.shared.latches.take_all(declared);
            if !self.may_change(&keys) {
                continue;
            }
            if reach == Reach::Named {
                self.check_trees(declared)?;
            }
            // Nothing awaits from here to the record.
            if let Err(refusal) = self.is_ready(&keys) {
                drop((room, latched));
                tries += 1;
                if tries >= TRIES {
                    return Ok(Carried::Large);
                }
                self.overcome(refusal).await?;
                continue;
            }
            match self.is_unchanged(declared, seen) {
                Ok(true) => {}
                Ok(false) => {
                    return Ok(Carried::Changed(Spare { staged: changes.staged, written: laid_out.written }));
                }
                Err(miss) => {
                    drop((room, latched));
                    self.load(miss).await?;
                    continue;
                }
            }
            let number = self.apply(&keys, &changes, &mut room);
            drop((room, latched, keys));
            self.carried_out(laid_out, held, (number, durability));
            return Ok(Carried::Out(number));
        }
    }

    /// The record of changes that were laid out is written, with this number.
    pub(super) fn carried_out(
        &self,
        LaidOut { written, marked, replaces, .. }: LaidOut<'_>,
        held: Held<'_>,
        (number, durability): (u64, Durability),
    ) {
        held.wrote_all();
        // These are never refused: what they are for is more than they are.
        self.shared.space.reserve(marked);
        self.log.commit(number, durability);
        written.into_iter().for_each(|written| written.value.refer_to());
        if replaces {
            self.shared.values.errand.ask();
        }
    }

    /// Gives the long values among the changes references in their places, and adds what goes with
    /// these. The changes are as long then as they will be.
    pub(super) async fn lay_out<'s>(
        &'s self,
        declared: &[Key<'_>],
        changes: &mut Changes,
        seen: &Seen,
    ) -> LaidOut<'s> {
        let (mut laid_out, mut pieces, mut markers) = (LaidOut::default(), Vec::new(), Vec::new());
        let mut direct = self.log.log().max_record_bytes() / 2;
        for (at, change) in changes.list.iter_mut().enumerate() {
            if at % CHANGES_AT_ONCE == CHANGES_AT_ONCE - 1 {
                yield_now().await;
            }
            if let To::Put(range) = &change.to
                && range.len() > INLINE_BYTES
            {
                let value = &changes.staged[range.clone()];
                change.to = if value.len() <= DIRECT_BYTES.min(direct) {
                    direct -= value.len();
                    let reference = self.new_reference(value);
                    for (key, piece) in Self::pieces_of(&reference) {
                        let piece = range.start + piece.start..range.start + piece.end;
                        pieces.push(laid_out.push(declared.len(), &key, To::Put(piece)));
                    }
                    To::Reference(reference.encode())
                } else {
                    let (marker, range) = (laid_out.extra.len(), range.clone());
                    markers.push(laid_out.push(declared.len(), &marker_key(0), To::Delete));
                    laid_out.unwritten.push(LongValue { at, place: change.place, range, marker });
                    To::Reference(NO_REFERENCE)
                };
            }
            let replaced = seen.reference(change.place);
            laid_out.replaces |= replaced.is_some();
            if let Some((key, marker)) = replaced.as_ref().and_then(dead_marker) {
                let start = changes.staged.len();
                changes.staged.extend_from_slice(&marker);
                laid_out.marked += MARKER_ENTRY_BYTES;
                markers.push(laid_out.push(declared.len(), &key, To::Put(start..start + marker.len())));
            }
        }
        laid_out.unwritten.iter_mut().for_each(|value| value.at += pieces.len());
        // Whoever sees a key's entry finds the pieces, and whoever sees a marker no entry any more.
        if !pieces.is_empty() {
            pieces.append(&mut changes.list);
            changes.list = pieces;
        }
        changes.list.append(&mut markers);
        laid_out
    }

    /// Writes the long values of changes that were laid out, but for those that are `spare`.
    ///
    /// # Errors
    ///
    /// As for a write; what was written is reclaimed.
    pub(super) async fn write_long<'s>(
        &'s self,
        changes: &mut Changes,
        laid_out: &mut LaidOut<'s>,
        (mut spare, held): (Spare<'s>, &mut Held<'_>),
    ) -> Result<()> {
        for LongValue { at, place, range, marker } in std::mem::take(&mut laid_out.unwritten) {
            let bytes = &changes.staged[range.clone()];
            let value = match spare.take(place, bytes) {
                Some(value) => value,
                None => self.write_value(bytes, held).await?,
            };
            changes.list[at].to = To::Reference(value.reference.encode());
            laid_out.extra[marker] = value.marker_key().to_vec();
            laid_out.written.push(Written { place, range, value });
        }
        Ok(())
    }

    /// Holds what long values add, as soon as there is room.
    pub(super) async fn hold(&self, (bytes, kind): (u64, Kind)) -> Result<Held<'_>> {
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
            if !seen.is(place, now) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
