//! Destructors, wakers and pollers that call back into the runtime, and cores that end in odd
//! places.

#![expect(clippy::async_yields_async, reason = "handles that outlive `block_on` are what is tested")]

use crate::support::hooked_waker;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant as StdInstant};

use boson::net::{Net, TcpListener, TcpStream};
use boson::observe;
use boson::rt::poller::{Park, Poller};
use boson::rt::{self, Core, CoreConfig, Instant, JoinError};

const PATIENCE: Duration = Duration::from_secs(10);

fn config() -> CoreConfig {
    CoreConfig::default().seed([7; 32])
}

fn core() -> Core {
    Core::new(&config()).expect("io_uring is usable")
}

fn run<F: Future>(future: F) -> F::Output {
    core().block_on(future)
}

/// Fails, instead of hanging, if `body` takes too long.
fn within_patience(body: impl FnOnce() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    let thread = thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    if let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = wait.recv_timeout(PATIENCE) {
        panic!("it hangs");
    }
    thread.join().expect("no panic");
}

/// Notes on which thread it was dropped.
struct NotesThread(Arc<std::sync::Mutex<Option<ThreadId>>>);

impl Drop for NotesThread {
    fn drop(&mut self) {
        *self.0.lock().expect("no panic") = Some(thread::current().id());
    }
}

/// A task that ends with `output` at its first poll, after it gave its waker away.
async fn give_waker_away<T>(slot: Rc<RefCell<Option<Waker>>>, output: T) -> T {
    std::future::poll_fn(|cx| {
        slot.replace(Some(cx.waker().clone()));
        Poll::Ready(())
    })
    .await;
    output
}

#[test]
fn a_result_nobody_took_is_dropped_on_the_core_even_if_a_waker_outlives_it_elsewhere() {
    // Kept (0) until the core is gone, dropped before the task ends (1), or after (2).
    for handle_dropped in 0..3 {
        let noted = Arc::new(std::sync::Mutex::new(None));
        let waker = Rc::new(RefCell::new(None));
        let core = core();
        let handle = core.block_on(async {
            let task = give_waker_away(Rc::clone(&waker), NotesThread(Arc::clone(&noted)));
            let mut handle = Some(rt::named("result").spawn(task));
            if handle_dropped == 1 {
                handle = None;
            }
            rt::yield_now().await;
            rt::yield_now().await;
            if handle_dropped == 2 {
                handle = None;
            }
            handle
        });
        drop(core);
        drop(handle);
        let waker = waker.take().expect("it was polled");
        thread::spawn(move || drop(waker)).join().expect("no panic");
        let dropped_on = noted.lock().expect("no panic").expect("it was dropped");
        assert_eq!(dropped_on, thread::current().id(), "a result need not be `Send` (case {handle_dropped})");
    }
}

#[test]
fn a_result_that_holds_another_tasks_handle_can_be_dropped_after_the_core() {
    within_patience(|| {
        let core = core();
        let outer = core.block_on(async {
            let outer =
                rt::named("outer").spawn(async { rt::named("inner").spawn(std::future::pending::<()>()) });
            rt::yield_now().await;
            rt::yield_now().await;
            assert!(outer.is_finished());
            outer
        });
        drop(core);
        drop(outer);
    });
}

#[test]
fn tasks_that_hold_each_others_handles_end_with_the_core() {
    within_patience(|| {
        let core = core();
        core.block_on(async {
            let slot = Rc::new(RefCell::new(None));
            let other = Rc::clone(&slot);
            let first = rt::named("first").spawn(async move {
                rt::yield_now().await;
                let second: rt::JoinHandle<()> = other.take().expect("put there");
                drop(second.await);
            });
            slot.replace(Some(rt::named("second").spawn(async move { drop(first.await) })));
            rt::sleep(Duration::from_millis(1)).await;
        });
    });
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("a destructor panics on purpose");
    }
}

#[test]
fn panics_in_the_destructors_of_a_task_stay_in_it() {
    run(async {
        let bomb = PanicsOnDrop;
        let task = rt::named("future").spawn(async move {
            let _bomb = bomb;
            std::future::pending::<()>().await;
        });
        rt::yield_now().await;
        task.cancel();
        assert!(matches!(task.await, Err(JoinError::Panicked(_))));
        drop(rt::named("unwanted result").spawn(async { PanicsOnDrop }));
        rt::yield_now().await;
        rt::yield_now().await;
        assert_eq!(observe::stats().tasks, 1, "that of `block_on`");
    });
}

struct BothPanic(Option<PanicsOnDrop>);

impl Future for BothPanic {
    type Output = PanicsOnDrop;

    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<PanicsOnDrop> {
        let output = self.0.take().expect("polled once");
        self.0 = Some(PanicsOnDrop);
        Poll::Ready(output)
    }
}

#[test]
fn a_future_and_its_result_may_both_panic_in_their_destructors() {
    run(async {
        let task = rt::named("both").spawn(BothPanic(Some(PanicsOnDrop)));
        assert!(matches!(task.await, Err(JoinError::Panicked(_))));
        assert_eq!(observe::stats().tasks, 1, "that of `block_on`");
    });
}

#[test]
fn a_task_can_be_cancelled_from_outside_the_core() {
    let core = core();
    let task = core.block_on(async { rt::named("waits").spawn(std::future::pending::<()>()) });
    task.cancel();
    task.cancel();
    let ended = core.block_on(async { rt::timeout(PATIENCE, task).await });
    assert!(matches!(ended.expect("in time"), Err(JoinError::Cancelled)));
}

#[test]
fn a_task_may_cancel_itself() {
    run(async {
        let slot: Rc<RefCell<Option<rt::JoinHandle<()>>>> = Rc::default();
        let own = Rc::clone(&slot);
        let task = rt::named("itself").spawn(async move {
            own.borrow().as_ref().expect("put there").cancel();
            std::future::pending::<()>().await;
        });
        slot.replace(Some(task));
        rt::yield_now().await;
        rt::yield_now().await;
        assert!(slot.borrow().as_ref().expect("put there").is_finished());
    });
}

/// A connection whose other end never sends.
async fn silent_pair() -> (TcpStream, TcpStream) {
    let net = Net::kernel();
    let listener = TcpListener::bind_on(&net, "127.0.0.1:0".parse().expect("valid")).expect("free port");
    let client = TcpStream::connect_on(&net, listener.local_addr()).await.expect("listening");
    let (server, _) = listener.accept().await.expect("connected");
    (client, server)
}

async fn read_for_ever(dropped: SetOnDrop) {
    let (_client, server) = silent_pair().await;
    let _dropped = dropped;
    drop(server.read(Vec::with_capacity(64 << 10)).await);
}

struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn core_with_a_read_in_flight(dropped: &Rc<Cell<bool>>) -> (Core, rt::JoinHandle<()>) {
    let core = core();
    let dropped = SetOnDrop(Rc::clone(dropped));
    let task = core.block_on(async {
        let task = rt::named("reads").spawn(read_for_ever(dropped));
        rt::sleep(Duration::from_millis(20)).await;
        task
    });
    (core, task)
}

#[test]
fn a_core_with_io_in_flight_can_be_dropped_inside_another_core() {
    let dropped = Rc::new(Cell::new(false));
    let (inner, task) = core_with_a_read_in_flight(&dropped);
    run(async {
        let still_here = rt::named("of the outer core").spawn(async { 5 });
        drop(inner);
        assert!(dropped.get(), "the inner core's task was not dropped");
        assert!(task.is_finished());
        assert_eq!(still_here.await.expect("the outer core goes on"), 5);
    });
}

thread_local! {
    static LAST: RefCell<Option<(Core, rt::JoinHandle<()>)>> = const { RefCell::new(None) };
}

#[test]
fn a_core_in_a_thread_local_ends_with_its_thread() {
    within_patience(|| {
        thread::spawn(|| {
            LAST.with_borrow(|last| assert!(last.is_none()));
            let dropped = Rc::new(Cell::new(false));
            let last = core_with_a_read_in_flight(&dropped);
            LAST.set(Some(last));
        })
        .join()
        .expect("no panic");
    });
}

#[test]
fn what_destructors_spawn_while_the_core_ends_is_dropped_too() {
    struct Spawns(Option<SetOnDrop>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            if let Some(guard) = self.0.take() {
                let task = async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                };
                drop(rt::named("late").spawn(task));
                assert!(observe::stats().tasks > 0);
            }
        }
    }
    impl Poller for Spawns {
        fn name(&self) -> &'static str {
            "spawns when dropped"
        }
        fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
            0
        }
        fn next_deadline(&self) -> Option<Instant> {
            None
        }
        fn park(&mut self) -> Park {
            Park::Idle
        }
    }
    let of_task = Rc::new(Cell::new(false));
    let of_poller = Rc::new(Cell::new(false));
    let core = core();
    core.block_on(async {
        let spawns = Spawns(Some(SetOnDrop(Rc::clone(&of_task))));
        drop(rt::named("spawns when dropped").spawn(async move {
            let _spawns = spawns;
            std::future::pending::<()>().await;
        }));
        let poller = Rc::new(RefCell::new(Spawns(Some(SetOnDrop(Rc::clone(&of_poller))))));
        rt::poller::register_poller(poller).keep();
        rt::yield_now().await;
    });
    drop(core);
    assert!(of_task.get() && of_poller.get());
}

/// Spawns `children` tasks that hold one of these too, whenever it is dropped.
struct Immortal {
    children: usize,
    drops: Rc<Cell<usize>>,
}

impl Drop for Immortal {
    fn drop(&mut self) {
        self.drops.set(self.drops.get() + 1);
        for _ in 0..self.children {
            let child = Self { children: self.children, drops: Rc::clone(&self.drops) };
            let task = async move {
                let _child = child;
                std::future::pending::<()>().await;
            };
            rt::named("immortal").spawn(task).detach();
        }
    }
}

/// A core with this many such tasks, and others before and after them; how many of each kind were
/// dropped when it has ended.
fn end_with_immortals(immortals: usize, children: usize) -> (usize, usize) {
    const MORTALS: usize = 10;
    let core = core();
    let (drops, mortals) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    core.block_on(async {
        let mortal = |number: usize| {
            let mortals = Rc::clone(&mortals);
            rt::named("mortal")
                .spawn(async move {
                    let _guard = Immortal { children: 0, drops: mortals };
                    rt::sleep(Duration::from_secs(60 + number as u64)).await;
                })
                .detach();
        };
        (0..MORTALS).for_each(mortal);
        for _ in 0..immortals {
            let immortal = Immortal { children, drops: Rc::clone(&drops) };
            rt::named("immortal")
                .spawn(async move {
                    let _immortal = immortal;
                    std::future::pending::<()>().await;
                })
                .detach();
        }
        (0..MORTALS).for_each(mortal);
        rt::yield_now().await;
    });
    drop(core);
    assert_eq!(mortals.get(), 2 * MORTALS, "a task that could end did not");
    (drops.get(), rt_tasks_at_most(immortals + 4 * MORTALS))
}

/// What destructors may spawn while a core ends, as documented.
fn rt_tasks_at_most(tasks_and_timers: usize) -> usize {
    1000 + 10 * tasks_and_timers
}

#[test]
fn a_core_ends_though_destructors_spawn_without_end() {
    within_patience(|| {
        for (immortals, children) in [(1, 1), (3, 2), (2, 100)] {
            let (drops, at_most) = end_with_immortals(immortals, children);
            assert!(drops >= immortals && drops <= at_most, "{drops} drops, {immortals} immortals");
        }
    });
}

/// A waker whose destructor starts a timer with such a waker.
#[test]
fn a_core_ends_though_destructors_start_timers_without_end() {
    use hooked_waker::Hook;
    fn start_timer(drops: &Rc<Cell<usize>>) {
        let hook = Hook::new();
        let waker = hook.waker();
        let mut sleep = Box::pin(rt::sleep(Duration::from_secs(60)));
        assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        // The wheel's is left.
        std::mem::forget((sleep, waker));
        let drops = Rc::clone(drops);
        *hook.on_drop.borrow_mut() = Some(Box::new(move || {
            drops.set(drops.get() + 1);
            start_timer(&drops);
        }));
    }
    within_patience(|| {
        let core = core();
        let drops = Rc::new(Cell::new(0));
        core.block_on(async { start_timer(&drops) });
        drop(core);
        assert!(drops.get() > 0 && drops.get() <= rt_tasks_at_most(1), "{} drops", drops.get());
    });
}

/// Holds another poller's registration, and drops it with itself or when it is asked to park.
struct Chained {
    next: Option<rt::poller::PollerRegistration>,
    let_go_in_park: bool,
}

impl Poller for Chained {
    fn name(&self) -> &'static str {
        "chained"
    }
    fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
        0
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn park(&mut self) -> Park {
        if self.let_go_in_park {
            self.next = None;
        }
        Park::Idle
    }
}

#[test]
fn a_poller_may_own_anothers_registration() {
    for let_go_in_park in [false, true] {
        run(async {
            let last = Rc::new(RefCell::new(Chained { next: None, let_go_in_park }));
            let next = Some(rt::poller::register_poller(last));
            rt::poller::register_poller(Rc::new(RefCell::new(Chained { next, let_go_in_park }))).keep();
            rt::sleep(Duration::from_millis(5)).await;
        });
    }
}

/// Wakes a task when asked to park, and says that it did nothing.
struct WakesInPark(Rc<RefCell<Option<Waker>>>);

impl Poller for WakesInPark {
    fn name(&self) -> &'static str {
        "wakes in park"
    }
    fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
        0
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn park(&mut self) -> Park {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
        Park::Idle
    }
}

#[test]
fn a_task_woken_while_the_core_prepares_to_sleep_is_not_forgotten() {
    within_patience(|| {
        run(async {
            let slot = Rc::new(RefCell::new(None));
            rt::poller::register_poller(Rc::new(RefCell::new(WakesInPark(Rc::clone(&slot))))).keep();
            let mut polled = false;
            let task = rt::named("waits for the poller").spawn(async move {
                std::future::poll_fn(|cx| {
                    if std::mem::replace(&mut polled, true) {
                        return Poll::Ready(());
                    }
                    slot.replace(Some(cx.waker().clone()));
                    Poll::Pending
                })
                .await;
            });
            task.await.expect("no panic");
        });
    });
}

/// Counts what arrives at an eventfd, and sleeps until something does.
struct Watches {
    descriptor: OwnedFd,
    waker: Rc<RefCell<Option<Waker>>>,
}

impl Poller for Watches {
    fn name(&self) -> &'static str {
        "watches"
    }
    fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
        let arrived = rustix::io::read(&self.descriptor, &mut [0u8; 8]).is_ok();
        if arrived && let Some(waker) = self.waker.take() {
            waker.wake();
        }
        usize::from(arrived)
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn park(&mut self) -> Park {
        Park::Wake(self.descriptor.as_raw_fd())
    }
}

fn eventfd_at(number: Option<RawFd>) -> OwnedFd {
    use rustix::event::{EventfdFlags, eventfd};
    let made = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("a descriptor");
    if let Some(number) = number {
        assert_eq!(made.as_raw_fd(), number, "the test needs the number again");
    }
    made
}

#[test]
fn a_new_poller_is_woken_by_a_descriptor_with_an_old_ones_number() {
    // A process of its own is not needed: the number is taken again before another test can.
    within_patience(|| {
        run(async {
            let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
            let high = rustix::io::fcntl_dupfd_cloexec(eventfd_at(None), 700).expect("a high number");
            let number = high.as_raw_fd();
            let old = Watches { descriptor: high, waker: Rc::clone(&waker) };
            let registration = rt::poller::register_poller(Rc::new(RefCell::new(old)));
            // Long enough for the core to sleep with the descriptor watched.
            rt::sleep(Duration::from_millis(20)).await;
            drop(registration);
            let made = eventfd_at(None);
            let high = rustix::io::fcntl_dupfd_cloexec(&made, number).expect("a high number");
            assert_eq!(high.as_raw_fd(), number);
            let new = Watches { descriptor: high, waker: Rc::clone(&waker) };
            rt::poller::register_poller(Rc::new(RefCell::new(new))).keep();
            let other = thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                rustix::io::write(&made, &1u64.to_ne_bytes()).expect("room");
            });
            let mut waited = false;
            std::future::poll_fn(|cx| {
                if std::mem::replace(&mut waited, true) && waker.borrow().is_none() {
                    return Poll::Ready(());
                }
                waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            })
            .await;
            other.join().expect("no panic");
        });
    });
}

type Held = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
}

/// A waker that drops the future in `HELD` when it is woken, and when it is itself dropped.
struct DropsHeld;

impl Wake for DropsHeld {
    fn wake(self: Arc<Self>) {
        drop(HELD.take());
    }
}

impl Drop for DropsHeld {
    fn drop(&mut self) {
        drop(HELD.take());
    }
}

fn poll_with(future: &mut Held, waker: &Waker) {
    assert!(future.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
}

/// Polls `first` with a waker that drops `held` (polled already), and then does what `then` says.
async fn drop_from_a_waker(mut first: Held, mut held: Held, then: impl AsyncFnOnce(Held)) {
    poll_with(&mut held, Waker::noop());
    HELD.set(Some(held));
    poll_with(&mut first, &Waker::from(Arc::new(DropsHeld)));
    then(first).await;
    assert!(HELD.take().is_none(), "the waker was neither woken nor dropped");
}

fn sleep(duration: Duration) -> Held {
    Box::pin(rt::sleep(duration))
}

fn read(stream: &Rc<TcpStream>) -> Held {
    let stream = Rc::clone(stream);
    Box::pin(async move { drop(stream.read(vec![0; 64 << 10]).await) })
}

#[test]
fn wakers_may_drop_timers() {
    run(async {
        // Woken by the wheel.
        drop_from_a_waker(sleep(Duration::from_millis(2)), sleep(PATIENCE), async |_first| {
            rt::sleep(Duration::from_millis(10)).await;
        })
        .await;
        // Replaced by another waker.
        drop_from_a_waker(sleep(PATIENCE), sleep(PATIENCE), async |mut first| {
            poll_with(&mut first, Waker::noop());
        })
        .await;
        // Dropped with the timer.
        drop_from_a_waker(sleep(PATIENCE), sleep(PATIENCE), async |first| drop(first)).await;
    });
}

#[test]
fn wakers_may_drop_io_in_flight() {
    run(async {
        let (client, server) = silent_pair().await;
        let (client, server) = (Rc::new(client), Rc::new(server));
        // Replaced by another waker.
        drop_from_a_waker(read(&client), read(&server), async |mut first| {
            poll_with(&mut first, Waker::noop());
        })
        .await;
        rt::sleep(Duration::from_millis(5)).await;
        // Dropped with the operation.
        drop_from_a_waker(read(&client), read(&server), async |first| drop(first)).await;
        rt::sleep(Duration::from_millis(5)).await;
        // Woken by a completion.
        drop_from_a_waker(read(&client), read(&server), async |_first| {
            server.write(b"x".to_vec()).await.expect("connected");
            rt::sleep(Duration::from_millis(5)).await;
        })
        .await;
        rt::sleep(Duration::from_millis(5)).await;
    });
}

#[test]
fn wakers_may_drop_waiters_of_a_notify() {
    fn wait(notify: &Rc<boson::sync::local::Notify>) -> Held {
        let notify = Rc::clone(notify);
        Box::pin(async move { notify.notified().await })
    }
    run(async {
        let notify = Rc::new(boson::sync::local::Notify::new());
        drop_from_a_waker(wait(&notify), wait(&notify), async |mut first| {
            poll_with(&mut first, Waker::noop());
        })
        .await;
        drop_from_a_waker(wait(&notify), wait(&notify), async |first| drop(first)).await;
        drop_from_a_waker(wait(&notify), wait(&notify), async |_first| notify.notify_all()).await;
    });
}

#[test]
fn a_timer_of_one_core_polled_on_another_leaves_that_ones_timers_alone() {
    let first = core();
    let mut stray = first.block_on(async {
        let mut stray = Box::pin(rt::sleep(PATIENCE));
        assert!(stray.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        stray
    });
    run(async {
        let task = rt::named("sleeper").spawn(rt::sleep(Duration::from_millis(5)));
        rt::yield_now().await;
        rt::yield_now().await;
        assert!(stray.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        rt::timeout(Duration::from_secs(1), task).await.expect("its own timer fires").expect("no panic");
    });
}

#[test]
fn ending_a_core_takes_time_in_proportion_to_its_tasks() {
    let core = core();
    core.block_on(async {
        for _ in 0..100_000 {
            drop(rt::named("waits").spawn(std::future::pending::<()>()));
        }
        rt::yield_now().await;
    });
    let started = StdInstant::now();
    drop(core);
    assert!(started.elapsed() < Duration::from_secs(3), "took {:?}", started.elapsed());
}

#[test]
fn a_notification_of_a_waiter_that_is_dropped_goes_to_the_next() {
    run(async {
        let notify = Rc::new(boson::sync::local::Notify::new());
        let mut first = Box::pin(notify.notified());
        let mut second = Box::pin(notify.notified());
        let mut third = Box::pin(notify.notified());
        let mut cx = Context::from_waker(Waker::noop());
        for waiter in [&mut first, &mut second, &mut third] {
            assert!(waiter.as_mut().poll(&mut cx).is_pending());
        }
        assert!(notify.notify_one());
        drop(first);
        assert!(second.as_mut().poll(&mut cx).is_ready());
        drop(second);
        assert!(third.as_mut().poll(&mut cx).is_pending(), "it was passed on once too often");
        // Everybody was told: there is nothing to pass on.
        notify.notify_all();
        let mut fourth = Box::pin(notify.notified());
        assert!(fourth.as_mut().poll(&mut cx).is_pending(), "it waits only from here on");
        drop(third);
        assert!(fourth.as_mut().poll(&mut cx).is_pending());
    });
}

#[test]
fn a_core_thread_may_be_dropped_on_its_own_core() {
    within_patience(|| {
        let thread = rt::CoreThread::start("itself", &config()).expect("a thread");
        let handle = thread.handle().clone();
        let dropped = rt::named("drops its own core").spawn_on(&handle, move || async move { drop(thread) });
        assert!(run(dropped).is_ok(), "the task panicked");
    });
}

#[test]
fn a_flood_of_messages_leaves_timers_their_turn() {
    within_patience(|| {
        let core = core();
        let handle = core.handle();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let flood = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    drop(rt::named("drop in the flood").spawn_on(&handle, || async {}));
                }
            }
        });
        let mut all = core.block_on(async {
            let mut all = Vec::new();
            for _ in 0..100 {
                let started = rt::now();
                rt::sleep(Duration::from_millis(1)).await;
                all.push(rt::now() - started);
            }
            all
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        flood.join().expect("no panic");
        // Not the longest: a busy machine may take the processor away for that long once.
        all.sort_unstable();
        assert!(
            all[50] < Duration::from_millis(250),
            "half of the timers of 1 ms took {:?} and more",
            all[50]
        );
    });
}

#[test]
fn tasks_that_messages_make_are_few_between_two_turns_of_another() {
    const MESSAGES: u64 = 10_000;
    /// Twice what a round takes in: what came in the round before, and what comes in this one.
    const MOST: u64 = 512;
    let core = core();
    let handle = core.handle();
    let ran = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for _ in 0..MESSAGES {
        let ran = Arc::clone(&ran);
        // Longer than a turn: each turn runs one of them.
        let works = move || async move {
            let started = StdInstant::now();
            while started.elapsed() < Duration::from_micros(20) {}
            ran.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        drop(rt::named("works").spawn_on(&handle, works));
    }
    let most = core.block_on(async {
        let (mut most, mut before) = (0, 0);
        while before < MESSAGES {
            rt::yield_now().await;
            let now = ran.load(std::sync::atomic::Ordering::Relaxed);
            most = most.max(now - before);
            before = now;
        }
        most
    });
    assert!(most <= MOST, "{most} other tasks had their turn before this one's");
}

/// Looks at how many tasks were woken by other threads from one turn to the next.
struct WatchesWakes {
    before: u64,
    most: Rc<Cell<u64>>,
}

impl Poller for WatchesWakes {
    fn name(&self) -> &'static str {
        "watches wakes"
    }
    fn poll(&mut self, _now: Instant, _budget: usize) -> usize {
        let wakes = observe::stats().remote_wakes;
        self.most.set(self.most.get().max(wakes - self.before));
        self.before = wakes;
        0
    }
    fn next_deadline(&self) -> Option<Instant> {
        None
    }
    fn park(&mut self) -> Park {
        Park::Idle
    }
}

#[test]
fn a_flood_of_wakes_leaves_devices_their_turn_and_keeps_its_order() {
    const TASKS: usize = 20_000;
    /// As many as timers.
    const PER_TURN: u64 = 256;
    let order = run(async {
        let wakers = Rc::new(RefCell::new(Vec::new()));
        let order = Rc::new(RefCell::new(Vec::new()));
        let waits = |number: usize| {
            let (wakers, order) = (Rc::clone(&wakers), Rc::clone(&order));
            rt::named("waits").spawn(async move {
                let mut waited = false;
                std::future::poll_fn(|cx| {
                    if std::mem::replace(&mut waited, true) {
                        return Poll::Ready(());
                    }
                    wakers.borrow_mut().push(cx.waker().clone());
                    Poll::Pending
                })
                .await;
                order.borrow_mut().push(number);
            })
        };
        let tasks: Vec<_> = (0..TASKS).map(waits).collect();
        while wakers.borrow().len() < TASKS {
            rt::yield_now().await;
        }
        let most = Rc::new(Cell::new(0));
        let watches = WatchesWakes { before: observe::stats().remote_wakes, most: Rc::clone(&most) };
        rt::poller::register_poller(Rc::new(RefCell::new(watches))).keep();
        // The core takes none of them meanwhile.
        let woken = wakers.take();
        let thread = thread::spawn(move || woken.into_iter().rev().for_each(Waker::wake));
        thread.join().expect("no panic");
        for task in tasks {
            task.await.expect("no panic");
        }
        assert!((1..=PER_TURN).contains(&most.get()), "{} wakes in a turn", most.get());
        order.take()
    });
    assert!(
        order.iter().rev().copied().eq(0..TASKS),
        "they did not run in the order in which they were woken"
    );
}

#[test]
fn a_core_may_end_with_wakes_that_it_has_taken_in_part() {
    const TASKS: usize = 10_000;
    let wakers = Rc::new(RefCell::new(Vec::new()));
    let core = core();
    core.block_on(async {
        for _ in 0..TASKS {
            rt::named("waits").spawn(give_waker_away_for_ever(Rc::clone(&wakers))).detach();
        }
        while wakers.borrow().len() < TASKS {
            rt::yield_now().await;
        }
        let first = wakers.take();
        let second = first.clone();
        thread::spawn(move || first.into_iter().for_each(Waker::wake)).join().expect("no panic");
        let before = observe::stats().remote_wakes;
        while observe::stats().remote_wakes == before {
            rt::yield_now().await;
        }
        assert!(observe::stats().remote_wakes - before < TASKS as u64, "all were taken at once");
        wakers.replace(second);
    });
    let outlive = wakers.take();
    drop(core);
    thread::spawn(move || drop(outlive)).join().expect("no panic");
}

/// Waits forever, and gives its waker away at its first poll.
async fn give_waker_away_for_ever(wakers: Rc<RefCell<Vec<Waker>>>) {
    let mut given = false;
    std::future::poll_fn(|cx| {
        if !std::mem::replace(&mut given, true) {
            wakers.borrow_mut().push(cx.waker().clone());
        }
        Poll::<()>::Pending
    })
    .await;
}

#[test]
fn what_a_task_locals_destructor_puts_into_another_is_dropped_on_the_core_too() {
    struct SetsAnother(Option<NotesThread>);
    impl Drop for SetsAnother {
        fn drop(&mut self) {
            LATE.set(self.0.take().expect("dropped once"));
        }
    }
    rt::task_local! {
        static EARLY: SetsAnother;
        static LATE: NotesThread;
    }
    let noted = Arc::new(std::sync::Mutex::new(None));
    let waker = Rc::new(RefCell::new(None));
    let core = core();
    core.block_on(async {
        let (late, task) = (NotesThread(Arc::clone(&noted)), give_waker_away(Rc::clone(&waker), ()));
        let task = async move {
            EARLY.set(SetsAnother(Some(late)));
            task.await;
        };
        rt::named("local").spawn(task).await.expect("no panic");
    });
    drop(core);
    let waker = waker.take().expect("it was polled");
    thread::spawn(move || drop(waker)).join().expect("no panic");
    let dropped_on = noted.lock().expect("no panic").expect("it was dropped");
    assert_eq!(dropped_on, thread::current().id(), "a local need not be `Send`");
}
