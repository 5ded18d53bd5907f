//! The waker of the one task that can wait for something, such as the end of a channel that has one
//! owner.

use std::cell::Cell;
use std::fmt;
use std::task::{Context, Waker};

use crate::user_code;

/// At most one waker. Nothing is borrowed while a waker is cloned, woken or dropped.
#[derive(Default)]
pub(crate) struct WakerSlot(Cell<Option<Waker>>);

impl WakerSlot {
    /// Registers the task of `cx`: the next [`WakerSlot::wake`] wakes it. That may run user code,
    /// so look again at what is waited for.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let current = self.0.take();
        let unchanged = current.as_ref().is_some_and(|current| current.will_wake(cx.waker()));
        self.0.set(current);
        if !unchanged {
            let waker = cx.waker().clone();
            drop(self.0.replace(Some(waker)));
        }
    }

    /// Wakes the task, if one waits.
    #[inline]
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.0.take() {
            user_code::wake(waker);
        }
    }

    /// Forgets the task.
    pub(super) fn clear(&self) {
        drop(self.0.take());
    }
}

impl fmt::Debug for WakerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WakerSlot").finish_non_exhaustive()
    }
}
