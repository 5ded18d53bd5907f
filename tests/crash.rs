//! SIGKILL under load: with `--durability sync` no acknowledged write is lost and none is half
//! applied.
//!
//! `BOSON_CRASH_ROUNDS` says how many times the server is killed (default 10), `BOSON_CRASH_SEED`
//! replays a run.

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use support::server::{Directory, Server};
use support::steps::{Random, Writer};

const WRITERS: usize = 6;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect(name))
}

/// Kills and restarts a server `rounds` times; the first violation ends it.
fn kill_repeatedly(directory: &Path, rounds: u64, seed: u64, arguments: &[&str]) -> Result<u64, String> {
    let mut random = Random(seed);
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
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
                scope.spawn(move || writer.run(address, |_| ()));
            }
            std::thread::sleep(lifetime);
            server.kill();
        });
        acknowledged = writers.iter().map(Writer::acknowledged).sum();
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

fn loses_nothing(name: &str, arguments: &[&str]) {
    let rounds = setting("BOSON_CRASH_ROUNDS", 10);
    let seed = setting("BOSON_CRASH_SEED", 1);
    let directory = Directory::new(name);
    match kill_repeatedly(directory.path(), rounds, seed, arguments) {
        Ok(acknowledged) => {
            println!(
                "{rounds} rounds of SIGKILL, {acknowledged} acknowledged writes, none lost, none half applied"
            );
            assert!(acknowledged > 10 * rounds, "too few writes to show anything: {acknowledged}");
        }
        Err(what) => panic!("BOSON_CRASH_SEED={seed}: {what}"),
    }
}

#[test]
fn no_acknowledged_write_is_lost_to_sigkill() {
    loses_nothing("crash", &SYNC);
}

#[test]
fn no_acknowledged_write_of_two_cores_is_lost_to_sigkill() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        support::not_run::not_run("kill a server of two cores: there is one CPU only");
        return;
    }
    loses_nothing("crash-cores", &[&SYNC[..], &["--cores", "0,1"]].concat());
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
