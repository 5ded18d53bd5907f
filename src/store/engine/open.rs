//! Opening a store: making a fresh one, or loading a checkpoint and what the log has after it.
//!
//! | step | reads |
//! |---|---|
//! | superblocks, and which of them counts | 4 blocks |
//! | the page with the numbers of keys | 12 bytes for each tree |
//! | the segment table, and the upper levels of the map | 16 bytes for each segment, and for 256 pages |
//! | the log from its start on | all of it |
//! | trailers of the bundles that it names | 32 bytes for each page in them |
//!
//! No page of a tree is read, and no frame of the map: what the log says of pages goes into one
//! overlay, what it says of keys into another ([`overlay`](crate::store::overlay)), and readers ask
//! these first. Nothing is written before it is known what the namespace holds, and then only the
//! superblock of the new epoch.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::collect::collect_when_asked;
use super::core_store::{CoreStore, Duty, Shared, closed};
use super::defect::{Defects, EngineDefect};
use super::dying::take_apart_when_asked;
use super::hollow::{allocate, allocate_fresh};
use super::lengths::Cut;
use super::loads::read_place;
use super::log::{LogDriver, replay::replay};
use super::log_limit::{LogLimit, LogSegments};
use super::signal::Signal;
use super::space::account::added_by;
use super::state::{PageState, point};
use super::superblocks::{self, Copies, Found};
use super::trees::made_by_log;
use super::values::reclaim_when_asked;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::mem::DmaBuf;
use crate::store::btree::{Map, Nodes};
use crate::store::cache::hand::Hand;
use crate::store::cache::memory::reserve_bytes;
use crate::store::cache::{Account, CacheMemory};
use crate::store::codec::checksum;
use crate::store::env::Env;
use crate::store::events::Sink;
use crate::store::options::Options;
use crate::store::overlay;
use crate::store::pace::Pace;
use crate::store::pages::{
    Damage, Geometry, MapLoad, MapTree, Overlay, Owner, SegmentHeader, SegmentUse, Segments, Superblock,
    TableLoad, Trailer, decode_lengths,
};
use crate::store::wal::{
    Batch, BundleEntry, LogEnd, LogFormat, LogPosition, Operation, Segments as Chain, Wal,
};
use crate::store::word::{ColdAddress, PageRef};

/// How many cores may be attached at a time.
const MAX_CORES: usize = 16;
/// A core's log buffer, in bytes, is a share of the cache within these bounds.
const LOG_BUFFER_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=1 << 20;
const LOG_BUFFERS_PER_CACHE: usize = 32;
/// Pages that a store may have: 2^30 of 4 KiB are 4 TiB.
const MAX_PAGES: u64 = 1 << 30;
/// Bits of the number of a bundle that count bundles of one opening.
const LOG_START_BATCH: u64 = 1;

/// What was found of a store, or made.
struct Loaded {
    state: PageState,
    end: LogEnd,
    /// The newest operations of the log.
    records: overlay::Builder,
    /// What the log adds to the pages, in bytes, at most.
    logged_bytes: u64,
    /// The numbers of keys that the checkpoint has.
    lengths: Cut,
}

/// Opens the store on `namespace`, or makes one, and attaches this core.
///
/// # Errors
///
/// As `Db::open_on`.
pub(in crate::store) async fn open<E: Env, N: Namespace>(
    env: E,
    namespace: N,
    options: &Options,
) -> Result<Rc<CoreStore<E, N>>> {
    superblocks::check_size(&namespace)?;
    let found = match superblocks::find(&namespace).await {
        Ok(found) => found,
        Err(error) if options.format && may_overwrite(error.kind()) => Found::Fresh,
        Err(error) => return Err(error),
    };
    match found {
        Found::Store { superblock, copies } if !options.format => {
            let loaded = load(&env, &namespace, &superblock, copies).await?;
            let store = attach_first(env, namespace, options, loaded, superblock.epoch + 1).await?;
            if !Defects::now().has(EngineDefect::EpochNotWritten) {
                store.write_epoch().await?;
            }
            store.start();
            Ok(store)
        }
        Found::Fresh if !options.create && !options.format => {
            Err(Error::new(ErrorKind::NotFound, "open store")
                .at(namespace.info().name.clone())
                .because("there is no store on it")
                .outcome_is(Outcome::NotStarted))
        }
        _ => {
            let loaded = format(&env, &namespace, options).await?;
            let block = loaded.state.owner.geometry.block as usize;
            let store = attach_first(env, namespace, options, loaded, 1).await?;
            store.take_checkpoint(false).await?;
            superblocks::formatted(&store.namespace, block).await?;
            store.start();
            Ok(store)
        }
    }
}

fn may_overwrite(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ForeignData | ErrorKind::UnsupportedFormat | ErrorKind::Corrupt)
}

fn log_format(owner: &Owner) -> LogFormat {
    LogFormat {
        identity: owner.identity,
        segment_bytes: owner.geometry.segment,
        block_bytes: owner.geometry.block,
    }
}

/// Prepares a fresh store: all but the first checkpoint.
async fn format<E: Env, N: Namespace>(env: &E, namespace: &N, options: &Options) -> Result<Loaded> {
    let info = namespace.info();
    let (old, new) = (namespace.size_bytes(), FRESH_BYTES.min(info.max_size_bytes));
    if old < new {
        namespace.grow(new).await?;
        if info.trim {
            // To grow may take blocks of the disk for all of it; most of it is used late or never.
            namespace.trim(old, new - old).await?;
        }
    }
    let grows = info.max_size_bytes > namespace.size_bytes();
    let geometry = Geometry::of_namespace(namespace.size_bytes(), info.block_size_bytes, grows);
    let geometry = geometry.ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "open store")
            .at(info.name.clone())
            .because("no store has this size: it has 8 MiB to 256 TiB")
            .outcome_is(Outcome::NotStarted)
    })?;
    let block = geometry.block as usize;
    superblocks::wipe(namespace, block).await?;
    let identity = options.identity.unwrap_or_else(|| {
        let mut drawn = [0; 16];
        env.fill_random(&mut drawn);
        drawn
    });
    let mut segments = Segments::new(geometry, Defects::now().pages);
    allocate_fresh(namespace, &mut segments).await?;
    let mut open_log = || segments.open_log().map(|(name, _)| name);
    let (Some(first), Some(named)) = (open_log(), open_log()) else {
        unreachable!("the smallest store has more segments");
    };
    // Written blocks are faster to write again than ones that never were.
    for name in [first, named] {
        let step = (geometry.segment as usize).min(1 << 20);
        for at in (0..geometry.segment as usize).step_by(step) {
            namespace.write(geometry.offset(name.segment) + at as u64, DmaBuf::zeroed(step)).await?;
        }
    }
    let header = SegmentHeader {
        name: first,
        usage: SegmentUse::Log { next: named, epoch: 1 },
        first: LOG_START_BATCH,
    };
    let mut head = DmaBuf::zeroed(block);
    head[..SegmentHeader::BYTES].copy_from_slice(&header.encode(&identity));
    namespace.write(geometry.offset(first.segment), head).await?;
    namespace.flush().await?;
    let position = LogPosition {
        segment: first,
        offset: geometry.block,
        batch: LOG_START_BATCH,
        chain: checksum(&identity),
        first: 1,
    };
    let superblock = Superblock {
        clean: false,
        salvaged: false,
        identity,
        sequence: 0,
        epoch: 1,
        geometry,
        parent: 0,
        log: super::state::log_start(position),
        checkpoint: 0,
        first_batch: LOG_START_BATCH,
        next_page: 0,
        map: None,
        map_levels: 1,
        table: None,
        used_granules: 0,
        written_ms: 0,
        lengths: None,
        lengths_at: 1,
    };
    let parts = (segments, Arc::new(MapTree::default()), Overlay::new(None));
    let mut seed = [0; 8];
    env.fill_random(&mut seed);
    Ok(Loaded {
        state: PageState::new(superblock, Copies::NONE, parts),
        end: LogEnd { position, named, chain: vec![(first, LOG_START_BATCH)] },
        records: overlay::Builder::new(u64::from_le_bytes(seed), 1),
        logged_bytes: 0,
        lengths: Cut { number: 1, lengths: Vec::new() },
    })
}

/// What a file that grows starts with. Only what was written of it takes blocks of the disk.
const FRESH_BYTES: u64 = 64 << 20;

/// Loads the store that `superblock` describes.
async fn load<E: Env, N: Namespace>(
    env: &E,
    namespace: &N,
    superblock: &Superblock,
    copies: Copies,
) -> Result<Loaded> {
    check_geometry(namespace, superblock)?;
    let owner = Owner { identity: superblock.identity, geometry: superblock.geometry };
    let name = &namespace.info().name;
    let damaged = |damage: Damage| damage.error("open store", name);
    let Some(index) = superblock.table else {
        return Err(Error::new(ErrorKind::Corrupt, "open store")
            .at(name.clone())
            .because("its superblock has no segment table"));
    };
    let (bytes, at) = read_place(namespace, index.place).await?;
    let mut table = TableLoad::new(&bytes[at..], index, owner).map_err(damaged)?;
    while let Some(place) = table.next() {
        let (bytes, at) = read_place(namespace, place).await?;
        table.read(&bytes[at..]).map_err(damaged)?;
    }
    let mut loading = table.finish(superblock.checkpoint, Defects::now().pages);
    let levels = u8::try_from(superblock.map_levels).unwrap_or(u8::MAX);
    let mut map = MapLoad::new(superblock.map, levels, superblock.next_page, owner);
    while let Some(place) = map.next() {
        let (bytes, at) = read_place(namespace, place).await?;
        map.read(&bytes[at..]).map_err(damaged)?;
    }
    let map = map.finish();
    map.pages().for_each(|page| loading.meta(page.place));
    let mut lengths = Cut { number: superblock.lengths_at, lengths: Vec::new() };
    if let Some(page) = superblock.lengths {
        loading.meta(page.place);
        let (bytes, at) = read_place(namespace, page.place).await?;
        lengths.lengths = decode_lengths(&bytes[at..], page, &owner).map_err(damaged)?;
    }
    let mut named = Vec::new();
    let mut seed = [0; 8];
    env.fill_random(&mut seed);
    let counted_from = if Defects::now().has(EngineDefect::EffectsCountedTwice) {
        superblock.log.first_write
    } else {
        lengths.number
    };
    let log_start = superblock.log.first_write;
    let mut records = overlay::Builder::new(u64::from_le_bytes(seed), counted_from).of_log_from(log_start);
    let mut has_deleted_range = false;
    let (mut logged_bytes, mut incomplete) = (0, None);
    let mut pace = Pace::default();
    let mut each = async |batch: &Batch<'_>| {
        if batch.header.batch >= superblock.first_batch {
            named.extend(batch.bundles());
        }
        for (number, operations) in batch.records() {
            let taken = records.record(number, operations, |operation| {
                has_deleted_range |= matches!(operation, Operation::DeleteRange { .. });
                logged_bytes += added_by(operation);
            });
            incomplete = incomplete.or(taken.err());
            pace.step().await;
        }
    };
    let end = replay(namespace, log_format(&owner), point(&superblock.log), &mut each).await?;
    if Defects::now().has(EngineDefect::GroupNeedsNoEnd) {
        records.end_groups(end.position.first - 1);
    }
    if let Some(overlay::IncompleteGroup { number, first }) = incomplete {
        return Err(Error::new(ErrorKind::Corrupt, "open store").at(name.clone()).because(format!(
            "its log lacks a part of the group that begins with {first} and ends with {number}"
        )));
    }
    if has_deleted_range {
        // Nobody brings one into the tree yet: the overlay would never be drained.
        return Err(Error::new(ErrorKind::Unsupported, "open store")
            .at(name.clone())
            .because("its log has the deletion of a range, which this version cannot do")
            .outcome_is(Outcome::NotStarted));
    }
    for (name, _) in &end.chain {
        loading.log(*name).map_err(damaged)?;
    }
    loading.log(end.named).map_err(damaged)?;
    let mut overlay = Overlay::new(None);
    for entry in named {
        let (trailer, place) = read_trailer(namespace, &entry, &owner).await?;
        let segment =
            crate::store::pages::SegmentName { segment: trailer.segment, generation: trailer.generation };
        let temperature = crate::store::pages::Temperature::Hot;
        loading.bundle(segment, temperature, place.offset_bytes()).map_err(damaged)?;
        overlay.add(&trailer, &mut loading.segments);
    }
    // What was read may sit in a volatile cache, if only the process had died.
    namespace.flush().await?;
    let mut segments = loading.finish();
    if namespace.info().sparse {
        segments.doubt_free();
        // What the log goes on in; a power failure may have taken blocks that were never written.
        for (name, _) in end.chain.last().into_iter().chain([&(end.named, 0)]) {
            if let Err(error) = allocate(namespace, owner.geometry, name.segment).await {
                tracing::warn!("{}: the log may find no room: {error}", namespace.info().name);
            }
        }
    }
    let parts = (segments, Arc::new(map), overlay);
    Ok(Loaded { state: PageState::new(*superblock, copies, parts), end, records, logged_bytes, lengths })
}

async fn read_trailer<N: Namespace>(
    namespace: &N,
    entry: &BundleEntry,
    owner: &Owner,
) -> Result<(Trailer, ColdAddress)> {
    let name = &namespace.info().name;
    let Some(place) = ColdAddress::from_bits(entry.trailer) else {
        return Err(Error::new(ErrorKind::Corrupt, "open store")
            .at(name.clone())
            .because("the log names a bundle that lies nowhere"));
    };
    let (bytes, at) = read_place(namespace, place).await?;
    let reference = PageRef { place, checksum: entry.checksum };
    let trailer = Trailer::parse(&bytes[at..], reference, owner);
    Ok((trailer.map_err(|damage| damage.error("open store", name))?, place))
}

fn check_geometry<N: Namespace>(namespace: &N, superblock: &Superblock) -> Result<()> {
    let problem = |kind, what: String| {
        Err(Error::new(kind, "open store").at(namespace.info().name.clone()).because(what))
    };
    let (block, geometry) = (namespace.info().block_size_bytes, superblock.geometry);
    if block > geometry.block {
        let what =
            format!("the store was made for blocks of {} bytes, the namespace has {block}", geometry.block);
        return problem(ErrorKind::InvalidInput, what);
    }
    if namespace.size_bytes() < geometry.size_bytes() {
        let what = format!(
            "the namespace was cut to {} bytes, the store needs {}",
            namespace.size_bytes(),
            geometry.size_bytes()
        );
        return problem(ErrorKind::Corrupt, what);
    }
    Ok(())
}

/// Puts the parts of a store together, on its first core.
async fn attach_first<E: Env, N: Namespace>(
    env: E,
    namespace: N,
    options: &Options,
    loaded: Loaded,
    epoch: u64,
) -> Result<Rc<CoreStore<E, N>>> {
    let Loaded { mut state, end, records, logged_bytes, lengths } = loaded;
    state.superblock.epoch = epoch;
    state.note(point(&state.superblock.log));
    state.note(end.position);
    let owner = state.owner;
    let format = log_format(&owner);
    let cache = options.cache_bytes as u64;
    let memory = CacheMemory::new(Account::new(cache, reserve_bytes(cache)))?;
    // Ids that were given out since the checkpoint, and are those of a page.
    let made = made_by_log(&records).map(|(tree, _)| tree.root.id().get() + 1).max().unwrap_or(0);
    let map = Map::open(MAX_PAGES, state.superblock.next_page.max(state.overlay.next_page()).max(made));
    let nodes = Nodes::over(map, memory.clone(), MAX_CORES);
    let chain: VecDeque<_> = end.chain.iter().copied().collect();
    let chain = Chain::new(format, chain, end.position.offset, end.named);
    let buffer = (options.cache_bytes / LOG_BUFFERS_PER_CACHE).next_power_of_two();
    let buffer = buffer.clamp(*LOG_BUFFER_BYTES.start(), *LOG_BUFFER_BYTES.end());
    let limit = Arc::new(LogLimit::new(buffer as u64));
    let start = point(&state.superblock.log);
    let start = chain.position(start.segment, start.offset);
    limit.starts_at(start.expect("the chain begins where the log does"));
    limit.ends_at(chain.end());
    let wal = Wal::new(format, epoch, end.position, chain, (MAX_CORES, buffer), Defects::now().wal);
    let state = Arc::new(Mutex::new(state));
    let keeper = Arc::new(Signal::default());
    let supply =
        LogSegments { state: Arc::clone(&state), limit: Arc::clone(&limit), keeper: Arc::clone(&keeper) };
    let log = LogDriver::new(wal, format, MAX_CORES, Box::new(supply));
    let name = namespace.info().name.clone();
    let shared = Shared::new(name, (memory, nodes), (log, state), keeper, (options.log_bytes, limit));
    shared.lengths.load(lengths);
    let store = CoreStore::attach(&Arc::new(shared), env, namespace)?;
    store.shared.values.start(epoch);
    store.set_limits(owner.geometry);
    store.shared.log_limit.is_found(&store.shared.space);
    store.shared.space.set_used(store.shared.state().segments.taken_bytes());
    // What is in the log was admitted when it was written, and is in no page as far as is known.
    store.shared.space.reserve(logged_bytes);
    store.open_trees(records).await?;
    Ok(store)
}

/// Whether the store that is open is on `namespace`.
///
/// # Errors
///
/// The device's code.
pub(in crate::store) async fn is_on<N: Namespace>(shared: &Shared, namespace: &N) -> Result<bool> {
    match superblocks::find(namespace).await {
        Ok(Found::Store { superblock, .. }) => Ok(superblock.identity == shared.owner.identity),
        Ok(Found::Fresh) => Ok(false),
        Err(error) if error.kind() == ErrorKind::ForeignData => Ok(false),
        Err(error) if error.kind() == ErrorKind::UnsupportedFormat => Ok(false),
        Err(error) => Err(error),
    }
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// One more core.
    ///
    /// # Errors
    ///
    /// As many are attached as may be, or the store has failed.
    pub(in crate::store) fn attach(shared: &Arc<Shared>, env: E, namespace: N) -> Result<Rc<Self>> {
        let refused = || {
            Error::new(ErrorKind::LimitReached, "attach to store")
                .because(format!("{MAX_CORES} cores are attached already"))
        };
        let events = shared.add_queue();
        let core = shared.nodes.attach_with(Sink::Keeper(Arc::clone(&events))).ok_or_else(refused)?;
        let log = shared.log.attach(&env, namespace.clone())?;
        let lengths = shared.lengths.attach();
        let hand = Hand::new(Arc::clone(&shared.round));
        let asked = shared.add_collector();
        let shared = Arc::clone(shared);
        let kept = shared.log_limit.keep_for_core();
        let store = Rc::new(Self {
            shared,
            env,
            namespace,
            core,
            events,
            log,
            _kept: kept,
            overlay: RefCell::default(),
            lengths,
            hand,
            spared: RefCell::default(),
            buffer: Cell::default(),
            kept: Cell::default(),
            asked: Arc::clone(&asked),
            full_until: Cell::default(),
        });
        store.env.spawn("store collector", collect_when_asked(Rc::downgrade(&store), asked));
        Ok(store)
    }

    /// Starts what runs in the background.
    fn start(self: &Rc<Self>) {
        let duty = |name| Duty::new(&self.shared, name);
        self.env.spawn("store keeper", Rc::clone(self).keep(duty("store keeper")));
        self.env.spawn("store drain", Rc::clone(self).drain(duty("store drain")));
        let reclaims = reclaim_when_asked(Rc::downgrade(self), Arc::clone(&self.shared));
        self.env.spawn("store values", reclaims);
        let takes_apart = take_apart_when_asked(Rc::downgrade(self), Arc::clone(&self.shared));
        self.env.spawn("store dying trees", takes_apart);
    }

    /// Makes the new epoch durable, before anything else is written.
    async fn write_epoch(&self) -> Result<()> {
        let (superblock, mut copies) = {
            let state = self.shared.state();
            let copies = state.copies;
            let parent = state.parent;
            let superblock = Superblock { clean: false, sequence: copies.next(), parent, ..state.superblock };
            (superblock, copies)
        };
        superblocks::write(&self.namespace, &superblock, &mut copies).await?;
        let mut state = self.shared.state();
        (state.superblock, state.copies, state.parent) = (superblock, copies, superblock.checksum());
        state.segments.epoch_durable();
        Ok(())
    }

    /// Takes a checkpoint that has everything written so far.
    ///
    /// # Errors
    ///
    /// The store has failed.
    pub(in crate::store) async fn checkpoint(&self) -> Result<()> {
        self.ask(false).await
    }

    /// Takes the last checkpoint, and waits until the tasks that keep the store have ended. Reads
    /// still work; all else is refused with [`ErrorKind::Closed`], but for closing once more, which
    /// does nothing.
    ///
    /// # Errors
    ///
    /// The store has failed.
    pub(in crate::store) async fn close(&self) -> Result<()> {
        if self.shared.requests().is_closed {
            // It was closed before, or has failed.
            return self.shared.check_failed("close store", Outcome::NotStarted);
        }
        let closed = self.ask(true).await;
        while self.shared.is_over() && self.shared.is_at_work() {
            let moment = self.shared.progress.now();
            if self.shared.is_at_work() {
                self.shared.progress.since(moment).await;
            }
        }
        closed
    }

    /// Makes durable what this core wrote, and completes when it has nothing under way.
    ///
    /// # Errors
    ///
    /// The store has failed.
    pub(in crate::store) async fn rest(&self) -> Result<()> {
        self.log.rest().await
    }

    async fn ask(&self, is_closing: bool) -> Result<()> {
        let number = self.shared.request(is_closing);
        loop {
            let moment = self.shared.progress.now();
            {
                let requests = self.shared.requests();
                if requests.done >= number {
                    return Ok(());
                }
                if let (to, Some((kind, why))) = &requests.refused
                    && *to >= number
                {
                    return Err(Error::new(*kind, "checkpoint").because(why.clone()));
                }
            }
            self.shared.check_failed("checkpoint", Outcome::Unknown)?;
            if self.shared.requests().is_closed {
                return if is_closing { Ok(()) } else { Err(closed("checkpoint")) };
            }
            self.shared.progress.since(moment).await;
        }
    }
}
