//! Sends without copying over a card that can: the kernel keeps the memory until the peer has
//! acknowledged what was in it.

use crate::support::parts::{Parts, PartsAll};
use std::cell::Cell;
use std::io::Read;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use boson::mem::IoBuf;
use boson::net::{Net, TcpStream};
use boson::rt;
use boson::rt::reactor::{RingFeature, RingFeatures};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{core, device, run};

const LEN: usize = 48 << 10;
/// How long the peer does not read. No acknowledgement takes that long by itself.
const PAUSE: Duration = Duration::from_millis(500);

/// A buffer that counts when it is freed, and overwrites itself then, which nobody may see.
struct Poisoned {
    bytes: Vec<u8>,
    freed: Rc<Cell<usize>>,
}

impl Poisoned {
    fn new(byte: u8, freed: &Rc<Cell<usize>>) -> Self {
        Self { bytes: vec![byte; LEN], freed: Rc::clone(freed) }
    }
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

/// A program at the other end of the wire that takes one connection and reads only when it is told
/// to, into a small buffer.
struct Peer {
    address: SocketAddr,
    read: Sender<()>,
    received: Receiver<std::io::Result<Vec<u8>>>,
}

impl Peer {
    fn start() -> Self {
        let ip: IpAddr = device("BOSON_GUEST_PEER").parse().expect("an address");
        let network = device("BOSON_GUEST_PEER_NETWORK");
        let (listens, listening) = channel();
        let (read, may_read) = channel::<()>();
        let (tell, received) = channel();
        thread::spawn(move || {
            let network = std::fs::File::open(network).expect("a namespace");
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("root");
            let listener = std::net::TcpListener::bind((ip, 0)).expect("the address is there");
            // Before the connection is made, or its window would be larger. The kernel doubles it.
            rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 4 << 10).expect("a socket");
            listens.send(listener.local_addr().expect("bound")).expect("the test waits");
            let (mut stream, _) = listener.accept().expect("accept");
            let mut all = Vec::new();
            may_read.recv().expect("the test lets it read");
            // Or what waits comes a few packets at a time.
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 1 << 20).expect("a socket");
            let ended = stream.read_to_end(&mut all);
            tell.send(ended.map(|_| all)).expect("the test waits");
        });
        Self { address: listening.recv().expect("the peer listens"), read, received }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect_on(&Net::kernel(), self.address).await.expect("connect")
    }

    fn let_read(&self) {
        self.read.send(()).expect("the peer lives");
    }

    /// How the stream ended, after it was let read.
    fn ended(&self) -> std::io::Result<Vec<u8>> {
        self.received.recv_timeout(super::PATIENCE).expect("the stream ends")
    }

    /// What it read when the stream ended, after it was let.
    fn received(&self) -> Vec<u8> {
        self.ended().expect("not reset")
    }
}

/// Whether this kernel has it at all. The others do the same tests with copies, which show nothing.
fn is_there() -> bool {
    let there = rt::reactor::probe_ring_features().expect("a ring").contains(RingFeature::SendZeroCopy);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    assert!(there || release.starts_with("6.1."), "Linux {release} has it");
    there
}

#[test]
#[ignore = "takes a network card: scripts/guest"]
fn memory_is_lent_until_the_peer_has_it() {
    if !is_there() {
        return;
    }
    let peer = Peer::start();
    let freed = Rc::new(Cell::new(0));
    let sent = Cell::new(0);
    run(async {
        let stream = peer.connect().await;
        {
            let mut write = pin!(stream.write_zero_copy(Poisoned::new(1, &freed)));
            let early = rt::timeout(PAUSE, write.as_mut()).await;
            assert!(early.is_err(), "the kernel copied, or gave the memory back early");
            peer.let_read();
            let (written, buf) = write.await.expect("written");
            sent.set(written);
            assert!(freed.get() == 0 && buf.bytes[0] == 1);
        }
        stream.shutdown(Shutdown::Write).expect("half close");
    });
    let received = peer.received();
    assert!(received.iter().all(|byte| *byte == 1), "other bytes than were written");
    assert_eq!((received.len(), freed.get()), (sent.get(), 1));
}

/// The kernel has said how much it sent, and holds the memory still: cancelling that is no use, and
/// the memory must not go.
#[test]
#[ignore = "takes a network card: scripts/guest"]
fn a_dropped_send_keeps_its_memory_until_the_peer_has_it() {
    if !is_there() {
        return;
    }
    for pause in [Duration::ZERO, Duration::from_millis(50)] {
        let peer = Peer::start();
        let freed = Rc::new(Cell::new(0));
        run(async {
            let stream = peer.connect().await;
            {
                let mut write = pin!(stream.write_zero_copy(Poisoned::new(1, &freed)));
                let first = std::future::poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx).is_pending()));
                assert!(first.await);
                // Reaches the kernel and is under way there.
                rt::yield_now().await;
                rt::sleep(pause).await;
            }
            rt::sleep(PAUSE).await;
            assert_eq!(freed.get(), 0, "the kernel has the memory still");
            peer.let_read();
            while freed.get() == 0 {
                rt::sleep(Duration::from_millis(1)).await;
            }
            stream.shutdown(Shutdown::Write).expect("half close");
        });
        let received = peer.received();
        assert!(!received.is_empty() && received.iter().all(|byte| *byte == 1), "freed memory was sent");
        assert_eq!(freed.get(), 1);
    }
}

/// A send that found no room is given up before any of it was sent.
#[test]
#[ignore = "takes a network card: scripts/guest"]
fn a_dropped_send_that_waits_for_room_sends_nothing() {
    if !is_there() {
        return;
    }
    let peer = Peer::start();
    let freed = Rc::new(Cell::new(0));
    run(async {
        let stream = peer.connect().await;
        let filler = vec![2; 64 << 10];
        let (mut sent, mut before) = (0, None);
        // What the peer's kernel takes without being read makes room again, for a while.
        while before != Some(sent) {
            before = Some(sent);
            while let Some(len) = stream.try_write(&filler).expect("open") {
                sent += len;
            }
            rt::sleep(PAUSE).await;
        }
        {
            let mut write = pin!(stream.write_zero_copy(Poisoned::new(1, &freed)));
            assert!(rt::timeout(PAUSE, write.as_mut()).await.is_err(), "there was room");
        }
        while freed.get() == 0 {
            rt::sleep(Duration::from_millis(1)).await;
        }
        peer.let_read();
        let (written, _) = stream.write_all(b"end".to_vec()).await.parts_all();
        written.expect("written");
        stream.shutdown(Shutdown::Write).expect("half close");
        let received = rt::offload("the peer", move || peer.received()).await.expect("a thread is free");
        assert_eq!(received.len(), sent + 3);
        assert!(received[..sent].iter().all(|byte| *byte == 2) && received[sent..] == *b"end");
    });
}

/// A peer that does not acknowledge anything does not keep a connection that is aborted.
#[test]
#[ignore = "takes a network card: scripts/guest"]
fn an_aborted_stream_is_reset_though_its_memory_is_lent() {
    if !is_there() {
        return;
    }
    let peer = Peer::start();
    let freed = Rc::new(Cell::new(0));
    run(async {
        let stream = peer.connect().await;
        {
            let mut write = pin!(stream.write_zero_copy(Poisoned::new(1, &freed)));
            assert!(rt::timeout(PAUSE, write.as_mut()).await.is_err(), "nothing was lent");
        }
        stream.abort();
        while freed.get() == 0 {
            rt::sleep(Duration::from_millis(1)).await;
        }
    });
    peer.let_read();
    let error = peer.ended().expect_err("the connection is reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A core does not wait for a peer for longer than it was told. What the kernel still has then is
/// never freed, but the connection ends.
#[test]
#[ignore = "takes a network card: scripts/guest"]
fn a_core_that_ends_frees_nothing_that_is_lent() {
    if !is_there() {
        return;
    }
    let peer = Peer::start();
    let freed = Rc::new(Cell::new(0));
    let core = core(RingFeatures::all());
    core.block_on(async {
        let stream = peer.connect().await;
        let buf = Poisoned::new(1, &freed);
        rt::named("sender")
            .spawn(async move {
                let (written, _) = stream.write_zero_copy(buf).await.parts();
                written.expect("written");
            })
            .detach();
        rt::sleep(Duration::from_millis(50)).await;
    });
    core.shutdown(rt::Shutdown::Cancel, PAUSE).expect("the ring works");
    assert_eq!(freed.get(), 0, "the kernel has the memory still");
    peer.let_read();
    let received = peer.received();
    assert!(!received.is_empty() && received.iter().all(|byte| *byte == 1), "freed memory was sent");
}
