//! Intrusive lists of tasks: the ready ones of a queue, and all of a core.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::ptr::NonNull;

use super::{Header, QUEUED, TURN, TaskRef};

/// Links of a task in the registry of its core.
#[derive(Default)]
pub(super) struct Links {
    previous: Cell<Option<NonNull<Header>>>,
    next: Cell<Option<NonNull<Header>>>,
}

/// Tasks that are ready to run, in the order in which they were woken, and first the coroutine that has its turn there.
///
/// A task on it is marked as queued, is on it once, and is kept alive by its core's own reference, which is not given up
/// while the mark is set. After the last one comes the first: who is first and goes to the end only changes who is last.
#[derive(Default)]
pub(in crate::rt) struct ReadyList {
    tail: Cell<Option<NonNull<Header>>>,
    len: Cell<usize>,
}

impl ReadyList {
    /// How many are on it and do not run.
    pub(in crate::rt) fn len(&self) -> usize {
        let runs = self.first().is_some_and(|first| first.has(TURN));
        self.len.get() - usize::from(runs)
    }

    #[inline]
    pub(in crate::rt) fn is_empty(&self) -> bool {
        self.tail.get().is_none()
    }

    /// Appends a task that was just marked as queued.
    #[inline]
    pub(in crate::rt) fn push(&self, task: NonNull<Header>) {
        self.push_front(task);
        self.tail.set(Some(task));
    }

    /// Puts a task before all others that was just marked as queued.
    #[inline]
    pub(in crate::rt) fn push_front(&self, task: NonNull<Header>) {
        let first = if let Some(tail) = self.tail.get() {
            // SAFETY: a task on the list is alive (see the type).
            unsafe { tail.as_ref() }.next_ready.replace(task)
        } else {
            self.tail.set(Some(task));
            task
        };
        // SAFETY: a task that is about to be on the list is alive (see the type).
        unsafe { task.as_ref() }.next_ready.set(first);
        self.len.set(self.len.get() + 1);
    }

    /// The first task.
    #[inline]
    pub(in crate::rt) fn first(&self) -> Option<&Header> {
        // SAFETY: a task on the list is alive (see the type), for as long as it is on it. The callers look at it and let go.
        self.tail.get().map(|tail| unsafe { tail.as_ref().next_ready.get().as_ref() })
    }

    /// The coroutine that has its turn, and is the first therefore, goes to the end. Returns who is first then, which may be the same.
    #[inline]
    pub(in crate::rt) fn pass_on(&self, running: NonNull<Header>) -> NonNull<Header> {
        // SAFETY: a task on the list is alive (see the type).
        let header = unsafe { running.as_ref() };
        header.flags.set(QUEUED);
        self.tail.set(Some(running));
        header.next_ready.get()
    }

    /// Takes the task after `before` others, or the last. It is still marked as queued: the caller runs it or gives it up.
    pub(in crate::rt) fn take(&self, before: usize) -> Option<NonNull<Header>> {
        let last = self.tail.get()?;
        let mut previous = last;
        let before = before.min(self.len.get() - 1);
        for _ in 0..before {
            // SAFETY: a task on the list is alive (see the type).
            previous = unsafe { previous.as_ref() }.next_ready.get();
        }
        let task = self.take_after(previous);
        if task == last {
            self.tail.set((task != previous).then_some(previous));
        }
        Some(task)
    }

    /// Takes the first task. It is still marked as queued: the caller runs it or gives it up.
    #[inline]
    pub(in crate::rt) fn pop(&self) -> Option<NonNull<Header>> {
        let tail = self.tail.get()?;
        let task = self.take_after(tail);
        if task == tail {
            self.tail.set(None);
        }
        Some(task)
    }

    /// Takes the task after one on the list. The caller sees to it that the last one is known.
    #[inline]
    fn take_after(&self, previous: NonNull<Header>) -> NonNull<Header> {
        // SAFETY: a task on the list is alive (see the type).
        let previous = unsafe { previous.as_ref() };
        let task = previous.next_ready.get();
        // SAFETY: as above.
        previous.next_ready.set(unsafe { task.as_ref() }.next_ready.get());
        self.len.set(self.len.get() - 1);
        task
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
