//! A `tracing` span for every task, when somebody asks for it.
//!
//! A task whose span is wanted is wrapped when it is spawned; every other one is not, so that a
//! poll costs nothing for this, and a spawn one relaxed load.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Span, debug_span, field};

use super::scheduler::{CoreState, in_core, with_core};
use super::tasks::JoinHandle;

/// Spawns a task on the current core, for its function `caller`. `queue` chooses the task queue.
///
/// A subscriber that asks for target `boson::task` at level debug gets a span `task` with `name`,
/// `id` and `created_at`; it is entered for each poll and while the future is dropped, so that log
/// lines of the task carry it.
#[track_caller]
#[inline]
pub(super) fn spawn<F: Future + 'static>(
    caller: &'static str,
    queue: impl FnOnce(&Rc<CoreState>) -> u8,
    name: Option<&'static str>,
    created_at: &'static Location<'static>,
    future: F,
) -> JoinHandle<F::Output> {
    let span = if LevelFilter::current() >= Level::DEBUG { span(name, created_at) } else { None };
    let Some(span) = span else {
        return in_core(caller, |core| core.spawn(queue(core), name, created_at, future));
    };
    // The subscriber is user code: it runs before and after, not inside of `in_core`.
    let traced = Traced { span: span.clone(), future: Some(Box::pin(future)) };
    let handle = in_core(caller, |core| core.spawn(queue(core), name, created_at, traced));
    span.record("id", handle.id());
    handle
}

#[cold]
fn span(name: Option<&'static str>, created_at: &'static Location<'static>) -> Option<Span> {
    let place;
    let name = match name {
        Some(name) => name,
        None => {
            place = created_at.to_string();
            &place
        }
    };
    let span = debug_span!(target: "boson::task", parent: None, "task", name, id = field::Empty, %created_at);
    (!span.is_disabled()).then_some(span)
}

/// A future inside of a span.
///
/// Boxed, so that there is one of these for each type of result and not for each future.
struct Traced<T> {
    span: Span,
    /// `None` while this is dropped.
    future: Option<Pin<Box<dyn Future<Output = T>>>>,
}

impl<T> Future for Traced<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Self { span, future } = &mut *self;
        let _entered = span.enter();
        match future {
            Some(future) => {
                let polled = future.as_mut().poll(cx);
                // Also of a coroutine: entering a span is more than a switch of stacks.
                with_core(|core| core.set_running_coroutine(None));
                polled
            }
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for Traced<T> {
    fn drop(&mut self) {
        let _entered = self.span.enter();
        drop(self.future.take());
    }
}
