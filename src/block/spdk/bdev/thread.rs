//! SPDK's threads: contexts that boson's own threads poll.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::rc::{Rc, Weak};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use boson_spdk_sys as sys;

use super::super::env::strerror;
use crate::error::{Error, ErrorKind, Result};
use crate::rt::CoreLocal;

/// The messages between SPDK's threads that may wait at once.
const MESSAGES: usize = 8_191;

/// How often a thread that exits is polled at most. SPDK itself gives up waiting after five
/// seconds.
const EXIT_POLLS: u32 = 100_000_000;

/// A thread of SPDK, owned and polled by one thread of ours.
pub(super) struct SpdkThread {
    raw: NonNull<sys::spdk_thread>,
}

thread_local! {
    /// Whether this thread is creating a thread of SPDK, which it will own.
    static CREATING: Cell<bool> = const { Cell::new(false) };
}

/// Threads that SPDK created by itself, as addresses. The control thread polls them.
static ADOPTED: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// Starts SPDK's thread library.
pub(super) fn start_library() -> Result<()> {
    // SAFETY: the environment runs; `on_thread` is a function, and valid for ever.
    let code = unsafe { sys::boson_spdk_thread_library_start(Some(on_thread), MESSAGES) };
    if code == 0 { Ok(()) } else { Err(failed(code)) }
}

/// Ends it. No thread of SPDK is left.
pub(super) fn end_library() {
    // SAFETY: every thread of SPDK has exited and was destroyed.
    unsafe { sys::spdk_thread_lib_fini() };
}

fn failed(code: c_int) -> Error {
    let kind = if code == -libc::ENOMEM { ErrorKind::OutOfMemory } else { ErrorKind::Unsupported };
    Error::new(kind, "start an SPDK thread").because(format!(
        "{}: SPDK's messages take some MiB of DPDK's memory (--eal \"-m 1024\" gives more)",
        strerror(code)
    ))
}

/// SPDK tells of a thread: 0 a new one, 1 one that is to be looked at.
unsafe extern "C" fn on_thread(thread: *mut c_void, operation: c_int) -> c_int {
    if operation == 0 && !CREATING.get() {
        ADOPTED.lock().unwrap_or_else(PoisonError::into_inner).push(thread.expose_provenance());
    }
    0
}

/// The threads that SPDK created since the last call.
pub(super) fn take_adopted() -> Vec<SpdkThread> {
    let mut adopted = ADOPTED.lock().unwrap_or_else(PoisonError::into_inner);
    let threads = adopted.drain(..).map(ptr::with_exposed_provenance_mut);
    threads.filter_map(NonNull::new).map(|raw| SpdkThread { raw }).collect()
}

impl SpdkThread {
    /// A new thread of SPDK, which the calling thread owns. The first one of the process is the
    /// application thread.
    pub(super) fn create(name: &CStr) -> Result<Self> {
        CREATING.set(true);
        // SAFETY: the thread library runs; `name` ends with NUL and is copied; without a set of
        // CPUs the thread may be polled anywhere.
        let raw = unsafe { sys::spdk_thread_create(name.as_ptr(), ptr::null()) };
        CREATING.set(false);
        NonNull::new(raw).map(|raw| Self { raw }).ok_or_else(|| failed(-libc::ENOMEM))
    }

    /// Runs what waits on it. Returns whether there was something.
    pub(super) fn poll(&self) -> bool {
        // SAFETY: the thread exists as long as `self`, which never leaves the thread that owns it.
        unsafe { sys::spdk_thread_poll(self.raw.as_ptr(), 0, 0) > 0 }
    }

    /// How long it may be left alone: until its next timer, and no longer than `longest`, or than
    /// `active` while one of its pollers wants to be polled all the time.
    pub(super) fn rest(&self, active: Duration, longest: Duration) -> Duration {
        // SAFETY: the thread exists, and this is the thread that polls it.
        if unsafe { sys::spdk_thread_has_active_pollers(self.raw.as_ptr()) } != 0 {
            return active;
        }
        // SAFETY: as above. The result is a time in ticks; 0 if there is no timer.
        let next = unsafe { sys::spdk_thread_next_poller_expiration(self.raw.as_ptr()) };
        if next == 0 {
            return longest;
        }
        // SAFETY: the function reads the processor's counter.
        let now = unsafe { sys::spdk_get_ticks() };
        // SAFETY: the function returns a constant.
        let per_second = unsafe { sys::spdk_get_ticks_hz() }.max(1);
        let micros = u128::from(next.saturating_sub(now)) * 1_000_000 / u128::from(per_second);
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).clamp(active, longest)
    }

    /// Makes it the one in whose name the calling thread uses SPDK.
    pub(super) fn enter(&self) {
        // SAFETY: the thread exists, and the calling thread is the only one that polls it.
        unsafe { sys::spdk_set_thread(self.raw.as_ptr()) };
    }

    pub(super) fn leave() {
        // SAFETY: no thread is a valid choice.
        unsafe { sys::spdk_set_thread(ptr::null_mut()) };
    }
}

impl Drop for SpdkThread {
    fn drop(&mut self) {
        self.enter();
        // SAFETY: the thread exists and is the current one.
        unsafe { sys::spdk_thread_exit(self.raw.as_ptr()) };
        for _ in 0..EXIT_POLLS {
            // SAFETY: the thread exists until it is destroyed below.
            if unsafe { sys::spdk_thread_is_exited(self.raw.as_ptr()) } {
                break;
            }
            self.poll();
        }
        Self::leave();
        // SAFETY: as above.
        if unsafe { sys::spdk_thread_is_exited(self.raw.as_ptr()) } {
            // SAFETY: it has exited, and nobody polls it any more.
            unsafe { sys::spdk_thread_destroy(self.raw.as_ptr()) };
        } else {
            tracing::error!("an SPDK thread does not exit; it is left behind");
        }
    }
}

#[derive(Default)]
struct CoreThread(std::cell::RefCell<Weak<SpdkThread>>);

static CORE_THREAD: CoreLocal<CoreThread> = CoreLocal::new();

/// The current core's thread of SPDK. It exits with the last channel.
pub(super) fn of_this_core() -> Result<Rc<SpdkThread>> {
    let place = CORE_THREAD.get().unwrap_or_else(|| {
        let place = Rc::new(CoreThread::default());
        CORE_THREAD.set(Rc::clone(&place));
        place
    });
    if let Some(thread) = place.0.borrow().upgrade() {
        return Ok(thread);
    }
    let thread = Rc::new(SpdkThread::create(c"boson core")?);
    *place.0.borrow_mut() = Rc::downgrade(&thread);
    Ok(thread)
}
