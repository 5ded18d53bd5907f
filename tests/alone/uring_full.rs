//! A ring whose queues are full, and a kernel that takes no more from it: the core goes on, and
//! ends when it was told to.

use crate::support::hooked_waker;
use crate::support::parts::Parts;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use boson::net::{Net, TcpListener, TcpStream};
use boson::observe;
use boson::rt::reactor::{ReactorKind, RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig, Shutdown};
use hooked_waker::Hook;

/// The kernel's completion queue has twice as many.
const RING_ENTRIES: u32 = 1;
const CONNECTIONS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(20);

fn core(features: RingFeatures) -> Core {
    let config = CoreConfig::default().seed([5; 32]).ring_entries(RING_ENTRIES).ring_features(features);
    Core::new(&config).expect("a core")
}

/// Streams of this core, each with its peer.
async fn connections() -> Vec<(TcpStream, std::net::TcpStream)> {
    let listener = TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
    let mut pairs = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = std::net::TcpStream::connect(listener.local_addr()).expect("the backlog has room");
        pairs.push((listener.accept().await.expect("accept").0, client));
    }
    pairs
}

/// Whether a ring of this process has completions that found no room in their queue.
fn has_overflown() -> bool {
    std::fs::read_dir("/proc/self/fdinfo").expect("procfs").flatten().any(|descriptor| {
        let text = std::fs::read_to_string(descriptor.path()).unwrap_or_default();
        text.split_once("CqOverflowList:").is_some_and(|(_, list)| list.contains("user_data"))
    })
}

/// All reads wait in the kernel, and complete while the core is busy: many more completions than
/// their queue holds. Of every second connection one request receives for all reads, if the ring
/// has such.
fn completions_overflow(features: RingFeatures) {
    let core = core(features);
    let result = core.block_on(rt::timeout(PATIENCE, async {
        let mut readers = Vec::new();
        let mut clients = Vec::new();
        for (number, (stream, mut client)) in connections().await.into_iter().enumerate() {
            if number % 2 == 0 {
                // After reads that were all full a stream reads ahead.
                client.write_all(&[0; 10]).expect("sent");
                for _ in 0..10 {
                    assert_eq!(stream.read(Vec::with_capacity(1)).await.expect("read").0, 1);
                }
            }
            clients.push(client);
            readers.push(rt::named("reader").spawn(async move {
                let number = u8::try_from(number).expect("small");
                let mut all = Vec::new();
                // One read for each round, unless the machine is slow.
                while all.len() < 6 {
                    let (len, bytes) = stream.read(Vec::with_capacity(64)).await.parts();
                    assert_ne!(len.expect("read"), 0);
                    all.extend(bytes);
                }
                assert_eq!(all, [0, number, 1, number, 2, number]);
            }));
        }
        let deferred = features.contains(RingFeature::DeferredTaskWork);
        for round in 0..3u8 {
            rt::sleep(Duration::from_millis(20)).await;
            for (number, client) in clients.iter_mut().enumerate() {
                client.write_all(&[round, u8::try_from(number).expect("small")]).expect("sent");
            }
            if !deferred && observe::stats().reactor == ReactorKind::IoUring {
                assert!(has_overflown(), "the completion queue was large enough: the test shows nothing");
            }
        }
        for reader in readers {
            reader.await.expect("every read got its bytes");
        }
    }));
    result.expect("the ring works");
}

#[test]
fn no_completion_is_lost_when_their_queue_overflows() {
    own_process!();
    completions_overflow(RingFeatures::all());
}

#[test]
fn no_completion_is_lost_when_their_queue_overflows_without_deferred_task_work() {
    own_process!();
    completions_overflow(RingFeatures::all().without(RingFeature::DeferredTaskWork));
}

#[test]
fn no_completion_is_lost_when_their_queue_overflows_on_an_old_kernel() {
    own_process!();
    completions_overflow(RingFeatures::linux_5_15());
}

/// A waker whose clone fills the queue while the kernel takes nothing from it, so that completions
/// are taken to make room. That of the read that is being polled is among them.
fn done_while_its_waker_is_cloned(on_drop: impl FnOnce() + Send + 'static) -> Poll<Vec<u8>> {
    let polled = std::thread::spawn(|| {
        let core = core(RingFeatures::linux_5_15());
        let polled = core.block_on(async {
            if observe::stats().reactor != ReactorKind::IoUring {
                return Poll::Ready(vec![b'x']);
            }
            let (streams, mut clients): (Vec<_>, Vec<_>) = connections().await.into_iter().unzip();
            let read = |stream: TcpStream| {
                Box::pin(async move {
                    let (len, bytes) = stream.read(Vec::with_capacity(64)).await.parts();
                    len.expect("read");
                    bytes
                })
            };
            let mut reads: Vec<_> = streams.into_iter().map(read).collect();
            for read in &mut reads {
                assert!(Hook::new().poll(read).is_pending());
            }
            rt::sleep(Duration::from_millis(5)).await;
            clients[0].write_all(b"x").expect("sent");
            without_io_uring::forbid_io_uring(libc::EBUSY).expect("a filter");
            let mut first = reads.remove(0);
            let after = Hook::new();
            *after.on_clone.borrow_mut() = Some(Box::new(move || drop(reads)));
            *after.on_drop.borrow_mut() = Some(Box::new(on_drop));
            after.poll(&mut first)
        });
        core.shutdown(Shutdown::Cancel, Duration::ZERO).expect("the ring was there");
        polled
    });
    polled.join().expect("no panic")
}

#[test]
fn a_read_that_is_done_while_its_waker_is_cloned_is_not_forgotten() {
    own_process!();
    let polled = done_while_its_waker_is_cloned(|| ());
    assert_eq!(polled, Poll::Ready(vec![b'x']), "it is done, and nobody will say so");
}

#[test]
fn a_read_that_is_done_is_not_lost_though_a_waker_cannot_be_dropped() {
    own_process!();
    let polled = done_while_its_waker_is_cloned(|| panic!("a waker of the test cannot be dropped"));
    assert_eq!(polled, Poll::Ready(vec![b'x']), "nobody else has it");
}

/// From some point on the kernel refuses every submission, as it does when it has no memory: timers
/// go on, and the core ends in time, with operations that never got into the queue.
#[test]
fn a_kernel_that_takes_no_submissions_stops_neither_the_core_nor_its_end() {
    own_process!();
    for errno in [libc::EBUSY, libc::EAGAIN, libc::EINTR] {
        // The filter is forever, so a thread of its own.
        let outcome = std::thread::spawn(move || {
            let core = core(RingFeatures::all());
            let kept = core.block_on(async {
                let pairs = connections().await;
                without_io_uring::forbid_io_uring(errno).expect("a filter");
                let mut clients = Vec::new();
                for (stream, client) in pairs {
                    clients.push(client);
                    rt::named("reader")
                        .spawn(async move {
                            let (len, _) = stream.read(Vec::with_capacity(64)).await.parts();
                            drop(len);
                        })
                        .detach();
                }
                for _ in 0..10 {
                    rt::sleep(Duration::from_millis(1)).await;
                }
                clients
            });
            let started = Instant::now();
            let report = core.shutdown(Shutdown::Cancel, Duration::ZERO);
            drop(kept);
            (report.map(|report| report.cancelled.len()), started.elapsed())
        });
        let (cancelled, took) = outcome.join().expect("no panic");
        assert_eq!(cancelled.expect("the ring was there"), CONNECTIONS);
        assert!(took < Duration::from_secs(5), "the end took {took:?}, of which 0.1 s is for I/O in flight");
    }
}

/// The kernel takes an entry of the ring only now and then, so most wait behind a full queue: what
/// is sent on one connection goes out in the order in which it was asked for, also what is asked
/// for while older entries wait and the queue has room. Few writes on each connection: a socket
/// whose buffer is full would have the kernel itself try one again after those behind it. With
/// epoll there is no queue, and each task tries in its own turn: then nothing is lost or sent
/// twice, in whatever order.
#[test]
fn operations_that_wait_for_the_queue_stay_in_their_order() {
    own_process!();
    const CONNECTIONS: usize = 50;
    const WRITERS: usize = 16;
    const WRITES: u32 = 48;
    for features in [RingFeatures::all(), RingFeatures::linux_5_15()] {
        // The filter is forever, so a thread of its own.
        let outcome = std::thread::spawn(move || {
            let core = core(features);
            let done = core.block_on(rt::timeout(PATIENCE, async {
                let listener = TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0)))
                    .expect("bind");
                let mut connections = Vec::new();
                for _ in 0..CONNECTIONS {
                    let client = std::net::TcpStream::connect(listener.local_addr()).expect("connect");
                    connections.push((client, listener.accept().await.expect("accept").0));
                }
                without_io_uring::forbid_submitting_alone(libc::EBUSY).expect("a filter");
                for (mut client, stream) in connections {
                    let stream = Rc::new(stream);
                    let next = Rc::new(Cell::new(0));
                    let writers: Vec<_> = (0..WRITERS)
                        .map(|_| {
                            let (stream, next) = (Rc::clone(&stream), Rc::clone(&next));
                            rt::named("writer").spawn(async move {
                                while next.get() < WRITES {
                                    let number = next.replace(next.get() + 1);
                                    let (len, _) = stream.write(number.to_le_bytes().to_vec()).await.parts();
                                    assert_eq!(len.expect("written"), 4);
                                }
                            })
                        })
                        .collect();
                    for writer in writers {
                        writer.await.expect("no panic");
                    }
                    drop(stream);
                    let mut received = vec![0; 4 * next.get() as usize];
                    client.read_exact(&mut received).expect("all of it");
                    let mut numbers: Vec<u32> = received
                        .chunks(4)
                        .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four")))
                        .collect();
                    if observe::stats().reactor != ReactorKind::IoUring {
                        numbers.sort_unstable();
                    }
                    assert!(numbers.iter().copied().eq(0..next.get()), "overtaken or lost: {numbers:?}");
                }
            }));
            done.expect("the ring works");
        });
        outcome.join().expect("no panic");
    }
}
