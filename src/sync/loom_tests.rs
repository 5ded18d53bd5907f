//! Every interleaving of the mutex, of the condition variable and of the barrier between threads,
//! with loom.
//!
//! What the mutex guards is a cell of loom's, which notices an access that the lock does not order.
//! A wake-up that is lost leaves a thread parked forever, which loom reports as a deadlock.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread::{self, Thread};

use super::raw_mutex::MOST_LOST;
use super::{Barrier, Condvar, Mutex, MutexGuard};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: StdArc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(StdArc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

/// Polls `future` once, so that it waits if it has to.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

type Number = Mutex<UnsafeCell<u32>>;

fn number() -> Arc<Number> {
    Arc::new(Mutex::new(UnsafeCell::new(0)))
}

fn add_one(guard: &MutexGuard<'_, UnsafeCell<u32>>) {
    // SAFETY: the pointer is loom's own, and loom fails the model if somebody else uses it at the
    // same time.
    guard.with_mut(|number| unsafe { *number += 1 });
}

fn get(guard: &MutexGuard<'_, UnsafeCell<u32>>) -> u32 {
    // SAFETY: as above.
    guard.with(|number| unsafe { *number })
}

fn model(preemptions: usize, f: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(f);
}

/// Two threads take the lock twice each: it excludes, orders what they did, and wakes whoever
/// waits.
#[test]
fn a_mutex_excludes_and_wakes() {
    model(5, || {
        let mutex = number();
        let theirs = Arc::clone(&mutex);
        let work = |mutex: &Number| {
            for _ in 0..2 {
                let guard = block_on(mutex.lock());
                add_one(&guard);
            }
        };
        let other = thread::spawn(move || work(&theirs));
        work(&mutex);
        other.join().expect("no panic");
        assert_eq!(get(&mutex.try_lock().expect("free")), 4);
    });
}

/// Three threads, so that one waits while another one was told: it is not forgotten.
#[test]
fn who_waits_behind_another_is_woken_too() {
    model(3, || {
        let mutex = number();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let mutex = Arc::clone(&mutex);
                thread::spawn(move || add_one(&block_on(mutex.lock())))
            })
            .collect();
        add_one(&block_on(mutex.lock()));
        for other in others {
            other.join().expect("no panic");
        }
        assert_eq!(get(&mutex.try_lock().expect("free")), 3);
    });
}

/// A waiter is dropped while the lock is given up: what it was told goes to the one behind it.
#[test]
fn a_dropped_waiter_takes_no_wake_up_with_it() {
    model(5, || {
        let mutex = number();
        let theirs = Arc::clone(&mutex);
        let guard = block_on(mutex.lock());
        let other = thread::spawn(move || {
            {
                let mut dropped = pin!(theirs.lock());
                let _ = poll_once(dropped.as_mut()).map(|guard| add_one(&guard));
            }
            add_one(&block_on(theirs.lock()));
        });
        let behind = {
            let mutex = Arc::clone(&mutex);
            thread::spawn(move || add_one(&block_on(mutex.lock())))
        };
        add_one(&guard);
        drop(guard);
        other.join().expect("no panic");
        behind.join().expect("no panic");
        assert!(get(&mutex.try_lock().expect("free")) >= 3);
    });
}

/// A waiter that lost often enough is given the lock by its holder.
#[test]
fn a_waiter_that_insists_is_given_the_lock() {
    model(3, || {
        let mutex = number();
        let theirs = Arc::clone(&mutex);
        let mut waits = Box::pin(mutex.lock());
        let mut guard = mutex.try_lock().expect("free");
        assert!(poll_once(waits.as_mut()).is_pending());
        for _ in 0..MOST_LOST {
            drop(guard);
            guard = mutex.try_lock().expect("it was told to look and has not");
            assert!(poll_once(waits.as_mut()).is_pending());
        }
        let other = thread::spawn(move || add_one(&block_on(theirs.lock())));
        add_one(&guard);
        drop(guard);
        // One that only comes now has no other chance.
        let Poll::Ready(given) = poll_once(waits.as_mut()) else { panic!("it was not given the lock") };
        add_one(&given);
        drop(given);
        other.join().expect("no panic");
        assert_eq!(get(&mutex.try_lock().expect("free")), 3);
    });
}

/// The notifier changes the value under the lock: the waiter sees it before it waits, or is told.
#[test]
fn a_condition_variable_loses_no_notification() {
    model(5, || {
        let shared = Arc::new((Mutex::new(UnsafeCell::new(0)), Condvar::new()));
        let theirs = Arc::clone(&shared);
        let notifier = thread::spawn(move || {
            add_one(&block_on(theirs.0.lock()));
            // After the lock was given up.
            theirs.1.notify_one();
        });
        let guard = block_on(async {
            let mut guard = shared.0.lock().await;
            while get(&guard) == 0 {
                guard = shared.1.wait(guard).await;
            }
            guard
        });
        drop(guard);
        notifier.join().expect("no panic");
    });
}

/// A wait that is dropped while it is notified: the one behind it is told, or nobody was.
#[test]
fn a_dropped_wait_passes_its_notification_on() {
    model(3, || {
        let shared = Arc::new((number(), Condvar::new()));
        let wait = |shared: Arc<(Arc<Number>, Condvar)>| async move {
            let guard = shared.0.lock().await;
            drop(shared.1.wait(guard).await);
        };
        let mut dropped = Box::pin(wait(Arc::clone(&shared)));
        assert!(poll_once(dropped.as_mut()).is_pending());
        let theirs = Arc::clone(&shared);
        let notifier = thread::spawn(move || theirs.1.notify_one());
        let mut stays = Box::pin(wait(Arc::clone(&shared)));
        assert!(poll_once(stays.as_mut()).is_pending());
        drop(dropped);
        assert!(notifier.join().expect("no panic"), "somebody waited");
        assert!(poll_once(stays.as_mut()).is_ready(), "told in the other's stead");
    });
}

/// Two threads meet twice: nobody is left behind at the first meeting, and of each one is the
/// leader.
#[test]
fn all_who_meet_at_a_barrier_go_on() {
    model(3, || {
        let barrier = Arc::new(Barrier::new(2));
        let theirs = Arc::clone(&barrier);
        let meet = |barrier: &Barrier| [(); 2].map(|()| block_on(barrier.wait()).is_leader());
        let other = thread::spawn(move || meet(&theirs));
        let here = meet(&barrier);
        let there = other.join().expect("no panic");
        assert!(here.iter().zip(there).all(|(here, there)| *here != there), "{here:?} and {there:?}");
    });
}
