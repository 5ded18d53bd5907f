//! The loop around the screen: samples come from one side, keys from the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use boson::inspect::Client;
use boson::{Error, Result};
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::sample::Sample;
use super::screen::{After, Screen};
use super::view::View;

/// How soon a signal or a new sample is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Puts the terminal back into the state it was in, on every way out. `ratatui::try_init` sees to panics.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows `client`'s process until the user quits or a signal comes, which then ends this process as it would have.
pub(crate) fn run(client: Client, first: Sample, interval: Duration) -> Result<()> {
    let signal = Arc::new(AtomicUsize::new(0));
    for (number, value) in [(SIGTERM, 15), (SIGHUP, 1), (SIGINT, 2)] {
        signal_hook::flag::register_usize(number, Arc::clone(&signal), value)
            .map_err(|error| failed(error, "handle signals"))?;
    }
    let ended_by = {
        let mut terminal = ratatui::try_init().map_err(|error| failed(error, "take the terminal"))?;
        let _restore = Restore;
        show(&mut terminal, client, first, interval, &signal)?
    };
    match i32::try_from(ended_by) {
        Ok(0) | Err(_) => Ok(()),
        Ok(number) => signal_hook::low_level::emulate_default_handler(number)
            .map_err(|error| failed(error, "end by a signal")),
    }
}

fn failed(error: io::Error, operation: &'static str) -> Error {
    Error::io(error, operation)
}

/// Returns the number of the signal that came, 0 if the user quit.
fn show(
    terminal: &mut ratatui::DefaultTerminal,
    client: Client,
    first: Sample,
    interval: Duration,
    signal: &AtomicUsize,
) -> Result<usize> {
    let terminal_failed = |error: io::Error| failed(error, "use the terminal");
    let mut screen = Screen::new(View::between(None, &first), interval);
    let mut before = first;
    let (ask, answers) = sample_on_a_thread(client)?;
    let mut asked_at = Instant::now();
    let mut is_asked = false;
    loop {
        terminal.draw(|frame| screen.draw(frame)).map_err(terminal_failed)?;
        match signal.load(Ordering::Relaxed) {
            0 => {}
            number => return Ok(number),
        }
        if !is_asked && asked_at.elapsed() >= interval {
            (asked_at, is_asked) = (Instant::now(), ask.send(()).is_ok());
        }
        if event::poll(TICK.min(interval)).map_err(terminal_failed)?
            && let Event::Key(key) = event::read().map_err(terminal_failed)?
            && screen.press(key) == After::Quit
        {
            return Ok(0);
        }
        match answers.try_recv() {
            Ok(Ok(sample)) => {
                is_asked = false;
                screen.show(View::between(Some(&before), &sample));
                before = sample;
            }
            Ok(Err(error)) => {
                is_asked = false;
                screen.fail(error.to_string());
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
        }
    }
}

/// Asking blocks for seconds if the process is stopped; keys do not wait for that.
fn sample_on_a_thread(client: Client) -> Result<(Sender<()>, Receiver<Result<Sample>>)> {
    let (ask, asked) = channel();
    let (answer, answers) = channel();
    let work = move || {
        while asked.recv().is_ok() && answer.send(Sample::take(&client)).is_ok() {}
    };
    thread::Builder::new()
        .name("boson-top".to_owned())
        .spawn(work)
        .map_err(|error| failed(error, "start a thread"))?;
    Ok((ask, answers))
}
