//! boson's own claims about the runtime, one benchmark each: `cargo bench --bench runtime`. Beside
//! its peers: `scripts/compare-runtime`.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use boson::rt::{self, Core, CoreConfig};
use criterion::{Bencher, Criterion};

/// How many sleeping timers there are beside the one that is measured.
const SLEEPING_TIMERS: usize = 100_000;

fn run<F: Future>(future: F) -> F::Output {
    let core = Core::new(&CoreConfig::default());
    core.expect("io_uring is usable").block_on(future)
}

/// Per yield of one of `tasks` tasks that do nothing else.
fn yields(bencher: &mut Bencher<'_>, tasks: u64) {
    bencher.iter_custom(|count| {
        run(async {
            let each = count.div_ceil(tasks);
            let task = || async move {
                for _ in 0..each {
                    rt::yield_now().await;
                }
            };
            let start = Instant::now();
            let joins: Vec<_> = (0..tasks).map(|_| rt::named("yields").spawn(task())).collect();
            for join in joins {
                join.await.expect("no panic");
            }
            per_iteration(start.elapsed(), count, each * tasks)
        })
    });
}

/// What `count` of `done` iterations took, of `elapsed` for all of them.
fn per_iteration(elapsed: Duration, count: u64, done: u64) -> Duration {
    let nanos = elapsed.as_nanos() * u128::from(count) / u128::from(done.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Per task that is spawned and joined, `batch` at a time.
fn spawns(bencher: &mut Bencher<'_>, batch: u64) {
    bencher.iter_custom(|count| {
        run(async {
            let mut joins = Vec::new();
            let batches = count.div_ceil(batch);
            let start = Instant::now();
            for _ in 0..batches {
                joins.extend((0..batch).map(|i| rt::named("spawned").spawn(async move { i })));
                for join in joins.drain(..) {
                    std::hint::black_box(join.await.expect("no panic"));
                }
            }
            per_iteration(start.elapsed(), count, batches * batch)
        })
    });
}

/// Per timer that is inserted and cancelled beside many that sleep.
fn timers(bencher: &mut Bencher<'_>) {
    bencher.iter_custom(|count| {
        run(async {
            let mut cx = Context::from_waker(Waker::noop());
            let mut sleeping: Vec<_> =
                (0..SLEEPING_TIMERS).map(|_| Box::pin(rt::sleep(Duration::from_secs(3600)))).collect();
            for sleep in &mut sleeping {
                assert!(sleep.as_mut().poll(&mut cx).is_pending(), "an hour has not passed");
            }
            let start = Instant::now();
            for _ in 0..count {
                let sleep = pin!(rt::sleep(Duration::from_secs(30)));
                assert!(sleep.poll(&mut cx).is_pending(), "half a minute has not passed");
            }
            start.elapsed()
        })
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for tasks in [2, 1000] {
        criterion.bench_function(&format!("async yield, {tasks} tasks"), |bencher| yields(bencher, tasks));
    }
    for batch in [1, 1000] {
        criterion
            .bench_function(&format!("spawn and join, {batch} at a time"), |bencher| spawns(bencher, batch));
    }
    criterion.bench_function("timer, insert and cancel", timers);
    criterion.final_summary();
}
