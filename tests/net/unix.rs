//! Unix stream sockets: names, the promises about dropped futures, half-close, and tokio's traits
//! on top.

use crate::support::own_process::named_in;
use crate::support::parts::Parts;
use std::future::Future;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use boson::ErrorKind;
use boson::compat::TokioIo;
use boson::net::{UnixAddr, UnixListener, UnixStream};
use boson::rt::{self, Core, CoreConfig};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

fn run<F: Future>(future: F) -> F::Output {
    let core = Core::new(&CoreConfig::default().seed([9; 32])).expect("a core");
    let limit = Duration::from_secs(60);
    core.block_on(async { rt::timeout(limit, future).await.expect("nothing hangs") })
}

/// A path of its own for each test; removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("boson-unix-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    fn address(&self) -> UnixAddr {
        UnixAddr::from_path(self.socket()).expect("a short path")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pattern(len: u32) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn read_to_end(stream: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = Vec::with_capacity(4096);
    loop {
        buf.clear();
        let (result, back) = stream.read(buf).await.parts();
        buf = back;
        if result.expect("read") == 0 {
            return all;
        }
        all.extend_from_slice(&buf);
    }
}

#[test]
fn bytes_and_half_closes_go_both_ways() {
    let directory = Directory::new("both-ways");
    run(async {
        let address = directory.address();
        let listener = UnixListener::bind(&address).expect("bind");
        let client = UnixStream::connect(&address).await.expect("connect");
        let server = listener.accept().await.expect("accept");
        assert_eq!((client.peer_addr(), server.local_addr()), (&address, &address));
        assert_eq!(server.local_addr().as_path(), Some(&*directory.socket()));
        assert!(client.local_addr().is_unnamed() && server.peer_addr().is_unnamed());
        let sent = pattern(3_000_000);
        let expected = sent.clone();
        let writer = rt::named("writer").spawn(async move {
            client.write_all(sent).await.expect("write");
            client.shutdown(Shutdown::Write).expect("half close");
            read_to_end(&client).await
        });
        assert!(read_to_end(&server).await == expected);
        server.write_all(&b"bye"[..]).await.expect("the other half is open");
        drop(server);
        assert_eq!(writer.await.expect("no panic"), b"bye");
    });
}

#[test]
fn other_programs_are_at_the_other_end() {
    let directory = Directory::new("others");
    run(async {
        let listener = UnixListener::bind(&directory.address()).expect("bind");
        let path = directory.socket();
        let client = std::thread::spawn(move || {
            let mut stream = StdStream::connect(path).expect("connect");
            stream.write_all(b"hello").expect("write");
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).expect("read");
            answer
        });
        let server = listener.accept().await.expect("accept");
        let (read, hello) = server.read(Vec::with_capacity(100)).await.parts();
        assert_eq!((read.expect("read"), &hello[..]), (5, &b"hello"[..]));
        server.write_all(&b"world"[..]).await.expect("write");
        assert_eq!(client.join().expect("no panic"), *b"world");
    });
}

#[test]
fn dropped_reads_and_accepts_lose_nothing() {
    let directory = Directory::new("dropped");
    run(async {
        let address = directory.address();
        let listener = UnixListener::bind(&address).expect("bind");
        rt::timeout(Duration::from_millis(5), listener.accept()).await.expect_err("nobody connects yet");
        let client = UnixStream::connect(&address).await.expect("connect");
        let server = listener.accept().await.expect("accept");
        let sent = pattern(200_000);
        let expected = sent.clone();
        let writer = rt::named("writer").spawn(async move {
            for (at, piece) in sent.chunks(997).enumerate() {
                client.write_all(piece.to_vec()).await.expect("write");
                if at % 3 == 0 {
                    rt::sleep(Duration::from_micros(100)).await;
                }
            }
            client
        });
        let (mut received, mut dropped) = (Vec::new(), 0);
        while received.len() < expected.len() {
            let read = server.read(Vec::with_capacity(500));
            match rt::timeout(Duration::from_micros(30), read).await.map(Parts::parts) {
                Ok((result, bytes)) => {
                    assert_ne!(result.expect("read"), 0, "the stream ended early");
                    received.extend_from_slice(&bytes);
                }
                Err(_) => dropped += 1,
            }
        }
        assert!(received == expected, "bytes were lost or reordered");
        assert!(dropped > 10, "only {dropped} reads were dropped: the test shows nothing");
        drop(writer.await.expect("no panic"));
        assert_eq!(read_to_end(&server).await, b"");
    });
}

#[test]
fn a_name_goes_away_with_its_listener_and_only_its_own() {
    let directory = Directory::new("names");
    run(async {
        let (address, path) = (directory.address(), directory.socket());
        let listener = UnixListener::bind(&address).expect("bind");
        assert_eq!(UnixListener::bind(&address).expect_err("somebody listens").kind(), ErrorKind::InUse);
        drop(listener);
        assert!(!path.exists());
        assert_eq!(UnixStream::connect(&address).await.expect_err("no name").kind(), ErrorKind::NotFound);

        // What a killed process leaves behind is taken over.
        drop(StdListener::bind(&path).expect("bind"));
        assert!(path.exists());
        let refused = UnixStream::connect(&address).await.expect_err("nobody listens");
        assert_eq!(refused.code(), Some(111), "ECONNREFUSED");
        let listener = UnixListener::bind(&address).expect("nobody listens there");
        UnixStream::connect(&address).await.expect("connect");

        // Somebody else's name is left alone.
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, b"precious").expect("written");
        drop(listener);
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
        assert_eq!(UnixListener::bind(&address).expect_err("a file").kind(), ErrorKind::InUse);
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    });
}

/// A name that a killed process left behind, and many that want it at once: one gets it, and is the
/// one that answers there.
#[test]
fn an_abandoned_name_is_taken_by_one() {
    const TAKERS: usize = 4;
    let directory = Directory::new("race");
    for round in 0..300 {
        let path = directory.socket();
        drop(StdListener::bind(&path).expect("bind"));
        // A process that another test is starting has the listener too, for a moment.
        while StdStream::connect(&path).is_ok() {
            std::thread::yield_now();
        }
        let together = Arc::new(std::sync::Barrier::new(TAKERS));
        let takers: Vec<_> = (0..TAKERS)
            .map(|_| {
                let (address, together) = (directory.address(), Arc::clone(&together));
                std::thread::spawn(move || {
                    together.wait();
                    let taken = UnixListener::bind(&address).map_err(|error| error.kind());
                    // Whoever was slow must not find it abandoned again.
                    together.wait();
                    let answers = StdStream::connect(address.as_path().expect("a path")).is_ok();
                    together.wait();
                    (taken.map(drop), answers)
                })
            })
            .collect();
        let outcomes: Vec<_> = takers.into_iter().map(|taker| taker.join().expect("no panic")).collect();
        let winners = outcomes.iter().filter(|(taken, _)| taken.is_ok()).count();
        assert_eq!(winners, 1, "round {round}: {outcomes:?}");
        assert!(outcomes.iter().all(|(taken, _)| matches!(taken, Ok(()) | Err(ErrorKind::InUse))));
        assert!(outcomes.iter().all(|(_, answers)| *answers), "round {round}: nobody answers: {outcomes:?}");
        let left: Vec<_> = std::fs::read_dir(&directory.0).expect("readable").collect();
        assert!(left.is_empty(), "round {round}: {left:?} is left");
    }
}

/// The name comes and goes, and is abandoned now and then: never do two have it.
#[test]
fn a_name_that_comes_and_goes_is_had_by_one_at_a_time() {
    const TAKERS: usize = 4;
    let directory = Directory::new("churn");
    let owners = AtomicUsize::new(0);
    let taken = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..TAKERS {
            scope.spawn(|| {
                let end = Instant::now() + Duration::from_millis(300);
                while Instant::now() < end {
                    match UnixListener::bind(&directory.address()) {
                        Ok(listener) => {
                            taken.fetch_add(1, Ordering::Relaxed);
                            assert_eq!(owners.fetch_add(1, Ordering::SeqCst), 0, "another one has it");
                            owners.fetch_sub(1, Ordering::SeqCst);
                            drop(listener);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
                    }
                }
            });
        }
    });
    assert!(taken.into_inner() > 10, "the test shows nothing");
    let left: Vec<_> = std::fs::read_dir(&directory.0).expect("readable").collect();
    assert!(left.is_empty(), "{left:?} is left");
}

/// One that is slow to accept listens all the same, and so does one of another kind.
#[test]
fn a_name_is_not_abandoned_while_somebody_listens_who_takes_no_connection() {
    let directory = Directory::new("busy");
    let path = directory.socket();
    let name = SocketAddrUnix::new(&path).expect("a short path");
    let open = |kind| rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::NONBLOCK, None);
    let listener = open(SocketType::STREAM).expect("a descriptor");
    rustix::net::bind(&listener, &name).expect("bind");
    rustix::net::listen(&listener, 0).expect("listen");
    let waiting = open(SocketType::STREAM).expect("a descriptor");
    rustix::net::connect(&waiting, &name).expect("one may wait");
    let second = open(SocketType::STREAM).expect("a descriptor");
    assert_eq!(rustix::net::connect(&second, &name), Err(Errno::AGAIN), "the backlog is full");
    assert_eq!(UnixListener::bind(&directory.address()).expect_err("it listens").kind(), ErrorKind::InUse);
    assert!(path.exists());

    std::fs::remove_file(&path).expect("removed");
    let datagrams = open(SocketType::DGRAM).expect("a descriptor");
    rustix::net::bind(&datagrams, &name).expect("bind");
    assert_eq!(UnixListener::bind(&directory.address()).expect_err("it is there").kind(), ErrorKind::InUse);
    assert!(path.exists());
}

#[test]
fn what_is_in_the_way_of_the_lock_is_left_alone() {
    let directory = Directory::new("lock");
    let lock = directory.0.join(".socket.boson-lock");
    std::fs::write(&lock, b"precious").expect("written");
    let error = UnixListener::bind(&directory.address()).expect_err("a file");
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains(".socket.boson-lock is in the way"), "{error}");
    assert_eq!(std::fs::read(&lock).expect("still there"), b"precious");

    // What flock(1)'s users call their locks is nothing of ours.
    std::fs::remove_file(&lock).expect("removed");
    let theirs = directory.0.join("socket.lock");
    std::fs::write(&theirs, b"1234").expect("written");
    drop(UnixListener::bind(&directory.address()).expect("bind"));
    assert_eq!(std::fs::read(&theirs).expect("still there"), b"1234");
    std::fs::write(&lock, b"").expect("written");

    // Nor is it followed elsewhere.
    std::fs::remove_file(&lock).expect("removed");
    std::os::unix::fs::symlink(directory.0.join("elsewhere"), &lock).expect("a link");
    assert_eq!(UnixListener::bind(&directory.address()).expect_err("a link").kind(), ErrorKind::InUse);
    assert!(!directory.0.join("elsewhere").exists());

    // One that a killed process left behind is nobody's.
    std::fs::remove_file(&lock).expect("removed");
    std::fs::write(&lock, b"").expect("written");
    drop(UnixListener::bind(&directory.address()).expect("bind"));
    assert!(!lock.exists());
}

#[test]
#[ignore = "the child of the next one"]
fn a_child_that_connects() {
    let path = std::env::var_os("BOSON_TEST_SOCKET").expect("the next one sets it");
    let mut stream = StdStream::connect(path).expect("connect");
    assert_eq!(stream.read(&mut [0; 1]).expect("the other end closes"), 0);
}

#[test]
fn the_kernel_says_who_the_peer_is() {
    let directory = Directory::new("credentials");
    let mine = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let path = directory.socket();
    run(async {
        let listener = UnixListener::bind(&directory.address()).expect("bind");
        // Another process, which says its number.
        let mut child = std::process::Command::new(std::env::current_exe().expect("there is one"))
            .args([
                "--exact",
                "--ignored",
                "--test-threads=1",
                &named_in(module_path!(), "a_child_that_connects"),
            ])
            .env("BOSON_TEST_SOCKET", &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("it runs");
        let server = listener.accept().await.expect("accept");
        let peer = server.peer_credentials().expect("it has some");
        assert_eq!((peer.process, peer.user, peer.group), (Some(child.id()), mine.0, mine.1));
        drop(server);
        assert!(child.wait().expect("it ends").success());
        let client = UnixStream::connect(&directory.address()).await.expect("connect");
        let listening = client.peer_credentials().expect("it has some");
        assert_eq!(listening.process, Some(std::process::id()));
    });
}

#[test]
fn abstract_names_are_in_no_file_system() {
    run(async {
        let name = format!("boson-test-{}", std::process::id());
        let address: UnixAddr = format!("@{name}").parse().expect("a name");
        assert_eq!(address.as_abstract_name(), Some(name.as_bytes()));
        assert_eq!((address.as_path(), address.to_string()), (None, format!("@{name}")));
        let listener = UnixListener::bind(&address).expect("bind");
        let client = UnixStream::connect(&address).await.expect("connect");
        let server = listener.accept().await.expect("accept");
        client.write_all(&b"x"[..]).await.expect("write");
        assert_eq!(server.read(Vec::with_capacity(9)).await.parts().1, b"x");
    });
}

#[test]
fn names_that_cannot_be_are_refused() {
    for path in ["", &"x".repeat(108), "a\0b"] {
        let error = UnixAddr::from_path(path).expect_err(path);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    UnixAddr::from_path("x".repeat(107)).expect("the longest");
    for name in [String::new(), "x".repeat(108)] {
        assert_eq!(UnixAddr::from_abstract_name(&name).expect_err("refused").kind(), ErrorKind::InvalidInput);
    }
    UnixAddr::from_abstract_name("x".repeat(107)).expect("the longest");
}

/// The kernel takes a path of 108 bytes without a zero at its end, and says more bytes than
/// `sockaddr_un` has.
#[test]
fn a_peer_with_the_longest_name_is_accepted() {
    let directory = Directory::new("longest");
    run(async {
        let listener = UnixListener::bind(&directory.address()).expect("bind");
        let name = format!("{}/{}", directory.0.display(), "x".repeat(200))[..108].to_owned();
        let path = directory.socket();
        let client =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None)
                .expect("a socket");
        bind_unterminated(&client, name.as_bytes().try_into().expect("108 bytes"));
        let encoded = rustix::net::SocketAddrUnix::new(&path).expect("a short path");
        rustix::net::connect(&client, &encoded).expect("connect");
        let server = listener.accept().await.expect("accept");
        assert_eq!(server.peer_addr().as_path(), Some(std::path::Path::new(&name)));
    });
}

/// Binds to a path that fills its field, as no wrapper of `bind` does.
fn bind_unterminated(socket: &OwnedFd, path: [u8; 108]) {
    let mut address =
        libc::sockaddr_un { sun_family: libc::AF_UNIX.try_into().expect("small"), sun_path: [0; 108] };
    for (target, byte) in address.sun_path.iter_mut().zip(path) {
        *target = byte.try_into().expect("ASCII");
    }
    let len = size_of_val(&address).try_into().expect("small");
    // SAFETY: the pointer is to `len` bytes of an initialised `sockaddr_un`, which `bind` only
    // reads.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) };
    assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
}

/// More connections than the backlog holds: those that come too early wait, and the core goes on
/// meanwhile.
#[test]
fn a_full_backlog_makes_clients_wait() {
    let directory = Directory::new("backlog");
    run(async {
        let path = directory.socket();
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None)
                .expect("a socket");
        let std_address = rustix::net::SocketAddrUnix::new(&path).expect("a short path");
        rustix::net::bind(&socket, &std_address).expect("bind");
        rustix::net::listen(&socket, 1).expect("listen");
        let listener = StdListener::from(socket);
        let address = directory.address();
        let mut clients = Vec::new();
        let last = loop {
            let connect = UnixStream::connect(&address);
            match rt::timeout(Duration::from_millis(50), connect).await {
                Ok(client) => clients.push(client.expect("connect")),
                Err(_) => {
                    break rt::named("client").spawn(async move { UnixStream::connect(&address).await });
                }
            }
            assert!(clients.len() < 10, "the backlog is never full");
        };
        rt::sleep(Duration::from_millis(20)).await;
        let accepted = std::thread::spawn(move || {
            let _first = listener.accept().expect("accept");
            std::thread::sleep(Duration::from_secs(1));
        });
        last.await.expect("no panic").expect("connected once there was room");
        accepted.join().expect("no panic");
    });
}

#[test]
fn tokio_reads_and_writes_a_pair() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    run(async {
        let (near, far) = UnixStream::pair().expect("descriptors");
        let sent = pattern(2_000_000);
        let expected = sent.clone();
        let writer = rt::named("writer").spawn(async move {
            let mut near = TokioIo::new(near);
            near.write_all(&sent).await.expect("write");
            near.shutdown().await.expect("shutdown");
            near.read_u8().await.expect("an answer")
        });
        let mut far = TokioIo::new(far);
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.expect("read");
        assert!(received == expected, "bytes were lost or reordered");
        far.write_u8(7).await.expect("write");
        assert_eq!(writer.await.expect("no panic"), 7);
    });
}
