//! Kernel sockets: the promises about dropped futures, half-close, resets and full queues.

use crate::support::parts::Parts;
use std::cell::Cell;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::support::watched_buffer::Watched;
use boson::mem::IoBuf;
use boson::net::{Net, RemoteStream, TcpListener, TcpStream};
use boson::observe;
use boson::rt::reactor::{ReactorKind, RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig, Idle};
use boson::{ErrorKind, Result};

fn run_on<F: Future>(ring_entries: u32, features: RingFeatures, future: F) -> F::Output {
    let config = CoreConfig::default().seed([9; 32]).ring_entries(ring_entries).ring_features(features);
    Core::new(&config).expect("io_uring is usable").block_on(future)
}

fn run_with<F: Future>(ring_entries: u32, future: F) -> F::Output {
    run_on(ring_entries, super::features(), future)
}

fn run<F: Future>(future: F) -> F::Output {
    run_with(64, future)
}

/// Where every read gives the kernel its own buffer.
fn run_with_own_buffers<F: Future>(future: F) -> F::Output {
    run_on(64, super::features().without(RingFeature::MultishotReceive), future)
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn pair() -> (TcpStream, TcpStream) {
    let net = Net::kernel();
    let listener = TcpListener::bind_on(&net, loopback()).expect("bind");
    let client = TcpStream::connect_on(&net, listener.local_addr()).await.expect("connect");
    let (server, peer) = listener.accept().await.expect("accept");
    assert_eq!(peer, client.local_addr());
    (client, server)
}

/// Has read in pieces, all of them full, for so long that it reads ahead if the ring can.
async fn read_in_pieces(stream: &TcpStream, peer: &TcpStream) {
    const PIECES: &[u8] = b"0123456789";
    peer.write_all(PIECES).await.expect("write");
    for piece in PIECES {
        let (read, buf) = stream.read(Vec::with_capacity(1)).await.parts();
        assert_eq!((read.expect("read"), &buf[..]), (1, std::slice::from_ref(piece)));
    }
}

/// Reads messages one by one until the socket has a fixed-file slot, if the ring has any.
async fn read_messages(stream: &TcpStream, peer: &TcpStream) {
    for message in 0..40u8 {
        peer.write_all(vec![message]).await.expect("write");
        let (read, buf) = stream.read(Vec::with_capacity(8)).await.parts();
        assert_eq!((read.expect("read"), &buf[..]), (1, &[message][..]));
    }
}

/// Pairs of which the second end was read differently so far: not at all, [in
/// pieces](read_in_pieces), and [messages](read_messages).
async fn pairs() -> [(TcpStream, TcpStream); 3] {
    let pairs = [pair().await, pair().await, pair().await];
    read_in_pieces(&pairs[1].1, &pairs[1].0).await;
    read_messages(&pairs[2].1, &pairs[2].0).await;
    pairs
}

async fn read_to_end(stream: &TcpStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buf = Vec::with_capacity(4096);
    loop {
        buf.clear();
        let (result, back) = stream.read(buf).await.parts();
        buf = back;
        if result? == 0 {
            return Ok(all);
        }
        all.extend_from_slice(&buf);
    }
}

#[test]
fn bytes_and_half_closes_go_both_ways() {
    run(async {
        let (client, server) = pair().await;
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| u8::try_from(i % 251).expect("small")).collect();
        let expected = sent.clone();
        let writer = rt::named("writer").spawn(async move {
            client.write_all(sent).await.expect("write");
            client.shutdown(Shutdown::Write).expect("half close");
            read_to_end(&client).await.expect("the other half is open")
        });
        assert_eq!(read_to_end(&server).await.expect("read"), expected);
        server.write_all(&b"bye"[..]).await.expect("write after the peer's half close");
        drop(server);
        assert_eq!(writer.await.expect("no panic"), b"bye");
    });
}

/// Reads are dropped after every number of polls and after every short time, while the other side
/// sends: the bytes that arrive are the bytes that were sent.
#[test]
fn dropped_reads_lose_no_byte() {
    run(async {
        let (client, server) = pair().await;
        let sent: Vec<u8> = (0..400_000u32)
            .map(|i| u8::try_from(i.wrapping_mul(2_654_435_761) >> 24).expect("a byte"))
            .collect();
        let expected = sent.clone();
        let writer = rt::named("writer").spawn(async move {
            for (at, chunk) in sent.chunks(997).enumerate() {
                client.write_all(chunk.to_vec()).await.expect("write");
                if at % 3 == 0 {
                    rt::sleep(Duration::from_micros(50)).await;
                }
            }
        });
        let mut got = Vec::new();
        let mut dropped = 0;
        let mut attempt = 0u64;
        while got.len() < expected.len() {
            attempt += 1;
            let read = server.read(Vec::with_capacity(500));
            let limited: Option<_> = if attempt.is_multiple_of(2) {
                polled_at_most(read, attempt / 2 % 4).await
            } else {
                rt::timeout(Duration::from_micros(attempt % 7 * 20), read).await.ok()
            };
            match limited.map(Parts::parts) {
                Some((result, buf)) => {
                    assert_ne!(result.expect("read"), 0, "the stream ended early");
                    got.extend_from_slice(&buf);
                }
                None => dropped += 1,
            }
        }
        writer.await.expect("no panic");
        assert!(got == expected, "bytes were lost or reordered");
        assert!(dropped > 100, "only {dropped} reads were dropped: the test shows nothing");
    });
}

/// Drops `future` once it was polled `polls` times without being done.
async fn polled_at_most<F: Future>(future: F, polls: u64) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut count = 0;
    std::future::poll_fn(|cx| {
        if count == polls {
            return std::task::Poll::Ready(None);
        }
        count += 1;
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() {
            cx.waker().wake_by_ref();
        }
        polled.map(Some)
    })
    .await
}

#[test]
fn dropped_accepts_lose_no_connection() {
    run(async {
        let net = Net::kernel();
        let listener = TcpListener::bind_on(&net, loopback()).expect("bind");
        let address = listener.local_addr();
        let mut accepted = 0;
        let mut clients = Vec::new();
        for round in 0..100 {
            let waiting = polled_at_most(listener.accept(), 1).await;
            assert!(waiting.is_none(), "nobody connects yet");
            let mut client = std::net::TcpStream::connect(address).expect("connect");
            let late = polled_at_most(listener.accept(), round % 3).await;
            let (stream, _) = match late {
                Some(connection) => connection.expect("accept"),
                None => listener.accept().await.expect("accept"),
            };
            accepted += 1;
            client.write_all(&[7]).expect("write");
            let (result, buf) = stream.read(Vec::with_capacity(8)).await.parts();
            assert_eq!(
                (result.expect("read"), buf),
                (1, vec![7]),
                "another connection than the one that was made"
            );
            clients.push(client);
        }
        assert_eq!(accepted, 100);
    });
}

#[test]
fn a_buffer_lives_until_the_kernel_is_done_with_it() {
    run_with_own_buffers(async {
        let (client, server) = pair().await;
        let alive = Rc::new(Cell::new(0));
        let buf = Watched::new(64, &alive);
        assert!(polled_at_most(server.read(buf), 1).await.is_none());
        // On epoll nothing is with the kernel before there is something to read.
        let with_kernel = usize::from(observe::stats().reactor == ReactorKind::IoUring);
        assert_eq!(alive.get(), with_kernel, "the buffer was freed while the kernel may still write into it");
        client.write_all(&b"late"[..]).await.expect("write");
        let (result, bytes) = server.read(Vec::with_capacity(64)).await.parts();
        assert_eq!((result.expect("read"), bytes.as_slice()), (4, &b"late"[..]));
        assert_eq!(alive.get(), 0, "the buffer was never freed");
    });
}

/// Buffers of 0 to 899 bytes with the bytes of `data` in order.
fn gathered(data: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = data;
    let mut bufs = Vec::new();
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.len().min(bufs.len() * 37 % 900));
        bufs.push(part.to_vec());
        rest = after;
    }
    bufs
}

/// Reads all of the stream into several buffers at a time.
async fn read_scattered(stream: &TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    for round in 0.. {
        let rooms = [0, 1, 3, 50, 0, 700, 20_000];
        let bufs = rooms.iter().take(2 + round % 6).map(|room| Vec::with_capacity(*room)).collect();
        let (len, bufs) = stream.read_vectored::<Vec<u8>>(bufs).await.expect("read");
        if len == 0 {
            break;
        }
        let before = received.len();
        let last = bufs.iter().rposition(|buf| !buf.is_empty()).expect("something was read");
        assert!(bufs[..last].iter().all(|buf| buf.len() == buf.capacity()), "a gap before buffer {last}");
        bufs.iter().for_each(|buf| received.extend_from_slice(buf));
        assert_eq!(received.len() - before, len);
    }
    received
}

#[test]
fn vectored_transfers_keep_the_order_of_the_bytes() {
    run(async {
        let data: Vec<u8> = (0..2_000_000u32).map(|number| (number % 251) as u8).collect();
        for (client, server) in pairs().await {
            let bufs = gathered(&data);
            assert!(bufs.len() > 2 * 1024, "more than the kernel takes at once");
            let send = async {
                let back = client.write_all_vectored(bufs.clone()).await.expect("write");
                assert!(back == bufs, "the buffers come back as they were");
                client.shutdown(Shutdown::Write).expect("shut down");
            };
            let ((), received) = futures_util::join!(send, read_scattered(&server));
            assert!(received == data);
        }
    });
}

#[test]
fn vectored_transfers_of_nothing_wait_for_nothing() {
    run(async {
        let (client, server) = pair().await;
        assert_eq!(client.write_vectored(vec![Vec::new(), Vec::new()]).await.expect("nothing").0, 0);
        assert!(client.write_all_vectored(Vec::<Vec<u8>>::new()).await.expect("nothing").is_empty());
        assert_eq!(server.read_vectored(vec![Vec::new()]).await.expect("nothing is asked for").0, 0);
        client.write_all(&b"x"[..]).await.expect("write");
        assert_eq!(server.read_vectored(vec![Vec::with_capacity(1)]).await.expect("read").0, 1);
    });
}

#[test]
fn a_dropped_vectored_read_loses_no_byte_and_keeps_its_buffers() {
    run_with_own_buffers(async {
        let (client, server) = pair().await;
        let alive = Rc::new(Cell::new(0));
        let bufs = vec![Watched::new(3, &alive), Watched::new(64, &alive)];
        assert!(polled_at_most(server.read_vectored(bufs), 1).await.is_none());
        let with_kernel = 2 * usize::from(observe::stats().reactor == ReactorKind::IoUring);
        assert_eq!(alive.get(), with_kernel, "the buffers were freed while the kernel may write to them");
        client.write_all(&b"0123456789"[..]).await.expect("write");
        let (len, bufs) =
            server.read_vectored(vec![Vec::with_capacity(4), Vec::with_capacity(64)]).await.expect("read");
        assert_eq!((len, &bufs[..]), (10, &[b"0123".to_vec(), b"456789".to_vec()][..]));
        assert_eq!(alive.get(), 0, "the buffers were never freed");
    });
}

#[test]
fn a_vectored_write_to_a_closed_connection_gives_its_buffers_back() {
    run(async {
        let (client, server) = pair().await;
        server.abort();
        // The reset is on its way.
        rt::sleep(Duration::from_millis(5)).await;
        let error = client.write_all_vectored(vec![vec![1; 10], vec![2; 10]]).await.expect_err("reset");
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert_eq!(error.into_buf(), [vec![1; 10], vec![2; 10]]);
    });
}

#[test]
fn io_in_flight_ends_with_the_core() {
    let alive = Rc::new(Cell::new(0));
    run_with_own_buffers(async {
        let (client, server) = pair().await;
        for stream in [client, server] {
            let buf = Watched::new(64, &alive);
            drop(rt::named("reads forever").spawn(async move { stream.read(buf).await.parts().0.map(drop) }));
        }
        rt::sleep(Duration::from_millis(2)).await;
        assert_eq!(alive.get(), 2);
    });
    assert_eq!(alive.get(), 0);
}

#[test]
fn more_operations_than_the_ring_has_entries() {
    run_with(2, async {
        let mut tasks = Vec::new();
        for _ in 0..20 {
            for (client, server) in pairs().await {
                tasks.push(rt::named("server").spawn(async move {
                    let (result, buf) = server.read(Vec::with_capacity(8)).await.parts();
                    result.expect("read");
                    server.write_all(buf).await.expect("write");
                }));
                tasks.push(rt::named("client").spawn(async move {
                    client.write_all(&b"ping"[..]).await.expect("write");
                    let (result, buf) = client.read(Vec::with_capacity(8)).await.parts();
                    assert_eq!((result.expect("read"), buf.as_slice()), (4, &b"ping"[..]));
                }));
            }
        }
        for task in tasks {
            task.await.expect("no panic");
        }
    });
}

#[test]
fn refusals_and_resets_are_errors_with_their_code() {
    run(async {
        let net = Net::kernel();
        let listener = TcpListener::bind_on(&net, loopback()).expect("bind");
        let address = listener.local_addr();
        let taken = TcpListener::bind_on(&net, address).expect_err("taken");
        assert_eq!(taken.kind(), ErrorKind::InUse);
        assert!(taken.to_string().contains(&address.to_string()), "{taken}");
        drop(listener);
        let refused = TcpStream::connect_on(&net, address).await.expect_err("nobody listens");
        assert_eq!(refused.code(), Some(libc::ECONNREFUSED));

        for (client, server) in pairs().await {
            client.abort();
            let (result, _) = server.read(Vec::with_capacity(8)).await.parts();
            assert_eq!(result.expect_err("reset").kind(), ErrorKind::Closed);
        }
    });
}

#[test]
fn try_read_and_try_write_do_not_wait() {
    run(async {
        let (client, server) = pair().await;
        let mut buf = [0u8; 8];
        assert_eq!(server.try_read(&mut buf).expect("open"), None);
        assert_eq!(client.try_write(b"abc").expect("open"), Some(3));
        rt::sleep(Duration::from_millis(5)).await;
        assert_eq!(server.try_read(&mut buf).expect("open"), Some(3));
        drop(client);
        rt::sleep(Duration::from_millis(5)).await;
        assert_eq!(server.try_read(&mut buf).expect("open"), Some(0));
    });
}

#[test]
fn a_plain_client_is_served() {
    let (sender, address) = std::sync::mpsc::channel();
    let client = std::thread::spawn(move || {
        let address: SocketAddr = address.recv().expect("the server starts");
        let mut stream = std::net::TcpStream::connect(address).expect("connect");
        stream.write_all(b"hello").expect("write");
        let mut buf = [0u8; 5];
        stream.read_exact(&mut buf).expect("read");
        buf
    });
    run(async {
        let listener = TcpListener::bind_on(&Net::kernel(), loopback()).expect("bind");
        sender.send(listener.local_addr()).expect("the client waits");
        let (stream, _) = listener.accept().await.expect("accept");
        let (result, buf) = stream.read(Vec::with_capacity(16)).await.parts();
        result.expect("read");
        stream.write_all(buf).await.expect("write");
    });
    assert_eq!(&client.join().expect("no panic"), b"hello");
}

/// What a sender of much puts at `at`.
fn byte_at(at: usize) -> u8 {
    u8::try_from(at % 251).expect("below 251")
}

/// The buffers that a core's connections share have 16 KiB, and each that is filled is a
/// completion.
#[test]
fn much_that_comes_at_once_is_received_into_the_readers_buffer() {
    let completions = completions_of_a_stream(256 << 10);
    assert!(
        completions.is_none_or(|completions| completions < STREAM_BYTES / (16 << 10) / 2),
        "{completions:?}"
    );
}

#[test]
fn a_stream_that_is_read_in_pieces_reads_ahead() {
    let completions = completions_of_a_stream(4 << 10);
    if super::features().contains(RingFeature::MultishotReceive) {
        let pieces = STREAM_BYTES / (4 << 10);
        assert!(completions.is_none_or(|completions| completions < pieces * 3 / 4), "{completions:?}");
    }
}

const STREAM_BYTES: usize = 32 << 20;

/// How many completions it takes to receive them with buffers of `capacity` bytes, if there is a
/// ring.
fn completions_of_a_stream(capacity: usize) -> Option<usize> {
    let (sender, address) = std::sync::mpsc::channel();
    let client = std::thread::spawn(move || {
        let address: SocketAddr = address.recv().expect("the server starts");
        let mut stream = std::net::TcpStream::connect(address).expect("connect");
        let piece: Vec<u8> = (0..1 << 20).map(byte_at).collect();
        for _ in 0..STREAM_BYTES / piece.len() {
            stream.write_all(&piece).expect("write");
        }
    });
    // A core that sleeps does not count what wakes it.
    let config = CoreConfig::default().seed([9; 32]).ring_features(super::features()).idle(Idle::Poll);
    let core = Core::new(&config).expect("a core");
    let completions = core.block_on(async {
        let listener = TcpListener::bind_on(&Net::kernel(), loopback()).expect("bind");
        sender.send(listener.local_addr()).expect("the client waits");
        let (stream, _) = listener.accept().await.expect("accept");
        let before = observe::stats();
        let (mut received, mut buf) = (0, Vec::with_capacity(capacity));
        // First in pieces, so that the stream reads ahead: that is to end.
        while received < 10 {
            let (result, piece) = stream.read(Vec::with_capacity(1)).await.parts();
            assert_eq!((result.expect("read"), piece[0]), (1, byte_at(received)));
            received += 1;
        }
        while received < STREAM_BYTES {
            buf.clear();
            let (result, back) = stream.read(buf).await.parts();
            buf = back;
            let len = result.expect("read");
            assert_ne!(len, 0, "the stream ended after {received} bytes");
            assert!(buf.iter().enumerate().all(|(at, byte)| *byte == byte_at((received + at) % (1 << 20))));
            received += len;
        }
        let completions = usize::try_from(observe::stats().completions - before.completions).expect("few");
        (before.reactor == ReactorKind::IoUring).then_some(completions)
    });
    client.join().expect("no panic");
    completions
}

#[test]
fn a_stream_is_used_from_another_core() {
    use boson::rt::CoreThread;

    let config = CoreConfig::default().seed([10; 32]);
    let other = CoreThread::start("other", &config).expect("starts");
    run(async {
        let listener = TcpListener::bind_on(&Net::kernel(), loopback()).expect("bind");
        let address = listener.local_addr();
        let remote = rt::named("connect").spawn_on(other.handle(), move || async move {
            RemoteStream::lend(TcpStream::connect_on(&Net::kernel(), address).await.expect("connect"))
        });
        let (server, _) = listener.accept().await.expect("accept");
        let remote = remote.await.expect("no panic");
        assert_eq!(remote.local_addr(), server.peer_addr());
        for round in 0..100u8 {
            let (result, sent) = remote.write(vec![round; 100]).await.parts();
            assert_eq!((result.expect("write"), sent.len()), (100, 100));
            let (result, got) = server.read(Vec::with_capacity(100)).await.parts();
            assert_eq!((result.expect("read"), got), (100, vec![round; 100]));
            server.write_all(vec![round; 10]).await.expect("write");
            let (result, got) = remote.read(Vec::with_capacity(100)).await.parts();
            assert_eq!((result.expect("read"), got), (10, vec![round; 10]));
        }
        remote.shutdown(Shutdown::Write);
        assert_eq!(server.read(Vec::with_capacity(8)).await.expect("half closed").0, 0);
        server.write_all(&b"bye"[..]).await.expect("the other half is open");
        assert_eq!(remote.read(Vec::with_capacity(8)).await.parts().1, b"bye");
        drop(other);
        let (result, _) = remote.read(Vec::with_capacity(8)).await.parts();
        assert_eq!(result.expect_err("its core is gone").kind(), ErrorKind::Closed);
    });
}

#[test]
fn connections_that_were_reset_before_they_were_accepted_are_passed_over() {
    run(async {
        let net = Net::kernel();
        let listener = TcpListener::bind_on(&net, loopback()).expect("bind");
        for _ in 0..20 {
            let client = TcpStream::connect_on(&net, listener.local_addr()).await.expect("connect");
            client.abort();
        }
        let client = TcpStream::connect_on(&net, listener.local_addr()).await.expect("connect");
        let (_, peer) = listener.accept().await.expect("the one that is still there");
        assert_eq!(peer, client.local_addr());
    });
}

#[test]
fn an_accepted_connection_knows_its_own_address() {
    run(async {
        let net = Net::kernel();
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let listener = TcpListener::bind_on(&net, anywhere).expect("bind");
        let target = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().port()));
        let client = TcpStream::connect_on(&net, target).await.expect("connect");
        let (server, _) = listener.accept().await.expect("accept");
        assert_eq!(server.local_addr(), client.peer_addr());
    });
}

#[test]
fn a_read_without_room_is_no_end_of_the_stream() {
    run(async {
        for (client, server) in pairs().await {
            client.write_all(&b"x"[..]).await.expect("write");
            rt::sleep(Duration::from_millis(5)).await;
            assert!(polled_at_most(server.read(Vec::new()), 1).await.is_none_or(|read| read.is_ok()));
            rt::sleep(Duration::from_millis(5)).await;
            let (read, buf) = server.read(Vec::with_capacity(8)).await.parts();
            assert_eq!((read.expect("read"), &buf[..]), (1, &b"x"[..]));
        }
    });
}

/// What a dropped accept got is for those that wait already, too: nobody else may connect.
#[test]
fn an_accept_in_flight_gets_what_a_dropped_one_accepted() {
    run(async {
        let listener = Rc::new(TcpListener::bind_on(&Net::kernel(), loopback()).expect("bind"));
        for _ in 0..20 {
            let accepting = Rc::clone(&listener);
            let mut first = Box::pin(async move { accepting.accept().await.map(drop) });
            assert!(rt::timeout(Duration::from_micros(100), &mut first).await.is_err(), "nobody connects");
            let accepting = Rc::clone(&listener);
            let second = rt::named("second").spawn(async move { accepting.accept().await.map(drop) });
            rt::sleep(Duration::from_millis(1)).await;
            let _peer = std::net::TcpStream::connect(listener.local_addr()).expect("connect");
            // The first one's operation has it by then.
            rt::sleep(Duration::from_millis(1)).await;
            drop(first);
            let accepted = rt::timeout(Duration::from_secs(5), second).await;
            accepted.expect("it gets what the first one did").expect("no panic").expect("accept");
        }
    });
}

/// A stream of another core and its plain other end, with a read of the former under way that was
/// given up.
async fn remote_with_an_abandoned_read(owner: &rt::CoreThread) -> (TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind(loopback()).expect("bind");
    let address = listener.local_addr().expect("bound");
    let lent = rt::named("connect").spawn_on(owner.handle(), move || async move {
        RemoteStream::lend(TcpStream::connect_on(&Net::kernel(), address).await.expect("connect"))
    });
    let stream = TcpStream::from(lent.await.expect("the core lives"));
    let (peer, _) = listener.accept().expect("connected");
    peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    let read = rt::timeout(Duration::from_millis(20), stream.read(Vec::with_capacity(8))).await;
    assert!(read.is_err(), "nobody sends");
    (stream, peer)
}

#[test]
fn dropping_a_stream_of_another_core_closes_it_though_a_read_was_abandoned() {
    let config = CoreConfig::default().seed([4; 32]);
    let owner = rt::CoreThread::start("owner", &config).expect("a thread");
    run(async {
        let (stream, mut peer) = remote_with_an_abandoned_read(&owner).await;
        stream.write_all(&b"last words"[..]).await.expect("write");
        drop(stream);
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).expect("closed");
        assert_eq!(heard, b"last words");

        let (stream, mut peer) = remote_with_an_abandoned_read(&owner).await;
        stream.abort();
        let error = peer.read_to_end(&mut heard).expect_err("reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn what_is_asked_of_an_aborted_stream_of_another_core_says_that_it_is_closed() {
    let config = CoreConfig::default().seed([4; 32]);
    let owner = rt::CoreThread::start("owner", &config).expect("a thread");
    run(async {
        let listener = std::net::TcpListener::bind(loopback()).expect("bind");
        let address = listener.local_addr().expect("bound");
        let lent = rt::named("connect").spawn_on(owner.handle(), move || async move {
            RemoteStream::lend(TcpStream::connect_on(&Net::kernel(), address).await.expect("connect"))
        });
        let stream = lent.await.expect("the core lives");
        stream.abort();
        rt::sleep(Duration::from_millis(20)).await;
        let read = stream.read(Vec::with_capacity(8)).await.expect_err("aborted");
        let write = stream.write(vec![1]).await.expect_err("aborted");
        for error in [read, write] {
            assert_eq!(error.kind(), ErrorKind::Closed);
            assert!(error.to_string().contains("the connection is closed"), "{error}");
        }
    });
}

/// Closing needs no room in the owner's inbox.
#[test]
fn dropping_a_stream_of_another_core_closes_it_though_that_core_takes_no_messages() {
    let config = CoreConfig::default().seed([4; 32]).messages(1);
    let owner = rt::CoreThread::start("owner", &config).expect("a thread");
    run(async {
        let (stream, mut peer) = remote_with_an_abandoned_read(&owner).await;
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (started, is_started) = std::sync::mpsc::channel();
        let stuck = owner.handle().run(move || {
            started.send(()).expect("the test waits");
            wait.recv()
        });
        is_started.recv().expect("it starts");
        let waiting = owner.handle().run(|| {});
        let error = stream.read(Vec::with_capacity(8)).await.expect_err("the inbox is full");
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        drop(stream);
        go_on.send(()).expect("it waits");
        stuck.await.expect("no panic").expect("told");
        waiting.await.expect("no panic");
        assert_eq!(peer.read(&mut [0; 8]).expect("closed"), 0);
    });
}

#[test]
fn a_lent_stream_closes_when_its_core_ends() {
    let core = Core::new(&CoreConfig::default().seed([4; 32])).expect("io_uring is usable");
    let listener = std::net::TcpListener::bind(loopback()).expect("bind");
    let address = listener.local_addr().expect("bound");
    let lent = core.block_on(async {
        RemoteStream::lend(TcpStream::connect_on(&Net::kernel(), address).await.expect("connect"))
    });
    let (mut peer, _) = listener.accept().expect("connected");
    peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    // Its thread lives on, and so does whoever borrows the stream.
    drop(core);
    assert_eq!(peer.read(&mut [0; 8]).expect("closed"), 0);
    drop(lent);
}

/// What the core's receive buffers cannot hold stays in the kernel, and nothing is lost or waits
/// forever.
#[test]
fn slow_readers_neither_lose_bytes_nor_stop_others() {
    const STREAMS: usize = 48;
    const BYTES: usize = 300_000;
    run(async {
        let mut slow = Vec::new();
        for _ in 0..STREAMS {
            let (client, server) = pair().await;
            client.write_all(&b"!"[..]).await.expect("write");
            // The first read is what may leave a request with the kernel.
            let (first, buf) = server.read(Vec::with_capacity(1)).await.parts();
            assert_eq!((first.expect("read"), buf), (1, vec![b'!']));
            let writer = rt::named("writer").spawn(async move {
                let bytes: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at % 251).expect("small")).collect();
                // Small pieces take many buffers.
                for piece in bytes.chunks(100) {
                    client.write_all(piece.to_vec()).await.expect("write");
                }
            });
            slow.push((server, writer));
        }
        rt::sleep(Duration::from_millis(50)).await;
        let (client, server) = pair().await;
        for round in 0..100u8 {
            client.write_all(vec![round; 10]).await.expect("write");
            let read = rt::timeout(Duration::from_secs(5), server.read(Vec::with_capacity(10))).await;
            let (result, buf) = read.expect("others' buffers do not hold it up").parts();
            assert_eq!((result.expect("read"), buf), (10, vec![round; 10]));
        }
        for (server, writer) in slow {
            let all = read_to_end(&server).await.expect("read");
            assert_eq!(all.len(), BYTES);
            assert!(all.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251), "out of order");
            writer.await.expect("no panic");
        }
    });
}

/// Two reads wait at the same time when the stream has proved to be one: the other one still has a
/// request of its own then, which must not take bytes from behind those that are received ahead.
#[test]
fn what_is_read_next_comes_after_what_was_read() {
    run(async {
        let (client, server) = pair().await;
        let send = async |bytes: &'static [u8]| {
            client.write_all(bytes).await.expect("write");
            rt::sleep(Duration::from_millis(3)).await;
        };
        send(b"012").await;
        for _ in 0..3 {
            assert_eq!(server.read(Vec::with_capacity(1)).await.expect("read").0, 1);
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = Vec::new();
        for _ in 0..2 {
            let mut read = Box::pin(server.read(Vec::with_capacity(1)));
            assert!(read.as_mut().poll(&mut context).is_pending());
            waiting.push(read);
        }
        rt::sleep(Duration::from_millis(3)).await;
        send(b"3").await;
        waiting.retain_mut(|read| read.as_mut().poll(&mut context).is_pending());
        assert_eq!(waiting.len(), 1, "one byte was sent");
        let mut third = Box::pin(server.read(Vec::with_capacity(1)));
        assert!(third.as_mut().poll(&mut context).is_pending());
        rt::sleep(Duration::from_millis(3)).await;
        for byte in [b"4", b"5", b"6", b"7"] {
            send(byte).await;
        }
        let (read, waited_for) = waiting.remove(0).await.parts();
        assert_eq!(read.expect("read"), 1);
        // What comes after all of these: the third has its byte already, or takes the next.
        let (read, next) = server.read(Vec::with_capacity(1)).await.parts();
        assert_eq!(read.expect("read"), 1);
        assert!(next > waited_for, "{next:?} was read after {waited_for:?}");
        let (read, third) = third.await.parts();
        assert_eq!(read.expect("read"), 1);
        let mut all = [waited_for, next, third].concat();
        all.sort_unstable();
        assert_eq!(all, b"456");
    });
}

/// What the read that waits was given is not with its task yet.
#[test]
fn try_read_does_not_overtake_a_read_that_waits() {
    run(async {
        for (client, server) in pairs().await {
            let mut context = Context::from_waker(Waker::noop());
            let mut read = Box::pin(server.read(Vec::with_capacity(1)));
            assert!(read.as_mut().poll(&mut context).is_pending());
            rt::sleep(Duration::from_millis(3)).await;
            for byte in [b"a", b"b"] {
                client.write_all(&byte[..]).await.expect("write");
                rt::sleep(Duration::from_millis(3)).await;
            }
            let mut here = [0; 8];
            let len = server.try_read(&mut here).expect("read").unwrap_or(0);
            let mut got = here[..len].to_vec();
            if got.len() < 2 {
                let (result, waited_for) = read.await.parts();
                assert_eq!(result.expect("read"), 1);
                got.extend(waited_for);
            }
            if got.len() < 2 {
                let (result, rest) = server.read(Vec::with_capacity(1)).await.parts();
                assert_eq!(result.expect("read"), 1);
                got.extend(rest);
            }
            assert_eq!(got, b"ab");
        }
    });
}

/// Reads change between small and large buffers, and between waiting and not waiting: the bytes
/// stay in order.
#[test]
fn every_kind_of_read_gets_the_next_bytes() {
    run(async {
        let (client, server) = pair().await;
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| u8::try_from(i % 253).expect("small")).collect();
        let expected = sent.clone();
        let writer = rt::named("writer").spawn(async move {
            for (at, piece) in sent.chunks(9973).enumerate() {
                client.write_all(piece.to_vec()).await.expect("write");
                if at % 5 == 0 {
                    rt::sleep(Duration::from_micros(30)).await;
                }
            }
        });
        let mut got = Vec::new();
        let mut without_waiting = 0;
        for round in 0.. {
            let mut here = [0; 700];
            match server.try_read(&mut here).expect("read") {
                Some(0) => break,
                Some(len) => {
                    without_waiting += 1;
                    got.extend_from_slice(&here[..len]);
                }
                None => {}
            }
            let room = [10, 4096, 100_000, 512, 20_000][round % 5];
            let (result, buf) = server.read(Vec::with_capacity(room)).await.parts();
            if result.expect("read") == 0 {
                break;
            }
            got.extend_from_slice(&buf);
        }
        writer.await.expect("no panic");
        assert!(got == expected, "bytes were lost or reordered");
        assert!(without_waiting > 10, "only {without_waiting} reads found something: the test shows nothing");
    });
}

#[test]
fn a_closed_stream_is_closed_though_the_kernel_still_receives_for_it() {
    run(async {
        for (client, server) in pairs().await {
            assert!(polled_at_most(server.read(Vec::with_capacity(8)), 2).await.is_none());
            server.write_all(&b"bye"[..]).await.expect("write");
            drop(server);
            let heard = rt::timeout(Duration::from_secs(5), read_to_end(&client)).await;
            assert_eq!(heard.expect("it is closed").expect("in order"), b"bye");
        }
    });
}

#[test]
fn a_listener_can_be_bound_again_though_the_kernel_still_accepted_for_it() {
    run(async {
        let net = Net::kernel();
        let listener = TcpListener::bind_on(&net, loopback()).expect("bind");
        let address = listener.local_addr();
        assert!(polled_at_most(listener.accept(), 2).await.is_none());
        drop(listener);
        let patience = rt::now() + Duration::from_secs(5);
        while let Err(error) = TcpListener::bind_on(&net, address) {
            assert_eq!(error.kind(), ErrorKind::InUse);
            assert!(rt::now() < patience, "the port is never free again");
            rt::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// A buffer that says when it is freed, and overwrites itself then, which nobody may see.
struct Poisoned {
    bytes: Vec<u8>,
    freed: Rc<Cell<usize>>,
}

// SAFETY: the bytes are those of a vector that is never touched before the drop.
unsafe impl IoBuf for Poisoned {
    fn stable_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes.len()
    }
}

impl Drop for Poisoned {
    fn drop(&mut self) {
        self.bytes.fill(0xdd);
        self.freed.set(self.freed.get() + 1);
    }
}

/// Sends without copying, of which every third is dropped while it is in flight: what arrives is
/// what was sent.
#[test]
fn bytes_that_are_not_copied_arrive_as_they_were() {
    const LEN: usize = 64 << 10;
    run(async {
        let freed = Rc::new(Cell::new(0));
        let mut made = 0;
        for round in 0..20 {
            // The kernel copies on loopback, which turns it off for the connection: a new one each
            // time.
            let (client, server) = pair().await;
            let reader = rt::named("reader").spawn(async move { read_to_end(&server).await.expect("read") });
            let mut expected = 0;
            for part in 0..3u8 {
                let buf = Poisoned { bytes: vec![part + 1; LEN], freed: Rc::clone(&freed) };
                made += 1;
                if round % 3 == 0 && part == 0 {
                    drop(polled_at_most(client.write_zero_copy(buf), 1).await);
                    continue;
                }
                let (len, buf) = client.write_zero_copy(buf).await.parts();
                let len = len.expect("written");
                assert!((1..=LEN).contains(&len) && buf.bytes[0] == part + 1);
                expected += len;
            }
            client.shutdown(Shutdown::Write).expect("half close");
            let got = reader.await.expect("no panic");
            assert!(got.iter().all(|byte| (1..=3).contains(byte)), "freed memory was sent");
            assert!(got.is_sorted(), "overtaken");
            let whole = got.iter().filter(|byte| **byte != 1 || round % 3 != 0).count();
            assert_eq!(whole, expected);
        }
        assert_eq!(freed.get(), made, "every buffer is given back");
    });
}

#[test]
fn a_small_write_that_is_not_to_be_copied_is_a_write() {
    run(async {
        let (client, server) = pair().await;
        assert_eq!(client.write_zero_copy(&b"small"[..]).await.expect("written").0, 5);
        let (len, bytes) = server.read(Vec::with_capacity(16)).await.parts();
        assert_eq!((len.expect("read"), bytes.as_slice()), (5, &b"small"[..]));
        drop(server);
        let (mut last, mut buf) = (Ok(0), vec![0u8; 32 << 10]);
        for _ in 0..100 {
            (last, buf) = client.write_zero_copy(buf).await.parts();
            if last.is_err() {
                break;
            }
            rt::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(last.expect_err("the peer is gone").kind(), ErrorKind::Closed);
    });
}
