//! Row 6: how long I/O takes while another task of the same core does nothing but yield.

use std::cell::Cell;
use std::io::{PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::runtimes::{Boson, Compio, Glommio, Monoio, Runtime, Tokio};
use crate::{machine, photon};

const READ_BYTES: usize = 4096;
const MESSAGE_BYTES: usize = 8;
/// Between the receipt of a message and the sending of the next.
const PAUSE: Duration = Duration::from_micros(100);
const RUNTIME_CPU: usize = 0;
const SENDER_CPU: usize = 1;
/// How many times the other task yields between two looks at the clock.
const YIELDS_PER_LOOK: usize = 64;
/// How long after a round's end I/O that was not served counts as starved.
const STARVED: Duration = Duration::from_secs(1);
/// With fewer samples than this in a round a percentile means nothing: the I/O was starved.
const SAMPLES_MIN: usize = 10;
/// A round's samples are held in memory up to here.
const SAMPLES_MAX: usize = 10_000_000;

/// Runs `measured` beside a task that yields until it is done, or for [`STARVED`] beyond `time`: a
/// runtime that looks after I/O only when it has nothing else to do would never end.
async fn beside_a_yielding_task<R: Runtime, T>(time: Duration, measured: impl Future<Output = T>) -> T {
    let stop = Rc::new(Cell::new(false));
    let yielding = R::spawn({
        let stop = Rc::clone(&stop);
        async move {
            let start = Instant::now();
            while !stop.get() && start.elapsed() < time + STARVED {
                for _ in 0..YIELDS_PER_LOOK {
                    R::yield_now().await;
                }
            }
        }
    });
    let result = measured.await;
    stop.set(true);
    yielding.await;
    result
}

/// Times `read` again and again.
async fn time_reads(time: Duration, mut read: impl AsyncFnMut()) -> Vec<u64> {
    let mut samples = Vec::with_capacity(100_000);
    let start = Instant::now();
    while start.elapsed() < time && samples.len() < SAMPLES_MAX {
        let before = Instant::now();
        read().await;
        samples.push(before.elapsed().as_nanos() as u64);
    }
    samples
}

/// A file of a few blocks in RAM, removed on drop.
struct CachedFile(PathBuf);

impl CachedFile {
    fn new() -> Self {
        let path = PathBuf::from(format!("/dev/shm/boson-peers.{}", std::process::id()));
        std::fs::write(&path, vec![b'x'; 16 * READ_BYTES]).expect("/dev/shm is writable");
        Self(path)
    }
}

impl Drop for CachedFile {
    fn drop(&mut self) {
        // It is gone if somebody else removed it.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn boson_reads(path: &Path, time: Duration) -> Vec<u64> {
    use boson::block::{KernelNamespace, Namespace};
    let path = path.to_owned();
    Boson::run(async move {
        let size = 16 * READ_BYTES as u64;
        let file = KernelNamespace::open_file(&path, Some(size)).await.expect("the file opens");
        let mut buf = Some(boson::rt::arena().alloc(READ_BYTES));
        beside_a_yielding_task::<Boson, _>(
            time,
            time_reads(time, async || {
                buf = Some(file.read(0, buf.take().expect("it came back")).await.expect("read"));
            }),
        )
        .await
    })
}

fn tokio_reads(path: &Path, time: Duration) -> Vec<u64> {
    use tokio::io::{AsyncReadExt, AsyncSeekExt};
    let path = path.to_owned();
    Tokio::run(async move {
        let mut file = tokio::fs::File::open(path).await.expect("the file opens");
        let mut buf = vec![0; READ_BYTES];
        beside_a_yielding_task::<Tokio, _>(
            time,
            time_reads(time, async || {
                // tokio has no positioned read; a seek on its file is a trip to a thread as well.
                file.rewind().await.expect("seek");
                file.read_exact(&mut buf).await.expect("read");
            }),
        )
        .await
    })
}

fn monoio_reads(path: &Path, time: Duration) -> Vec<u64> {
    let path = path.to_owned();
    Monoio::run(async move {
        let file = monoio::fs::File::open(path).await.expect("the file opens");
        let mut buf = Some(Vec::with_capacity(READ_BYTES));
        beside_a_yielding_task::<Monoio, _>(
            time,
            time_reads(time, async || {
                let (result, back) = file.read_exact_at(buf.take().expect("it came back"), 0).await;
                result.expect("read");
                buf = Some(back);
            }),
        )
        .await
    })
}

fn glommio_reads(path: &Path, time: Duration) -> Vec<u64> {
    let path = path.to_owned();
    Glommio::run(async move {
        let file = glommio::io::BufferedFile::open(path).await.expect("the file opens");
        let samples = beside_a_yielding_task::<Glommio, _>(
            time,
            time_reads(time, async || {
                let read = file.read_at(0, READ_BYTES).await.expect("read");
                assert_eq!(read.len(), READ_BYTES, "the whole block");
            }),
        )
        .await;
        file.close().await.expect("close");
        samples
    })
}

fn compio_reads(path: &Path, time: Duration) -> Vec<u64> {
    use compio::io::AsyncReadAtExt;
    let path = path.to_owned();
    Compio::run(async move {
        let file = compio::fs::File::open(path).await.expect("the file opens");
        let mut buf = Some(Vec::with_capacity(READ_BYTES));
        beside_a_yielding_task::<Compio, _>(
            time,
            time_reads(time, async || {
                let (result, back) = file.read_exact_at(buf.take().expect("it came back"), 0).await.into();
                result.expect("read");
                buf = Some(back);
            }),
        )
        .await
    })
}

/// Another thread that sends the time, each message some while after the last was received, so that
/// none queues.
struct Sender {
    received: Arc<AtomicBool>,
    base: Instant,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sender {
    /// Writes to `out`, the other end of which the measured runtime reads.
    fn start(mut out: PipeWriter, time: Duration) -> Self {
        let received = Arc::new(AtomicBool::new(true));
        let base = Instant::now();
        let told = Arc::clone(&received);
        let send = move || {
            machine::pin(SENDER_CPU);
            while base.elapsed() < time {
                while !told.swap(false, Ordering::AcqRel) {
                    thread::sleep(Duration::from_micros(20));
                }
                thread::sleep(PAUSE);
                let now = base.elapsed().as_nanos() as u64;
                if out.write_all(&now.to_ne_bytes()).is_err() {
                    return;
                }
            }
        };
        Self { received, base, thread: Some(thread::spawn(send)) }
    }

    /// Takes a message's latency.
    fn take(&self, message: &[u8]) -> u64 {
        let sent = u64::from_ne_bytes(message.try_into().expect("one message at a time"));
        let latency = self.base.elapsed().as_nanos() as u64 - sent;
        self.received.store(true, Ordering::Release);
        latency
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.received.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed.
            let _ = thread.join();
        }
    }
}

/// `receive` gives a message, or nothing at the end.
async fn time_messages(
    sender: &Sender,
    mut receive: impl AsyncFnMut() -> Option<[u8; MESSAGE_BYTES]>,
) -> Vec<u64> {
    let mut samples = Vec::with_capacity(100_000);
    while samples.len() < SAMPLES_MAX
        && let Some(message) = receive().await
    {
        samples.push(sender.take(&message));
    }
    samples
}

fn boson_messages(time: Duration) -> Vec<u64> {
    use boson::net::PipeReader;
    Boson::run(async move {
        let (reader, out) = std::io::pipe().expect("a pipe");
        let reader = PipeReader::from_descriptor(reader).expect("it is one");
        let sender = Sender::start(out, time);
        let mut buf = Some(Vec::with_capacity(MESSAGE_BYTES));
        beside_a_yielding_task::<Boson, _>(
            time,
            time_messages(&sender, async || {
                let mut empty = buf.take().expect("it came back");
                empty.clear();
                let (len, back) = reader.read(empty).await.expect("read");
                let message = back.as_slice().try_into().ok().filter(|_| len > 0);
                buf = Some(back);
                message
            }),
        )
        .await
    })
}

fn tokio_messages(time: Duration) -> Vec<u64> {
    use tokio::io::AsyncReadExt;
    use tokio::net::unix::pipe::Receiver;
    Tokio::run(async move {
        let (reader, out) = std::io::pipe().expect("a pipe");
        let mut reader = Receiver::from_owned_fd(reader.into()).expect("it is one");
        let sender = Sender::start(out, time);
        beside_a_yielding_task::<Tokio, _>(
            time,
            time_messages(&sender, async || {
                let mut message = [0; MESSAGE_BYTES];
                reader.read_exact(&mut message).await.ok().map(|_| message)
            }),
        )
        .await
    })
}

/// monoio's pipes cannot be read; its files read them, since the kernel passes over the position.
fn monoio_messages(time: Duration) -> Vec<u64> {
    Monoio::run(async move {
        let (reader, out) = std::io::pipe().expect("a pipe");
        let reader = std::fs::File::from(OwnedFd::from(reader));
        let reader = monoio::fs::File::from_std(reader).expect("a descriptor");
        let sender = Sender::start(out, time);
        beside_a_yielding_task::<Monoio, _>(
            time,
            time_messages(&sender, async || {
                let (result, message) = reader.read_exact_at(Box::new([0; MESSAGE_BYTES]), 0).await;
                result.ok().map(|()| *message)
            }),
        )
        .await
    })
}

/// glommio has no pipes; its buffered files read them, since the kernel passes over the position.
fn glommio_messages(time: Duration) -> Vec<u64> {
    Glommio::run(async move {
        let (reader, out) = std::io::pipe().expect("a pipe");
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let file = glommio::io::BufferedFile::open(path).await.expect("a pipe opens like a file");
        drop(reader);
        let sender = Sender::start(out, time);
        let samples = beside_a_yielding_task::<Glommio, _>(
            time,
            time_messages(&sender, async || {
                let message = file.read_at(0, MESSAGE_BYTES).await.expect("read");
                message[..].try_into().ok()
            }),
        )
        .await;
        file.close().await.expect("close");
        samples
    })
}

fn compio_messages(time: Duration) -> Vec<u64> {
    use compio::io::AsyncReadExt;
    Compio::run(async move {
        let (mut reader, out) = compio::fs::pipe::anonymous().await.expect("a pipe");
        let owned = out.as_fd().try_clone_to_owned().expect("a descriptor");
        out.close().await.expect("close");
        let sender = Sender::start(PipeWriter::from(owned), time);
        beside_a_yielding_task::<Compio, _>(
            time,
            time_messages(&sender, async || {
                let (result, message) = reader.read_exact([0; MESSAGE_BYTES]).await.into();
                result.ok().map(|()| message)
            }),
        )
        .await
    })
}

/// p50, p99 and p99.9 in microseconds.
fn percentiles(mut samples: Vec<u64>) -> [f64; 3] {
    assert!(!samples.is_empty(), "something was measured");
    // One that was starved has few samples; they say nothing about a percentile.
    if samples.len() < SAMPLES_MIN {
        return [f64::INFINITY; 3];
    }
    samples.sort_unstable();
    let last = samples.len() - 1;
    [500, 990, 999].map(|permille| samples[last * permille / 1000] as f64 / 1e3)
}

fn from_photon(what: &str, time: Duration) -> [f64; 3] {
    let seconds = time.as_secs().max(1).to_string();
    photon::run(&[what, &seconds]).try_into().expect("three numbers")
}

type Measure<'a> = Box<dyn Fn() -> [f64; 3] + 'a>;

/// One table, rounds interleaved; every column is the median of the rounds.
fn compare(what: &str, rounds: usize, starved: Duration, peers: &[(&str, Measure)]) {
    let mut results: Vec<Vec<[f64; 3]>> = vec![Vec::new(); peers.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in peers.iter().zip(&mut results) {
            results.push(measure());
        }
    }
    println!("\n### {what}, beside a task that yields in a loop\n");
    println!("| µs, median of {rounds} rounds | p50 | p99 | p99.9 |\n|---|--:|--:|--:|");
    for ((name, _), results) in peers.iter().zip(results) {
        let column = |i: usize| {
            let mut values: Vec<f64> = results.iter().map(|percentiles| percentiles[i]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let shown = |i: usize| {
            let micros = column(i);
            // One that waited until the other task had ended.
            if micros >= starved.as_micros() as f64 { "starved".to_owned() } else { format!("{micros:.1}") }
        };
        println!("| {name} | {} | {} | {} |", shown(0), shown(1), shown(2));
    }
}

pub fn compare_latencies(rounds: usize, time: Duration) {
    if machine::cpus() < 2 {
        println!("\nlatency needs two CPUs, one for the sender; this process may use one");
        return;
    }
    let file = CachedFile::new();
    let path = &file.0;
    // On a thread of its own, so that only it is pinned.
    let pinned = |measure: Box<dyn Fn() -> Vec<u64> + Send + '_>| -> [f64; 3] {
        thread::scope(|scope| {
            let run = move || {
                machine::pin(RUNTIME_CPU);
                percentiles(measure())
            };
            scope.spawn(run).join().expect("the measurement ends well")
        })
    };
    let mut reads: Vec<(&str, Measure)> = vec![
        ("boson", Box::new(move || pinned(Box::new(move || boson_reads(path, time))))),
        ("tokio (thread pool)", Box::new(move || pinned(Box::new(move || tokio_reads(path, time))))),
        ("monoio", Box::new(move || pinned(Box::new(move || monoio_reads(path, time))))),
        ("glommio", Box::new(move || pinned(Box::new(move || glommio_reads(path, time))))),
        ("compio", Box::new(move || pinned(Box::new(move || compio_reads(path, time))))),
    ];
    let mut messages: Vec<(&str, Measure)> = vec![
        ("boson", Box::new(move || pinned(Box::new(move || boson_messages(time))))),
        ("tokio", Box::new(move || pinned(Box::new(move || tokio_messages(time))))),
        ("monoio (as a file)", Box::new(move || pinned(Box::new(move || monoio_messages(time))))),
        ("glommio (as a file)", Box::new(move || pinned(Box::new(move || glommio_messages(time))))),
        ("compio", Box::new(move || pinned(Box::new(move || compio_messages(time))))),
    ];
    if photon::program().is_some() {
        reads.push(("photon", Box::new(move || from_photon("read", time))));
        messages.push(("photon", Box::new(move || from_photon("pipe", time))));
    }
    compare("4 KiB read of a file in RAM", rounds, time, &reads);
    compare("8 B message from another thread through a pipe", rounds, time, &messages);
}
