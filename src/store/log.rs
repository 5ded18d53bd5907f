//! The log: records are buffered, gathered into batches (group commit) and written to a ring, one
//! batch in flight.
//!
//! This is the state of the log without its I/O; [`commit`](super::commit) writes what this says.
//! Three points move forward over the LSNs: *appended* (applied in memory), *written* (in a batch
//! that the namespace has), *durable* (flushed).

mod batch;
mod record;

use std::collections::VecDeque;
use std::time::Duration;

pub(super) use batch::{Batch, BatchHeader, HEADER_BYTES};
pub(super) use record::{Operation, RECORD_HEADER_BYTES, parse_payload};

use super::codec::{to_u32, to_usize};
use super::options::Durability;
use crate::rt::Instant;

/// Writers wait while more than this, or an eighth of the ring, is buffered. From a quarter of that
/// on the buffer is written without waiting for its deadline.
const MAX_BUFFER_BYTES: usize = 1 << 20;
/// Writes without durability are handed to the namespace after this time at most.
const UNSYNCED_DELAY: Duration = Duration::from_millis(100);

/// A point in the log: the batch that starts there is the first one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogPoint {
    pub(super) position: u64,
    pub(super) sequence: u64,
    pub(super) chain: u64,
    pub(super) next_lsn: u64,
}

/// Where the ring is and whose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) block: u32,
    pub(super) identity: [u8; 16],
}

pub(super) struct Log {
    pub(super) ring: Ring,
    pub(super) epoch: u64,
    /// Records that are not in a batch yet, behind room for a header.
    buffer: Vec<u8>,
    buffered_records: u32,
    /// The point where the next batch will start.
    next: LogPoint,
    /// Batches that were formed but not written.
    queue: VecDeque<Batch>,
    /// The last checkpoint needs nothing before it.
    pub(super) tail: LogPoint,
    pub(super) written_lsn: u64,
    pub(super) durable_lsn: u64,
    /// The newest batch known to be flushed, and the newest written.
    durable_sequence: u64,
    written_sequence: u64,
    /// When the buffer must be written at the latest, and what has been promised a flush by when.
    write_by: Option<Instant>,
    buffer_flush_by: Option<Instant>,
    written_flush_by: Option<Instant>,
    /// The shortest delay promised for the buffer.
    shortest_delay: Duration,
    externals: u64,
    buffer_has_externals: bool,
}

/// What the committer does next.
pub(super) enum Step {
    Write(Batch),
    Flush,
    WaitUntil(Instant),
    Idle,
}

impl Log {
    /// A log whose next batch starts at `next`; everything before it is durable.
    pub(super) fn new(ring: Ring, epoch: u64, tail: LogPoint, next: LogPoint) -> Self {
        let last = next.next_lsn - 1;
        Self {
            ring,
            epoch,
            buffer: vec![0; HEADER_BYTES],
            buffered_records: 0,
            next,
            queue: VecDeque::new(),
            tail,
            written_lsn: last,
            durable_lsn: last,
            durable_sequence: next.sequence - 1,
            written_sequence: next.sequence - 1,
            write_by: None,
            buffer_flush_by: None,
            written_flush_by: None,
            shortest_delay: Duration::MAX,
            externals: 0,
            buffer_has_externals: false,
        }
    }

    /// The largest record that is accepted: a quarter of the ring.
    pub(super) fn max_record_bytes(&self) -> usize {
        to_usize(self.ring.len / 4) - HEADER_BYTES
    }

    /// The LSN of the newest record.
    pub(super) fn last_lsn(&self) -> u64 {
        self.next.next_lsn + u64::from(self.buffered_records) - 1
    }

    /// Whether writers should wait.
    pub(super) fn is_congested(&self) -> bool {
        self.buffer.len() > self.max_buffer_bytes() || self.queue.len() > 2
    }

    fn max_buffer_bytes(&self) -> usize {
        to_usize(self.ring.len / 8).min(MAX_BUFFER_BYTES)
    }

    fn is_large(&self, buffered_bytes: usize) -> bool {
        buffered_bytes >= self.max_buffer_bytes() / 4
    }

    /// The bytes of the ring that the last checkpoint still needs.
    pub(super) fn used_bytes(&self) -> u64 {
        self.next.position.saturating_sub(self.tail.position) + self.buffer.len() as u64
    }

    /// Whether a checkpoint should make room.
    pub(super) fn is_half_full(&self) -> bool {
        self.used_bytes() > self.ring.len / 2
    }

    /// Appends one record. Returns its LSN, and whether the committer has to be woken.
    pub(super) fn append<'a>(
        &mut self,
        operations: impl Iterator<Item = Operation<'a>>,
        durability: Durability,
        now: impl FnOnce() -> Instant,
    ) -> (u64, bool) {
        // Many writers may each add a large record before they wait. A batch must fit the ring with
        // room to spare, so a buffer that is full already becomes a batch of its own.
        let sealed = self.buffer.len() > self.max_buffer_bytes();
        if sealed {
            self.seal();
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        operations.for_each(|operation| operation.encode(&mut self.buffer));
        let len = to_u32(self.buffer.len() - start - RECORD_HEADER_BYTES);
        self.buffer[start..start + RECORD_HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
        self.buffered_records += 1;
        let woken = self.demand_buffered(durability, now);
        (self.last_lsn(), sealed || woken || (!self.is_large(start) && self.is_large(self.buffer.len())))
    }

    /// Sets the deadlines for a record that was just appended. Returns whether they became earlier.
    fn demand_buffered(&mut self, durability: Durability, now: impl FnOnce() -> Instant) -> bool {
        let delay = match durability {
            Durability::None if self.write_by.is_some() => return false,
            Durability::None => {
                self.write_by = Some(now() + UNSYNCED_DELAY);
                return true;
            }
            Durability::Interval(interval) => interval / 2,
            Durability::Sync => Duration::ZERO,
        };
        if self.buffer_flush_by.is_some() && delay >= self.shortest_delay {
            return false;
        }
        let by = if delay.is_zero() { Instant::ORIGIN } else { now() + delay };
        let earlier = self.write_by.is_none_or(|write_by| by < write_by);
        self.shortest_delay = delay;
        self.write_by = earliest(self.write_by, Some(by));
        self.buffer_flush_by = earliest(self.buffer_flush_by, Some(by));
        earlier
    }

    /// Asks for everything up to `lsn` to become durable without delay.
    pub(super) fn demand(&mut self, lsn: u64) {
        if lsn <= self.durable_lsn {
            return;
        }
        if lsn < self.next.next_lsn {
            self.written_flush_by = Some(Instant::ORIGIN);
        } else if self.buffered_records > 0 {
            self.write_by = Some(Instant::ORIGIN);
            self.buffer_flush_by = Some(Instant::ORIGIN);
        }
    }

    /// Counts a value that goes to its place ahead of the log; the batch of its record waits for
    /// it.
    pub(super) fn count_external(&mut self) -> u64 {
        self.externals += 1;
        self.buffer_has_externals = true;
        self.externals
    }

    /// How many values went to their place ahead of the log.
    pub(super) fn externals(&self) -> u64 {
        self.externals
    }

    /// Ends the current batch, if there is one. Returns the point after it.
    pub(super) fn seal(&mut self) -> LogPoint {
        if self.buffered_records > 0 {
            let batch = self.form();
            self.queue.push_back(batch);
        }
        self.next
    }

    fn form(&mut self) -> Batch {
        let header = BatchHeader {
            payload_len: 0,
            identity: self.ring.identity,
            epoch: self.epoch,
            sequence: self.next.sequence,
            position: self.next.position,
            first_lsn: self.next.next_lsn,
            records: self.buffered_records,
            durable_sequence: self.durable_sequence,
            chain: self.next.chain,
            payload_checksum: 0,
        };
        let (bytes, chain) = batch::assemble(&self.buffer, header, self.ring.block as usize);
        let last_lsn = self.last_lsn();
        let batch = Batch {
            position: self.next.position,
            sequence: self.next.sequence,
            last_lsn,
            flush_by: self.buffer_flush_by.take(),
            externals: self.externals,
            has_new_externals: std::mem::take(&mut self.buffer_has_externals),
            len: bytes.len() as u64,
            bytes: Some(bytes),
        };
        self.next = LogPoint {
            position: batch.end(),
            sequence: self.next.sequence + 1,
            chain,
            next_lsn: last_lsn + 1,
        };
        self.buffer.truncate(HEADER_BYTES);
        if self.buffer.capacity() > 2 * MAX_BUFFER_BYTES {
            self.buffer.shrink_to(MAX_BUFFER_BYTES);
        }
        self.buffered_records = 0;
        self.write_by = None;
        self.shortest_delay = Duration::MAX;
        batch
    }

    /// What to do at `now`. A batch that is returned must be written, then reported by
    /// [`Log::wrote`].
    pub(super) fn step(&mut self, now: Instant) -> Step {
        let due = |by: Option<Instant>| by.is_some_and(|by| by <= now);
        // A flush that is due comes before more writes, or a stream of them could put it off for
        // ever.
        if due(self.written_flush_by) && self.written_lsn > self.durable_lsn {
            return Step::Flush;
        }
        if let Some(batch) = self.queue.pop_front() {
            return Step::Write(batch);
        }
        if self.buffered_records > 0
            && (due(self.write_by) || due(self.buffer_flush_by) || self.is_large(self.buffer.len()))
        {
            return Step::Write(self.form());
        }
        if due(self.written_flush_by) {
            self.written_flush_by = None;
        }
        match earliest(earliest(self.write_by, self.buffer_flush_by), self.written_flush_by) {
            Some(by) => Step::WaitUntil(by),
            None => Step::Idle,
        }
    }

    /// When what was written has to be flushed; `None` if nobody waits for that.
    pub(super) fn flush_by(&self) -> Option<Instant> {
        self.written_flush_by.filter(|_| self.written_lsn > self.durable_lsn)
    }

    /// Whether `batch` is not needed any more, since a checkpoint holds what it says.
    pub(super) fn is_obsolete(&self, batch: &Batch) -> bool {
        batch.end() <= self.tail.position
    }

    /// Whether the ring has room for `batch`.
    pub(super) fn has_room_for(&self, batch: &Batch) -> bool {
        batch.end() <= self.tail.position + self.ring.len
    }

    /// Where in the namespace a batch goes: one or two pieces of `bytes`, as offset and length.
    pub(super) fn pieces(&self, position: u64, len: usize) -> [(u64, usize); 2] {
        let at = position % self.ring.len;
        let first = len.min(to_usize(self.ring.len - at));
        [(self.ring.offset + at, first), (self.ring.offset, len - first)]
    }

    /// Records that a batch was written.
    pub(super) fn wrote(&mut self, batch: &Batch) {
        self.written_lsn = batch.last_lsn;
        self.written_sequence = batch.sequence;
        self.written_flush_by = earliest(self.written_flush_by, batch.flush_by);
    }

    /// What a flush that starts now will make durable, for [`Log::flushed`].
    pub(super) fn flush_point(&mut self) -> (u64, u64) {
        self.written_flush_by = None;
        (self.written_lsn, self.written_sequence)
    }

    /// Records that a flush is complete.
    pub(super) fn flushed(&mut self, (lsn, sequence): (u64, u64)) {
        self.durable_lsn = self.durable_lsn.max(lsn);
        self.durable_sequence = self.durable_sequence.max(sequence);
    }

    /// Records that a checkpoint made everything before `tail` durable.
    pub(super) fn checkpointed(&mut self, tail: LogPoint) {
        self.tail = tail;
        self.durable_lsn = self.durable_lsn.max(tail.next_lsn - 1);
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
