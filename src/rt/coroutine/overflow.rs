//! Saying which coroutine ran out of stack.
//!
//! A fault in the guard page of the running coroutine's stack is an overflow: the handler writes
//! one sentence with the name of the coroutine and aborts. Every other fault goes to the handler
//! that was there before. The handler runs on the thread's alternate signal stack, since the full
//! one has no room; it allocates nothing, takes no lock and calls only what signal-safety(7) lists.

use std::cell::OnceCell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use rustix::mm::{MapFlags, ProtFlags};

use crate::error::{Error, Result};
use crate::rt::tasks::with_running;

/// Room for the handler, above what the kernel needs to save the registers, in bytes.
const HANDLER_BYTES: usize = 32 << 10;

/// The actions that were set before, for `SIGSEGV` and `SIGBUS`.
static PREVIOUS: OnceLock<[libc::sigaction; 2]> = OnceLock::new();
const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

thread_local! {
    /// Made with the thread's first coroutine.
    static SIGNAL_STACK: OnceCell<SignalStack> = const { OnceCell::new() };
}

/// Makes sure that an overflow on the calling thread is reported.
///
/// # Errors
///
/// The kernel's code if there is no memory for a signal stack.
#[inline]
pub(super) fn report_overflows() -> Result<()> {
    // While the thread ends, its signal stack may be gone already: an overflow then is a plain
    // fault.
    SIGNAL_STACK
        .try_with(|stack| if stack.get().is_some() { Ok(()) } else { install(stack) })
        .unwrap_or(Ok(()))
}

#[cold]
fn install(stack: &OnceCell<SignalStack>) -> Result<()> {
    // Nothing else sets it meanwhile.
    drop(stack.set(SignalStack::install()?));
    Ok(())
}

/// The calling thread's alternate signal stack: the one it had, or one of our own, which goes with
/// this value.
struct SignalStack {
    own: Option<(*mut c_void, usize)>,
}

impl SignalStack {
    /// Makes sure that this process has the handler and this thread a stack for it.
    ///
    /// # Errors
    ///
    /// The kernel's code if there is no memory.
    fn install() -> Result<Self> {
        install_handler();
        let mut before = MaybeUninit::<libc::stack_t>::zeroed();
        // SAFETY: no new stack is given, and `before` has room for the old one.
        let asked = unsafe { libc::sigaltstack(std::ptr::null(), before.as_mut_ptr()) };
        // SAFETY: `stack_t` is a pointer and two numbers, for which zeros are values; the call
        // wrote them if it succeeded.
        let before = unsafe { before.assume_init() };
        if asked == 0 && before.ss_flags & libc::SS_DISABLE == 0 {
            // The standard library gives one to every thread that it starts.
            return Ok(Self { own: None });
        }
        // SAFETY: reads the auxiliary vector; zero if there is no such entry.
        let needed = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
        let len = usize::try_from(needed).unwrap_or(0).next_multiple_of(4096) + HANDLER_BYTES;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in
        // use.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(|errno| Error::os(errno.raw_os_error(), "map a signal stack"))?;
        let own = Self { own: Some((start, len)) };
        let stack = libc::stack_t { ss_sp: start, ss_flags: 0, ss_size: len };
        // SAFETY: the mapping has `len` writable bytes, stays until `drop` has taken it out of use,
        // and nothing else uses it.
        if unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } != 0 {
            let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
            return Err(Error::os(code, "set a signal stack"));
        }
        Ok(own)
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        if let Some((start, len)) = self.own {
            let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            // SAFETY: takes the thread's alternate stack out of use; this code does not run on it.
            let disabled = unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) };
            if disabled == 0 {
                // SAFETY: the mapping was made in `install`, has this length, and is out of use.
                let _ = unsafe { rustix::mm::munmap(start, len) };
            }
        }
    }
}

fn install_handler() {
    PREVIOUS.get_or_init(|| {
        SIGNALS.map(|signal| {
            let mut previous = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: no new action is given, and `previous` has room for the old one.
            let _ = unsafe { libc::sigaction(signal, std::ptr::null(), previous.as_mut_ptr()) };
            // SAFETY: `sigaction` is numbers, sets of bits and pointers that may be null; zeros
            // mean the default action.
            unsafe { previous.assume_init() }
        })
    });
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    INSTALLED.call_once(|| {
        for signal in SIGNALS {
            // SAFETY: zeros are a value of every field, as above.
            let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle_fault;
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: the handler has the signature that `SA_SIGINFO` asks for, and does only what
            // a handler may.
            let _ = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        }
    });
}

extern "C" fn handle_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a handler that is installed with
    // `SA_SIGINFO`.
    let info_ref = unsafe { &*info };
    // SAFETY: both signals are about an address, so the field of that name is the one that is set.
    let address = unsafe { info_ref.si_addr() }.addr();
    with_running(|control| {
        if let Some(control) = control
            && control.guard.contains(&address)
        {
            let mut message = FaultMessage::new();
            message.push(b"\nboson: coroutine '");
            message.push(control.identity.name().unwrap_or("<unnamed>").as_bytes());
            message.push(b"' (created at ");
            message.push(control.created_at.file().as_bytes());
            message.push(b":");
            message.push_number(control.created_at.line() as usize);
            message.push(b") overflowed its stack of ");
            message.push_number(control.stack_bytes / 1024);
            message.push(b" KiB; give it a larger one with boson::thread::Builder::stack_size\n");
            message.write_to_stderr();
            // SAFETY: ends the process, as signal-safety(7) allows in a handler.
            unsafe { libc::abort() };
        }
    });
    let at = usize::from(signal == libc::SIGBUS);
    let Some(previous) = PREVIOUS.get().map(|previous| &previous[at]) else { return };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The instruction faults again when this returns, and then the default action ends the
            // process. SAFETY: sets an action that this process had before.
            let _ = unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
            // SAFETY: it was installed with `SA_SIGINFO`, so it is a function of this signature.
            let handler = unsafe { std::mem::transmute::<libc::sighandler_t, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: it was installed without `SA_SIGINFO`, so it is a function of this signature.
            let handler = unsafe { std::mem::transmute::<libc::sighandler_t, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}

/// A sentence put together without the heap; what does not fit is cut off.
struct FaultMessage {
    bytes: [u8; 512],
    len: usize,
}

impl FaultMessage {
    fn new() -> Self {
        Self { bytes: [0; 512], len: 0 }
    }

    fn push(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = *byte;
                self.len += 1;
            }
        }
    }

    fn push_number(&mut self, number: usize) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        if let Some(digit) = b"0123456789".get(number % 10) {
            self.push(&[*digit]);
        }
    }

    fn write_to_stderr(&self) {
        // SAFETY: the first `len` bytes of the array are readable. The process ends next, so a
        // failure has no one to tell.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, self.bytes.as_ptr().cast(), self.len) };
    }
}
