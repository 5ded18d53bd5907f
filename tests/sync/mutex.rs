//! The mutex between threads: who gets it, that nobody starves, what a dropped wait leaves behind,
//! and that waiting allocates nothing.

use crate::counting;
use crate::support::hooked_waker;
use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use boson::rt::{self, Core, CoreConfig};
use boson::sync::{Condvar, MappedMutexGuard, Mutex, MutexGuard, MutexLock, OwnedMutexGuard};
use hooked_waker::Hook;
use proptest::prelude::*;

/// How often a waiter may be overtaken after it was told, as `Mutex` documents.
const OVERTAKEN: usize = 4;

type Waiting<'a, T> = Pin<Box<MutexLock<'a, T>>>;

fn config() -> CoreConfig {
    CoreConfig::default().seed([7; 32])
}

fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn locked<'a, T>(waiting: &mut Waiting<'a, T>) -> MutexGuard<'a, T> {
    match poll(waiting) {
        Poll::Ready(guard) => guard,
        Poll::Pending => panic!("it has to wait"),
    }
}

#[test]
fn who_comes_takes_a_free_lock_and_who_was_overtaken_is_given_it() {
    let mutex = Mutex::new(());
    let hook = Hook::new();
    let mut guard = mutex.try_lock().expect("free");
    let mut first = Box::pin(mutex.lock());
    assert!(hook.poll(&mut first).is_pending());
    let mut second = Box::pin(mutex.lock());
    assert!(poll(&mut second).is_pending());
    for _ in 0..OVERTAKEN {
        drop(guard);
        assert_eq!(hook.take_wakes(), 1, "it is told to look");
        guard = mutex.try_lock().expect("it has not looked yet");
        assert!(hook.poll(&mut first).is_pending());
    }
    drop(guard);
    assert_eq!(hook.take_wakes(), 1);
    assert!(mutex.try_lock().is_err(), "given to the first");
    let guard = locked(&mut first);
    drop(guard);
    drop(locked(&mut second));
    assert!(mutex.try_lock().is_ok());
}

#[test]
fn one_that_was_told_and_not_yet_run_does_not_slow_the_others_down() {
    let mutex = Mutex::new(());
    let hook = Hook::new();
    let guard = mutex.try_lock().expect("free");
    let mut waits = Box::pin(mutex.lock());
    assert!(hook.poll(&mut waits).is_pending());
    drop(guard);
    for _ in 0..1000 {
        drop(mutex.try_lock().expect("free"));
    }
    assert_eq!(hook.take_wakes(), 1);
    assert!(hook.poll(&mut waits).is_ready());
}

#[test]
fn a_dropped_wait_hands_on_what_it_was_told_or_given() {
    // Dropped before it is told, after it was told, and after it was given the lock.
    for overtaken in [None, Some(0), Some(OVERTAKEN)] {
        let mutex = Mutex::new(());
        let mut guard = mutex.try_lock().expect("free");
        let mut first = Box::pin(mutex.lock());
        assert!(poll(&mut first).is_pending());
        let hook = Hook::new();
        let mut second = Box::pin(mutex.lock());
        assert!(hook.poll(&mut second).is_pending());
        let Some(overtaken) = overtaken else {
            drop(first);
            drop(guard);
            assert_eq!(hook.take_wakes(), 1);
            drop(locked(&mut second));
            continue;
        };
        for _ in 0..overtaken {
            drop(guard);
            guard = mutex.try_lock().expect("not looked yet");
            assert!(poll(&mut first).is_pending());
        }
        drop(guard);
        assert_eq!(hook.take_wakes(), 0);
        drop(first);
        assert_eq!(hook.take_wakes(), 1, "overtaken {overtaken} times");
        drop(locked(&mut second));
        assert!(mutex.try_lock().is_ok());
    }
}

#[test]
fn a_told_wait_that_is_dropped_while_the_lock_is_held_is_made_up_for_when_it_is_given_up() {
    let mutex = Mutex::new(());
    let hook = Hook::new();
    let guard = mutex.try_lock().expect("free");
    let (mut first, mut second) = (Box::pin(mutex.lock()), Box::pin(mutex.lock()));
    assert!(poll(&mut first).is_pending() && hook.poll(&mut second).is_pending());
    drop(guard);
    let guard = mutex.try_lock().expect("not looked yet");
    drop(first);
    assert_eq!(hook.take_wakes(), 0, "there is nothing to be had");
    drop(guard);
    assert_eq!(hook.take_wakes(), 1);
}

#[test]
fn wakers_may_use_the_mutex_that_wakes_clones_and_drops_them() {
    let mutex: &'static Mutex<()> = Box::leak(Box::new(Mutex::new(())));
    let ran = std::rc::Rc::new(std::cell::Cell::new(0));
    let action = || -> Option<Box<dyn FnOnce()>> {
        let ran = std::rc::Rc::clone(&ran);
        Some(Box::new(move || {
            drop(mutex.try_lock());
            let _ = poll(&mut Box::pin(mutex.lock()));
            ran.set(ran.get() + 1);
        }))
    };
    let hook = Hook::new();
    let guard = mutex.try_lock().expect("free");
    let mut waits = Box::pin(mutex.lock());
    hook.on_clone.replace(action());
    assert!(hook.poll(&mut waits).is_pending());
    // Another waker takes its place.
    hook.on_drop.replace(action());
    assert!(poll(&mut waits).is_pending());
    hook.on_clone.replace(action());
    assert!(hook.poll(&mut waits).is_pending());
    hook.on_wake.replace(action());
    drop(guard);
    // It was told by now; and what is dropped as one that waits gives its waker back.
    let guard = mutex.try_lock().expect("free");
    assert!(hook.poll(&mut waits).is_pending());
    hook.on_drop.replace(action());
    drop(waits);
    drop(guard);
    assert_eq!(ran.get(), 5);
    assert!(mutex.try_lock().is_ok());
}

#[test]
fn a_waker_that_panics_when_it_is_cloned_loses_no_wake_up() {
    let mutex: &'static Mutex<()> = Box::leak(Box::new(Mutex::new(())));
    let (hook, behind) = (Hook::new(), Hook::new());
    let guard = mutex.try_lock().expect("free");
    let (mut first, mut second) = (Box::pin(mutex.lock()), Box::pin(mutex.lock()));
    assert!(hook.poll(&mut first).is_pending() && behind.poll(&mut second).is_pending());
    drop(guard);
    let guard = mutex.try_lock().expect("not looked yet");
    hook.on_clone.replace(Some(Box::new(|| panic!("cloned"))));
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| hook.poll(&mut first).is_ready()));
    assert!(panicked.is_err());
    drop(guard);
    drop(first);
    assert_eq!(behind.take_wakes(), 1);
    drop(locked(&mut second));
}

/// Drops a future of which the waker panics when it is dropped.
fn drop_with_panicking_waker<F: Future>(hook: &'static Hook, waits: Pin<Box<F>>) {
    hook.on_drop.replace(Some(Box::new(|| panic!("dropped"))));
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(waits)));
    assert!(hook.on_drop.borrow().is_none(), "the waker was dropped");
}

#[test]
fn a_waker_that_panics_when_it_is_dropped_takes_nobody_else_out_of_the_queue() {
    let mutex: &'static Mutex<()> = Box::leak(Box::new(Mutex::new(())));
    let guard = mutex.try_lock().expect("free");
    let hooks: Vec<&Hook> = (0..4).map(|_| Hook::new()).collect();
    let mut waits: Vec<_> = (0..4).map(|_| Box::pin(mutex.lock())).collect();
    for (wait, hook) in waits.iter_mut().zip(&hooks) {
        assert!(hook.poll(wait).is_pending());
    }
    // In the middle, and then the first one.
    drop_with_panicking_waker(hooks[1], waits.remove(1));
    drop_with_panicking_waker(hooks[0], waits.remove(0));
    drop(guard);
    assert_eq!(hooks[2].take_wakes(), 1, "the next one is told");
    drop(locked(&mut waits[0]));
    assert_eq!(hooks[3].take_wakes(), 1, "and the one after it");
    drop(locked(&mut waits[1]));
    assert!(mutex.try_lock().is_ok());
}

#[test]
fn a_waker_that_panics_when_it_is_dropped_takes_no_lock_with_it() {
    let mutex: &'static Mutex<()> = Box::leak(Box::new(Mutex::new(())));
    let hook = Hook::new();
    let guard = mutex.try_lock().expect("free");
    // It finds the lock held, and free when it is about to wait: then it does not need the waker
    // any more.
    hook.on_clone.replace(Some(Box::new(move || drop(guard))));
    hook.on_drop.replace(Some(Box::new(|| panic!("dropped"))));
    let mut waits = Box::pin(mutex.lock());
    let polled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(hook.poll(&mut waits))));
    assert!(hook.on_drop.borrow().is_none(), "the waker was dropped");
    drop((polled, waits));
    assert!(mutex.try_lock().is_ok(), "nobody has it");
}

#[test]
fn a_waker_that_panics_while_a_panic_gives_up_the_lock_does_not_end_the_process() {
    let (mutex, condvar) = (Mutex::new(()), Condvar::new());
    let hook = Hook::new();
    let guard = mutex.try_lock().expect("free");
    let mut waits = Box::pin(mutex.lock());
    assert!(hook.poll(&mut waits).is_pending());
    hook.on_wake.replace(Some(Box::new(|| panic!("woken"))));
    let holder = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _guard = guard;
        panic!("with the lock");
    }));
    assert_eq!(holder.expect_err("it panics").downcast_ref(), Some(&"with the lock"));
    assert_eq!(hook.take_wakes(), 1);
    drop(locked(&mut waits));
    // The same of a notification that is passed on.
    let mut told = Box::pin(async { drop(condvar.wait(mutex.lock().await).await) });
    let mut next = Box::pin(async { drop(condvar.wait(mutex.lock().await).await) });
    assert!(poll(&mut told).is_pending() && hook.poll(&mut next).is_pending());
    assert!(condvar.notify_one());
    hook.on_wake.replace(Some(Box::new(|| panic!("woken"))));
    let owner = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _told = told;
        panic!("with a wait");
    }));
    assert_eq!(owner.expect_err("it panics").downcast_ref(), Some(&"with a wait"));
    assert_eq!(hook.take_wakes(), 1);
    assert!(poll(&mut next).is_ready());
}

#[test]
fn a_waker_that_panics_costs_no_other_waiter_of_a_condvar_the_notification() {
    let (mutex, condvar) = (Mutex::new(()), Condvar::new());
    let hooks: Vec<&Hook> = (0..3).map(|_| Hook::new()).collect();
    let mut waits: Vec<_> =
        (0..3).map(|_| Box::pin(async { drop(condvar.wait(mutex.lock().await).await) })).collect();
    for (wait, hook) in waits.iter_mut().zip(&hooks) {
        assert!(hook.poll(wait).is_pending());
    }
    hooks[0].on_wake.replace(Some(Box::new(|| panic!("woken"))));
    condvar.notify_all();
    assert!(hooks.iter().all(|hook| hook.take_wakes() == 1), "somebody was not woken");
    assert!(waits.iter_mut().all(|wait| poll(wait).is_ready()));
}

#[test]
fn who_gets_a_lock_that_becomes_free_as_it_is_about_to_wait_again_looks_after_the_others() {
    let mutex: &'static Mutex<()> = Box::leak(Box::new(Mutex::new(())));
    let (hook, behind) = (Hook::new(), Hook::new());
    let guard = mutex.try_lock().expect("free");
    let (mut first, mut second) = (Box::pin(mutex.lock()), Box::pin(mutex.lock()));
    assert!(hook.poll(&mut first).is_pending() && behind.poll(&mut second).is_pending());
    drop(guard);
    // Told, and overtaken.
    let guard = mutex.try_lock().expect("not looked yet");
    hook.on_clone.replace(Some(Box::new(move || drop(guard))));
    let Poll::Ready(guard) = hook.poll(&mut first) else { panic!("free by then") };
    assert_eq!(behind.take_wakes(), 0);
    drop(guard);
    assert_eq!(behind.take_wakes(), 1, "it waits still");
    drop(locked(&mut second));
}

#[test]
fn who_begins_to_wait_while_all_are_told_is_not() {
    type Waits = Pin<Box<dyn Future<Output = ()>>>;
    let (mutex, condvar) = &*Box::leak(Box::new((Mutex::new(()), Condvar::new())));
    let waits = move || -> Waits { Box::pin(async move { drop(condvar.wait(mutex.lock().await).await) }) };
    let late = std::rc::Rc::new(std::cell::RefCell::new(Vec::<Waits>::new()));
    let (first, other) = (Hook::new(), Hook::new());
    let (mut one, mut two) = (waits(), waits());
    assert!(first.poll(&mut one).is_pending() && other.poll(&mut two).is_pending());
    let begins = std::rc::Rc::clone(&late);
    let action = move || {
        let mut waits = waits();
        assert!(other.poll(&mut waits).is_pending());
        begins.borrow_mut().push(waits);
    };
    first.on_wake.replace(Some(Box::new(action)));
    condvar.notify_all();
    assert_eq!((first.take_wakes(), other.take_wakes()), (1, 1));
    assert!(poll(&mut one).is_ready() && poll(&mut two).is_ready());
    let mut late = late.take();
    assert!(poll(&mut late[0]).is_pending());
    condvar.notify_all();
    assert!(poll(&mut late[0]).is_ready());
}

#[test]
fn guards_of_every_kind_hold_the_lock_and_give_it_up() {
    let mutex = Arc::new(Mutex::new((1, String::from("part"))));
    let whole = mutex.blocking_lock();
    assert!(std::ptr::eq(MutexGuard::mutex(&whole), &*mutex));
    let mut part = MutexGuard::map(whole, |(_, part)| part);
    part.push('s');
    let part: MappedMutexGuard<'_, str> = MappedMutexGuard::map(part, String::as_mut_str);
    let part = MappedMutexGuard::try_map(part, |part| part.get_mut(9..)).expect_err("there is none");
    assert_eq!((&*part, format!("{part} {part:?}")), ("parts", String::from("parts \"parts\"")));
    assert!(mutex.try_lock().is_err() && format!("{mutex:?}").contains("<locked>"));
    drop(part);
    let whole = MutexGuard::try_map(mutex.try_lock().expect("free"), |_| None::<&mut u8>);
    let whole = whole.expect_err("there is none");
    assert!(mutex.try_lock().is_err());
    drop(whole);
    let owned = Arc::clone(&mutex).try_lock_owned().expect("free");
    assert!(Arc::ptr_eq(OwnedMutexGuard::mutex(&owned), &mutex));
    assert!(Arc::clone(&mutex).try_lock_owned().is_err());
    let mut waits = Box::pin(Arc::clone(&mutex).lock_owned());
    assert!(poll(&mut waits).is_pending());
    drop(owned);
    let Poll::Ready(mut owned) = poll(&mut waits) else { panic!("it has to wait") };
    owned.0 = 2;
    drop((owned, waits));
    drop(Arc::clone(&mutex).blocking_lock_owned());
    assert!(format!("{mutex:?}").contains("parts"));
    let mut mutex = Arc::into_inner(mutex).expect("the last one");
    mutex.get_mut().0 += 1;
    assert_eq!(mutex.into_inner().0, 3);
}

#[test]
fn what_may_cross_threads_is_what_the_value_allows() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    // A cell may be sent, and so used by one thread after another.
    send::<Mutex<std::cell::Cell<u8>>>();
    sync::<Mutex<std::cell::Cell<u8>>>();
    send::<MutexGuard<'_, std::cell::Cell<u8>>>();
    send::<OwnedMutexGuard<std::cell::Cell<u8>>>();
    send::<MappedMutexGuard<'_, std::cell::Cell<u8>>>();
    send::<MutexLock<'_, std::cell::Cell<u8>>>();
    sync::<MutexGuard<'_, u8>>();
    sync::<OwnedMutexGuard<u8>>();
    sync::<MappedMutexGuard<'_, u8>>();
    sync::<Condvar>();
}

/// The worst that can happen: whenever the lock is free somebody takes it before those that were
/// told can look, and new ones come to wait all the time.
#[test]
fn nobody_starves() {
    const WAITERS: usize = 8;
    let mutex = Mutex::new(());
    let mut guard = mutex.try_lock().expect("free");
    let mut waits: Vec<_> = (0..WAITERS).map(|_| (Hook::new(), Box::pin(mutex.lock()))).collect();
    assert!(waits.iter_mut().all(|(hook, wait)| hook.poll(wait).is_pending()));
    let (mut turns, mut served) = (0, 0);
    while served < WAITERS {
        drop(guard);
        turns += 1;
        assert!(turns <= WAITERS * (OVERTAKEN + 1), "{served} of {WAITERS} were served");
        let mut next = mutex.try_lock().ok();
        let late = (Hook::new(), Box::pin(mutex.lock()));
        waits.push(late);
        let newest = waits.len() - 1;
        for (which, (hook, wait)) in waits.iter_mut().enumerate() {
            if (hook.take_wakes() > 0 || which == newest)
                && let Poll::Ready(given) = hook.poll(wait)
            {
                assert_eq!(which, served, "in the order of arrival");
                assert!(next.replace(given).is_none(), "one at a time");
                served += 1;
            }
        }
        guard = next.expect("it was taken or given");
    }
    assert_eq!(turns, WAITERS * (OVERTAKEN + 1), "each was overtaken as often as may be");
}

/// Counts how often it was woken, on any thread.
#[derive(Default)]
struct Counted(AtomicUsize);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn waiting_allocates_nothing() {
    let mutex = Mutex::new(0);
    let changed = Condvar::new();
    let waker = Waker::from(Arc::new(Counted::default()));
    let mut cx = Context::from_waker(&waker);
    let before = counting::allocations();
    for _ in 0..100 {
        let mut guard = mutex.try_lock().expect("free");
        let mut first = std::pin::pin!(mutex.lock());
        let mut second = std::pin::pin!(mutex.lock());
        assert!(first.as_mut().poll(&mut cx).is_pending() && second.as_mut().poll(&mut cx).is_pending());
        for _ in 0..OVERTAKEN {
            drop(guard);
            guard = mutex.try_lock().expect("not looked yet");
            assert!(first.as_mut().poll(&mut cx).is_pending());
        }
        drop(guard);
        let Poll::Ready(guard) = first.poll(&mut cx) else { panic!("given") };
        let mut waits = std::pin::pin!(changed.wait(guard));
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_ready());
        changed.notify_all();
        assert!(waits.poll(&mut cx).is_ready());
    }
    assert_eq!(counting::allocations() - before, 0);
    // The control: what is known to allocate is counted.
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(counting::allocations() - before, 1);
}

/// Coroutine-free threads, cores, and waits that are given up, all at once: nothing is lost and
/// nobody hangs.
#[test]
fn waits_that_are_given_up_lose_no_wake_up() {
    const ROUNDS: u32 = 20_000;
    let mutex = Arc::new(Mutex::new((0u64, 0u64)));
    let taken = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..3u32)
        .map(|thread| {
            let (mutex, taken) = (Arc::clone(&mutex), Arc::clone(&taken));
            std::thread::spawn(move || {
                let core = Core::new(&config()).expect("a core");
                let work = async move {
                    for round in 0..ROUNDS {
                        if (round + thread) % 3 == 0 {
                            // Waits for one turn of its core at most.
                            let mut waits = Box::pin(mutex.lock());
                            let mut cx = Context::from_waker(Waker::noop());
                            for _ in 0..2 {
                                if let Poll::Ready(mut guard) = waits.as_mut().poll(&mut cx) {
                                    guard.0 += 1;
                                    guard.1 += 1;
                                    taken.fetch_add(1, Ordering::Relaxed);
                                    break;
                                }
                                rt::yield_now().await;
                            }
                        } else {
                            let locked = rt::timeout(Duration::from_secs(60), mutex.lock()).await;
                            let mut guard = locked.expect("it is not forgotten");
                            guard.0 += 1;
                            assert_eq!(guard.0, guard.1 + 1);
                            guard.1 += 1;
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                };
                core.block_on(work);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(mutex.try_lock().expect("free").0, taken.load(Ordering::Relaxed));
}

/// What a property test does next, to one of a few waits.
#[derive(Clone, Copy, Debug)]
enum Step {
    Poll(usize),
    Drop(usize),
    TryLock,
    Unlock,
}

const WAITS: usize = 5;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..WAITS).prop_map(Step::Poll),
        1 => (0..WAITS).prop_map(Step::Drop),
        2 => Just(Step::TryLock),
        4 => Just(Step::Unlock),
    ]
}

proptest! {
    /// In any order of steps: at most one holds the lock, and as long as somebody waits, either the
    /// lock is held or one that waits has been woken and not looked since.
    #[test]
    fn as_long_as_somebody_waits_somebody_will_look(steps in proptest::collection::vec(step(), 1..200)) {
        let mutex = Mutex::new(());
        let hooks: Vec<&'static Hook> = (0..WAITS).map(|_| Hook::new()).collect();
        let mut waits: Vec<Option<Waiting<'_, ()>>> = (0..WAITS).map(|_| None).collect();
        let mut woken = HashSet::new();
        let mut held: Option<MutexGuard<'_, ()>> = None;
        for step in steps {
            match step {
                Step::Poll(which) => {
                    let wait = waits[which].get_or_insert_with(|| Box::pin(mutex.lock()));
                    woken.remove(&which);
                    if let Poll::Ready(guard) = hooks[which].poll(wait) {
                        prop_assert!(held.is_none());
                        held = Some(guard);
                        waits[which] = None;
                    }
                }
                Step::Drop(which) => {
                    waits[which] = None;
                    woken.remove(&which);
                }
                Step::TryLock => {
                    if let Ok(guard) = mutex.try_lock() {
                        prop_assert!(held.is_none());
                        held = Some(guard);
                    }
                }
                Step::Unlock => held = None,
            }
            woken.extend((0..WAITS).filter(|&which| hooks[which].take_wakes() > 0));
            let waiting = waits.iter().any(Option::is_some);
            prop_assert!(!waiting || held.is_some() || !woken.is_empty(), "nobody will look");
        }
        drop(held);
        // Whoever is woken takes its turn: all come through.
        while waits.iter().any(Option::is_some) {
            woken.extend((0..WAITS).filter(|&which| hooks[which].take_wakes() > 0));
            let Some(&which) = woken.iter().next() else { panic!("somebody waits and nobody is woken") };
            woken.remove(&which);
            if waits[which].as_mut().is_some_and(|wait| hooks[which].poll(wait).is_ready()) {
                waits[which] = None;
            }
        }
        prop_assert!(mutex.try_lock().is_ok());
    }
}
