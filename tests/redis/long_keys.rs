//! Keys that are longer than the store's: they survive a restart and expire by themselves like any
//! other.

use crate::support::server;
use std::time::{Duration, Instant};

use server::{Directory, Reply, Server};

#[test]
fn long_keys_survive_a_restart() {
    let directory = Directory::new("long-keys-restart");
    let keys: Vec<String> = [4_064, 4_095, 4_096, 4_097, 64 << 10, 1 << 20]
        .iter()
        .flat_map(|len| ["a", "b"].map(|last| "k".repeat(len - 1) + last))
        .collect();
    let server = Server::start(directory.path(), &["--store", "file:boson.data"]);
    let mut client = server.client();
    for (index, key) in keys.iter().enumerate() {
        let value = index.to_string();
        let expiry: &[&[u8]] = if index % 3 == 0 { &[b"exat", b"33177117420"] } else { &[] };
        let request = [&[b"set", key.as_bytes(), value.as_bytes()], expiry].concat();
        assert_eq!(client.call(&request).expect("a reply"), Reply::ok());
    }
    assert!(server.terminate().success());

    let server = Server::start(directory.path(), &["--store", "file:boson.data"]);
    let mut client = server.client();
    for (index, key) in keys.iter().enumerate() {
        let value = client.call(&[b"get", key.as_bytes()]).expect("a reply");
        assert_eq!(value, Reply::bulk(&index.to_string()));
        let expiry = client.call(&[b"expiretime", key.as_bytes()]).expect("a reply");
        assert_eq!(expiry, Reply::Integer(if index % 3 == 0 { 33_177_117_420 } else { -1 }));
    }
    let Reply::Array(listed) = client.run("keys *") else { panic!("no array") };
    let mut listed: Vec<Vec<u8>> = listed
        .into_iter()
        .map(|key| match key {
            Reply::Bulk(key) => key,
            other => panic!("{other:?}"),
        })
        .collect();
    listed.sort();
    let mut expected: Vec<Vec<u8>> = keys.iter().map(|key| key.clone().into_bytes()).collect();
    expected.sort();
    assert!(listed == expected, "{} keys are listed", listed.len());
}

#[test]
fn long_keys_expire_though_nobody_asks_for_them() {
    let directory = Directory::new("long-keys-expiry");
    let server = Server::start(directory.path(), &["--store", "mem:256M"]);
    let mut client = server.client();
    for len in [4_095, 4_096, 64 << 10, 3 << 20, 5 << 20] {
        for last in ["a", "b"] {
            let key = "k".repeat(len) + last;
            let request: [&[u8]; 5] = [b"set", key.as_bytes(), b"v", b"px", b"50"];
            assert_eq!(client.call(&request).expect("a reply"), Reply::ok());
        }
    }
    client.run("set stays v");
    let started = Instant::now();
    // DBSIZE counts what is stored, expired or not.
    while client.run("dbsize") != Reply::Integer(1) {
        assert!(started.elapsed() < Duration::from_secs(20), "{:?} keys are left", client.run("dbsize"));
        std::thread::sleep(Duration::from_millis(50));
    }
}
