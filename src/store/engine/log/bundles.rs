//! Bundles that wait to be named in a batch, and to be durable with it.
//!
//! A bundle gets a *ticket*, counted from 0. The leader names bundles in the order in which it gets
//! them, so all tickets below one are named, and all below another one are durable.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock;
use crate::store::wal::{BundleEntry, Leader};

/// The bundles of a log.
#[derive(Debug, Default)]
pub(super) struct Bundles {
    queue: Mutex<Queue>,
    /// Tickets below it are given out, in batches, durable. Release with what makes it true.
    given: AtomicU64,
    named: AtomicU64,
    durable: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    /// Those that the leader does not have yet.
    incoming: Vec<(u64, Vec<BundleEntry>)>,
    /// Batches that are not durable, each with the ticket after its last.
    batches: VecDeque<(u64, u64)>,
}

impl Bundles {
    /// Takes bundles that have to be durable together, and returns the ticket of the last. See
    /// [`Leader::add_group`].
    pub(super) fn give(&self, newest: u64, group: Vec<BundleEntry>) -> u64 {
        let mut queue = lock(&self.queue);
        let count = group.len() as u64;
        queue.incoming.push((newest, group));
        self.given.fetch_add(count, Ordering::Release) + count - 1
    }

    /// Tickets below this one are in batches.
    pub(super) fn named(&self) -> u64 {
        self.named.load(Ordering::Acquire)
    }

    /// Tickets below this one are durable.
    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Gives the leader those that came.
    pub(super) fn hand_over(&self, leader: &mut Leader) {
        if self.has_unnamed() {
            for (newest, group) in lock(&self.queue).incoming.drain(..) {
                leader.add_group(newest, group);
            }
        }
    }

    /// Whether there are some that no batch names.
    pub(super) fn has_unnamed(&self) -> bool {
        self.named() < self.given.load(Ordering::Acquire)
    }

    /// `batch` was formed with `count` of them. The leader is locked.
    pub(super) fn formed(&self, batch: u64, count: u32) {
        if count > 0 {
            let named = self.named() + u64::from(count);
            lock(&self.queue).batches.push_back((batch, named));
            self.named.store(named, Ordering::Release);
        }
    }

    /// Batches up to this one are durable. The leader is locked.
    pub(super) fn batch_durable(&self, batch: u64) {
        if self.durable() == self.named() {
            return;
        }
        let mut queue = lock(&self.queue);
        while let Some(&(first, end)) = queue.batches.front() {
            if first > batch {
                break;
            }
            queue.batches.pop_front();
            self.durable.store(end, Ordering::Release);
        }
    }
}
