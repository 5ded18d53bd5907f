//! Bundles: pages that are written together and are durable together (design, sections 4.2 and
//! 7.5).
//!
//! - [`Builder`] puts pages into a caller's buffer, then the trailer; [`Trailer::parse`] is the way
//!   back.
//! - `buffer`: the states of a bundle on its way, and rule W1: no page is ahead of the log.
//! - `debts`: rule W2: which pages must be durable together.
//!
//! A bundle's number is the epoch of the opening that wrote it, times 2^40, and a count. So no two
//! bundles have one number, not even when the first was lost in a crash, and of two images of a
//! page the one in the bundle with the larger number is the newer.
//!
//! The log names a trailer by a cold word. That is 64 KiB at most, so a bundle has
//! [`MAX_ENTRIES`] pages at most, however small they are.

mod buffer;
mod debts;
#[cfg(test)]
mod tests;

pub(super) use buffer::{Durable, FlushClock, Naming, Sealed, Written};
pub(super) use debts::Debts;

use super::damage::{Checker, Damage, Structure};
use super::geometry::{GRANULE_BYTES, Geometry};
use super::map_page::Owner;
use super::page::{PageHeader, stored_granules};
use super::word::{ChildWord, ColdWord, MAX_PAGE_BYTES, PageRef, SecondWord};
use crate::store::codec::{Reader, checksum, to_u32};

const MAGIC: [u8; 4] = *b"bTRL";
const TRAILER_BYTES: usize = 80;
const ENTRY_BYTES: usize = 32;
const FREED_BYTES: usize = 8;
/// The most pages of a bundle.
pub(super) const MAX_ENTRIES: usize = (MAX_PAGE_BYTES - TRAILER_BYTES) / ENTRY_BYTES;
/// The most bytes of a bundle's pages.
pub(super) const MAX_PAGES_BYTES: usize = 1 << 20;

/// The number of the `count`th bundle (below 2^40) since the opening with this epoch.
pub(super) fn number(epoch: u64, count: u64) -> u64 {
    debug_assert!(count < 1 << 40);
    epoch << 40 | count
}

/// What a trailer says about one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) page: ChildWord,
    pub(super) place: ColdWord,
    /// Marked if cleaning moved the page.
    pub(super) second: SecondWord,
    /// Where the image lies that this one replaces; none for a first image.
    pub(super) replaces: ColdWord,
}

/// What a bundle says about the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trailer {
    pub(super) number: u64,
    pub(super) segment: u32,
    pub(super) generation: u32,
    /// The newest write in its pages.
    pub(super) newest: u64,
    pub(super) entries: Vec<Entry>,
    /// Ids that became free, with the epoch that their next use starts from.
    pub(super) freed: Vec<ChildWord>,
}

/// The page does not fit: the bundle is to be sealed, and the page goes into the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A bundle that is being filled. The bytes are the caller's: one buffer, as long as the whole
/// bundle can become, passed to each call.
#[derive(Debug)]
pub(super) struct Builder {
    owner: Owner,
    /// The granule in the segment at which it starts, and at which the next page starts.
    first: u32,
    end: u32,
    trailer: Trailer,
}

impl Builder {
    /// Begins a bundle at `first` granules of a segment, which is the start of a block.
    pub(super) fn new(owner: Owner, number: u64, (segment, generation): (u32, u32), first: u32) -> Self {
        debug_assert!(first.is_multiple_of(owner.geometry.block_granules()) && first > 0);
        let trailer = Trailer { number, segment, generation, ..Trailer::default() };
        Self { owner, first, end: first, trailer }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end == self.first && self.trailer.freed.is_empty()
    }

    /// Whether so many more granules of pages, entries and freed ids have room.
    fn has_room(&self, buffer: &[u8], granules: u32, entries: usize, freed: usize) -> bool {
        let trailer = trailer_len(self.trailer.entries.len() + entries, self.trailer.freed.len() + freed);
        let pages = (self.end - self.first + granules) as usize * GRANULE_BYTES;
        let len = (pages + trailer).next_multiple_of(self.owner.geometry.block as usize);
        let left = (self.owner.geometry.segment_granules() - self.first) as usize * GRANULE_BYTES;
        trailer <= MAX_PAGE_BYTES && pages <= MAX_PAGES_BYTES && len <= left && len <= buffer.len()
    }

    /// Adds a page of the tree: its content as `stored`, `content_len` bytes long when it is not
    /// compressed. `flags` are those of its second word, `newest` its newest write, `replaces` the
    /// place of its image before.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was added.
    pub(super) fn append(
        &mut self,
        buffer: &mut [u8],
        header: &PageHeader,
        (stored, content_len): (&[u8], usize),
        (flags, newest, replaces): (u64, u64, ColdWord),
    ) -> Result<Entry, Full> {
        if !self.has_room(buffer, stored_granules(stored.len()), 1, 0) {
            return Err(Full);
        }
        let PageRef { place, checksum } = self.write(buffer, header, (stored, content_len));
        let second = SecondWord::new(checksum, header.page.epoch(), flags);
        let entry = Entry { page: header.page, place, second, replaces };
        self.trailer.entries.push(entry);
        self.trailer.newest = self.trailer.newest.max(newest);
        Ok(entry)
    }

    /// Adds a page of the map or of the segment table, to which its parent refers.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was added.
    pub(super) fn append_meta(
        &mut self,
        buffer: &mut [u8],
        header: &PageHeader,
        content: &[u8],
    ) -> Result<PageRef, Full> {
        if !self.has_room(buffer, stored_granules(content.len()), 0, 0) {
            return Err(Full);
        }
        Ok(self.write(buffer, header, (content, content.len())))
    }

    fn write(&mut self, buffer: &mut [u8], header: &PageHeader, (stored, len): (&[u8], usize)) -> PageRef {
        let granules = stored_granules(stored.len());
        let header = PageHeader { bundle: self.trailer.number, ..*header };
        let out = &mut buffer[(self.end - self.first) as usize * GRANULE_BYTES..];
        let checksum = header.write(&self.owner.identity, stored, len, out);
        let granule = self.owner.geometry.granule(self.trailer.segment, self.end);
        self.end += granules;
        PageRef { place: ColdWord::new(granule, granules), checksum }
    }

    /// Says that an id became free.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was added.
    pub(super) fn free(&mut self, buffer: &[u8], page: ChildWord) -> Result<(), Full> {
        if !self.has_room(buffer, 0, 0, 1) {
            return Err(Full);
        }
        self.trailer.freed.push(page);
        Ok(())
    }

    /// Writes the trailer and zeros to the end of the block behind it.
    pub(super) fn seal(self, buffer: &mut [u8]) -> Sealed {
        let Self { owner, first, end, trailer } = self;
        let (bytes, sum) = trailer.encode(first, &owner.identity);
        let start = (end - first) as usize * GRANULE_BYTES;
        let len = (start + bytes.len()).next_multiple_of(owner.geometry.block as usize);
        let (content, padding) = buffer[start..len].split_at_mut(bytes.len());
        content.copy_from_slice(&bytes);
        padding.fill(0);
        let granule = owner.geometry.granule(trailer.segment, end);
        let granules = to_u32(bytes.len().div_ceil(GRANULE_BYTES));
        let at = PageRef { place: ColdWord::new(granule, granules), checksum: sum };
        let offset = owner.geometry.offset(trailer.segment) + u64::from(first) * GRANULE_BYTES as u64;
        Sealed::new(trailer, at, offset, len)
    }
}

fn trailer_len(entries: usize, freed: usize) -> usize {
    TRAILER_BYTES + entries * ENTRY_BYTES + freed * FREED_BYTES
}

impl Trailer {
    /// Its bytes and its checksum.
    fn encode(&self, first: u32, identity: &[u8; 16]) -> (Vec<u8>, u64) {
        let len = trailer_len(self.entries.len(), self.freed.len());
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&to_u32(len).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(identity);
        out.extend_from_slice(&self.number.to_le_bytes());
        let (entries, freed) = (to_u32(self.entries.len()), to_u32(self.freed.len()));
        for field in [self.segment, self.generation, first, entries, freed, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.newest.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        for entry in &self.entries {
            for word in [entry.page.0, entry.place.0, entry.second.0, entry.replaces.0] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        self.freed.iter().for_each(|page| out.extend_from_slice(&page.0.to_le_bytes()));
        let sum = checksum(&out[16..]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        (out, sum)
    }

    /// Parses the trailer that the log says is `at`, from where `bytes` were read.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse(bytes: &[u8], at: PageRef, owner: &Owner) -> Result<Self, Damage> {
        let is = Checker::new(Structure::Trailer, at.place.offset());
        let geometry = &owner.geometry;
        let place = geometry.locate(at.place);
        let (in_segment, end) =
            place.ok_or_else(|| is.damage("the log says that it lies where none can be"))?;
        let reader = &mut Reader::new(is.some(bytes.get(..at.place.len_bytes()))?);
        is.check(is.some(reader.bytes(4))? == MAGIC, "there is none")?;
        let (len, sum) = (is.some(reader.u32())? as usize, is.some(reader.u64())?);
        is.check(len.div_ceil(GRANULE_BYTES) == at.place.granules() as usize, "its length is wrong")?;
        let covered = is.some(bytes.get(16..len))?;
        is.check(sum == at.checksum && sum == checksum(covered), "its checksum is wrong")?;
        is.check(is.some(reader.identity())? == owner.identity, "it belongs to another store")?;
        let number = is.some(reader.u64())?;
        let (segment, generation) = (is.some(reader.u32())?, is.some(reader.u32())?);
        let (first, pages) = (is.some(reader.u32())?, is.some(reader.u32())? as usize);
        let (frees, zero) = (is.some(reader.u32())? as usize, is.some(reader.u32())?);
        let (newest, zeros) = (is.some(reader.u64())?, is.some(reader.u64())?);
        is.check(zero == 0 && zeros == 0, "there is something where zeros are to be")?;
        // Both numbers are 32 bits, so this cannot overflow; it bounds what is allocated.
        is.check(len == trailer_len(pages, frees), "its number of entries does not fit its length")?;
        is.check(segment == in_segment && generation > 0, "it belongs to another segment")?;
        let block = geometry.block_granules();
        is.check(
            first >= block && first.is_multiple_of(block) && first <= end,
            "its pages cannot start there",
        )?;
        let mut entries = Vec::with_capacity(pages);
        let mut next = first;
        for _ in 0..pages {
            let page = ChildWord(is.some(reader.u64())?);
            let place = ColdWord::checked(is.some(reader.u64())?).unwrap_or_default();
            let flags = SecondWord::COLD | SecondWord::EXPIRES | SecondWord::MOVED;
            let second = SecondWord::checked(is.some(reader.u64())?, flags);
            let replaces = ColdWord::checked(is.some(reader.u64())?);
            let (Some(second), Some(replaces)) = (second, replaces) else {
                return Err(is.damage("an entry has bits that no entry has"));
            };
            is.check(
                geometry.locate(place) == Some((segment, next)),
                "its pages do not lie one after the other",
            )?;
            next += place.granules();
            is.check(page.id() > 0 && page.epoch() == second.epoch(), "an entry has two epochs, or no page")?;
            let known = replaces.is_none() || geometry.locate(replaces).is_some();
            is.check(
                known && (!second.is_moved() || !replaces.is_none()),
                "an entry replaces what cannot be",
            )?;
            entries.push(Entry { page, place, second, replaces });
        }
        is.check(pages == 0 || next == end, "it does not lie behind its pages")?;
        let mut freed = Vec::with_capacity(frees);
        for _ in 0..frees {
            let page = ChildWord(is.some(reader.u64())?);
            is.check(page.id() > 0, "it frees no page")?;
            freed.push(page);
        }
        Ok(Self { number, segment, generation, newest, entries, freed })
    }
}

/// The header of a segment (disk format 2, section 7.3), written with its first bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) segment: u32,
    pub(super) generation: u32,
    /// Part of the log: the next segment and its generation.
    pub(super) log: Option<(u32, u32)>,
    pub(super) temperature: super::segment::Temperature,
    /// The number of its first batch, or bundle.
    pub(super) first: u64,
}

impl SegmentHeader {
    const MAGIC: [u8; 8] = *b"boson\0sg";
    /// Its bytes; the rest of its block is zero.
    pub(super) const BYTES: usize = 64;

    pub(super) fn encode(&self, identity: &[u8; 16]) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&Self::MAGIC);
        out[16..32].copy_from_slice(identity);
        let (next, generation) = self.log.unwrap_or_default();
        out[32..36].copy_from_slice(&self.segment.to_le_bytes());
        out[36..40].copy_from_slice(&self.generation.to_le_bytes());
        out[40] = if self.log.is_some() { 2 } else { 1 };
        out[41] = self.temperature as u8;
        out[44..48].copy_from_slice(&next.to_le_bytes());
        out[48..52].copy_from_slice(&generation.to_le_bytes());
        out[56..64].copy_from_slice(&self.first.to_le_bytes());
        let sum = checksum(&out[16..]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Parses the header of `segment`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse(
        bytes: &[u8],
        segment: u32,
        identity: &[u8; 16],
        geometry: &Geometry,
    ) -> Result<Self, Damage> {
        let is = Checker::new(Structure::SegmentHeader, geometry.offset(segment));
        let bytes = is.some(bytes.first_chunk::<{ Self::BYTES }>())?;
        let reader = &mut Reader::new(bytes);
        is.check(is.some(reader.bytes(8))? == Self::MAGIC, "there is none")?;
        is.check(is.some(reader.u64())? == checksum(&bytes[16..]), "its checksum is wrong")?;
        is.check(is.some(reader.identity())? == *identity, "it belongs to another store")?;
        is.check(is.some(reader.u32())? == segment, "it is that of another segment")?;
        let generation = is.some(reader.u32())?;
        let (class, temperature) = (is.some(reader.u8())?, is.some(reader.u8())?);
        let zero = is.some(reader.u16())?;
        let next = (is.some(reader.u32())?, is.some(reader.u32())?);
        let zeros = is.some(reader.u32())?;
        let first = is.some(reader.u64())?;
        let log = match class {
            1 if next == (0, 0) => None,
            2 if (geometry.first_segment()..geometry.segments).contains(&next.0) => Some(next),
            _ => return Err(is.damage("its class is not known, or what follows it cannot be")),
        };
        let known = super::segment::Temperature::ALL.into_iter().find(|&known| known as u8 == temperature);
        let temperature = known.ok_or_else(|| is.damage("its temperature is not known"))?;
        is.check(generation > 0 && zero == 0 && zeros == 0, "it has numbers that no header has")?;
        Ok(Self { segment, generation, log, temperature, first })
    }
}
