//! Which core the calling thread is inside of.

use std::ptr;
use std::rc::Rc;

use super::state::CoreState;
use crate::reactor::{self, Attachment};
use crate::rt::tasks::{Local, Restrained, local};

/// Calls `f` with the core that the calling thread is inside of, if any. `f` runs no user code but
/// the clock: neither wakers nor destructors, which may enter or end another core.
#[inline]
pub(in crate::rt) fn with<R>(f: impl FnOnce(Option<&Rc<CoreState>>) -> R) -> R {
    let current = local::current().cast::<CoreState>();
    if current.is_null() {
        return f(None);
    }
    // SAFETY: only `enter` says which core is current, with a pointer from `Rc::as_ptr`; the first
    // field is where the whole is. A core's state is `!Send`, so it is freed on this thread, and
    // `Inside` keeps it until another one is current. `ManuallyDrop` keeps the count that this `Rc`
    // does not own.
    let core = std::mem::ManuallyDrop::new(unsafe { Rc::from_raw(current) });
    f(Some(&core))
}

/// Whether the calling thread is inside a core.
#[inline]
pub(in crate::rt) fn is_inside() -> bool {
    !local::current().is_null()
}

/// Calls `f` with the core that the calling thread is inside of. `f` runs no user code but the
/// clock: neither wakers nor destructors, which may enter or end another core.
#[track_caller]
#[inline]
pub(in crate::rt) fn with_core<R>(f: impl FnOnce(&Rc<CoreState>) -> R) -> R {
    in_core("a function of `boson::rt`", f)
}

/// The same; `caller` is the function that was called, for the message of the panic outside a core.
#[track_caller]
#[inline]
pub(in crate::rt) fn in_core<R>(caller: &'static str, f: impl FnOnce(&Rc<CoreState>) -> R) -> R {
    with(|core| match core {
        Some(core) => {
            core.process().assert(caller);
            f(core)
        }
        None => outside(caller),
    })
}

#[cold]
#[track_caller]
fn outside(caller: &'static str) -> ! {
    panic!("{caller} was called outside a boson core: call it from inside `Core::block_on`")
}

/// What the thread is inside of: a core, and its reactor.
#[derive(Clone, Copy)]
struct Current {
    core: *const Local,
    reactor: *const Attachment,
}

impl Current {
    const NONE: Self = Self { core: ptr::null(), reactor: ptr::null() };

    fn of(core: &Rc<CoreState>) -> Self {
        let state = Rc::as_ptr(core);
        Self { core: state.cast::<Local>(), reactor: core.attachment() }
    }

    /// Makes this current; returns what was.
    ///
    /// # Safety
    ///
    /// It is none, or its core lives until another is made current.
    unsafe fn enter(self) -> Self {
        // SAFETY: the caller's promise: the core is alive, and an `Rc` does not move what it points
        // to.
        let core = unsafe { local::set_current(self.core) };
        // SAFETY: the attachment is a part of the same core.
        let reactor = unsafe { reactor::current::attach(self.reactor) };
        Self { core, reactor }
    }
}

/// While it lives, the thread is inside a core.
pub(in crate::rt) struct Inside {
    core: Rc<CoreState>,
    /// The core that it was inside of before; kept alive, because the thread goes back to it.
    outer: Option<Rc<CoreState>>,
    _restrained: Option<Restrained>,
}

impl Inside {
    /// Enters `core`, also from inside another one.
    pub(in crate::rt) fn enter(core: &Rc<CoreState>) -> Self {
        let outer = with(|current| current.cloned());
        let current = Current::of(core);
        // SAFETY: this value keeps the core, and makes another current before it lets go of it.
        unsafe { current.enter() };
        Self { core: Rc::clone(core), outer, _restrained: Restrained::new(current.core.cast()) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // Not if another core was entered on another stack of this thread, and not left yet.
        if ptr::eq(local::current(), Current::of(&self.core).core) {
            let outer = self.outer.as_ref().map_or(Current::NONE, Current::of);
            // SAFETY: the `Inside` of the outer core, further up on the stack, keeps that one.
            unsafe { outer.enter() };
        }
    }
}

impl Drop for CoreState {
    /// An [`Inside`] keeps the core, and may have been left on another stack: then the core is
    /// current to its end.
    fn drop(&mut self) {
        if ptr::eq(local::current(), self.local()) {
            // SAFETY: none is current from here on.
            unsafe { Current::NONE.enter() };
        }
    }
}

/// While it lives, the thread is inside no core, as another thread would be. For a simulation.
pub(in crate::rt) struct Outside {
    before: Current,
    _restrained: Option<Restrained>,
}

impl Outside {
    /// Leaves the core that the thread is inside of.
    pub(in crate::rt) fn enter() -> Self {
        // SAFETY: none is current from here on.
        let before = unsafe { Current::NONE.enter() };
        Self { before, _restrained: Restrained::new(ptr::null()) }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // SAFETY: it was current, and its `Inside`, further up on the stack, keeps it.
        unsafe { self.before.enter() };
    }
}
