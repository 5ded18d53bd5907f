//! The servers among the examples go on when the process runs out of descriptors, as a server must.

use crate::support::own_process::named_in;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use boson::net::Net;
use boson::rt::{Core, CoreConfig};
use rustix::process::{Resource, Rlimit, setrlimit};

#[path = "../../examples/echo.rs"]
mod echo;

#[path = "../../examples/threaded_server"]
mod on_threads {
    use std::{net, sync, thread};

    pub(crate) mod server;
}

#[path = "../../examples/threaded_server"]
mod on_coroutines {
    use boson::blocking::{net, sync};
    use boson::thread;

    #[expect(clippy::duplicate_mod, reason = "the same program over other imports, as the example")]
    pub(crate) mod server;
}

/// Descriptors of the child process.
const DESCRIPTORS: usize = 40;

fn core() -> Core {
    Core::new(&CoreConfig::default().seed([7; 32])).expect("a core")
}

/// Runs the test `name` in a process of its own, which this one has no descriptors in common with.
fn run_child(name: &str) {
    let output = Command::new(std::env::current_exe().expect("there is one"))
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1", &named_in(module_path!(), name)])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
    assert!(said.contains("accepting failed, trying again"), "no descriptor was ever missing: {said}");
}

/// `serve` says where it listens and serves; `request` is a line that it answers with `reply`.
fn survives(serve: impl FnOnce(mpsc::Sender<SocketAddr>) + Send + 'static, request: &str, reply: &str) {
    let most = Some(DESCRIPTORS as u64);
    let few = Rlimit { current: most, maximum: most };
    setrlimit(Resource::Nofile, few).expect("lowering it is allowed");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || serve(sender));
    let address = receiver.recv_timeout(Duration::from_secs(10)).expect("it listens");
    // A connection takes two descriptors of this process, and the server's is the one that is
    // missing in the end.
    let crowd: Vec<TcpStream> =
        std::iter::from_fn(|| TcpStream::connect(address).ok()).take(DESCRIPTORS).collect();
    assert!(crowd.len() < DESCRIPTORS, "there was room for all");
    std::thread::sleep(Duration::from_millis(300));
    drop(crowd);
    let mut client = connect(address);
    client.write_all(request.as_bytes()).expect("write");
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).expect("an answer");
    assert_eq!(line, reply);
}

/// The crowd's descriptors come back one after the other.
fn connect(address: SocketAddr) -> TcpStream {
    for _ in 0..100 {
        if let Ok(stream) = TcpStream::connect(address) {
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("not zero");
            return stream;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no descriptor comes back")
}

#[test]
#[ignore = "a child of another one"]
fn child_on_threads() {
    let serve = |sender: mpsc::Sender<SocketAddr>| {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        sender.send(listener.local_addr().expect("bound")).expect("awaited");
        on_threads::server::serve(&listener);
    };
    survives(serve, "SET k v\n", "OK\n");
}

#[test]
#[ignore = "a child of another one"]
fn child_on_coroutines() {
    let serve = |sender: mpsc::Sender<SocketAddr>| {
        let served = boson::thread::try_run_on(&core(), move || {
            let listener = boson::blocking::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            sender.send(listener.local_addr().expect("bound")).expect("awaited");
            on_coroutines::server::serve(&listener);
        });
        served.expect("the core works").expect("no panic");
    };
    survives(serve, "SET k v\n", "OK\n");
}

#[test]
#[ignore = "a child of another one"]
fn child_on_tasks() {
    let serve = |sender: mpsc::Sender<SocketAddr>| {
        core().block_on(async move {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = boson::net::TcpListener::bind_on(&Net::kernel(), any).expect("a free port");
            sender.send(listener.local_addr()).expect("awaited");
            echo::serve(listener).await;
        });
    };
    survives(serve, "hello\n", "hello\n");
}

#[test]
fn a_threaded_server_survives_a_lack_of_descriptors() {
    run_child("child_on_threads");
}

#[test]
fn a_server_on_coroutines_survives_a_lack_of_descriptors() {
    run_child("child_on_coroutines");
}

#[test]
fn a_server_on_tasks_survives_a_lack_of_descriptors() {
    run_child("child_on_tasks");
}
