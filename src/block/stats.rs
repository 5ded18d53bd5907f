//! What the namespaces of a core did.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::queue::CommandKind;
use crate::rt::CoreLocal;
use crate::rt::record::Histogram;

/// What one core did with one namespace since it attached.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct NamespaceStats {
    /// The address it was opened by.
    pub name: String,
    /// Reads.
    pub reads: OperationStats,
    /// Writes, also durable ones.
    pub writes: OperationStats,
    /// Flushes. The flush of a durable write that the device cannot do by itself is not among them.
    pub flushes: OperationStats,
    /// Trims.
    pub trims: OperationStats,
    /// Zeros written by the device's command for that.
    pub write_zeroes: OperationStats,
    /// Compare and write, also those that found something else.
    pub compares: OperationStats,
    /// How many operations are with the device, or wait for their turn, now.
    pub queue_depth: u64,
    /// The most there were at once.
    pub max_queue_depth: u64,
    /// Commands that the device asked to send again.
    pub retries: u64,
    /// Bytes that were copied because the device cannot reach the memory that they were in.
    pub copied_bytes: u64,
}

/// The names of the kinds of operations, in the order of [`NamespaceStats::operations`].
const OPERATIONS: [&str; 6] = ["read", "write", "flush", "trim", "write_zeroes", "compare_and_write"];

impl NamespaceStats {
    /// What the operations of each kind did, with a name for each kind: `read`, `write`, `flush`,
    /// `trim`, `write_zeroes` and `compare_and_write`.
    pub fn operations(&self) -> [(&'static str, &OperationStats); 6] {
        let [read, write, flush, trim, write_zeroes, compare] = OPERATIONS;
        [
            (read, &self.reads),
            (write, &self.writes),
            (flush, &self.flushes),
            (trim, &self.trims),
            (write_zeroes, &self.write_zeroes),
            (compare, &self.compares),
        ]
    }

    /// In the order of [`operations`](Self::operations).
    fn operations_mut(&mut self) -> [&mut OperationStats; 6] {
        [
            &mut self.reads,
            &mut self.writes,
            &mut self.flushes,
            &mut self.trims,
            &mut self.write_zeroes,
            &mut self.compares,
        ]
    }

    /// What the operations of the kind with that name did.
    pub(crate) fn named_mut(&mut self, name: &str) -> Option<&mut OperationStats> {
        let at = OPERATIONS.iter().position(|other| *other == name)?;
        self.operations_mut().into_iter().nth(at)
    }

    /// One for each name: a core may attach to a device more than once.
    pub fn by_name(all: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut merged: Vec<Self> = Vec::new();
        for mut stats in all {
            let Some(into) = merged.iter_mut().find(|into| into.name == stats.name) else {
                merged.push(stats);
                continue;
            };
            into.queue_depth += stats.queue_depth;
            into.max_queue_depth = into.max_queue_depth.max(stats.max_queue_depth);
            into.retries += stats.retries;
            into.copied_bytes += stats.copied_bytes;
            for (into, operation) in into.operations_mut().into_iter().zip(stats.operations_mut()) {
                into.completed += operation.completed;
                into.failed += operation.failed;
                into.bytes += operation.bytes;
                into.latency.merge(&operation.latency);
            }
        }
        merged
    }

    /// Those of the operations of one kind.
    pub(super) fn of(&mut self, kind: CommandKind) -> &mut OperationStats {
        match kind {
            CommandKind::Read => &mut self.reads,
            CommandKind::Write { .. } => &mut self.writes,
            CommandKind::Flush => &mut self.flushes,
            CommandKind::Trim => &mut self.trims,
            CommandKind::WriteZeroes => &mut self.write_zeroes,
            CommandKind::CompareAndWrite => &mut self.compares,
        }
    }
}

/// What the operations of one kind did.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OperationStats {
    /// How many succeeded.
    pub completed: u64,
    /// How many failed.
    pub failed: u64,
    /// How many bytes the successful ones moved, or covered.
    pub bytes: u64,
    /// How long the successful ones took, in nanoseconds, from the turn of the core in which they
    /// began to the one that saw their end.
    pub latency: Histogram,
}

impl OperationStats {
    pub(super) fn record(&mut self, bytes: u64, nanos: Option<u64>) {
        self.completed += 1;
        self.bytes += bytes;
        if let Some(nanos) = nanos {
            self.latency.record(nanos);
        }
    }
}

/// The counters of one attached namespace, which it and the list of its core share.
pub(super) type SharedStats = Rc<RefCell<NamespaceStats>>;

#[derive(Default)]
struct Attached(RefCell<Vec<Weak<RefCell<NamespaceStats>>>>);

static ATTACHED: CoreLocal<Attached> = CoreLocal::new();

/// Counters for a namespace that the current core attaches to.
pub(super) fn register(name: &str) -> SharedStats {
    let stats = Rc::new(RefCell::new(NamespaceStats { name: name.to_owned(), ..NamespaceStats::default() }));
    let attached = ATTACHED.get().unwrap_or_else(|| {
        let attached = Rc::new(Attached::default());
        ATTACHED.set(Rc::clone(&attached));
        attached
    });
    let mut list = attached.0.borrow_mut();
    list.retain(|stats| stats.strong_count() > 0);
    list.push(Rc::downgrade(&stats));
    drop(list);
    stats
}

/// What the current core did with each namespace that it is attached to.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn stats() -> Vec<NamespaceStats> {
    let Some(attached) = ATTACHED.get() else { return Vec::new() };
    let list = attached.0.borrow();
    list.iter().filter_map(Weak::upgrade).map(|stats| stats.borrow().clone()).collect()
}
