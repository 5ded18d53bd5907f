//! Signals as something a task awaits.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::rc::Rc;

use super::ops;
use crate::error::{Error, Result};

/// A signal that asks a program to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// `SIGINT`: Ctrl-C.
    Interrupt,
    /// `SIGTERM`: a service manager's stop.
    Terminate,
}

/// Takes `SIGINT` and `SIGTERM` of this process from their default action, so that a task can await them.
#[derive(Debug)]
#[must_use = "signals that nobody takes from it are lost"]
pub struct Signals {
    descriptor: Rc<OwnedFd>,
}

impl Signals {
    /// Blocks both signals for the calling thread and every thread it starts from now on. Call it before any other thread
    /// runs: one with the signal unblocked would still be killed by it.
    ///
    /// # Errors
    ///
    /// The kernel's code when the process has no descriptor left.
    pub fn new() -> Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigemptyset` initialises the set it is given room for, and cannot fail for a valid pointer.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: `sigemptyset` initialised it.
        let mut set = unsafe { set.assume_init() };
        for number in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: `set` is an initialised set and both numbers are signals.
            unsafe { libc::sigaddset(&raw mut set, number) };
        }
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(Error::os(blocked, "block signals"));
        }
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        if descriptor < 0 {
            let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            return Err(Error::os(code, "open a signalfd"));
        }
        // SAFETY: the kernel just returned this descriptor and nobody else knows of it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { descriptor: Rc::new(descriptor) })
    }

    /// The next signal. Dropping the future may lose one that arrives at the same moment.
    ///
    /// # Errors
    ///
    /// The kernel's code if the descriptor fails.
    pub async fn next(&self) -> Result<Signal> {
        let buf = Vec::with_capacity(size_of::<libc::signalfd_siginfo>());
        let (result, info) = ops::read(&self.descriptor, buf).await;
        result.map_err(|error| Error::os(error.raw_os_error().unwrap_or(libc::EIO), "read a signal"))?;
        // `ssi_signo` is the first field (signalfd(2)).
        let number = info.first_chunk::<4>().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        Ok(if number == libc::SIGINT.cast_unsigned() { Signal::Interrupt } else { Signal::Terminate })
    }
}
