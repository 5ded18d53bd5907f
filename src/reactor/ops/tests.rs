//! What becomes of operations when their core ends and the kernel does not.

#![expect(clippy::async_yields_async, reason = "a future that outlives `block_on` is what is tested")]

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

#[path = "../../../tests/support/watched_buffer.rs"]
mod watched_buffer;

pub(in crate::reactor) use watched_buffer::Watched;

use crate::mem::{IoBuf, IoBufMut};
use crate::reactor::ops;
use crate::rt::poller::{Park, Poller};
use crate::rt::reactor::ReactorChoice;
use crate::rt::time::Clock;
use crate::rt::{self, Core, CoreConfig, Instant};

/// The offset that asks for no seeking.
const WHERE_IT_IS: u64 = u64::MAX;

/// A "file" of which a read takes as long as somebody likes.
pub(in crate::reactor) fn slow_file() -> Rc<OwnedFd> {
    // As a semaphore: each write ends one read.
    Rc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE).expect("a descriptor"))
}

/// Reads a slow file, over epoll on a thread: `ops::read` would wait for it to be ready.
pub(in crate::reactor) fn read_slowly<B: IoBufMut>(
    file: &Rc<OwnedFd>,
    buf: B,
) -> impl Future<Output = (std::io::Result<u32>, B)> + Unpin + use<B> {
    ops::read_at(file, WHERE_IT_IS, buf)
}

pub(in crate::reactor) fn finish_read(file: &OwnedFd) {
    rustix::io::write(file, &1u64.to_ne_bytes()).expect("room");
}

/// Goes on by its `step` with each reading.
struct Steps {
    nanos: AtomicU64,
    step: AtomicU64,
}

impl Clock for Steps {
    fn now(&self) -> Instant {
        Instant::from_nanos(self.nanos.fetch_add(self.step.load(Ordering::Relaxed), Ordering::Relaxed))
    }

    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// A subscriber to the log that panics at every warning, and counts them.
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

type Read = Pin<Box<dyn Future<Output = (std::io::Result<u32>, Watched)>>>;

fn poll_once(read: &mut Read) -> bool {
    read.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Begins a read when it is dropped, which is with its core.
struct ReadsAtTheEnd {
    file: Rc<OwnedFd>,
    buffer: Option<Watched>,
    begun: Rc<RefCell<Option<Read>>>,
}

impl Poller for ReadsAtTheEnd {
    fn name(&self) -> &'static str {
        "reads at the end"
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

impl Drop for ReadsAtTheEnd {
    fn drop(&mut self) {
        let mut read: Read = Box::pin(read_slowly(&self.file, self.buffer.take().expect("dropped once")));
        assert!(!poll_once(&mut read));
        self.begun.replace(Some(read));
    }
}

fn a_core_gives_up(reactor: ReactorChoice) {
    let clock = Arc::new(Steps { nanos: AtomicU64::new(0), step: AtomicU64::new(1000) });
    let core = Core::new(&CoreConfig::default().clock(clock.clone()).seed([7; 32]).reactor(reactor))
        .expect("a core");
    let (file, other) = (slow_file(), slow_file());
    let (alive, alive_at_the_end) = (Rc::default(), Rc::default());
    let begun = Rc::default();
    let late = ReadsAtTheEnd {
        file: Rc::clone(&other),
        buffer: Some(Watched::new(8, &alive_at_the_end)),
        begun: Rc::clone(&begun),
    };
    let mut given_up = core.block_on(async {
        let mut given_up: Read = Box::pin(read_slowly(&file, Watched::new(8, &alive)));
        assert!(!poll_once(&mut given_up));
        // Places of operations that are done are free again.
        for _ in 0..2 {
            finish_read(&other);
            read_slowly(&other, Vec::with_capacity(8)).await.0.expect("read");
        }
        rt::poller::register_poller(Rc::new(RefCell::new(late))).keep();
        given_up
    });
    // Nobody has so much patience.
    clock.step.store(1 << 50, Ordering::Relaxed);
    let warnings = Arc::default();
    tracing::subscriber::with_default(PanicsAtWarnings(Arc::clone(&warnings)), || drop(core));
    assert_eq!(warnings.load(Ordering::Relaxed), 1, "it gives up once, and says so once");
    let mut late = begun.take().expect("a destructor of a core's may begin an operation, which has no end");
    assert!(!poll_once(&mut given_up) && !poll_once(&mut late));
    finish_read(&file);
    std::thread::sleep(Duration::from_millis(5));
    // Nobody looks any more whether the kernel is done: their memory is not freed, and not given
    // back.
    assert!(!poll_once(&mut given_up) && !poll_once(&mut late));
    drop((given_up, late));
    assert_eq!((alive.get(), alive_at_the_end.get()), (1, 1));
    finish_read(&other);
}

#[test]
fn what_a_core_with_an_io_uring_gives_up_on_stays_as_it_is() {
    a_core_gives_up(ReactorChoice::Auto);
}

#[test]
fn what_a_core_on_epoll_gives_up_on_stays_as_it_is() {
    a_core_gives_up(ReactorChoice::Epoll);
}

#[test]
fn what_one_operation_drops_when_it_is_given_up_keeps_no_other_from_it() {
    /// Panics if it is the first one.
    struct Guard(Rc<Cell<usize>>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            assert_ne!(self.0.get(), 1, "a destructor panics on purpose");
        }
    }
    let clock = Arc::new(Steps { nanos: AtomicU64::new(0), step: AtomicU64::new(1000) });
    let config = CoreConfig::default().clock(clock.clone()).seed([7; 32]).reactor(ReactorChoice::IoUring);
    let Ok(core) = Core::new(&config) else { return };
    let (dropped, alive) = (Rc::default(), Rc::default());
    let file = slow_file();
    core.block_on(async {
        for _ in 0..3 {
            let guard = Guard(Rc::clone(&dropped));
            let mut send = Box::pin(ops::send_zero_copy(&file, Watched::new(8, &alive), guard));
            assert!(send.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        // Before the core looks whether they are done.
        clock.step.store(1 << 50, Ordering::Relaxed);
    });
    drop(core);
    assert_eq!((dropped.get(), alive.get()), (3, 3), "guards are dropped, buffers are not");
}
