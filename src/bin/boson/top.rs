//! `boson top`: what the cores and tasks of a running process do.

mod cells;
mod end;
mod json;
mod live;
mod sample;
mod screen;
mod view;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use boson::observe::inspect::Client;
use boson::{Error, ErrorKind, Result};
use clap::Args;

use crate::inspect;
use sample::Sample;
use view::{Order, View};

#[derive(Args, Debug)]
pub(crate) struct TopOptions {
    /// The process's inspection socket. Without it, that of the one that runs.
    path: Option<PathBuf>,
    /// How often to look, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    interval: u64,
    /// Look twice, print what happened in between as plain text, and end.
    #[arg(long)]
    once: bool,
    /// The same as one JSON object.
    #[arg(long)]
    json: bool,
    /// How many tasks to print.
    #[arg(long, value_name = "N", default_value_t = 50)]
    tasks: usize,
}

pub(crate) fn run(options: &TopOptions) -> Result<()> {
    let path = options.path.clone().map_or_else(inspect::find, Ok)?;
    let client = Client::new(path);
    let interval = Duration::from_millis(options.interval);
    // What is wrong with the socket is said before the screen is taken.
    let first = Sample::take(&client)?;
    if !options.once && !options.json {
        if !std::io::stdout().is_terminal() {
            return Err(Error::new(ErrorKind::InvalidInput, "show a screen")
                .because("standard output is no terminal: use --once or --json"));
        }
        return live::run(client, first, interval);
    }
    std::thread::sleep(interval);
    let second = Sample::take(&client)?;
    let mut view = View::between(Some(&first), &second);
    view.sort(Order::Since, false);
    view.truncate(options.tasks);
    let text = if options.json { json::print(&view) } else { cells::print(&view) };
    // A reader that went away (`| head`) is no error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
