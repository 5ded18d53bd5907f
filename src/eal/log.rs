//! DPDK's log: it goes through `tracing`, and the errors of a failed call become the reason in its
//! `Error`.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use boson_dpdk_sys as sys;

/// DPDK's numbers: 1 emergency, 2 alert, 3 critical, 4 error, 5 warning, 6 notice, 7 info, 8 debug.
const ERROR: u32 = 4;
const WARNING: u32 = 5;
const INFO: u32 = 7;

/// What [`capture`] keeps at most; the first error of a call is the one that says why.
const MAX_REASON_BYTES: usize = 1_024;

/// Between the errors of one call.
pub(crate) const SEPARATOR: &str = "; ";

/// The errors logged during the running [`capture`]; `None` outside of one.
static REASON: Mutex<Option<String>> = Mutex::new(None);

/// Sends DPDK's log to [`sink`], from its next message on. Without memory for the stream the log
/// stays on stderr.
pub(crate) fn redirect() {
    // SAFETY: `sink` has the signature that the shim calls, and is a function, so it is valid as
    // long as the stream is.
    let stream = unsafe { sys::boson_dpdk_log_stream(Some(sink)) };
    if stream.is_null() {
        return;
    }
    // SAFETY: `stream` is an open stream that nobody closes: DPDK may write to it until the process
    // ends.
    let result = unsafe { sys::rte_openlog_stream(stream) };
    debug_assert_eq!(result, 0, "rte_openlog_stream only stores the stream");
}

/// Runs `call` and returns, beside its result, the errors that DPDK logged meanwhile, joined by
/// [`SEPARATOR`]. The caller holds the lock of the EAL's control plane, so that no other call's
/// errors are among them.
pub(crate) fn capture<T>(call: impl FnOnce() -> T) -> (T, String) {
    let swap = |new| std::mem::replace(&mut *REASON.lock().unwrap_or_else(PoisonError::into_inner), new);
    swap(Some(String::new()));
    let result = call();
    (result, swap(None).unwrap_or_default())
}

/// Takes one message.
unsafe extern "C" fn sink(level: u32, text: *const c_char, length: usize) {
    if text.is_null() {
        return;
    }
    // SAFETY:
    // - `text` is not null, and the C library passes its stream buffer, of which `length` bytes
    //   hold the message;
    // - nothing else writes to that buffer before this call returns: stdio holds the stream's lock.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    for line in String::from_utf8_lossy(bytes).lines().map(str::trim).filter(|line| !line.is_empty()) {
        keep_or_log(level, line);
    }
}

fn keep_or_log(level: u32, line: &str) {
    if level <= ERROR {
        let mut reason = REASON.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = reason.as_mut() {
            if reason.len() + line.len() <= MAX_REASON_BYTES {
                if !reason.is_empty() {
                    reason.push_str(SEPARATOR);
                }
                reason.push_str(line);
            }
            return;
        }
    }
    match level {
        0..=ERROR => tracing::error!(target: "dpdk", "{line}"),
        WARNING => tracing::warn!(target: "dpdk", "{line}"),
        6..=INFO => tracing::info!(target: "dpdk", "{line}"),
        _ => tracing::debug!(target: "dpdk", "{line}"),
    }
}
