//! Bundles: pages that are written together and are durable together (disk format, section 5).
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

pub(in crate::store) use buffer::{Durable, FlushClock, Naming, Sealed, Written};
pub(in crate::store) use debts::Debts;

use super::damage::{Checker, Damage, Structure};
use super::geometry::GRANULE_BYTES;
use super::map_page::Owner;
use super::page::{PageHeader, stored_granules};
use super::segment::SegmentName;
use crate::store::codec::{Reader, checksum, to_u32, to_usize};
use crate::store::word::{ChildWord, ColdAddress, MAX_PAGE_BYTES, PageRef, SecondWord};

const MAGIC: [u8; 4] = *b"bTRL";
const TRAILER_BYTES: usize = 80;
const ENTRY_BYTES: usize = 32;
const FREED_BYTES: usize = 8;
/// The most pages of a bundle.
pub(in crate::store) const MAX_ENTRIES: usize = (MAX_PAGE_BYTES - TRAILER_BYTES) / ENTRY_BYTES;
/// The most bytes of a bundle's pages.
pub(in crate::store) const MAX_PAGES_BYTES: usize = 1 << 20;

/// The number of the `count`th bundle (below 2^40) since the opening with this epoch.
pub(in crate::store) fn number(epoch: u64, count: u64) -> u64 {
    debug_assert!(count < 1 << 40);
    epoch << 40 | count
}

/// What a trailer says about one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Entry {
    pub(in crate::store) page: ChildWord,
    pub(in crate::store) place: ColdAddress,
    pub(in crate::store) second: SecondWord,
    /// Cleaning moved the page: it counts only where the image that it replaces is the current one.
    pub(in crate::store) is_moved: bool,
    /// Where the image lies that this one replaces; `None` for a first image.
    pub(in crate::store) replaces: Option<ColdAddress>,
}

impl Entry {
    /// Where the page lay that cleaning moved.
    pub(in crate::store) fn moved_from(&self) -> Option<ColdAddress> {
        self.replaces.filter(|_| self.is_moved)
    }
}

/// What a trailer says of a page beside what its header does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Origin {
    /// It goes to a segment of the cold stream.
    pub(in crate::store) is_cold_stream: bool,
    /// Cleaning moves it.
    pub(in crate::store) is_moved: bool,
    /// Where its image before lies.
    pub(in crate::store) replaces: Option<ColdAddress>,
}

/// What a bundle says about the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Trailer {
    pub(in crate::store) number: u64,
    pub(in crate::store) segment: u32,
    pub(in crate::store) generation: u32,
    /// The newest write in its pages.
    pub(in crate::store) newest: u64,
    pub(in crate::store) entries: Vec<Entry>,
    /// Ids that became free, with the epoch that their next use starts from.
    pub(in crate::store) freed: Vec<ChildWord>,
}

/// The page does not fit: the bundle is to be sealed, and the page goes into the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Full;

/// A bundle that is being filled. The bytes are the caller's: one buffer, as long as the whole
/// bundle can become, passed to each call.
#[derive(Debug)]
pub(in crate::store) struct Builder {
    owner: Owner,
    /// The granule in the segment at which it starts, and at which the next page starts.
    first: u32,
    end: u32,
    trailer: Trailer,
}

impl Builder {
    /// Begins a bundle at `first` granules of a segment, which is the start of a block.
    pub(in crate::store) fn new(owner: Owner, number: u64, segment: SegmentName, first: u32) -> Self {
        debug_assert!(first.is_multiple_of(owner.geometry.block_granules()) && first > 0);
        let SegmentName { segment, generation } = segment;
        let trailer = Trailer { number, segment, generation, ..Trailer::default() };
        Self { owner, first, end: first, trailer }
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
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
    /// compressed.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was added.
    pub(in crate::store) fn append(
        &mut self,
        buffer: &mut [u8],
        header: &PageHeader,
        (stored, content_len): (&[u8], usize),
        origin: Origin,
    ) -> Result<Entry, Full> {
        if !self.has_room(buffer, stored_granules(stored.len()), 1, 0) {
            return Err(Full);
        }
        let PageRef { place, checksum } = self.write(buffer, header, (stored, content_len));
        let Origin { is_cold_stream, is_moved, replaces } = origin;
        let has_expiries = header.earliest_expiry_seconds != 0;
        let second = SecondWord::new(low(checksum), header.page.epoch(), is_cold_stream, has_expiries);
        let entry = Entry { page: header.page, place, second, is_moved, replaces };
        self.trailer.entries.push(entry);
        self.trailer.newest = self.trailer.newest.max(header.newest);
        Ok(entry)
    }

    /// Adds a page of the map or of the segment table, to which its parent refers.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was added.
    pub(in crate::store) fn append_meta(
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
        let place = self.owner.geometry.place(self.trailer.segment, self.end, granules);
        self.end += granules;
        PageRef { place, checksum }
    }

    /// Says that an id became free.
    ///
    /// # Errors
    ///
    /// [`Full`]; nothing was added.
    pub(in crate::store) fn free(&mut self, buffer: &[u8], page: ChildWord) -> Result<(), Full> {
        if !self.has_room(buffer, 0, 0, 1) {
            return Err(Full);
        }
        self.trailer.freed.push(page);
        Ok(())
    }

    /// Writes the trailer and zeros to the end of the block behind it.
    pub(in crate::store) fn seal(self, buffer: &mut [u8]) -> Sealed {
        let Self { owner, first, end, trailer } = self;
        let (bytes, sum) = trailer.encode(first, &owner.identity);
        let start = (end - first) as usize * GRANULE_BYTES;
        let len = (start + bytes.len()).next_multiple_of(owner.geometry.block as usize);
        let (content, padding) = buffer[start..len].split_at_mut(bytes.len());
        content.copy_from_slice(&bytes);
        padding.fill(0);
        let granules = to_u32(bytes.len().div_ceil(GRANULE_BYTES));
        let at = PageRef { place: owner.geometry.place(trailer.segment, end, granules), checksum: sum };
        let offset = owner.geometry.offset(trailer.segment) + u64::from(first) * GRANULE_BYTES as u64;
        Sealed::new(trailer, at, offset, len)
    }
}

pub(in crate::store) fn trailer_len(entries: usize, freed: usize) -> usize {
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
            let second = entry.second.trailer_bits(entry.is_moved);
            let replaces = ColdAddress::optional_bits(entry.replaces);
            for word in [entry.page.bits(), entry.place.bits(), second, replaces] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        self.freed.iter().for_each(|page| out.extend_from_slice(&page.bits().to_le_bytes()));
        let sum = checksum(&out[16..]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        (out, sum)
    }

    /// Parses the trailer that the log says is `at`, from where `bytes` were read.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::store) fn parse(bytes: &[u8], at: PageRef, owner: &Owner) -> Result<Self, Damage> {
        let is = Checker::new(Structure::Trailer, at.place.offset_bytes());
        let geometry = &owner.geometry;
        let place = geometry.locate(at.place);
        let (in_segment, end) =
            place.ok_or_else(|| is.damage("the log says that it lies where none can be"))?;
        let reader = &mut Reader::new(is.some(bytes.get(..to_usize(at.place.len_bytes())))?);
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
            let page = ChildWord::from_bits(is.some(reader.u64())?);
            let place = ColdAddress::from_bits(is.some(reader.u64())?);
            let second = SecondWord::from_trailer_bits(is.some(reader.u64())?);
            let replaces = ColdAddress::optional_from_bits(is.some(reader.u64())?);
            let (Some(place), Some((second, is_moved)), Some(replaces)) = (place, second, replaces) else {
                return Err(is.damage("an entry has bits that no entry has"));
            };
            is.check(
                geometry.locate(place) == Some((segment, next)),
                "its pages do not lie one after the other",
            )?;
            next += place.granules();
            is.check(
                page.is_some() && page.epoch() == second.epoch(),
                "an entry has two epochs, or no page",
            )?;
            let known = replaces.is_none_or(|place| geometry.locate(place).is_some());
            is.check(known && (!is_moved || replaces.is_some()), "an entry replaces what cannot be")?;
            entries.push(Entry { page, place, second, is_moved, replaces });
        }
        is.check(pages == 0 || next == end, "it does not lie behind its pages")?;
        let mut freed = Vec::with_capacity(frees);
        for _ in 0..frees {
            let page = ChildWord::from_bits(is.some(reader.u64())?);
            is.check(page.is_some(), "it frees no page")?;
            freed.push(page);
        }
        Ok(Self { number, segment, generation, newest, entries, freed })
    }
}

/// What a second word has of a checksum.
fn low(checksum: u64) -> u32 {
    u32::try_from(checksum & u64::from(u32::MAX)).expect("32 bits are left")
}
