//! Row 5: a million timers.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use crate::report::{Better, Row, print};
use crate::runtimes::{Boson, Runtime, Tokio};

const TIMERS: usize = 1_000_000;
/// Within which the deadlines lie.
const SPREAD: Duration = Duration::from_secs(2);
/// Gives up on a runtime that does not fire.
const PATIENCE: Duration = Duration::from_secs(60);

/// The phases of one round, in nanoseconds per timer.
const PHASES: [&str; 4] = [
    "insert, a million waiting at the end",
    "insert and cancel one, a million waiting",
    "cancel a million",
    "fire a million that are due",
];

struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Deadlines in an order that is neither sorted nor random per run.
fn delay(i: usize) -> Duration {
    let step = SPREAD.as_nanos() as u64 / TIMERS as u64;
    let scattered = (i as u64).wrapping_mul(2_654_435_761) % TIMERS as u64;
    Duration::from_nanos(step * (scattered + 1))
}

/// Starts a million timers that are due `later` after their delay; the time is that of their first
/// polls.
fn insert<S: Future<Output = ()>>(sleeps: &mut [Pin<Box<S>>], waker: &Waker) -> f64 {
    let mut cx = Context::from_waker(waker);
    let start = Instant::now();
    for sleep in sleeps {
        assert!(sleep.as_mut().poll(&mut cx).is_pending(), "not due yet");
    }
    nanos_each(start)
}

fn nanos_each(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64 / TIMERS as f64
}

fn round<R: Runtime>() -> [f64; PHASES.len()] {
    R::run(async {
        let counter = Arc::new(Counter(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&counter));
        // A task's first turn may be before the runtime's timers run.
        R::sleep(Duration::from_millis(1)).await;

        let mut sleeps: Vec<_> =
            (0..TIMERS).map(|i| Box::pin(R::sleep(Duration::from_secs(60) + delay(i)))).collect();
        let inserted = insert(&mut sleeps, &waker);
        let mut cx = Context::from_waker(&waker);
        let start = Instant::now();
        for i in 0..TIMERS {
            let sleep = pin!(R::sleep(Duration::from_secs(30) + delay(i)));
            assert!(sleep.poll(&mut cx).is_pending(), "not due yet");
        }
        let one = nanos_each(start);
        let start = Instant::now();
        drop(sleeps);
        let cancelled = nanos_each(start);

        let mut sleeps: Vec<_> =
            (0..TIMERS).map(|i| Box::pin(R::sleep(Duration::from_secs(2) + delay(i)))).collect();
        insert(&mut sleeps, &waker);
        assert_eq!(counter.0.load(Ordering::Relaxed), 0, "nothing was due while they were inserted");
        // Until every one is due, without giving the runtime a turn.
        std::thread::sleep(Duration::from_secs(2) + SPREAD + Duration::from_millis(10));
        let start = Instant::now();
        while counter.0.load(Ordering::Relaxed) < TIMERS {
            assert!(start.elapsed() < PATIENCE, "every timer fires");
            R::yield_now().await;
        }
        [inserted, one, cancelled, nanos_each(start)]
    })
}

pub fn compare_timers(rounds: usize) {
    type Round = fn() -> [f64; PHASES.len()];
    let peers: [(&str, Round); 2] = [("boson", round::<Boson>), ("tokio", round::<Tokio>)];
    let mut results = vec![vec![Vec::new(); peers.len()]; PHASES.len()];
    for _ in 0..rounds {
        for (peer, (_, round)) in peers.iter().enumerate() {
            for (phase, nanos) in round().into_iter().enumerate() {
                results[phase][peer].push(nanos);
            }
        }
    }
    for (phase, results) in PHASES.iter().zip(results) {
        let rows: Vec<Row> = peers
            .iter()
            .zip(results)
            .map(|((name, _), results)| Row::new(name, Better::Lower, results, String::new()))
            .collect();
        print(&format!("timers: {phase}"), "ns per timer", &rows);
    }
}
