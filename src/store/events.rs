//! What a core tells the keeper: which pages are dirty, and which changed shape.
//!
//! The **keeper** is whoever writes pages to the namespace. It knows what it has to do from events
//! alone, and looks at the mapping for what has become of it. Each core has a queue of its own,
//! whose lock nobody else takes but the keeper when it [drains](Events::drain) it.
//!
//! An event is pushed **before** what it tells can be seen: that of a structure change before its
//! compare-and-swap, that of a write between its slot and its number. So when the keeper has seen a
//! page, and drains the queues after that, it knows all that concerns what it saw. The other way
//! round an event may tell of what never came to be, because the compare-and-swap failed or the
//! slot was aborted. That harms nobody: the keeper finds the page unchanged.
//!
//! | event | pushed | what the keeper makes of it |
//! |---|---|---|
//! | [`Dirty`](Event::Dirty) | by the first write to an area, before it draws its number | the page is to be written |
//! | [`Split`](Event::Split) | before S1 | both halves go together |
//! | [`Posted`](Event::Posted) | before S2 | the parent goes with both, or after them |
//! | [`RootSplit`](Event::RootSplit) | before the root's split | the root and both halves go together |
//! | [`Removed`](Event::Removed) | before R2 | the parent inherits the dirt, and the id is free when it is durable |
//! | [`Collapsed`](Event::Collapsed) | before C2 | the root inherits the dirt, and the id is free when it is durable |
//! | [`Packed`](Event::Packed) | before M4 | the parent and the new page inherit the dirt and go together, and the ids are free when the parent is durable |
//!
//! A tree without a keeper has a [`Sink::Nobody`], which drops events. Whoever removes a page
//! releases its id at once then; where there is a keeper, that does it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::growth::Growth;
use crate::store::word::{ChildWord, PageId};

/// What is about to happen to a page. The names of steps are those of `btree/smo.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Event {
    /// A change with a number of `from` or above is about to be in the area of `page`. `parent` is
    /// the page above it: its own id for a root.
    Dirty { tree: u32, parent: PageId, page: PageId, from: u64 },
    /// S1: `page` is about to become its left half, `new` has the right one.
    Split { tree: u32, page: PageId, new: ChildWord },
    /// S2: `parent` is about to state the epoch that `page` has after its split, and `new`.
    Posted { tree: u32, parent: PageId, page: ChildWord, new: ChildWord },
    /// `root` is about to become the parent of its two halves. They are leaves if it was one.
    RootSplit { tree: u32, root: PageId, left: ChildWord, right: ChildWord, are_leaves: bool },
    /// R2: `parent` is about to be without `gone`, or to be removed itself, or, as a root, to be an
    /// empty leaf. `gone` has the epoch of the removed page.
    Removed { tree: u32, parent: PageId, gone: ChildWord },
    /// C2: `root` is about to have the content of `gone`, its only child. `gone` has the epoch of
    /// the moved page.
    Collapsed { tree: u32, root: PageId, gone: ChildWord },
    /// M4: `parent` is about to have `new` in the place of `gone` and `with`, which have the epochs
    /// of the moved pages. `new` has what they held.
    Packed { tree: u32, parent: PageId, gone: ChildWord, with: Option<ChildWord>, new: ChildWord },
}

impl Event {
    /// How many pages it makes part of what may have to be durable together.
    fn growth(&self) -> u64 {
        match self {
            Self::Dirty { .. } | Self::Posted { .. } => 0,
            Self::Removed { .. } | Self::Collapsed { .. } => 1,
            Self::Split { .. } | Self::Packed { .. } => 2,
            Self::RootSplit { .. } => 3,
        }
    }
}

/// The events of one core, in the order in which it pushed them.
#[derive(Debug, Default)]
pub(in crate::store) struct Events {
    queue: Mutex<Vec<Event>>,
    growth: Option<Arc<Growth>>,
}

impl Events {
    /// A queue whose structure changes are counted.
    pub(in crate::store) fn counted(growth: Arc<Growth>) -> Self {
        Self { queue: Mutex::default(), growth: Some(growth) }
    }

    fn queue(&self) -> MutexGuard<'_, Vec<Event>> {
        // Nothing that panics runs under the lock, and a queue of events is whole at any time.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::store) fn push(&self, event: Event) {
        self.queue().push(event);
        if let Some(growth) = self.growth.as_ref().filter(|_| event.growth() > 0) {
            growth.grew(event.growth());
        }
    }

    /// Appends all events to `to`, the oldest first, and leaves none. What `to` had room for is
    /// the queue's room from then on if `to` was empty, so that draining allocates nothing.
    pub(in crate::store) fn drain(&self, to: &mut Vec<Event>) {
        let mut queue = self.queue();
        if to.is_empty() {
            std::mem::swap(&mut *queue, to);
        } else {
            to.append(&mut queue);
        }
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.queue().len()
    }
}

/// Where a core's events go.
#[derive(Clone, Debug, Default)]
pub(in crate::store) enum Sink {
    /// There is no keeper: events are dropped, and ids are released at once.
    #[default]
    Nobody,
    Keeper(Arc<Events>),
}

impl Sink {
    pub(in crate::store) fn has_keeper(&self) -> bool {
        matches!(self, Self::Keeper(_))
    }

    pub(in crate::store) fn push(&self, event: Event) {
        if let Self::Keeper(events) = self {
            events.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(id: u64) -> Event {
        Event::Split { tree: 1, page: PageId::of_test(id), new: ChildWord::of_numbers(id + 1, 0) }
    }

    #[test]
    fn events_come_out_once_and_in_order() {
        let events = Arc::new(Events::default());
        let sink = Sink::Keeper(Arc::clone(&events));
        let mut drained = Vec::new();
        events.drain(&mut drained);
        assert_eq!(drained, []);
        sink.push(split(20));
        sink.push(split(30));
        assert_eq!(events.len(), 2);
        events.drain(&mut drained);
        sink.push(split(40));
        events.drain(&mut drained);
        assert_eq!(drained, [split(20), split(30), split(40)]);
        assert_eq!(events.len(), 0);
        drained.clear();
        events.drain(&mut drained);
        assert_eq!(drained, []);
    }

    #[test]
    fn without_a_keeper_nothing_is_kept() {
        assert!(!Sink::Nobody.has_keeper());
        assert!(Sink::Keeper(Arc::default()).has_keeper());
        Sink::Nobody.push(split(20));
    }
}
