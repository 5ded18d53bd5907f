//! Wakers, pollers and destructors that panic where the core itself calls them: what they break is
//! theirs alone.

use crate::support::hooked_waker;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use boson::rt::poller::{Park, Poller};
use boson::rt::{self, CancelToken, Core, CoreConfig, Instant, JoinError};
use hooked_waker::Hook;

const MOMENT: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(10);

fn core() -> Core {
    Core::new(&CoreConfig::default().seed([7; 32])).expect("io_uring is usable")
}

struct SetOnDrop(Rc<Cell<bool>>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

/// A waker that panics when it is woken.
fn panicking_waker() -> Waker {
    let hook = Hook::new();
    *hook.on_wake.borrow_mut() = Some(Box::new(|| panic!("a waker panics on purpose")));
    hook.waker()
}

/// A waker that panics when one of its clones is dropped, once.
fn waker_that_panics_when_it_is_dropped() -> Waker {
    let hook = Hook::new();
    *hook.on_drop.borrow_mut() = Some(Box::new(|| panic!("a waker's destructor panics on purpose")));
    hook.waker()
}

/// A subscriber to the log that panics at every warning, and counts them.
#[derive(Clone, Default)]
struct PanicsAtWarnings(Arc<AtomicUsize>);

impl tracing::Subscriber for PanicsAtWarnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _attributes: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}
    fn event(&self, _event: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("a subscriber panics on purpose");
    }
    fn enter(&self, _span: &tracing::span::Id) {}
    fn exit(&self, _span: &tracing::span::Id) {}
}

/// Whether the core behind `handle` takes no messages any more, and says so.
fn is_closed(handle: &rt::Handle) -> bool {
    let mut join = pin!(handle.run(|| ()));
    let polled = join.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    matches!(polled, Poll::Ready(Err(JoinError::Cancelled)))
}

/// Hands out the waker of the task that awaits it, forever.
async fn show_waker(slot: Rc<RefCell<Option<Waker>>>) {
    std::future::poll_fn(|cx| {
        *slot.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

/// A core with a task that a waker elsewhere outlives, and what tells whether its future was
/// dropped.
fn core_with_a_waiting_task() -> (Core, Rc<Cell<bool>>, Waker) {
    let core = core();
    let (dropped, waker) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(None)));
    let guard = SetOnDrop(Rc::clone(&dropped));
    core.block_on(async {
        let shown = show_waker(Rc::clone(&waker));
        rt::named("waits")
            .spawn(async move {
                let _guard = guard;
                shown.await;
            })
            .detach();
        rt::yield_now().await;
    });
    let waker = waker.take().expect("it was polled");
    (core, dropped, waker)
}

/// Ends the core: whole, whatever panics meanwhile. The waker must find what it points to.
fn ends_whole(core: Core, dropped: &Cell<bool>, waker: Waker) {
    let handle = core.handle();
    let ended = catch_unwind(AssertUnwindSafe(|| drop(core)));
    assert!(dropped.get(), "a task was left over");
    assert!(is_closed(&handle), "the inbox was left open");
    assert!(ended.is_ok(), "a foreign panic came out of the core's destructor");
    drop(handle);
    std::thread::spawn(move || waker.wake()).join().expect("no panic");
}

#[test]
fn a_core_ends_whole_though_a_joiners_waker_panics() {
    let (core, dropped, waker) = core_with_a_waiting_task();
    let spawned = core.block_on(async { Some(rt::named("joined").spawn(std::future::pending::<()>())) });
    let mut joined = spawned.expect("the ring works");
    let joiner = panicking_waker();
    assert!(Pin::new(&mut joined).poll(&mut Context::from_waker(&joiner)).is_pending());
    ends_whole(core, &dropped, waker);
    assert!(joined.is_finished());
}

#[test]
fn a_core_ends_whole_though_a_pollers_destructor_panics() {
    struct PanicsOnDrop;
    impl Poller for PanicsOnDrop {
        fn name(&self) -> &'static str {
            "panics on drop"
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
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("a poller's destructor panics on purpose");
        }
    }
    let (core, dropped, waker) = core_with_a_waiting_task();
    core.block_on(async { rt::poller::register_poller(Rc::new(RefCell::new(PanicsOnDrop))).keep() });
    ends_whole(core, &dropped, waker);
}

#[test]
fn a_core_ends_whole_though_the_destructors_of_messages_and_timers_panic() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("what a message holds panics on purpose");
        }
    }
    let (core, dropped, waker) = core_with_a_waiting_task();
    // Two of each: a second panic while the first one unwinds would end the process.
    for _ in 0..2 {
        let held = PanicsOnDrop;
        drop(core.handle().run(move || drop(held)));
    }
    let mut sleeps: Vec<_> = (0..2).map(|_| Box::pin(rt::sleep(PATIENCE))).collect();
    core.block_on(async {
        for sleep in &mut sleeps {
            let waker = waker_that_panics_when_it_is_dropped();
            assert!(sleep.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            std::mem::forget(waker);
        }
    });
    ends_whole(core, &dropped, waker);
    drop(sleeps);
}

#[test]
fn a_core_ends_whole_though_a_subscriber_panics_at_its_warning() {
    /// Has a successor, forever.
    struct Again;
    impl Drop for Again {
        fn drop(&mut self) {
            if rt::is_in_core() {
                let successor = Again;
                rt::named("again")
                    .spawn(async move {
                        let _successor = successor;
                        std::future::pending::<()>().await;
                    })
                    .detach();
            }
        }
    }
    let (core, dropped, waker) = core_with_a_waiting_task();
    core.block_on(async { drop(Again) });
    let subscriber = PanicsAtWarnings::default();
    let warnings = Arc::clone(&subscriber.0);
    tracing::subscriber::with_default(subscriber, || ends_whole(core, &dropped, waker));
    assert_eq!(warnings.load(Ordering::Relaxed), 1, "of tasks without end");
}

#[test]
fn a_call_whose_caller_panics_is_counted_and_costs_the_core_nothing() {
    struct PanicsOnDrop;
    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            panic!("a result's destructor panics on purpose");
        }
    }
    let core = core();
    let handle = core.handle();
    drop(handle.run(|| PanicsOnDrop));
    let mut broken = pin!(handle.run(|| 1));
    assert!(broken.as_mut().poll(&mut Context::from_waker(&panicking_waker())).is_pending());
    let healthy = handle.run(|| 2);
    let ran = catch_unwind(AssertUnwindSafe(|| core.block_on(healthy)));
    assert_eq!(ran.expect("a foreign panic ended `block_on`").expect("the ring works"), 2);
    assert_eq!(core.stats().panicked, 1, "the destructor; the waker is not the call's");
    assert!(matches!(broken.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(1))));
}

#[test]
fn a_waker_that_panics_costs_no_other_waiter_of_a_token_its_wake() {
    let token = CancelToken::new();
    let child = token.child();
    let healthy: Vec<&Hook> = (0..3).map(|_| Hook::new()).collect();
    let mut broken = Box::pin(token.cancelled());
    assert!(broken.as_mut().poll(&mut Context::from_waker(&panicking_waker())).is_pending());
    let mut waits: Vec<_> =
        [&token, &child, &child].into_iter().map(|token| Box::pin(token.cancelled())).collect();
    for (wait, hook) in waits.iter_mut().zip(&healthy) {
        assert!(hook.poll(wait).is_pending());
    }
    let cancelled = catch_unwind(AssertUnwindSafe(|| token.cancel()));
    assert!(child.is_cancelled(), "the cancellation stopped half way");
    assert!(healthy.iter().all(|hook| hook.take_wakes() == 1), "somebody was not woken");
    assert!(cancelled.is_ok(), "a foreign panic came out of `cancel`");
}

#[test]
fn a_waker_that_panics_costs_no_other_timer_its_wake() {
    let core = core();
    let mut broken = Box::pin(rt::sleep(MOMENT));
    let waker = panicking_waker();
    let woken = core.block_on(async {
        assert!(broken.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let healthy: Vec<_> = (0..10).map(|_| rt::named("sleeps").spawn(rt::sleep(MOMENT))).collect();
        rt::yield_now().await;
        // All of them are due at once.
        std::thread::sleep(2 * MOMENT);
        healthy
    });
    let all = async {
        for task in woken {
            task.await.expect("no panic");
        }
    };
    core.block_on(rt::timeout(PATIENCE, all)).expect("every timer fires");
}

#[test]
fn a_core_ends_whole_though_the_waker_of_its_io_panics() {
    use boson::net::{Net, TcpListener, TcpStream};
    let (core, dropped, waker) = core_with_a_waiting_task();
    let reads = core.block_on(async {
        let net = Net::kernel();
        let listener = TcpListener::bind_on(&net, "127.0.0.1:0".parse().expect("valid")).expect("free port");
        let mut reads = Vec::new();
        for _ in 0..3 {
            let client = TcpStream::connect_on(&net, listener.local_addr()).await.expect("listening");
            let (server, _) = listener.accept().await.expect("connected");
            reads.push(Box::pin(async move {
                let _client = client;
                drop(server.read(Vec::with_capacity(16)).await);
            }));
        }
        for read in &mut reads {
            assert!(read.as_mut().poll(&mut Context::from_waker(&panicking_waker())).is_pending());
        }
        rt::sleep(MOMENT).await;
        reads
    });
    ends_whole(core, &dropped, waker);
    // The kernel is done with every one of them: the ring, which goes with the last, checks that.
    drop(reads);
}
