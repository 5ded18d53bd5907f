//! Every interleaving of a claim with readers, writers and the drain, with loom.
//!
//! The tree is one word per key, the version that it has: 0 was in its pages before the log, 1 is
//! the log's, 2 and more were written since. Writing is a store, not a maximum: what is brought
//! into the tree too late undoes a newer version.

use loom::sync::Arc;
use loom::thread;

use super::build::Builder;
use super::claim::{Claim, Claimed, Hand};
use super::*;
use crate::store::wal::record::{Effect, Operation};

const TREE: TreeRoot = TreeRoot { tree: 1, root: 7 };
const KEY: &[u8] = b"k";

/// The models of three threads have too many interleavings to go through all of them.
const PREEMPTIONS: usize = 3;

fn model(f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(f);
}

struct Model {
    overlay: Overlay,
    tree: AtomicU64,
    acknowledged: AtomicU64,
}

impl Model {
    fn new(operation: &Operation<'_>) -> Arc<Self> {
        let mut builder = Builder::new(1, 0);
        builder.add(1, operation);
        let overlay = builder.finish(|_| Some(7));
        Arc::new(Self { overlay, tree: AtomicU64::new(0), acknowledged: AtomicU64::new(0) })
    }

    fn of_entry() -> Arc<Self> {
        Self::new(&Operation::Put { tree: 1, effect: Effect::None, expiry: None, key: KEY, value: b"1" })
    }

    fn of_range() -> Arc<Self> {
        Self::new(&Operation::DeleteRange { tree: 1, from: b"a", to: b"z" })
    }

    fn install(&self, claim: Claim<'_>) {
        assert_eq!(self.tree.load(Ordering::Relaxed), 0, "it comes into the tree once, and first");
        self.tree.store(1, Ordering::Release);
        claim.finish();
    }

    fn claim(&self) {
        loop {
            match self.overlay.claim(TREE, KEY) {
                Claimed::Nothing => return,
                Claimed::Busy => thread::yield_now(),
                Claimed::Mine(claim) => self.install(claim),
            }
        }
    }

    fn write(&self, version: u64) {
        self.claim();
        self.tree.store(version, Ordering::Release);
        self.acknowledged.store(version, Ordering::Release);
    }

    fn read(&self) -> u64 {
        let answer = if self.overlay.is_drained() { None } else { self.overlay.get(TREE, KEY) };
        answer.map_or_else(|| self.tree.load(Ordering::Acquire), |_| 1)
    }

    fn drain(&self) {
        let taken = self.overlay.take_next(&mut Hand::default(), 1, |_| Some(7));
        if let Some(taken) = taken.first()
            && let Claimed::Mine(claim) = self.overlay.claim_at(*taken)
        {
            self.install(claim);
        }
        if let Some(range) = self.overlay.next_range(|_| Some(7)) {
            if self.tree.load(Ordering::Acquire) == 0 {
                self.claim();
            }
            while !range.pass(None) {
                thread::yield_now();
            }
        }
    }

    /// Reads twice; versions do not go back, and no acknowledged one is missed.
    fn check_reads(&self) {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let first = self.read();
        assert!(first >= acknowledged.max(1), "{first} is read after {acknowledged}");
        let second = self.read();
        assert!(second >= first, "{second} is read after {first}");
    }
}

fn spawn(model: &Arc<Model>, run: impl FnOnce(&Model) + 'static) -> thread::JoinHandle<()> {
    let model = Arc::clone(model);
    thread::spawn(move || run(&model))
}

/// A writer, the drain, and a reader of one key.
fn writer_drain_and_reader(of: fn() -> Arc<Model>) {
    model(move || {
        let model = of();
        let writer = spawn(&model, |model| model.write(2));
        let drain = spawn(&model, Model::drain);
        model.check_reads();
        writer.join().expect("no panic");
        drain.join().expect("no panic");
        assert_eq!(model.tree.load(Ordering::Relaxed), 2);
        assert_eq!(model.read(), 2);
        assert!(model.overlay.is_drained());
    });
}

#[test]
fn a_reader_never_reads_what_is_older_than_what_was_acknowledged() {
    writer_drain_and_reader(Model::of_entry);
}

#[test]
fn nor_in_a_deleted_range() {
    writer_drain_and_reader(Model::of_range);
}

/// Two writers of one key: the one that is later in the tree stays.
#[test]
fn two_writers_bring_a_key_into_the_tree_once() {
    for model in [Model::of_entry, Model::of_range] {
        loom::model(move || {
            let model = model();
            let writer = spawn(&model, |model| model.write(2));
            model.write(3);
            writer.join().expect("no panic");
            assert!(model.tree.load(Ordering::Relaxed) >= 2);
            assert_ne!(model.read(), 1);
        });
    }
}

/// A claim that is given up leaves the key to others.
#[test]
fn a_dropped_claim_keeps_nobody_out() {
    for model in [Model::of_entry, Model::of_range] {
        loom::model(move || {
            let model = model();
            let other = spawn(&model, |model| drop(model.overlay.claim(TREE, KEY)));
            model.write(2);
            other.join().expect("no panic");
            assert_eq!(model.read(), 2);
            assert!(matches!(model.overlay.claim(TREE, KEY), Claimed::Nothing));
        });
    }
}

/// What a scan does: a view, then the tree.
#[test]
fn a_view_and_the_tree_after_it_have_every_key() {
    for of in [Model::of_entry, Model::of_range] {
        model(move || {
            let model = of();
            let writer = spawn(&model, |model| model.write(2));
            let drain = spawn(&model, Model::drain);
            let acknowledged = model.acknowledged.load(Ordering::Acquire);
            let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
            let view = model.overlay.view(TREE, all, view::Direction::Forwards, 10);
            let version = if view.hides(KEY) { 1 } else { model.tree.load(Ordering::Acquire) };
            assert!(version >= acknowledged.max(1));
            writer.join().expect("no panic");
            drain.join().expect("no panic");
        });
    }
}

/// The pages have no such key, so the drain of the range has nothing to claim. It does not pass the
/// key while a writer is about to delete it, or that would undo what another writer writes next.
#[test]
fn a_range_is_not_passed_where_a_key_is_claimed() {
    model(|| {
        let model = Model::of_range();
        let writer = spawn(&model, |model| model.write(2));
        let drain = spawn(&model, |model| {
            let range = model.overlay.next_range(|_| Some(7)).expect("it is not drained");
            let _later = range.pass(None);
        });
        model.write(3);
        writer.join().expect("no panic");
        drain.join().expect("no panic");
        assert!(model.tree.load(Ordering::Relaxed) >= 2);
        if let Some(range) = model.overlay.next_range(|_| Some(7)) {
            assert!(range.pass(None), "no claim is left");
        }
        assert!(model.overlay.is_drained());
    });
}
