//! How tasks of several cores tell each other: a signal to one task, set by any core; an errand for
//! one; progress, which many wait for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Set or not; waiting for it takes it back.
#[derive(Debug, Default)]
pub(super) struct Signal {
    is_set: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    /// Sets it, and wakes who waits.
    pub(super) fn set(&self) {
        if self.is_set.swap(true, Ordering::AcqRel) {
            return;
        }
        let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Completes when it is set, and takes that back.
    pub(super) fn wait(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| {
            *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            // After the waker is there: who sets it meanwhile sees the waker, or is seen here.
            if self.is_set.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}

/// What a task in the background is asked to do, by any core, and how far it has come.
#[derive(Debug, Default)]
pub(super) struct Errand {
    /// There is something to do.
    asked: Signal,
    /// How often that was said, and of which of these times the task has done what it could.
    wanted: AtomicU64,
    done: AtomicU64,
}

impl Errand {
    /// There is something to do.
    pub(super) fn ask(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
        self.wake();
    }

    /// Makes the task look, though there is nothing new to do.
    pub(super) fn wake(&self) {
        self.asked.set();
    }

    /// For the task: completes when there is something to do, or it was woken.
    pub(super) fn asked(&self) -> impl Future<Output = ()> + '_ {
        self.asked.wait()
    }

    /// How often it was said so far that there is something to do.
    pub(super) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Acquire)
    }

    /// Nobody waits for what was said so often, or, if that is the largest number, for the task.
    pub(super) fn set_done(&self, wanted: u64) {
        self.done.fetch_max(wanted, Ordering::AcqRel);
    }

    pub(super) fn is_done(&self, wanted: u64) -> bool {
        self.done.load(Ordering::Acquire) >= wanted
    }

    /// Whether the task has not done yet what it can.
    pub(super) fn is_at_work(&self) -> bool {
        !self.is_done(self.wanted())
    }
}

/// Runs some futures beside each other until all have ended, or one has failed. They are few: each
/// time one is woken all are asked.
pub(super) async fn all<E>(
    futures: impl Iterator<Item = impl Future<Output = Result<(), E>>>,
) -> Result<(), E> {
    let mut running: Vec<Pin<Box<_>>> = futures.map(Box::pin).collect();
    poll_fn(|cx| {
        let mut failed = None;
        running.retain_mut(|future| match future.as_mut().poll(cx) {
            Poll::Pending => true,
            Poll::Ready(result) => {
                failed = failed.take().or(result.err());
                false
            }
        });
        match failed {
            Some(error) => Poll::Ready(Err(error)),
            None if running.is_empty() => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    })
    .await
}

/// A list of tasks that wait for something to move on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    state: Mutex<(u64, Vec<Waker>)>,
}

impl Progress {
    /// Something moved on: wakes all that wait.
    pub(super) fn tell(&self) {
        let woken = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 += 1;
            std::mem::take(&mut state.1)
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// The moment now: [`Progress::since`] waits for what is told after it.
    pub(super) fn now(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Completes once something was told after `moment`.
    pub(super) fn since(&self, moment: u64) -> impl Future<Output = ()> + '_ {
        poll_fn(move |cx| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.0 != moment {
                return Poll::Ready(());
            }
            if !state.1.iter().any(|waker| waker.will_wake(cx.waker())) {
                state.1.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }
}
