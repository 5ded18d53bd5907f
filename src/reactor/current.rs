//! The reactor of the core that the calling thread is inside of.
//!
//! An operation starts on the reactor of its core, and this is where it finds that. The scheduler
//! above attaches a core's reactor to the thread when the thread enters the core, and detaches it
//! when the thread leaves. So the reactor needs to know neither cores nor tasks; what an operation
//! waits for, which the list of tasks says, it tells through a function that the scheduler gives
//! it.

use std::cell::Cell;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use super::pool::Pool;
use super::{Reactor, RingFeature, RingFeatures, uring};
use crate::fork::Process;

/// What operations of one core start on.
pub(crate) struct Attachment {
    pub(crate) reactor: Reactor,
    /// Threads for calls that block.
    pub(crate) pool: Arc<Pool>,
    /// Whose reactor it is: a child of a fork shares its rings.
    pub(crate) process: Process,
    /// Hears what the running task waits for.
    pub(crate) waits_for: fn(&'static str),
}

thread_local! {
    /// Without a destructor, so that it can be read while the thread's other locals are destroyed.
    static CURRENT: Cell<*const Attachment> = const { Cell::new(ptr::null()) };
}

/// Attaches `attachment` to the calling thread, or none if it is null; returns what was attached
/// before.
///
/// # Safety
///
/// `attachment` is null, or stays where it is and alive until another call replaces it.
pub(crate) unsafe fn attach(attachment: *const Attachment) -> *const Attachment {
    CURRENT.replace(attachment)
}

/// Calls `f` with what the calling thread's operations start on, if it is inside a core. `f` runs
/// no user code.
#[inline]
fn with<R>(f: impl FnOnce(Option<&Attachment>) -> R) -> R {
    // SAFETY: `attach` was promised that the attachment lives and stays in place until it is
    // replaced. `f` replaces none, because it enters and leaves no core.
    f(unsafe { CURRENT.get().as_ref() })
}

/// Calls `f` with what the operations of the calling thread start on. `f` runs no user code.
///
/// # Panics
///
/// Outside a core, and in a child process of the core's.
#[track_caller]
#[inline]
pub(crate) fn attached<R>(f: impl FnOnce(&Attachment) -> R) -> R {
    with(|attachment| match attachment {
        Some(attachment) => {
            attachment.process.assert("an operation");
            f(attachment)
        }
        None => outside(),
    })
}

#[cold]
#[track_caller]
fn outside() -> ! {
    panic!("I/O was started outside a boson core: call it from inside `Core::block_on`")
}

/// The io_uring of the core that the calling thread is inside of; `None` outside a core and without
/// an io_uring.
pub(super) fn ring_if_any() -> Option<Rc<uring::Ring>> {
    with(|attachment| attachment?.reactor.ring().map(Rc::clone))
}

/// The io_uring of the current core, if it has one.
///
/// # Panics
///
/// Outside a core, and in a child process of the core's.
#[track_caller]
#[inline]
pub(super) fn with_ring<R>(f: impl FnOnce(Option<&Rc<uring::Ring>>) -> R) -> R {
    attached(|attachment| f(attachment.reactor.ring()))
}

/// Whether the current core has a ring with `feature`.
pub(crate) fn ring_has(feature: RingFeature) -> bool {
    with_ring(|ring| ring.is_some_and(|ring| ring.has(feature)))
}

/// The features of the current core's ring; none without one.
pub(crate) fn ring_features() -> RingFeatures {
    with_ring(|ring| {
        let Some(ring) = ring else { return RingFeatures::none() };
        RingFeature::ALL.iter().copied().filter(|feature| ring.has(*feature)).collect()
    })
}

/// Whether the calling task may make a system call that does not wait, instead of an operation on
/// the ring. False once this task, and those before it, made many since the core last turned to its
/// ring: then waiting for the ring is what lets others run. False without a ring: there an
/// operation starts with just such a call.
pub(crate) fn may_call_directly() -> bool {
    with_ring(|ring| ring.is_some_and(|ring| ring.take_direct_call()))
}

/// Whether the current core is a simulated one, which has no kernel: every operation fails with
/// `EOPNOTSUPP`. False outside a core.
pub(crate) fn is_simulated() -> bool {
    with(|attachment| attachment.is_some_and(|attachment| matches!(attachment.reactor, Reactor::Simulated)))
}

/// Notes what the running task waits for, for the list of tasks.
#[inline(never)]
pub(super) fn waits_for(what: &'static str) {
    with(|attachment| {
        if let Some(attachment) = attachment {
            (attachment.waits_for)(what);
        }
    });
}
