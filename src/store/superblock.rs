//! Superblocks: four copies of where everything starts (disk format, sections 1 and 2).

use super::codec::{Reader, checksum, to_usize};
use super::disk::Disk;
use super::log::{LogPoint, Ring};
use super::object::ObjectRef;
use super::options::{MIN_LOG_BYTES, MIN_NAMESPACE_BYTES};
use super::space::Extent;
use crate::block::contents::{STORE_MAGIC as MAGIC, recognise};
use crate::block::{Namespace, first_data};
use crate::error::{Error, ErrorKind, Result};
use crate::mem::DmaBuf;

const VERSION: u32 = 1;
const BYTES: usize = 512;
const FLAG_CLEAN: u32 = 1;
/// Where the copies are.
pub(super) const COPIES: [u64; 4] = [0, 1 << 20, 2 << 20, 3 << 20];
/// What is kept free for each copy, and the step of the log's length.
pub(super) const COPY_ROOM_BYTES: u64 = 64 << 10;
/// Where the log ring starts.
pub(super) const LOG_OFFSET: u64 = 4 << 20;
/// No position, sequence number, epoch or LSN comes near this.
const MAX_COUNT: u64 = 1 << 62;
/// A fresh store needs this many zeros at the front.
const FRESH_BYTES: usize = 128 << 10;

/// The content of a superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) clean: bool,
    pub(super) identity: [u8; 16],
    pub(super) sequence: u64,
    pub(super) epoch: u64,
    pub(super) block: u32,
    pub(super) unit: u32,
    pub(super) units: u64,
    pub(super) log_offset: u64,
    pub(super) log_len: u64,
    pub(super) log_start: LogPoint,
    pub(super) catalog: ObjectRef,
    pub(super) map: ObjectRef,
}

impl Superblock {
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::from(self.clean).to_le_bytes());
        out.extend_from_slice(&self.identity);
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.block.to_le_bytes());
        out.extend_from_slice(&self.unit.to_le_bytes());
        let point = self.log_start;
        for field in [
            self.units,
            self.log_offset,
            self.log_len,
            point.position,
            point.sequence,
            point.chain,
            point.next_lsn,
        ] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        self.catalog.encode(&mut out);
        self.map.encode(&mut out);
        out.resize(BYTES, 0);
        let sum = checksum(&out[16..]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode_body(reader: &mut Reader<'_>) -> Option<Self> {
        let clean = reader.u32()? & FLAG_CLEAN != 0;
        let identity = reader.identity()?;
        let (sequence, epoch) = (reader.u64()?, reader.u64()?);
        let (block, unit) = (reader.u32()?, reader.u32()?);
        let (units, log_offset, log_len) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let log_start = LogPoint {
            position: reader.u64()?,
            sequence: reader.u64()?,
            chain: reader.u64()?,
            next_lsn: reader.u64()?,
        };
        let catalog = ObjectRef::decode(reader)?;
        let map = ObjectRef::decode(reader)?;
        Some(Self {
            clean,
            identity,
            sequence,
            epoch,
            block,
            unit,
            units,
            log_offset,
            log_len,
            log_start,
            catalog,
            map,
        })
    }

    /// Whether the numbers can be those of a store.
    fn is_plausible(&self) -> bool {
        let block_ok = self.block.is_power_of_two() && (512..=65536).contains(&self.block);
        let unit_ok = self.unit == self.block.max(4096);
        let log_end = self.log_offset.checked_add(self.log_len);
        let size = self.units.checked_mul(u64::from(self.unit));
        block_ok
            && unit_ok
            && self.log_len >= MIN_LOG_BYTES
            && self.log_len.is_multiple_of(COPY_ROOM_BYTES)
            && self.log_offset == LOG_OFFSET
            && log_end.zip(size).is_some_and(|(log_end, size)| log_end <= size)
            && (1..MAX_COUNT).contains(&self.log_start.sequence)
            && (1..MAX_COUNT).contains(&self.log_start.next_lsn)
            && self.log_start.position < MAX_COUNT
            && self.sequence < MAX_COUNT
            && self.epoch < MAX_COUNT
            && self.log_start.position.is_multiple_of(u64::from(self.block))
    }

    /// The ring that it describes.
    pub(super) fn ring(&self) -> Ring {
        Ring { offset: self.log_offset, len: self.log_len, block: self.block, identity: self.identity }
    }

    /// The extents that no object lies in: the copies and the log.
    pub(super) fn fixed_extents(&self) -> impl Iterator<Item = Extent> {
        let unit = self.unit;
        COPIES
            .into_iter()
            .map(|offset| (offset, COPY_ROOM_BYTES))
            // Until a format is complete the front stays zero, so that an interrupted one can be
            // begun again.
            .chain([(COPY_ROOM_BYTES, FRESH_BYTES as u64 - COPY_ROOM_BYTES), (self.log_offset, self.log_len)])
            .map(move |(offset, len)| Extent {
                start: offset / u64::from(unit),
                units: u32::try_from(len / u64::from(unit)).unwrap_or(u32::MAX),
            })
    }
}

/// What one place for a copy holds.
enum Copy {
    Valid(Box<Superblock>),
    Newer(u32),
    Damaged,
    Blank,
    Foreign,
}

fn read_copy(block: &[u8]) -> Copy {
    if block.iter().all(|&byte| byte == 0) {
        return Copy::Blank;
    }
    let bytes = &block[..BYTES];
    if bytes[..8] != MAGIC {
        return Copy::Foreign;
    }
    let mut reader = Reader::new(&bytes[8..]);
    let (Some(sum), Some(version)) = (reader.u64(), reader.u32()) else { return Copy::Damaged };
    if sum != checksum(&bytes[16..]) {
        return Copy::Damaged;
    }
    if version != VERSION {
        return Copy::Newer(version);
    }
    match Superblock::decode_body(&mut reader).filter(Superblock::is_plausible) {
        Some(superblock) => Copy::Valid(Box::new(superblock)),
        None => Copy::Damaged,
    }
}

/// What a namespace holds.
pub(super) enum Found {
    /// Nothing: all places are zero.
    Fresh,
    /// A store, and the sequence number of each copy (0 for an invalid one).
    Store(Box<Superblock>, [u64; 4]),
}

/// Looks at all copies.
///
/// # Errors
///
/// [`ErrorKind::ForeignData`], [`ErrorKind::UnsupportedFormat`], [`ErrorKind::Corrupt`] if every
/// copy is damaged, or the device's code.
pub(super) async fn find<N: Namespace>(disk: &Disk<N>) -> Result<Found> {
    let block = disk.namespace.info().block_size_bytes as usize;
    let mut sequences = [0; 4];
    let mut best: Option<Box<Superblock>> = None;
    let (mut newer, mut damaged, mut blank, mut failed) = (None, 0, 0, None);
    let size = disk.namespace.size_bytes();
    for (index, offset) in COPIES.into_iter().enumerate() {
        if offset + block.max(BYTES) as u64 > size {
            // A namespace that has yet to grow.
            blank += 1;
            continue;
        }
        let bytes = match disk.read(offset, block.max(BYTES)).await {
            Ok(bytes) => bytes,
            Err(error) => {
                failed = Some(error);
                continue;
            }
        };
        match read_copy(&bytes) {
            Copy::Valid(superblock) => {
                sequences[index] = superblock.sequence;
                if best.as_ref().is_none_or(|best| best.sequence < superblock.sequence) {
                    best = Some(superblock);
                }
            }
            Copy::Newer(version) => newer = Some(version),
            Copy::Damaged => damaged += 1,
            Copy::Blank => blank += 1,
            Copy::Foreign => {}
        }
    }
    if let Some(version) = newer {
        return Err(Error::new(ErrorKind::UnsupportedFormat, "open store").at(disk.name().to_owned()).because(
            format!("the store has format version {version}, this program knows version {VERSION}: use a newer boson"),
        ));
    }
    if let Some(best) = best {
        return Ok(Found::Store(best, sequences));
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if damaged > 0 {
        return Err(Error::new(ErrorKind::Corrupt, "open store")
            .at(disk.name().to_owned())
            .because("it holds a boson store, but every superblock copy is damaged"));
    }
    let front = disk.read(0, to_usize(size.min(FRESH_BYTES as u64))).await?;
    if is_being_formatted(&front) {
        return Ok(Found::Fresh);
    }
    let foreign = if blank == COPIES.len() { first_data(&disk.namespace).await? } else { Some(0) };
    let Some(offset) = foreign else { return Ok(Found::Fresh) };
    let what = match recognise(&front) {
        Some(what) => what.to_owned(),
        None if offset < front.len() as u64 => "data that is not recognised".to_owned(),
        None => format!("data that is not recognised, from byte {offset} on"),
    };
    Err(Error::new(ErrorKind::ForeignData, "open store").at(disk.name().to_owned()).because(format!(
        "it holds {what}, not a boson store; to overwrite it, open it with formatting (--format)"
    )))
}

/// Where a namespace that is being formatted says so.
const FORMATTING_OFFSET: u64 = COPY_ROOM_BYTES;
const FORMATTING_MAGIC: [u8; 8] = *b"boson\0fm";

/// Whether a format of this namespace was interrupted: all it holds may be overwritten.
fn is_being_formatted(front: &[u8]) -> bool {
    let mark = front.get(to_usize(FORMATTING_OFFSET)..).unwrap_or_default();
    mark.get(..16).is_some_and(|mark| mark == formatting_mark())
}

fn formatting_mark() -> [u8; 16] {
    let mut mark = [0; 16];
    mark[..8].copy_from_slice(&FORMATTING_MAGIC);
    mark[8..].copy_from_slice(&checksum(&FORMATTING_MAGIC).to_le_bytes());
    mark
}

/// Says that the namespace is being formatted, then zeroes every copy's place, so that an
/// interrupted format leaves nothing half valid.
pub(super) async fn wipe<N: Namespace>(disk: &Disk<N>) -> Result<()> {
    let (unit, room) = (disk.unit as usize, to_usize(COPY_ROOM_BYTES));
    let mut rest = DmaBuf::zeroed(FRESH_BYTES - room);
    rest[..16].copy_from_slice(&formatting_mark());
    disk.write(FORMATTING_OFFSET, rest).await?;
    disk.flush().await?;
    for offset in COPIES.into_iter().rev() {
        disk.write(offset, DmaBuf::zeroed(room.next_multiple_of(unit))).await?;
    }
    disk.flush().await?;
    disk.write(LOG_OFFSET, DmaBuf::zeroed(room)).await
}

/// The format is complete: takes back what [`wipe`] said.
pub(super) async fn formatted<N: Namespace>(disk: &Disk<N>) -> Result<()> {
    disk.write(FORMATTING_OFFSET, DmaBuf::zeroed(disk.unit as usize)).await
}

/// Writes all copies, the oldest two first, each pair followed by `flush`. After an error the store
/// must be given up: either superblock may be the newest.
pub(super) async fn write<N: Namespace>(
    disk: &Disk<N>,
    superblock: &Superblock,
    sequences: &mut [u64; 4],
    flush: impl AsyncFn() -> Result<()>,
) -> Result<()> {
    let encoded = superblock.encode();
    let block = (superblock.block as usize).max(BYTES);
    let mut order = [0, 2, 1, 3];
    order.sort_by_key(|&index: &usize| sequences[index]);
    for pair in order.chunks(2) {
        for &index in pair {
            let mut buf = DmaBuf::zeroed(block);
            buf[..BYTES].copy_from_slice(&encoded);
            disk.write(COPIES[index], buf).await?;
        }
        flush().await?;
        pair.iter().for_each(|&index| sequences[index] = superblock.sequence);
    }
    Ok(())
}

/// Checks that a namespace is, or can become, large enough for a store.
pub(super) fn check_size<N: Namespace>(disk: &Disk<N>) -> Result<()> {
    let size = disk.namespace.size_bytes().max(disk.namespace.info().max_size_bytes);
    if size >= MIN_NAMESPACE_BYTES {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "open store").at(disk.name().to_owned()).because(format!(
        "the namespace has {size} bytes, a store needs at least {MIN_NAMESPACE_BYTES} (8 MiB)"
    )))
}
