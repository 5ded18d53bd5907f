//! What ends the screen from outside: a signal, or the loss of the terminal.
//!
//! The library that reads the keys never returns from a terminal that is gone: it asks for the next
//! key again and again. So a thread of its own watches, and ends the process whatever the others
//! do.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use boson::rt::signal::Signal;
use boson::{Error, ErrorKind, Result};
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::disable_raw_mode;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::{emulate_default_handler, pipe};

/// How often the terminal is looked at even if the kernel says nothing of it: not every driver
/// tells.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How long the end waits for a drawing to be done. One that takes longer has a terminal that takes
/// no more output.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the keys come from.
#[derive(Debug)]
enum Keys {
    StandardInput,
    Terminal(File),
}

impl Keys {
    /// The terminal that keys are read from: standard input, or the one that controls this process.
    fn open() -> Result<Self> {
        if io::stdin().is_terminal() {
            return Ok(Self::StandardInput);
        }
        File::options().read(true).write(true).open("/dev/tty").map(Self::Terminal).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "show a screen")
                .because(format!("there is no terminal to read keys from ({error}): use --once or --json"))
        })
    }
}

/// The terminal, and what has the right to use it.
#[derive(Debug)]
pub(crate) struct Terminal {
    keys: Keys,
    /// Held while something is drawn.
    drawing: Mutex<()>,
}

impl Terminal {
    /// Watches from now on for the signals that ask a program to end, and for the loss of the
    /// terminal. Either ends the process as the signal would have, with the terminal as it was
    /// before.
    ///
    /// # Errors
    ///
    /// There is no terminal to read keys from; or no descriptor or thread is left.
    pub(crate) fn watch() -> Result<Arc<Self>> {
        let terminal = Arc::new(Self { keys: Keys::open()?, drawing: Mutex::new(()) });
        let (told, signal) = take_signals().map_err(|error| Error::io(error, "handle signals"))?;
        let watched = Arc::clone(&terminal);
        thread::Builder::new()
            .name("boson-top-end".to_owned())
            .spawn(move || watched.end_by(watched.wait(told, &signal)))
            .map_err(|error| Error::io(error, "start a thread"))?;
        Ok(terminal)
    }

    /// Calls `draw`, unless the end has come.
    pub(crate) fn draw<T>(&self, draw: impl FnOnce() -> io::Result<T>) -> Result<T> {
        let drawn = {
            let _drawing = self.drawing.lock();
            draw()
        };
        self.check(drawn)
    }

    /// What came of using the terminal. If it failed because the terminal is gone, that ends the
    /// process.
    pub(crate) fn check<T>(&self, used: io::Result<T>) -> Result<T> {
        used.map_err(|error| {
            if self.is_gone() {
                self.end_by(SIGHUP);
            }
            Error::io(error, "use the terminal")
        })
    }

    /// Whether there are keys to read now or within `patience`. Only then may the library be asked
    /// for one.
    pub(crate) fn has_keys(&self, patience: Duration) -> Result<bool> {
        let mut input = [PollFd::from_borrowed_fd(self.input(), PollFlags::IN)];
        let patience = Timespec::try_from(patience).unwrap_or(LOOK_AGAIN);
        match poll(&mut input, Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::io(errno.into(), "wait for keys")),
        }
        if is_lost(&input[0]) {
            self.end_by(SIGHUP);
        }
        Ok(input[0].revents().contains(PollFlags::IN))
    }

    fn input(&self) -> BorrowedFd<'_> {
        match &self.keys {
            Keys::StandardInput => rustix::stdio::stdin(),
            Keys::Terminal(file) => file.as_fd(),
        }
    }

    fn is_gone(&self) -> bool {
        let mut ends = [self.input(), rustix::stdio::stdout()]
            .map(|end| PollFd::from_borrowed_fd(end, PollFlags::empty()));
        // Without a time to wait it cannot be interrupted.
        poll(&mut ends, Some(&Timespec::default())).is_ok() && ends.iter().any(is_lost)
    }

    /// Waits for the end, and returns the number of the signal to end by.
    fn wait(&self, mut told: PipeReader, signal: &AtomicUsize) -> i32 {
        loop {
            {
                let mut sources = [
                    PollFd::new(&told, PollFlags::IN),
                    PollFd::from_borrowed_fd(self.input(), PollFlags::empty()),
                    PollFd::from_borrowed_fd(rustix::stdio::stdout(), PollFlags::empty()),
                ];
                // A failure is looked at again as a time-out is; there is no other way to wait.
                let _ = poll(&mut sources, Some(&LOOK_AGAIN));
                if sources[1..].iter().any(is_lost) {
                    return SIGHUP;
                }
                if sources[0].revents().is_empty() {
                    continue;
                }
            }
            let _ = told.read(&mut [0; 16]);
            if let Ok(number @ 1..) = i32::try_from(signal.load(Ordering::SeqCst)) {
                return number;
            }
        }
    }

    /// Gives the terminal back and ends the process by the signal.
    fn end_by(&self, signal: i32) -> ! {
        let began = Instant::now();
        let drawing = loop {
            match self.drawing.try_lock() {
                Ok(drawing) => break Some(drawing),
                Err(_) if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(1)),
                Err(_) => break None,
            }
        };
        if drawing.is_some() {
            give_back();
        } else {
            // What draws has the output, and does not get on.
            let _ = disable_raw_mode();
        }
        let _ = emulate_default_handler(signal);
        // The signal is blocked, say.
        std::process::exit(128 + signal)
    }
}

/// Puts the terminal back into the state it was in. If it is gone there is nothing to put back.
pub(crate) fn give_back() {
    let _ = ratatui::try_restore();
    // The screen hides it, and shows it again only when it is dropped.
    let _ = execute!(io::stdout(), Show);
}

fn is_lost(end: &PollFd<'_>) -> bool {
    end.revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL)
}

/// Takes the signals from their default actions. Something to read in the pipe tells that one came,
/// the number which.
fn take_signals() -> io::Result<(PipeReader, Arc<AtomicUsize>)> {
    let signal = Arc::new(AtomicUsize::new(0));
    let (told, tell) = io::pipe()?;
    for (number, value) in [(SIGTERM, 15), (SIGHUP, 1), (SIGINT, 2)] {
        // Under nohup.
        if number == SIGHUP && Signal::Hangup.is_ignored() {
            continue;
        }
        // The number is there before the pipe tells: actions run in the order in which they are
        // registered.
        signal_hook::flag::register_usize(number, Arc::clone(&signal), value)?;
        pipe::register(number, OwnedFd::from(tell.try_clone()?))?;
    }
    Ok((told, signal))
}
