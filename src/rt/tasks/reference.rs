//! References to a task on its own core.

use std::ptr::NonNull;

use super::header::Header;

/// An owned reference to a task, on its own core.
pub(in crate::rt) struct TaskRef(pub(super) NonNull<Header>);

impl TaskRef {
    /// Another reference to a task.
    ///
    /// # Safety
    ///
    /// The task is alive, and this is the thread of its core.
    pub(in crate::rt) unsafe fn borrow(task: NonNull<Header>) -> Self {
        // SAFETY: alive by the caller's word.
        let references = unsafe { &task.as_ref().references };
        references.set(references.get() + 1);
        Self(task)
    }

    #[inline]
    pub(in crate::rt) fn header(&self) -> &Header {
        // SAFETY: this reference is counted, so the task is not freed while `self` lives.
        unsafe { self.0.as_ref() }
    }

    pub(in crate::rt) fn has_ended(&self) -> bool {
        self.header().state.has_ended()
    }

    pub(in crate::rt) fn as_ptr(&self) -> NonNull<Header> {
        self.0
    }

    /// What the wakers of the task point to.
    pub(in crate::rt) fn as_waker_data(&self) -> *const () {
        self.0.as_ptr().cast_const().cast()
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        let header = self.header();
        let left = header.references.get() - 1;
        header.references.set(left);
        if header.node.is_unreferenced(left) {
            // SAFETY: a `TaskRef` exists only while the core does, which keeps its inbox alive.
            let inbox = unsafe { &*header.inbox };
            // SAFETY: no reference is left, here or elsewhere, and no other thread is about to list
            // the node.
            unsafe { (header.vtable.free)(self.0) };
            inbox.task_freed();
        }
    }
}
