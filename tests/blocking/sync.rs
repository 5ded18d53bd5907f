//! `boson::blocking::sync`: locks and channels between coroutines of one core, of several, and
//! plain threads.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use boson::blocking::sync::mpsc::{self, RecvTimeoutError, TryRecvError, TrySendError};
use boson::blocking::sync::{Arc, Barrier, Condvar, Mutex, RwLock, TryLockError};
use boson::rt::{Core, CoreConfig};
use boson::thread;

fn run<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("io_uring is usable");
    match thread::try_run_on(&core, f).expect("the ring works") {
        Ok(output) => output,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Runs `f` on two cores, as several coroutines each, and on two plain threads, all at once.
fn everywhere(f: impl Fn() + Send + Clone + 'static) {
    let mut threads = Vec::new();
    for _ in 0..2 {
        let f = f.clone();
        threads.push(std::thread::spawn(move || {
            run(move || {
                let handles: Vec<_> = (0..5).map(|_| thread::spawn(f.clone())).collect();
                handles.into_iter().for_each(|handle| handle.join().expect("no panic"));
            });
        }));
    }
    threads.extend((0..2).map(|_| std::thread::spawn(f.clone())));
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

const EVERYWHERE: usize = 12;

#[test]
fn a_mutex_excludes_across_waits_cores_and_threads() {
    let total = Arc::new(Mutex::new(0_u32));
    let shared = Arc::clone(&total);
    everywhere(move || {
        for _ in 0..200 {
            let mut total = shared.lock().expect("not poisoned");
            let before = *total;
            // Held while others run.
            thread::yield_now();
            *total = before + 1;
        }
    });
    assert_eq!(*total.lock().expect("not poisoned"), 200 * u32::try_from(EVERYWHERE).expect("a few"));
}

#[test]
fn a_panic_with_the_guard_poisons() {
    run(|| {
        let mutex = Arc::new(Mutex::new(1));
        let poisoner = Arc::clone(&mutex);
        let panicked = thread::spawn(move || {
            let _guard = poisoner.lock().expect("not poisoned");
            panic!("with the guard");
        });
        assert!(panicked.join().is_err());
        assert!(mutex.is_poisoned());
        assert_eq!(*mutex.lock().expect_err("poisoned").into_inner(), 1);
        assert!(matches!(mutex.try_lock(), Err(TryLockError::Poisoned(_))));
        mutex.clear_poison();
        let guard = mutex.lock().expect("no longer");
        assert!(matches!(mutex.try_lock(), Err(TryLockError::WouldBlock)));
        drop(guard);
        assert_eq!(Arc::into_inner(mutex).expect("the last").into_inner().expect("not poisoned"), 1);
    });
}

#[test]
fn a_panic_that_another_coroutine_is_suspended_in_does_not_poison() {
    struct Sleeps;
    impl Drop for Sleeps {
        fn drop(&mut self) {
            thread::sleep(Duration::from_millis(20));
        }
    }
    run(|| {
        let locks = Rc::new((Mutex::new(()), RwLock::new(())));
        let locks_there = Rc::clone(&locks);
        let bystander = thread::spawn(move || {
            let guards = (locks_there.0.lock(), locks_there.1.write());
            // The other one panics meanwhile.
            thread::yield_now();
            thread::yield_now();
            assert!(thread::panicking(), "for the whole thread");
            drop(guards);
            thread::park();
        });
        thread::yield_now();
        let own = Rc::new(Mutex::new(()));
        let own_there = Rc::clone(&own);
        let panics = thread::spawn(move || {
            let _guard = own_there.lock();
            let _sleeps = Sleeps;
            panic!("with something to clean up");
        });
        assert!(panics.join().is_err());
        assert!(!locks.0.is_poisoned());
        assert!(!locks.1.is_poisoned());
        assert!(own.is_poisoned(), "its own guard was dropped after it had waited");
        bystander.cancel();
        assert!(bystander.join().expect_err("it was cancelled").is::<boson::rt::JoinError>());
    });
}

#[test]
fn cancelling_with_the_guard_poisons() {
    run(|| {
        let mutex = Rc::new(Mutex::new(()));
        let there = Rc::clone(&mutex);
        let holder = thread::spawn(move || {
            let _guard = there.lock().expect("not poisoned");
            thread::park();
        });
        thread::yield_now();
        holder.cancel();
        assert!(holder.join().is_err());
        assert!(mutex.is_poisoned());
    });
}

#[test]
fn a_cancelled_waiter_leaves_its_place() {
    run(|| {
        let mutex = Arc::new(Mutex::new(()));
        let guard = mutex.lock().expect("not poisoned");
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let mutex = Arc::clone(&mutex);
                thread::spawn(move || drop(mutex.lock().expect("not poisoned")))
            })
            .collect();
        thread::yield_now();
        waiters[0].cancel();
        drop(guard);
        let ended: Vec<bool> = waiters.into_iter().map(|waiter| waiter.join().is_ok()).collect();
        assert_eq!(ended, [false, true, true]);
        assert!(mutex.try_lock().is_ok());
    });
}

#[test]
fn readers_share_and_writers_do_not() {
    run(|| {
        let lock = Arc::new(RwLock::new(1));
        let one = lock.read().expect("not poisoned");
        let two = lock.read().expect("not poisoned");
        assert!(lock.try_write().is_err());
        let other = Arc::clone(&lock);
        let writer = thread::spawn(move || *other.write().expect("not poisoned") += 1);
        thread::yield_now();
        assert!(!writer.is_finished() && lock.try_read().is_err(), "a writer waits: it is next");
        drop((one, two));
        writer.join().expect("no panic");
        assert_eq!(*lock.read().expect("not poisoned"), 2);
    });
}

#[test]
fn a_condition_is_waited_for() {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let counted = Arc::clone(&shared);
    everywhere(move || {
        let (count, changed) = &*counted;
        *count.lock().expect("not poisoned") += 1;
        changed.notify_all();
        let all = changed.wait_while(count.lock().expect("not poisoned"), |count| *count < EVERYWHERE);
        assert_eq!(*all.expect("not poisoned"), EVERYWHERE);
    });
    run(move || {
        let (count, changed) = &*shared;
        let guard = count.lock().expect("not poisoned");
        let (guard, result) = changed.wait_timeout(guard, Duration::from_millis(2)).expect("not poisoned");
        assert!(result.timed_out() && *guard == EVERYWHERE);
    });
}

#[test]
fn a_notification_for_nobody_is_lost() {
    run(|| {
        let (mutex, changed) = (Mutex::new(()), Condvar::new());
        changed.notify_one();
        changed.notify_all();
        let guard = mutex.lock().expect("not poisoned");
        let waited = changed.wait_timeout(guard, Duration::from_millis(2)).expect("not poisoned");
        assert!(waited.1.timed_out(), "as with std, it is not kept for who comes later");
    });
}

#[test]
fn a_timed_wait_that_is_notified_in_time_is_not_late_for_having_to_wait_for_the_mutex() {
    run(|| {
        let shared = Rc::new((Mutex::new(false), Condvar::new()));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let shared = Rc::clone(&shared);
                thread::spawn(move || {
                    let guard = shared.0.lock().expect("not poisoned");
                    let waited = shared.1.wait_timeout(guard, Duration::from_millis(50));
                    let (guard, result) = waited.expect("not poisoned");
                    (*guard, result.timed_out())
                })
            })
            .collect();
        // Both wait.
        thread::yield_now();
        thread::yield_now();
        let mut guard = shared.0.lock().expect("not poisoned");
        *guard = true;
        shared.1.notify_one();
        // Beyond their time, and the one that was notified needs the mutex.
        thread::sleep(Duration::from_millis(100));
        drop(guard);
        let results: Vec<_> = waiters.into_iter().map(|waiter| waiter.join().expect("no panic")).collect();
        assert_eq!(results, [(true, false), (true, true)], "one was notified, and the other was not");
    });
}

#[test]
fn a_notification_for_a_coroutine_that_is_cancelled_goes_to_the_next() {
    run(|| {
        let shared = Arc::new((Mutex::new(()), Condvar::new()));
        let waiters: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    let (mutex, changed) = &*shared;
                    drop(changed.wait(mutex.lock().expect("not poisoned")));
                })
            })
            .collect();
        thread::yield_now();
        shared.1.notify_one();
        waiters[0].cancel();
        let ended: Vec<bool> = waiters.into_iter().map(|waiter| waiter.join().is_ok()).collect();
        assert_eq!(ended, [false, true]);
    });
}

#[test]
fn a_barrier_lets_all_go_at_once_and_has_one_leader() {
    let barrier = Arc::new(Barrier::new(EVERYWHERE));
    let leaders = Arc::new(Mutex::new(0));
    let count = Arc::clone(&leaders);
    everywhere(move || {
        if barrier.wait().is_leader() {
            *count.lock().expect("not poisoned") += 1;
        }
    });
    assert_eq!(*leaders.lock().expect("not poisoned"), 1);
}

#[test]
fn channels_carry_everything_between_everyone() {
    let (sender, receiver) = mpsc::channel();
    let (bounded, from_bounded) = mpsc::sync_channel(2);
    let reader = std::thread::spawn(move || {
        run(move || {
            let bounded = thread::spawn(move || from_bounded.iter().count());
            let sum: u32 = receiver.iter().sum();
            (sum, bounded.join().expect("no panic"))
        })
    });
    everywhere(move || {
        for number in 0..100 {
            sender.send(number).expect("it is received");
            bounded.send(number).expect("it is received");
        }
    });
    let everywhere = u32::try_from(EVERYWHERE).expect("a few");
    assert_eq!(reader.join().expect("no panic"), (4950 * everywhere, 100 * EVERYWHERE));
}

#[test]
fn channels_end_fill_up_and_time_out() {
    run(|| {
        let (sender, receiver) = mpsc::sync_channel(1);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(Duration::from_millis(2)), Err(RecvTimeoutError::Timeout));
        sender.send(1).expect("there is room");
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        let sent = Rc::new(Cell::new(false));
        let flag = Rc::clone(&sent);
        let blocked = thread::spawn(move || {
            sender.send(3).expect("it is received");
            flag.set(true);
        });
        thread::yield_now();
        assert!(!sent.get());
        assert_eq!((receiver.recv(), receiver.recv()), (Ok(1), Ok(3)));
        blocked.join().expect("no panic");
        assert!(receiver.recv().is_err() && receiver.try_recv() == Err(TryRecvError::Disconnected));
        let (sender, receiver) = mpsc::channel();
        drop(receiver);
        assert_eq!(sender.send(4).expect_err("nobody receives").0, 4);
    });
}

#[test]
fn timed_waits_end_on_plain_threads_too() {
    let timed = || {
        let mutex = Mutex::new(0);
        let condvar = Condvar::new();
        let short = Duration::from_millis(20);
        let started = std::time::Instant::now();
        let (guard, result) =
            condvar.wait_timeout(mutex.lock().expect("not poisoned"), short).expect("not poisoned");
        assert!(result.timed_out());
        let waited = condvar.wait_timeout_while(guard, short, |value| *value == 0);
        let (guard, result) = waited.expect("not poisoned");
        assert!(result.timed_out() && *guard == 0);
        let waited = condvar.wait_timeout_while(guard, Duration::ZERO, |value| *value == 1);
        assert!(!waited.expect("not poisoned").1.timed_out(), "it need not wait");
        let (sender, receiver) = mpsc::channel();
        assert_eq!(receiver.recv_timeout(short), Err(RecvTimeoutError::Timeout));
        assert!(started.elapsed() >= 3 * short);
        sender.send(1).expect("somebody receives");
        assert_eq!(receiver.recv_timeout(short), Ok(1));
        drop(sender);
        assert_eq!(receiver.recv_timeout(short), Err(RecvTimeoutError::Disconnected));
    };
    timed();
    run(timed);
}

#[test]
fn a_timed_wait_for_a_condition_ends_when_it_no_longer_holds() {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let other = Arc::clone(&shared);
    let changer = std::thread::spawn(move || {
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(2));
            *other.0.lock().expect("not poisoned") += 1;
            other.1.notify_all();
        }
    });
    let long = Duration::from_secs(20);
    let wait = move |shared: &(Mutex<u32>, Condvar)| {
        let guard = shared.0.lock().expect("not poisoned");
        let (guard, result) =
            shared.1.wait_timeout_while(guard, long, |count| *count < 3).expect("not poisoned");
        assert!(!result.timed_out());
        assert_eq!(*guard, 3);
    };
    wait(&shared);
    let in_core = Arc::clone(&shared);
    run(move || wait(&in_core));
    changer.join().expect("no panic");

    let poisoned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let guard = shared.0.lock().expect("not poisoned");
        shared.1.wait_timeout_while(guard, long, |_| panic!("with the lock")).is_ok()
    }));
    assert!(poisoned.is_err() && shared.0.is_poisoned());
}

#[test]
fn what_std_has_besides_is_there() {
    let mut lock = RwLock::from(1);
    *lock.get_mut().expect("not poisoned") += 1;
    assert_eq!(lock.read().expect("not poisoned").to_string(), "2");
    let guard = lock.write().expect("not poisoned");
    assert_eq!(guard.to_string(), "2");
    let guard = boson::blocking::sync::RwLockWriteGuard::downgrade(guard);
    assert!(lock.try_read().is_ok() && lock.try_write().is_err());
    drop(guard);
    assert_eq!(Mutex::new("shown").lock().expect("not poisoned").to_string(), "shown");
    let (sender, receiver) = mpsc::sync_channel(3);
    sender.send(1).expect("room");
    sender.send(2).expect("room");
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(receiver.try_iter().next(), None);
}

#[test]
fn a_barrier_does_not_count_a_cancelled_coroutine() {
    let both = run(|| {
        let barrier = Arc::new(Barrier::new(2));
        let comes = || {
            let barrier = Arc::clone(&barrier);
            thread::spawn(move || barrier.wait().is_leader())
        };
        let gives_up = comes();
        thread::yield_now();
        gives_up.cancel();
        assert!(gives_up.join().is_err());
        let first = comes();
        thread::sleep(Duration::from_millis(1));
        assert!(!first.is_finished(), "nobody else is there");
        let leads = barrier.wait().is_leader();
        (first.join().expect("no panic"), leads)
    });
    assert_eq!(both, (false, true));
}

#[test]
fn a_wait_whose_condition_no_longer_holds_when_its_time_is_up_has_not_timed_out() {
    run(|| {
        let shared = Arc::new((Mutex::new(true), Condvar::new()));
        let changes = Arc::clone(&shared);
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(1));
            // And tells nobody.
            *changes.0.lock().expect("not poisoned") = false;
        });
        let wait = |limit, holds: fn(&mut bool) -> bool| {
            let guard = shared.0.lock().expect("not poisoned");
            shared.1.wait_timeout_while(guard, limit, holds).expect("not poisoned").1.timed_out()
        };
        assert!(!wait(Duration::from_millis(20), |changed| *changed));
        assert!(wait(Duration::from_millis(1), |_| true));
    });
}
