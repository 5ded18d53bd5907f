//! Rows 1 and 3: yields of async tasks, and spawning and joining them.

use std::time::Instant;

use crate::report::{Better, Entry, compare, entry};
use crate::runtimes::{Boson, Compio, Glommio, Monoio, Runtime, Tokio, TokioLocalSet, TokioWaking};

const YIELDS: usize = 2_000_000;
const SPAWNS: usize = 500_000;

/// Nanoseconds per yield of one of `tasks` tasks that do nothing else.
fn yields<R: Runtime>(tasks: usize) -> f64 {
    R::run(async move {
        let each = YIELDS / tasks;
        let start = Instant::now();
        let mut joins = Vec::with_capacity(tasks);
        for _ in 0..tasks {
            joins.push(R::spawn(async move {
                for _ in 0..each {
                    R::yield_now().await;
                }
            }));
        }
        for join in joins {
            join.await;
        }
        nanos_each(start, each * tasks)
    })
}

/// Nanoseconds per task, of which `batch` are spawned at once and then joined.
pub fn spawns<R: Runtime>(batch: usize) -> f64 {
    R::run(async move {
        let mut joins = Vec::with_capacity(batch);
        let start = Instant::now();
        for _ in 0..SPAWNS / batch {
            for i in 0..batch {
                joins.push(R::spawn(async move { i }));
            }
            for join in joins.drain(..) {
                std::hint::black_box(join.await);
            }
        }
        nanos_each(start, SPAWNS)
    })
}

fn nanos_each(start: Instant, count: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / count as f64
}

pub fn compare_yields(rounds: usize) {
    for tasks in [2, 1000] {
        let entries = vec![
            entry("boson", move || yields::<Boson>(tasks)),
            entry("tokio LocalRuntime", move || yields::<Tokio>(tasks)),
            entry("tokio LocalSet", move || yields::<TokioLocalSet>(tasks)),
            entry("tokio, self-waking", move || yields::<TokioWaking>(tasks)),
            entry("monoio", move || yields::<Monoio>(tasks)),
            entry("glommio", move || yields::<Glommio>(tasks)),
            entry("compio", move || yields::<Compio>(tasks)),
        ];
        compare(&format!("async yield, {tasks} tasks"), "ns", Better::Lower, rounds, entries);
    }
}

/// Coroutines, boson's and `may`'s, are in a table of their own.
pub fn compare_spawns(rounds: usize) {
    for batch in [1, 1000] {
        let entries: Vec<Entry> = vec![
            entry("boson", move || spawns::<Boson>(batch)),
            entry("tokio LocalRuntime", move || spawns::<Tokio>(batch)),
            entry("tokio LocalSet", move || spawns::<TokioLocalSet>(batch)),
            entry("monoio", move || spawns::<Monoio>(batch)),
            entry("glommio", move || spawns::<Glommio>(batch)),
            entry("compio", move || spawns::<Compio>(batch)),
        ];
        compare(&format!("spawn and join, {batch} at a time"), "ns per task", Better::Lower, rounds, entries);
    }
}
