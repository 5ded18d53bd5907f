//! Row 2, and the stackful half of row 3: coroutines with stacks of their own.

use std::time::Instant;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};

use crate::photon;
use crate::report::{Better, Entry, compare, entry};
use crate::runtimes::Tokio;
use crate::tasks;

const YIELDS: usize = 2_000_000;
const SPAWNS: usize = 200_000;
const STACK_BYTES: usize = 64 << 10;

fn nanos_each(start: Instant, count: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / count as f64
}

/// The floor: a resume and a suspend of each coroutine in turn, with no scheduler at all.
fn corosensei_yields(coroutines: usize) -> f64 {
    let each = YIELDS / coroutines;
    let mut all: Vec<Coroutine<(), (), ()>> = (0..coroutines)
        .map(|_| {
            let stack = DefaultStack::new(STACK_BYTES).expect("there is room for the stacks");
            Coroutine::with_stack(stack, move |yielder, ()| {
                for _ in 0..each {
                    yielder.suspend(());
                }
            })
        })
        .collect();
    let start = Instant::now();
    for _ in 0..each {
        for coroutine in &mut all {
            assert!(matches!(coroutine.resume(()), CoroutineResult::Yield(())), "it has yields left");
        }
    }
    let nanos = nanos_each(start, each * coroutines);
    for coroutine in &mut all {
        assert!(matches!(coroutine.resume(()), CoroutineResult::Return(())), "it has none left");
    }
    nanos
}

/// The floor with a stack that is reused, as a pool would.
fn corosensei_spawns() -> f64 {
    let mut stack = DefaultStack::new(STACK_BYTES).expect("there is room for a stack");
    let start = Instant::now();
    for i in 0..SPAWNS {
        let mut coroutine: Coroutine<(), (), usize, _> = Coroutine::with_stack(stack, move |_, ()| i);
        let CoroutineResult::Return(result) = coroutine.resume(()) else {
            panic!("it never suspends");
        };
        std::hint::black_box(result);
        stack = coroutine.into_stack();
    }
    nanos_each(start, SPAWNS)
}

/// Everything is spawned and joined from a coroutine of one core, with the default stack.
fn on_boson<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    let core = boson::rt::Core::new(&boson::rt::CoreConfig::default()).expect("a core starts");
    boson::thread::try_run_on(&core, f).expect("the core runs").expect("no panic")
}

fn boson_yields(coroutines: usize) -> f64 {
    on_boson(move || {
        let each = YIELDS / coroutines;
        let start = Instant::now();
        let joins: Vec<_> = (0..coroutines)
            .map(|_| {
                boson::thread::spawn(move || {
                    for _ in 0..each {
                        boson::thread::yield_now();
                    }
                })
            })
            .collect();
        for join in joins {
            join.join().expect("no panic");
        }
        nanos_each(start, each * coroutines)
    })
}

fn boson_spawns(batch: usize) -> f64 {
    on_boson(move || {
        let mut joins = Vec::with_capacity(batch);
        let start = Instant::now();
        for _ in 0..SPAWNS / batch {
            for i in 0..batch {
                joins.push(boson::thread::spawn(move || i));
            }
            for join in joins.drain(..) {
                std::hint::black_box(join.join().expect("no panic"));
            }
        }
        nanos_each(start, SPAWNS)
    })
}

fn may_spawn<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> may::coroutine::JoinHandle<T> {
    // SAFETY: these closures use no thread-locals and little stack, which is what `may` asks of its
    // caller.
    unsafe { may::coroutine::spawn(f) }
}

/// One worker thread; everything is spawned and joined from a coroutine, as from a task of the
/// others.
fn on_may<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    may::config().set_workers(1).set_pool_capacity(2000).set_stack_size(STACK_BYTES / 8);
    may_spawn(f).join().expect("no panic")
}

fn may_yields(coroutines: usize) -> f64 {
    on_may(move || {
        let each = YIELDS / coroutines;
        let start = Instant::now();
        let joins: Vec<_> = (0..coroutines)
            .map(|_| {
                may_spawn(move || {
                    for _ in 0..each {
                        may::coroutine::yield_now();
                    }
                })
            })
            .collect();
        for join in joins {
            join.join().expect("no panic");
        }
        nanos_each(start, each * coroutines)
    })
}

fn may_spawns(batch: usize) -> f64 {
    on_may(move || {
        let mut joins = Vec::with_capacity(batch);
        let start = Instant::now();
        for _ in 0..SPAWNS / batch {
            for i in 0..batch {
                joins.push(may_spawn(move || i));
            }
            for join in joins.drain(..) {
                std::hint::black_box(join.join().expect("no panic"));
            }
        }
        nanos_each(start, SPAWNS)
    })
}

pub fn compare_yields(rounds: usize) {
    for coroutines in [2, 1000] {
        let mut entries: Vec<Entry> = vec![
            entry("boson", move || boson_yields(coroutines)),
            entry("corosensei, no scheduler", move || corosensei_yields(coroutines)),
            entry("may", move || may_yields(coroutines)),
        ];
        if photon::program().is_some() {
            entries.push(entry("photon", move || photon::run(&["yield", &coroutines.to_string()])[0]));
        }
        compare(&format!("stackful yield, {coroutines} coroutines"), "ns", Better::Lower, rounds, entries);
    }
}

pub fn compare_spawns(rounds: usize) {
    for batch in [1, 1000] {
        let mut entries: Vec<Entry> = vec![entry("boson, pooled", move || boson_spawns(batch))];
        if batch == 1 {
            entries.push(entry("corosensei, no scheduler, one stack reused", corosensei_spawns));
        }
        entries.push(entry("may, pooled", move || may_spawns(batch)));
        entries.push(entry("tokio LocalRuntime, async", move || tasks::spawns::<Tokio>(batch)));
        if photon::program().is_some() {
            entries.push(entry("photon, pooled", move || photon::run(&["spawn", &batch.to_string()])[0]));
        }
        let what = format!("stackful spawn and join, {batch} at a time");
        compare(&what, "ns per coroutine", Better::Lower, rounds, entries);
    }
}
