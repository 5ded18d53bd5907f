//! What a coroutine's switch costs through the scheduler, beside a bare switch of the crate that
//! does it: `cargo bench --bench coroutine`.
//!
//! Each row is the minimum of interleaved rounds, so that a busy machine disturbs both sides alike.
//! In a test (`cargo test --benches`) there is one round, to see that it runs.

use std::time::{Duration, Instant};

use boson::rt::{Core, CoreConfig};
use boson::thread;
use corosensei::{Coroutine, CoroutineResult};

const ROUNDS: usize = 15;
const SWITCHES: u64 = 400_000;

fn main() {
    let rounds = if std::env::args().any(|argument| argument == "--bench") { ROUNDS } else { 1 };
    let core = Core::new(&CoreConfig::default()).expect("io_uring is usable");
    for count in [2, 1000] {
        let (mut bare, mut boson) = (f64::MAX, f64::MAX);
        for _ in 0..rounds {
            bare = bare.min(bare_yield(count));
            boson = boson.min(boson_yield(&core, count));
        }
        println!(
            "yield, {count} coroutines: bare corosensei {bare:.1} ns, boson {boson:.1} ns, ratio {:.2}",
            boson / bare
        );
    }
    let (mut boson, mut system) = (f64::MAX, f64::MAX);
    for _ in 0..rounds {
        boson = boson.min(nanoseconds(100_000, || {
            on(&core, || {
                for _ in 0..100_000 {
                    thread::spawn(|| ()).join().expect("no panic");
                }
            });
        }));
        system = system.min(nanoseconds(1000, || {
            for _ in 0..1000 {
                std::thread::spawn(|| ()).join().expect("no panic");
            }
        }));
    }
    println!("spawn and join: boson {boson:.0} ns, a thread of the system {system:.0} ns");
}

fn on(core: &Core, f: impl FnOnce() + 'static) {
    thread::try_run_on(core, f).expect("the ring works").expect("no panic");
}

fn nanoseconds(times: u64, f: impl FnOnce()) -> f64 {
    let started = Instant::now();
    f();
    started.elapsed().as_nanos() as f64 / times as f64
}

/// One resume and one suspend.
fn bare_yield(count: u64) -> f64 {
    let mut coroutines: Vec<Coroutine<(), (), ()>> = (0..count)
        .map(|_| {
            Coroutine::new(|yielder, ()| {
                loop {
                    yielder.suspend(());
                }
            })
        })
        .collect();
    let mut round = || {
        for coroutine in &mut coroutines {
            assert!(matches!(coroutine.resume(()), CoroutineResult::Yield(())));
        }
    };
    round();
    nanoseconds(SWITCHES, || (0..SWITCHES / count).for_each(|_| round()))
}

fn boson_yield(core: &Core, count: u64) -> f64 {
    let (sender, receiver) = std::sync::mpsc::channel();
    on(core, move || {
        let handles: Vec<_> = (0..count)
            .map(|_| {
                thread::spawn(move || {
                    // The first one that runs has to wait until all are there.
                    thread::yield_now();
                    for _ in 0..SWITCHES / count {
                        thread::yield_now();
                    }
                })
            })
            .collect();
        thread::yield_now();
        let elapsed = nanoseconds(SWITCHES, || {
            handles.into_iter().for_each(|handle| handle.join().expect("no panic"));
        });
        sender.send(elapsed).expect("it is received");
    });
    receiver.recv_timeout(Duration::from_secs(1)).expect("it was measured")
}
