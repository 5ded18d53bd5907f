//! Intrusive lists of tasks: the ready ones of a queue, and all of a core.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::ptr::NonNull;

use super::header::Header;
use super::reference::TaskRef;

/// Tasks that are ready to run, in the order in which they were woken, and first the coroutine that
/// has its turn there.
///
/// A task on it is marked as queued, is on it once, and is kept alive by its core's own reference,
/// which is not given up while the mark is set.
///
/// While a coroutine has its turn there, the first comes again after the last: to go to the end
/// only changes which ones are first and last. What is taken from the front otherwise leaves the
/// last as it is, which need not be read for that.
#[derive(Default)]
pub(in crate::rt) struct ReadyList {
    head: Cell<Option<NonNull<Header>>>,
    /// There is one as long as there is a first.
    tail: Cell<Option<NonNull<Header>>>,
    len: Cell<usize>,
}

impl ReadyList {
    /// How many are on it and do not run.
    pub(in crate::rt) fn len(&self) -> usize {
        // SAFETY: a task on the list is alive (see the type), and is only looked at.
        let runs = self.first().is_some_and(|first| unsafe { first.as_ref() }.state().is_in_turn());
        self.len.get() - usize::from(runs)
    }

    #[inline]
    pub(in crate::rt) fn is_empty(&self) -> bool {
        self.head.get().is_none()
    }

    /// Appends a task that was just marked as queued.
    #[inline]
    pub(in crate::rt) fn push(&self, task: NonNull<Header>) {
        if self.head.get().is_none() {
            self.head.set(Some(task));
        }
        // SAFETY: a task that is about to be on the list is alive (see the type).
        unsafe { task.as_ref() }.next_ready.set(self.head.get());
        if let Some(tail) = self.tail.replace(Some(task)) {
            // SAFETY: a task on the list is alive (see the type).
            unsafe { tail.as_ref() }.next_ready.set(Some(task));
        }
        self.len.set(self.len.get() + 1);
    }

    /// Puts a coroutine before all others that was just marked as one that has its turn.
    pub(in crate::rt) fn push_front(&self, task: NonNull<Header>) {
        let first = self.head.replace(Some(task)).unwrap_or(task);
        // SAFETY: a task that is about to be on the list is alive (see the type).
        unsafe { task.as_ref() }.next_ready.set(Some(first));
        if self.tail.get().is_none() {
            self.tail.set(Some(task));
        }
        self.len.set(self.len.get() + 1);
        self.close();
    }

    /// Has the first come again after the last.
    fn close(&self) {
        if let Some(tail) = self.tail.get() {
            // SAFETY: a task on the list is alive (see the type).
            unsafe { tail.as_ref() }.next_ready.set(self.head.get());
        }
    }

    /// The first task; as the pointer that came with it, which is one to the whole task and not to
    /// its header alone.
    #[inline]
    pub(in crate::rt) fn first(&self) -> Option<NonNull<Header>> {
        self.head.get()
    }

    /// Moves the coroutine that has its turn, and so is the first, to the end. Returns the one that
    /// is first then, which may be the same.
    ///
    /// # Safety
    ///
    /// `running` has its turn on this list.
    #[inline]
    pub(in crate::rt) unsafe fn pass_on(&self, running: NonNull<Header>) -> NonNull<Header> {
        // SAFETY: a task on the list is alive (see the type).
        let header = unsafe { running.as_ref() };
        header.state().pass_turn();
        self.tail.set(Some(running));
        let next = header.next_ready.get();
        self.head.set(next);
        // SAFETY: after each task but the last comes another, and after the last the first, as one
        // has its turn.
        unsafe { next.unwrap_unchecked() }
    }

    /// Takes the task after `before` others, or the last. It is still marked as queued: the caller
    /// runs it or gives it up.
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
        previous_ref.next_ready.set(unsafe { task.as_ref() }.next_ready.get());
        if self.tail.get() == Some(task) {
            self.tail.set(Some(previous));
        }
        self.len.set(self.len.get() - 1);
        Some(task)
    }

    /// Takes the first task. It is still marked as queued: the caller runs it or gives it up.
    #[inline]
    pub(in crate::rt) fn pop(&self) -> Option<NonNull<Header>> {
        let task = self.head.get()?;
        if self.tail.get() == Some(task) {
            self.head.set(None);
            self.tail.set(None);
        } else {
            // SAFETY: a task on the list is alive (see the type).
            self.head.set(unsafe { task.as_ref() }.next_ready.get());
        }
        self.len.set(self.len.get() - 1);
        Some(task)
    }

    /// Takes the first, which has its turn, while others that take turns are to go on.
    pub(in crate::rt) fn leave(&self) -> Option<NonNull<Header>> {
        let task = self.pop();
        self.close();
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

    /// Visits tasks from the newest or from the oldest on, until `visit` breaks. It spawns and ends
    /// none.
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
