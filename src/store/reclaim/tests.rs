use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::thread;

use super::{Collector, Defect, FREES_PER_STEP, Participant, RETIREMENTS_PER_STEP, Reclaim};

mod gets;
mod nodes;
mod timing;

/// Notes what was freed; numbers in `held` are held.
#[derive(Clone, Default)]
struct Notes {
    freed: Rc<Cell<u64>>,
    held: Rc<std::cell::RefCell<BTreeSet<u64>>>,
}

impl Reclaim for Notes {
    type Garbage = u64;

    fn free(&self, garbage: u64) -> Option<u64> {
        if self.held.borrow().contains(&garbage) {
            return Some(garbage);
        }
        self.freed.set(self.freed.get() + 1);
        None
    }
}

fn pair() -> (Participant<Notes>, Participant<Notes>, Notes) {
    let collector = Collector::new(2);
    let notes = Notes::default();
    let join = || collector.join(notes.clone()).expect("a slot");
    (join(), join(), notes)
}

fn steps<R: Reclaim>(member: &Participant<R>) -> usize {
    (0..3).map(|_| member.collect()).sum()
}

#[test]
fn three_steps_free_what_nobody_reads() {
    let (one, _idle, notes) = pair();
    one.retire(7, 100);
    assert_eq!(one.retired_bytes(), 100);
    assert_eq!(notes.freed.get(), 0, "not before a step");
    assert_eq!(steps(&one), 1);
    assert_eq!((notes.freed.get(), one.retired_bytes()), (1, 0));
}

#[test]
fn a_guard_keeps_what_was_retired_under_it_and_only_the_last_one_lets_it_go() {
    let (one, reader, notes) = pair();
    let outer = reader.pin();
    let inner = reader.pin();
    one.retire(1, 8);
    drop(outer);
    assert_eq!(steps(&one), 0, "the inner guard is left");
    drop(inner);
    assert_eq!(steps(&one), 1);
    assert_eq!(notes.freed.get(), 1);
}

#[test]
fn a_guard_that_came_later_keeps_nothing_older() {
    let (one, reader, _) = pair();
    one.retire(1, 8);
    assert_eq!(one.collect() + one.collect(), 1, "two epochs on");
    one.retire(2, 8);
    let _guard = reader.pin();
    one.retire(3, 8);
    assert_eq!(steps(&one), 0);
    assert_eq!(one.retired_bytes(), 16);
}

#[test]
fn steps_are_taken_while_retiring_and_are_bounded() {
    let (one, reader, notes) = pair();
    let most = 4 * u64::from(RETIREMENTS_PER_STEP);
    for number in 0..100 * most {
        one.retire(number, 1);
        assert!(one.retired_bytes() <= most, "garbage goes as it comes");
    }
    steps(&one);
    let freed = notes.freed.get();
    let guard = reader.pin();
    for number in 0..10 * most {
        one.retire(number, 1);
    }
    assert_eq!(notes.freed.get(), freed, "a reader holds all of it up");
    drop(guard);
    for _ in 0..2 {
        one.collect();
    }
    while one.retired_bytes() > 0 {
        let step = one.collect();
        assert!(0 < step && step <= FREES_PER_STEP, "{step}");
    }
    // A backlog goes away although retirements go on.
    let guard = reader.pin();
    (0..10 * most).for_each(|number| one.retire(number, 1));
    drop(guard);
    (0..20 * most).for_each(|number| one.retire(number, 1));
    assert!(one.retired_bytes() <= most, "{}", one.retired_bytes());
}

#[test]
fn what_is_held_is_asked_for_again() {
    let (one, _idle, notes) = pair();
    notes.held.borrow_mut().extend(0..100);
    for number in 0..200 {
        one.retire(number, 1);
    }
    for _ in 0..6 {
        steps(&one);
    }
    assert_eq!((notes.freed.get(), one.retired_bytes()), (100, 100), "the held ones hold up nobody");
    notes.held.borrow_mut().clear();
    for _ in 0..3 {
        steps(&one);
    }
    assert_eq!((notes.freed.get(), one.retired_bytes()), (200, 0));
}

#[test]
fn slots_are_used_again_and_the_last_one_frees_all() {
    let collector = Collector::new(2);
    let notes = Notes::default();
    let one = collector.join(notes.clone()).expect("a slot");
    let two = collector.join(notes.clone()).expect("a slot");
    assert!(collector.join(notes.clone()).is_none(), "two slots");
    (0..10).for_each(|number| two.retire(number, 3));
    drop(two);
    assert_eq!((collector.retired_bytes(), notes.freed.get()), (30, 0), "handed over");
    let three = collector.join(notes.clone()).expect("a slot again");
    assert_eq!(steps(&three), 10);
    assert_eq!(collector.retired_bytes(), 0);
    (0..10).for_each(|number| three.retire(number, 3));
    notes.held.borrow_mut().insert(4);
    drop(one);
    drop(three);
    assert_eq!((collector.retired_bytes(), notes.freed.get()), (3, 19), "all but what is held");
    notes.held.borrow_mut().clear();
    steps(&collector.join(notes.clone()).expect("a slot"));
    assert_eq!((collector.retired_bytes(), notes.freed.get()), (0, 20));
}

/// Retires another one for each that it frees, down to zero.
#[derive(Default)]
struct Chained(std::cell::OnceCell<std::rc::Weak<Participant<Rc<Self>>>>);

impl Reclaim for Rc<Chained> {
    type Garbage = u64;

    fn free(&self, garbage: u64) -> Option<u64> {
        let member = self.0.get().and_then(std::rc::Weak::upgrade).expect("a member");
        for _ in 0..2 * RETIREMENTS_PER_STEP.min(u32::try_from(garbage).expect("small")) {
            member.retire(garbage - 1, 1);
        }
        None
    }
}

#[test]
fn free_may_retire() {
    let chained = Rc::new(Chained::default());
    let member = Rc::new(Collector::new(1).join(Rc::clone(&chained)).expect("a slot"));
    chained.0.set(Rc::downgrade(&member)).expect("once");
    member.retire(3, 1);
    for _ in 0..1000 {
        member.collect();
    }
    assert_eq!(member.retired_bytes(), 0);
}

/// Node memory that is never unmapped, so that a reader that comes too late reads `GONE`.
struct Pool {
    link: AtomicPtr<AtomicU64>,
    nodes: Vec<AtomicU64>,
}

const HERE: u64 = 1;
const GONE: u64 = 2;

struct PoolCore {
    pool: Arc<Pool>,
    free: std::cell::RefCell<Vec<usize>>,
}

impl Reclaim for PoolCore {
    type Garbage = usize;

    fn free(&self, node: usize) -> Option<usize> {
        self.pool.nodes[node].store(GONE, Ordering::Relaxed);
        self.free.borrow_mut().push(node);
        None
    }
}

/// Two threads read and replace one node; how many reads found a node that was freed.
fn stress(defect: Option<Defect>, rounds: u32) -> u32 {
    const NODES: usize = 4096;
    let nodes: Vec<AtomicU64> = (0..NODES).map(|_| AtomicU64::new(GONE)).collect();
    nodes[0].store(HERE, Ordering::Relaxed);
    let first = (&raw const nodes[0]).cast_mut();
    let pool = Arc::new(Pool { link: AtomicPtr::new(first), nodes });
    let collector = Collector::with_defect(2, defect);
    let bad = AtomicU32::new(0);
    thread::scope(|scope| {
        for which in 0..2 {
            let (pool, collector, bad) = (&pool, &collector, &bad);
            scope.spawn(move || {
                let free = (1..NODES).filter(|node| node % 2 == which).collect();
                let core = PoolCore { pool: Arc::clone(pool), free: std::cell::RefCell::new(free) };
                let member = collector.join(core).expect("a slot");
                for round in 0..rounds {
                    let guard = member.pin();
                    let found = pool.link.load(Ordering::Acquire);
                    for _ in 0..8 {
                        // SAFETY: the pool's nodes live as long as the pool, freed or not.
                        let content = unsafe { &*found }.load(Ordering::Relaxed);
                        bad.fetch_add(u32::from(content != HERE), Ordering::Relaxed);
                        if round % 64 == 0 {
                            thread::yield_now();
                        }
                    }
                    drop(guard);
                    let Some(new) = member.reclaim().free.borrow_mut().pop() else {
                        // The other thread is not running, and pinned.
                        thread::yield_now();
                        member.collect();
                        continue;
                    };
                    pool.nodes[new].store(HERE, Ordering::Relaxed);
                    let new = (&raw const pool.nodes[new]).cast_mut();
                    let old = pool.link.swap(new, Ordering::AcqRel);
                    let old = (old.addr() - pool.nodes.as_ptr().addr()) / size_of::<AtomicU64>();
                    member.retire(old, 8);
                }
            });
        }
    });
    assert_eq!(collector.retired_bytes(), 0);
    let here = pool.nodes.iter().filter(|node| node.load(Ordering::Relaxed) == HERE).count();
    assert_eq!(here, 1, "everything but what is linked was freed");
    bad.into_inner()
}

#[test]
fn two_threads_never_read_what_was_freed() {
    assert_eq!(stress(None, 200_000), 0);
}

#[test]
fn without_grace_they_do() {
    let found = (0..50).any(|_| stress(Some(Defect::FreeWithoutGrace), 20_000) > 0);
    assert!(found, "the stress notices a node that was freed too early");
}
