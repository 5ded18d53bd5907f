//! Signals as something a task awaits.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

use rustix::io::Errno;

use super::ops;
use crate::error::{Error, ErrorKind, Result};

/// A signal that a program may be sent, to ask it for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// `SIGHUP`: the terminal is gone; by custom, for a server: read the configuration again.
    Hangup,
    /// `SIGINT`: Ctrl-C.
    Interrupt,
    /// `SIGQUIT`: Ctrl-\.
    Quit,
    /// `SIGUSR1`: whatever the program says.
    User1,
    /// `SIGUSR2`: whatever the program says.
    User2,
    /// `SIGTERM`: a service manager's stop.
    Terminate,
}

impl Signal {
    const ALL: [Self; 6] =
        [Self::Hangup, Self::Interrupt, Self::Quit, Self::User1, Self::User2, Self::Terminate];

    const fn number(self) -> libc::c_int {
        match self {
            Self::Hangup => libc::SIGHUP,
            Self::Interrupt => libc::SIGINT,
            Self::Quit => libc::SIGQUIT,
            Self::User1 => libc::SIGUSR1,
            Self::User2 => libc::SIGUSR2,
            Self::Terminate => libc::SIGTERM,
        }
    }

    /// Whether this process ignores it. A program inherits that: under nohup(1) `SIGHUP` is
    /// ignored, and should stay so. [`Signals`] awaits a signal also if it is ignored.
    pub fn is_ignored(self) -> bool {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: the number is a signal's, no new action is given, and there is room for the
        // present one.
        let asked = unsafe { libc::sigaction(self.number(), std::ptr::null(), action.as_mut_ptr()) };
        // SAFETY: the structure is of integers and an optional function, for which zeros are
        // values.
        let action = unsafe { action.assume_init() };
        asked == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Takes some signals of this process from their default action, so that a task can await them.
///
/// The kernel keeps one of each signal until it is awaited: several of the same that come before
/// are one.
///
/// ```no_run
/// # use boson::rt::signal::{Signal, Signals};
/// # use boson::rt::{self, Core, CoreConfig};
/// # fn main() -> boson::Result<()> {
/// let signals = Signals::of(&[Signal::Hangup, Signal::Interrupt, Signal::Terminate])?;
/// boson::run(async {
///     while signals.next().await? == Signal::Hangup {
///         // Read the configuration again.
///     }
///     Ok(())
/// })
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the signals stay blocked, and only this can await them"]
pub struct Signals {
    descriptor: Rc<OwnedFd>,
}

impl Signals {
    /// `SIGINT` and `SIGTERM`: what asks a program to end. See [`Signals::of`].
    ///
    /// # Errors
    ///
    /// As for [`Signals::of`].
    pub fn new() -> Result<Self> {
        Self::of(&[Signal::Interrupt, Signal::Terminate])
    }

    /// Blocks `signals` for the calling thread and every thread that it starts from now on. Call it
    /// before any other thread runs: one with a signal unblocked would still be interrupted, and
    /// the process ended, by it.
    ///
    /// The thread's mask stays as it is when this is dropped: a signal that comes then waits, and
    /// ends nothing. A process that is started by [`std::process::Command`] has nothing blocked;
    /// one that is forked or executed by other means inherits the mask.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for no signals at all, and the kernel's code when
    /// the process has no descriptor left.
    pub fn of(signals: &[Signal]) -> Result<Self> {
        if signals.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "await signals").because("there are none given"));
        }
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set it is given room for, and cannot fail for a
        // valid pointer.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: `sigemptyset` initialised it.
        let mut set = unsafe { set.assume_init() };
        for signal in signals {
            // SAFETY: `set` is an initialised set and the number is a signal's.
            unsafe { libc::sigaddset(&raw mut set, signal.number()) };
        }
        // The descriptor first: where there is none, the signals keep their actions.
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let descriptor =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(Error::io(io::Error::last_os_error(), "open a signalfd"));
        }
        // SAFETY: the kernel just returned this descriptor and nobody else knows of it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(Error::os(blocked, "block signals"));
        }
        Ok(Self { descriptor: Rc::new(descriptor) })
    }

    /// The next signal. Of several futures that wait, one gets it.
    ///
    /// Dropping the future loses no signal, also if one has arrived for it: the next call gets
    /// that.
    ///
    /// # Errors
    ///
    /// The kernel's code if the descriptor fails.
    ///
    /// # Panics
    ///
    /// When polled outside a core.
    pub async fn next(&self) -> Result<Signal> {
        let failed = |error: io::Error| Error::io(error, "read a signal");
        loop {
            ops::readable(&self.descriptor, "a signal").await.map_err(failed)?;
            // By this thread, for which the signal may be meant alone: before Linux 6.10 an
            // io_uring has one of its own read.
            let mut info = [0; size_of::<libc::signalfd_siginfo>()];
            match rustix::io::read(&self.descriptor, &mut info) {
                // Others are not in the set.
                Ok(_) => {
                    if let Some(signal) = decode(&info) {
                        return Ok(signal);
                    }
                }
                // Another future was told of the same signal, and was faster.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

/// The signal that a `struct signalfd_siginfo` (signalfd(2)) tells of: its number is the first
/// field.
fn decode(info: &[u8]) -> Option<Signal> {
    let number = u32::from_ne_bytes(*info.first_chunk()?);
    Signal::ALL.into_iter().find(|signal| signal.number().cast_unsigned() == number)
}
