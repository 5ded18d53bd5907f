//! What the write path of the store's design does to write, read and space amplification: a
//! simulation that counts bytes and does no I/O. Of its three ways to bring changes to the leaves
//! the store has the first, whole leaves. `cargo bench --bench amplification` prints the tables of
//! `docs/experiments/store-amplification.md`; `-- --quick` a tenth of each, to see that it runs;
//! `-- TABLE...` some of them.

mod device;
mod lsm;
mod measure;
mod numbers;
mod store;
mod tables;

use std::time::Instant;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("nothing is simulated in a test: `cargo bench --bench amplification` does that");
        return;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let names: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) = names.iter().find(|wanted| !tables::ALL.iter().any(|(name, _)| name == *wanted)) {
        let known: Vec<&str> = tables::ALL.iter().map(|(name, _)| *name).collect();
        eprintln!("there is no table `{unknown}`; there are {}", known.join(", "));
        std::process::exit(2);
    }
    let scale = if quick { 10 } else { 1 };
    for (name, table) in tables::ALL {
        if names.is_empty() || names.iter().any(|wanted| *wanted == name) {
            let started = Instant::now();
            println!("\n## {name}");
            table(scale);
            println!("({:.0} s)", started.elapsed().as_secs_f64());
        }
    }
}
