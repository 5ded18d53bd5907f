//! Destructors and wakers that panic when the core is told that I/O is done: it is nobody else's
//! loss.

use crate::support::hooked_waker;
use crate::support::parts::Parts;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use boson::mem::{IoBuf, IoBufMut};
use boson::net::{Net, PipeReader, PipeWriter, TcpListener, TcpStream, UdpSocket};
use boson::rt::reactor::{ReactorChoice, RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig};

use hooked_waker::Hook;

/// Every read gives the kernel its own buffer.
fn core(reactor: ReactorChoice) -> Core {
    let config = CoreConfig::default()
        .seed([6; 32])
        .reactor(reactor)
        .ring_features(RingFeatures::all().without(RingFeature::MultishotReceive));
    Core::new(&config).expect("a core")
}

async fn pair() -> (TcpStream, TcpStream) {
    let net = Net::kernel();
    let listener = TcpListener::bind_on(&net, SocketAddr::from(([127, 0, 0, 1], 0))).expect("bind");
    let client = TcpStream::connect_on(&net, listener.local_addr()).await.expect("connect");
    (client, listener.accept().await.expect("accept").0)
}

/// A buffer whose destructor panics.
struct Explosive(Vec<u8>);

impl Drop for Explosive {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a destructor of the test panics");
    }
}

// SAFETY: all is the inner Vec's, which keeps the contract.
unsafe impl IoBuf for Explosive {
    fn stable_ptr(&self) -> *const u8 {
        self.0.stable_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.bytes_init()
    }
}

// SAFETY: all is the inner Vec's, which keeps the contract.
unsafe impl IoBufMut for Explosive {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.stable_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.0.bytes_total()
    }

    unsafe fn set_init(&mut self, len: usize) {
        // SAFETY: the caller's promise is the inner Vec's precondition.
        unsafe { self.0.set_init(len) };
    }
}

/// A waker that panics, and knows whether it did.
#[derive(Default)]
struct Panics(AtomicBool);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
        panic!("a waker of the test panics");
    }
}

fn poll_once<F: Future>(future: Pin<&mut F>, waker: &Waker) {
    assert!(future.poll(&mut Context::from_waker(waker)).is_pending(), "nothing has arrived");
}

#[test]
fn a_buffer_that_panics_when_the_kernel_gives_it_back_is_nobodys_error() {
    let core = core(ReactorChoice::Auto);
    core.block_on(async {
        let (client, server) = pair().await;
        // On epoll the buffer goes with the future, whose owner hears of it.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let mut read = Box::pin(server.read(Explosive(Vec::with_capacity(64))));
            poll_once(read.as_mut(), Waker::noop());
        }));
        rt::sleep(Duration::from_millis(10)).await;
        client.write_all(&b"more"[..]).await.expect("write");
        assert_eq!(server.read(Vec::with_capacity(64)).await.parts().1, b"more");
    });
}

#[test]
fn a_core_ends_its_other_io_though_a_buffer_panics() {
    let core = core(ReactorChoice::Auto);
    core.block_on(async {
        for number in 0..20 {
            let (client, server) = pair().await;
            drop(rt::named("reader").spawn(async move {
                let _client = client;
                if number % 2 == 0 {
                    drop(server.read(Explosive(Vec::with_capacity(64))).await);
                } else {
                    drop(server.read(Vec::with_capacity(64)).await);
                }
            }));
        }
        rt::sleep(Duration::from_millis(10)).await;
    });
    drop(core);
}

fn others_are_woken_though_a_waker_panics(reactor: ReactorChoice) {
    let core = core(reactor);
    core.block_on(async {
        let (mut clients, mut readers) = (Vec::new(), Vec::new());
        let (client, server) = pair().await;
        clients.push(client);
        for _ in 0..4 {
            let (client, server) = pair().await;
            clients.push(client);
            readers.push(
                rt::named("reader").spawn(async move { server.read(Vec::with_capacity(8)).await.parts().1 }),
            );
        }
        let woken = Arc::new(Panics::default());
        let mut read = pin!(server.read(Vec::with_capacity(8)));
        poll_once(read.as_mut(), &Waker::from(Arc::clone(&woken)));
        rt::sleep(Duration::from_millis(10)).await;
        for client in &clients {
            // Tasks and their turns come after all have arrived.
            poll_once_for_its_effect(client);
        }
        let told = rt::timeout(Duration::from_secs(5), async {
            for reader in readers {
                assert_eq!(reader.await.expect("no panic"), b"hello");
            }
        });
        told.await.expect("a task was not woken");
        assert!(woken.0.load(Ordering::Relaxed), "nobody panicked: the test shows nothing");
        assert_eq!(read.await.parts().1, b"hello");
    });
}

/// Writes at once: there is room.
fn poll_once_for_its_effect(client: &TcpStream) {
    assert_eq!(client.try_write(b"hello").expect("open"), Some(5));
}

/// What waits has not begun to wait yet.
#[test]
fn a_waker_that_cannot_be_cloned_costs_an_operation_nothing_but_its_poll() {
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let core = core(reactor);
        core.block_on(async {
            let ends = Ends::new().await;
            for _ in 0..2 {
                poll_without_a_clone(ends.server.read(Vec::with_capacity(8)));
                poll_without_a_clone(ends.reader.read(Vec::with_capacity(8)));
                poll_without_a_clone(ends.udp.recv_from(Vec::with_capacity(8)));
                poll_without_a_clone(ends.listener.accept());
            }
            ends.get_what_comes().await.expect("nothing waits for what was not begun");
        });
    }
}

/// One of each kind that is read from, and what writes to it.
struct Ends {
    client: TcpStream,
    server: TcpStream,
    reader: PipeReader,
    writer: PipeWriter,
    udp: UdpSocket,
    listener: TcpListener,
}

impl Ends {
    async fn new() -> Self {
        let (client, server) = pair().await;
        let (reader, writer) = boson::net::pipe().expect("descriptors");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let udp = UdpSocket::bind_on(&Net::kernel(), any).expect("a free port");
        let listener = TcpListener::bind_on(&Net::kernel(), any).expect("a free port");
        Self { client, server, reader, writer, udp, listener }
    }

    /// Something is written to each, and comes; an error if one waits forever.
    async fn get_what_comes(&self) -> boson::Result<()> {
        self.client.write_all(&b"tcp"[..]).await.expect("write");
        self.writer.write_all(&b"pipe"[..]).await.expect("write");
        self.udp.send_to(&b"udp"[..], self.udp.local_addr()).await.expect("send");
        let address = self.listener.local_addr();
        let _client = TcpStream::connect_on(&Net::kernel(), address).await.expect("connect");
        rt::timeout(Duration::from_secs(5), async {
            assert_eq!(self.server.read(Vec::with_capacity(8)).await.parts().1, b"tcp");
            assert_eq!(self.reader.read(Vec::with_capacity(8)).await.parts().1, b"pipe");
            assert_eq!(self.udp.recv_from(Vec::with_capacity(8)).await.parts().1, b"udp");
            self.listener.accept().await.expect("accept");
        })
        .await
    }
}

/// Polls `future` with a waker whose clone panics, and drops it.
fn poll_without_a_clone<F: Future>(future: F) {
    let hook = Hook::new();
    *hook.on_clone.borrow_mut() = Some(Box::new(|| panic!("a waker of the test cannot be cloned")));
    let waker = hook.waker();
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let mut future = pin!(future);
        future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
    }));
    assert!(polled.is_err(), "nothing was cloned: the test shows nothing");
}

/// A panic of its own, and one in which it is dropped.
#[test]
fn a_wait_whose_waker_cannot_be_dropped_keeps_nothing_from_later_ones() {
    let without_multishot = || [core(ReactorChoice::Auto), core(ReactorChoice::Epoll)];
    let with_all = Core::new(&CoreConfig::default().seed([6; 32])).expect("a core");
    for core in without_multishot().into_iter().chain([with_all]) {
        core.block_on(async {
            let ends = Ends::new().await;
            for while_panicking in [false, true] {
                drop_with_its_waker(ends.server.read(Vec::with_capacity(8)), while_panicking);
                drop_with_its_waker(ends.reader.read(Vec::with_capacity(8)), while_panicking);
                drop_with_its_waker(ends.udp.recv_from(Vec::with_capacity(8)), while_panicking);
                drop_with_its_waker(ends.listener.accept(), while_panicking);
                rt::sleep(Duration::from_millis(5)).await;
            }
            ends.get_what_comes().await.expect("nothing waits for what was dropped");
        });
    }
}

/// Polls `future` with a waker of which each clone panics when it is dropped, and drops it.
fn drop_with_its_waker<F: Future>(future: F, while_panicking: bool) {
    fn arm(hook: &'static Hook) {
        *hook.on_drop.borrow_mut() = Some(Box::new(move || {
            // Counted where wake-ups are, of which there are none.
            hook.wakes.set(hook.wakes.get() + 1);
            arm(hook);
            panic!("a waker of the test cannot be dropped");
        }));
    }
    let hook = Hook::new();
    let mut future = Box::pin(future);
    assert!(hook.poll(&mut future).is_pending(), "nothing has arrived");
    arm(hook);
    let _ = catch_unwind(AssertUnwindSafe(move || {
        let _future = future;
        assert!(!while_panicking, "the test drops it in this panic");
    }));
    assert!(hook.take_wakes() > 0, "no waker was dropped: the test shows nothing");
}

#[test]
fn others_are_woken_by_io_uring_though_a_waker_panics() {
    others_are_woken_though_a_waker_panics(ReactorChoice::Auto);
}

#[test]
fn others_are_woken_by_epoll_though_a_waker_panics() {
    others_are_woken_though_a_waker_panics(ReactorChoice::Epoll);
}
