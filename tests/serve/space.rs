//! `boson serve` and the room that it takes: files stay in proportion to what they hold, and a full
//! store gives back the room of what expires and of what is deleted.

use crate::support::not_run;
use crate::support::server;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use server::{Client, Directory, Reply, Server};

/// How long the server gets to delete what has expired, and to give room back.
const PATIENCE: Duration = Duration::from_secs(30);
/// The log, as much again, and two steps of growth: what a file may have beyond one and a half
/// times its content.
const MOST_SLACK_BYTES: u64 = (64 + 64 + 2 * 16) << 20;

/// The bytes that a file takes of its file system.
fn taken_bytes(path: &Path) -> u64 {
    fs::metadata(path).expect("a file").blocks() * 512
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn info(client: &mut Client, field: &str) -> u64 {
    let Reply::Bulk(text) = client.run("INFO") else { panic!("INFO is a bulk string") };
    let text = String::from_utf8(text).expect("UTF-8");
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("INFO has no {field}")).parse().expect("a number")
}

#[test]
fn a_file_stays_in_proportion_to_what_it_holds() {
    let directory = Directory::new("proportion");
    let path = directory.path().join("data");
    let server = Server::start(directory.path(), &["--store", "file:data"]);
    let mut client = server.client();
    for len in [1_000_000, 100_000, 8_192] {
        let value = vec![b'v'; len];
        for _ in 0..300_000_000 / len.max(100_000) {
            client.send(&[b"SET", b"k0", &value]).expect("sends");
            assert_eq!(client.receive().expect("a reply"), Reply::ok());
        }
        let taken = taken_bytes(&path);
        assert!(taken <= MOST_SLACK_BYTES, "1 key of {len} bytes takes {} MiB", taken >> 20);
    }
    // Fill it, and delete all but a little.
    let value = vec![b'v'; 1_000_000];
    for number in 0..300 {
        let key = format!("k{number}");
        assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]).expect("a reply"), Reply::ok());
    }
    assert!(taken_bytes(&path) >= 300_000_000);
    for number in 0..290 {
        assert_eq!(client.run(&format!("DEL k{number}")), Reply::Integer(1));
    }
    eventually("the file shrinks", || taken_bytes(&path) <= MOST_SLACK_BYTES + 15_000_000);
    for number in 290..300 {
        assert_eq!(client.run(&format!("GET k{number}")), Reply::Bulk(value.clone()));
    }
    assert!(server.terminate().success());

    let server = Server::start(directory.path(), &["--store", "file:data"]);
    let mut client = server.client();
    assert_eq!(client.run("DBSIZE"), Reply::Integer(10));
    assert_eq!(client.run("GET k299"), Reply::Bulk(value));
    assert_eq!(client.run("FLUSHALL"), Reply::ok());
    eventually("the file shrinks further", || taken_bytes(&path) <= MOST_SLACK_BYTES);
}

/// Sets keys of 8 KiB until there is no room; returns how many.
fn fill(client: &mut Client, options: &str) -> i64 {
    let value = vec![b'v'; 8192];
    for number in 0.. {
        let key = format!("f{number:07}");
        let mut command: Vec<&[u8]> = vec![b"SET", key.as_bytes(), &value];
        command.extend(options.split_whitespace().map(str::as_bytes));
        match client.call(&command).expect("a reply") {
            Reply::Error(text) => {
                assert!(text.starts_with("OOM "), "{text}");
                return number;
            }
            reply => assert_eq!(reply, Reply::ok()),
        }
    }
    unreachable!("no store is endless")
}

fn is_emptied_by_expiry(server: &Server) {
    let mut client = server.client();
    let keys = fill(&mut client, "PX 4000");
    assert!(keys > 500, "{keys} keys fit");
    eventually("all keys expire", || client.run("DBSIZE") == Reply::Integer(0));
    // A deletion counts when its write returns, and while the store is short of room that is later
    // than the keys are gone.
    eventually("all are counted", || info(&mut client, "expired_keys") == keys.unsigned_abs());
    assert_eq!(client.run("SET after this"), Reply::ok());
    assert_eq!(client.run("FLUSHALL"), Reply::ok());
}

fn is_emptied_by_deletes(server: &Server) {
    let mut client = server.client();
    let keys = fill(&mut client, "");
    let names: Vec<String> = (0..keys).map(|number| format!("f{number:07}")).collect();
    assert_eq!(client.run("SET f0000000 short"), Reply::ok());
    assert_eq!(client.run("EXPIRE f0000001 1000"), Reply::Integer(1));
    assert_eq!(client.run("RENAME f0000001 other"), Reply::ok());
    let mut left = keys - 1;
    for count in [1, 20, 200, left] {
        let from = names.len() - usize::try_from(left).expect("positive");
        let doomed = &names[from..names.len().min(from + usize::try_from(count).expect("positive"))];
        let mut command: Vec<&[u8]> = vec![b"DEL"];
        command.extend(doomed.iter().map(String::as_bytes));
        let deleted = client.call(&command).expect("a reply");
        let there = doomed.iter().filter(|name| *name != "f0000001").count();
        assert_eq!(deleted, Reply::Integer(i64::try_from(there).expect("few")), "{count} of {keys}");
        left -= i64::try_from(doomed.len()).expect("few");
        if left <= 0 {
            break;
        }
    }
    assert_eq!(client.run("SET after this"), Reply::ok());
    assert_eq!(client.run("FLUSHALL"), Reply::ok());
}

#[test]
fn a_full_store_is_emptied_by_expiry_and_by_deletes() {
    let directory = Directory::new("full");
    for store in ["mem:16M", "file:data?size=16M"] {
        let server = Server::start(directory.path(), &["--store", store]);
        is_emptied_by_expiry(&server);
        is_emptied_by_deletes(&server);
        assert!(server.terminate().success());
    }
}

#[test]
fn a_store_that_is_full_when_it_is_opened_is_emptied_too() {
    let directory = Directory::new("full-opened");
    let arguments = ["--store", "file:data?size=16M", "--durability", "sync"];
    let server = Server::start(directory.path(), &arguments);
    let keys = fill(&mut server.client(), "PX 4000");
    server.kill();
    let server = Server::start(directory.path(), &arguments);
    let mut client = server.client();
    eventually("all keys expire", || client.run("DBSIZE") == Reply::Integer(0));
    assert!(info(&mut client, "expired_keys") <= keys.unsigned_abs());
    assert_eq!(client.run("SET after this"), Reply::ok());
    assert_eq!(client.run("FLUSHALL"), Reply::ok());
    is_emptied_by_deletes(&server);
}

/// Longer than the log's longest record, so that it is written to a place of its own.
#[test]
fn a_command_that_writes_very_many_keys_is_all_there_after_a_kill() {
    const KEYS: usize = 260_000;
    let directory = Directory::new("many-keys");
    let arguments = ["--store", "file:data", "--durability", "sync"];
    let server = Server::start(directory.path(), &arguments);
    let mut client = server.client();
    let pairs: Vec<(String, String)> =
        (0..KEYS).map(|number| (format!("key:{number:010}"), format!("the value of {number:010}"))).collect();
    let mut command: Vec<&[u8]> = vec![b"MSET"];
    command.extend(pairs.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]));
    assert_eq!(client.call(&command).expect("a reply"), Reply::ok());
    server.kill();
    let server = Server::start(directory.path(), &arguments);
    let mut client = server.client();
    assert_eq!(client.run("DBSIZE"), Reply::Integer(260_000));
    assert_eq!(client.run("GET key:0000259999"), Reply::bulk("the value of 0000259999"));
    // What it took beside the log is free again after the next checkpoint: the file does not keep
    // growing.
    for _ in 0..2 {
        assert_eq!(client.call(&command).expect("a reply"), Reply::ok());
    }
    let taken = taken_bytes(&directory.path().join("data"));
    let most = MOST_SLACK_BYTES + 3 * 40 * KEYS as u64;
    assert!(taken <= most, "{} MiB, {} at most", taken >> 20, most >> 20);
}

/// A small file system of its own, unmounted when dropped.
struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_store_on_a_full_disk_is_emptied_and_gives_the_room_back() {
    let directory = Directory::new("full-disk");
    let mounted = directory.path().join("disk");
    fs::create_dir(&mounted).expect("a directory");
    let made = Command::new("mount").args(["-t", "tmpfs", "-o", "size=100m", "tmpfs"]).arg(&mounted).status();
    if !made.is_ok_and(|status| status.success()) {
        not_run::not_run("a store on a full disk: no file system can be mounted (root)");
        return;
    }
    let _mount = Mount(&mounted);
    let server = Server::start(&mounted, &["--store", "file:data"]);
    let mut client = server.client();
    let value = vec![b'v'; 8192];
    for number in 0..200 {
        let key = format!("f{number:07}");
        assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]).expect("a reply"), Reply::ok());
    }
    // What is left is less than the holes that the file has.
    fs::write(mounted.join("other"), vec![0; 64 << 20]).expect("there is room yet");
    is_emptied_by_deletes(&server);
    // Others give back: it grows beyond what it could have before.
    fs::remove_file(mounted.join("other")).expect("removed");
    std::thread::sleep(Duration::from_secs(2));
    for number in 0..40 {
        let (key, value) = (format!("g{number}"), vec![b'v'; 1 << 20]);
        assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]).expect("a reply"), Reply::ok());
    }
    assert!(server.terminate().success());
}
