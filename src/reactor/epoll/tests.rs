//! Operations over epoll at the places where edges and descriptor numbers deceive.

#![expect(clippy::async_yields_async, reason = "a future that outlives `block_on` is what is tested")]

use std::future::Future;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};

use crate::mem::IoBuf;
use crate::reactor::current::attached;
use crate::reactor::ops;
use crate::reactor::ops::tests::{Watched, finish_read, read_slowly, slow_file};
use crate::rt::reactor::{ReactorChoice, ReactorKind};
use crate::rt::{self, Core, CoreConfig, JoinHandle};

const PATIENCE: Duration = Duration::from_secs(10);

fn core() -> Core {
    let config = CoreConfig::default().seed([7; 32]).reactor(ReactorChoice::Epoll);
    let core = Core::new(&config).expect("a core");
    assert_eq!(core.stats().reactor, ReactorKind::Epoll);
    core
}

fn run<F: Future>(future: F) -> F::Output {
    core().block_on(async { rt::timeout(PATIENCE, future).await.expect("it hangs") })
}

fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).expect("two sockets")
}

fn send(socket: &OwnedFd, bytes: &[u8]) {
    assert_eq!(rustix::net::send(socket, bytes, SendFlags::empty()).expect("sent"), bytes.len());
}

fn recv(socket: &Rc<OwnedFd>, room: usize) -> impl Future<Output = Vec<u8>> + use<> {
    let operation = ops::recv(socket, Vec::with_capacity(room), |_, _| ());
    async move {
        let (result, bytes) = operation.await;
        result.expect("received");
        bytes
    }
}

/// Waits until every call that was queued for a thread has begun.
async fn threads_have_all() {
    while attached(|attachment| attachment.pool.has_work()) {
        rt::sleep(Duration::from_millis(1)).await;
    }
}

/// A task that receives once, and waits for that already.
async fn receiving(socket: &Rc<OwnedFd>) -> JoinHandle<Vec<u8>> {
    let task = rt::named("receives").spawn(recv(socket, 64));
    rt::sleep(Duration::from_millis(2)).await;
    assert!(!task.is_finished());
    task
}

fn poll_once<F: Future + Unpin>(future: &mut F) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// A copy of `descriptor` with a number that no other test takes.
fn copy_at(descriptor: impl AsFd, number: RawFd) -> OwnedFd {
    let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, number).expect("a number");
    assert_eq!(copy.as_raw_fd(), number);
    copy
}

#[test]
fn a_number_used_again_is_another_descriptor_though_a_copy_of_the_old_one_is_open() {
    run(async {
        let (old, old_peer) = pair(SocketType::STREAM);
        let socket = Rc::new(copy_at(&old, 900));
        let before = receiving(&socket).await;
        before.cancel();
        assert!(before.await.is_err());
        // The kernel keeps the registration as long as `old`, the copy, is open; a child process
        // may hold one.
        drop(socket);
        let (new, new_peer) = pair(SocketType::STREAM);
        let socket = Rc::new(copy_at(new, 900));
        let waits = receiving(&socket).await;
        send(&old_peer, b"to the old one");
        rt::sleep(Duration::from_millis(2)).await;
        assert!(!waits.is_finished());
        send(&new_peer, b"to the new one");
        assert_eq!(waits.await.expect("no panic"), b"to the new one");
        drop(old);
    });
}

#[test]
fn a_descriptor_that_changes_hands_is_watched_on() {
    run(async {
        let (socket, peer) = pair(SocketType::STREAM);
        let socket = Rc::new(socket);
        let waits = receiving(&socket).await;
        send(&peer, b"one");
        assert_eq!(waits.await.expect("no panic"), b"one");
        // Still registered, under an owner that is gone.
        let socket = Rc::new(Rc::into_inner(socket).expect("the only one"));
        let waits = receiving(&socket).await;
        send(&peer, b"two");
        assert_eq!(waits.await.expect("no panic"), b"two");
    });
}

#[test]
fn both_directions_and_several_waiters_are_woken() {
    run(async {
        let (socket, peer) = pair(SocketType::STREAM);
        let socket = Rc::new(socket);
        // Fill it up.
        let mut sent = 0;
        loop {
            let mut operation = ops::send(&socket, vec![1; 16 << 10], ());
            if !poll_once(&mut operation) {
                break;
            }
            sent += 1;
        }
        assert!(sent > 0);
        let writer = rt::named("sends").spawn(ops::send(&socket, vec![2u8; 10], ()));
        let readers = [receiving(&socket).await, receiving(&socket).await];
        assert!(!writer.is_finished());
        // One byte wakes both readers, and one of them waits on.
        send(&peer, b"x");
        while !readers.iter().any(JoinHandle::is_finished) {
            rt::yield_now().await;
        }
        rt::sleep(Duration::from_millis(2)).await;
        assert_eq!(readers.iter().filter(|reader| reader.is_finished()).count(), 1);
        send(&peer, b"y");
        for reader in readers {
            assert_eq!(reader.await.expect("no panic").len(), 1);
        }
        let mut room = vec![0u8; 1 << 20];
        while !writer.is_finished() {
            let _ = rustix::net::recv(&peer, &mut room[..], rustix::net::RecvFlags::DONTWAIT);
            rt::yield_now().await;
        }
        assert_eq!(writer.await.expect("no panic").0.expect("sent"), 10);
    });
}

#[test]
fn a_short_read_of_something_other_than_tcp_does_not_mean_that_it_is_empty() {
    run(async {
        // Datagrams, and messages of a stream that a passed descriptor keeps apart.
        for kind in [SocketType::DGRAM, SocketType::SEQPACKET, SocketType::STREAM] {
            let (socket, peer) = pair(kind);
            let socket = Rc::new(socket);
            let waits = receiving(&socket).await;
            for _ in 0..2 {
                let descriptors = [peer.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
                sendmsg(&peer, &[IoSlice::new(b"abc")], &mut ancillary, SendFlags::empty()).expect("sent");
            }
            // Both arrive with one event.
            assert_eq!(waits.await.expect("no panic"), b"abc");
            assert_eq!(recv(&socket, 64).await, b"abc", "{kind:?}");
        }
    });
}

fn tcp_pair() -> (Rc<OwnedFd>, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    (Rc::new(OwnedFd::from(server)), client)
}

#[test]
fn the_end_of_a_tcp_stream_is_seen_though_it_came_with_the_last_bytes() {
    run(async {
        for pause in [false, true] {
            let (socket, client) = tcp_pair();
            let waits = receiving(&socket).await;
            std::io::Write::write_all(&mut &client, b"last").expect("sent");
            if pause {
                assert_eq!(waits.await.expect("no panic"), b"last");
                drop(client);
            } else {
                drop(client);
                assert_eq!(waits.await.expect("no panic"), b"last");
            }
            assert_eq!(recv(&socket, 64).await, b"");
        }
    });
}

#[test]
fn a_reset_is_seen_after_the_last_bytes() {
    run(async {
        let (socket, client) = tcp_pair();
        let waits = receiving(&socket).await;
        std::io::Write::write_all(&mut &client, b"last").expect("sent");
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("set");
        assert_eq!(waits.await.expect("no panic"), b"last");
        drop(client);
        let (result, _) = ops::recv(&socket, Vec::with_capacity(64), |_, _| ()).await;
        assert_eq!(result.expect_err("reset").raw_os_error(), Some(libc::ECONNRESET));
    });
}

#[test]
fn urgent_data_hides_nothing_that_comes_after_it() {
    run(async {
        let (socket, client) = tcp_pair();
        let waits = receiving(&socket).await;
        let peer = OwnedFd::from(client);
        send(&peer, b"ab");
        rustix::net::send(&peer, b"!", SendFlags::OOB).expect("sent");
        send(&peer, b"cd");
        // The kernel ends a read at the urgent byte, though there is more.
        let mut bytes = waits.await.expect("no panic");
        while bytes.len() < 4 {
            bytes.extend(recv(&socket, 64).await);
        }
        assert_eq!(bytes, b"abcd");
    });
}

#[test]
fn whoever_finds_data_every_time_leaves_the_others_their_turn() {
    run(async {
        let (full, filler) = pair(SocketType::STREAM);
        let filling = std::thread::spawn(move || {
            let block = [7u8; 4096];
            while rustix::net::send(&filler, &block, SendFlags::NOSIGNAL).is_ok() {}
        });
        let full = Rc::new(full);
        let greedy = Rc::clone(&full);
        let greedy = rt::named("greedy").spawn(async move {
            loop {
                drop(recv(&greedy, 1).await);
            }
        });
        rt::sleep(Duration::from_millis(5)).await;
        let (socket, peer) = pair(SocketType::STREAM);
        let socket = Rc::new(socket);
        for _ in 0..20 {
            let started = std::time::Instant::now();
            rt::sleep(Duration::from_micros(100)).await;
            let waits = rt::named("modest").spawn(recv(&socket, 64));
            rt::yield_now().await;
            send(&peer, b"x");
            assert_eq!(waits.await.expect("no panic"), b"x");
            assert!(started.elapsed() < Duration::from_secs(1), "took {:?}", started.elapsed());
        }
        greedy.cancel();
        assert!(greedy.await.is_err());
        drop(full);
        filling.join().expect("no panic");
    });
}

#[test]
fn a_buffer_of_a_dropped_read_lives_until_its_thread_is_done_with_it() {
    run(async {
        let file = slow_file();
        let alive = Rc::default();
        let mut operation = read_slowly(&file, Watched::new(8, &alive));
        assert!(!poll_once(&mut operation));
        threads_have_all().await;
        drop(operation);
        rt::sleep(Duration::from_millis(5)).await;
        assert_eq!(alive.get(), 1, "the buffer was freed while a thread reads into it");
        assert_eq!(Rc::strong_count(&file), 2, "the descriptor was closed while a thread reads from it");
        finish_read(&file);
        while alive.get() > 0 {
            rt::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(Rc::strong_count(&file), 1);
        // Nothing is in the way of the next one.
        finish_read(&file);
        let (result, bytes) = read_slowly(&file, Vec::with_capacity(8)).await;
        assert_eq!((result.expect("read"), bytes.len()), (8, 8));
    });
}

#[test]
fn a_core_that_ends_waits_for_the_threads_that_have_its_buffers() {
    let file = slow_file();
    let alive = Rc::default();
    let core = core();
    // More than there are threads: the others are not begun any more.
    let mut outside = core.block_on(async {
        for _ in 0..40 {
            let operation = read_slowly(&file, Watched::new(8, &alive));
            drop(rt::named("reads").spawn(async move { drop(operation.await) }));
        }
        let mut outside = read_slowly(&file, Watched::new(8, &alive));
        assert!(!poll_once(&mut outside));
        rt::sleep(Duration::from_millis(20)).await;
        outside
    });
    assert_eq!(alive.get(), 41);
    let copy = rustix::io::fcntl_dupfd_cloexec(&file, 0).expect("a descriptor");
    let finishing = std::thread::spawn(move || {
        for _ in 0..16 {
            std::thread::sleep(Duration::from_millis(5));
            finish_read(&copy);
        }
    });
    drop(core);
    assert_eq!(alive.get(), 1, "all but the one that is held outside");
    finishing.join().expect("no panic");
    // It was not begun, or is done: in any case it has its result.
    assert!(poll_once(&mut outside));
    assert_eq!(alive.get(), 0);
}

#[test]
fn file_operations_in_any_number_wait_for_room_and_their_dropped_ones_do_not_lose_it() {
    run(async {
        let file = Rc::new(OwnedFd::from(std::fs::File::open("/dev/zero").expect("there")));
        let slow = slow_file();
        // Keep every thread busy, then queue more than there is room for.
        let busy: Vec<_> = (0..16)
            .map(|_| {
                let operation = read_slowly(&slow, Vec::with_capacity(8));
                rt::named("slow").spawn(async move { drop(operation.await) })
            })
            .collect();
        rt::sleep(Duration::from_millis(2)).await;
        threads_have_all().await;
        let alive = Rc::default();
        let mut operations: Vec<_> =
            (0..1500).map(|at| Some(ops::read_at(&file, at, Watched::new(8, &alive)))).collect();
        for operation in operations.iter_mut().flatten() {
            assert!(!poll_once(operation));
        }
        // Queued ones and ones in line.
        for operation in operations.iter_mut().step_by(2) {
            *operation = None;
        }
        rt::sleep(Duration::from_millis(5)).await;
        assert_eq!(alive.get(), 750, "nobody has begun them: they are not to be done any more");
        let tasks: Vec<_> =
            operations.into_iter().flatten().map(|operation| rt::named("reads").spawn(operation)).collect();
        for _ in 0..16 {
            finish_read(&slow);
            rt::sleep(Duration::from_millis(1)).await;
        }
        for task in tasks {
            let (result, buf) = task.await.expect("no panic");
            assert_eq!((result.expect("read"), buf.as_slice()), (8, &[0u8; 8][..]));
        }
        for task in busy {
            task.await.expect("no panic");
        }
        assert_eq!(alive.get(), 0, "not all buffers came back");
    });
}

#[test]
fn what_cannot_be_waited_for_is_an_error() {
    run(async {
        let file = Rc::new(OwnedFd::from(std::fs::File::open("/dev/null").expect("there")));
        let directory = Rc::new(OwnedFd::from(std::fs::File::open("/").expect("there")));
        let (result, _) = ops::recv(&file, Vec::with_capacity(8), |_, _| ()).await;
        assert!(result.is_err());
        let (result, _) = ops::read_stream(&directory, Vec::with_capacity(8), |_, _| {}).await;
        assert_eq!(result.expect_err("not a stream").raw_os_error(), Some(libc::EPERM));
    });
}

struct StandsStill;

impl rt::time::Clock for StandsStill {
    fn now(&self) -> rt::Instant {
        rt::Instant::from_nanos(1_000_000)
    }

    fn unix_time(&self) -> Duration {
        Duration::ZERO
    }
}

#[test]
fn events_come_though_the_clock_stands_still() {
    let (socket, peer) = pair(SocketType::STREAM);
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let config =
            CoreConfig::default().clock(Arc::new(StandsStill)).seed([7; 32]).reactor(ReactorChoice::Epoll);
        let socket = Rc::new(socket);
        for _ in 0..2 {
            let bytes = Core::new(&config).expect("a core").block_on(recv(&socket, 8));
            done.send(bytes).expect("the test waits");
        }
    });
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(5));
        send(&peer, b"x");
        assert_eq!(wait.recv_timeout(PATIENCE).expect("it hangs"), b"x");
    }
}
