//! How tasks of several cores tell each other: a signal to one task, set by any core; an errand for
//! one; progress, which many wait for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

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

/// A list of tasks that wait for something to move on. There may be thousands: each has a place of
/// its own in it, so that none looks at the others.
#[derive(Debug, Default)]
pub(super) struct Progress {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// How often something was told.
    moment: u64,
    /// Those that wait for what is told after this moment.
    wakers: Vec<Option<Waker>>,
    /// Places in that list that were left.
    left: Vec<usize>,
}

impl Progress {
    /// Something moved on: wakes all that wait.
    pub(super) fn tell(&self) {
        let woken = {
            let mut waiting = self.lock();
            waiting.moment += 1;
            waiting.left.clear();
            std::mem::take(&mut waiting.wakers)
        };
        woken.into_iter().flatten().for_each(Waker::wake);
    }

    /// The moment now: [`Progress::since`] waits for what is told after it.
    pub(super) fn now(&self) -> u64 {
        self.lock().moment
    }

    /// Completes once something was told after `moment`.
    pub(super) fn since(&self, moment: u64) -> Since<'_> {
        Since { progress: self, moment, place: None }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Progress::since`].
#[derive(Debug)]
pub(super) struct Since<'p> {
    progress: &'p Progress,
    moment: u64,
    /// Where its waker is, as long as nothing is told after its moment.
    place: Option<usize>,
}

impl Future for Since<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let (progress, mine) = (self.progress, cx.waker().clone());
        let mut waiting = progress.lock();
        if waiting.moment != self.moment {
            return Poll::Ready(());
        }
        let Waiting { wakers, left, .. } = &mut *waiting;
        let place = *self.place.get_or_insert_with(|| {
            left.pop().unwrap_or_else(|| {
                wakers.push(None);
                wakers.len() - 1
            })
        });
        let old = wakers[place].replace(mine);
        drop(waiting);
        // Not under the lock: it may be the last of a task that waits, too.
        drop(old);
        Poll::Pending
    }
}

impl Drop for Since<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else { return };
        let mut waiting = self.progress.lock();
        if waiting.moment == self.moment {
            let waker = waiting.wakers[place].take();
            waiting.left.push(place);
            drop(waiting);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests;
