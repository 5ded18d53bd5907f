//! UDP on the kernel, over both reactors: what arrives, what a dropped receive keeps, what comes
//! back, and that nothing allocates.

use crate::counting;
use crate::support::parts::Parts;
use crate::support::watched_buffer;
use std::cell::Cell;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::rc::Rc;
use std::time::Duration;

use boson::ErrorKind;
use boson::net::{Net, UdpSocket};
use boson::observe;
use boson::rt::reactor::{ReactorChoice, ReactorKind};
use boson::rt::{self, Core, CoreConfig};

use watched_buffer::Watched;

/// Runs the program on io_uring (on epoll where that is forbidden), and on epoll.
fn run<F: Future<Output = ()>>(program: impl Fn() -> F) {
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let config = CoreConfig::default().seed([9; 32]).reactor(reactor);
        let core = Core::new(&config).expect("a core");
        let limit = Duration::from_secs(60);
        core.block_on(async { rt::timeout(limit, program()).await.expect("nothing hangs") });
    }
}

fn socket() -> UdpSocket {
    UdpSocket::bind_on(&Net::kernel(), SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port")
}

#[test]
fn datagrams_arrive_whole_with_their_senders() {
    run(async || {
        let (near, far) = (socket(), socket());
        assert_ne!(near.local_addr().port(), 0);
        for len in [0, 1, 1472, 60_000] {
            let sent: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).expect("small")).collect();
            let (result, sent) = near.send_to(sent, far.local_addr()).await.parts();
            assert_eq!(result.expect("send"), len);
            let (result, got) = far.recv_from(Vec::with_capacity(65_536)).await.parts();
            assert_eq!(result.expect("receive"), (len, near.local_addr()));
            assert_eq!(got, sent);
        }
        // What a buffer has no room for is lost, and the next datagram begins with its own first
        // byte.
        for bytes in [&b"too long"[..], b"next"] {
            near.send_to(bytes, far.local_addr()).await.expect("send");
        }
        let (result, got) = far.recv_from(Vec::with_capacity(3)).await.parts();
        assert_eq!((result.expect("receive").0, &got[..]), (3, &b"too"[..]));
        assert_eq!(far.recv_from(Vec::with_capacity(16)).await.parts().1, b"next");
        let (result, _) = near.send_to(vec![0; 65_508], far.local_addr()).await.parts();
        let error = result.expect_err("more than a datagram holds");
        assert_eq!(error.code(), Some(libc::EMSGSIZE));
        assert!(error.to_string().contains(&far.local_addr().to_string()), "{error}");
    });
}

#[test]
fn other_programs_and_ipv6_are_at_the_other_end() {
    run(async || {
        let Ok(near) = UdpSocket::bind_on(&Net::kernel(), "[::1]:0".parse().expect("an address")) else {
            // A machine without IPv6.
            return;
        };
        let far = StdSocket::bind("[::1]:0").expect("there is IPv6");
        far.set_read_timeout(Some(Duration::from_secs(5))).expect("not zero");
        near.send_to(&b"ping"[..], far.local_addr().expect("bound")).await.expect("send");
        let mut buf = [0; 8];
        let (len, from) = far.recv_from(&mut buf).expect("it arrives");
        assert_eq!((&buf[..len], from), (&b"ping"[..], near.local_addr()));
        far.send_to(b"pong", from).expect("send");
        let (result, got) = near.recv_from(Vec::with_capacity(8)).await.parts();
        assert_eq!((result.expect("receive").1, &got[..]), (far.local_addr().expect("bound"), &b"pong"[..]));
    });
}

#[test]
fn a_connected_socket_hears_its_peer_only_and_of_its_end() {
    run(async || {
        let (near, far, stranger) = (socket(), socket(), socket());
        let (result, _) = near.send(&b"x"[..]).await.parts();
        assert_eq!(result.expect_err("to nobody").code(), Some(libc::EDESTADDRREQ));
        assert_eq!(near.peer_addr(), None);
        near.connect(far.local_addr()).expect("connect");
        assert_eq!(near.peer_addr(), Some(far.local_addr()));
        stranger.send_to(&b"spam"[..], near.local_addr()).await.expect("send");
        far.send_to(&b"hello"[..], near.local_addr()).await.expect("send");
        let (result, got) = near.recv(Vec::with_capacity(16)).await.parts();
        assert_eq!((result.expect("receive"), &got[..]), (5, &b"hello"[..]));
        assert_eq!(near.send(&b"answer"[..]).await.expect("send").0, 6);
        assert_eq!(far.recv(Vec::with_capacity(16)).await.parts().1, b"answer");

        drop(far);
        rt::sleep(Duration::from_millis(5)).await;
        near.send(&b"anybody?"[..]).await.expect("it leaves");
        let (result, _) = near.recv(Vec::with_capacity(16)).await.parts();
        assert_eq!(result.expect_err("nobody").code(), Some(libc::ECONNREFUSED));
        let waited = rt::timeout(Duration::from_millis(10), near.recv(Vec::with_capacity(16))).await;
        assert_eq!(waited.expect_err("it is said once").kind(), ErrorKind::TimedOut);
    });
}

/// What the kernel says once is said to somebody, also if a receive that was dropped got to hear
/// it.
#[test]
fn the_end_of_a_peer_that_a_dropped_receive_heard_of_is_told() {
    run(async || {
        let (near, far) = (socket(), socket());
        near.connect(far.local_addr()).expect("connect");
        drop(far);
        let mut dropped = Box::pin(near.recv(Vec::with_capacity(16)));
        assert!(rt::timeout(Duration::from_micros(100), &mut dropped).await.is_err(), "nothing was sent");
        near.try_send(b"anybody?").expect("it leaves").expect("there is room");
        rt::sleep(Duration::from_millis(2)).await;
        drop(dropped);
        let told = rt::timeout(Duration::from_secs(5), near.recv(Vec::with_capacity(16))).await;
        let (result, _) = told.expect("it is told").parts();
        assert_eq!(result.expect_err("nobody").code(), Some(libc::ECONNREFUSED));
    });
}

/// Datagrams that a sender may be ahead of their receiver.
const MAX_AHEAD: u32 = 50;

/// Receives are dropped after every number of polls and after every short time, while the other
/// side sends as much as there is room for: every datagram is received once.
#[test]
fn dropped_receives_lose_no_datagram() {
    run(async || {
        let (near, far) = (Rc::new(socket()), socket());
        let to = far.local_addr();
        let sender = Rc::clone(&near);
        let taken = Rc::new(Cell::new(0));
        let progress = Rc::clone(&taken);
        let writer = rt::named("writer").spawn(async move {
            for number in 0..3000u32 {
                // Fewer than the socket's buffer holds: what the kernel throws away is not what
                // this is about.
                while number - progress.get() > MAX_AHEAD {
                    rt::sleep(Duration::from_micros(60)).await;
                }
                sender.send_to(number.to_ne_bytes().to_vec(), to).await.expect("send");
                if number % 3 == 0 {
                    rt::sleep(Duration::from_micros(60)).await;
                }
            }
        });
        let (mut got, mut dropped, mut attempt) = (Vec::new(), 0, 0u32);
        while got.len() < 3000 {
            attempt += 1;
            let mut receive = std::pin::pin!(far.recv_from(Vec::with_capacity(16)));
            let received = if attempt.is_multiple_of(2) {
                let mut left = attempt / 2 % 3;
                std::future::poll_fn(|cx| match receive.as_mut().poll(cx) {
                    std::task::Poll::Ready(received) => std::task::Poll::Ready(Some(received)),
                    std::task::Poll::Pending if left == 0 => std::task::Poll::Ready(None),
                    std::task::Poll::Pending => {
                        left -= 1;
                        std::task::Poll::Pending
                    }
                })
                .await
            } else {
                rt::timeout(Duration::from_micros(u64::from(attempt % 7) * 20), receive).await.ok()
            };
            match received.map(Parts::parts) {
                Some((result, bytes)) => {
                    assert_eq!(result.expect("receive"), (4, near.local_addr()));
                    got.push(u32::from_ne_bytes(bytes.try_into().expect("four bytes")));
                    taken.set(taken.get() + 1);
                }
                None => dropped += 1,
            }
        }
        writer.await.expect("no panic");
        got.sort_unstable();
        assert!(got.into_iter().eq(0..3000), "a datagram was lost or came twice");
        assert!(dropped > 100, "only {dropped} receives were dropped: the test shows nothing");
    });
}

/// What a dropped receive got is for those that wait already, too: nothing else may come.
#[test]
fn a_receive_in_flight_gets_what_a_dropped_one_received() {
    run(async || {
        let (near, far) = (socket(), Rc::new(socket()));
        for round in 0..20 {
            let receive = || {
                let far = Rc::clone(&far);
                Box::pin(async move { far.recv_from(Vec::with_capacity(16)).await })
            };
            // Which of two the kernel serves is its own affair.
            let (mut first, second) = (receive(), receive());
            let second = if round % 2 == 0 {
                let second = rt::named("second").spawn(second);
                rt::sleep(Duration::from_millis(1)).await;
                assert!(
                    rt::timeout(Duration::from_micros(100), &mut first).await.is_err(),
                    "nothing was sent"
                );
                second
            } else {
                assert!(
                    rt::timeout(Duration::from_micros(100), &mut first).await.is_err(),
                    "nothing was sent"
                );
                rt::named("second").spawn(second)
            };
            rt::sleep(Duration::from_millis(1)).await;
            near.try_send_to(b"only", far.local_addr()).expect("send").expect("there is room");
            // The first one's operation has it by then.
            rt::sleep(Duration::from_millis(1)).await;
            drop(first);
            let (result, bytes) = rt::timeout(Duration::from_secs(5), second)
                .await
                .expect("it gets what the first one did")
                .expect("no panic")
                .parts();
            assert_eq!((result.expect("receive").0, &bytes[..]), (4, &b"only"[..]));
        }
    });
}

#[test]
fn a_connected_socket_gets_nothing_that_was_kept_of_others() {
    run(async || {
        let (peer, stranger, far) = (socket(), socket(), socket());
        let mut dropped = Box::pin(far.recv_from(Vec::with_capacity(16)));
        assert!(rt::timeout(Duration::from_micros(100), &mut dropped).await.is_err(), "nothing was sent");
        stranger.try_send_to(b"before", far.local_addr()).expect("send").expect("there is room");
        rt::sleep(Duration::from_millis(2)).await;
        drop(dropped);
        if observe::stats().reactor != ReactorKind::IoUring {
            // It waits in the kernel, and still comes.
            return;
        }
        far.connect(peer.local_addr()).expect("connect");
        peer.send_to(&b"after"[..], far.local_addr()).await.expect("send");
        assert_eq!(far.recv(Vec::with_capacity(16)).await.parts().1, b"after");
    });
}

#[test]
fn what_needs_no_waiting_does_not_wait() {
    run(async || {
        let (near, far) = (socket(), socket());
        let mut buf = [0; 16];
        assert_eq!(far.try_recv_from(&mut buf).expect("nothing is wrong"), None);
        assert_eq!(near.try_send_to(b"now", far.local_addr()).expect("there is room"), Some(3));
        assert_eq!(far.try_recv_from(&mut buf).expect("receive"), Some((3, near.local_addr())));
        assert_eq!(&buf[..3], b"now");
    });
}

#[test]
fn an_address_in_use_is_an_error_unless_it_is_shared() {
    run(async || {
        let net = Net::kernel();
        let first = socket();
        let error = UdpSocket::bind_on(&net, first.local_addr()).expect_err("it is taken");
        assert_eq!(error.kind(), ErrorKind::InUse);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let shared = UdpSocket::bind_shared_on(&net, any).expect("a free port");
        UdpSocket::bind_shared_on(&net, shared.local_addr()).expect("it is shared");
    });
}

#[test]
fn a_core_that_ends_frees_what_is_being_received() {
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let config = CoreConfig::default().seed([9; 32]).reactor(reactor);
        let core = Core::new(&config).expect("a core");
        let alive = Rc::new(Cell::new(0));
        core.block_on(async {
            let near = socket();
            let buf = Watched::new(2048, &alive);
            drop(rt::named("receive").spawn(async move { near.recv_from(buf).await }));
            rt::sleep(Duration::from_millis(1)).await;
        });
        assert_eq!(alive.get(), 1, "it is being received");
        drop(core);
        assert_eq!(alive.get(), 0);
    }
}

#[test]
fn steady_state_allocates_nothing() {
    run(async || {
        let (near, far) = (socket(), socket());
        let to = far.local_addr();
        let (mut out, mut buf) = (vec![7; 100], Vec::with_capacity(2048));
        let mut before = 0;
        for round in 0..1100 {
            if round == 100 {
                before = counting::allocations();
            }
            let (sent, back) = near.send_to(out, to).await.parts();
            assert_eq!(sent.expect("send"), 100);
            out = back;
            buf.clear();
            let (received, back) = far.recv_from(buf).await.parts();
            assert_eq!(received.expect("receive").0, 100);
            buf = back;
        }
        assert_eq!(counting::allocations() - before, 0);
        // The control.
        let before = counting::allocations();
        drop(std::hint::black_box(vec![0; 100]));
        assert_eq!(counting::allocations() - before, 1, "the counter does not count");
    });
}
