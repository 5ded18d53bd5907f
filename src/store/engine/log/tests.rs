//! What the tests of the driver share.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{CoreDriver, LogDriver, SegmentSupply, lock};
use crate::block::Namespace;
use crate::error::Result;
use crate::store::RtEnv;
use crate::store::options::Durability;
use crate::store::pages::{SegmentHeader, SegmentName, SegmentUse};
use crate::store::wal::{Effect, LogEnd, LogFormat, LogPosition, Operation, Segments, Wal, WalDefect};

mod cores;
mod crash;
mod faults;
mod measure;
mod on_core;

/// The first record of a fresh log.
const FIRST: u64 = 1;

/// Segments that nobody needs.
#[derive(Debug, Default)]
struct Pool {
    free: Mutex<VecDeque<SegmentName>>,
    /// How often there was none.
    wanted: AtomicU64,
}

impl SegmentSupply for Arc<Pool> {
    fn failed(&self) {}

    fn next(&self) -> Option<SegmentName> {
        lock(&self.free).pop_front()
    }

    fn wanted(&self) {
        self.wanted.fetch_add(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A checkpoint whose superblock, in which the log starts in `start`, is durable at once.
    async fn recycle(&self, log: &LogDriver, start: SegmentName) {
        let freed = log.with_leader(|leader| leader.segments.free_before(start)).await;
        let again = freed.into_iter().map(|freed| name(freed.segment, freed.generation + 1));
        lock(&self.free).extend(again);
        log.segments_came();
    }
}

fn format(segment_bytes: u32, block_bytes: u32) -> LogFormat {
    LogFormat { identity: *b"a log for tests.", segment_bytes, block_bytes }
}

fn name(segment: u32, generation: u32) -> SegmentName {
    SegmentName { segment, generation }
}

/// Where a fresh log starts: segment 10, whose header names segment 11.
fn start(block_bytes: u32) -> LogPosition {
    LogPosition { segment: name(10, 1), offset: block_bytes, batch: 1, chain: 0, first: FIRST }
}

/// The header of a fresh log's first segment.
fn first_header(format: LogFormat) -> (u64, Vec<u8>) {
    let begin = start(format.block_bytes);
    let usage = SegmentUse::Log { next: name(11, 1), epoch: 0 };
    let header = SegmentHeader { name: begin.segment, usage, first: begin.batch };
    let offset = u64::from(begin.segment.segment) * u64::from(format.segment_bytes);
    (offset, header.encode(&format.identity).to_vec())
}

/// A fresh log on zeros: writes its first header.
async fn prepare<N: Namespace>(namespace: &N, format: LogFormat) {
    let (offset, bytes) = first_header(format);
    let mut buf = crate::mem::DmaBuf::zeroed(format.block_bytes as usize);
    buf[..bytes.len()].copy_from_slice(&bytes);
    namespace.write(offset, buf).await.expect("room");
    namespace.flush().await.expect("no fault is injected");
}

/// What a fresh log's replay gives.
fn fresh_end(block_bytes: u32) -> LogEnd {
    let position = start(block_bytes);
    LogEnd { position, named: name(11, 1), chain: vec![(position.segment, position.batch)] }
}

/// A driver that goes on at `end`, with the segments of `free` in its pool.
fn driver(
    format: LogFormat,
    epoch: u64,
    end: &LogEnd,
    free: impl IntoIterator<Item = SegmentName>,
    (cores, buffer_bytes): (usize, usize),
    defect: Option<WalDefect>,
) -> (Arc<LogDriver>, Arc<Pool>) {
    let chain = end.chain.iter().copied().collect();
    let segments = Segments::new(format, chain, end.position.offset, end.named);
    let pool = Arc::new(Pool { free: Mutex::new(free.into_iter().collect()), wanted: AtomicU64::new(0) });
    let wal = Wal::new(format, epoch, end.position, segments, (cores, buffer_bytes), defect);
    (LogDriver::new(wal, format, cores, Box::new(Arc::clone(&pool))), pool)
}

/// A driver of a fresh log with `spare` segments in its pool.
fn fresh(format: LogFormat, spare: u32, buffers: (usize, usize)) -> (Arc<LogDriver>, Arc<Pool>) {
    let free = (0..spare).map(|index| name(12 + index, 1));
    driver(format, 1, &fresh_end(format.block_bytes), free, buffers, None)
}

/// The operations of a record: its value is `len` bytes that depend on the number.
fn record(number: u64, len: usize) -> Vec<u8> {
    let value = vec![number.to_le_bytes()[0]; len];
    let key = number.to_be_bytes();
    let put = Operation::Put { tree: 7, effect: Effect::Unknown, expiry: None, key: &key, value: &value };
    let mut bytes = vec![0; put.encoded_len()];
    put.encode(&mut bytes);
    bytes
}

/// Appends the record of a number with a value of `len` bytes, and returns the number.
async fn append<N: Namespace>(driver: &CoreDriver<RtEnv, N>, len: usize) -> Result<u64> {
    let mut room = driver.room(1, len + 40).await?;
    let mut draw = room.draw().expect("the first");
    let number = draw.number();
    let bytes = record(number, len);
    draw.append(bytes.len(), |out| out.copy_from_slice(&bytes));
    Ok(number)
}

/// Appends a record and waits until it is durable.
async fn write<N: Namespace>(driver: &Rc<CoreDriver<RtEnv, N>>, len: usize) -> Result<u64> {
    let number = append(driver, len).await?;
    driver.commit(number, Durability::Sync);
    driver.wait(number).await?;
    Ok(number)
}
