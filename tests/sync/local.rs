//! The primitives of one core: deadlines, wakers that call back, dropping at every point, and what
//! each offers.

use crate::counting;
use crate::support::hooked_waker;
use std::cell::{Cell, RefCell};
use std::future::{Future, pending};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use boson::ErrorKind;
use boson::rt::{self, Core, CoreConfig};
use boson::sync::local::{
    Barrier, Condvar, MappedMutexGuard, Mutex, MutexGuard, Notify, OnceCell, RwLock, RwLockReadGuard,
    Semaphore, SetError, TryAcquireError, TrySendError, WaitGroup, broadcast, mpsc, oneshot, watch,
};
use hooked_waker::Hook;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

fn run<F: Future>(future: F) -> F::Output {
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("a core");
    core.block_on(future)
}

/// Polls with a waker that does nothing.
fn poll<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    Hook::new().poll(future)
}

/// Waits for a millisecond for what does not come.
async fn times_out<T>(future: impl Future<Output = T>) {
    let error = rt::timeout(Duration::from_millis(1), future).await.err().expect("it does not come");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

/// Waits for what does come.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    rt::timeout(Duration::from_secs(5), future).await.expect("it comes")
}

/// Three waiters of which the middle one gives up; `release` then lets one go at a time. The first
/// and the last are served in their order, and nothing is left over.
async fn middle_waiter_gives_up<T: 'static>(
    wait: impl Fn() -> Boxed<'static, T> + 'static,
    mut release: impl AsyncFnMut(),
) {
    let served = Rc::new(RefCell::new(Vec::new()));
    let spawn = |name: &'static str, future: Boxed<'static, T>| {
        let served = Rc::clone(&served);
        rt::named(name).spawn(async move {
            drop(future.await);
            served.borrow_mut().push(name);
        })
    };
    let first = spawn("first", wait());
    rt::yield_now().await;
    let doomed = wait();
    let middle = rt::named("middle").spawn(times_out(doomed));
    rt::yield_now().await;
    let last = spawn("last", wait());
    soon(middle).await.expect("no panic");
    assert!(served.borrow().is_empty(), "nobody was let go yet");
    release().await;
    soon(first).await.expect("no panic");
    release().await;
    soon(last).await.expect("no panic");
    assert_eq!(*served.borrow(), ["first", "last"]);
}

#[test]
fn a_lock_that_timed_out_leaves_no_trace() {
    run(async {
        let mutex: &Mutex<()> = Box::leak(Box::new(Mutex::new(())));
        let mut held = Some(mutex.lock().await);
        middle_waiter_gives_up(move || Box::pin(mutex.lock()), async || drop(held.take())).await;
        assert!(mutex.try_lock().is_ok());

        let lock: &RwLock<()> = Box::leak(Box::new(RwLock::new(())));
        let mut held = Some(lock.read().await);
        middle_waiter_gives_up(move || Box::pin(lock.write()), async || drop(held.take())).await;
        let mut held = Some(lock.write().await);
        middle_waiter_gives_up(move || Box::pin(lock.read()), async || drop(held.take())).await;
        assert!(lock.try_write().is_ok());
    });
}

#[test]
fn a_permit_that_timed_out_leaves_no_trace() {
    run(async {
        let semaphore: &Semaphore = Box::leak(Box::new(Semaphore::new(0)));
        middle_waiter_gives_up(
            move || Box::pin(async { semaphore.acquire().await.expect("open").forget() }),
            async || semaphore.add_permits(1),
        )
        .await;
        assert_eq!(semaphore.available_permits(), 0);
        // A large request that gives up lets smaller ones behind it through.
        semaphore.add_permits(2);
        let large = rt::named("large").spawn(times_out(semaphore.acquire_many(3)));
        rt::yield_now().await;
        assert_eq!(semaphore.try_acquire().err(), Some(TryAcquireError::NoPermits), "it would overtake");
        drop(soon(semaphore.acquire_many(2)).await.expect("open"));
        large.await.expect("no panic");
        assert_eq!(semaphore.available_permits(), 2);
    });
}

#[test]
fn a_wait_for_a_change_that_timed_out_leaves_no_trace() {
    run(async {
        let notify: &Notify = Box::leak(Box::default());
        middle_waiter_gives_up(move || Box::pin(notify.notified()), async || assert!(notify.notify_one()))
            .await;
        assert!(!notify.notify_one());

        let changed: &Condvar = Box::leak(Box::default());
        let mutex: &Mutex<u32> = Box::leak(Box::default());
        let wait = move || -> Boxed<'static, ()> {
            Box::pin(async {
                let guard = mutex.lock().await;
                drop(changed.wait(guard).await);
            })
        };
        middle_waiter_gives_up(wait, async || assert!(changed.notify_one())).await;
        assert!(!changed.notify_one());
        assert!(mutex.try_lock().is_ok());
    });
}

#[test]
fn a_meeting_that_timed_out_leaves_no_trace() {
    run(async {
        let barrier = Rc::new(Barrier::new(2));
        times_out(barrier.wait()).await;
        times_out(barrier.wait()).await;
        let other = Rc::clone(&barrier);
        let task = rt::named("other").spawn(async move { other.wait().await.is_leader() });
        let leads = soon(barrier.wait()).await.is_leader();
        assert_ne!(leads, task.await.expect("no panic"));

        let group = WaitGroup::new();
        soon(group.wait()).await;
        let token = group.token();
        let more = token.clone();
        times_out(group.wait()).await;
        drop(token);
        times_out(group.wait()).await;
        let mut waits = Box::pin(group.wait());
        assert!(poll(&mut waits).is_pending());
        drop(more);
        let again = group.token();
        assert!(poll(&mut waits).is_ready(), "it was told, although there is work again");
        assert_eq!(group.count(), 1);
        drop(again);
    });
}

#[test]
fn a_value_is_made_once_and_by_the_next_if_the_first_gives_up() {
    run(async {
        let cell: &OnceCell<u32> = Box::leak(Box::default());
        let mut first: Boxed<'_, &u32> = Box::pin(cell.get_or_init(pending));
        assert!(poll(&mut first).is_pending());
        assert_eq!(cell.set(9), Err(SetError::InitializingError(9)));
        let mut second: Boxed<'_, _> = Box::pin(cell.get_or_try_init(async || Err::<u32, _>("no luck")));
        let mut third: Boxed<'_, &u32> = Box::pin(cell.get_or_init(async || 3));
        let mut fourth: Boxed<'_, &u32> = Box::pin(cell.get_or_init(async || 4));
        assert!(
            poll(&mut second).is_pending() && poll(&mut third).is_pending() && poll(&mut fourth).is_pending()
        );
        drop(first);
        assert_eq!(poll(&mut second), Poll::Ready(Err("no luck")));
        assert_eq!(poll(&mut third), Poll::Ready(&3));
        assert_eq!(poll(&mut fourth), Poll::Ready(&3));
        assert_eq!((cell.get(), cell.set(5)), (Some(&3), Err(SetError::AlreadyInitializedError(5))));
        let set = OnceCell::new();
        assert_eq!((set.set(1), set.into_inner()), (Ok(()), Some(1)));
    });
}

#[test]
fn channels_that_timed_out_lose_nothing() {
    run(async {
        let (sender, mut receiver) = mpsc::channel(1);
        times_out(receiver.recv()).await;
        sender.send(1).await.expect("open");
        times_out(sender.send(2)).await;
        let other = sender.clone();
        let task = rt::named("sender").spawn(async move { other.send(3).await });
        rt::yield_now().await;
        assert_eq!(sender.try_send(4), Err(TrySendError::Full(4)));
        assert_eq!((soon(receiver.recv()).await, soon(receiver.recv()).await), (Some(1), Some(3)));
        task.await.expect("no panic").expect("open");
        assert_eq!(receiver.try_recv(), Err(mpsc::error::TryRecvError::Empty));

        let (sender, mut receiver) = oneshot::channel();
        times_out(&mut receiver).await;
        sender.send(5).expect("open");
        assert_eq!(soon(receiver).await, Ok(5));

        let (sender, mut receiver) = broadcast::channel(2);
        times_out(receiver.recv()).await;
        sender.send(6).expect("one listens");
        assert_eq!(soon(receiver.recv()).await, Ok(6));

        let (sender, mut receiver) = watch::channel(7);
        times_out(receiver.changed()).await;
        sender.send(8).expect("one listens");
        assert_eq!(*soon(receiver.wait_for(|value| *value == 8)).await.expect("open"), 8);
    });
}

#[test]
fn a_closed_channel_is_drained() {
    run(async {
        let (sender, mut receiver) = mpsc::channel(3);
        sender.send(1).await.expect("open");
        let permit = sender.reserve().await.expect("open");
        let unused = sender.reserve().await.expect("open");
        let mut waits = Box::pin(sender.send(9));
        assert!(poll(&mut waits).is_pending());
        receiver.close();
        assert!(sender.is_closed());
        assert!(matches!(poll(&mut waits), Poll::Ready(Err(error)) if error.0 == 9));
        assert!(sender.send(2).await.is_err());
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(receiver.try_recv(), Err(mpsc::error::TryRecvError::Empty), "two may still come");
        permit.send(3);
        assert_eq!(receiver.recv().await, Some(3));
        let hook = Hook::new();
        let mut last = Box::pin(receiver.recv());
        assert!(hook.poll(&mut last).is_pending());
        drop(unused);
        assert_eq!((hook.take_wakes(), hook.poll(&mut last)), (1, Poll::Ready(None)));
        drop(last);

        let (sender, mut receiver) = mpsc::unbounded_channel();
        for i in 0..100 {
            sender.send(i).expect("open");
        }
        let other = sender.clone();
        drop(sender);
        for i in 0..100 {
            assert_eq!(receiver.recv().await, Some(i));
        }
        let mut last = Box::pin(receiver.recv());
        assert!(hook.poll(&mut last).is_pending());
        drop(other);
        assert_eq!((hook.take_wakes(), hook.poll(&mut last)), (1, Poll::Ready(None)));
    });
}

#[test]
fn a_oneshot_says_when_the_other_end_is_gone() {
    let (sender, receiver) = oneshot::channel::<u32>();
    let mut receiver = Box::pin(receiver);
    let hook = Hook::new();
    assert!(hook.poll(&mut receiver).is_pending());
    drop(sender);
    assert_eq!(
        (hook.take_wakes(), hook.poll(&mut receiver)),
        (1, Poll::Ready(Err(oneshot::error::RecvError)))
    );

    let (mut sender, mut receiver) = oneshot::channel();
    let mut closed = Box::pin(sender.closed());
    assert!(hook.poll(&mut closed).is_pending());
    receiver.close();
    assert_eq!((hook.take_wakes(), hook.poll(&mut closed)), (1, Poll::Ready(())));
    drop(closed);
    assert_eq!(sender.send(1), Err(1));
    assert_eq!(receiver.try_recv(), Err(oneshot::error::TryRecvError::Closed));
}

#[test]
fn a_watch_shows_the_newest_value() {
    let (sender, mut receiver) = watch::channel(0);
    let mut late = receiver.clone();
    sender.send(1).expect("listens");
    sender.send(2).expect("listens");
    assert_eq!(receiver.has_changed(), Ok(true));
    assert!(poll(&mut Box::pin(receiver.changed())).is_ready());
    assert_eq!(receiver.has_changed(), Ok(false));
    receiver.mark_changed();
    assert_eq!(receiver.has_changed(), Ok(true));
    receiver.mark_unchanged();
    assert_eq!(receiver.has_changed(), Ok(false));
    assert_eq!((*receiver.borrow(), *sender.borrow(), *late.borrow_and_update()), (2, 2, 2));
    let hook = Hook::new();
    let mut changed = Box::pin(late.changed());
    assert!(hook.poll(&mut changed).is_pending());
    drop(receiver);
    sender.send(3).expect("one listens");
    drop(sender);
    assert_eq!(hook.take_wakes(), 1, "told once, and not again as it does not wait");
    assert_eq!(hook.poll(&mut changed), Poll::Ready(Ok(())));
    drop(changed);
    assert_eq!(poll(&mut Box::pin(late.changed())), Poll::Ready(Err(watch::error::RecvError)));
    let (sender, receiver) = watch::channel(0);
    drop(receiver);
    assert_eq!(sender.send(1).err().map(|error| error.0), Some(1));
    assert_eq!((*sender.send_replace(5), *sender.subscribe().borrow()), (0, 5));
}

#[test]
fn a_value_of_a_broadcast_is_dropped_when_the_last_receiver_saw_it() {
    let (sender, mut first) = broadcast::channel(8);
    let mut second = first.resubscribe();
    let third = sender.subscribe();
    let value = Rc::new(());
    sender.send(Rc::clone(&value)).expect("three listen");
    drop(first.try_recv());
    drop(third);
    assert_eq!(Rc::strong_count(&value), 2);
    let seen = second.try_recv_shared().expect("sent");
    assert_eq!(Rc::strong_count(&value), 2, "only what was received is left");
    drop(seen);
    assert_eq!(Rc::strong_count(&value), 1);
    drop((first, second));
    assert_eq!(sender.send(value).map_err(|error| Rc::strong_count(&error.0)), Err(1));
}

#[test]
fn a_semaphore_hands_out_owned_permits_and_closes() {
    run(async {
        let semaphore = Rc::new(Semaphore::new(3));
        let owned = Rc::clone(&semaphore).acquire_many_owned(2).await.expect("open");
        let other = Rc::clone(&semaphore).try_acquire_owned().expect("one is left");
        assert_eq!((owned.num_permits(), semaphore.available_permits()), (2, 0));
        assert!(Rc::ptr_eq(owned.semaphore(), &semaphore));
        drop(owned);
        other.forget();
        let mut both = semaphore.try_acquire_many(2).expect("two are left");
        let one = both.split(1).expect("of two");
        assert!(both.split(2).is_none());
        let mut merged = both.split(1).expect("the last one");
        merged.merge(both);
        let mut both = merged;
        assert_eq!(both.num_permits(), 1);
        let mut owned = Rc::clone(&semaphore).try_acquire_many_owned(0).expect("none are needed");
        owned.merge(Rc::clone(&semaphore).try_acquire_many_owned(0).expect("none are needed"));
        assert!(owned.split(1).is_none());
        drop(owned);
        both.merge(semaphore.try_acquire_many(0).expect("none are needed"));
        assert_eq!((both.num_permits(), one.num_permits()), (1, 1));
        drop(both);
        assert_eq!(semaphore.available_permits(), 1);
        assert_eq!((semaphore.forget_permits(5), semaphore.available_permits()), (1, 0));

        let mut granted = Box::pin(semaphore.acquire());
        let mut waits = Box::pin(semaphore.acquire());
        assert!(poll(&mut granted).is_pending() && poll(&mut waits).is_pending());
        drop(one);
        semaphore.close();
        assert!(matches!(poll(&mut granted), Poll::Ready(Err(_))), "closed before it saw its permit");
        assert!(matches!(poll(&mut waits), Poll::Ready(Err(_))));
        assert_eq!(semaphore.available_permits(), 1);
        let error = boson::Error::from(semaphore.acquire().await.expect_err("closed"));
        assert_eq!((error.kind(), semaphore.is_closed()), (ErrorKind::Closed, true));
    });
}

#[test]
fn guards_of_a_rwlock_map_and_downgrade() {
    let lock = RwLock::new((1, String::from("two")));
    let mut writes = lock.try_write().expect("free");
    writes.0 = 10;
    let hook = Hook::new();
    let mut reads = Box::pin(lock.read());
    let mut next_writes = Box::pin(lock.write());
    assert!(hook.poll(&mut reads).is_pending() && poll(&mut next_writes).is_pending());
    let downgraded = writes.downgrade();
    assert_eq!(hook.take_wakes(), 1);
    let Poll::Ready(read) = hook.poll(&mut reads) else { panic!("readers may come in") };
    assert!(poll(&mut next_writes).is_pending(), "but no writer");
    let part = RwLockReadGuard::map(read, |value| &*value.1);
    assert_eq!((downgraded.0, &*part), (10, "two"));
    drop((downgraded, part));
    assert!(poll(&mut next_writes).is_ready());
}

#[test]
fn a_condition_variable_passes_on_what_a_dropped_wait_was_told() {
    let (mutex, changed) = (Mutex::new(()), Condvar::new());
    let wait = || async {
        let guard = mutex.lock().await;
        changed.wait(guard).await
    };
    let mut first: Boxed<'_, MutexGuard<'_, ()>> = Box::pin(wait());
    let mut second: Boxed<'_, MutexGuard<'_, ()>> = Box::pin(wait());
    let mut third: Boxed<'_, MutexGuard<'_, ()>> = Box::pin(wait());
    assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending() && poll(&mut third).is_pending());
    // Told, and not looked at again.
    assert!(changed.notify_one());
    drop(first);
    // Told, and on its way to the lock.
    let held = mutex.try_lock().expect("nobody has it while waiting");
    assert!(poll(&mut second).is_pending());
    drop(second);
    drop(held);
    assert!(poll(&mut third).is_ready());
    assert!(!changed.notify_one());
}

/// Has the waker of a first waiter drop or poll a second one when it is cloned, woken or dropped,
/// and checks that neither a grant nor the memory of the other is lost.
#[test]
fn wakers_may_call_back_into_a_semaphore() {
    for hook_at in 0..3 {
        for poll_instead in [false, true] {
            let semaphore: &Semaphore = Box::leak(Box::new(Semaphore::new(0)));
            let hook = Hook::new();
            let (mut first, second) = (Box::pin(semaphore.acquire()), Rc::new(RefCell::new(None)));
            let third = Hook::new();
            let mut last = Box::pin(semaphore.acquire());
            let started = Cell::new(false);
            let ran = Rc::new(Cell::new(false));
            let action = {
                let (second, ran) = (Rc::clone(&second), Rc::clone(&ran));
                Box::new(move || {
                    ran.set(true);
                    let taken: Option<Pin<Box<boson::sync::local::SemaphoreAcquire<'static>>>> =
                        second.take();
                    let Some(mut taken) = taken else { return };
                    semaphore.add_permits(1);
                    if poll_instead {
                        if let Poll::Ready(Ok(permit)) = poll(&mut taken) {
                            drop(permit);
                        }
                        second.replace(Some(taken));
                    }
                })
            };
            let mut wait_behind = || {
                let mut future = Box::pin(semaphore.acquire());
                assert!(poll(&mut future).is_pending());
                second.replace(Some(future));
                assert!(third.poll(&mut last).is_pending());
                started.set(true);
            };
            match hook_at {
                0 => {
                    wait_behind();
                    hook.on_clone.replace(Some(action));
                    let _ = hook.poll(&mut first);
                }
                1 => {
                    assert!(hook.poll(&mut first).is_pending());
                    wait_behind();
                    hook.on_wake.replace(Some(action));
                    semaphore.add_permits(1);
                }
                _ => {
                    assert!(hook.poll(&mut first).is_pending());
                    wait_behind();
                    hook.on_drop.replace(Some(action));
                    // Another waker takes the place of the first.
                    let _ = poll(&mut first);
                }
            }
            assert!(ran.get() && started.get(), "hook {hook_at} did not run");
            drop((first, second.take()));
            assert!(
                third.poll(&mut last).is_ready(),
                "hook {hook_at}, polled {poll_instead}: a permit was lost"
            );
            drop(last);
            let expected = if hook_at == 1 { 2 } else { 1 };
            assert_eq!(semaphore.available_permits(), expected, "hook {hook_at}, polled {poll_instead}");
        }
    }
}

#[test]
fn a_waker_may_drop_everybody_who_is_about_to_be_woken() {
    let notify: &Notify = Box::leak(Box::default());
    let others = Rc::new(RefCell::new(Vec::new()));
    let hook = Hook::new();
    let mut first = Box::pin(notify.notified());
    assert!(hook.poll(&mut first).is_pending());
    let other_hook = Hook::new();
    for _ in 0..3 {
        let mut other = Box::pin(notify.notified());
        assert!(other_hook.poll(&mut other).is_pending());
        others.borrow_mut().push(other);
    }
    let late = Rc::new(RefCell::new(Box::pin(notify.notified())));
    let (dropped, begins) = (Rc::clone(&others), Rc::clone(&late));
    hook.on_wake.replace(Some(Box::new(move || {
        let mut first_of_them = dropped.borrow_mut().remove(0);
        assert!(poll(&mut first_of_them).is_ready(), "it was told before anybody was woken");
        dropped.borrow_mut().pop();
        assert!(poll(&mut begins.borrow_mut()).is_pending(), "it came later");
    })));
    notify.notify_all();
    assert_eq!(other_hook.take_wakes(), 1, "the one that is left");
    assert!(poll(&mut others.borrow_mut()[0]).is_ready());
    assert!(poll(&mut first).is_ready());
    assert!(poll(&mut late.borrow_mut()).is_pending());
    assert!(notify.notify_one());
}

#[test]
fn a_channel_may_be_used_by_the_wakers_and_values_it_holds() {
    struct SendsWhenDropped(mpsc::UnboundedSender<u32>);
    impl Drop for SendsWhenDropped {
        fn drop(&mut self) {
            let _ = self.0.send(1);
        }
    }
    #[derive(Debug)]
    struct Cloned(Rc<Cell<u32>>, broadcast::Sender<Option<Cloned>>);
    impl Clone for Cloned {
        fn clone(&self) -> Self {
            self.0.set(self.0.get() + 1);
            self.1.send(None).expect("two listen");
            Self(Rc::clone(&self.0), self.1.clone())
        }
    }
    let (log, mut logged) = mpsc::unbounded_channel();
    let (sender, receiver) = mpsc::channel(2);
    sender.try_send(SendsWhenDropped(log.clone())).expect("room");
    drop(receiver);
    assert_eq!(logged.try_recv(), Ok(1));

    let (sender, mut first) = broadcast::channel(2);
    let mut second = sender.subscribe();
    let clones = Rc::new(Cell::new(0));
    sender.send(Some(Cloned(Rc::clone(&clones), sender.clone()))).expect("two listen");
    assert!(first.try_recv().is_ok_and(|value| value.is_some()));
    assert!(second.try_recv().is_ok_and(|value| value.is_some()));
    assert_eq!(clones.get(), 1, "the last one to see it gets it as it is");
    assert!(first.try_recv().is_ok_and(|value| value.is_none()));

    // The receiver's waker sends.
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let hook = Hook::new();
    let again = sender.clone();
    let mut waits = Box::pin(receiver.recv());
    hook.on_clone.replace(Some(Box::new(move || again.send(7).expect("open"))));
    assert_eq!(hook.poll(&mut waits), Poll::Ready(Some(7)), "it was sent while the waker was cloned");
    drop(waits);
    drop(sender);
}

#[test]
fn a_leaked_waiter_stays_in_its_place_and_breaks_nothing() {
    let mut semaphore = Semaphore::new(0);
    {
        let mut leaked = Box::pin(semaphore.acquire());
        assert!(poll(&mut leaked).is_pending());
        std::mem::forget(leaked);
    }
    // The list moves while the leaked node is linked.
    let moved = std::mem::replace(&mut semaphore, Semaphore::new(0));
    let mut next = Box::pin(moved.acquire());
    assert!(poll(&mut next).is_pending());
    moved.add_permits(1);
    assert!(poll(&mut next).is_pending(), "the leaked one got it");
    moved.add_permits(1);
    assert!(poll(&mut next).is_ready());
}

#[test]
fn waiting_asks_the_heap_for_nothing() {
    async fn lock_often(mutex: &Mutex<u32>, times: u32) {
        for _ in 0..times {
            let mut guard = mutex.lock().await;
            rt::yield_now().await;
            *guard += 1;
        }
    }
    async fn receive_often(receiver: &mut mpsc::Receiver<u32>, times: u32) {
        for _ in 0..times {
            receiver.recv().await.expect("open");
            rt::yield_now().await;
        }
    }
    run(async {
        let mutex: &Mutex<u32> = Box::leak(Box::default());
        let (sender, mut receiver) = mpsc::channel(1);
        // They outlive what is measured: ending a task is not waiting.
        let locks = rt::named("locks").spawn(lock_often(mutex, 1000));
        let sends = rt::named("sends").spawn(async move {
            for i in 0..1000 {
                sender.send(i).await.expect("open");
            }
        });
        lock_often(mutex, 200).await;
        receive_often(&mut receiver, 200).await;
        let before = counting::allocations();
        lock_often(mutex, 200).await;
        receive_often(&mut receiver, 200).await;
        let waited = counting::allocations() - before;
        assert!(!locks.is_finished() && !sends.is_finished());
        drop(std::hint::black_box(Box::new(1)));
        assert_eq!(
            (waited, counting::allocations() - before),
            (0, 1),
            "one is the box, which shows that it counts"
        );
        receive_often(&mut receiver, 600).await;
        soon(locks).await.expect("no panic");
        soon(sends).await.expect("no panic");
        assert_eq!(*mutex.lock().await, 1400);
    });
}

#[test]
fn what_a_permit_sends_to_nobody_is_dropped_at_once() {
    run(async {
        let (sender, receiver) = mpsc::channel(1);
        let permit = sender.reserve().await.expect("there is a receiver");
        drop(receiver);
        let (answer, answered) = oneshot::channel::<()>();
        permit.send(answer);
        // While the channel has a sender.
        assert_eq!(
            rt::timeout(Duration::from_secs(1), answered).await.expect("in time"),
            Err(oneshot::error::RecvError)
        );
        drop(sender);
    });
}

#[test]
fn guards_of_a_mutex_map() {
    let mutex = Mutex::new((1, [2, 3]));
    let guard = mutex.try_lock().expect("free");
    let whole = MutexGuard::try_map(guard, |_| None::<&mut u32>).expect_err("there is no part");
    assert!(mutex.try_lock().is_err());
    let pair = MutexGuard::map(whole, |value| &mut value.1);
    let mut last = MappedMutexGuard::map(pair, |pair| &mut pair[1]);
    *last += 1;
    assert!(mutex.try_lock().is_err());
    drop(last);
    let first = MutexGuard::try_map(mutex.try_lock().expect("given up"), |value| Some(&mut value.0));
    assert_eq!(*first.expect("there is a part"), 1);
    assert_eq!(*mutex.try_lock().expect("given up"), (1, [2, 4]));
}

#[test]
#[should_panic(expected = "permits of different semaphores")]
fn permits_of_different_semaphores_do_not_merge() {
    let (one, other) = (Semaphore::new(1), Semaphore::new(1));
    one.try_acquire().expect("free").merge(other.try_acquire().expect("free"));
}

#[test]
fn a_waker_that_panics_costs_no_other_waiter_its_wake() {
    let (notify, granted, closed) = (Notify::new(), Semaphore::new(0), Semaphore::new(0));
    let mut waits: Vec<(&Hook, Boxed<'_, ()>)> = Vec::new();
    for number in 0..9 {
        let wait: Boxed<'_, ()> = match number % 3 {
            0 => Box::pin(notify.notified()),
            1 => Box::pin(async { granted.acquire().await.expect("open").forget() }),
            _ => Box::pin(async { assert!(closed.acquire().await.is_err()) }),
        };
        let hook = Hook::new();
        if number < 3 {
            hook.on_wake.replace(Some(Box::new(|| panic!("woken"))));
        }
        waits.push((hook, wait));
    }
    assert!(waits.iter_mut().all(|(hook, wait)| hook.poll(wait).is_pending()));
    notify.notify_all();
    granted.add_permits(3);
    closed.close();
    assert!(waits.iter().all(|(hook, _)| hook.take_wakes() == 1), "somebody was not woken");
    assert!(waits.iter_mut().all(|(_, wait)| poll(wait).is_ready()));
}

#[test]
fn a_waker_that_panics_when_it_is_dropped_lets_those_behind_it_on() {
    let semaphore = Semaphore::new(1);
    let hook = Hook::new();
    let mut wants_two = Box::pin(semaphore.acquire_many(2));
    let mut wants_one = Box::pin(semaphore.acquire());
    assert!(hook.poll(&mut wants_two).is_pending() && poll(&mut wants_one).is_pending());
    hook.on_drop.replace(Some(Box::new(|| panic!("dropped"))));
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(wants_two)));
    assert!(hook.on_drop.borrow().is_none(), "the waker was dropped");
    assert!(poll(&mut wants_one).is_ready(), "nobody is before it any more");
}

/// What ends with a panic wakes those that wait for it from its destructor, and a second panic
/// there would end the process.
#[test]
fn a_waker_that_panics_while_another_panic_unwinds_does_not_end_the_process() {
    let hook = Hook::new();
    let unwinds_with = |owned: Box<dyn std::any::Any>| {
        hook.on_wake.replace(Some(Box::new(|| panic!("woken"))));
        let owner = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _owned = owned;
            panic!("the owner");
        }));
        assert_eq!(owner.expect_err("it panics").downcast_ref(), Some(&"the owner"));
        assert_eq!(hook.take_wakes(), 1);
    };

    let (sender, receiver) = oneshot::channel::<()>();
    let mut receives = Box::pin(receiver);
    assert!(hook.poll(&mut receives).is_pending());
    unwinds_with(Box::new(sender));
    assert!(poll(&mut receives).is_ready());

    let (mut sender, receiver) = oneshot::channel::<()>();
    let mut closed = Box::pin(sender.closed());
    assert!(hook.poll(&mut closed).is_pending());
    unwinds_with(Box::new(receiver));
    assert!(poll(&mut closed).is_ready());

    let (sender, mut receiver) = mpsc::channel::<()>(1);
    let mut receives = Box::pin(receiver.recv());
    assert!(hook.poll(&mut receives).is_pending());
    unwinds_with(Box::new(sender));
    assert!(poll(&mut receives).is_ready());

    let (sender, mut receiver) = mpsc::channel::<()>(1);
    let sender: &'static mpsc::Sender<()> = Box::leak(Box::new(sender));
    let Poll::Ready(Ok(permit)) = poll(&mut Box::pin(sender.reserve())) else { panic!("there is room") };
    receiver.close();
    let mut receives = Box::pin(receiver.recv());
    assert!(hook.poll(&mut receives).is_pending());
    unwinds_with(Box::new(permit));
    assert!(poll(&mut receives).is_ready());

    let notify: &'static Notify = Box::leak(Box::default());
    let (mut told, mut next) = (Box::pin(notify.notified()), Box::pin(notify.notified()));
    assert!(poll(&mut told).is_pending() && hook.poll(&mut next).is_pending());
    assert!(notify.notify_one());
    unwinds_with(Box::new(told));
    assert!(poll(&mut next).is_ready());
}

/// The one who sends is not the one to hear of it.
#[test]
fn a_receivers_waker_that_panics_is_not_the_senders_panic() {
    let hook = Hook::new();
    let (sender, mut receiver) = mpsc::channel(1);
    let mut receives = Box::pin(receiver.recv());
    assert!(hook.poll(&mut receives).is_pending());
    hook.on_wake.replace(Some(Box::new(|| panic!("woken"))));
    sender.try_send(7).expect("room, and no panic");
    assert_eq!(hook.take_wakes(), 1);
    assert_eq!(poll(&mut receives), Poll::Ready(Some(7)));
}
