//! Checkpoints: what the map and the segment table say, at a moment when all bundles that the log
//! names are installed, becomes durable; then the log and the segments from before can go.
//!
//! | step | what | if the power fails after it |
//! |---|---|---|
//! | 1 | keys are counted as of a number up to which the log is durable (`lengths`); no bundle is under way: the moment of the checkpoint; table and map are frozen | the checkpoint before counts |
//! | 2 | the page with the numbers of keys, frames of the map that changed, the pages above them, the segment table: written | the same |
//! | 3 | a flush | the same |
//! | 4 | the superblock, copies two by two | either counts |
//! | 5 | what only the checkpoint before referred to is free | this one counts |
//!
//! The keeper takes checkpoints, one at a time, and begins no bundle before the checkpoint ends.
//! Foreground work goes on.

use std::sync::Arc;

use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::defect::{Defects, EngineDefect};
use super::lengths::Cut;
use super::state::{PageState, log_start};
use super::streams::{BundleLoad, NoSegment, Written};
use super::superblocks;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::btree::FRAME_PAGES;
use crate::store::env::Env;
use crate::store::pages::{
    GRANULE_BYTES, Geometry, LogStart, MAP_CONTENT_BYTES, MapChange, MapTree, PageHeader, SegmentName,
    Superblock, TableWrite, Temperature, encode_lengths, lengths_header, map_header, stored_granules,
};
use crate::store::word::{PageId, PageRef};

/// How many pages of the map are put together in one step: some 10 µs each.
const PAGES_PER_STEP: usize = 8;

/// Pages of map and table on their way into one bundle.
#[derive(Default)]
struct Gathered {
    pages: Vec<(PageHeader, Vec<u8>)>,
    load: BundleLoad,
}

impl Gathered {
    fn push(&mut self, header: PageHeader, content: Vec<u8>) {
        self.load.pages_bytes += stored_bytes(content.len());
        self.pages.push((header, content));
    }
}

/// What a page takes whose content is so long.
fn stored_bytes(content: usize) -> usize {
    stored_granules(content) as usize * GRANULE_BYTES
}

/// What a checkpoint has frozen.
struct Begun {
    table: TableWrite,
    map: Arc<MapTree>,
    next_page: u64,
    start: LogStart,
    /// The same as the log's segments count it.
    starts_at: Option<u64>,
    /// The map includes the bundles that earlier batches name, and no others.
    first_batch: u64,
    /// Pages of the map, by level and index, that lie in segments that are being cleaned.
    moved: Vec<(u8, u64)>,
    /// The page with the numbers of keys.
    lengths: Option<PageRef>,
}

/// What a checkpoint writes at most of the map and the table, in bytes.
pub(super) fn map_bytes(geometry: Geometry, next_page: u64) -> u64 {
    let frames = next_page / FRAME_PAGES;
    let pages = frames + frames / 200 + u64::from(geometry.segments) / 200 + 8;
    pages * stored_bytes(MAP_CONTENT_BYTES) as u64
}

/// Segments that it takes at most.
pub(super) fn map_segments(geometry: Geometry, next_page: u64) -> u32 {
    segments_of(geometry, map_bytes(geometry, next_page))
}

/// Segments for so many bytes of map and table.
pub(super) fn segments_of(geometry: Geometry, bytes: u64) -> u32 {
    // Its bundles have padding, and what the segment ends with stays empty.
    let of_segment = u64::from(geometry.segment) / 8 * 7;
    u32::try_from(bytes.div_ceil(of_segment)).unwrap_or(u32::MAX)
}

impl PageState {
    /// Puts `gathered` into a bundle of the map's stream: what to write, and where its pages lie.
    fn build_structure(
        &mut self,
        gathered: &Gathered,
    ) -> std::result::Result<(Written, Vec<PageRef>), NoSegment> {
        self.streams.room(&mut self.segments, Temperature::Map)?;
        let number = self.next_bundle();
        let Self { streams, segments, .. } = self;
        let (written, places) =
            streams.build(segments, (Temperature::Map, number), &gathered.load, |builder, buffer| {
                let pages = gathered.pages.iter();
                pages.map(|(header, content)| builder.append_meta(buffer, header, content)).collect()
            });
        // Its pages are counted by themselves; once they are dead, so is the bundle.
        segments.settled(written.sealed.trailer().segment);
        Ok((written, places))
    }

    /// Pages of the map in segments that are being cleaned.
    fn moved_map_pages(&self) -> Vec<(u8, u64)> {
        if self.segments.cleaned_meta_count() == 0 {
            return Vec::new();
        }
        self.map.pages_in(|place| self.segments.is_cleaned(place))
    }

    /// The superblock of the checkpoint that has begun.
    fn next_superblock(
        &self,
        begun: &Begun,
        change: &MapChange,
        lengths_at: u64,
        is_close: bool,
    ) -> Superblock {
        let (map, levels) = change.root(&begun.map);
        Superblock {
            clean: is_close,
            sequence: self.copies.next(),
            parent: self.parent,
            log: begun.start,
            checkpoint: begun.table.checkpoint(),
            first_batch: begun.first_batch,
            next_page: begun.next_page,
            map,
            map_levels: levels.into(),
            table: begun.table.index(),
            geometry: Geometry { segments: begun.table.segments(), ..self.superblock.geometry },
            lengths: begun.lengths,
            lengths_at,
            ..self.superblock
        }
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Takes a checkpoint. No bundle is under way, and none is begun before this returns.
    ///
    /// # Errors
    ///
    /// The device's code, or that there is no room for the map. The store has to be given up if it
    /// was the superblock that was being written.
    pub(super) async fn take_checkpoint(&self, is_close: bool) -> Result<()> {
        self.load_overlaid_frames().await?;
        self.load_moved_frames().await;
        let cut = self.cut_lengths().await?;
        // What has failed may be what the checkpoint would say is durable.
        self.shared.check_failed("checkpoint", Outcome::NotStarted)?;
        let mut number = self.log_start_number();
        if !Defects::now().has(EngineDefect::LogStartPassesCut) {
            number = number.min(cut.number).min(self.shared.overlay.cut_needs_from(cut.number));
        }
        let mut begun = self.log.shared().with_leader(|leader| self.begin(leader, number)).await;
        let change = match self.write_structure(&mut begun, &cut).await {
            Ok(change) => change,
            Err(error) => {
                self.shared.state().freeze.give_up(self.shared.nodes.map());
                return Err(error);
            }
        };
        let (superblock, mut copies) = {
            let state = self.shared.state();
            let superblock = state.next_superblock(&begun, &change, cut.number, is_close);
            (superblock, state.copies)
        };
        let written = superblocks::write(&self.namespace, &superblock, &mut copies);
        self.log.shared().flush_of_others(written).await?;
        {
            let mut state = self.shared.state();
            let before = state.superblock.lengths;
            let PageState { segments, map, freeze, cleaner, .. } = &mut *state;
            segments.superblock_durable(begun.table);
            drop(begun.map);
            let left = Arc::make_mut(map).apply(change);
            left.into_iter().for_each(|place| segments.meta_died(place));
            if let Some(left) = before.filter(|_| before != begun.lengths) {
                segments.meta_died(left.place);
            }
            self.shared.overlay.counted(cut.number);
            self.shared.lengths.stored(cut);
            freeze.durable();
            cleaner.checkpoint_taken(segments);
            (state.superblock, state.copies, state.parent) = (superblock, copies, superblock.checksum());
            if let Some(start) = begun.starts_at {
                self.shared.log_limit.starts_at(start);
            }
        }
        count(Count::Checkpoints);
        self.shared.meters.checkpoints.add(1);
        self.let_roots_go();
        // Whoever takes it: writers may wait for the log to become shorter.
        self.segments_came();
        self.trim().await
    }

    /// Step 1.
    fn begin(&self, leader: &mut crate::store::wal::Leader, number: u64) -> Begun {
        let mut state = self.shared.state();
        let position = leader.position();
        state.note(position);
        let start = state.start_for(number).map_or(state.superblock.log, log_start);
        let first = SegmentName { segment: start.segment, generation: start.generation };
        let starts_at = leader.segments.position(first, start.offset);
        for name in leader.segments.free_before(first) {
            state.segments.end_log(name.segment);
        }
        let table = state.segments.freeze();
        let moved = state.moved_map_pages();
        let frames = moved.iter().filter(|(level, index)| *level == 0 && self.is_loaded(*index));
        let frames = frames.map(|(_, index)| frame(*index));
        let next_page = state.freeze.begin(self.shared.nodes.map(), frames);
        let first_batch = position.batch;
        let (map, lengths) = (Arc::clone(&state.map), state.superblock.lengths);
        Begun { table, map, next_page, start, starts_at, first_batch, moved, lengths }
    }

    /// Loads the frames that the checkpoint writes for their place alone. One that cannot be read
    /// stays where it is.
    async fn load_moved_frames(&self) {
        let moved = self.shared.state().moved_map_pages();
        for (_, index) in moved.into_iter().filter(|(level, _)| *level == 0) {
            while !self.is_loaded(index) {
                if let Err(error) = self.load_frame(frame(index)).await {
                    tracing::warn!("{}: a page of the map is not moved for now: {error}", self.shared.name);
                    break;
                }
            }
        }
    }

    fn is_loaded(&self, index: u64) -> bool {
        let last = PageId::new((index + 1) * FRAME_PAGES - 1).expect("the last page of a frame is one");
        self.shared.nodes.map().entry(last).loaded().is_some()
    }

    /// Steps 2 and 3.
    async fn write_structure(&self, begun: &mut Begun, cut: &Cut) -> Result<MapChange> {
        // They are written again if their segment is being cleaned, too.
        let is_moved = |page: PageRef| self.shared.state().segments.is_cleaned(page.place);
        if !self.shared.lengths.are_stored(cut) || begun.lengths.is_some_and(is_moved) {
            begun.lengths = self.write_lengths(cut).await?;
        }
        let map = Arc::clone(&begun.map);
        let frames: Vec<_> = self.shared.state().freeze.frames().collect();
        let above = begun.moved.iter().copied().filter(|(level, _)| *level > 0);
        let frames = frames.into_iter().map(|frame| (0, u64::from(frame))).chain(above);
        let mut write = map.write(frames, begun.next_page);
        loop {
            let written = {
                let mut state = self.shared.state();
                let PageState { streams, segments, .. } = &mut *state;
                let room =
                    streams.room(segments, Temperature::Map).map_err(|_| self.no_room("checkpoint"))?;
                let most = (room.bytes / stored_bytes(MAP_CONTENT_BYTES)).clamp(1, PAGES_PER_STEP);
                let mut gathered = Gathered::default();
                // A page above needs the places of those below: one level at a time.
                for (level, index) in write.wanted(most) {
                    let content = if level == 0 {
                        let nodes = &self.shared.nodes;
                        let page = state.freeze.export(nodes.map(), nodes.homes(), frame(index));
                        page.expect("frames that changed are loaded").encode()
                    } else {
                        write.content(level, index)
                    };
                    gathered.push(map_header(level, index), content);
                }
                if gathered.pages.is_empty() { None } else { Some(state.build_structure(&gathered)) }
            };
            let Some(written) = written else { break };
            let (written, places) = written.map_err(|NoSegment| self.no_room("checkpoint"))?;
            {
                let mut state = self.shared.state();
                for place in places {
                    state.segments.meta_born(place.place);
                    write.placed(place);
                }
            }
            self.write_bundle(written).await?;
        }
        let change = write.finish();
        loop {
            let written = {
                let mut state = self.shared.state();
                let Some(header) = begun.table.header() else { break };
                let mut gathered = Gathered::default();
                gathered.push(header, state.segments.content(&begun.table));
                let (written, places) =
                    state.build_structure(&gathered).map_err(|NoSegment| self.no_room("checkpoint"))?;
                places.into_iter().for_each(|place| state.segments.table_placed(&mut begun.table, place));
                written
            };
            self.write_bundle(written).await?;
        }
        self.flush_namespace().await?;
        Ok(change)
    }

    async fn write_bundle(&self, Written { offset, buf, .. }: Written) -> Result<()> {
        self.shared.meters.checkpoint_bytes.add(buf.len() as u64);
        self.namespace.write(offset, buf).await?;
        Ok(())
    }

    /// The page with the numbers of keys, if there are any.
    async fn write_lengths(&self, cut: &Cut) -> Result<Option<PageRef>> {
        if cut.lengths.is_empty() {
            return Ok(None);
        }
        let mut gathered = Gathered::default();
        gathered.push(lengths_header(), encode_lengths(&cut.lengths));
        let (written, places) = {
            let mut state = self.shared.state();
            let built = state.build_structure(&gathered).map_err(|NoSegment| self.no_room("checkpoint"))?;
            built.1.iter().for_each(|page| state.segments.meta_born(page.place));
            built
        };
        self.write_bundle(written).await?;
        Ok(places.first().copied())
    }

    /// Gives back what the last checkpoint has freed.
    async fn trim(&self) -> Result<()> {
        loop {
            let next = self.shared.state().segments.next_trim();
            let Some(segment) = next else { break };
            self.give_back(segment).await?;
            count(Count::Trims);
        }
        self.segments_came();
        Ok(())
    }

    pub(super) fn no_room(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::NoSpace, operation)
            .at(self.shared.name.clone())
            .because("the store is full: delete something, or make the namespace larger")
            .outcome_is(Outcome::NotStarted)
    }
}

fn frame(index: u64) -> u32 {
    u32::try_from(index).expect("frames have 32 bits")
}
