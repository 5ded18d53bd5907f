//! The primitives between threads: two cores and a foreign thread at once, deadlines, and errors.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use boson::rt::{self, Core, CoreConfig, CoreThread};
use boson::sync::{
    Barrier, Condvar, Mutex, MutexGuard, Notify, OnceCell, RwLock, Semaphore, WaitGroup, broadcast, local,
    mpsc, oneshot, watch,
};
use boson::{ErrorKind, Result};

const ROUNDS: u64 = 2_000;

fn config() -> CoreConfig {
    CoreConfig::default().seed([7; 32])
}

fn run<F: Future>(future: F) -> F::Output {
    Core::new(&config()).expect("a core").block_on(future)
}

/// An executor of the poorest kind, to stand for a foreign runtime: parks the thread between polls.
fn block_on_foreign_thread<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

/// Runs `make()` on two other cores and on a foreign thread, and `here` on this core, and waits for
/// all of them.
fn everywhere<F: Future<Output = ()> + 'static>(
    make: impl Fn() -> F + Send + Clone + 'static,
    here: impl Future<Output = ()>,
) {
    let cores: Vec<_> =
        (0..2).map(|i| CoreThread::start(format!("other {i}"), &config()).expect("a core")).collect();
    run(async {
        let tasks: Vec<_> =
            cores.iter().map(|core| rt::named("there").spawn_on(core.handle(), make.clone())).collect();
        let foreign = std::thread::spawn(move || block_on_foreign_thread(make()));
        rt::timeout(Duration::from_secs(60), here).await.expect("it does not hang");
        for task in tasks {
            let joined = rt::timeout(Duration::from_secs(60), task).await.expect("it does not hang");
            joined.expect("no panic");
        }
        foreign.join().expect("no panic");
    });
}

async fn times_out<T>(future: impl Future<Output = T>) {
    let error = rt::timeout(Duration::from_millis(1), future).await.err().expect("it does not come");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn locks_exclude_across_cores() {
    // Two halves that only agree if nobody comes in between.
    let mutex = Arc::new(Mutex::new((0u64, 0u64)));
    let lock = Arc::new(RwLock::new((0u64, 0u64)));
    let inside = Arc::new(AtomicUsize::new(0));
    let semaphore = Arc::new(Semaphore::new(2));
    let work = {
        let (mutex, lock) = (Arc::clone(&mutex), Arc::clone(&lock));
        move || {
            let (mutex, lock) = (Arc::clone(&mutex), Arc::clone(&lock));
            let (inside, semaphore) = (Arc::clone(&inside), Arc::clone(&semaphore));
            async move {
                for round in 0..ROUNDS {
                    let mut guard = mutex.lock().await;
                    guard.0 += 1;
                    std::hint::black_box(&mut guard.0);
                    guard.1 += 1;
                    assert_eq!(guard.0, guard.1);
                    drop(guard);
                    if round % 4 == 0 {
                        let mut guard = lock.write().await;
                        guard.0 += 1;
                        guard.1 += 1;
                    } else {
                        let guard = lock.read().await;
                        assert_eq!(guard.0, guard.1);
                    }
                    let _permit = semaphore.acquire().await.expect("open");
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 2, "three hold two permits");
                    inside.fetch_sub(1, Ordering::SeqCst);
                }
            }
        }
    };
    everywhere(work.clone(), work());
    assert_eq!(*mutex.try_lock().expect("free"), (4 * ROUNDS, 4 * ROUNDS));
    assert_eq!(lock.try_read().expect("free").0, ROUNDS);
}

#[test]
fn a_condition_variable_wakes_across_cores() {
    // Producers and consumers of a queue of at most two, with one condition variable for each side.
    struct Queue {
        values: Mutex<Vec<u64>>,
        filled: Condvar,
        emptied: Condvar,
        sum: AtomicU64,
    }
    let queue = Arc::new(Queue {
        values: Mutex::new(Vec::new()),
        filled: Condvar::new(),
        emptied: Condvar::new(),
        sum: AtomicU64::new(0),
    });
    let result = Arc::clone(&queue);
    let work = move || {
        let queue = Arc::clone(&queue);
        async move {
            for round in 1..=ROUNDS {
                let guard = queue.values.lock().await;
                let mut guard = queue.emptied.wait_while(guard, |values| values.len() == 2).await;
                guard.push(round);
                // Under the lock; the other side notifies after it.
                queue.filled.notify_one();
                drop(guard);
                let guard = queue.values.lock().await;
                let mut guard = queue.filled.wait_while(guard, |values| values.is_empty()).await;
                let value = guard.pop().expect("not empty");
                drop(guard);
                queue.emptied.notify_one();
                queue.sum.fetch_add(value, Ordering::Relaxed);
            }
        }
    };
    everywhere(work.clone(), work());
    assert_eq!(result.sum.load(Ordering::Relaxed), 4 * ROUNDS * (ROUNDS + 1) / 2);
}

#[test]
fn a_condition_variable_passes_on_what_a_dropped_wait_was_told() {
    run(async {
        let (mutex, changed) = (Mutex::new(()), Condvar::new());
        let wait = || async { changed.wait(mutex.lock().await).await };
        let poll = |future: &mut Pin<Box<dyn Future<Output = MutexGuard<'_, ()>> + '_>>| {
            future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        // Nobody waits: it is not stored.
        changed.notify_one();
        let mut first: Pin<Box<dyn Future<Output = _>>> = Box::pin(wait());
        let mut second: Pin<Box<dyn Future<Output = _>>> = Box::pin(wait());
        let mut third: Pin<Box<dyn Future<Output = _>>> = Box::pin(wait());
        assert!(!poll(&mut first) && !poll(&mut second) && !poll(&mut third));
        changed.notify_one();
        drop(first);
        let held = mutex.try_lock().expect("nobody has it while waiting");
        assert!(!poll(&mut second));
        drop(second);
        drop(held);
        assert!(poll(&mut third));
        drop(third);
        times_out(wait()).await;
        assert!(mutex.try_lock().is_ok());
        let mut all: Vec<Pin<Box<dyn Future<Output = _>>>> =
            (0..3).map(|_| -> Pin<Box<dyn Future<Output = _>>> { Box::pin(wait()) }).collect();
        assert!(all.iter_mut().all(|future| !poll(future)));
        changed.notify_all();
        // Each gives the lock up as soon as it has it.
        while let Some(next) = all.first_mut() {
            assert!(poll(next));
            drop(all.remove(0));
        }
    });
}

#[test]
fn a_wait_group_counts_across_cores() {
    let group = Arc::new(WaitGroup::new());
    let done = Arc::new(AtomicU64::new(0));
    let (counted, waits) = (Arc::clone(&done), Arc::clone(&group));
    // Taken before anybody waits.
    let tokens = Arc::new(std::sync::Mutex::new((0..3).map(|_| group.token()).collect::<Vec<_>>()));
    let work = move || {
        let token = tokens.lock().expect("no panic").pop().expect("one for each");
        let done = Arc::clone(&done);
        async move {
            for _ in 0..ROUNDS {
                let more = token.clone();
                done.fetch_add(1, Ordering::Relaxed);
                drop(more);
            }
            drop(token);
        }
    };
    everywhere(work, async move {
        waits.wait().await;
        assert_eq!(counted.load(Ordering::Relaxed), 3 * ROUNDS);
    });
    assert_eq!(group.count(), 0);
    run(async {
        let token = group.token();
        times_out(group.wait()).await;
        drop(token);
        rt::timeout(Duration::from_secs(5), group.wait()).await.expect("no work");
    });
}

#[test]
fn a_wait_for_work_ends_though_new_work_begins_at_once() {
    run(async {
        let group = Arc::new(WaitGroup::new());
        let token = group.token();
        let waits = Arc::clone(&group);
        let waiter = rt::named("waits").spawn(async move { waits.wait().await });
        rt::yield_now().await;
        drop(token);
        let _more = group.token();
        rt::timeout(Duration::from_secs(5), waiter)
            .await
            .expect("the last token was dropped")
            .expect("no panic");
        times_out(group.wait()).await;
    });
}

#[test]
fn channels_carry_everything_across_cores() {
    let (sender, mut receiver) = mpsc::channel(4);
    let (unbounded, mut flood) = mpsc::unbounded_channel();
    let (news, _) = broadcast::channel(8192);
    let mut heard = news.subscribe();
    let (state, _) = watch::channel(0u64);
    let state = Arc::new(state);
    let mut last = state.subscribe();
    let work = {
        let weak = std::sync::Mutex::new(Some((sender, unbounded, news)));
        let weak = Arc::new(weak);
        let started = Arc::new(AtomicUsize::new(0));
        move || {
            let mut slot = weak.lock().expect("no panic");
            let senders = slot.clone().expect("taken by the last only");
            // The last one that starts takes the original, so that the channels end.
            if started.fetch_add(1, Ordering::SeqCst) == 2 {
                *slot = None;
            }
            drop(slot);
            let state = Arc::clone(&state);
            async move {
                for i in 0..ROUNDS {
                    senders.0.send(i).await.expect("open");
                    senders.1.send(i).expect("open");
                    senders.2.send(i).expect("one listens");
                    state.send_modify(|sum| *sum += 1);
                }
            }
        }
    };
    everywhere(work, async move {
        let expected = 3 * ROUNDS * (ROUNDS - 1) / 2;
        let mut sums = [0; 3];
        while let Some(value) = receiver.recv().await {
            sums[0] += value;
        }
        while let Some(value) = flood.recv().await {
            sums[1] += value;
        }
        while let Ok(value) = heard.recv().await {
            sums[2] += value;
        }
        assert_eq!(sums, [expected; 3]);
        last.wait_for(|sum| *sum == 3 * ROUNDS).await.expect("it gets there");
    });
}

#[test]
fn others_meet_and_make_a_value_once() {
    let barrier = Arc::new(Barrier::new(4));
    let leaders = Arc::new(AtomicU64::new(0));
    let cell = Arc::new(OnceCell::new());
    let made = Arc::new(AtomicU64::new(0));
    let (counted, makes) = (Arc::clone(&leaders), Arc::clone(&made));
    let work = move || {
        let (barrier, leaders) = (Arc::clone(&barrier), Arc::clone(&leaders));
        let (cell, made) = (Arc::clone(&cell), Arc::clone(&made));
        async move {
            for _ in 0..100 {
                let is_leader = barrier.wait().await.is_leader();
                leaders.fetch_add(u64::from(is_leader), Ordering::Relaxed);
            }
            let value = cell.get_or_init(|| async { made.fetch_add(1, Ordering::Relaxed) + 7 }).await;
            assert_eq!(*value, 7);
        }
    };
    everywhere(work.clone(), work());
    assert_eq!((counted.load(Ordering::Relaxed), makes.load(Ordering::Relaxed)), (100, 1));
}

#[test]
fn a_thread_blocks_on_what_a_task_gives() {
    let (question, asked) = oneshot::channel();
    let (answer, answered) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        question.send(6).expect("somebody listens");
        answered.blocking_recv().expect("an answer")
    });
    run(async {
        let asked = rt::timeout(Duration::from_secs(10), asked).await.expect("in time").expect("sent");
        answer.send(asked * 7).expect("somebody listens");
    });
    assert_eq!(thread.join().expect("no panic"), 42);
}

#[test]
fn what_timed_out_leaves_no_trace() {
    run(async {
        let mutex = Mutex::new(());
        let held = mutex.lock().await;
        times_out(mutex.lock()).await;
        drop(held);
        assert!(mutex.try_lock().is_ok());

        let lock = RwLock::new(());
        let held = lock.read().await;
        times_out(lock.write()).await;
        assert!(lock.try_read().is_ok(), "no writer is in the queue any more");
        drop(held);
        assert!(lock.try_write().is_ok());

        let semaphore = Semaphore::new(1);
        times_out(semaphore.acquire_many(2)).await;
        assert!(semaphore.try_acquire().is_ok());

        let notify = Notify::new();
        times_out(notify.notified()).await;
        notify.notify_one();
        rt::timeout(Duration::from_secs(5), notify.notified()).await.expect("it was stored");

        let barrier = Barrier::new(1);
        assert!(barrier.wait().await.is_leader());

        let cell = OnceCell::new();
        times_out(cell.get_or_init(std::future::pending::<u32>)).await;
        assert_eq!(*cell.get_or_init(async || 3).await, 3);

        let (sender, mut receiver) = mpsc::channel(1);
        times_out(receiver.recv()).await;
        sender.send(1).await.expect("open");
        times_out(sender.send(2)).await;
        assert_eq!(receiver.recv().await, Some(1));
        assert!(receiver.try_recv().is_err());
        sender.try_send(3).expect("there is room");
    });
}

#[test]
fn errors_become_those_of_the_crate() {
    async fn refused(number: usize) -> Result<()> {
        let semaphore = Semaphore::new(0);
        let mutex = Mutex::new(());
        let (sender, receiver) = mpsc::channel(1);
        match number {
            0 => drop(semaphore.try_acquire()?),
            1 => {
                let _held = mutex.lock().await;
                drop(mutex.try_lock()?);
            }
            2 => {
                sender.try_send(1)?;
                sender.try_send(2)?;
            }
            3 => {
                drop(receiver);
                sender.send(1).await?;
            }
            4 => {
                let (_, receiver) = oneshot::channel::<()>();
                receiver.await?;
            }
            5 => {
                let (_, mut receiver) = broadcast::channel::<()>(1);
                receiver.recv().await?;
            }
            6 => {
                let (_, mut receiver) = watch::channel(());
                receiver.changed().await?;
            }
            7 => {
                semaphore.close();
                drop(semaphore.acquire().await?);
            }
            8 => {
                let (_sender, mut receiver) = mpsc::channel::<()>(1);
                receiver.try_recv()?;
            }
            9 => {
                let (_, mut receiver) = oneshot::channel::<()>();
                receiver.try_recv()?;
            }
            10 => {
                let (_sender, mut receiver) = broadcast::channel::<()>(1);
                receiver.try_recv()?;
            }
            11 => {
                let (sender, mut receiver) = local::broadcast::channel(1);
                sender.send(1)?;
                sender.send(2)?;
                receiver.try_recv()?;
            }
            12 => {
                let (_, mut receiver) = local::oneshot::channel::<()>();
                receiver.try_recv()?;
            }
            13 => {
                let (_, mut receiver) = local::watch::channel(());
                receiver.changed().await?;
            }
            14 => local::OnceCell::from(1).set(2)?,
            _ => {
                let (_, mut receiver) = local::mpsc::channel::<()>(1);
                receiver.try_recv()?;
            }
        }
        Ok(())
    }
    run(async {
        use ErrorKind::{Closed, InUse, LimitReached, TimedOut};
        let expected = [
            [LimitReached, InUse, LimitReached, Closed].as_slice(),
            &[Closed; 4],
            &[TimedOut, Closed, TimedOut, LimitReached, Closed, Closed, InUse, Closed],
        ]
        .concat();
        for (number, kind) in expected.into_iter().enumerate() {
            let refused =
                rt::timeout(Duration::from_secs(5), refused(number)).await.expect("it does not hang");
            assert_eq!(refused.expect_err("refused").kind(), kind, "{number}");
        }
    });
}

#[test]
fn a_barrier_does_not_count_those_that_stopped_waiting() {
    let (barrier, waker) = (Barrier::new(2), Waker::noop());
    let mut cx = Context::from_waker(waker);
    for _ in 0..3 {
        let mut gives_up = Box::pin(barrier.wait());
        assert!(gives_up.as_mut().poll(&mut cx).is_pending());
        drop(gives_up);
        let mut waits = Box::pin(barrier.wait());
        assert!(waits.as_mut().poll(&mut cx).is_pending(), "nobody else is there");
        let Poll::Ready(last) = Box::pin(barrier.wait()).as_mut().poll(&mut cx) else {
            panic!("both are there");
        };
        let Poll::Ready(first) = waits.as_mut().poll(&mut cx) else { panic!("both are there") };
        assert!(last.is_leader() && !first.is_leader());
    }
}

#[test]
fn a_barrier_lets_all_go_on_though_a_waker_panics() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker of the test panics");
        }
    }
    struct Counts(AtomicUsize);
    impl Wake for Counts {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (barrier, counts) = (Barrier::new(3), Arc::new(Counts(AtomicUsize::new(0))));
    let wakers = [Waker::from(Arc::new(Panics)), Waker::from(Arc::clone(&counts))];
    for meeting in 1..=3 {
        let mut waits = wakers.each_ref().map(|waker| (waker, Box::pin(barrier.wait())));
        for (waker, wait) in &mut waits {
            assert!(wait.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        }
        let last = Box::pin(barrier.wait()).as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(last, Poll::Ready(result) if result.is_leader()));
        assert_eq!(counts.0.load(Ordering::Relaxed), meeting);
        for (waker, wait) in &mut waits {
            assert!(wait.as_mut().poll(&mut Context::from_waker(waker)).is_ready());
        }
    }
}
