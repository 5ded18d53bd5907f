//! Every interleaving of pins, retirements and steps, with loom.
//!
//! A model has some nodes, in cells of loom's, and one link, which holds the number of the node
//! that can be found. To free a node is to write to its cell. So loom fails a model in which a node
//! is freed while somebody reads it, or without an order between the two; and a reader that comes
//! too late reads that the node is gone.

use std::sync::Arc as StdArc;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::super::atomic::AtomicU32;
use super::*;

const HERE: u64 = 1;
const GONE: u64 = 2;
const NODES: usize = 3;

struct Model {
    link: AtomicU64,
    nodes: [UnsafeCell<u64>; NODES],
    /// Cursors that hold each node.
    pins: [AtomicU32; NODES],
    freed: AtomicU64,
}

// SAFETY: the cells are reached under the protocol that is tested, and loom watches them.
unsafe impl Sync for Model {}

/// Frees nodes of a model, by number.
struct Free(Arc<Model>);

impl Reclaim for Free {
    type Garbage = u64;

    fn free(&self, node: u64) -> Option<u64> {
        if self.0.pins[index(node)].load(Ordering::Acquire) > 0 {
            return Some(node);
        }
        // SAFETY: loom fails the model if somebody else uses the cell at this moment.
        self.0.nodes[index(node)].with_mut(|node| unsafe { *node = GONE });
        self.0.freed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

fn index(node: u64) -> usize {
    usize::try_from(node).expect("few nodes")
}

fn model() -> Arc<Model> {
    Arc::new(Model {
        link: AtomicU64::new(0),
        nodes: [(); NODES].map(|()| UnsafeCell::new(HERE)),
        pins: [(); NODES].map(|()| AtomicU32::new(0)),
        freed: AtomicU64::new(0),
    })
}

/// Finds the node that is linked, and reads it twice under one guard.
fn read(model: &Model, member: &Participant<Free>) {
    let guard = member.pin();
    let found = index(model.link.load(Ordering::Acquire));
    for _ in 0..2 {
        is_here(model, found);
    }
    drop(guard);
}

fn is_here(model: &Model, node: usize) {
    // SAFETY: loom fails the model if somebody writes to the cell at this moment.
    let content = model.nodes[node].with(|content| unsafe { *content });
    assert_eq!(content, HERE, "node {node} was freed too early");
}

/// Finds the node that is linked, and holds it without a guard while it reads, as a cursor does.
fn hold(model: &Model, member: &Participant<Free>) {
    let guard = member.pin();
    let found = index(model.link.load(Ordering::Acquire));
    model.pins[found].fetch_add(1, Ordering::Relaxed);
    drop(guard);
    is_here(model, found);
    model.pins[found].fetch_sub(1, Ordering::Release);
}

/// Links node `new` in place of what is linked, and retires that.
fn replace(model: &Model, member: &Participant<Free>, new: u64) {
    let old = model.link.swap(new, Ordering::AcqRel);
    member.retire(old, 64);
}

fn check(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// One core reads, in the way of `read`, while the other replaces what it reads, and frees it.
fn read_beside_a_free(defect: Option<Defect>, read: fn(&Model, &Participant<Free>)) {
    check(3, move || {
        let model = model();
        let collector = Collector::with_defect(2, defect);
        let reader = {
            let (model, collector) = (Arc::clone(&model), StdArc::clone(&collector));
            thread::spawn(move || {
                let member = collector.join(Free(Arc::clone(&model))).expect("a slot");
                // Twice: an advance may see the second pin only, and is still after the first one.
                read(&model, &member);
                read(&model, &member);
            })
        };
        let member = collector.join(Free(Arc::clone(&model))).expect("a slot");
        replace(&model, &member, 1);
        for _ in 0..3 {
            member.collect();
        }
        reader.join().expect("no panic");
        for _ in 0..3 {
            member.collect();
        }
        assert_eq!(model.freed.load(Ordering::Relaxed), 1, "nobody is pinned, so it goes");
        assert_eq!(collector.retired_bytes(), 0);
    });
}

#[test]
fn what_was_pinned_before_it_was_unlinked_stays() {
    read_beside_a_free(None, read);
}

#[test]
fn what_a_cursor_holds_stays() {
    read_beside_a_free(None, hold);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_free_without_grace_is_found() {
    read_beside_a_free(Some(Defect::FreeWithoutGrace), read);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_free_after_one_epoch_is_found() {
    read_beside_a_free(Some(Defect::FreeAfterOneEpoch), read);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn a_pin_without_a_fence_is_found() {
    read_beside_a_free(Some(Defect::PinWithoutFence), read);
}

/// Both cores read, replace and free.
#[test]
fn two_that_read_and_retire() {
    check(3, || {
        let model = model();
        let collector = Collector::new(2);
        let work = |model: &Arc<Model>, collector: &StdArc<Collector<u64>>, new: u64| {
            let member = collector.join(Free(Arc::clone(model))).expect("a slot");
            read(model, &member);
            replace(model, &member, new);
            member.collect();
            read(model, &member);
            member.collect();
        };
        let other = {
            let (model, collector) = (Arc::clone(&model), StdArc::clone(&collector));
            thread::spawn(move || work(&model, &collector, 1))
        };
        work(&model, &collector, 2);
        other.join().expect("no panic");
        assert_eq!(model.freed.load(Ordering::Relaxed), 2, "the last one frees what is left");
        assert_eq!(collector.retired_bytes(), 0);
    });
}

/// A core retires and leaves at once; the other one, which reads, frees it.
#[test]
fn who_leaves_hands_its_garbage_over() {
    check(4, || {
        let model = model();
        let collector = Collector::new(2);
        let member = collector.join(Free(Arc::clone(&model))).expect("a slot");
        let leaver = {
            let (model, collector) = (Arc::clone(&model), StdArc::clone(&collector));
            thread::spawn(move || {
                let member = collector.join(Free(Arc::clone(&model))).expect("a slot");
                replace(&model, &member, 1);
            })
        };
        read(&model, &member);
        member.collect();
        read(&model, &member);
        leaver.join().expect("no panic");
        for _ in 0..3 {
            member.collect();
        }
        assert_eq!(model.freed.load(Ordering::Relaxed), 1);
        assert_eq!(collector.retired_bytes(), 0);
    });
}

/// A third core, which neither reads nor retires, advances the epoch.
#[test]
fn a_bystander_may_advance() {
    check(2, || {
        let model = model();
        let collector = Collector::new(3);
        let member = collector.join(Free(Arc::clone(&model))).expect("a slot");
        let reader = {
            let (model, collector) = (Arc::clone(&model), StdArc::clone(&collector));
            thread::spawn(move || {
                let member = collector.join(Free(Arc::clone(&model))).expect("a slot");
                read(&model, &member);
            })
        };
        let bystander = {
            let (model, collector) = (Arc::clone(&model), StdArc::clone(&collector));
            thread::spawn(move || {
                let member = collector.join(Free(model)).expect("a slot");
                member.collect();
                member.collect();
            })
        };
        replace(&model, &member, 1);
        member.collect();
        reader.join().expect("no panic");
        bystander.join().expect("no panic");
        drop(member);
        assert_eq!(model.freed.load(Ordering::Relaxed), 1);
    });
}
