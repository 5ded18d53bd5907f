//! Checkpoints: what the map and the segment table say, at a moment when all bundles that the log
//! names are installed, becomes durable; then the log and the segments from before can go.
//!
//! | step | what | if the power fails after it |
//! |---|---|---|
//! | 1 | no bundle is under way: the moment of the checkpoint; table and map are frozen | the checkpoint before counts |
//! | 2 | frames of the map that changed, the pages above them, the segment table: written | the same |
//! | 3 | a flush | the same |
//! | 4 | the superblock, copies two by two | either counts |
//! | 5 | what only the checkpoint before referred to is free | this one counts |
//!
//! The keeper takes checkpoints, one at a time, and begins no bundle before the checkpoint ends.
//! Foreground work goes on.

use std::sync::Arc;

use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::state::{PageState, log_start};
use super::streams::{BundleLoad, NoSegment, Written};
use super::superblocks;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::env::Env;
use crate::store::pages::{
    GRANULE_BYTES, LogStart, MAP_CONTENT_BYTES, MapChange, MapTree, PageHeader, SegmentName, Superblock,
    TableWrite, Temperature, map_header, stored_granules,
};
use crate::store::word::PageRef;

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
    /// The map includes the bundles that earlier batches name, and no others.
    first_batch: u64,
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

    /// The superblock of the checkpoint that has begun.
    fn next_superblock(&self, begun: &Begun, change: &MapChange, is_close: bool) -> Superblock {
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
        // What a failed transaction has not done is in the log alone, and no page is dirty for it.
        self.shared.check_failed("checkpoint", Outcome::NotStarted)?;
        let number = self.log_start_number();
        let mut begun = self.log.shared().with_leader(|leader| self.begin(leader, number)).await;
        let change = match self.write_structure(&mut begun).await {
            Ok(change) => change,
            Err(error) => {
                self.shared.state().freeze.give_up(self.shared.nodes.map());
                return Err(error);
            }
        };
        let (superblock, mut copies) = {
            let state = self.shared.state();
            let superblock = state.next_superblock(&begun, &change, is_close);
            (superblock, state.copies)
        };
        let written = superblocks::write(&self.namespace, &superblock, &mut copies);
        self.log.shared().flush_of_others(written).await?;
        {
            let mut state = self.shared.state();
            let PageState { segments, map, freeze, .. } = &mut *state;
            segments.superblock_durable(begun.table);
            drop(begun.map);
            let left = Arc::make_mut(map).apply(change);
            left.into_iter().for_each(|place| segments.meta_died(place));
            freeze.durable();
            (state.superblock, state.copies, state.parent) = (superblock, copies, superblock.checksum());
            self.shared.log_limit.has(state.segments.log_count());
        }
        count(Count::Checkpoints);
        self.let_roots_go();
        self.log.shared().segments_came();
        self.trim().await
    }

    /// Step 1.
    fn begin(&self, leader: &mut crate::store::wal::Leader, number: u64) -> Begun {
        let mut state = self.shared.state();
        let position = leader.position();
        state.note(position);
        let start = state.start_for(number).map_or(state.superblock.log, log_start);
        let first = SegmentName { segment: start.segment, generation: start.generation };
        for name in leader.segments.free_before(first) {
            state.segments.end_log(name.segment);
        }
        let table = state.segments.freeze();
        let next_page = state.freeze.begin(self.shared.nodes.map(), []);
        Begun { table, map: Arc::clone(&state.map), next_page, start, first_batch: position.batch }
    }

    /// Steps 2 and 3.
    async fn write_structure(&self, begun: &mut Begun) -> Result<MapChange> {
        let map = Arc::clone(&begun.map);
        let frames: Vec<_> = self.shared.state().freeze.frames().collect();
        let mut write = map.write(frames.into_iter().map(|frame| (0, u64::from(frame))), begun.next_page);
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
            self.namespace.write(written.offset, written.buf).await?;
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
            self.namespace.write(written.offset, written.buf).await?;
        }
        self.flush_namespace().await?;
        Ok(change)
    }

    /// Gives back what the last checkpoint has freed.
    async fn trim(&self) -> Result<()> {
        loop {
            let Some((segment, geometry)) = ({
                let mut state = self.shared.state();
                let geometry = state.owner.geometry;
                state.segments.next_trim().map(|segment| (segment, geometry))
            }) else {
                return Ok(());
            };
            if self.namespace.info().trim {
                self.namespace.trim(geometry.offset(segment), geometry.segment.into()).await?;
            }
            count(Count::Trims);
            self.shared.state().segments.trimmed(segment);
        }
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
