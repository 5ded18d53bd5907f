//! SPDK's environment inside DPDK's, started once per process, and its log.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{Mutex, PoisonError};

use boson_spdk_sys as sys;

use crate::eal::Eal;
use crate::error::{Error, ErrorKind, Result};
use crate::user_code::contain;

/// SPDK's numbers: 0 error, 1 warning, 2 notice, 3 information, 4 debugging.
const ERROR: c_int = 0;
const WARNING: c_int = 1;

/// What [`capture`] keeps at most; the first error of a call is the one that says why.
const MAX_REASON_BYTES: usize = 512;

/// How long a connection over TCP may take to be established, in milliseconds.
const TCP_CONNECT_TIMEOUT_MS: u32 = 5_000;

/// The proof that SPDK's environment runs. It runs until the process ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Env {
    eal: Eal,
}

enum EnvStart {
    NotStarted,
    Running(Env),
    Failed(String),
}

static START: Mutex<EnvStart> = Mutex::new(EnvStart::NotStarted);

impl Env {
    /// Starts SPDK's environment, or returns the one that runs.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if SPDK refuses to start, now or earlier, with its reason.
    pub(super) fn start(eal: Eal) -> Result<Self> {
        let mut state = START.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |reason: &str| {
            Error::new(ErrorKind::Unsupported, "start SPDK")
                .because(format!("{reason}; docs/spdk.md has the versions that go together"))
        };
        match &*state {
            EnvStart::Running(env) => return Ok(*env),
            EnvStart::Failed(reason) => return Err(failed(reason)),
            EnvStart::NotStarted => {}
        }
        // SAFETY: `sink` is a function, and valid for ever; it has the signature that the shim
        // calls.
        unsafe { sys::boson_spdk_log_redirect(Some(sink), WARNING) };
        let started = load_modules().and_then(|()| {
            let (code, reason) = eal
                .control(|| {
                    // SAFETY: the EAL runs, as `eal` proves, and this is the first call; the
                    // argument says whether its memory can grow.
                    capture(|| unsafe { sys::spdk_env_dpdk_post_init(eal.memory_is_fixed()) })
                })
                .0;
            if code == 0 { Ok(()) } else { Err(words(code, reason)) }
        });
        if let Err(reason) = started {
            let error = failed(&reason);
            *state = EnvStart::Failed(reason);
            return Err(error);
        }
        // SAFETY: the environment has started, so that SPDK's handler is in place.
        let code = unsafe { sys::boson_spdk_bound_sigbus() };
        if code != 0 {
            tracing::warn!("SPDK's handler for SIGBUS could not be bounded: {}", strerror(code));
        }
        // SAFETY: the function copies a number.
        let code = unsafe { sys::boson_spdk_set_tcp_connect_timeout(TCP_CONNECT_TIMEOUT_MS) };
        debug_assert_eq!(code, 0, "the number is within SPDK's range");
        let env = Self { eal };
        *state = EnvStart::Running(env);
        Ok(env)
    }

    pub(super) fn eal(self) -> Eal {
        self.eal
    }
}

/// SPDK's release, such as `SPDK v26.09`. It need not run for this.
pub(super) fn version() -> String {
    // SAFETY: the function takes nothing and returns a string constant.
    let version = unsafe { sys::boson_spdk_version() };
    // SAFETY: `version` is that string, and ends with NUL.
    unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned()
}

/// Loads SPDK's modules, if they are shared libraries: sockets and kinds of block devices register
/// themselves while they are loaded. The loader finds them as it found the others, or where they
/// were when this was built.
fn load_modules() -> Result<(), String> {
    // SAFETY: the function only returns an address.
    if unsafe { sys::boson_spdk_needed(0) }.is_null() {
        return Err("it was linked without a library that it needs".to_owned());
    }
    for (name, path) in sys::MODULES {
        let load = |name: &CStr| {
            // SAFETY: `name` ends with NUL. What runs when the library is loaded are constructors:
            // those of SPDK's modules only add to lists.
            !unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) }.is_null()
        };
        if load(name) || load(path) {
            continue;
        }
        let why = loading_error();
        if name.to_bytes().starts_with(b"libspdk_sock_posix")
            || name.to_bytes().starts_with(b"libspdk_event_bdev")
        {
            return Err(format!("{why}: LD_LIBRARY_PATH must name the directory of its libraries"));
        }
        if name.to_bytes().starts_with(b"libspdk") {
            tracing::warn!(target: "spdk", "what a module of SPDK is for does not work: {why}");
        }
    }
    Ok(())
}

fn loading_error() -> String {
    // SAFETY: the function returns null, or a string that lives until this thread's next call of
    // the loader.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "a library cannot be loaded".to_owned();
    }
    // SAFETY: `text` is that string, and ends with NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// The words for an `errno` code, of either sign.
pub(super) fn strerror(code: c_int) -> String {
    std::io::Error::from_raw_os_error(code.saturating_abs()).to_string()
}

/// SPDK's reason for a failure, or else the words for its code.
pub(super) fn words(code: c_int, reason: String) -> String {
    if reason.is_empty() { strerror(code) } else { reason }
}

thread_local! {
    /// The errors that SPDK logged on this thread during the running [`capture`].
    static REASON: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `call` and returns, beside its result, the errors that SPDK logged for it on this thread.
pub(super) fn capture<T>(call: impl FnOnce() -> T) -> (T, String) {
    REASON.with(|reason| reason.replace(Some(String::new())));
    let result = call();
    (result, REASON.with(|reason| reason.take()).unwrap_or_default())
}

/// Takes one message.
unsafe extern "C" fn sink(level: c_int, text: *const c_char, length: usize) {
    // SAFETY: the shim passes its own buffer, of which `length` bytes hold the message.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    let line = String::from_utf8_lossy(bytes);
    if level <= ERROR && REASON.with(|reason| keep(&mut reason.borrow_mut(), &line)) {
        return;
    }
    // A subscriber may panic, and must not unwind into C.
    contain(|| match level {
        ..=ERROR => tracing::error!(target: "spdk", "{line}"),
        WARNING => tracing::warn!(target: "spdk", "{line}"),
        2 | 3 => tracing::info!(target: "spdk", "{line}"),
        _ => tracing::debug!(target: "spdk", "{line}"),
    });
}

/// Adds an error to the running capture's, if there is one.
fn keep(reason: &mut Option<String>, line: &str) -> bool {
    let Some(reason) = reason else { return false };
    if reason.len() + line.len() <= MAX_REASON_BYTES {
        if !reason.is_empty() {
            reason.push_str("; ");
        }
        reason.push_str(line);
    }
    true
}
