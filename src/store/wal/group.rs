//! What the cores of a store share: the order, the leader, and what is durable.

use std::sync::{Arc, TryLockError};

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};

use super::buffer::{Producer, buffer};
use super::defect::WalDefect;
use super::leader::{Formed, Leader, NoBatch, Point};
use super::order::{Line, Order};
use super::segments::{LogFormat, LogPosition, Segments};
use super::writer::CoreLog;
use crate::store::atomic::{AtomicU64, Ordering};

/// The log of a store, shared by its cores.
///
/// The role of leader is a lock that is held between two awaits only. So whoever forms a batch need
/// not be the one that reports its flush, and a core that sleeps or goes leads nobody astray.
#[derive(Debug)]
pub(in crate::store) struct Wal {
    order: Arc<Order>,
    leader: Mutex<Leader>,
    /// The ends of buffers that no core has, each with its core's number.
    free: Mutex<Vec<(usize, Producer)>>,
    max_record_bytes: usize,
    /// Numbers below it are durable.
    durable: Line<AtomicU64>,
}

impl Wal {
    /// A log whose next batch is at `position`, with buffers of `buffer_bytes`, a power of two, for
    /// `cores` cores. Everything before `position` has been flushed.
    pub(in crate::store) fn new(
        format: LogFormat,
        epoch: u64,
        position: LogPosition,
        segments: Segments,
        (cores, buffer_bytes): (usize, usize),
        defect: Option<WalDefect>,
    ) -> Self {
        let (producers, consumers): (Vec<_>, Vec<_>) = (0..cores).map(|_| buffer(buffer_bytes)).unzip();
        // A record with its batch and the header of a segment takes a quarter of a segment at most.
        let max_record_bytes = format.segment_bytes as usize / 4 - super::batch::HEADER_BYTES;
        Self {
            order: Arc::new(Order::new(position.first, cores, defect)),
            leader: Mutex::new(Leader::new(format, epoch, position, segments, consumers, defect)),
            free: Mutex::new(producers.into_iter().enumerate().rev().collect()),
            max_record_bytes,
            durable: Line(AtomicU64::new(position.first)),
        }
    }

    /// The order of writes.
    pub(in crate::store) fn order(&self) -> &Order {
        &self.order
    }

    /// A core's way in. `None` if as many cores are attached as the log is for.
    pub(in crate::store) fn attach(&self) -> Option<CoreLog> {
        let (core, producer) = self.free.lock().ok()?.pop()?;
        Some(CoreLog::new(Arc::clone(&self.order), core, producer, self.max_record_bytes))
    }

    /// Takes back what [`Wal::attach`] gave out. Records in the buffer stay for the leader.
    pub(in crate::store) fn detach(&self, log: CoreLog) {
        if let Ok(mut free) = self.free.lock() {
            free.push(log.into_parts());
        }
    }

    /// Numbers below this one are durable (Acquire).
    pub(in crate::store) fn durable(&self) -> u64 {
        self.durable.0.load(Ordering::Acquire)
    }

    /// Leads, unless another core does at this moment. It is then sure to look at what was appended
    /// before this call only if this core asks again.
    pub(in crate::store) fn lead(&self) -> Option<Lead<'_>> {
        match self.leader.try_lock() {
            Ok(leader) => Some(Lead { wal: self, leader }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(poisoned)) => {
                // A leader that panicked may have left a batch half formed.
                let mut leader = poisoned.into_inner();
                leader.fail();
                Some(Lead { wal: self, leader })
            }
        }
    }
}

/// The role of leader; nothing awaits while it lives.
#[derive(Debug)]
pub(in crate::store) struct Lead<'a> {
    wal: &'a Wal,
    leader: MutexGuard<'a, Leader>,
}

impl Lead<'_> {
    /// See [`Leader::next_batch`].
    pub(in crate::store) fn next_batch(&mut self, out: &mut [u8]) -> Result<Option<Formed>, NoBatch> {
        let formed = self.leader.next_batch(&self.wal.order, out);
        self.publish();
        formed
    }

    /// See [`Leader::written`].
    pub(in crate::store) fn written(&mut self, is_durable: bool) {
        self.leader.written(is_durable);
        self.publish();
    }

    /// See [`Leader::start_flush`].
    pub(in crate::store) fn start_flush(&mut self) -> Option<Point> {
        self.leader.start_flush()
    }

    /// See [`Leader::flushed`].
    pub(in crate::store) fn flushed(&mut self) -> Point {
        let point = self.leader.flushed();
        self.publish();
        point
    }

    /// The leader itself, for bundles, segments and failures.
    pub(in crate::store) fn leader(&mut self) -> &mut Leader {
        &mut self.leader
    }

    fn publish(&self) {
        let end = self.leader.durable().end;
        if self.wal.durable.0.load(Ordering::Relaxed) < end {
            self.wal.durable.0.store(end, Ordering::Release);
        }
    }
}
