//! `boson top` against running servers: what it prints, how it finds them, what it says when there
//! is none, and how it leaves a terminal.

use crate::support::not_run;
use crate::support::server;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use server::{Directory, Reply, Server};

/// `boson top` with a runtime directory.
fn top(runtime_directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_boson"))
        .arg("top")
        .args(arguments)
        .env("XDG_RUNTIME_DIR", runtime_directory)
        .output()
        .expect("the binary runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn serve(directory: &Directory, arguments: &[&str]) -> Server {
    let all: Vec<&str> = ["--store", "mem:64M"].iter().chain(arguments).copied().collect();
    Server::start(directory.path(), &all)
}

fn socket_of(directory: &Directory, server: &Server) -> PathBuf {
    directory.path().join(format!("boson/serve-{}.sock", server.id()))
}

#[test]
fn a_server_is_found_and_shown() {
    let directory = Directory::new("top");
    let server = serve(&directory, &[]);
    let mut client = server.client();
    for number in 0..100 {
        assert_eq!(client.run(&format!("SET key:{number} v")), Reply::ok());
    }
    let output = top(directory.path(), &["--once", "--interval", "50"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with(&format!("boson serve (process {}, boson ", server.id())), "{text}");
    for part in ["polls/s", "wait99", "created at", "expire keys", "a timer", "redis connection", "accept"] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let output = top(directory.path(), &["--json", "--interval", "50"]);
    let object: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(object["process"], u64::from(server.id()), "{object}");
    let core = &object["cores"][0];
    assert!(core["asleep"].as_f64().is_some_and(|part| part > 0.5 && part <= 1.0), "{core}");
    assert_eq!(core["tasks"].as_u64(), object["task_count"].as_u64());
    let tasks = object["tasks"].as_array().expect("a list");
    let expire = tasks.iter().find(|task| task["name"] == "expire keys").expect("it runs");
    assert_eq!((&expire["state"], &expire["waits_for"]), (&"waiting".into(), &"a timer".into()));
    assert!(expire["created_at"].as_str().is_some_and(|place| place.starts_with("src/bin/boson/serve.rs:")));
    for (name, what) in [("accept", "a connection to accept"), ("redis connection", "bytes to receive")] {
        let task = tasks.iter().find(|task| task["name"] == name).expect(name);
        assert_eq!(task["waits_for"], what, "{task}");
    }
    let namespaces = object["namespaces"].as_array().expect("a list");
    let writes = namespaces.iter().find(|row| row["operation"] == "write").expect("the store wrote");
    assert_eq!((&writes["core"], &writes["failed"]), (&0.into(), &0.into()), "{writes}");
    assert!(text.contains("ops/s") && text.contains(writes["namespace"].as_str().expect("a name")), "{text}");
    assert!(expire["polls"].as_u64().is_some_and(|polls| polls > 0));

    let socket = socket_of(&directory, &server);
    assert!(server.terminate().success());
    assert!(!socket.exists(), "a server that ends removes its socket");
    let output = top(directory.path(), &["--once"]);
    assert!(!output.status.success() && said(&output).contains("none answers there"), "{}", said(&output));
}

/// Anybody may make a directory or a link of that name among the temporary files, and show what
/// they like.
#[test]
fn a_directory_of_somebody_else_is_not_looked_into() {
    let directory = Directory::new("top-foreign");
    let server = serve(&directory, &[]);
    let look = |runtime_directory: &Path| {
        let output = top(runtime_directory, &["--once", "--interval", "50"]);
        (output.status.success(), said(&output))
    };
    assert!(look(directory.path()).0);

    let linked = Directory::new("top-linked");
    std::os::unix::fs::symlink(directory.path().join("boson"), linked.path().join("boson")).expect("a link");
    let (shown, text) = look(linked.path());
    assert!(!shown && text.contains("it is no directory"), "{text}");

    let own = directory.path().join("boson");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).expect("ours");
    let (shown, text) = look(directory.path());
    assert!(!shown && text.contains("others can write to it: chmod go-w"), "{text}");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).expect("ours");

    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&own, Some(65534), None).expect("root may");
        let (shown, text) = look(directory.path());
        assert!(!shown && text.contains("it belongs to user 65534"), "{text}");
        std::os::unix::fs::chown(&own, Some(0), None).expect("root may");
    } else {
        not_run::not_run("boson top in another user's directory: only root can make one");
    }
    assert!(look(directory.path()).0);
    drop(server);
}

/// Runs a shell command on a terminal of its own, and returns what that showed; `None` where there
/// is no script(1).
fn on_a_terminal(command: &str) -> Option<String> {
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    // Its input stays open until it has ended: an end of input would be typed into the terminal.
    let input = child.stdin.take();
    let output = child.wait_with_output().expect("it runs");
    drop(input);
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_terminal_is_left_as_it_was_also_by_a_signal() {
    let directory = Directory::new("top-terminal");
    let server = serve(&directory, &[]);
    let socket = socket_of(&directory, &server);
    let (boson, socket) = (env!("CARGO_BIN_EXE_boson"), socket.display());
    for signal in ["TERM", "HUP", "INT"] {
        let command = format!(
            "stty rows 30 cols 110; timeout --foreground -s {signal} 1 {boson} top --interval 100 {socket}; stty -a"
        );
        let Some(shown) = on_a_terminal(&command) else {
            not_run::not_run("boson top on a terminal: there is no script(1)");
            return;
        };
        let (screen, after) =
            shown.split_once("\x1b[?1049l").unwrap_or_else(|| panic!("{signal}: {shown:?}"));
        assert!(screen.contains("\x1b[?1049h"), "{signal}: it takes a screen of its own: {shown:?}");
        for part in ["boson serve", "polls/s", "expire", "q quit"] {
            assert!(screen.contains(part), "{signal}: {part}: {screen:?}");
        }
        assert!(shown.contains("\x1b[?25h"), "{signal}: the cursor is back");
        let modes: Vec<&str> = after.split_whitespace().collect();
        for mode in ["icanon", "echo", "isig", "opost"] {
            assert!(modes.contains(&mode), "{signal}: {mode}: {after:?}");
        }
    }
}

#[test]
fn log_lines_name_their_tasks_where_asked() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_boson"))
        .args(["echo", "--listen", "127.0.0.1:0", "--max-connections", "0", "--inspect", "none"])
        .args(["--log", "info,boson::task=debug"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address =
        line.split("listening on ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    drop(TcpStream::connect(address).expect("it listens"));
    let said = BufReader::new(child.stderr.take().expect("piped"));
    let refusal = said.lines().map_while(Result::ok).find(|line| line.contains("refused"));
    let _ = child.kill();
    let _ = child.wait();
    let refusal = refusal.expect("there is no room for a connection");
    assert!(refusal.contains("task{name=\"accept\" created_at=src/bin/boson/echo.rs:"), "{refusal}");
}

#[test]
fn the_cores_of_a_server_are_all_shown() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).min(2);
    let directory = Directory::new("top-cores");
    let path = directory.path().join("chosen.sock");
    let path = path.to_str().expect("UTF-8");
    let cores = if cpus == 2 { "0,1" } else { "0" };
    let server = serve(&directory, &["--cores", cores, "--inspect", path]);
    let output = top(directory.path(), &[path, "--json", "--interval", "50"]);
    let object: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let shown = object["cores"].as_array().expect("a list");
    assert_eq!(shown.len(), cpus, "{object}");
    for (number, core) in shown.iter().enumerate() {
        assert_eq!((&core["core"], &core["cpu"]), (&number.into(), &number.into()), "pinned in this order");
        assert_eq!(core["silent"], false);
    }
    assert!(server.terminate().success());
}

#[test]
fn several_servers_have_to_be_told_apart() {
    let directory = Directory::new("top-several");
    let (first, second) = (serve(&directory, &[]), serve(&directory, &[]));
    let text = said(&top(directory.path(), &["--once"]));
    for server in [&first, &second] {
        let socket = socket_of(&directory, server);
        assert!(text.contains(&format!("boson top {}", socket.display())), "{text}");
    }
    let socket = socket_of(&directory, &second);
    let output = top(directory.path(), &[socket.to_str().expect("UTF-8"), "--once", "--interval", "50"]);
    assert!(said(&output).contains(&format!("process {}", second.id())), "{}", said(&output));

    // What a killed server leaves behind is in nobody's way, and goes with the next start.
    let left = socket_of(&directory, &first);
    first.kill();
    assert!(left.exists());
    assert!(top(directory.path(), &["--once", "--interval", "50"]).status.success(), "one is left");
    let third = serve(&directory, &[]);
    assert!(!left.exists() && socket_of(&directory, &third).exists());
    let none = serve(&directory, &["--inspect", "none"]);
    assert!(!socket_of(&directory, &none).exists());
}

#[test]
fn what_cannot_be_shown_is_said_in_a_sentence() {
    let directory = Directory::new("top-wrong");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    drop(UnixListener::bind(path("dead")).expect("a socket"));
    fs::write(path("file"), "no socket").expect("written");
    for (arguments, part) in [
        (&[path("absent").as_str()][..], "there is no such socket"),
        (&[path("dead").as_str()], "has ended"),
        (&[path("file").as_str()], "has ended"),
        (&["--once"], "none answers there"),
        (&[path("absent").as_str(), "--interval", "1"], "50..=3600000"),
    ] {
        let output = top(directory.path(), arguments);
        let text = said(&output);
        assert!(!output.status.success() && text.contains(part) && text.lines().count() < 6, "{text}");
    }
    let server = serve(&directory, &[]);
    let output = top(directory.path(), &[]);
    assert!(said(&output).contains("use --once or --json"), "no screen on a pipe: {}", said(&output));
    drop(server);

    // A directory that others can write to is not used, but that keeps no server from serving.
    let open = Directory::new("top-open");
    fs::create_dir(open.path().join("boson")).expect("a directory");
    fs::set_permissions(open.path().join("boson"), fs::Permissions::from_mode(0o777)).expect("ours");
    let server = serve(&open, &[]);
    assert!(!socket_of(&open, &server).exists());
    assert_eq!(server.client().run("SET k v"), Reply::ok());
    // A path that was asked for is another matter.
    let refusal = Server::try_start(open.path(), &["--store", "mem:64M", "--inspect", "no/such/directory"]);
    let refusal = refusal.err().expect("refused");
    assert!(refusal.contains("listen for inspection") && !refusal.contains("panicked"), "{refusal}");
}
