//! A process that forks while it has a core. Alone in its file, and one test at a time: other
//! tests' threads would hold locks at the fork.

use crate::support::parts::Parts;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use boson::net::{Net, TcpListener, TcpStream, UnixAddr, UnixListener, UnixStream};
use boson::observe::Watchdog;
use boson::observe::inspect::{Client, Inspector};
use boson::rt::reactor::{ReactorChoice, RingFeatures};
use boson::rt::{self, Core, CoreConfig, CoreThread, JoinError, Shutdown};

/// Held by the test that runs.
static ALONE: Mutex<()> = Mutex::new(());

fn config() -> CoreConfig {
    CoreConfig::default().seed([7; 32])
}

fn core() -> Core {
    Core::new(&config()).expect("io_uring is usable")
}

fn message_of_panic(call: impl FnOnce() + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(call).expect_err("it is not allowed here");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).expect("a message")
}

/// Runs `child` in a forked process; whether it said that all is well.
fn in_fork(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child only runs `child` and leaves with `_exit`. Other threads of the test may
    // hold locks of the allocator at the fork; glibc's own handlers make that one usable in the
    // child.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "no process");
    if pid == 0 {
        // SAFETY: asks for a signal that ends the child should it hang.
        unsafe { libc::alarm(10) };
        let well = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!well)) };
    }
    let mut status = 0;
    // SAFETY: waits for the child that was just made; `status` is room for its status.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    waited == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}

#[test]
fn a_forked_child_cannot_use_its_parents_core_and_leaves_it_alone() {
    own_process!();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut core = Some(core());
    let parents = core.as_ref().expect("just made");
    parents.block_on(rt::sleep(Duration::from_millis(1)));
    rt_task_in_flight(parents);
    let handle = parents.handle();
    let thread = CoreThread::start("parents", &config()).expect("a thread");
    let watchdog = Watchdog::start(std::slice::from_ref(&handle), Duration::from_secs(10)).expect("a thread");
    let (mut thread, mut watchdog) = (Some(thread), Some(watchdog));
    let well = in_fork(|| {
        let core = core.take().expect("copied");
        let refused = core.try_block_on(async {}).is_err_and(|error| error.to_string().contains("forked"));
        // Nothing of the parent's is cancelled.
        drop(core);
        // A core of its own works.
        let own = Core::new(&config()).and_then(|own| own.try_block_on(async { 3 }));
        refused && own.is_ok_and(|three| three == 3)
    });
    assert!(well, "the child");
    let well = in_fork(|| {
        let thread = thread.take().expect("copied");
        let own = Core::new(&config()).expect("io_uring is usable");
        // It says so, and nobody waits for what will not come.
        let sent = rt::timeout(Duration::from_secs(5), thread.handle().run(|| 1));
        let refused = matches!(own.block_on(sent), Ok(Err(JoinError::Cancelled)));
        // Its threads are not in this process.
        drop(thread);
        drop(watchdog.take());
        refused
    });
    assert!(well, "the child with its parent's threads");
    what_waits_at_the_fork_says_cancelled(parents_thread(&thread));
    let well = in_fork(|| core.take().expect("copied").shutdown(Shutdown::Cancel, Duration::ZERO).is_err());
    assert!(well, "the child that shuts its parent's core down");
    drop((thread, watchdog));
    // In the middle of a task: it ends there with a panic, and the core with an error.
    let core = core.expect("the child took its copy");
    core.block_on(async {
        let well =
            in_fork(|| message_of_panic(|| drop(rt::named("child").spawn(async {}))).contains("forked"));
        assert!(well, "the child inside a task");
        rt::sleep(Duration::from_millis(1)).await;
    });
    drop(handle);
}

/// What a child drops is in flight in its parent, too: there it goes on, on both reactors.
#[test]
fn what_a_child_drops_goes_on_in_its_parent() {
    own_process!();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        for features in [RingFeatures::all(), RingFeatures::linux_5_15()] {
            let core = Core::new(&config().reactor(reactor).ring_features(features)).expect("a core");
            core.block_on(drop_in_a_child_what_is_in_flight());
        }
    }
}

async fn drop_in_a_child_what_is_in_flight() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = TcpListener::bind_on(&Net::kernel(), any).expect("a free port");
    let near = TcpStream::connect_on(&Net::kernel(), listener.local_addr()).await.expect("connect");
    let (far, _) = listener.accept().await.expect("accept");
    let (reader, writer) = boson::net::pipe().expect("descriptors");
    let mut piped = Some(Box::pin(reader.read(Vec::with_capacity(16))));
    let (mut far, mut listener) = (Some(Rc::new(far)), Some(listener));
    let stream = Rc::clone(far.as_ref().expect("just made"));
    let mut received = Some(Box::pin(async move { stream.read(Vec::with_capacity(16)).await }));
    let soon = Duration::from_millis(2);
    assert!(rt::timeout(soon, received.as_mut().expect("not taken")).await.is_err(), "nothing was sent");
    assert!(rt::timeout(soon, piped.as_mut().expect("not taken")).await.is_err(), "nothing was written");
    let accept = listener.as_ref().expect("not taken").accept();
    assert!(rt::timeout(soon, accept).await.is_err(), "nobody connects");

    let well = in_fork(|| {
        drop((piped.take(), received.take()));
        drop((far.take(), listener.take()));
        true
    });
    assert!(well, "the child");
    rt::sleep(soon).await;
    near.write_all(b"hello".to_vec()).await.expect("write");
    writer.write_all(b"bytes".to_vec()).await.expect("write");
    let limit = Duration::from_secs(5);
    let (result, bytes) =
        rt::timeout(limit, received.as_mut().expect("the parent's")).await.expect("it arrives").parts();
    assert_eq!((result.expect("read"), &bytes[..]), (5, &b"hello"[..]));
    let (result, bytes) =
        rt::timeout(limit, piped.as_mut().expect("the parent's")).await.expect("it arrives").parts();
    assert_eq!((result.expect("read"), &bytes[..]), (5, &b"bytes"[..]));
    let listener = listener.expect("the parent's");
    let kernel = Net::kernel();
    let connecting = TcpStream::connect_on(&kernel, listener.local_addr());
    let _second = rt::timeout(limit, connecting).await.expect("in time").expect("connect");
    rt::timeout(limit, listener.accept()).await.expect("in time").expect("accept");
}

/// What a child drops is not kept open in it: the connection ends when the parent drops it, too,
/// whether or not its ring knew the socket.
#[test]
fn a_connection_that_both_dropped_has_ended() {
    own_process!();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for features in [RingFeatures::all(), RingFeatures::linux_5_15()] {
        let core = Core::new(&config().ring_features(features)).expect("a core");
        let (stream, mut peer) = core.block_on(async {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = TcpListener::bind_on(&Net::kernel(), any).expect("a free port");
            let mut peer = std::net::TcpStream::connect(listener.local_addr()).expect("connect");
            let (stream, _) = listener.accept().await.expect("accept");
            // So many that the ring has a place for it.
            for message in 0..40u8 {
                peer.write_all(&[message]).expect("sent");
                assert_eq!(stream.read(Vec::with_capacity(8)).await.expect("read").0, 1);
            }
            (stream, peer)
        });
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        let mut stream = Some(stream);
        let (mut told, tells) = std::io::pipe().expect("descriptors");
        let (ends, end) = std::io::pipe().expect("descriptors");
        let mut end = Some(end);
        // SAFETY: as in `in_fork`; the child makes system calls and leaves with `_exit`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "no process");
        if pid == 0 {
            // SAFETY: asks for a signal that ends the child should it hang.
            unsafe { libc::alarm(10) };
            drop((end.take(), stream.take()));
            let _ = (&tells).write_all(b"d");
            let _ = (&ends).read(&mut [0]);
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) };
        }
        told.read_exact(&mut [0]).expect("the child dropped it");
        drop(stream.take());
        let ended = peer.read(&mut [0]);
        drop(end.take());
        let mut status = 0;
        // SAFETY: waits for the child that was just made; `status` is room for its status.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(ended.expect("in time"), 0);
    }
}

/// Sockets with names, and what answers there, are the parent's.
#[test]
fn what_listens_in_the_parent_goes_on_after_a_child_dropped_it() {
    own_process!();
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = std::env::temp_dir();
    let path = directory.join(format!("boson-fork-inspect-{}", std::process::id()));
    let thread = CoreThread::start("parents", &config()).expect("a thread");
    let cores = vec![thread.handle().clone()];
    let mut inspector = Some(Inspector::start(&path, "a parent", cores).expect("it starts"));
    let socket = directory.join(format!("boson-fork-socket-{}", std::process::id()));
    let address = UnixAddr::from_path(&socket).expect("a short path");
    let core = core();
    core.block_on(async {
        let mut listener = Some(UnixListener::bind(&address).expect("bind"));
        let well = in_fork(|| {
            drop((inspector.take(), listener.take()));
            true
        });
        assert!(well, "the child");
        let listener = listener.expect("the parent's");
        let _client = UnixStream::connect(&address).await.expect("its name is there");
        rt::timeout(Duration::from_secs(5), listener.accept()).await.expect("in time").expect("accept");
    });
    Client::new(&path).snapshot().expect("the inspector answers");
    drop(inspector);
    assert!(!path.exists(), "the parent's own is removed");
    assert!(!socket.exists(), "the parent's own is removed");
}

/// Leaves a task that sleeps on the core.
fn rt_task_in_flight(core: &Core) {
    core.block_on(async { rt::named("sleeps").spawn(rt::sleep(Duration::from_secs(60))).detach() });
}

fn parents_thread(thread: &Option<CoreThread>) -> &CoreThread {
    thread.as_ref().expect("the child took its copy")
}

/// Results of the parent's threads that come after the fork come to the parent alone; what was
/// there before is the child's too.
fn what_waits_at_the_fork_says_cancelled(thread: &CoreThread) {
    let mut pending = Box::pin(rt::named("forever").spawn_on(thread.handle(), std::future::pending::<()>));
    let mut done = Box::pin(thread.handle().run(|| 7));
    let own = core();
    own.block_on(async {
        let soon = rt::timeout(Duration::from_millis(1), &mut pending).await;
        assert!(soon.is_err(), "it waits");
        // The message behind it was run before this one.
        thread.handle().run(|| ()).await.expect("runs");
    });
    let well = in_fork(|| {
        let own = core();
        own.block_on(rt::timeout(Duration::from_secs(5), async {
            matches!((&mut pending).await, Err(JoinError::Cancelled))
                && (&mut done).await.is_ok_and(|it| it == 7)
        }))
        .is_ok_and(|well| well)
    });
    assert!(well, "the child that awaits its parent's result");
}
