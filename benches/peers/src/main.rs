//! boson beside its peers, in one run: `peers [--rounds N] [--seconds S] [ROW]…`, rows as in
//! [`ROWS`]. `--servers A,B` and `--loads A,B` choose from what the row `echo` compares. Built with
//! the feature `store`, `peers store ENGINE DIRECTORY [OPTION]…` is one run of one store.

mod echo;
mod latency;
mod machine;
mod photon;
mod report;
mod runtimes;
mod sleepers;
mod stackful;
#[cfg(feature = "store")]
mod store;
mod sync;
mod tasks;
mod timers;

use std::time::Duration;

/// Every row of the comparison, in the order in which they run.
const ROWS: [&str; 8] = ["yield", "stackful", "spawn", "sync", "timers", "latency", "memory", "echo"];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut rounds, mut seconds) = (5usize, 3.0f64);
    let mut rows = Vec::new();
    let mut echo = echo::Choice::default();
    let value = |argument: Option<String>, name: &str| {
        argument.unwrap_or_else(|| usage(&format!("{name} takes a value")))
    };
    machine::raise_limits();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            #[cfg(feature = "store")]
            "store" => return store::run(arguments),
            "serve" => return echo::serve(&value(arguments.next(), "serve")),
            "sleepers" => {
                return sleepers::child(
                    &value(arguments.next(), "sleepers"),
                    &value(arguments.next(), "sleepers"),
                );
            }
            "--rounds" => rounds = parse(&value(arguments.next(), "--rounds")),
            "--seconds" => seconds = parse(&value(arguments.next(), "--seconds")),
            "--servers" => echo.servers = list(&value(arguments.next(), "--servers")),
            "--loads" => echo.loads = list(&value(arguments.next(), "--loads")),
            row if ROWS.contains(&row) => rows.push(row.to_owned()),
            other => usage(&format!("`{other}` is no row")),
        }
    }
    if rows.is_empty() {
        rows = ROWS.map(str::to_owned).to_vec();
    }
    for row in rows {
        match row.as_str() {
            "yield" => tasks::compare_yields(rounds),
            "stackful" => stackful::compare_yields(rounds),
            "spawn" => {
                tasks::compare_spawns(rounds);
                stackful::compare_spawns(rounds);
            }
            "sync" => sync::compare_sync(rounds),
            "latency" => latency::compare_latencies(rounds.min(3), Duration::from_secs_f64(seconds)),
            "memory" => sleepers::compare_memory(),
            "timers" => timers::compare_timers(rounds.min(3)),
            _ => echo::compare_echo(rounds, Duration::from_secs_f64(seconds), &echo),
        }
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| usage(&format!("`{text}` is no number")))
}

fn usage(problem: &str) -> ! {
    eprintln!(
        "{problem}\nusage: peers [--rounds N] [--seconds S] [--servers A,B] [--loads A,B] [{}]...",
        ROWS.join(" | ")
    );
    std::process::exit(2);
}
