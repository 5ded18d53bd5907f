//! Cores where the kernel refuses io_uring: what they use instead, what they say, and that this
//! holds under misuse.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use boson::ErrorKind;
use boson::observe;
use boson::rt::reactor::{ReactorChoice, ReactorKind};
use boson::rt::{self, Core, CoreConfig};
use without_io_uring::forbid_io_uring;

fn config(reactor: ReactorChoice) -> CoreConfig {
    CoreConfig::default().seed([7; 32]).reactor(reactor)
}

fn core(reactor: ReactorChoice) -> Core {
    Core::new(&config(reactor)).expect("a core")
}

/// Runs `body` in a thread of its own in which io_uring calls fail with `errno`.
fn refused<T: Send + 'static>(errno: i32, body: impl FnOnce() -> T + Send + 'static) -> T {
    thread::spawn(move || {
        forbid_io_uring(errno).expect("the kernel takes a filter");
        body()
    })
    .join()
    .expect("no panic")
}

#[test]
fn a_core_takes_epoll_where_io_uring_is_refused_and_says_so() {
    for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOMEM] {
        let (by_core, by_task) = refused(errno, || {
            let core = core(ReactorChoice::Auto);
            let by_task = core.block_on(async { observe::stats().reactor });
            (core.stats().reactor, by_task)
        });
        assert_eq!((by_core, by_task), (ReactorKind::Epoll, ReactorKind::Epoll), "errno {errno}");
    }
}

#[test]
fn a_core_takes_io_uring_exactly_where_the_probe_says_that_it_may() {
    let may = rt::reactor::probe_io_uring().is_ok();
    // Set by the program that runs all tests with the filter: then it is in force.
    if std::env::var("BOSON_TEST_IO_URING").is_ok_and(|value| value == "forbidden") {
        assert!(!may, "io_uring is said to be forbidden here, and works");
    }
    let expected = if may { ReactorKind::IoUring } else { ReactorKind::Epoll };
    assert_eq!(core(ReactorChoice::Auto).stats().reactor, expected);
    assert_eq!(core(ReactorChoice::Epoll).stats().reactor, ReactorKind::Epoll);
}

#[test]
fn a_program_can_insist_on_io_uring() {
    let error = refused(libc::EPERM, || Core::new(&config(ReactorChoice::IoUring)).expect_err("refused"));
    assert_eq!(error.code(), Some(libc::EPERM));
    assert!(error.to_string().contains("seccomp"), "{error}");
}

#[test]
fn a_mistake_in_the_configuration_is_no_reason_for_epoll() {
    for (break_it, part) in [
        ((|config| config.ring_entries(1 << 20)) as fn(CoreConfig) -> CoreConfig, "ring_entries is 1048576"),
        (|config| config.ring_entries(0), "ring_entries is 0"),
        (|config| config.offload_threads(0), "offload_threads is 0: give 1 to 1024"),
        (|config| config.offload_threads(1025), "offload_threads is 1025"),
        (|config| config.messages(0), "messages is 0"),
    ] {
        let error = Core::new(&break_it(config(ReactorChoice::Auto))).expect_err("out of range");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// The command line, without io_uring: a process inherits the filter of the thread that starts it.
fn boson(arguments: &[&str]) -> Child {
    let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    refused(libc::EPERM, move || {
        Command::new(env!("CARGO_BIN_EXE_boson"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs")
    })
}

#[test]
fn doctor_calls_it_degraded() {
    let output = boson(&["doctor"]).wait_with_output().expect("runs");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    for backend in ["io_uring", "kernel:"] {
        let line = text.lines().find(|line| line.starts_with(backend)).expect("named");
        assert!(line.contains("degraded") && line.contains("epoll"), "{line}");
    }
}

#[test]
fn a_server_serves_and_says_once_why_it_uses_epoll() {
    // Two cores, where there are two CPUs.
    let cores = if thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1) { "0,1" } else { "0" };
    let mut server = boson(&["serve", "--store", "mem:64M", "--cores", cores, "--listen", "127.0.0.1:0"]);
    let mut start_line = String::new();
    let mut stdout = BufReader::new(server.stdout.take().expect("piped"));
    stdout.read_line(&mut start_line).expect("a line");
    let address = start_line.split("listening on ").nth(1).and_then(|rest| rest.split([' ', ',']).next());
    let address: SocketAddr = address.and_then(|address| address.parse().ok()).expect("an address");
    let mut client = TcpStream::connect(address).expect("it listens");
    client.write_all(b"SET a b\r\nGET a\r\nSHUTDOWN\r\n").expect("sent");
    let mut replies = String::new();
    client.read_to_string(&mut replies).expect("replies");
    assert_eq!(replies, "+OK\r\n$1\r\nb\r\n");
    let output = server.wait_with_output().expect("it ends");
    let log = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{log}");
    let said: Vec<_> = log.lines().filter(|line| line.contains("epoll")).collect();
    assert!(said.len() == 1 && said[0].contains("WARN") && said[0].contains("seccomp"), "{log}");
}
