//! Row 8: what a sleeping task costs in memory. Each measurement is a process of its own, which
//! sees its resident pages grow.

use std::future::Future;
use std::process::Command;
use std::time::Duration;

use crate::machine;
use crate::runtimes::{Boson, Compio, Glommio, Monoio, Runtime, Tokio};

/// How many are tried, until one number works.
const COUNTS: [usize; 4] = [1_000_000, 100_000, 30_000, 10_000];
const SLEEP: Duration = Duration::from_secs(3600);
/// A measurement that is still running after this long ends itself.
const CHILD_SECONDS: u32 = 30;

const NAMES: [&str; 7] =
    ["boson", "tokio", "monoio", "glommio", "compio", "boson (stackful)", "may (stackful)"];

/// Resident bytes per task that sleeps.
fn asleep<R: Runtime>(count: usize) -> f64 {
    R::run(async move {
        // What the runtime itself sets up on first use is not a task's.
        R::spawn(R::sleep(Duration::from_millis(1))).await;
        let mut joins = Vec::with_capacity(count);
        let before = machine::resident_bytes();
        for _ in 0..count {
            joins.push(Box::pin(R::spawn(R::sleep(SLEEP))) as std::pin::Pin<Box<dyn Future<Output = ()>>>);
        }
        // Time for each to run up to its sleep.
        R::sleep(Duration::from_millis(500)).await;
        grown(before, count)
    })
}

fn grown(before: usize, count: usize) -> f64 {
    (machine::resident_bytes() - before) as f64 / count as f64
}

/// Resident bytes per coroutine that sleeps, its stack included.
fn boson_stackful_asleep(count: usize) -> f64 {
    let core = boson::rt::Core::new(&boson::rt::CoreConfig::default()).expect("a core starts");
    let measured = boson::thread::try_run_on(&core, move || {
        boson::thread::spawn(|| boson::thread::sleep(Duration::from_millis(1))).join().expect("no panic");
        let before = machine::resident_bytes();
        for _ in 0..count {
            drop(boson::thread::spawn(|| boson::thread::sleep(SLEEP)));
        }
        boson::thread::sleep(Duration::from_millis(500));
        report(grown(before, count))
    });
    measured.expect("the core runs").expect("no panic")
}

fn may_asleep(count: usize) -> f64 {
    may::config().set_workers(1);
    let before = machine::resident_bytes();
    for _ in 0..count {
        // SAFETY: the closure uses no thread-locals and little stack, which is what `may` asks of
        // its caller.
        drop(unsafe { may::coroutine::spawn(|| may::coroutine::sleep(SLEEP)) });
    }
    std::thread::sleep(Duration::from_secs(1));
    grown(before, count)
}

/// Measures in this process, prints the result and ends the process with everything still asleep.
pub fn child(name: &str, count: &str) {
    machine::bound_lifetime(CHILD_SECONDS);
    let count = count.parse().expect("a number of tasks");
    let bytes = match name {
        "boson" => asleep::<Boson>(count),
        "tokio" => asleep::<Tokio>(count),
        "monoio" => asleep::<Monoio>(count),
        "glommio" => asleep::<Glommio>(count),
        "compio" => asleep::<Compio>(count),
        "boson (stackful)" => boson_stackful_asleep(count),
        "may (stackful)" => may_asleep(count),
        _ => panic!("there is no measurement of `{name}`"),
    };
    report(bytes)
}

/// Ends the process with everything still asleep: to end a million tasks in order would take longer
/// than the measurement.
fn report(bytes: f64) -> ! {
    println!("{bytes}");
    std::process::exit(0);
}

pub fn compare_memory() {
    let map_count = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    println!("\n### Sleeping tasks, vm.max_map_count = {}\n", map_count.trim());
    println!("| | as many as | bytes each |\n|---|--:|--:|");
    for name in NAMES {
        let measured = COUNTS.iter().find_map(|count| measure(name, *count).map(|bytes| (count, bytes)));
        match measured {
            Some((count, bytes)) => println!("| {name} | {count} | {bytes:.0} |"),
            None => println!("| {name} | fewer than {} | |", COUNTS[COUNTS.len() - 1]),
        }
    }
}

/// Nothing if that many are too many for it.
fn measure(name: &str, count: usize) -> Option<f64> {
    let program = std::env::current_exe().expect("this program has a path");
    let output =
        Command::new(program).args(["sleepers", name, &count.to_string()]).output().expect("it starts");
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}
