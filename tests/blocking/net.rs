//! `boson::blocking::net`: sockets for coroutines, and a threaded server with ten thousand of them.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use boson::blocking::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use boson::rt::time::MonotonicClock;
use boson::rt::{Core, CoreConfig};
use boson::thread;

#[path = "../../examples/threaded_server"]
mod example {
    use boson::blocking::{net, sync};
    use boson::thread;

    pub(crate) mod server;
}

/// Runs `f` as the first coroutine of a new core.
fn run<T: 'static>(f: impl FnOnce() -> T + 'static) -> T {
    let clock = std::sync::Arc::new(MonotonicClock::new());
    let core = Core::new(&CoreConfig::default().clock(clock).seed([7; 32])).expect("io_uring is usable");
    match thread::try_run_on(&core, f).expect("the ring works") {
        Ok(output) => output,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Two ends of a connection.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
    let (server, peer) = listener.accept().expect("it connected");
    assert_eq!(client.local_addr().expect("connected"), peer);
    assert_eq!(server.peer_addr().expect("connected"), peer);
    (client, server)
}

#[test]
fn bytes_arrive_in_order_whatever_the_sizes() {
    run(|| {
        let (mut client, mut server) = pair();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let expected = sent.clone();
        let writer = thread::spawn(move || {
            let mut rest = &sent[..];
            for size in (1..).map(|turn| 1 + turn * 7919 % 100_000) {
                let (part, after) = rest.split_at(rest.len().min(size));
                client.write_all(part).expect("the other end reads");
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            client.shutdown(Shutdown::Write).expect("connected");
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("the other end answers");
            answer
        });
        let mut received = Vec::new();
        for size in [1, 10, 100_000, 3].into_iter().cycle() {
            let mut buf = vec![0; size];
            let len = server.read(&mut buf).expect("connected");
            received.extend_from_slice(&buf[..len]);
            if len == 0 {
                break;
            }
        }
        assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
        server.write_all(b"all of it").expect("connected");
        drop(server);
        assert_eq!(writer.join().expect("no panic"), "all of it");
    });
}

#[test]
fn a_short_read_that_waits_after_a_long_one_loses_nothing() {
    run(|| {
        let (mut client, mut server) = pair();
        let reader = thread::spawn(move || {
            let mut long = vec![0; 64 << 10];
            assert_eq!(server.read(&mut long).expect("connected"), 4);
            let mut short = [0; 3];
            assert_eq!(server.read(&mut short).expect("connected"), 3);
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).expect("connected");
            [&short[..], &rest].concat()
        });
        // Each time after the other end waits.
        thread::sleep(Duration::from_millis(5));
        client.write_all(b"long").expect("connected");
        thread::sleep(Duration::from_millis(5));
        client.write_all(b"0123456789").expect("connected");
        drop(client);
        assert_eq!(reader.join().expect("no panic"), b"0123456789");
    });
}

#[test]
fn a_read_times_out_and_loses_nothing() {
    run(|| {
        let (mut client, mut server) = pair();
        server.set_read_timeout(Some(Duration::from_millis(5))).expect("not zero");
        let mut buf = [0; 8];
        for _ in 0..3 {
            let started = Instant::now();
            assert_eq!(server.read(&mut buf).expect_err("nothing comes").kind(), ErrorKind::WouldBlock);
            assert!(started.elapsed() >= Duration::from_millis(5));
        }
        client.write_all(b"late").expect("connected");
        server.set_read_timeout(None).expect("none is fine");
        let mut text = [0; 4];
        server.read_exact(&mut text).expect("it comes");
        assert_eq!(&text, b"late");
        let zero = server.set_read_timeout(Some(Duration::ZERO)).expect_err("as in std");
        assert_eq!(zero.kind(), ErrorKind::InvalidInput);
        assert!(server.set_nodelay(true).is_ok() && server.set_nodelay(false).is_err());
    });
}

#[test]
fn a_write_times_out_when_nobody_reads() {
    run(|| {
        let (mut client, _server) = pair();
        client.set_write_timeout(Some(Duration::from_millis(5))).expect("not zero");
        let block = vec![0; 1 << 20];
        let error = (0..1000).find_map(|_| client.write_all(&block).err()).expect("buffers have an end");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn errors_have_the_systems_codes() {
    run(|| {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
        let refused = TcpStream::connect(free).expect_err("nobody listens");
        assert_eq!(
            (refused.kind(), refused.raw_os_error()),
            (ErrorKind::ConnectionRefused, Some(libc::ECONNREFUSED))
        );
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let taken = TcpListener::bind(listener.local_addr().expect("bound")).expect_err("it is taken");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
        let timeout = Duration::from_secs(5);
        let address = listener.local_addr().expect("bound");
        assert!(TcpStream::connect_timeout(&address, timeout).is_ok());
        let zero = TcpStream::connect_timeout(&address, Duration::ZERO).expect_err("as in std");
        assert_eq!(zero.kind(), ErrorKind::InvalidInput);
        assert!(TcpStream::connect(&[][..]).is_err());
    });
}

#[test]
fn a_connection_that_never_waits_does_not_hold_up_the_core() {
    run(|| {
        let (mut client, mut server) = pair();
        client.write_all(&[1; 10_000]).expect("there is room");
        let turns = Rc::new(Cell::new(0));
        let count = Rc::clone(&turns);
        let other = thread::spawn(move || {
            loop {
                count.set(count.get() + 1);
                thread::yield_now();
            }
        });
        let mut byte = [0];
        for _ in 0..1000 {
            server.read_exact(&mut byte).expect("it is there");
        }
        assert!(turns.get() >= 1000 / 16, "{} turns", turns.get());
        other.cancel();
        assert!(other.join().is_err());
    });
}

#[test]
fn a_buffered_writer_of_a_cancelled_coroutine_fails_to_flush_and_no_more() {
    run(|| {
        let (client, server) = pair();
        let handle = thread::spawn(move || {
            let mut fill = client.try_clone().expect("a handle");
            fill.set_write_timeout(Some(Duration::from_millis(2))).expect("not zero");
            let block = vec![0; 1 << 16];
            while fill.write_all(&block).is_ok() {}
            let mut writer = BufWriter::new(client);
            writer.write_all(b"cannot be sent").expect("it is only buffered");
            thread::park();
        });
        thread::sleep(Duration::from_millis(30));
        handle.cancel();
        assert!(handle.join().is_err());
        drop(server);
        assert_eq!(thread::spawn(|| 1).join().expect("the core runs on"), 1);
    });
}

#[test]
fn blocking_in_an_async_task_is_refused() {
    let clock = std::sync::Arc::new(MonotonicClock::new());
    let core = Core::new(&CoreConfig::default().clock(clock).seed([7; 32])).expect("io_uring is usable");
    let joined = core.block_on(async {
        boson::rt::named("async")
            .spawn(async {
                let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
                drop(listener.accept());
            })
            .await
    });
    let Err(boson::rt::JoinError::Panicked(payload)) = joined else { panic!("it blocked the core") };
    assert!(payload.message().expect("a message").contains(".await"), "{payload}");
}

#[test]
fn datagrams_go_as_in_std() {
    run(|| {
        let (near, far) = (
            UdpSocket::bind("127.0.0.1:0").expect("a free port"),
            UdpSocket::bind("127.0.0.1:0").expect("a free port"),
        );
        let (here, there) = (near.local_addr().expect("bound"), far.local_addr().expect("bound"));
        let answering = thread::spawn(move || {
            let mut buf = [0; 64];
            for _ in 0..100 {
                // The first waits, others may be there already.
                let (len, from) = far.recv_from(&mut buf).expect("receive");
                far.send_to(&buf[..len], from).expect("send");
            }
            far
        });
        near.connect(there).expect("connect");
        assert_eq!(near.peer_addr().expect("connected"), there);
        let mut buf = [0; 64];
        for round in 0..100u8 {
            assert_eq!(
                near.send(&vec![round; usize::from(round % 60)]).expect("send"),
                usize::from(round % 60)
            );
            let len = near.recv(&mut buf).expect("receive");
            assert_eq!(buf[..len], vec![round; usize::from(round % 60)]);
        }
        let far = answering.join().expect("no panic");
        assert_eq!(far.peer_addr().expect_err("not connected").kind(), io::ErrorKind::NotConnected);
        far.set_read_timeout(Some(Duration::from_millis(5))).expect("not zero");
        assert_eq!(far.recv(&mut buf).expect_err("nothing comes").kind(), io::ErrorKind::WouldBlock);
        near.send(b"late").expect("send");
        assert_eq!(far.recv_from(&mut buf[..2]).expect("its time is not up"), (2, here));
        assert!(far.send_to(b"x", &[][..]).is_err());
    });
}

fn ask(stream: &mut BufReader<TcpStream>, request: &str) -> io::Result<String> {
    stream.get_mut().write_all(format!("{request}\n").as_bytes())?;
    let mut reply = String::new();
    stream.read_line(&mut reply)?;
    Ok(reply.trim_end().to_owned())
}

/// As many connections as the process has descriptors for, ten thousand at most.
fn connections() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit is allowed");
    limit.maximum.map_or(10_000, |most| (most.saturating_sub(200) / 2).min(10_000))
}

#[test]
fn the_threaded_server_holds_ten_thousand_connections() {
    let count = connections();
    run(move || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        drop(thread::spawn(move || example::server::serve(&listener)));
        let open = Rc::new(Cell::new(0));
        let clients: Vec<_> = (0..count)
            .map(|number| {
                let open = Rc::clone(&open);
                thread::spawn(move || -> io::Result<()> {
                    let mut stream = BufReader::new(TcpStream::connect(address)?);
                    assert_eq!(ask(&mut stream, &format!("SET k{number} v{number}"))?, "OK");
                    open.set(open.get() + 1);
                    while open.get() < count {
                        thread::sleep(Duration::from_millis(50));
                    }
                    let neighbour = (number + 1) % count;
                    assert_eq!(ask(&mut stream, &format!("GET k{neighbour}"))?, format!("v{neighbour}"));
                    assert_eq!(ask(&mut stream, "COUNT")?, count.to_string());
                    assert!(ask(&mut stream, "NONSENSE")?.starts_with("ERROR"));
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client.join().expect("no panic").expect("the server answers");
        }
    });
}
