//! What is done once, and what is made once.
//!
//! `std`'s put the thread to sleep while another one runs the initialiser. If that is suspended, as
//! a coroutine of the same core is, nobody is left to resume it.

use std::fmt;
use std::ops::Deref;
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::rt::{self, wait};

const INCOMPLETE: u8 = 0;
const RUNNING: u8 = 1;
const POISONED: u8 = 2;
const COMPLETE: u8 = 3;

/// Runs a function once: the first caller runs it, and the others wait until it has returned.
///
/// What the function awaits or blocks on lets other tasks of the core run. A function that calls
/// the same `Once` again waits for itself, forever.
pub struct Once {
    /// Acquire and Release: who finds `COMPLETE` sees what the function did.
    state: AtomicU8,
    /// Nobody runs the function any more.
    settled: Notify,
}

/// What the function of [`Once::call_once_force`] is told.
#[derive(Debug)]
pub struct OnceState {
    poisoned: bool,
}

impl OnceState {
    /// Whether the function was run before and panicked, or was cancelled.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }
}

impl Once {
    /// A function was not run yet.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(INCOMPLETE), settled: Notify::const_new() }
    }

    /// Runs `f` if no function was run yet, and waits if one is being run. When it returns, one has
    /// been.
    ///
    /// # Panics
    ///
    /// With what `f` panics with; if an earlier function panicked or was cancelled; in an async
    /// task, if it has to wait.
    #[track_caller]
    pub fn call_once<F: FnOnce()>(&self, f: F) {
        if !self.is_completed() {
            self.call(false, |_| f());
        }
    }

    /// As [`call_once`](Self::call_once), also if an earlier function panicked or was cancelled.
    ///
    /// # Panics
    ///
    /// With what `f` panics with; in an async task, if it has to wait.
    #[track_caller]
    pub fn call_once_force<F: FnOnce(&OnceState)>(&self, f: F) {
        if !self.is_completed() {
            self.call(true, f);
        }
    }

    /// Whether a function was run to its end.
    pub fn is_completed(&self) -> bool {
        self.state.load(Ordering::Acquire) == COMPLETE
    }

    /// Waits until a function was run to its end, by somebody else.
    ///
    /// # Panics
    ///
    /// If one panicked or was cancelled; in an async task, if it has to wait.
    #[track_caller]
    pub fn wait(&self) {
        if !self.is_completed() {
            let state = wait(self.until(|state| matches!(state, COMPLETE | POISONED)));
            assert!(state == COMPLETE, "Once instance has previously been poisoned");
        }
    }

    /// As [`wait`](Self::wait), also if an earlier one panicked or was cancelled.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn wait_force(&self) {
        if !self.is_completed() {
            wait(self.until(|state| state == COMPLETE));
        }
    }

    #[cold]
    #[track_caller]
    fn call<F: FnOnce(&OnceState)>(&self, even_if_poisoned: bool, f: F) {
        loop {
            match self.state.load(Ordering::Acquire) {
                COMPLETE => return,
                RUNNING => {
                    wait(self.until(|state| state != RUNNING));
                }
                POISONED if !even_if_poisoned => panic!("Once instance has previously been poisoned"),
                before => {
                    let taken =
                        self.state.compare_exchange(before, RUNNING, Ordering::Acquire, Ordering::Relaxed);
                    if taken.is_ok() {
                        let mut settle = Settle { once: self, state: POISONED };
                        f(&OnceState { poisoned: before == POISONED });
                        settle.state = COMPLETE;
                        return;
                    }
                }
            }
        }
    }

    /// Completes with the first state found that is `wanted`.
    fn until(&self, wanted: impl Fn(u8) -> bool) -> impl Future<Output = u8> {
        rt::waits_for("a value that is being made", async move {
            loop {
                let mut settled = pin!(self.settled.notified());
                // Before it looks, so that what changes after that is noticed.
                settled.as_mut().enable();
                let state = self.state.load(Ordering::Acquire);
                if wanted(state) {
                    return state;
                }
                settled.await;
            }
        })
    }
}

/// Ends the run of a function, also by a panic.
struct Settle<'a> {
    once: &'a Once,
    state: u8,
}

impl Drop for Settle<'_> {
    fn drop(&mut self) {
        self.once.state.store(self.state, Ordering::Release);
        self.once.settled.notify_waiters();
    }
}

impl Default for Once {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("is_completed", &self.is_completed()).finish_non_exhaustive()
    }
}

/// A value that the first caller sets, once; see [`Once`].
pub struct OnceLock<T> {
    once: Once,
    /// Set by the function that `once` runs, which is never run twice at a time.
    value: std::sync::OnceLock<T>,
}

impl<T> OnceLock<T> {
    /// Without a value.
    pub const fn new() -> Self {
        Self { once: Once::new(), value: std::sync::OnceLock::new() }
    }

    /// The value, if there is one. Never waits.
    pub fn get(&self) -> Option<&T> {
        self.value.get()
    }

    /// The value, to change it, if there is one.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        self.value.get_mut()
    }

    /// Waits until somebody else has set the value.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn wait(&self) -> &T {
        self.once.wait_force();
        self.made()
    }

    /// Sets the value; waits while another one is being made.
    ///
    /// # Errors
    ///
    /// With `value`, if there is one.
    ///
    /// # Panics
    ///
    /// In an async task, if it has to wait.
    #[track_caller]
    pub fn set(&self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        self.get_or_init(|| value.take().expect("called once"));
        value.map_or(Ok(()), Err)
    }

    /// The value, which `make` makes if there is none. While another caller makes it, waits for
    /// that one; if that panics or is cancelled, the next one tries.
    ///
    /// # Panics
    ///
    /// With what `make` panics with; in an async task, if it has to wait.
    #[track_caller]
    pub fn get_or_init<F: FnOnce() -> T>(&self, make: F) -> &T {
        if self.value.get().is_none() {
            self.once.call_once_force(|_| {
                let made = make();
                // There is no other one: this is the one function that is run to its end.
                self.value.get_or_init(|| made);
            });
        }
        self.made()
    }

    /// The value, if there is one.
    pub fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }

    /// Takes the value out, so that there is none.
    pub fn take(&mut self) -> Option<T> {
        std::mem::take(self).into_inner()
    }

    fn made(&self) -> &T {
        self.value.get().expect("the function that was run to its end has set it")
    }
}

impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> From<T> for OnceLock<T> {
    fn from(value: T) -> Self {
        Self {
            once: Once { state: AtomicU8::new(COMPLETE), settled: Notify::const_new() },
            value: std::sync::OnceLock::from(value),
        }
    }
}

impl<T: Clone> Clone for OnceLock<T> {
    fn clone(&self) -> Self {
        self.get().cloned().map_or_else(Self::new, Self::from)
    }
}

impl<T: PartialEq> PartialEq for OnceLock<T> {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl<T: Eq> Eq for OnceLock<T> {}

impl<T: fmt::Debug> fmt::Debug for OnceLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// A value that is made when it is first asked for; see [`Once`]. May be a `static`.
///
/// ```
/// use boson::blocking::sync::LazyLock;
///
/// static GREETING: LazyLock<String> = LazyLock::new(|| "hello".to_owned());
/// assert_eq!(GREETING.len(), 5);
/// ```
pub struct LazyLock<T, F = fn() -> T> {
    once: Once,
    value: std::sync::OnceLock<T>,
    /// Taken by who makes the value. Locked for that only.
    make: Mutex<Option<F>>,
}

impl<T, F: FnOnce() -> T> LazyLock<T, F> {
    /// A value that `make` makes.
    pub const fn new(make: F) -> Self {
        Self { once: Once::new(), value: std::sync::OnceLock::new(), make: Mutex::new(Some(make)) }
    }

    /// The value, made if it was not yet. While another caller makes it, waits for that one.
    ///
    /// # Panics
    ///
    /// With what the function panics with, or if it panicked or was cancelled before; in an async
    /// task, if it has to wait.
    #[track_caller]
    pub fn force(this: &Self) -> &T {
        if let Some(value) = this.value.get() {
            return value;
        }
        this.once.call_once(|| {
            let make = this.make.lock().unwrap_or_else(PoisonError::into_inner).take();
            let made = make.expect("taken by the one function that is run")();
            this.value.get_or_init(|| made);
        });
        this.value.get().expect("the function that was run to its end has set it")
    }
}

impl<T, F: FnOnce() -> T> Deref for LazyLock<T, F> {
    type Target = T;

    #[track_caller]
    fn deref(&self) -> &T {
        Self::force(self)
    }
}

impl<T: Default> Default for LazyLock<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

impl<T: fmt::Debug, F> fmt::Debug for LazyLock<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_tuple("LazyLock");
        match self.value.get() {
            Some(value) => f.field(value),
            None => f.field(&format_args!("<uninit>")),
        };
        f.finish()
    }
}
