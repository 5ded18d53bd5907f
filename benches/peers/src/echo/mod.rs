//! Row 7: TCP echo on the kernel's sockets. Each server is a process of its own on CPU 0; the
//! client is this one on CPU 1.

mod client;
mod servers;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::report::{Better, Row, print};
use crate::{machine, photon};
pub use servers::serve;

const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;
/// The size of a message, in bytes.
pub const MESSAGE_BYTES: usize = 512;
/// The size of a server's buffer for each connection, in bytes.
const BUFFER_BYTES: usize = 4096;
/// A server that is still there after this long ends itself.
const SERVER_SECONDS: u32 = 120;

/// How the client behaves.
#[derive(Clone, Copy)]
pub enum Pattern {
    /// The next request of a connection follows the reply to the last.
    PingPong { connections: usize },
    /// A connection always has this many bytes on the way.
    Stream { connections: usize, window_bytes: usize },
}

/// Name for [`Choice`], title, and what the client does.
const LOADS: [(&str, &str, Pattern); 4] = [
    ("ping-1", "ping-pong, 1 connection", Pattern::PingPong { connections: 1 }),
    ("ping-100", "ping-pong, 100 connections", Pattern::PingPong { connections: 100 }),
    ("ping-1000", "ping-pong, 1,000 connections", Pattern::PingPong { connections: 1000 }),
    ("stream-4", "streaming, 4 connections", Pattern::Stream { connections: 4, window_bytes: 64 << 10 }),
];

/// What is compared; empty for everything.
#[derive(Default)]
pub struct Choice {
    pub servers: Vec<String>,
    pub loads: Vec<String>,
}

impl Choice {
    fn has(chosen: &[String], name: &str) -> bool {
        chosen.is_empty() || chosen.iter().any(|chosen| chosen == name)
    }
}

/// What one round measured.
struct Measured {
    /// Messages echoed per second.
    rate: f64,
    /// CPU time of the server per message, in microseconds.
    server_us: f64,
    /// The share of the round that the client had to wait for the server, and that the server used
    /// its CPU.
    client_waited: f64,
    server_busy: f64,
}

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(name: &str) -> Self {
        let command = match (name, photon::program()) {
            ("photon-uring" | "photon-epoll", Some(path)) => {
                let engine = name.strip_prefix("photon-").expect("matched above");
                let mut command = Command::new(path);
                command.args(["echo", engine, &SERVER_CPU.to_string()]);
                command
            }
            _ => {
                let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
                command.args(["serve", name]);
                command
            }
        };
        let mut command = command;
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped"))
            .read_line(&mut line)
            .expect("its address");
        let address = line.trim().parse().unwrap_or_else(|_| panic!("{name} does not listen: {line:?}"));
        Self { process, address }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn measure(name: &str, pattern: Pattern, time: Duration) -> Measured {
    let server = Server::start(name);
    let pid = server.process.id();
    let mut client = client::Client::connect(server.address, pattern);
    client.run(time / 5);
    let (server_before, waited_before) = (machine::process_cpu_time(pid), client.waited());
    let (messages, elapsed) = client.run(time);
    let server_used = (machine::process_cpu_time(pid) - server_before).as_secs_f64();
    let waited = (client.waited() - waited_before).as_secs_f64();
    let elapsed = elapsed.as_secs_f64();
    Measured {
        rate: messages as f64 / elapsed,
        server_us: server_used * 1e6 / messages as f64,
        client_waited: waited / elapsed,
        server_busy: server_used / elapsed,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs every pattern against every server, rounds interleaved.
pub fn compare_echo(rounds: usize, time: Duration, choice: &Choice) {
    if machine::cpus() < 2 {
        println!("\necho needs two CPUs, one for the client; this process may use one");
        return;
    }
    machine::pin(CLIENT_CPU);
    let mut names: Vec<&str> = servers::NAMES.to_vec();
    if photon::program().is_some() {
        names.extend(["photon-uring", "photon-epoll"]);
    }
    let loads = LOADS.map(|(name, ..)| name);
    let unknown = |known: &[&str], chosen: &[String]| {
        chosen
            .iter()
            .find(|name| !known.contains(&name.as_str()))
            .map(|name| format!("`{name}` is none of {known:?}"))
    };
    if let Some(problem) = unknown(&names, &choice.servers).or_else(|| unknown(&loads, &choice.loads)) {
        println!("\n{problem}");
        return;
    }
    names.retain(|name| Choice::has(&choice.servers, name));
    for (_, what, pattern) in LOADS.into_iter().filter(|(name, ..)| Choice::has(&choice.loads, name)) {
        let mut results: Vec<Vec<Measured>> = names.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds {
            for (name, results) in names.iter().zip(&mut results) {
                results.push(measure(name, pattern, time));
            }
        }
        let rows: Vec<Row> = names.iter().zip(results).map(|(name, results)| row(name, &results)).collect();
        print(&format!("TCP echo of {MESSAGE_BYTES} B, {what}"), "requests/s", &rows);
    }
}

fn row(name: &str, results: &[Measured]) -> Row {
    let of = |value: fn(&Measured) -> f64| median(results.iter().map(value).collect());
    let note = format!(
        "server {:.2} µs CPU per request, busy {:.0} %; client waited {:.0} %",
        of(|round| round.server_us),
        100.0 * of(|round| round.server_busy),
        100.0 * of(|round| round.client_waited)
    );
    Row::new(name, Better::Higher, results.iter().map(|round| round.rate).collect(), note)
}
