//! The table of segments as a checkpoint has it, and what the log says beyond it.

use super::table::{Class, Row, pages, segments_of};
use super::{Segment, SegmentName, Segments, State, Temperature};
use crate::store::codec::Reader;
use crate::store::pages::damage::{Checker, Damage, Structure};
use crate::store::pages::defect::PagesDefect;
use crate::store::pages::map_page::Owner;
use crate::store::pages::page::{self, PageKind, structure_word};
use crate::store::word::{ColdAddress, PageRef};

/// The content of a page of the table, if it is that.
fn content<'a>(
    bytes: &'a [u8],
    kind: PageKind,
    number: u32,
    from: PageRef,
    owner: &Owner,
) -> Result<&'a [u8], Damage> {
    let parsed = page::parse(bytes, from.place, &owner.identity);
    let parsed = parsed.map_err(|damage| Damage { structure: Structure::SegmentTable, ..damage })?;
    let wanted = (kind, structure_word(number.into(), 0));
    parsed.content_of(Structure::SegmentTable, wanted, 0, from.checksum)
}

/// Reading the table, one page after the other.
#[derive(Debug)]
pub(in crate::store) struct TableLoad {
    owner: Owner,
    index: PageRef,
    table: Vec<PageRef>,
    segments: Vec<Segment>,
    read: u32,
}

impl TableLoad {
    /// Of the table whose index page is `index`, from which `bytes` were read.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::store) fn new(bytes: &[u8], index: PageRef, owner: Owner) -> Result<Self, Damage> {
        let content = content(bytes, PageKind::SegmentTableIndex, 0, index, &owner)?;
        let is = Checker::new(Structure::SegmentTable, index.place.offset_bytes());
        let reader = &mut Reader::new(content);
        let segments = is.some(reader.u32())?;
        is.check(segments == owner.geometry.segments, "it has another number of segments than the store")?;
        is.check(is.some(reader.u32())? == 0, "there is something where zeros are to be")?;
        let mut table = Vec::new();
        for _ in 0..pages(segments) {
            let page = is.some(PageRef::decode(reader))?;
            let page = page.filter(|page| owner.geometry.locate(page.place).is_some());
            table.push(page.ok_or_else(|| is.damage("a page of it lies where none can be"))?);
        }
        is.check(reader.is_empty(), "it is too long")?;
        Ok(Self { owner, index, table, segments: Vec::new(), read: 0 })
    }

    /// The place to read next.
    pub(in crate::store) fn next(&self) -> Option<ColdAddress> {
        self.table.get(self.read as usize).map(|page| page.place)
    }

    /// Takes what was read from the next place.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::store) fn read(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let Some(&from) = self.table.get(self.read as usize) else { return Ok(()) };
        let content = content(bytes, PageKind::SegmentTable, self.read, from, &self.owner)?;
        let is = Checker::new(Structure::SegmentTable, from.place.offset_bytes());
        let reader = &mut Reader::new(content);
        for segment in segments_of(self.read, self.owner.geometry.segments) {
            let row = Row::decode(reader, segment, &self.owner.geometry, is)?;
            self.segments.push(Segment {
                // Who reads a checkpoint finishes what it has begun: see `Loading::finish`.
                state: match row.class {
                    Class::Free => State::Free,
                    Class::Pages => State::Sealed,
                    Class::Log => State::Log,
                    Class::Emptied => State::Emptied { freed_at: 0 },
                    Class::Retired => State::Retired,
                },
                temperature: row.temperature,
                generation: row.generation,
                live: row.live,
                pages: row.pages,
                up1: row.up2,
                up2: row.up2,
                miscounted: row.miscounted,
                ..Segment::FREE
            });
        }
        is.check(reader.is_empty(), "it is too long")?;
        self.read += 1;
        Ok(())
    }

    /// The table of checkpoint `checkpoint`, once there is nothing more to read.
    pub(in crate::store) fn finish(self, checkpoint: u64, defect: Option<PagesDefect>) -> Loading {
        debug_assert_eq!(self.segments.len(), self.owner.geometry.segments as usize);
        let mut segments = Segments::new(self.owner.geometry, defect);
        segments.free.clear();
        segments.changed.clear();
        segments.segments = self.segments;
        segments.begun = checkpoint;
        segments.durable = checkpoint;
        segments.is_loading = true;
        segments.is_epoch_durable = false;
        let confirmed = vec![false; segments.segments.len()];
        let mut loading = Loading { segments, confirmed };
        self.table.iter().chain([&self.index]).for_each(|page| loading.meta(page.place));
        loading.segments.table = self.table.into_iter().map(Some).collect();
        loading.segments.index = Some(self.index);
        loading
    }
}

/// The table of a checkpoint, to which recovery adds what the log has after it.
#[derive(Debug)]
pub(in crate::store) struct Loading {
    /// For counting what bundles brought.
    pub(in crate::store) segments: Segments,
    /// Segments that the log was found in, or bundles that it names.
    confirmed: Vec<bool>,
}

impl Loading {
    /// The checkpoint has a page of the map, or of the table, at `place`.
    pub(in crate::store) fn meta(&mut self, place: ColdAddress) {
        let Some((segment, _)) = self.segments.geometry.locate(place) else { return };
        if matches!(self.segments.get(segment).state, State::Free | State::Emptied { .. }) {
            // It was opened while the checkpoint was written, so the table does not say it.
            self.confirmed[segment as usize] = true;
            _ = self.segments.start(segment, State::Sealed, Temperature::Map);
        }
        self.segments.meta_born(place);
    }

    /// The log names a bundle in this segment.
    ///
    /// # Errors
    ///
    /// That the table contradicts it; `offset` is where the trailer lies.
    pub(in crate::store) fn bundle(
        &mut self,
        name: SegmentName,
        temperature: Temperature,
        offset: u64,
    ) -> Result<(), Damage> {
        let is = Checker::new(Structure::Trailer, offset);
        self.used(is, name, State::Sealed, temperature)
    }

    /// The chain of the log has this segment.
    ///
    /// # Errors
    ///
    /// That the table contradicts it.
    pub(in crate::store) fn log(&mut self, name: SegmentName) -> Result<(), Damage> {
        let is = Checker::new(Structure::SegmentHeader, self.segments.geometry.offset(name.segment));
        self.used(is, name, State::Log, Temperature::Hot)
    }

    fn used(
        &mut self,
        is: Checker,
        SegmentName { segment, generation }: SegmentName,
        state: State,
        temperature: Temperature,
    ) -> Result<(), Damage> {
        is.check(self.segments.geometry.has(segment), "it names a segment that does not exist")?;
        let index = segment as usize;
        let found = *self.segments.get(segment);
        let confirmed = std::mem::replace(&mut self.confirmed[index], true);
        let same = found.state == state && found.generation == generation;
        // Since the checkpoint it was opened again: once at most, as that takes a checkpoint.
        let reused = !confirmed
            && matches!(found.state, State::Free | State::Emptied { .. } | State::Log)
            && found.generation.checked_add(1) == Some(generation);
        is.check(same || reused, "the generation of its segment is not that of the segment table")?;
        if reused {
            _ = self.segments.start(segment, state, temperature);
        }
        Ok(())
    }

    /// The table, once everything that lives was counted.
    pub(in crate::store) fn finish(self) -> Segments {
        let Self { mut segments, confirmed } = self;
        segments.is_loading = false;
        let checkpoint = segments.durable;
        for (segment, confirmed) in (0..).zip(confirmed).skip(segments.geometry.first_segment() as usize) {
            match segments.get(segment).state {
                State::Free => _ = segments.free.insert(segment),
                State::Emptied { .. } => {
                    segments.change(segment).state = State::Emptied { freed_at: checkpoint };
                    segments.emptied.push_back((checkpoint, segment));
                }
                State::Log if !confirmed => {
                    // It lies before the start of the log, and the checkpoint is durable.
                    segments.change(segment).state = State::Free;
                    segments.log_pool.insert(segment);
                }
                _ => {}
            }
        }
        (0..segments.geometry.segments).for_each(|segment| segments.look(segment));
        segments.count_live();
        segments
    }
}
