//! `boson serve --cores 0,1`: each core runs the commands of its own connections, and no client can
//! tell which core it is connected to.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::not_run;
use crate::support::server::{Client, Directory, Reply, Server};

/// The kernel spreads connections over the cores' listeners: of so many, each core has some.
const CLIENTS: usize = 24;
const MEMORY: &str = "mem:256M";

/// A server on two cores; `None` if there is one CPU.
fn start(directory: &Directory, store: &str) -> Option<Server> {
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        not_run::not_run("serve on several cores: there is one CPU only");
        return None;
    }
    Some(Server::start(directory.path(), &["--store", store, "--cores", "0,1"]))
}

fn clients(server: &Server) -> Vec<Client> {
    (0..CLIENTS).map(|_| server.client()).collect()
}

fn text(reply: Reply) -> String {
    let Reply::Bulk(text) = reply else { panic!("no text: {reply:?}") };
    String::from_utf8(text).expect("text")
}

/// The value of `name` in INFO.
fn info(client: &mut Client, name: &str) -> u64 {
    let info = text(client.run("INFO"));
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {info}"))
}

/// Calls `call` on every client, each in a thread of its own.
fn everywhere(clients: &mut [Client], call: impl Fn(usize, &mut Client) + Sync) {
    thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            let call = &call;
            scope.spawn(move || call(number, client));
        }
    });
}

#[test]
fn no_update_is_lost_and_all_of_an_mset_is_seen() {
    let directory = Directory::new("cores-updates");
    let Some(server) = start(&directory, MEMORY) else { return };
    let mut clients = clients(&server);
    everywhere(&mut clients, |number, client| {
        for round in 0..300 {
            assert!(matches!(client.run("INCR counter"), Reply::Integer(_)));
            match number % 3 {
                0 => assert_eq!(
                    client.run(&format!("MSET a {number}:{round} b {number}:{round}")),
                    Reply::ok()
                ),
                1 => {
                    let Reply::Array(values) = client.run("MGET a b") else { panic!("no array") };
                    assert_eq!(values[0], values[1], "half of an MSET");
                }
                _ => {
                    assert!(matches!(client.run(&format!("APPEND list:{} x", number % 2)), Reply::Integer(_)))
                }
            }
        }
    });
    assert_eq!(clients[0].run("GET counter"), Reply::bulk(&(300 * CLIENTS).to_string()));
    let appended: usize = (0..2).map(|list| text(clients[list].run(&format!("GET list:{list}"))).len()).sum();
    assert_eq!(appended, 300 * CLIENTS / 3);
    assert!(server.terminate().success());
}

#[test]
fn clients_see_and_reach_each_other_and_share_the_settings() {
    let directory = Directory::new("cores-clients");
    let Some(server) = start(&directory, MEMORY) else { return };
    let mut clients = clients(&server);
    let ids: Vec<i64> = clients
        .iter_mut()
        .map(|client| match client.run("CLIENT ID") {
            Reply::Integer(id) => id,
            other => panic!("no id: {other:?}"),
        })
        .collect();
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), CLIENTS, "{ids:?}");
    for client in &mut clients {
        let list = text(client.run("CLIENT LIST"));
        for id in &ids {
            assert!(list.contains(&format!("id={id} ")), "no {id} in {list}");
        }
        assert_eq!(info(client, "connected_clients"), CLIENTS as u64);
    }
    // Each has been told to set a key, so all of it is counted, whoever asks.
    let commands = |client: &mut Client| info(client, "total_commands_processed");
    assert_eq!(clients[0].run("CONFIG RESETSTAT"), Reply::ok());
    everywhere(&mut clients, |number, client| {
        assert_eq!(client.run(&format!("SET k{number} v")), Reply::ok())
    });
    let counted = commands(&mut clients[1]);
    assert_eq!(counted, CLIENTS as u64 + 1, "the SETs and INFO");
    assert_eq!(commands(&mut clients[2]), counted + 1);

    // A setting of one holds for all.
    assert_eq!(clients[0].run(&format!("CONFIG SET maxclients {CLIENTS}")), Reply::ok());
    for client in &mut clients {
        assert_eq!(
            text(match client.run("CONFIG GET maxclients") {
                Reply::Array(pair) => pair[1].clone(),
                other => other,
            }),
            CLIENTS.to_string()
        );
    }
    for _ in 0..CLIENTS {
        let refused = server.client().receive();
        assert_eq!(refused.expect("a line"), Reply::Error("ERR max number of clients reached".to_owned()));
    }

    // Any client ends any other, and all others.
    for (victim, id) in ids.iter().enumerate().skip(1).step_by(2) {
        assert_eq!(clients[0].run(&format!("CLIENT KILL ID {id}")), Reply::Integer(1));
        assert!(clients[victim].receive().is_err(), "client {victim} is still there");
    }
    let left = i64::try_from(CLIENTS / 2).expect("few");
    assert_eq!(clients[0].run("CLIENT KILL TYPE normal"), Reply::Integer(left - 1));
    for client in clients.iter_mut().skip(2).step_by(2) {
        assert!(client.receive().is_err());
    }
    assert_eq!(clients[0].run("PING"), Reply::Status("PONG".to_owned()));
    assert!(server.terminate().success());
}

/// Whoever got the reply to its write can rely on all others having been told.
#[test]
fn who_tracks_a_key_is_told_before_the_writer_gets_its_reply() {
    let directory = Directory::new("cores-tracking");
    let Some(server) = start(&directory, MEMORY) else { return };
    let mut clients = clients(&server);
    let expect = |client: &mut Client, bytes: &[u8]| {
        let mut received = vec![0; bytes.len()];
        client.stream().read_exact(&mut received).expect("so many bytes");
        assert_eq!(received.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    };
    for client in &mut clients {
        client
            .stream()
            .write_all(b"client reply off\r\nhello 3\r\nclient tracking on\r\nclient reply on\r\n")
            .expect("sent");
        expect(client, b"+OK\r\n");
    }
    let mut writers: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for round in 0..50 {
        for client in &mut clients {
            client.stream().write_all(b"get k\r\n").expect("sent");
        }
        for client in &mut clients {
            if round == 0 {
                expect(client, b"_\r\n");
            } else {
                expect(client, format!("$3\r\n{:03}\r\n", round - 1).as_bytes());
            }
        }
        let writer = &mut writers[round % 4];
        assert_eq!(writer.run(&format!("SET k {round:03}")), Reply::ok());
        for client in &mut clients {
            expect(client, b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
        }
    }
    assert!(server.terminate().success());
}

#[test]
fn a_scan_goes_on_with_another_client_and_keys_of_all_expire() {
    let directory = Directory::new("cores-keys");
    let Some(server) = start(&directory, MEMORY) else { return };
    let mut clients = clients(&server);
    everywhere(&mut clients, |number, client| {
        for key in 0..20 {
            assert_eq!(client.run(&format!("SET {number}:{key} v")), Reply::ok());
            assert_eq!(client.run(&format!("SET short:{number}:{key} v PX 300")), Reply::ok());
        }
    });
    // They go without being asked for.
    let deadline = Instant::now() + Duration::from_secs(20);
    let left = i64::try_from(20 * CLIENTS).expect("few");
    while clients[0].run("DBSIZE") != Reply::Integer(left) {
        assert!(Instant::now() < deadline, "{:?} keys are left", clients[0].run("DBSIZE"));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(info(&mut clients[3], "expired_keys"), 20 * CLIENTS as u64);
    let (mut cursor, mut found) = ("0".to_owned(), HashSet::new());
    for turn in 0.. {
        let client = &mut clients[turn % CLIENTS];
        let Reply::Array(mut page) = client.run(&format!("SCAN {cursor} COUNT 7")) else { panic!("no page") };
        let Some(Reply::Array(keys)) = page.pop() else { panic!("no keys") };
        found.extend(keys.into_iter().map(text));
        cursor = text(page.remove(0));
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 20 * CLIENTS);
    assert!(server.terminate().success());
}

/// Clients of both cores write while it ends, and find all that was acknowledged after a restart.
#[test]
fn any_client_ends_the_server_and_nothing_is_lost() {
    let directory = Directory::new("cores-shutdown");
    for round in 0..6 {
        let store = "file:cores.boson";
        let Some(mut server) = start(&directory, store) else { return };
        let mut clients = clients(&server);
        let ends = AtomicBool::new(false);
        let written: Vec<usize> = thread::scope(|scope| {
            let ends = &ends;
            let writers: Vec<_> = clients
                .iter_mut()
                .enumerate()
                .map(|(number, client)| {
                    scope.spawn(move || {
                        for count in 0.. {
                            let key = format!("{round}:{number}:{count}");
                            let reply = client.call(&[b"SET", key.as_bytes(), &[b'v'; 300]]);
                            if reply.is_err() || ends.load(Ordering::Relaxed) {
                                return count;
                            }
                        }
                        0
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(300));
            let mut last = server.client();
            last.send(&[b"SHUTDOWN"]).expect("sent");
            ends.store(true, Ordering::Relaxed);
            writers.into_iter().map(|writer| writer.join().expect("no panic")).collect()
        });
        assert!(server.wait().success(), "{}", server.log());
        let Some(server) = start(&directory, store) else { return };
        let mut client = server.client();
        for (number, count) in written.into_iter().enumerate() {
            for count in 0..count {
                let found = client.run(&format!("STRLEN {round}:{number}:{count}"));
                assert_eq!(found, Reply::Integer(300), "round {round}, client {number}, write {count}");
            }
        }
        assert!(server.terminate().success());
    }
}

#[test]
fn two_servers_of_several_cores_do_not_share_an_address() {
    let directory = Directory::new("twice");
    let Some(server) = start(&directory, MEMORY) else { return };
    let taken = server.address().to_string();
    let second = ["--store", "mem:64M", "--cores", "0,1", "--listen", &taken];
    let refusal = Server::try_start(directory.path(), &second).err().expect("refused");
    assert!(refusal.contains(&taken), "{refusal}");
    assert!(server.terminate().success());
}
