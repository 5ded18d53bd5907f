//! Superblocks: four copies of where everything starts (disk format, sections 1 and 2).
//!
//! **Writing.** The copies with the two lowest sequence numbers, a flush, the other two, a flush.
//! So at any moment two durable copies are whole and of one state. What the state before refers to
//! may be reused after the second flush only.
//!
//! **Choosing** ([`choose`]). Copies that are equal are a *group*. Two equal copies prove that an
//! update came as far as its first flush; a single one may be the beginning of an update that was
//! cut off, or all that damage left. So the newest group of two or more counts, and only without
//! any the newest single copy. Either is a state that was complete before its superblock was
//! written. The next number is above that of every copy seen, also of those that did not count.
//!
//! **Forks.** A store that two programs wrote at once, or of which an old half was copied back, has
//! two groups of two that do not descend from each other: equal numbers, or the newer one's
//! `parent` is not the older one. (Single copies prove nothing: a cut-off update leaves one that
//! its successor does not descend from.) Neither group can be trusted, so it is refused.

mod choose;
#[cfg(test)]
mod tests;

pub(in crate::store) use choose::{Choice, Refusal, choose, is_version_1};

use super::geometry::Geometry;
use crate::block::contents::STORE_MAGIC as MAGIC;
use crate::store::codec::{Reader, checksum};
use crate::store::word::{PAGE_IDS, PageRef};

pub(in crate::store) const VERSION: u32 = 2;
/// The bytes of a superblock; the rest of its block is zero.
pub(in crate::store) const BYTES: usize = 512;
/// Where the copies are, in bytes.
pub(in crate::store) const COPIES: [u64; 4] = [0, 128 << 10, 256 << 10, 384 << 10];
/// Where version 1 kept its copies, in bytes; the first is in the same place.
pub(in crate::store) const V1_COPIES: [u64; 4] = [0, 1 << 20, 2 << 20, 3 << 20];
/// Which copy it is; the checksum takes this byte as zero, so that equal copies have equal ones.
const COPY_OFFSET: usize = 72;
/// The most levels of the map: 256^5 is 2^40.
pub(in crate::store) const MAX_LEVELS: u32 = 5;

const FLAG_CLEAN: u32 = 1;
const FLAG_SALVAGED: u32 = 2;
const KIND_MAP: u8 = 7;
const KIND_TABLE_INDEX: u8 = 9;
const KIND_LENGTHS: u8 = 10;
/// No sequence number, epoch, batch or write number comes near this.
const MAX_COUNT: u64 = 1 << 62;

/// The batch of the log with which recovery begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct LogStart {
    pub(in crate::store) segment: u32,
    pub(in crate::store) generation: u32,
    /// In bytes from the start of the segment.
    pub(in crate::store) offset: u32,
    /// The batch's number.
    pub(in crate::store) batch: u64,
    /// The header checksum of the batch before it.
    pub(in crate::store) chain: u64,
    /// Its first write number.
    pub(in crate::store) first_write: u64,
}

/// The content of a superblock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Superblock {
    /// The store was closed, not killed (informative).
    pub(in crate::store) clean: bool,
    /// The store is what `salvage` found.
    pub(in crate::store) salvaged: bool,
    pub(in crate::store) identity: [u8; 16],
    pub(in crate::store) sequence: u64,
    /// How often the store was opened.
    pub(in crate::store) epoch: u64,
    pub(in crate::store) geometry: Geometry,
    /// The checksum of the superblock whose state this one's was made of; 0 for the first.
    pub(in crate::store) parent: u64,
    pub(in crate::store) log: LogStart,
    pub(in crate::store) checkpoint: u64,
    /// The map includes the bundles that earlier batches name, and no others.
    pub(in crate::store) first_batch: u64,
    /// Page ids from here on were never used.
    pub(in crate::store) next_page: u64,
    pub(in crate::store) map: Option<PageRef>,
    /// Levels of the map, 1 to 5.
    pub(in crate::store) map_levels: u32,
    /// The index page of the segment table.
    pub(in crate::store) table: Option<PageRef>,
    /// Granules in use (informative).
    pub(in crate::store) used_granules: u64,
    /// When it was written, in ms since 1970 (informative).
    pub(in crate::store) written_ms: u64,
    /// The page with the number of keys of each tree, as the writes below a number have left them.
    /// The log starts there or before. No page: all trees are empty.
    pub(in crate::store) lengths: Option<PageRef>,
    pub(in crate::store) lengths_at: u64,
}

impl Superblock {
    /// Copy number `copy` (0 to 3).
    pub(in crate::store) fn encode(&self, copy: u8) -> [u8; BYTES] {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        let flags = u32::from(self.clean) * FLAG_CLEAN + u32::from(self.salvaged) * FLAG_SALVAGED;
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.identity);
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.geometry.block.to_le_bytes());
        out.extend_from_slice(&self.geometry.segment.to_le_bytes());
        out.extend_from_slice(&u64::from(self.geometry.segments).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.parent.to_le_bytes());
        for field in [self.log.segment, self.log.generation, self.log.offset, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let log = self.log;
        for field in
            [log.batch, log.chain, log.first_write, self.checkpoint, self.first_batch, self.next_page]
        {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let level = u8::try_from(self.map_levels.saturating_sub(1)).expect("at most 5 levels");
        encode_reference(self.map, level, KIND_MAP, &mut out);
        encode_reference(self.table, 0, KIND_TABLE_INDEX, &mut out);
        out.extend_from_slice(&self.map_levels.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.used_granules.to_le_bytes());
        out.extend_from_slice(&self.written_ms.to_le_bytes());
        encode_reference(self.lengths, 0, KIND_LENGTHS, &mut out);
        out.extend_from_slice(&self.lengths_at.to_le_bytes());
        out.resize(BYTES, 0);
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(&out);
        let sum = sum(&bytes);
        bytes[8..16].copy_from_slice(&sum.to_le_bytes());
        bytes[COPY_OFFSET] = copy;
        bytes
    }

    /// The checksum in each of its copies: the `parent` of its successor.
    pub(in crate::store) fn checksum(&self) -> u64 {
        sum(&self.encode(0))
    }

    /// What `bytes` say, whose magic, checksum and version were checked. `None` if no store can
    /// have such a superblock.
    fn decode_body(bytes: &[u8; BYTES]) -> Option<Self> {
        let reader = &mut Reader::new(&bytes[20..]);
        let flags = reader.u32()?;
        let identity = reader.identity()?;
        let (sequence, epoch) = (reader.u64()?, reader.u64()?);
        let (block, segment) = (reader.u32()?, reader.u32()?);
        let segments = u32::try_from(reader.u64()?).ok()?;
        let zeros = reader.bytes(8)?[1..].iter().all(|&byte| byte == 0);
        let parent = reader.u64()?;
        let (log_segment, generation, offset) = (reader.u32()?, reader.u32()?, reader.u32()?);
        let zero = reader.u32()?;
        let log = LogStart {
            segment: log_segment,
            generation,
            offset,
            batch: reader.u64()?,
            chain: reader.u64()?,
            first_write: reader.u64()?,
        };
        let (checkpoint, first_batch, next_page) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (map, map_level) = decode_reference(reader, KIND_MAP)?;
        let (table, table_level) = decode_reference(reader, KIND_TABLE_INDEX)?;
        let (map_levels, zero_2) = (reader.u32()?, reader.u32()?);
        let (used_granules, written_ms) = (reader.u64()?, reader.u64()?);
        let (lengths, lengths_level) = decode_reference(reader, KIND_LENGTHS)?;
        let lengths_at = reader.u64()?;
        let superblock = Self {
            clean: flags & FLAG_CLEAN != 0,
            salvaged: flags & FLAG_SALVAGED != 0,
            identity,
            sequence,
            epoch,
            geometry: Geometry { block, segment, segments },
            parent,
            log,
            checkpoint,
            first_batch,
            next_page,
            map,
            map_levels,
            table,
            used_granules,
            written_ms,
            lengths,
            lengths_at,
        };
        let rest = reader.bytes(256)?.iter().all(|&byte| byte == 0);
        let level_fits = u32::from(map_level) + 1 == map_levels;
        let sound = flags & !(FLAG_CLEAN | FLAG_SALVAGED) == 0
            && zeros
            && zero | zero_2 == 0
            && table_level | lengths_level == 0
            && level_fits
            && rest;
        (sound && superblock.is_plausible()).then_some(superblock)
    }

    /// Whether the numbers can be those of a store.
    fn is_plausible(&self) -> bool {
        let geometry = self.geometry;
        let is_place = |page: Option<PageRef>| page.is_none_or(|page| geometry.locate(page.place).is_some());
        geometry.is_plausible()
            && (1..MAX_COUNT).contains(&self.sequence)
            && self.epoch < MAX_COUNT
            && (geometry.first_segment()..geometry.segments).contains(&self.log.segment)
            && self.log.generation > 0
            && self.log.offset >= geometry.block
            && self.log.offset <= geometry.segment
            && self.log.offset.is_multiple_of(geometry.block)
            && (1..MAX_COUNT).contains(&self.log.batch)
            && self.log.first_write <= self.lengths_at
            && self.lengths_at < MAX_COUNT
            && self.checkpoint < MAX_COUNT
            && (1..MAX_COUNT).contains(&self.first_batch)
            && self.next_page <= PAGE_IDS
            && (1..=MAX_LEVELS).contains(&self.map_levels)
            && self.next_page <= 1 << (8 * self.map_levels)
            && is_place(self.map)
            && is_place(self.table)
            && is_place(self.lengths)
    }
}

/// A page reference of 24 bytes.
fn encode_reference(page: Option<PageRef>, level: u8, kind: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&PageRef::encode(page));
    out.extend_from_slice(&[level, kind, 0, 0, 0, 0, 0, 0]);
}

/// The reference to a page of `kind`, and its level.
fn decode_reference(reader: &mut Reader<'_>, kind: u8) -> Option<(Option<PageRef>, u8)> {
    let page = PageRef::decode(reader)?;
    let rest = reader.bytes(8)?;
    (rest[1] == kind && rest[2..].iter().all(|&byte| byte == 0)).then_some((page, rest[0]))
}

/// The checksum over a superblock.
fn sum(bytes: &[u8; BYTES]) -> u64 {
    let mut bytes = *bytes;
    bytes[COPY_OFFSET] = 0;
    checksum(&bytes[16..])
}

/// The sequence number of each copy, 0 where there is no valid one.
pub(in crate::store) type Sequences = [u64; 4];

/// What an [`Update`] needs to be done next.
#[derive(Debug)]
pub(in crate::store) enum UpdateStep {
    /// Write this at the start of the block at `offset` (bytes), zeros behind it; the writes up to
    /// the next flush may be under way together.
    Write { offset: u64, bytes: Box<[u8; BYTES]> },
    /// Flush what was written.
    Flush,
}

/// Writing a superblock. After an error of a write or a flush the store must be given up: either
/// superblock may be the newest.
#[derive(Debug)]
pub(in crate::store) struct Update {
    superblock: Superblock,
    order: [u8; 4],
    step: usize,
}

impl Update {
    /// Begins to write `superblock` over copies with the numbers `sequences`.
    pub(in crate::store) fn new(superblock: Superblock, sequences: &Sequences) -> Self {
        debug_assert!(sequences.iter().all(|&sequence| sequence < superblock.sequence));
        let mut order = [0, 2, 1, 3];
        order.sort_by_key(|&copy: &u8| sequences[usize::from(copy)]);
        Self { superblock, order, step: 0 }
    }

    /// What to do next, once what was asked for before is done; `None` when the update is durable,
    /// and the copies have its number.
    pub(in crate::store) fn step(&mut self) -> Option<UpdateStep> {
        let place = match self.step {
            0 | 1 => self.step,
            3 | 4 => self.step - 1,
            2 | 5 => {
                self.step += 1;
                return Some(UpdateStep::Flush);
            }
            _ => return None,
        };
        self.step += 1;
        let copy = self.order[place];
        let bytes = Box::new(self.superblock.encode(copy));
        Some(UpdateStep::Write { offset: COPIES[usize::from(copy)], bytes })
    }
}
