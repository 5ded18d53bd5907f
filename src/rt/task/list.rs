//! Intrusive lists of tasks: the ready ones of a queue, and all of a core.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::ptr::NonNull;

use super::{Header, TaskRef};

/// Links of a task in the registry of its core.
#[derive(Default)]
pub(super) struct Links {
    previous: Cell<Option<NonNull<Header>>>,
    next: Cell<Option<NonNull<Header>>>,
}

/// Tasks that are ready to run, in the order in which they were woken.
///
/// A task on it is marked as queued, is on it once, and is kept alive by its core's own reference, which is not given up
/// while the mark is set.
#[derive(Default)]
pub(in crate::rt) struct ReadyList {
    head: Cell<Option<NonNull<Header>>>,
    tail: Cell<Option<NonNull<Header>>>,
    len: Cell<usize>,
}

impl ReadyList {
    pub(in crate::rt) fn len(&self) -> usize {
        self.len.get()
    }

    pub(in crate::rt) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    /// Appends a task that was just marked as queued.
    #[inline]
    pub(in crate::rt) fn push(&self, task: NonNull<Header>) {
        match self.tail.replace(Some(task)) {
            // SAFETY: a task on the list is alive (see the type).
            Some(tail) => unsafe { tail.as_ref() }.next_ready.set(Some(task)),
            None => self.head.set(Some(task)),
        }
        self.len.set(self.len.get() + 1);
    }

    /// The first task.
    #[inline]
    pub(in crate::rt) fn first(&self) -> Option<&Header> {
        // SAFETY: a task on the list is alive (see the type), for as long as it is on it. The callers look at it and let go.
        self.head.get().map(|task| unsafe { task.as_ref() })
    }

    /// Appends a task that was just marked as queued and takes the first one, which is the same if there is no other. `None` if the
    /// first one is no such task: then nothing is changed.
    #[inline]
    pub(in crate::rt) fn exchange_if(
        &self,
        task: NonNull<Header>,
        is_such: impl FnOnce(&Header) -> bool,
    ) -> Option<NonNull<Header>> {
        let Some(first) = self.head.get() else {
            // SAFETY: a task that is about to be on the list is alive (see the type).
            return is_such(unsafe { task.as_ref() }).then_some(task);
        };
        // SAFETY: a task on the list is alive (see the type).
        let header = unsafe { first.as_ref() };
        if !is_such(header) {
            return None;
        }
        // Of two that take turns, nothing is read that was just written.
        if let Some(next) = header.next_ready.get() {
            header.next_ready.set(None);
            self.head.set(Some(next));
            if let Some(tail) = self.tail.get() {
                // SAFETY: a task on the list is alive (see the type).
                unsafe { tail.as_ref() }.next_ready.set(Some(task));
            }
        } else {
            self.head.set(Some(task));
        }
        self.tail.set(Some(task));
        Some(first)
    }

    /// Takes the task after `before` others, or the last. It is still marked as queued: the caller runs it or gives it up.
    pub(in crate::rt) fn take(&self, before: usize) -> Option<NonNull<Header>> {
        let mut previous = self.head.get()?;
        if before == 0 || self.len.get() == 1 {
            return self.pop();
        }
        for _ in 1..before.min(self.len.get() - 1) {
            // SAFETY: a task on the list is alive (see the type).
            previous = unsafe { previous.as_ref() }.next_ready.get()?;
        }
        // SAFETY: as above.
        let previous_ref = unsafe { previous.as_ref() };
        let task = previous_ref.next_ready.get()?;
        // SAFETY: as above.
        let next = unsafe { task.as_ref() }.next_ready.take();
        previous_ref.next_ready.set(next);
        if next.is_none() {
            self.tail.set(Some(previous));
        }
        self.len.set(self.len.get() - 1);
        Some(task)
    }

    /// Takes the first task. It is still marked as queued: the caller runs it or gives it up.
    #[inline]
    pub(in crate::rt) fn pop(&self) -> Option<NonNull<Header>> {
        let task = self.head.get()?;
        // SAFETY: a task on the list is alive (see the type).
        let next = unsafe { task.as_ref() }.next_ready.take();
        self.head.set(next);
        if next.is_none() {
            self.tail.set(None);
        }
        self.len.set(self.len.get() - 1);
        Some(task)
    }
}

/// Every task of a core that has not ended. Holds the core's own reference to each.
#[derive(Default)]
pub(in crate::rt) struct Registry {
    /// The newest.
    head: Cell<Option<NonNull<Header>>>,
    /// The oldest.
    tail: Cell<Option<NonNull<Header>>>,
    len: Cell<usize>,
}

impl Registry {
    pub(in crate::rt) fn len(&self) -> usize {
        self.len.get()
    }

    /// Moves all tasks to a registry of their own.
    pub(in crate::rt) fn take_all(&self) -> Self {
        let (head, tail) = (Cell::new(self.head.take()), Cell::new(self.tail.take()));
        Self { head, tail, len: Cell::new(self.len.take()) }
    }

    /// Takes over the core's reference to a task.
    pub(in crate::rt) fn insert(&self, task: TaskRef) {
        let new = std::mem::ManuallyDrop::new(task).0;
        let head = self.head.replace(Some(new));
        if let Some(head) = head {
            // SAFETY: a task in the registry is alive by the reference that the registry holds.
            unsafe { head.as_ref() }.links.previous.set(Some(new));
        } else {
            self.tail.set(Some(new));
        }
        // SAFETY: the reference was just handed over.
        unsafe { new.as_ref() }.links.next.set(head);
        self.len.set(self.len.get() + 1);
    }

    /// Takes a task out. The core's reference to it is the caller's from here on.
    ///
    /// # Safety
    ///
    /// The task is in this registry.
    pub(super) unsafe fn remove(&self, task: NonNull<Header>) {
        // SAFETY: a task in the registry is alive by the reference that the registry holds.
        let links = &unsafe { task.as_ref() }.links;
        let (previous, next) = (links.previous.take(), links.next.take());
        match previous {
            // SAFETY: its neighbours are in the registry, so alive.
            Some(previous) => unsafe { previous.as_ref() }.links.next.set(next),
            None => self.head.set(next),
        }
        if let Some(next) = next {
            // SAFETY: as above.
            unsafe { next.as_ref() }.links.previous.set(previous);
        } else {
            self.tail.set(previous);
        }
        self.len.set(self.len.get() - 1);
    }

    /// The task that was spawned last, and is still in it.
    pub(in crate::rt) fn newest(&self) -> Option<TaskRef> {
        // SAFETY: a task in the registry is alive, and on its own core.
        self.head.get().map(|task| unsafe { TaskRef::borrow(task) })
    }

    /// Visits tasks from the newest or from the oldest on, until `visit` breaks. It spawns and ends none.
    pub(in crate::rt) fn for_each(
        &self,
        newest_first: bool,
        mut visit: impl FnMut(&Header) -> ControlFlow<()>,
    ) {
        let mut at = if newest_first { self.head.get() } else { self.tail.get() };
        while let Some(task) = at {
            // SAFETY: a task in the registry is alive by the reference that the registry holds.
            let header = unsafe { task.as_ref() };
            if visit(header).is_break() {
                break;
            }
            at = if newest_first { header.links.next.get() } else { header.links.previous.get() };
        }
    }
}
