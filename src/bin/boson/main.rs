//! The command line of boson.

mod bench;
mod config;
mod core_metrics;
mod device;
mod doctor;
mod echo;
mod inspect;
mod lasting;
mod listen;
mod metrics;
mod namespace_metrics;
mod options;
mod serve;
mod start;
mod store;
mod top;
mod units;

use std::io::Write;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::Level;
use tracing_subscriber::filter::Targets;

/// What `--version` prints besides the version: the target, the libraries and the features it was
/// built for.
const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\n", env!("BOSON_BUILD"));

/// A kernel-bypass I/O framework: servers and tools.
#[derive(Debug, Parser)]
#[command(version, long_version = LONG_VERSION, max_term_width = 100)]
struct Cli {
    /// What to log to standard error: a level, and others for parts of the program.
    /// `info,boson::task=debug` puts its task's name on each line, `boson::rt=trace` tells when a
    /// core sleeps.
    #[arg(long, global = true, value_name = "FILTER", default_value = "info")]
    log: Targets,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, for as long as the process lives")]
enum Command {
    /// Serve keys and values by the Redis protocol.
    Serve(serve::ServeOptions),
    /// Answer every connection with what it sends.
    Echo(echo::EchoOptions),
    /// Measure a device.
    Bench(bench::BenchOptions),
    /// Say which backends can be used here, and what to do about those that cannot.
    Doctor(doctor::DoctorOptions),
    /// Show the NVMe controllers of this machine, and hand them to user space and back.
    Device(device::DeviceOptions),
    /// Look at a store, check it, copy it, and turn it into text and back, while nobody serves it.
    Store(store::StoreOptions),
    /// Show what the cores and tasks of a running process do.
    Top(top::TopOptions),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit code tells it also where nobody reads standard error any more.
            let _ = writeln!(std::io::stderr(), "boson: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> boson::Result<()> {
    let arguments: Vec<_> = std::env::args_os().collect();
    let matches = config::merge(&Cli::command(), arguments)?;
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let is_default = matches.value_source("log") == Some(ValueSource::DefaultValue);
    match cli.command {
        // It is done in a moment, and what it has to say is its result.
        Command::Store(_) if is_default => start::log_to_stderr(Targets::new().with_default(Level::ERROR)),
        _ => start::log_to_stderr(cli.log),
    }
    match cli.command {
        Command::Serve(options) => serve::run(&options),
        Command::Echo(options) => echo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Device(options) => device::run(&options),
        Command::Store(options) => store::run(&options),
        Command::Top(options) => top::run(&options),
    }
}
