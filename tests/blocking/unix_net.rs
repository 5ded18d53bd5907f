//! `boson::blocking::os::unix::net` beside `std`'s, and what `boson::blocking::net` has besides
//! reading and writing.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::time::Duration;

use boson::blocking::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use boson::blocking::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use boson::observe;
use boson::rt::reactor::ReactorChoice;
use boson::rt::{Core, CoreConfig};
use boson::thread;

/// Runs `test` as the first coroutine of a core, over the best reactor and over epoll.
fn everywhere(test: fn()) {
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let config = CoreConfig::default().seed([7; 32]).reactor(reactor);
        let core = Core::new(&config).expect("a core");
        if let Err(payload) = thread::try_run_on(&core, test).expect("the core runs") {
            std::panic::resume_unwind(payload);
        }
    }
}

#[test]
fn unix_sockets_go_as_in_std() {
    everywhere(|| {
        let path = std::env::temp_dir().join(format!("boson-blocking-unix-{}", std::process::id()));
        let listener = UnixListener::bind(&path).expect("free");
        assert_eq!(listener.local_addr().expect("bound").as_pathname(), Some(&*path));
        let from_std = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
        let mut client = UnixStream::connect(&path).expect("it listens");
        assert_eq!(client.peer_addr().expect("connected").as_pathname(), Some(&*path));
        assert!(client.local_addr().expect("connected").is_unnamed());
        drop(listener.incoming().next().expect("never ends").expect("the one of std"));
        drop(from_std);
        let (mut server, peer) = listener.accept().expect("it connected");
        assert!(peer.is_unnamed());

        let echo = thread::spawn(move || {
            let mut bytes = Vec::new();
            server.read_to_end(&mut bytes).expect("the client writes");
            server.write_all(&bytes).expect("the client reads");
        });
        let sent: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        client.write_all(&sent).expect("the server reads");
        client.try_clone().expect("a handle").shutdown(Shutdown::Write).expect("connected");
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("the server writes");
        assert!(received == sent);
        echo.join().expect("no panic");
        assert!(client.take_error().expect("a socket").is_none());
        assert!(listener.take_error().expect("a socket").is_none());
        assert_eq!(listener.as_raw_fd(), listener.as_fd().as_raw_fd());

        assert_eq!(UnixListener::bind(&path).expect_err("it listens").kind(), ErrorKind::AddrInUse);
        drop((listener.try_clone().expect("a handle"), listener));
        assert_eq!(UnixStream::connect(&path).expect_err("gone").kind(), ErrorKind::NotFound);
    });
}

#[test]
fn unix_sockets_have_abstract_names_pairs_and_timeouts() {
    everywhere(|| {
        let name = format!("boson-blocking-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("short");
        let listener = UnixListener::bind_addr(&address).expect("free");
        assert_eq!(listener.local_addr().expect("bound").as_abstract_name(), Some(name.as_bytes()));
        let client = UnixStream::connect_addr(&address).expect("it listens");
        assert_eq!(client.peer_addr().expect("connected").as_abstract_name(), Some(name.as_bytes()));

        let (mut here, mut there) = UnixStream::pair().expect("two descriptors");
        let short = Duration::from_millis(5);
        assert_eq!(
            here.set_read_timeout(Some(Duration::ZERO)).expect_err("zero").kind(),
            ErrorKind::InvalidInput
        );
        here.set_read_timeout(Some(short)).expect("not zero");
        here.set_write_timeout(Some(short)).expect("not zero");
        assert_eq!(
            (here.read_timeout().ok(), here.write_timeout().ok()),
            (Some(Some(short)), Some(Some(short)))
        );
        assert_eq!(here.read(&mut [0]).expect_err("nothing comes").kind(), ErrorKind::WouldBlock);
        there.write_all(b"late").expect("room");
        let mut late = [0; 4];
        here.read_exact(&mut late).expect("it is there");
        assert_eq!(&late, b"late");
    });
}

#[test]
fn what_is_peeked_is_read_again() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut server, _) = listener.accept().expect("it connected");
        let writer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(2));
            client.write_all(b"hello").expect("connected");
            client
        });
        let mut buf = [0; 16];
        let first = server.peek(&mut buf[..2]).expect("connected");
        assert_eq!(&buf[..first], b"he");
        let mut client = writer.join().expect("no panic");
        client.write_all(b" world").expect("connected");
        // What has come meanwhile is seen too, without waiting for it.
        while server.peek(&mut buf).expect("connected") < 11 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(server.peek(&mut buf[..5]).expect("connected"), 5);
        assert_eq!(server.read(&mut buf[..6]).expect("connected"), 6);
        assert_eq!(&buf[..6], b"hello ");
        let mut rest = String::new();
        client.shutdown(Shutdown::Write).expect("connected");
        server.read_to_string(&mut rest).expect("connected");
        assert_eq!(rest, "world");
        assert_eq!(server.peek(&mut buf).expect("the end"), 0);
        server.set_read_timeout(Some(Duration::from_millis(1))).expect("not zero");
        client.set_read_timeout(Some(Duration::from_millis(1))).expect("not zero");
        assert_eq!(client.peek(&mut buf).expect_err("nothing comes").kind(), ErrorKind::WouldBlock);
    });
}

/// Each of two that wait to look takes what came for it: both are still to be read, in their order.
#[test]
fn two_that_peek_at_once_lose_nothing() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut server, _) = listener.accept().expect("it connected");
        let peeks: Vec<_> = (0..2)
            .map(|_| {
                let server = server.try_clone().expect("a handle");
                thread::spawn(move || server.peek(&mut [0; 4]).expect("connected"))
            })
            .collect();
        for piece in [b"1234", b"5678"] {
            thread::sleep(Duration::from_millis(2));
            client.write_all(piece).expect("connected");
        }
        for peek in peeks {
            assert_eq!(peek.join().expect("no panic"), 4);
        }
        let mut all = [0; 8];
        server.set_read_timeout(Some(Duration::from_secs(5))).expect("not zero");
        server.read_exact(&mut all).expect("nothing is lost");
        assert_eq!(&all, b"12345678");
    });
}

#[test]
fn what_two_coroutines_peeked_at_is_read_in_order() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (mut server, _) = listener.accept().expect("it connected");
        let peeks: Vec<_> = (0..2)
            .map(|_| {
                let server = server.try_clone().expect("a handle");
                thread::spawn(move || server.peek(&mut [0]).expect("connected"))
            })
            .collect();
        for byte in [b"a", b"b"] {
            thread::sleep(Duration::from_millis(2));
            client.write_all(byte).expect("connected");
        }
        for peek in peeks {
            assert_eq!(peek.join().expect("no panic"), 1);
        }
        client.shutdown(Shutdown::Write).expect("connected");
        let mut all = String::new();
        server.read_to_string(&mut all).expect("connected");
        assert_eq!(all, "ab");
    });
}

#[test]
fn what_a_peek_finds_broken_is_told_to_the_next_read() {
    everywhere(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (server, _) = listener.accept().expect("it connected");
        std::io::Write::write_all(&mut &server, b"a").expect("connected");
        let mut buf = [0; 4];
        assert_eq!(client.peek(&mut buf[..1]).expect("connected"), 1);
        // A socket that is closed with something unread in it resets its connection.
        client.write_all(b"unread").expect("connected");
        while server.peek(&mut buf).expect("connected") < 4 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(server);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(client.peek(&mut buf).expect("what came before"), 1);
        assert_eq!(client.peek(&mut buf).expect("what came before"), 1);
        assert_eq!((client.read(&mut buf).expect("what came before"), buf[0]), (1, b'a'));
        let error = client.read(&mut buf).expect_err("the connection is broken, and did not just end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn sockets_have_options() {
    everywhere(|| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        listener.set_ttl(40).expect("a socket");
        client.set_ttl(41).expect("a socket");
        udp.set_ttl(42).expect("a socket");
        let ttls = (listener.ttl().ok(), client.ttl().ok(), udp.ttl().ok());
        assert_eq!(ttls, (Some(40), Some(41), Some(42)));
        assert_eq!(rustix::net::sockopt::ip_ttl(&udp).ok(), Some(42));
        assert_eq!(udp.as_raw_fd(), udp.as_fd().as_raw_fd());
        assert!(
            listener.take_error().expect("a socket").is_none()
                && client.take_error().expect("a socket").is_none()
        );

        // To where nobody listens any more: ICMP tells.
        let gone =
            UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
        udp.connect(gone).expect("a socket");
        udp.send(b"x").expect("a socket");
        let error = (0..1_000).find_map(|_| {
            thread::sleep(Duration::from_millis(1));
            udp.take_error().expect("a socket")
        });
        assert_eq!(error.expect("it was refused").kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_name_is_looked_up_while_other_tasks_run() {
    everywhere(|| {
        // A look-up that is over by the time this coroutine runs again shows nothing: on a busy
        // machine the core's own thread may stand still for as long. One that blocks the core
        // always is.
        let was_seen_waiting = (0..100).any(|_| {
            let looks_up =
                thread::spawn(|| ("localhost", 80).to_socket_addrs().map(Iterator::collect::<Vec<_>>));
            thread::yield_now();
            let waits = observe::tasks().first().and_then(|task| task.waits_for);
            let found = looks_up.join().expect("no panic").expect("every system has it");
            assert!(
                found.iter().all(|address| address.ip().is_loopback() && address.port() == 80),
                "{found:?}"
            );
            waits == Some("a blocking call")
        });
        assert!(was_seen_waiting, "it waits for a thread");

        let named = TcpListener::bind("localhost:0").expect("a free port");
        assert!(named.local_addr().expect("bound").ip().is_loopback());
        assert!("localhost".to_socket_addrs().is_err(), "it has no port");
        assert!(("localhost".to_owned(), 1).to_socket_addrs().is_ok());
    });
}

#[test]
fn an_address_in_numbers_is_not_looked_up() {
    // In an async task a look-up would panic.
    let core = Core::new(&CoreConfig::default().seed([7; 32])).expect("a core");
    core.block_on(async {
        let expected = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
        let localhost = Ipv4Addr::LOCALHOST;
        let all = [
            expected.to_socket_addrs().ok().and_then(|mut found| found.next()),
            (localhost, 80).to_socket_addrs().ok().and_then(|mut found| found.next()),
            (IpAddr::V4(localhost), 80).to_socket_addrs().ok().and_then(|mut found| found.next()),
            "127.0.0.1:80".to_socket_addrs().ok().and_then(|mut found| found.next()),
            String::from("127.0.0.1:80").to_socket_addrs().ok().and_then(|mut found| found.next()),
            ("127.0.0.1", 80).to_socket_addrs().ok().and_then(|mut found| found.next()),
            [expected].as_slice().to_socket_addrs().ok().and_then(|mut found| found.next()),
        ];
        assert_eq!(all, [Some(expected); 7]);
        assert!(std::panic::catch_unwind(|| "localhost:80".to_socket_addrs()).is_err());
    });
}
