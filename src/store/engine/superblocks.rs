//! Superblocks on a namespace: what it holds, writing the next one, and the mark of a format that
//! is under way (disk format, sections 1 and 2).

use crate::block::contents::recognise;
use crate::block::{Namespace, first_data};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::mem::DmaBuf;
use crate::store::codec::{checksum, to_usize};
use crate::store::pages::{
    Choice, MIN_STORE_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_COPIES, Sequences, Superblock, Update, UpdateStep,
    V1_SUPERBLOCK_COPIES, choose, is_version_1,
};

/// Where a namespace that is being formatted says so.
const FORMATTING_OFFSET: u64 = 64 << 10;
const FORMATTING_MAGIC: [u8; 8] = *b"boson\0fm";
/// Everything in front of the first segment: superblocks and the mark.
const FRONT_BYTES: usize = 512 << 10;

/// What a namespace holds.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing, or what a format left that was cut off.
    Fresh,
    Store {
        superblock: Box<Superblock>,
        copies: Copies,
    },
}

/// The sequence numbers of the copies on the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copies {
    sequences: Sequences,
    /// The number that the next superblock gets.
    next: u64,
}

impl Copies {
    /// Those of a namespace without any.
    pub(super) const NONE: Self = Self { sequences: [0; SUPERBLOCK_COPIES.len()], next: 1 };

    /// The sequence number of the next superblock.
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

/// Looks at all copies.
///
/// # Errors
///
/// [`ErrorKind::ForeignData`], [`ErrorKind::UnsupportedFormat`], [`ErrorKind::Corrupt`], or the
/// device's code.
pub(super) async fn find<N: Namespace>(namespace: &N) -> Result<Found> {
    let mut blocks = Vec::with_capacity(SUPERBLOCK_COPIES.len());
    let mut failed = None;
    for offset in SUPERBLOCK_COPIES {
        blocks.push(read_block(namespace, offset).await.unwrap_or_else(|error| {
            failed.get_or_insert(error);
            None
        }));
    }
    let copies = std::array::from_fn(|copy| blocks[copy].as_deref());
    let choice = choose(copies).map_err(|refusal| refusal.error(&namespace.info().name));
    if !matches!(choice, Ok(Choice::Store { .. })) && is_older(namespace).await? {
        let refusal = crate::store::pages::Refusal::Version1;
        return Err(refusal.error(&namespace.info().name));
    }
    match (choice?, failed) {
        (Choice::Store { superblock, sequences, next_sequence }, _) => {
            Ok(Found::Store { superblock, copies: Copies { sequences, next: next_sequence } })
        }
        (_, Some(error)) => Err(error),
        (Choice::Blank | Choice::Foreign, None) => fresh_or_foreign(namespace).await,
    }
}

/// The first bytes of a copy's block; none beyond the end of a namespace that has yet to grow.
async fn read_block<N: Namespace>(namespace: &N, offset: u64) -> Result<Option<DmaBuf>> {
    let block = (namespace.info().block_size_bytes as usize).max(SUPERBLOCK_BYTES);
    if offset + block as u64 > namespace.size_bytes() {
        return Ok(None);
    }
    Ok(Some(namespace.read(offset, DmaBuf::zeroed(block)).await?))
}

/// Whether a superblock of version 1 is in one of its places. The first of them is version 2's too,
/// which says so itself.
async fn is_older<N: Namespace>(namespace: &N) -> Result<bool> {
    for offset in V1_SUPERBLOCK_COPIES {
        if let Ok(Some(block)) = read_block(namespace, offset).await
            && is_version_1(&block)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn fresh_or_foreign<N: Namespace>(namespace: &N) -> Result<Found> {
    let len = namespace.size_bytes().min(FRONT_BYTES as u64);
    let front =
        if len == 0 { DmaBuf::zeroed(0) } else { namespace.read(0, DmaBuf::zeroed(to_usize(len))).await? };
    if is_being_formatted(&front) {
        return Ok(Found::Fresh);
    }
    let Some(offset) = first_data(namespace).await? else { return Ok(Found::Fresh) };
    let what = match recognise(&front) {
        Some(what) => what.to_owned(),
        None if offset < front.len() as u64 => "data that is not recognised".to_owned(),
        None => format!("data that is not recognised, from byte {offset} on"),
    };
    Err(Error::new(ErrorKind::ForeignData, "open store").at(namespace.info().name.clone()).because(format!(
        "it holds {what}, not a boson store; to overwrite it, open it with formatting (--format)"
    )))
}

/// Refuses a namespace that neither is nor can become large enough for a store.
///
/// # Errors
///
/// [`ErrorKind::InvalidInput`].
pub(super) fn check_size<N: Namespace>(namespace: &N) -> Result<()> {
    let size = namespace.size_bytes().max(namespace.info().max_size_bytes);
    if size >= MIN_STORE_BYTES {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "open store")
        .at(namespace.info().name.clone())
        .because(format!("the namespace has {size} bytes, a store needs at least {MIN_STORE_BYTES} (8 MiB)"))
        .outcome_is(Outcome::NotStarted))
}

/// Whether a format of this namespace was cut off: all that it holds may be overwritten.
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

/// Says that the namespace is being formatted, then zeroes every place of a superblock, of version
/// 1 too, so that a format that is cut off leaves nothing half valid.
///
/// # Errors
///
/// The device's code.
pub(super) async fn wipe<N: Namespace>(namespace: &N, block: usize) -> Result<()> {
    let mut mark = DmaBuf::zeroed(block);
    mark[..16].copy_from_slice(&formatting_mark());
    namespace.write(FORMATTING_OFFSET, mark).await?;
    namespace.flush().await?;
    let size = namespace.size_bytes();
    for offset in SUPERBLOCK_COPIES.into_iter().rev().chain(V1_SUPERBLOCK_COPIES) {
        if offset + block as u64 <= size {
            namespace.write(offset, DmaBuf::zeroed(block)).await?;
        }
    }
    namespace.flush().await
}

/// The format is complete: takes back what [`wipe`] said.
///
/// # Errors
///
/// The device's code.
pub(super) async fn formatted<N: Namespace>(namespace: &N, block: usize) -> Result<()> {
    namespace.write(FORMATTING_OFFSET, DmaBuf::zeroed(block)).await?;
    Ok(())
}

/// Writes `superblock`, whose sequence number is [`Copies::next`]. It is durable when this returns.
///
/// # Errors
///
/// The device's code. The store has to be given up then: either superblock may be the newest.
pub(super) async fn write<N: Namespace>(
    namespace: &N,
    superblock: &Superblock,
    copies: &mut Copies,
) -> Result<()> {
    let block = superblock.geometry.block as usize;
    let mut update = Update::new(*superblock, &copies.sequences);
    while let Some(step) = update.step() {
        match step {
            UpdateStep::Write { offset, bytes } => {
                let mut buf = DmaBuf::zeroed(block);
                buf[..bytes.len()].copy_from_slice(&bytes[..]);
                namespace.write(offset, buf).await?;
            }
            UpdateStep::Flush => namespace.flush().await?,
        }
    }
    copies.sequences = [superblock.sequence; SUPERBLOCK_COPIES.len()];
    copies.next = superblock.sequence + 1;
    Ok(())
}
