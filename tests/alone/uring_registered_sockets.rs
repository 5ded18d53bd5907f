//! Connections that last, and their places in the io_uring's table: where the kernel looks a place
//! up, and not the descriptor, closing has to empty the place, and what was queued for one
//! connection must not reach the next.

use crate::support::parts::Parts;
use std::future::Future;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use boson::net::{Net, TcpListener, TcpStream};
use boson::rt::reactor::{RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PATIENCE: Duration = Duration::from_secs(5);

/// One at a time: the tests count the places of all rings of the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_with<F: Future>(features: RingFeatures, future: F) -> F::Output {
    let _alone = alone();
    let config = CoreConfig::default().seed([6; 32]).ring_features(features);
    Core::new(&config).expect("a core").block_on(future)
}

/// A stream of this core, and its peer.
async fn pair() -> (TcpStream, std::net::TcpStream) {
    let listener = TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
    let peer = std::net::TcpStream::connect(listener.local_addr()).expect("the backlog has room");
    peer.set_read_timeout(Some(PATIENCE)).expect("set");
    (listener.accept().await.expect("accept").0, peer)
}

/// One that has lasted: it read many messages.
async fn lasting_pair() -> (TcpStream, std::net::TcpStream) {
    let (stream, mut peer) = pair().await;
    for message in 0..40u8 {
        peer.write_all(&[message]).expect("sent");
        assert_eq!(read(&stream).await, [message]);
    }
    (stream, peer)
}

async fn read(stream: &TcpStream) -> Vec<u8> {
    let (read, buf) = stream.read(Vec::with_capacity(64)).await.parts();
    read.expect("read");
    buf
}

/// How many sockets the rings of this process have in their tables.
fn registered() -> usize {
    let entries = std::fs::read_dir("/proc/self/fdinfo").expect("procfs");
    let rings = entries.flatten().filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    let tables = rings.filter_map(|ring| ring.split_once("UserFiles:").map(|(_, table)| table.to_owned()));
    tables.map(|table| table.matches("socket:").count()).sum()
}

fn can_register() -> bool {
    rt::reactor::ring_features().contains(RingFeature::RegisteredSockets)
}

#[test]
fn connections_that_last_have_a_place_until_they_end() {
    own_process!();
    run_with(RingFeatures::all().without(RingFeature::RegisteredSockets), async {
        let _pair = lasting_pair().await;
        assert_eq!(registered(), 0, "it may not");
    });
    run_with(RingFeatures::all(), async {
        let one = usize::from(can_register());
        let (short, mut short_peer) = pair().await;
        short_peer.write_all(b"x").expect("sent");
        assert_eq!(read(&short).await, b"x");
        assert_eq!(registered(), 0, "it may end soon");
        let (waiting, mut waiting_peer) = lasting_pair().await;
        let mut wait = pin!(waiting.read(Vec::with_capacity(8)));
        assert!(rt::timeout(Duration::from_millis(5), &mut wait).await.is_err(), "nothing was sent");
        for round in 0..3 {
            let (stream, mut peer) = lasting_pair().await;
            assert_eq!(registered(), 2 * one);
            stream.write_all(vec![round]).await.expect("sent");
            drop(stream);
            assert_eq!(registered(), one);
            // Though an operation on another place goes on.
            let mut rest = Vec::new();
            assert_eq!(peer.read_to_end(&mut rest).expect("it is closed"), 1);
            assert_eq!(rest, [round]);
        }
        waiting_peer.write_all(b"late").expect("sent");
        let (len, buf) = wait.await.parts();
        assert_eq!((len.expect("read"), &buf[..]), (4, &b"late"[..]));
    });
    // A stream may outlive its core.
    let (stream, mut peer) = run_with(RingFeatures::all(), lasting_pair());
    drop(stream);
    let mut rest = Vec::new();
    // Not `read`: the end of the ring may interrupt a system call of this thread.
    assert_eq!(peer.read_to_end(&mut rest).expect("it is closed"), 0);
}

#[test]
fn operations_that_were_given_up_do_not_reach_the_next_connection() {
    own_process!();
    run_with(RingFeatures::all(), async {
        let (first, _first_peer) = lasting_pair().await;
        let (second, mut second_peer) = pair().await;
        for message in 0..31u8 {
            second_peer.write_all(&[message]).expect("sent");
            assert_eq!(read(&second).await, [message]);
        }
        second_peer.write_all(b"12").expect("sent");
        let mut context = Context::from_waker(Waker::noop());
        let mut one = pin!(second.read(Vec::with_capacity(1)));
        assert!(one.as_mut().poll(&mut context).is_pending());
        rt::sleep(Duration::from_millis(5)).await;
        {
            // Queued; the kernel hears of it when the core turns to its ring.
            let mut given_up = pin!(first.read(Vec::with_capacity(64)));
            assert!(given_up.as_mut().poll(&mut context).is_pending());
        }
        drop(first);
        // With this read the second gets the place of the first.
        assert!(one.as_mut().poll(&mut context).is_ready(), "it had 5 ms");
        rt::sleep(Duration::from_millis(5)).await;
        let rest = rt::timeout(PATIENCE, read(&second)).await;
        assert_eq!(rest.expect("nobody else got it"), b"2");
    });
}

/// A place is one in the table of one ring: another core of the thread uses the socket by its
/// descriptor, or has it in a table of its own.
#[test]
fn a_stream_that_another_core_of_the_thread_uses_is_the_same() {
    own_process!();
    let core = || Core::new(&CoreConfig::default().seed([6; 32])).expect("a core");
    let message = async |(stream, peer): &mut (TcpStream, std::net::TcpStream), message: u8| {
        peer.write_all(&[message]).expect("sent");
        assert_eq!(read(stream).await, [message]);
        stream.write_all(vec![message]).await.expect("sent");
        let mut echoed = [0];
        peer.read_exact(&mut echoed).expect("echoed");
        assert_eq!(echoed, [message]);
    };
    let _alone = alone();
    let (first, second) = (core(), core());
    let mut one = first.block_on(lasting_pair());
    let mut two = second.block_on(lasting_pair());
    for _ in 0..2 {
        for core in [&first, &second] {
            // So many that the socket would have got a place here.
            for number in 0..40 {
                core.block_on(message(&mut one, number));
                core.block_on(message(&mut two, 40 + number));
            }
        }
    }
    drop(first);
    second.block_on(message(&mut one, 1));
    second.block_on(message(&mut two, 2));
    for (stream, mut peer) in [one, two] {
        drop(stream);
        // Not `read`: as above.
        assert_eq!(peer.read_to_end(&mut Vec::new()).expect("it is closed"), 0);
    }
}

/// Connections begin, last and end in turn, and reads are given up meanwhile: places and
/// descriptors are soon another's. Each gets its own bytes, and ends when it is closed, also with a
/// queue that is always full.
#[test]
fn each_connection_gets_its_own_bytes_while_places_change_hands() {
    own_process!();
    for entries in [1, 8, 256] {
        let _alone = alone();
        let config = CoreConfig::default().seed([6; 32]).ring_entries(entries);
        let core = Core::new(&config).expect("a core");
        let all = async {
            let tasks: Vec<_> =
                (0..12u8).map(|tag| rt::named("connections").spawn(connections(tag))).collect();
            for task in tasks {
                task.await.expect("no panic");
            }
            assert_eq!(registered(), 0, "all have ended");
        };
        core.block_on(rt::timeout(PATIENCE * 6, all)).expect("in time");
    }
}

/// One connection after the other, whose messages say whose they are.
async fn connections(tag: u8) {
    for generation in 0..6u8 {
        let listener =
            TcpListener::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
        let client = TcpStream::connect_on(&Net::kernel(), listener.local_addr()).await.expect("connect");
        let (server, _) = listener.accept().await.expect("accept");
        for number in 0..60 + tag {
            let message = [tag, generation, number];
            if number % 5 == tag % 5 {
                let soon = Duration::from_micros(u64::from(number));
                let early = rt::timeout(soon, server.read(Vec::with_capacity(8))).await;
                assert!(early.is_err(), "nothing was sent");
            }
            client.write_all(message.to_vec()).await.expect("sent");
            let mut got = Vec::new();
            while got.len() < message.len() {
                let read = rt::timeout(Duration::from_micros(20), server.read(Vec::with_capacity(2))).await;
                let Ok(read) = read else { continue };
                let (result, part) = read.parts();
                assert_ne!(result.expect("read"), 0, "it goes on");
                got.extend(part);
            }
            assert_eq!(got, message);
            server.write_all(got).await.expect("sent");
            let mut echoed = Vec::new();
            while echoed.len() < message.len() {
                echoed.extend(read(&client).await);
            }
            assert_eq!(echoed, message);
        }
        // With a read given up that the kernel may still have.
        let given_up = server.read(Vec::with_capacity(8));
        assert!(rt::timeout(Duration::from_micros(1), given_up).await.is_err(), "nothing was sent");
        drop(server);
        assert_eq!(read(&client).await, []);
    }
}

/// The kernel takes no more places than there may be descriptors.
#[test]
fn a_table_with_few_places_leaves_some_to_files() {
    own_process!();
    let before = getrlimit(Resource::Nofile);
    run_with(RingFeatures::all(), async {
        let few = Rlimit { current: Some(70), maximum: before.maximum };
        let first = pair().await;
        let mut pairs = vec![first];
        setrlimit(Resource::Nofile, few).expect("lowering it is allowed");
        pairs.push(lasting_pair().await);
        setrlimit(Resource::Nofile, before).expect("up to the hard limit is allowed");
        for _ in 0..20 {
            pairs.push(lasting_pair().await);
        }
        assert_eq!(registered(), if can_register() { 70 - 64 } else { 0 });
        for (stream, peer) in &mut pairs {
            peer.write_all(b"to all").expect("sent");
            assert_eq!(read(stream).await, b"to all");
        }
    });
}

/// Also the one that would give its stream a place.
#[test]
fn a_read_that_its_core_has_done_is_told_so_outside_of_it() {
    own_process!();
    let config = CoreConfig::default().seed([6; 32]).ring_features(RingFeatures::all());
    let core = Core::new(&config).expect("a core");
    let mut context = Context::from_waker(Waker::noop());
    let begun = core.block_on(async {
        let (stream, mut peer) = pair().await;
        for message in 0..31u8 {
            peer.write_all(&[message]).expect("sent");
            assert_eq!(read(&stream).await, [message]);
        }
        let mut last = Box::pin(async move { read(&stream).await });
        assert!(last.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        peer.write_all(b"last").expect("sent");
        rt::sleep(Duration::from_millis(5)).await;
        // Not awaited here.
        Some(last)
    });
    let mut last = begun.expect("the reactor works");
    assert_eq!(last.as_mut().poll(&mut context), Poll::Ready(b"last".to_vec()));
}
