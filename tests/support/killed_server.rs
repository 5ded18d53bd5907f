//! A real `boson serve` that is killed under load: what it acknowledged is there afterwards.

use std::thread;
use std::time::{Duration, Instant};

use super::server::{Directory, Reply, Server};

/// How long each server is written to before it is killed.
const LOAD: Duration = Duration::from_secs(3);
const CLIENTS: usize = 4;
const ROUNDS: usize = 3;

fn key(client: usize, number: usize) -> String {
    format!("key:{client}:{number}")
}

/// Overwrites and adds keys until the server is gone; returns how many writes were acknowledged.
fn write_until_the_end(server: &Server, client: usize, first: usize) -> usize {
    let mut connection = server.client();
    for number in first.. {
        let key = key(client, number);
        let value = format!("{number}").repeat(50);
        match connection.call(&[b"SET", key.as_bytes(), value.as_bytes()]) {
            Ok(reply) => assert_eq!(reply, Reply::ok()),
            Err(_) => return number,
        }
    }
    first
}

/// Kills servers on `store`, with these arguments besides, under load, and looks for what they
/// acknowledged.
pub(crate) fn keeps_what_it_acknowledged(name: &str, store: &str, arguments: &[&str]) {
    let directory = Directory::new(name);
    let arguments = [&["--store", store, "--durability", "sync"], arguments].concat();
    let mut acknowledged = [0; CLIENTS];
    for round in 0..=ROUNDS {
        let more: &[&str] = if round == 0 { &["--format"] } else { &[] };
        let server = Server::start(directory.path(), &[&arguments[..], more].concat());
        let mut connection = server.client();
        for (client, &count) in acknowledged.iter().enumerate() {
            for number in 0..count {
                let found = connection.call(&[b"GET", key(client, number).as_bytes()]).expect("a reply");
                let Reply::Bulk(value) = found else { panic!("{store}: key {number} of {count} is lost") };
                assert_eq!(value, format!("{number}").repeat(50).into_bytes(), "{store}: key {number}");
            }
        }
        if round == ROUNDS {
            return;
        }
        let begin = Instant::now();
        acknowledged = thread::scope(|scope| {
            let writers: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (server, first) = (&server, acknowledged[client]);
                    scope.spawn(move || write_until_the_end(server, client, first))
                })
                .collect();
            thread::sleep(LOAD);
            let id = i32::try_from(server.id()).expect("process ids are positive");
            let process = rustix::process::Pid::from_raw(id).expect("process ids are positive");
            rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it runs");
            let counts: Vec<usize> =
                writers.into_iter().map(|writer| writer.join().expect("no panic")).collect();
            counts.try_into().expect("one for each client")
        });
        println!("{store}: {acknowledged:?} writes acknowledged after {:?}", begin.elapsed());
        assert!(acknowledged.iter().all(|&count| count > round), "each client wrote something");
    }
}
