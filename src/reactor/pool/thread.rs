//! Starting a thread that no signal is delivered to.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// Starts a thread with all signals blocked: they are for the threads that wait for them.
pub(super) fn spawn_without_signals(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // A thread inherits the mask of the one that starts it.
    let _masked = SignalsBlocked::new();
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
}

/// While it lives, no signal is delivered to the calling thread.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `sigfillset` initialises the set it is given room for.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` was initialised above, and `before` has room for a set. With `SIG_BLOCK`
        // and valid pointers the call cannot fail, so `before` is initialised afterwards.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: initialised by the call above.
        Self(unsafe { before.assume_init() })
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is initialised, and the mask before is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut()) };
    }
}

/// Gives the calling thread a name; the kernel keeps 15 bytes of it.
pub(super) fn name_this_thread(name: &str) {
    let name: Vec<u8> = name.bytes().take_while(|byte| *byte != 0).take(15).collect();
    if let Ok(name) = CString::new(name) {
        // A name is a convenience: without it the job runs as well.
        let _ = rustix::thread::set_name(&name);
    }
}
