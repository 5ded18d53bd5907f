//! Writing long values.

use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

use super::{Marker, PIECE_BYTES, PIECE_KEY_BYTES, PIECES_AT_ONCE, Reference, marker_key, piece_key, pieces};
use crate::block::Namespace;
use crate::error::Result;
use crate::rt::yield_now;
use crate::store::btree::{Change, ValueReference};
use crate::store::engine::core_store::{CoreStore, Shared};
use crate::store::engine::registry::values;
use crate::store::engine::space::account::Held;
use crate::store::env::Env;

/// A value that is written, and that no key refers to yet. If none does it is reclaimed.
pub(in crate::store::engine) struct Unreferenced<'s> {
    shared: &'s Shared,
    pub(in crate::store::engine) reference: ValueReference,
    is_referred_to: bool,
}

impl Unreferenced<'_> {
    /// The record that refers to it, and deletes its marker, is written.
    pub(in crate::store::engine) fn refer_to(mut self) {
        self.is_referred_to = true;
    }

    pub(in crate::store::engine) fn marker_key(&self) -> [u8; 9] {
        marker_key(self.reference.value)
    }
}

impl Drop for Unreferenced<'_> {
    fn drop(&mut self) {
        if !self.is_referred_to {
            self.shared.values.abandon(self.reference.value);
        }
    }
}

/// The marker of a value that nobody will refer to any more: key and value.
pub(in crate::store::engine) fn dead_marker(reference: &Reference) -> Option<([u8; 9], [u8; 5])> {
    let marker = Marker::of_dead(&ValueReference::decode(reference)?);
    Some((marker_key(marker.number), marker.value()))
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// A reference to a value whose pieces the caller writes with it.
    pub(in crate::store::engine) fn new_reference(&self, value: &[u8]) -> ValueReference {
        let number = self.shared.values.draw();
        ValueReference { value: number, len: value.len() as u64, checksum: xxh3_64(value) }
    }

    /// The keys of a value's pieces, and where each begins and ends in it.
    pub(in crate::store::engine) fn pieces_of(
        reference: &ValueReference,
    ) -> impl Iterator<Item = ([u8; PIECE_KEY_BYTES], std::ops::Range<usize>)> + use<E, N> {
        let (number, len) = (reference.value, usize::try_from(reference.len).expect("it is in memory"));
        (0..pieces(reference.len)).map(move |piece| {
            let start = piece as usize * PIECE_BYTES;
            (piece_key(number, piece), start..len.min(start + PIECE_BYTES))
        })
    }

    /// Writes a value that no key refers to yet, piece by piece.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::write`], but that all of it was admitted before. What was written is
    /// reclaimed.
    pub(in crate::store::engine) async fn write_value(
        &self,
        value: &[u8],
        held: &mut Held<'_>,
    ) -> Result<Unreferenced<'_>> {
        let number = self.shared.values.draw();
        let reference = ValueReference { value: number, len: value.len() as u64, checksum: 0 };
        let mut written = Unreferenced { shared: &self.shared, reference, is_referred_to: false };
        let marker = Marker { number, is_dead: false, pieces: pieces(reference.len) }.value();
        self.write_held(values(), &marker_key(number), Change::Put(&marker), held).await?;
        let mut hash = Xxh3Default::new();
        for (piece, (key, range)) in (1..).zip(Self::pieces_of(&reference)) {
            let part = &value[range];
            hash.update(part);
            self.write_held(values(), &key, Change::Put(part), held).await?;
            if piece % PIECES_AT_ONCE == 0 {
                yield_now().await;
            }
        }
        written.reference.checksum = hash.digest();
        Ok(written)
    }
}
