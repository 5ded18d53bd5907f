//! Whether a core sleeps, as those who send it something see it: one atomic flag.
//!
//! | state | the core |
//! |---|---|
//! | awake | looks at its inbox again before it sleeps |
//! | announced | looks at its inbox once more, and then sleeps until it is rung, or something else wakes it |
//!
//! | transition | by | method |
//! |---|---|---|
//! | awake → announced | the core, before it looks once more | [`announce`](SleepFlag::announce) |
//! | announced → awake | the core, if that look shows something, and whenever it has woken | [`withdraw`](SleepFlag::withdraw) |
//! | announced → awake | the one sender that then rings | [`must_ring`](SleepFlag::must_ring) |
//!
//! A sender pushes, and then looks at this flag. The core sets it, and then looks at what was
//! pushed. Each has a sequentially consistent fence between its two steps, so at least one of them
//! sees the other's.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether a core sleeps. See the module's tables.
pub(super) struct SleepFlag(AtomicBool);

impl SleepFlag {
    /// Of a core that is awake.
    #[inline]
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Awake → announced. The core looks at its inbox after this.
    #[inline]
    pub(super) fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// → awake.
    #[inline]
    pub(super) fn withdraw(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it is announced, as far as the caller can see. A sender asks after its push and a
    /// fence.
    #[inline]
    pub(super) fn is_announced(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Announced → awake, for a sender that saw it announced. Whether it is the one that rings.
    #[inline]
    pub(super) fn must_ring(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}
