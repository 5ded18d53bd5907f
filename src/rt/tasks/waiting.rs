//! What the running task waits for, as the futures that it polls say.

use std::task::Poll;

use super::local;

/// What a timer notes. Any other note replaces it: a timeout says less than what it is for.
static TIMER: &str = "a timer";

/// Notes what the running task waits for, for the list of [tasks](crate::observe::tasks).
///
/// A future that returns `Pending` calls this, unless it is made of others that do. The first of
/// several notes in one poll counts, unless it is a timer's. The note lasts until the task's next
/// poll. Does nothing outside a task.
// Not inlined, so that the polls that call it are.
#[inline(never)]
pub fn waiting_for(what: &'static str) {
    note(|before| before.is_none_or(|before| std::ptr::eq(before, TIMER)).then_some(what));
}

/// Notes that the task waits for a timer.
#[inline]
pub(in crate::rt) fn waiting_for_a_timer() {
    note(|before| before.is_none().then_some(TIMER));
}

/// Notes what the task waits for if `poll` is pending.
#[inline]
pub(crate) fn noted<T>(what: &'static str, poll: Poll<T>) -> Poll<T> {
    if poll.is_pending() {
        waiting_for(what);
    }
    poll
}

/// The same for a future around one that noted `inner`.
#[inline]
pub(crate) fn noted_over<T>(inner: &'static str, what: &'static str, poll: Poll<T>) -> Poll<T> {
    if poll.is_pending() {
        note(|before| (before == Some(inner)).then_some(what));
    }
    poll
}

/// What the running task is noted to wait for, if that is not a timer.
#[inline]
pub(in crate::rt) fn awaited() -> Option<&'static str> {
    let mut awaited = None;
    note(|before| {
        awaited = before.filter(|before| !std::ptr::eq(*before, TIMER));
        None
    });
    awaited
}

/// Notes that the task waits for `what`, whatever was noted before.
#[inline]
pub(in crate::rt) fn waiting_for_this(what: &'static str) {
    note(|_| Some(what));
}

/// Replaces the note of the running task if `choose` says by what.
#[inline]
fn note(choose: impl FnOnce(Option<&'static str>) -> Option<&'static str>) {
    local::with(|core| {
        if let Some(core) = core {
            core.with_running(|task| {
                if let Some(task) = task
                    && let Some(what) = choose(task.waits_for())
                {
                    task.set_waits_for(what);
                }
            });
        }
    });
}
