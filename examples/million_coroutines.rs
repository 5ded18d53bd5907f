//! How much a sleeping coroutine costs: `cargo run --release --example million_coroutines --
//! [COUNT]`.
//!
//! Starts COUNT coroutines (a million by default, about 5 GB) that sleep, under whatever
//! `vm.max_map_count` is set, and prints what each of them costs in memory and how many mappings
//! they all need. Then it wakes and joins them.

use std::time::{Duration, Instant};

use boson::thread;

fn main() {
    let count = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse()).unwrap_or_else(|error| {
        eprintln!("COUNT is a number: {error}");
        std::process::exit(2)
    });
    thread::run(move || sleepers(count));
}

fn sleepers(count: usize) {
    let before = memory_kib();
    let started = Instant::now();
    let mut handles = Vec::with_capacity(count);
    for _ in 0..count {
        let handle = thread::Builder::new().spawn(|| thread::sleep(Duration::from_secs(20)));
        match handle {
            Ok(handle) => handles.push(handle),
            Err(error) => {
                eprintln!("after {} coroutines: {error}", handles.len());
                std::process::exit(1);
            }
        }
        // Runs those that were started, so that they sleep.
        if handles.len() % 1000 == 0 {
            thread::yield_now();
        }
    }
    thread::yield_now();
    let spawned = started.elapsed();
    let kib = memory_kib() - before;
    let maps = std::fs::read_to_string("/proc/self/maps").map_or(0, |maps| maps.lines().count());
    println!("{count} coroutines sleep: started in {spawned:.1?}, {maps} mappings in the process");
    println!("memory: {:.0} bytes each, page tables included", kib as f64 * 1024.0 / count as f64);
    println!("{:?}", thread::stack_stats());
    for handle in handles {
        handle.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
    }
    println!("joined after {:.1?}", started.elapsed());
    thread::trim_stacks();
    println!("memory after giving stacks back: {} KiB more than before", memory_kib().saturating_sub(before));
}

/// Resident memory and page tables of this process, in KiB.
fn memory_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<usize>().ok()
    };
    field("VmRSS:").unwrap_or(0) + field("VmPTE:").unwrap_or(0)
}
