//! Opening: formatting a fresh namespace, or loading a checkpoint and replaying the log after it
//! (disk format, section 8).

use super::catalog;
use super::checkpoint;
use super::codec::{checksum, to_usize};
use super::disk::Disk;
use super::env::Env;
use super::log::{BatchHeader, HEADER_BYTES, Log, LogPoint, Operation, Ring, parse_payload};
use super::object::{ObjectRef, Stored};
use super::options::{MAX_INLINE_BYTES, MAX_TREES, MIN_LOG_BYTES, MIN_NAMESPACE_BYTES, Options, StoreDefect};
use super::pace::Pace;
use super::page::{Blob, Garbage, NewValue, PageRef};
use super::shared::StoreShared;
use super::space::{Extent, Space};
use super::state::{Lookup, StoreState};
use super::superblock::{self, COPY_ROOM_BYTES, Found, LOG_OFFSET, Superblock};
use super::tree_state::{Seek, TreeState};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};

/// How much of the log is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// Opens the store on `namespace`, or makes one.
pub(super) async fn open<E: Env, N: Namespace>(
    env: E,
    namespace: N,
    options: Options,
) -> Result<StoreShared<E, N>> {
    let mut disk = Disk::new(namespace, options.defect);
    superblock::check_size(&disk)?;
    // What is refused stays as it is: so nothing is written before it is known what the namespace
    // holds.
    match superblock::find(&disk).await {
        Ok(Found::Store(superblock, copies)) if !options.format => {
            disk.unit = superblock.unit;
            load(env, disk, options, &superblock, copies).await
        }
        Err(error) if !options.format || !may_overwrite(error.kind()) => Err(error),
        _ => format(env, disk, options).await,
    }
}

fn may_overwrite(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ForeignData | ErrorKind::UnsupportedFormat | ErrorKind::Corrupt)
}

async fn format<E: Env, N: Namespace>(env: E, disk: Disk<N>, options: Options) -> Result<StoreShared<E, N>> {
    let info = disk.namespace.info();
    let most = (info.max_size_bytes.max(disk.namespace.size_bytes()) / 4).max(MIN_LOG_BYTES);
    let len = options.log_bytes.clamp(MIN_LOG_BYTES, most) / COPY_ROOM_BYTES * COPY_ROOM_BYTES;
    let block = info.block_size_bytes;
    let needed = (LOG_OFFSET + 2 * len).max(MIN_NAMESPACE_BYTES);
    if disk.namespace.size_bytes() < needed {
        disk.namespace.grow(needed).await?;
    }
    superblock::wipe(&disk).await?;
    let identity = options.identity.unwrap_or_else(|| {
        let mut drawn = [0; 16];
        env.fill_random(&mut drawn);
        drawn
    });
    let ring = Ring { offset: LOG_OFFSET, len, block, identity };
    let start = LogPoint { position: 0, sequence: 1, chain: checksum(&identity), next_lsn: 1 };
    let log = Log::new(ring, 1, start, start);
    let cache_bytes = options.cache_bytes;
    let state = StoreState::new(Space::new(disk.units()), log, disk.unit, cache_bytes);
    let shared = StoreShared::new(env, disk, options, state, [0; 4]);
    {
        let mut state = shared.state.borrow_mut();
        let nothing = super::object::ObjectRef::default();
        let superblock = checkpoint::describe(&shared, &state, start, nothing, nothing, false);
        superblock.fixed_extents().for_each(|extent| state.space.fix(extent));
    }
    checkpoint::take(&shared, false).await?;
    superblock::formatted(&shared.disk).await?;
    Ok(shared)
}

async fn load<E: Env, N: Namespace>(
    env: E,
    disk: Disk<N>,
    options: Options,
    superblock: &Superblock,
    copies: [u64; 4],
) -> Result<StoreShared<E, N>> {
    check_geometry(&disk, superblock)?;
    let (content, stored_catalog) = disk.read_object(superblock.catalog).await?;
    let (entries, next_id) = catalog::decode(&content)
        .ok_or_else(|| disk.corrupt(superblock.catalog.address, "the catalog does not parse"))?;
    let (content, stored_map) = disk.read_object(superblock.map).await?;
    let map_problem = |what| disk.corrupt(superblock.map.address, what);
    let mut space = Space::from_bytes(&content, superblock.units)
        .ok_or_else(|| map_problem("the allocation map is larger than the store"))?;
    for extent in superblock.fixed_extents() {
        if !space.is_all_used(extent) {
            return Err(map_problem("units of the superblocks or the log are free in the allocation map"));
        }
        space.fix(extent);
    }
    for stored in [&stored_catalog, &stored_map] {
        if !stored.extents(disk.unit).iter().flatten().all(|&extent| space.is_all_used(extent)) {
            return Err(map_problem("the catalog or the allocation map is free in the allocation map"));
        }
    }
    // The namespace may have grown since.
    space.grow(disk.units());
    let start = superblock.log_start;
    let log = Log::new(superblock.ring(), superblock.epoch + 1, start, start);
    let mut state = StoreState::new(space, log, disk.unit, options.cache_bytes);
    state.meta = vec![stored_catalog, stored_map];
    state.checkpoint.lsn = start.next_lsn - 1;
    state.checkpoint.space_units = superblock.units;
    state.trees.resize_with(next_id as usize, || None);
    for entry in entries {
        let root = (!entry.root.is_nothing()).then_some(PageRef::OnDisk(entry.root));
        state.place_tree(entry.id, TreeState { name: entry.name, root, len: entry.len, created: true });
    }
    let shared = StoreShared::new(env, disk, options, state, copies);
    let end = replay(&shared, superblock).await?;
    // What was read may sit in a volatile cache if only the process had died.
    shared.disk.flush().await?;
    let superblock = {
        let mut state = shared.state.borrow_mut();
        state.log = Log::new(superblock.ring(), superblock.epoch + 1, start, end);
        checkpoint::describe(&shared, &state, start, superblock.catalog, superblock.map, false)
    };
    let mut copies = shared.copies.get();
    superblock::write(&shared.disk, &superblock, &mut copies, || shared.disk.flush()).await?;
    shared.copies.set(copies);
    Ok(shared)
}

fn check_geometry<N: Namespace>(disk: &Disk<N>, superblock: &Superblock) -> Result<()> {
    let problem =
        |kind, what: String| Err(Error::new(kind, "open store").at(disk.name().to_owned()).because(what));
    let block = disk.namespace.info().block_size_bytes;
    if block > superblock.block {
        return problem(
            ErrorKind::InvalidInput,
            format!(
                "the store was made for blocks of {} bytes, the namespace now has blocks of {block}",
                superblock.block
            ),
        );
    }
    if disk.units() < superblock.units {
        return problem(
            ErrorKind::Corrupt,
            format!(
                "the namespace was cut to {} bytes, the store needs {}",
                disk.namespace.size_bytes(),
                superblock.units * u64::from(superblock.unit)
            ),
        );
    }
    Ok(())
}

/// Reads the ring through a window.
struct RingReader<'a, N> {
    disk: &'a Disk<N>,
    ring: Ring,
    /// The ring offset of the window.
    start: u64,
    window: Vec<u8>,
    pace: Pace,
}

impl<'a, N: Namespace> RingReader<'a, N> {
    fn new(disk: &'a Disk<N>, ring: Ring) -> Self {
        Self { disk, ring, start: 0, window: Vec::new(), pace: Pace::default() }
    }

    /// What the window holds of the ring from `position` on: a byte at least, and a whole block
    /// where a block starts.
    async fn window(&mut self, position: u64) -> Result<&[u8]> {
        let at = position % self.ring.len;
        if at < self.start || at >= self.start + self.window.len() as u64 {
            // Windows end at blocks, so this one starts at a block, too.
            self.start = at;
            let len = to_usize(self.ring.len - at).min(WINDOW_BYTES);
            self.window = self.disk.read(self.ring.offset + at, len).await?;
        }
        Ok(&self.window[to_usize(at - self.start)..])
    }

    /// The header at `position`, where a block starts, and its checksum.
    async fn header(&mut self, position: u64) -> Result<Option<(BatchHeader, u64)>> {
        // There is one to look at in every block of the ring.
        self.pace.step().await;
        Ok(BatchHeader::decode(self.window(position).await?))
    }

    /// The `len` bytes at `position`, which may wrap.
    async fn read(&mut self, position: u64, len: usize) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(len);
        while out.len() < len {
            let left = len - out.len();
            let window = self.window(position + out.len() as u64).await?;
            out.extend_from_slice(&window[..left.min(window.len())]);
        }
        Ok(out)
    }

    /// The batch at `point`, if it is valid: its header, payload, and the point after it.
    async fn batch(&mut self, point: LogPoint) -> Result<Option<(BatchHeader, Vec<u8>, LogPoint)>> {
        let Some((header, chain)) = self.header(point.position).await? else { return Ok(None) };
        let expected = header.identity == self.ring.identity
            && header.position == point.position
            && header.sequence == point.sequence
            && header.chain == point.chain
            && header.first_lsn == point.next_lsn;
        let block = u64::from(self.ring.block);
        let len = (HEADER_BYTES as u64 + u64::from(header.payload_len)).next_multiple_of(block);
        if !expected || len > self.ring.len {
            return Ok(None);
        }
        let mut bytes = self.read(point.position, HEADER_BYTES + header.payload_len as usize).await?;
        let payload = bytes.split_off(HEADER_BYTES);
        if checksum(&payload) != header.payload_checksum {
            return Ok(None);
        }
        let next = LogPoint {
            position: point.position + len,
            sequence: point.sequence + 1,
            chain,
            next_lsn: point.next_lsn + u64::from(header.records),
        };
        Ok(Some((header, payload, next)))
    }

    /// The first block at or after `point` where a batch of this store starts that is `wanted`: its
    /// position and its header. What the batch holds is not looked at.
    async fn find_batch(
        &mut self,
        point: LogPoint,
        wanted: impl Fn(&BatchHeader) -> bool,
    ) -> Result<Option<(u64, BatchHeader)>> {
        let mut position = point.position;
        while position < point.position + self.ring.len {
            if let Some((header, _)) = self.header(position).await?
                && header.identity == self.ring.identity
                && header.position == position
                && wanted(&header)
            {
                return Ok(Some((position, header)));
            }
            position += u64::from(self.ring.block);
        }
        Ok(None)
    }

    /// Whether any batch after `point` says that the one at `point` was durable.
    async fn was_durable(&mut self, point: LogPoint) -> Result<bool> {
        let found = self.find_batch(point, |header| header.durable_sequence >= point.sequence).await?;
        Ok(found.is_some())
    }

    /// The next block after `point` where any batch of this store starts: what a broken recovery
    /// would go on with.
    async fn skip_hole(&mut self, point: LogPoint) -> Result<Option<LogPoint>> {
        let found = self.find_batch(point, |header| header.sequence > point.sequence).await?;
        Ok(found.map(|(position, header)| {
            let (sequence, chain, next_lsn) = (header.sequence, header.chain, header.first_lsn);
            LogPoint { position, sequence, chain, next_lsn }
        }))
    }
}

/// Applies every record after the checkpoint; returns the point where the log goes on.
async fn replay<E: Env, N: Namespace>(
    shared: &StoreShared<E, N>,
    superblock: &Superblock,
) -> Result<LogPoint> {
    let mut reader = RingReader::new(&shared.disk, superblock.ring());
    let mut point = superblock.log_start;
    loop {
        let Some((header, payload, next)) = reader.batch(point).await? else {
            if shared.options.defect == Some(StoreDefect::IgnoreChain)
                && let Some(after_hole) = reader.skip_hole(point).await?
            {
                point = after_hole;
                continue;
            }
            let offset = superblock.log_offset + point.position % superblock.log_len;
            if reader.was_durable(point).await? {
                return Err(shared.disk.corrupt(
                    offset,
                    "a log batch that was durable is damaged; writes from there on would be lost, so nothing was changed",
                ));
            }
            return Ok(point);
        };
        let offset = superblock.log_offset + point.position % superblock.log_len;
        let records = parse_payload(&payload)
            .filter(|records| records.len() == header.records as usize)
            .ok_or_else(|| shared.disk.corrupt(offset, "a log batch that does not parse"))?;
        for operation in records.into_iter().flatten() {
            reader.pace.step().await;
            match operation {
                Operation::Spilled { reference } => replay_spilled(shared, reference, offset).await?,
                operation => apply(shared, operation, offset).await?,
            }
        }
        point = next;
    }
}

/// Applies a record that lies outside of the log.
async fn replay_spilled<E: Env, N: Namespace>(
    shared: &StoreShared<E, N>,
    reference: ObjectRef,
    offset: u64,
) -> Result<()> {
    let (record, stored) = shared.disk.read_object(reference).await?;
    {
        let mut state = shared.state.borrow_mut();
        let extents = stored.extents(shared.disk.unit).unwrap_or_default();
        take_extents(shared, &mut state, &extents, offset)?;
        // The next checkpoint holds what it says.
        state.ledger.release_extents(extents);
    }
    let records = parse_payload(&record)
        .ok_or_else(|| shared.disk.corrupt(offset, "a log record outside of the log that does not parse"))?;
    let mut pace = Pace::default();
    for operation in records.into_iter().flatten() {
        pace.step().await;
        apply(shared, operation, offset).await?;
    }
    Ok(())
}

/// Marks what was written ahead of the log as in use.
fn take_extents<E: Env, N: Namespace>(
    shared: &StoreShared<E, N>,
    state: &mut StoreState,
    extents: &[Extent],
    offset: u64,
) -> Result<()> {
    for &extent in extents {
        if !state.space.take(extent) {
            return Err(shared.disk.corrupt(
                offset,
                "a log record for a value outside the namespace, or over units that are in use",
            ));
        }
        state.external_extents.push(extent);
    }
    Ok(())
}

async fn apply<E: Env, N: Namespace>(
    shared: &StoreShared<E, N>,
    operation: Operation<'_>,
    offset: u64,
) -> Result<()> {
    let (Operation::Put { tree, .. }
    | Operation::PutExternal { tree, .. }
    | Operation::Delete { tree, .. }
    | Operation::CreateTree { tree, .. }
    | Operation::ClearTree { tree }) = operation
    else {
        return Err(shared.disk.corrupt(offset, "a log record within another that lies outside of the log"));
    };
    let exists = shared.state.borrow().trees.get(tree as usize).is_some_and(Option::is_some);
    let creates = matches!(operation, Operation::CreateTree { .. });
    if exists == creates || tree as usize >= catalog::MAX_TREE_IDS {
        return Err(shared.disk.corrupt(offset, "a log record for a tree that cannot be"));
    }
    match operation {
        Operation::CreateTree { tree, name } => {
            let mut state = shared.state.borrow_mut();
            if state.by_name.contains_key(name) || state.by_name.len() >= MAX_TREES {
                return Err(shared.disk.corrupt(offset, "a log record for a tree that cannot be"));
            }
            state.place_tree(tree, TreeState { created: true, ..TreeState::new(name.to_owned()) });
        }
        Operation::Put { tree, key, value } => {
            shared.leaf(tree, Seek::Key(key)).await?;
            let mut state = shared.state.borrow_mut();
            let value = if value.len() > MAX_INLINE_BYTES {
                NewValue::Overflow(Blob::new(value.into(), &mut state.ledger))
            } else {
                NewValue::Inline(value)
            };
            put(&mut state, tree, key, &value);
        }
        Operation::PutExternal { tree, key, reference } => {
            let extents = shared.disk.object_extents(reference).await?;
            shared.leaf(tree, Seek::Key(key)).await?;
            let mut state = shared.state.borrow_mut();
            take_extents(shared, &mut state, &extents, offset)?;
            let scattered = reference.is_scattered().then(|| extents.into());
            let blob = Blob::stored_at(Stored { reference, scattered }, None, &mut state.ledger);
            put(&mut state, tree, key, &NewValue::Overflow(blob));
        }
        Operation::Delete { tree, key } => {
            shared.leaf(tree, Seek::Key(key)).await?;
            let mut state = shared.state.borrow_mut();
            if matches!(state.lookup(tree, key), Lookup::Found(..)) {
                state.delete(tree, key);
            }
        }
        Operation::ClearTree { tree } => {
            let mut state = shared.state.borrow_mut();
            let (tree, ledger) = state.tree_and_ledger(tree);
            tree.len = 0;
            if let Some(root) = tree.root.take() {
                ledger.discard(Garbage::Tree(root));
            }
        }
        Operation::Spilled { .. } => {}
    }
    Ok(())
}

fn put(state: &mut StoreState, tree: u32, key: &[u8], value: &NewValue<'_>) {
    let (tree, ledger) = state.tree_and_ledger(tree);
    let done = tree.put(key, value, ledger);
    debug_assert!(done.is_ok(), "the leaf was just loaded");
}
