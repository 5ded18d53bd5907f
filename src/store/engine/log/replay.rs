//! Reading the log when a store is opened.
//!
//! Segments are read whole, one after the other. While one is worked through the next one is read
//! already, the one that its header names; if the log ends before, that was in vain.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};
use crate::mem::DmaBuf;
use crate::rt::yield_now;
use crate::store::codec::to_usize;
use crate::store::engine::defect::Defects;
use crate::store::pages::SegmentHeader;
use crate::store::wal::{Batch, LogDamage, LogEnd, LogFormat, LogPosition, Replay};

/// After so many segments the log of the program says how far it is.
const SEGMENTS_PER_MESSAGE: u32 = 16;

/// Reads the log from `start`, which a durable superblock states, calls `each` with every batch in
/// their order, and returns where it ends. `each` lets others run if it has much to do.
///
/// # Errors
///
/// [`Corrupt`](ErrorKind::Corrupt) with the place, and up to which number things are known, if
/// something is damaged that was durable; batches before it have been given to `each`. What the
/// device says.
pub(in crate::store) async fn replay<N: Namespace>(
    namespace: &N,
    format: LogFormat,
    start: LogPosition,
    mut each: impl AsyncFnMut(&Batch<'_>),
) -> Result<LogEnd> {
    let mut replay = Replay::new(format, start, Defects::now().wal);
    let mut ahead: Option<(u32, DmaBuf)> = None;
    let mut spare = None;
    let (mut segments, mut records) = (0, 0_u64);
    while let Some(segment) = replay.wants() {
        let bytes = match ahead.take().filter(|(number, _)| *number == segment) {
            Some((_, bytes)) => bytes,
            None => read(namespace, format, segment, spare.take()).await?,
        };
        // A header that cannot be read, or names what was read already, leads nowhere.
        let header = SegmentHeader::decode(&bytes, &format.identity).ok();
        let next = header.and_then(|header| header.next()).map(|next| next.segment);
        match next.filter(|&next| next != segment) {
            Some(next) => {
                let mut reading = pin!(read(namespace, format, next, spare.take()));
                // The first poll gives it to the device.
                let at_once = poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await;
                records += batches(&mut replay, &bytes, &mut each).await;
                if replay.wants() == Some(next) {
                    let read = match at_once {
                        Poll::Ready(read) => read,
                        Poll::Pending => reading.await,
                    };
                    ahead = Some((next, read?));
                }
            }
            None => records += batches(&mut replay, &bytes, &mut each).await,
        }
        spare = Some(bytes);
        segments += 1;
        if segments % SEGMENTS_PER_MESSAGE == 0 {
            tracing::info!(
                "{}: {segments} segments of the log are read, {records} records",
                namespace.info().name
            );
        }
    }
    replay.finish().map_err(|damage| corrupt(namespace, format, damage))
}

/// Gives `each` the batches of a segment. How many records they have.
async fn batches(replay: &mut Replay, bytes: &[u8], each: &mut impl AsyncFnMut(&Batch<'_>)) -> u64 {
    let mut records = 0;
    replay.segment(bytes);
    while let Some(batch) = replay.next_batch(bytes) {
        records += u64::from(batch.header.records);
        each(&batch).await;
        // A namespace in memory never waits by itself.
        yield_now().await;
    }
    records
}

/// The whole of a segment; nothing of one that the namespace does not have.
async fn read<N: Namespace>(
    namespace: &N,
    format: LogFormat,
    segment: u32,
    spare: Option<DmaBuf>,
) -> Result<DmaBuf> {
    let len = u64::from(format.segment_bytes);
    let offset = u64::from(segment) * len;
    if offset + len > namespace.size_bytes() {
        return Ok(DmaBuf::zeroed(0));
    }
    let len = to_usize(len);
    let buf = spare.filter(|spare| spare.len() == len).unwrap_or_else(|| DmaBuf::zeroed(len));
    Ok(namespace.read(offset, buf).await?)
}

fn corrupt<N: Namespace>(namespace: &N, format: LogFormat, damage: LogDamage) -> Error {
    let LogDamage { position, flushed, is_unreadable } = damage;
    let offset =
        u64::from(position.segment.segment) * u64::from(format.segment_bytes) + u64::from(position.offset);
    let known = position.first - 1;
    let what = if is_unreadable {
        format!(
            "batch {} of the log is what was written, and has records that cannot be read: writes up to \
             number {known} are known",
            position.batch
        )
    } else if flushed == 0 {
        format!(
            "the header of log segment {} is damaged, where the log starts: writes up to number {known} are \
             known, from before it",
            position.segment.segment
        )
    } else {
        format!(
            "batch {} of the log is damaged, and batches up to {flushed} were durable: writes up to number \
             {known} are known, and no later ones",
            position.batch
        )
    };
    Error::new(ErrorKind::Corrupt, "replay log")
        .at(format!("{} offset {offset}", namespace.info().name))
        .because(what)
}
