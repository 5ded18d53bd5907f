//! SIGKILL under load: with `--durability sync` no acknowledged write is lost and none is half
//! applied.
//!
//! `BOSON_CRASH_ROUNDS` says how many times the server is killed (default 10), `BOSON_CRASH_SEED`
//! replays a run.

#[path = "support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use support::server::{Client, Directory, Reply, Server};

const WRITERS: usize = 6;
const KEYS_PER_WRITER: u64 = 50;
const PIPELINE: u64 = 8;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect(name))
}

/// A small generator (SplitMix64): the test's own schedule must replay from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

/// What one writer knows of its own keys: it alone writes them, one step after the other.
struct Writer {
    number: usize,
    /// How many steps were acknowledged, over all rounds.
    acknowledged: u64,
    /// How many steps were sent; those above `acknowledged` may or may not have happened, but only
    /// in order.
    sent: u64,
}

impl Writer {
    fn key(&self, step: u64) -> String {
        format!("w{}:{}", self.number, step % KEYS_PER_WRITER)
    }

    /// The value that a step writes: its number, padded to very different lengths.
    fn value(step: u64) -> String {
        let len = usize::try_from(step * 7919 % 3000).expect("small");
        format!("{step}:{}", "v".repeat(len))
    }

    /// Sends one step: a SET, an MSET of two keys, or an INCR, each recognisable afterwards.
    fn send_step(&mut self, client: &mut Client) -> std::io::Result<()> {
        let step = self.sent + 1;
        let (key, value) = (self.key(step), Self::value(step));
        self.sent = step;
        match step % 3 {
            0 => client.send(&[b"SET", key.as_bytes(), value.as_bytes()]),
            1 => {
                let twin = format!("{key}:twin");
                client.send(&[b"MSET", key.as_bytes(), value.as_bytes(), twin.as_bytes(), value.as_bytes()])
            }
            _ => client.send(&[b"INCR", format!("w{}:counter", self.number).as_bytes()]),
        }
    }

    fn receive_step(&mut self, client: &mut Client) -> std::io::Result<()> {
        match client.receive()? {
            Reply::Error(message) => panic!("step {} was refused: {message}", self.acknowledged + 1),
            _ => self.acknowledged += 1,
        }
        Ok(())
    }

    /// Writes until the connection breaks: the server was killed. Even writers wait for each reply,
    /// odd ones pipeline.
    fn run(&mut self, address: SocketAddr) {
        let Ok(mut client) = Client::connect(address) else { return };
        let depth = if self.number.is_multiple_of(2) { 1 } else { PIPELINE };
        loop {
            for _ in 0..depth {
                if self.send_step(&mut client).is_err() {
                    return;
                }
            }
            for _ in 0..depth {
                if self.receive_step(&mut client).is_err() {
                    return;
                }
            }
        }
    }

    /// What the store must hold if exactly the first `steps` steps happened.
    fn expected(&self, steps: u64) -> HashMap<String, String> {
        let mut state = HashMap::new();
        let counted = (1..=steps).filter(|step| step % 3 == 2).count();
        if counted > 0 {
            state.insert(format!("w{}:counter", self.number), counted.to_string());
        }
        // Only the newest write of each key is left; go back far enough to see every key and twin.
        for step in steps.saturating_sub(6 * KEYS_PER_WRITER).max(1)..=steps {
            match step % 3 {
                0 => drop(state.insert(self.key(step), Self::value(step))),
                1 => {
                    state.insert(self.key(step), Self::value(step));
                    state.insert(format!("{}:twin", self.key(step)), Self::value(step));
                }
                _ => {}
            }
        }
        state
    }

    fn actual(&self, client: &mut Client) -> HashMap<String, String> {
        let mut keys = vec![format!("w{}:counter", self.number)];
        for step in 0..KEYS_PER_WRITER {
            keys.push(self.key(step));
            keys.push(format!("{}:twin", self.key(step)));
        }
        let mut state = HashMap::new();
        for key in keys {
            if let Reply::Bulk(value) = client.call(&[b"GET", key.as_bytes()]).expect("the server replies") {
                state.insert(key, String::from_utf8(value).expect("what was written"));
            }
        }
        state
    }

    /// Finds the prefix of this writer's steps that the store holds; an error says what is wrong
    /// with it.
    fn check(&mut self, client: &mut Client) -> Result<(), String> {
        let actual = self.actual(client);
        let Some(steps) = (self.acknowledged..=self.sent).find(|&steps| self.expected(steps) == actual)
        else {
            let expected = self.expected(self.acknowledged);
            let mut wrong: Vec<_> = expected
                .iter()
                .filter(|(key, value)| actual.get(*key) != Some(value))
                .map(|(key, value)| {
                    let short = |value: &str| value.chars().take(12).collect::<String>();
                    format!(
                        "{key}: acknowledged {}, found {:?}",
                        short(value),
                        actual.get(key).map(|v| short(v))
                    )
                })
                .collect();
            wrong.sort();
            return Err(format!(
                "writer {}: {} steps acknowledged, {} sent, the state is no such prefix: {wrong:?}",
                self.number, self.acknowledged, self.sent
            ));
        };
        self.acknowledged = steps;
        self.sent = steps;
        Ok(())
    }
}

/// Kills and restarts a server `rounds` times; the first violation ends it.
fn kill_repeatedly(directory: &Path, rounds: u64, seed: u64, arguments: &[&str]) -> Result<u64, String> {
    let mut random = Random(seed);
    let mut writers: Vec<Writer> =
        (0..WRITERS).map(|number| Writer { number, acknowledged: 0, sent: 0 }).collect();
    let mut acknowledged = 0;
    for round in 0..rounds {
        let server = Server::start(directory, arguments);
        let mut client = server.client();
        for writer in &mut writers {
            writer.check(&mut client).map_err(|what| format!("after round {round}: {what}"))?;
        }
        let address = server.address();
        let lifetime = Duration::from_millis(20 + random.next(130));
        std::thread::scope(|scope| {
            for writer in &mut writers {
                scope.spawn(move || writer.run(address));
            }
            std::thread::sleep(lifetime);
            server.kill();
        });
        acknowledged = writers.iter().map(|writer| writer.acknowledged).sum();
    }
    let server = Server::start(directory, arguments);
    let mut client = server.client();
    for writer in &mut writers {
        writer.check(&mut client).map_err(|what| format!("after the last round: {what}"))?;
    }
    assert!(server.terminate().success());
    Ok(acknowledged)
}

const SYNC: [&str; 4] = ["--store", "file:crash.boson", "--durability", "sync"];

#[test]
fn no_acknowledged_write_is_lost_to_sigkill() {
    let rounds = setting("BOSON_CRASH_ROUNDS", 10);
    let seed = setting("BOSON_CRASH_SEED", 1);
    let directory = Directory::new("crash");
    match kill_repeatedly(directory.path(), rounds, seed, &SYNC) {
        Ok(acknowledged) => {
            println!(
                "{rounds} rounds of SIGKILL, {acknowledged} acknowledged writes, none lost, none half applied"
            );
            assert!(acknowledged > 10 * rounds, "too few writes to show anything: {acknowledged}");
        }
        Err(what) => panic!("BOSON_CRASH_SEED={seed}: {what}"),
    }
}

/// The canary: a server that acknowledges before it writes must be found out.
#[test]
fn a_server_that_acknowledges_too_early_is_found_out() {
    let directory = Directory::new("crash-canary");
    let at_once = ["--store", "file:crash.boson", "--durability", "none"];
    let result = kill_repeatedly(directory.path(), 20, 1, &at_once);
    let what =
        result.expect_err("20 rounds of SIGKILL did not notice writes acknowledged before they were written");
    println!("found, as it must be: {what}");
}
