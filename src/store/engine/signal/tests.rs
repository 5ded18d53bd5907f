use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn poll(future: Pin<&mut impl Future<Output = ()>>, waker: &Waker) -> Poll<()> {
    future.poll(&mut Context::from_waker(waker))
}

/// How long this thread has run.
fn ran() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().expect("positive"), time.tv_nsec.try_into().expect("below 1e9"))
}

#[test]
fn what_is_told_wakes_all_that_wait_once() {
    let progress = Progress::default();
    let (woken, other) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
    let waker = Waker::from(Arc::clone(&woken));
    let moment = progress.now();
    let (mut first, mut second) = (pin!(progress.since(moment)), pin!(progress.since(moment)));
    assert!(poll(first.as_mut(), &waker).is_pending());
    assert!(poll(second.as_mut(), &waker).is_pending());
    // The last waker counts.
    assert!(poll(second.as_mut(), &Waker::from(Arc::clone(&other))).is_pending());
    progress.tell();
    assert_eq!((woken.times(), other.times()), (1, 1));
    assert!(poll(first.as_mut(), &waker).is_ready() && poll(second.as_mut(), &waker).is_ready());
    let mut late = pin!(progress.since(moment));
    assert!(poll(late.as_mut(), &waker).is_ready(), "it was told before");
}

#[test]
fn who_goes_leaves_the_place_to_the_next() {
    let progress = Progress::default();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let moment = progress.now();
    let mut stays = pin!(progress.since(moment));
    assert!(poll(stays.as_mut(), &waker).is_pending());
    for _ in 0..1000 {
        assert!(poll(pin!(progress.since(moment)), &waker).is_pending());
    }
    assert_eq!(progress.lock().wakers.len(), 2);
    let mut outlives = Box::pin(progress.since(moment));
    assert!(poll(outlives.as_mut(), &waker).is_pending());
    progress.tell();
    assert_eq!(woken.times(), 2, "nobody is woken who has gone");
    // Its place is another's now.
    let mut next = pin!(progress.since(progress.now()));
    assert!(poll(next.as_mut(), &waker).is_pending());
    drop(outlives);
    progress.tell();
    assert_eq!(woken.times(), 3);
}

/// If each compared itself with the others it would take seconds.
#[test]
fn thousands_that_wait_do_not_look_at_each_other() {
    const TASKS: usize = 10_000;
    let progress = Progress::default();
    let tasks: Vec<_> = (0..TASKS).map(|_| Arc::new(Woken::default())).collect();
    let wakers: Vec<_> = tasks.iter().map(|task| Waker::from(Arc::clone(task))).collect();
    let began = ran();
    for round in 1..=2 {
        let moment = progress.now();
        let mut waiting: Vec<_> = wakers.iter().map(|_| Box::pin(progress.since(moment))).collect();
        for _ in 0..2 {
            for (future, waker) in waiting.iter_mut().zip(&wakers) {
                assert!(poll(future.as_mut(), waker).is_pending());
            }
        }
        progress.tell();
        assert!(tasks.iter().all(|task| task.times() == round));
    }
    let took = ran() - began;
    assert!(took < Duration::from_secs(1), "{took:?} for {TASKS} tasks");
}
