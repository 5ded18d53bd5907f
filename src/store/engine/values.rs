//! Long values: those of more than [`INLINE_BYTES`] lie in pieces in a tree of their own, and the
//! key's entry refers to them.
//!
//! The tree of values ([`values`](super::registry::values)) is a tree like any other, without a
//! name. So its pages are written, cleaned, cached and recovered as all pages are, and the log has
//! its writes as it has all others.
//!
//! | key | value |
//! |---|---|
//! | 0, number of the value (8 bytes) | a **marker**: 0 for a value that is being written, 1 for one that nobody refers to any more; how many pieces it has (4) |
//! | 1, number of the value (8), which piece (4) | the piece: [`PIECE_BYTES`], the last one less |
//!
//! Integers in keys are big endian, so that the pieces of a value lie side by side; those in values
//! are little endian. Numbers of values are not used again: the upper 24 bits are the epoch of the
//! opening that gave them out, and so nothing has to be read to know the next one.
//!
//! # A value's life
//!
//! | step | records of the log |
//! |---|---|
//! | it is written, if it is short: up to [`DIRECT_BYTES`] | one: the pieces, and the key's entry |
//! | it is written, if it is longer | the marker *being written*; each piece; then in one record the key's entry, and the deletion of the marker |
//! | another write of the key replaces or deletes it | one: the key's entry, and the marker *dead* |
//! | it is reclaimed ([`reclaim`]) | the deletion of each piece, then that of the marker |
//!
//! What a crash leaves of the log is always a prefix. So a key's entry never refers to a value that
//! is not whole, and a value that no entry refers to has a marker. A marker *being written* that is
//! found at an opening belongs to a writer that is no more.
//!
//! # Readers
//!
//! A reader of a long value awaits pages, and nothing keeps the value for it. If a piece is gone
//! the value was replaced meanwhile, and the reader looks at the key again: a key that still refers
//! to the same value is damaged.

pub(super) mod numbers;
mod reclaim;
mod write;

use std::cell::RefCell;

use xxhash_rust::xxh3::Xxh3Default;

pub(super) use self::numbers::PIECE_BYTES;
use self::numbers::PIECE_KEY_BYTES;
pub(super) use self::reclaim::reclaim_when_asked;
pub(super) use self::write::{Unreferenced, dead_marker};
use super::core_store::CoreStore;
use super::operations::Look;
use super::registry::values;
use super::signal::all as all_of;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};
use crate::rt::yield_now;
use crate::store::btree::{VALUE_REFERENCE_BYTES, ValueReference};
use crate::store::env::Env;
use crate::store::options::MAX_VALUE_BYTES;

/// The longest value that lies with its key, in bytes: of such, a leaf has three.
pub(super) const INLINE_BYTES: usize = 1008;
/// A value of so many bytes is written with the record that refers to it.
pub(super) const DIRECT_BYTES: usize = PIECE_BYTES;
/// So many pieces are copied before others run: 112 KiB, some 30 µs.
const PIECES_AT_ONCE: u32 = 8;
/// So many pieces of a value that is not in memory are loaded at a time.
const LOADED_AT_ONCE: u32 = 4;

/// What the keys of markers begin with, and those of pieces.
const MARKER: u8 = 0;
const PIECE: u8 = 1;
/// What a marker says first.
const BEING_WRITTEN: u8 = 0;
const DEAD: u8 = 1;

/// The encoded form of a reference.
pub(super) type Reference = [u8; VALUE_REFERENCE_BYTES];

/// The key of the marker of a value.
pub(super) fn marker_key(number: u64) -> [u8; 9] {
    let mut key = [MARKER; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

fn piece_key(number: u64, piece: u32) -> [u8; PIECE_KEY_BYTES] {
    let mut key = [PIECE; PIECE_KEY_BYTES];
    key[1..9].copy_from_slice(&number.to_be_bytes());
    key[9..].copy_from_slice(&piece.to_be_bytes());
    key
}

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Marker {
    number: u64,
    is_dead: bool,
    pieces: u32,
}

impl Marker {
    fn value(self) -> [u8; 5] {
        let mut value = [if self.is_dead { DEAD } else { BEING_WRITTEN }; 5];
        value[1..].copy_from_slice(&self.pieces.to_le_bytes());
        value
    }

    /// None if that is no marker.
    fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let number = u64::from_be_bytes(key.strip_prefix(&[MARKER])?.try_into().ok()?);
        let [state, pieces @ ..]: [u8; 5] = value.try_into().ok()?;
        let is_dead = match state {
            BEING_WRITTEN => false,
            DEAD => true,
            _ => return None,
        };
        let pieces = u32::from_le_bytes(pieces);
        (pieces <= self::pieces(MAX_VALUE_BYTES as u64)).then_some(Self { number, is_dead, pieces })
    }

    /// That of the value that `reference` refers to.
    fn of_dead(reference: &ValueReference) -> Self {
        Self { number: reference.value, is_dead: true, pieces: pieces(reference.len) }
    }
}

/// How many pieces a value of this length has.
fn pieces(len: u64) -> u32 {
    u32::try_from(len.div_ceil(PIECE_BYTES as u64)).unwrap_or(u32::MAX)
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// The long value that the entry of `key` refers to. None if it was replaced while it was read:
    /// the caller looks at the key again. `failed` is what the same caller got None for before.
    ///
    /// # Errors
    ///
    /// As for loading a page; [`ErrorKind::Corrupt`] if what the key refers to is not there, or
    /// not what was written; [`ErrorKind::OutOfMemory`] for the copy.
    pub(super) async fn read_value(
        &self,
        reference: &Reference,
        failed: &mut Option<Reference>,
    ) -> Result<Option<Vec<u8>>> {
        let damaged = |why: &str| {
            Error::new(ErrorKind::Corrupt, "read store").at(self.shared.name.clone()).because(why.to_owned())
        };
        let decoded = ValueReference::decode(reference).filter(|found| found.len <= MAX_VALUE_BYTES as u64);
        let ValueReference { value: number, len, checksum } =
            decoded.ok_or_else(|| damaged("a key's entry refers to no value"))?;
        let mut value = Vec::new();
        let has_room = usize::try_from(len).is_ok_and(|len| value.try_reserve_exact(len).is_ok());
        if !has_room {
            return Err(Error::new(ErrorKind::OutOfMemory, "read store")
                .because(format!("there is no memory for a value of {len} bytes")));
        }
        let mut hash = Xxh3Default::new();
        let mut piece = 0;
        while piece < pieces(len) {
            let from = value.len();
            let read = self.append_pieces((number, piece), pieces(len), &mut value).await?;
            if read == 0 {
                return match failed.replace(*reference) {
                    Some(before) if before == *reference => {
                        Err(damaged("a part of a value of more than a page is not there"))
                    }
                    _ => Ok(None),
                };
            }
            hash.update(&value[from..]);
            piece += read;
            if piece % PIECES_AT_ONCE < read {
                yield_now().await;
            }
        }
        if value.len() as u64 != len || hash.digest() != checksum {
            return Err(damaged("a value of more than a page is not as it was written"));
        }
        Ok(Some(value))
    }

    /// Appends a piece of a value that has `all` of them, and if that is not in memory some of the
    /// next ones as well. How many: none if the first is not there.
    async fn append_pieces(&self, (number, piece): (u64, u32), all: u32, value: &mut Vec<u8>) -> Result<u32> {
        let key = piece_key(number, piece);
        let mut append = Some(|bytes: &[u8]| value.extend_from_slice(bytes));
        match self.look(values(), &key, &mut append) {
            Ok(Look::Value(())) => return Ok(1),
            Ok(_) => return Ok(0),
            Err(_) => {}
        }
        // Each is taken as soon as it is there: the next ones may drive it out.
        let ahead = piece..all.min(piece + LOADED_AT_ONCE);
        let loaded = RefCell::new(vec![None; ahead.len()]);
        let loads = ahead.zip(0..).map(|(piece, at): (u32, usize)| {
            let loaded = &loaded;
            async move {
                let found = self.get(values(), &piece_key(number, piece), <[u8]>::to_vec).await?;
                loaded.borrow_mut()[at] = found;
                Ok::<_, Error>(())
            }
        });
        all_of(loads).await?;
        let there: Vec<Vec<u8>> = loaded.into_inner().into_iter().map_while(|piece| piece).collect();
        there.iter().for_each(|piece| value.extend_from_slice(piece));
        Ok(u32::try_from(there.len()).expect("a few"))
    }
}
