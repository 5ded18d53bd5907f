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

impl NamespaceStats {
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
