//! Which core the calling thread is inside of.
//!
//! One thread-local pointer without a destructor, so that it can be read while the thread's other locals are destroyed, and so
//! that waking a task of the own core costs one access to thread-local storage.

use std::cell::Cell;
use std::ptr;
use std::rc::Rc;

use super::coroutine::Restrained;
use super::scheduler::Shared;

thread_local! {
    static CURRENT: Cell<*const Shared> = const { Cell::new(ptr::null()) };
}

/// Runs `f` with the core that the calling thread is inside of, if any. `f` runs no code of the user's but the clock: neither
/// wakers nor destructors, which may enter or end another core.
#[inline]
pub(super) fn with<R>(f: impl FnOnce(Option<&Rc<Shared>>) -> R) -> R {
    let current = CURRENT.get();
    if current.is_null() {
        return f(None);
    }
    // SAFETY: the pointer came from `Rc::as_ptr`. A core's `Shared` is `!Send`, so it is freed on this thread, and `forget` is
    // called before that: a pointer that is still here is to a live one. `f` frees none, because it runs no destructor of the
    // user's. `ManuallyDrop` keeps the count that this `Rc` does not own.
    let core = std::mem::ManuallyDrop::new(unsafe { Rc::from_raw(current) });
    f(Some(&core))
}

/// The core that the calling thread is inside of, to compare with; null outside.
#[inline]
pub(super) fn core() -> *const Shared {
    CURRENT.get()
}

/// Whether the calling thread is inside of a core.
#[inline]
pub(super) fn is_inside() -> bool {
    !CURRENT.get().is_null()
}

/// While it lives, the thread is inside a core.
pub(super) struct Inside {
    core: Rc<Shared>,
    /// The core that it was inside of before; kept alive, because the thread goes back to it.
    outer: Option<Rc<Shared>>,
    _restrained: Option<Restrained>,
}

impl Inside {
    /// Enters `core`, also from inside another one.
    pub(super) fn enter(core: &Rc<Shared>) -> Self {
        let outer = with(|current| current.cloned());
        CURRENT.set(Rc::as_ptr(core));
        Self { core: Rc::clone(core), outer, _restrained: Restrained::new(Rc::as_ptr(core)) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Not if another core was entered on another stack of this thread, and not left yet.
        if ptr::eq(CURRENT.get(), Rc::as_ptr(&self.core)) {
            CURRENT.set(self.outer.as_ref().map_or(ptr::null(), Rc::as_ptr));
        }
    }
}

/// While it lives, the thread is inside no core, as another thread would be. For a simulation.
pub(super) struct Outside {
    before: *const Shared,
    _restrained: Option<Restrained>,
}

impl Outside {
    /// Leaves the core that the thread is inside of. Its [`Inside`] is further up on the stack, and keeps it alive.
    pub(super) fn enter() -> Self {
        Self { before: CURRENT.replace(ptr::null()), _restrained: Restrained::new(ptr::null()) }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// A core's `Shared` is about to be freed.
pub(super) fn forget(core: *const Shared) {
    if ptr::eq(CURRENT.get(), core) {
        CURRENT.set(ptr::null());
    }
}
