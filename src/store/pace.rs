//! How the store's tasks let others run: waiting for one of two things, and turns between steps.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crate::rt;

/// Completes when either future does; the other is dropped.
pub(super) async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| {
        if a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Lets every other ready task run now and then while a task works through what it has in memory.
#[derive(Debug, Default)]
pub(super) struct Pace {
    steps: u32,
}

impl Pace {
    /// Some hundreds of nanoseconds to some microseconds of work are done each.
    const STEPS: u32 = 32;

    /// To be awaited between two steps.
    pub(super) async fn step(&mut self) {
        self.steps += 1;
        if self.steps == Self::STEPS {
            self.steps = 0;
            rt::yield_now().await;
        }
    }
}
