//! The loop around the screen: samples come from one side, keys from the other.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use boson::observe::inspect::Client;
use boson::{Error, ErrorKind, Result};
use ratatui::crossterm::event::{self, Event};

use super::end::{Terminal, give_back};
use super::sample::Sample;
use super::screen::{After, Screen};
use super::view::View;

/// How soon a new sample is noticed.
const TICK: Duration = Duration::from_millis(100);

/// Gives the terminal back on every way out. `ratatui::try_init` sees to panics.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        give_back();
    }
}

/// Shows `client`'s process until the user quits or the process has ended. A signal ends this
/// process as it would have without a screen; the loss of the terminal ends it as SIGHUP does.
pub(crate) fn run(client: Client, first: Sample, interval: Duration) -> Result<()> {
    let terminal = Terminal::watch()?;
    let mut screen = terminal.check(ratatui::try_init())?;
    let _restore = Restore;
    show(&terminal, &mut screen, client, first, interval)
}

fn show(
    terminal: &Terminal,
    on: &mut ratatui::DefaultTerminal,
    client: Client,
    first: Sample,
    interval: Duration,
) -> Result<()> {
    let mut screen = Screen::new(View::between(None, &first), interval);
    let mut before = first;
    let (ask, answers) = sample_on_a_thread(client)?;
    let mut asked_at = Instant::now();
    let mut is_asked = false;
    loop {
        terminal.draw(|| on.draw(|frame| screen.draw(frame)).map(drop))?;
        if !is_asked && asked_at.elapsed() >= interval {
            (asked_at, is_asked) = (Instant::now(), ask.send(()).is_ok());
        }
        let has_keys = terminal.has_keys(TICK.min(interval))?;
        let mut is_understood = false;
        while terminal.check(event::poll(Duration::ZERO))? {
            is_understood = true;
            if let Event::Key(key) = terminal.check(event::read())?
                && screen.press(key) == After::Quit
            {
                return Ok(());
            }
        }
        if has_keys && !is_understood {
            // The library leaves it unread until more comes, and it would be there at once again.
            thread::sleep(TICK);
        }
        match answers.try_recv() {
            Ok(Ok(sample)) => {
                is_asked = false;
                // Another process at the same path has counters of its own.
                let same = sample.snapshot.process.id == before.snapshot.process.id;
                screen.show(View::between(same.then_some(&before), &sample));
                before = sample;
            }
            Ok(Err(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Closed) => {
                let process = &before.snapshot.process;
                return Err(Error::new(ErrorKind::Closed, "watch")
                    .at(format!("{}, process {}", process.program, process.id))
                    .because("it has ended"));
            }
            // It is stopped or busy, and may answer again.
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
        .map_err(|error| Error::io(error, "start a thread"))?;
    Ok((ask, answers))
}
