//! What long-running commands do when the terminal, the pipe or the process that they depend on
//! goes away, and on signals.

use crate::support::server;
use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use server::{Client, Directory, Reply, Server};

/// How long a command may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The commands that run until somebody ends them. `top` watches a server of the test.
const SERVERS: [&str; 2] = ["serve --listen 127.0.0.1:0 --store mem:64M", "echo --listen 127.0.0.1:0"];
const TOP: &str = "top --interval 100";

/// A pseudo-terminal: the end that a terminal emulator holds, and what it has shown so far.
struct Terminal {
    emulator: File,
    shown: String,
}

/// Whether a command's terminal is that of its session, so that the kernel sends SIGHUP when it
/// closes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Controls {
    Yes,
    No,
}

impl Terminal {
    fn open() -> (Self, File) {
        let emulator =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&emulator).expect("it is ours");
        unlockpt(&emulator).expect("it is ours");
        let path = ptsname(&emulator, Vec::new()).expect("it has a name").into_string().expect("ASCII");
        let side = rustix::fs::open(
            path,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let terminal = Self { emulator: File::from(emulator), shown: String::new() };
        (terminal, File::from(side.expect("it is open")))
    }

    /// Reads until `text` has been shown.
    fn wait_for(&mut self, text: &str) {
        let began = Instant::now();
        while !self.shown.contains(text) {
            assert!(began.elapsed() < PATIENCE, "no {text:?} in {:?}", self.shown);
            let mut source = [PollFd::new(&self.emulator, PollFlags::IN)];
            poll(&mut source, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))
                .expect("it can be waited for");
            if source[0].revents().contains(PollFlags::IN) {
                let mut bytes = [0; 4096];
                let len = self.emulator.read(&mut bytes).expect("the other side is open");
                self.shown += &String::from_utf8_lossy(&bytes[..len]);
            }
        }
    }
}

/// A command that runs on a terminal; killed when dropped.
struct Running(Child);

impl Running {
    /// Starts `boson` with `arguments` on a terminal and waits until it is at work. They are shell
    /// code, and so is `before`, which runs first.
    fn start(directory: &Path, arguments: &str, before: &str, controls: Controls) -> (Self, Terminal) {
        let (mut terminal, side) = Terminal::open();
        let another = || Stdio::from(side.try_clone().expect("a descriptor is left"));
        let line =
            format!("stty rows 30 cols 110; {before} exec {} {arguments}", env!("CARGO_BIN_EXE_boson"));
        let mut command = Command::new("setsid");
        if controls == Controls::Yes {
            command.arg("--ctty");
        }
        let child = command
            .args(["sh", "-c", &line])
            .current_dir(directory)
            .env("XDG_RUNTIME_DIR", directory)
            .env("TERM", "xterm")
            .stdin(another())
            .stdout(another())
            .stderr(another())
            .spawn()
            .expect("setsid(1) is there");
        drop(side);
        let running = Self(child);
        terminal.wait_for(if arguments.starts_with("top") { "q quit" } else { "listening on" });
        (running, terminal)
    }

    fn id(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).expect("it runs");
    }

    /// How it ended, which must be soon.
    fn ended(&mut self, when: &str) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it still runs: {when}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory, and a server in it for `boson top` to watch.
fn watched(name: &str) -> (Directory, Server) {
    let directory = Directory::new(name);
    let server = Server::start(directory.path(), &["--store", "mem:64M"]);
    (directory, server)
}

/// Servers end cleanly, with 0; `top` ends by the signal, as a program does that does not handle
/// it.
fn assert_ended(status: ExitStatus, arguments: &str, signal: Signal, when: &str) {
    if arguments.starts_with("top") {
        assert_eq!(status.signal(), Some(signal.as_raw()), "{arguments}, {when}: {status}");
    } else {
        assert!(status.success(), "{arguments}, {when}: {status}");
    }
}

fn each(name: &str, check: impl Fn(&Path, &str)) {
    for arguments in SERVERS {
        check(Directory::new(name).path(), arguments);
    }
    let (directory, server) = watched(&format!("{name}-top"));
    check(directory.path(), TOP);
    drop(server);
}

#[test]
fn a_closed_terminal_ends_every_command() {
    each("closed", |directory, arguments| {
        let (mut running, terminal) = Running::start(directory, arguments, "", Controls::Yes);
        drop(terminal);
        assert_ended(running.ended(arguments), arguments, Signal::HUP, "its terminal is closed");
    });
}

#[test]
fn signals_end_every_command() {
    for signal in [Signal::HUP, Signal::TERM, Signal::INT] {
        each("signals", |directory, arguments| {
            let (mut running, terminal) = Running::start(directory, arguments, "", Controls::Yes);
            running.signal(signal);
            assert_ended(running.ended(arguments), arguments, signal, &format!("{signal:?}"));
            drop(terminal);
        });
    }
}

/// Nobody sends `top` a signal then: the terminal is not its session's, or SIGHUP is ignored.
#[test]
fn top_ends_with_its_terminal_without_a_signal() {
    let (directory, server) = watched("closed-quietly");
    let ignoring = "trap '' HUP;";
    let keys_from_elsewhere = format!("{TOP} </dev/null");
    for (before, arguments, controls) in [
        ("", TOP, Controls::No),
        (ignoring, TOP, Controls::Yes),
        // Keys then come from the session's terminal.
        ("", &keys_from_elsewhere, Controls::Yes),
        (ignoring, &keys_from_elsewhere, Controls::Yes),
    ] {
        let case = format!("{before} {arguments} {controls:?}");
        let (mut running, terminal) = Running::start(directory.path(), arguments, before, controls);
        drop(terminal);
        assert_ended(running.ended(&case), TOP, Signal::HUP, &case);
    }
    drop(server);
}

#[test]
fn top_ends_though_its_terminal_takes_no_output() {
    let (directory, server) = watched("stopped-output");
    let (mut running, terminal) = Running::start(directory.path(), TOP, "", Controls::Yes);
    let path = ptsname(&terminal.emulator, Vec::new()).expect("it has a name");
    let side = File::options().write(true).open(path.to_str().expect("ASCII")).expect("it is open");
    rustix::termios::tcflow(&side, rustix::termios::Action::OOff).expect("it is a terminal");
    // By then it waits for room.
    std::thread::sleep(Duration::from_millis(500));
    running.signal(Signal::TERM);
    assert_ended(running.ended("its output is stopped"), TOP, Signal::TERM, "its output is stopped");
    drop(server);
}

/// As nohup(1) does.
#[test]
fn who_ignores_sighup_outlives_it() {
    each("nohup", |directory, arguments| {
        let (mut running, mut terminal) = Running::start(directory, arguments, "trap '' HUP;", Controls::Yes);
        running.signal(Signal::HUP);
        if !arguments.starts_with("top") {
            let rest = terminal.shown.split("listening on ").nth(1).expect("the start line");
            let address: SocketAddr =
                rest.split(' ').next().and_then(|word| word.parse().ok()).expect("an address");
            drop(terminal);
            std::thread::sleep(Duration::from_millis(300));
            if arguments.starts_with("serve") {
                let mut client = Client::connect(address).expect("it still listens");
                assert_eq!(client.run("PING"), Reply::Status("PONG".to_owned()));
            }
        } else {
            std::thread::sleep(Duration::from_millis(300));
            assert!(running.0.try_wait().expect("a child").is_none(), "{arguments}: it ended");
            // It goes on drawing.
            terminal.shown.clear();
            terminal.wait_for("\x1b[");
            drop(terminal);
            assert_ended(running.ended(arguments), arguments, Signal::HUP, "its terminal is closed");
            return;
        }
        assert!(running.0.try_wait().expect("a child").is_none(), "{arguments}: it ended");
        running.signal(Signal::TERM);
        assert_ended(running.ended(arguments), arguments, Signal::TERM, "asked to end");
    });
}

#[test]
fn top_ends_when_what_it_watches_has_ended() {
    let (directory, server) = watched("lost");
    let id = server.id();
    let (mut running, mut terminal) = Running::start(directory.path(), TOP, "", Controls::Yes);
    assert!(server.terminate().success());
    terminal.wait_for("has ended");
    let (_, after) = terminal.shown.split_once("\x1b[?1049l").expect("the screen is given back first");
    assert!(after.contains(&format!("watch boson serve, process {id}: it has ended")), "{after:?}");
    assert_eq!(running.ended("the server has ended").code(), Some(1));
}

#[test]
fn top_says_that_there_is_no_terminal_for_keys() {
    let (directory, server) = watched("no-keys");
    let (mut terminal, side) = Terminal::open();
    let mut child = Command::new("setsid")
        .args([env!("CARGO_BIN_EXE_boson"), "top"])
        .env("XDG_RUNTIME_DIR", directory.path())
        .stdin(Stdio::null())
        .stdout(side)
        .stderr(Stdio::piped())
        .spawn()
        .expect("setsid(1) is there");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    assert_eq!(child.wait().expect("a child").code(), Some(1));
    assert!(said.contains("no terminal to read keys from"), "{said}");
    terminal.shown.clear();
    drop(server);
}

/// A pipe that nobody reads.
fn closed_pipe() -> OwnedFd {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    OwnedFd::from(writer)
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address")
}

/// What a server says is for whoever reads it. `boson serve | head -1` goes on serving.
#[test]
fn servers_serve_though_nobody_reads_what_they_say() {
    for command in ["serve", "echo"] {
        let directory = Directory::new("closed-pipe");
        let address = free_address();
        let mut start = Command::new(env!("CARGO_BIN_EXE_boson"));
        start.args([command, "--listen", &address.to_string(), "--max-connections", "1"]);
        if command == "serve" {
            start.args(["--store", "mem:64M"]);
        }
        start.env("XDG_RUNTIME_DIR", directory.path()).stdin(Stdio::null());
        let child = start.stdout(closed_pipe()).stderr(closed_pipe()).spawn().expect("the binary runs");
        let mut running = Running(child);
        let began = Instant::now();
        let first = loop {
            match Client::connect(address) {
                Ok(client) => break client,
                Err(error) => {
                    assert!(running.0.try_wait().expect("a child").is_none(), "{command} ended: {error}");
                    assert!(began.elapsed() < PATIENCE, "{command} does not listen: {error}");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        };
        // It is refused, and a log line says so.
        let mut second = Client::connect(address).expect("it listens");
        let mut rest = Vec::new();
        second.stream().read_to_end(&mut rest).expect("the connection ends");
        drop(first);
        assert!(running.0.try_wait().expect("a child").is_none(), "{command} ended");
        running.signal(Signal::TERM);
        assert!(running.ended(command).success(), "{command}");
    }
}

#[test]
fn a_failure_has_its_exit_code_though_nobody_reads_the_message() {
    for arguments in [&["serve", "--store", "file:no/such/directory/x"][..], &["top", "/no/such/socket"]] {
        let status = Command::new(env!("CARGO_BIN_EXE_boson"))
            .args(arguments)
            .stdout(closed_pipe())
            .stderr(closed_pipe())
            .status()
            .expect("the binary runs");
        assert_eq!(status.code(), Some(1), "{arguments:?}: {status}");
    }
}

/// What was acknowledged is there, though nothing but the end of the terminal asked the server to
/// end.
#[test]
fn a_closed_terminal_leaves_a_closed_store() {
    let directory = Directory::new("closed-store");
    let arguments = "serve --listen 127.0.0.1:0 --store file:data?size=64M --durability none --inspect none";
    let (mut running, terminal) = Running::start(directory.path(), arguments, "", Controls::Yes);
    let rest = terminal.shown.split("listening on ").nth(1).expect("the start line");
    let address: SocketAddr = rest.split(' ').next().and_then(|word| word.parse().ok()).expect("an address");
    let mut client = Client::connect(address).expect("it listens");
    assert_eq!(client.run("SET k v"), Reply::ok());
    drop(terminal);
    assert!(running.ended("its terminal is closed").success());
    let server = Server::start(directory.path(), &["--store", "file:data?size=64M", "--inspect", "none"]);
    assert_eq!(server.client().run("GET k"), Reply::bulk("v"));
    assert!(server.terminate().success());
}
