//! Row 4: mutex, semaphore and channel between two tasks, of one core and of two.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use boson::sync::{self as boson_sync, local};

use crate::machine;
use crate::report::{Better, compare, entry};
use crate::runtimes::{Boson, Runtime, Tokio};

const SAME_CORE: usize = 500_000;
const ACROSS: usize = 50_000;

fn nanos_each(start: Instant, count: usize) -> f64 {
    start.elapsed().as_nanos() as f64 / count as f64
}

/// Two tasks of one core.
fn both<R, A, B>(count: usize, a: impl FnOnce() -> A + 'static, b: impl FnOnce() -> B + 'static) -> f64
where
    R: Runtime,
    A: Future<Output = ()> + 'static,
    B: Future<Output = ()> + 'static,
{
    R::run(async move {
        let start = Instant::now();
        let a = R::spawn(a());
        R::spawn(b()).await;
        a.await;
        nanos_each(start, count)
    })
}

/// Two tasks, each on a core of its own.
fn across<R, A, B>(
    count: usize,
    a: impl FnOnce() -> A + Send + 'static,
    b: impl FnOnce() -> B + Send + 'static,
) -> f64
where
    R: Runtime,
    A: Future<Output = ()> + 'static,
    B: Future<Output = ()> + 'static,
{
    let barrier = Arc::new(std::sync::Barrier::new(2));
    let theirs = Arc::clone(&barrier);
    let other = thread::spawn(move || {
        machine::pin(1);
        R::run(async move {
            theirs.wait();
            R::spawn(b()).await;
        });
    });
    let this = thread::spawn(move || {
        machine::pin(0);
        R::run(async move {
            barrier.wait();
            let start = Instant::now();
            R::spawn(a()).await;
            nanos_each(start, count)
        })
    });
    let nanos = this.join().expect("the measurement ends well");
    other.join().expect("the measurement ends well");
    nanos
}

/// Each task takes the mutex `$count` times. On one core it holds it across a yield, so that the
/// other one has to wait.
macro_rules! mutex {
    ($how:ident, $runtime:ty, $count:expr, $mutex:expr, |$it:ident| $lock:expr) => {{
        let first = $mutex;
        let second = first.clone();
        $how::<$runtime, _, _>(
            $count,
            mutex!(@turns $how, $runtime, $count, first, |$it| $lock),
            mutex!(@turns $how, $runtime, $count, second, |$it| $lock),
        )
    }};
    (@turns $how:ident, $runtime:ty, $count:expr, $mutex:ident, |$it:ident| $lock:expr) => {{
        let $it = $mutex;
        move || async move {
            for _ in 0..$count {
                let mut guard = $lock;
                *guard += 1u64;
                if stringify!($how) == "both" {
                    <$runtime>::yield_now().await;
                }
            }
        }
    }};
}

/// A permit goes to and fro.
macro_rules! semaphore {
    ($how:ident, $runtime:ty, $count:expr, $semaphore:expr, |$it:ident| $acquire:expr) => {{
        let (ping, pong) = ($semaphore, $semaphore);
        let (ping_there, pong_there) = (ping.clone(), pong.clone());
        $how::<$runtime, _, _>(
            $count,
            move || async move {
                for _ in 0..$count {
                    ping.add_permits(1);
                    let $it = &pong;
                    $acquire.forget();
                }
            },
            move || async move {
                for _ in 0..$count {
                    let $it = &ping_there;
                    $acquire.forget();
                    pong_there.add_permits(1);
                }
            },
        )
    }};
}

/// A number goes to and fro through two channels of one place each.
macro_rules! channel {
    ($how:ident, $runtime:ty, $count:expr, $channel:expr, $send:ident, $receive:ident) => {{
        let ((ping_in, ping_out), (pong_in, pong_out)) = ($channel, $channel);
        $how::<$runtime, _, _>(
            $count,
            move || async move {
                #[allow(unused_mut, reason = "some receive through a shared reference")]
                let mut pong_out = pong_out;
                for i in 0..$count {
                    ping_in.$send(i).await.expect("open");
                    std::hint::black_box(pong_out.$receive().await.into_iter().next().expect("open"));
                }
            },
            move || async move {
                #[allow(unused_mut, reason = "some receive through a shared reference")]
                let mut ping_out = ping_out;
                for _ in 0..$count {
                    let i: usize = ping_out.$receive().await.into_iter().next().expect("open");
                    pong_in.$send(i).await.expect("open");
                }
            },
        )
    }};
}

/// The entries of the three rows: for one core with boson's local primitives, for two with those
/// that work from any thread.
macro_rules! entries {
    ($how:ident, $count:expr, $pointer:ident, $boson:ident) => {
        (
            vec![
                entry("boson", || {
                    mutex!($how, Boson, $count, $pointer::new($boson::Mutex::new(0)), |it| it.lock().await)
                }),
                entry("tokio", || {
                    mutex!($how, Tokio, $count, Arc::new(tokio::sync::Mutex::new(0)), |it| it.lock().await)
                }),
                entry("async-lock on boson", || {
                    mutex!($how, Boson, $count, Arc::new(async_lock::Mutex::new(0)), |it| it.lock().await)
                }),
                entry("async-lock on tokio", || {
                    mutex!($how, Tokio, $count, Arc::new(async_lock::Mutex::new(0)), |it| it.lock().await)
                }),
            ],
            vec![
                entry("boson", || {
                    semaphore!($how, Boson, $count, $pointer::new($boson::Semaphore::new(0)), |it| it
                        .acquire()
                        .await
                        .expect("open"))
                }),
                entry("tokio", || {
                    semaphore!($how, Tokio, $count, Arc::new(tokio::sync::Semaphore::new(0)), |it| it
                        .acquire()
                        .await
                        .expect("open"))
                }),
                entry("async-lock on boson", || {
                    semaphore!($how, Boson, $count, Arc::new(async_lock::Semaphore::new(0)), |it| it
                        .acquire()
                        .await)
                }),
                entry("async-lock on tokio", || {
                    semaphore!($how, Tokio, $count, Arc::new(async_lock::Semaphore::new(0)), |it| it
                        .acquire()
                        .await)
                }),
            ],
            vec![
                entry("boson", || {
                    channel!($how, Boson, $count, $boson::mpsc::channel::<usize>(1), send, recv)
                }),
                entry("tokio", || {
                    channel!($how, Tokio, $count, tokio::sync::mpsc::channel::<usize>(1), send, recv)
                }),
                entry("flume on boson", || {
                    channel!($how, Boson, $count, flume::bounded::<usize>(1), send_async, recv_async)
                }),
                entry("flume on tokio", || {
                    channel!($how, Tokio, $count, flume::bounded::<usize>(1), send_async, recv_async)
                }),
            ],
        )
    };
}

pub fn compare_sync(rounds: usize) {
    let (mutexes, semaphores, channels) = entries!(both, SAME_CORE, Rc, local);
    let rows = [
        ("mutex held across a yield, two tasks of one core", "ns per turn of both", mutexes),
        ("semaphore ping-pong, one core", "ns per round trip", semaphores),
        ("channel ping-pong, one core", "ns per round trip", channels),
    ];
    for (what, unit, entries) in rows {
        compare(what, unit, Better::Lower, rounds, entries);
    }
    if machine::cpus() < 2 {
        println!("\nacross cores needs two CPUs; this process may use one");
        return;
    }
    let (mutexes, semaphores, channels) = entries!(across, ACROSS, Arc, boson_sync);
    let rows = [
        ("mutex, two cores", "ns per turn of both", mutexes),
        ("semaphore ping-pong, two cores", "ns per round trip", semaphores),
        ("channel ping-pong, two cores", "ns per round trip", channels),
    ];
    for (what, unit, entries) in rows {
        compare(what, unit, Better::Lower, rounds, entries);
    }
}
