//! Which loads are under way, so that each is done once.
//!
//! Who misses something first loads it on its own core; the others wait, and look again when that
//! is over, whatever came of it. So an error reaches everybody who asks, each by its own attempt,
//! and a load whose future is dropped holds up nobody.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use crate::store::word::PageId;

/// What is being loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Page(PageId),
    Frame(u32),
}

/// The loads under way, on all cores.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<HashMap<What, Vec<Waker>>>);

impl Loads {
    fn lock(&self) -> MutexGuard<'_, HashMap<What, Vec<Waker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to load `what`; None once somebody else's load of it is over.
    pub(super) async fn begin(&self, what: What) -> Option<Loading<'_>> {
        let mut has_waited = false;
        poll_fn(|cx| match self.lock().entry(what) {
            Entry::Vacant(_) if has_waited => Poll::Ready(None),
            Entry::Vacant(free) => {
                free.insert(Vec::new());
                Poll::Ready(Some(Loading { loads: self, what }))
            }
            Entry::Occupied(mut waiting) => {
                has_waited = true;
                if !waiting.get().iter().any(|waker| waker.will_wake(cx.waker())) {
                    waiting.get_mut().push(cx.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }
}

/// A load under way. Dropping it ends it.
pub(super) struct Loading<'l> {
    loads: &'l Loads,
    what: What,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let waiting = self.loads.lock().remove(&self.what);
        waiting.into_iter().flatten().for_each(Waker::wake);
    }
}
