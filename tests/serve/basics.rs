//! `boson serve` as a user meets it: stores, restarts, limits, bad clients, bad namespaces.

use crate::support::not_run;
use crate::support::server;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::{Client, Directory, Reply, Server};

#[test]
fn the_default_store_keeps_what_was_set_over_a_restart() {
    let directory = Directory::new("restart");
    let server = Server::start(directory.path(), &[]);
    for part in ["kernel:", "file:boson.data", "interval:1000"] {
        assert!(server.start_line().contains(part), "{}", server.start_line());
    }
    let mut client = server.client();
    assert_eq!(client.run("SET k v"), Reply::ok());
    assert_eq!(client.run("SET short-lived v PX 300000"), Reply::ok());
    assert_eq!(client.run("GET k"), Reply::bulk("v"));
    assert!(server.terminate().success(), "SIGTERM ends it with exit code 0");

    let mut server = Server::start(directory.path(), &[]);
    let mut client = server.client();
    assert_eq!(client.run("GET k"), Reply::bulk("v"));
    let Reply::Integer(left) = client.run("PTTL short-lived") else { panic!("no number") };
    assert!((1..300_000).contains(&left), "the time to live starts over or is gone: {left}");
    client.send(&[b"SHUTDOWN"]).expect("sent");
    assert!(server.wait().success(), "SHUTDOWN ends it with exit code 0");
}

#[test]
fn memory_and_fixed_files_serve_too() {
    let directory = Directory::new("stores");
    for store in ["mem:64M", "file:fixed.boson?size=64M"] {
        let server = Server::start(directory.path(), &["--store", store, "--durability", "sync"]);
        let mut client = server.client();
        for i in 0..200 {
            assert_eq!(client.run(&format!("SET key:{i} {i}")), Reply::ok(), "{store}");
        }
        assert_eq!(client.run("DBSIZE"), Reply::Integer(200), "{store}");
        assert!(server.terminate().success(), "{store}");
    }
}

#[test]
fn a_block_device_serves_and_is_not_overwritten_without_format() {
    let directory = Directory::new("block");
    let image = directory.path().join("image");
    fs::File::create(&image).expect("an image").set_len(64 << 20).expect("sparse");
    let output = Command::new("losetup").args(["--find", "--show"]).arg(&image).output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        not_run::not_run("serve on a block device: no loop device can be made here (needs root and losetup)");
        return;
    };
    let device = String::from_utf8(output.stdout).expect("a path").trim().to_owned();
    let store = format!("blk:{device}");
    let outcome = std::panic::catch_unwind(|| {
        // Something that looks like a partition table.
        let mut boot_sector = vec![0u8; 4096];
        boot_sector[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&device, &boot_sector).expect("a block device");
        let refusal = Server::try_start(directory.path(), &["--store", &store]).err().expect("refused");
        assert!(refusal.contains("--format"), "{refusal}");
        assert_eq!(&fs::read(&image).expect("readable")[510..512], [0x55, 0xaa], "it was overwritten");

        let server = Server::start(directory.path(), &["--store", &store, "--format"]);
        assert_eq!(server.client().run("SET k v"), Reply::ok());
        assert!(server.terminate().success());
        let server = Server::start(directory.path(), &["--store", &store]);
        assert_eq!(server.client().run("GET k"), Reply::bulk("v"));
        let refusal = Server::try_start(directory.path(), &["--store", &store]).err().expect("in use");
        assert!(refusal.contains("in use") || refusal.contains("another process"), "{refusal}");
        assert!(server.terminate().success());
    });
    let _ = Command::new("losetup").args(["--detach", &device]).status();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn namespaces_that_cannot_be_used_are_refused_and_left_alone() {
    let directory = Directory::new("refused");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("foreign"), b"precious data ".repeat(1_000_000)).expect("written");
    fs::write(path("not-ours"), b"#!/bin/sh\n").expect("written");
    for (arguments, parts) in [
        (&["--store", "file:foreign"][..], &["--format"][..]),
        (&["--store", "mem:4K"], &["mem:4096", "at least"]),
        (&["--store", "file:small?size=64K"], &["at least"]),
        (&["--store", "file:no/such/directory"], &["No such file"]),
        (&["--store", "nowhere"], &["mem:SIZE"]),
        #[cfg(not(feature = "spdk"))]
        (&["--store", "spdk:pcie/0000:01:00.0/1"], &["not built in", "blk:/dev/NAME"]),
        (&["--store", "nvme:0000:01:00.0"], &["the number of a namespace"]),
        (&["--net", "carrier-pigeon:"], &["kernel:"]),
        (&["--durability", "eventually"], &["interval:"]),
        (&["--cores", "9999"], &["9999"]),
        (&["--password-file", "absent"], &["absent"]),
    ] {
        let Err(refusal) = Server::try_start(directory.path(), arguments) else {
            panic!("{arguments:?} was taken")
        };
        for part in parts {
            assert!(refusal.contains(part), "{arguments:?}: {refusal}");
        }
        assert!(!refusal.contains("panicked"), "{arguments:?}: {refusal}");
    }
    assert_eq!(fs::read(path("foreign")).expect("there"), b"precious data ".repeat(1_000_000));
}

#[test]
fn a_store_in_use_is_refused() {
    let directory = Directory::new("in-use");
    let server = Server::start(directory.path(), &[]);
    let refusal = Server::try_start(directory.path(), &[]).err().expect("in use");
    assert!(refusal.contains("another process"), "{refusal}");
    assert_eq!(server.client().run("SET k v"), Reply::ok());
}

#[test]
fn bad_clients_harm_nobody_else() {
    let directory = Directory::new("bad-clients");
    let server = Server::start(directory.path(), &["--store", "mem:64M"]);
    let mut good = server.client();
    assert_eq!(good.run("SET k v"), Reply::ok());

    // Malformed requests get Redis's error and are closed.
    for (bytes, reply) in [
        (&b"*1\r\n+PING\r\n"[..], "-ERR Protocol error: expected '$', got '+'\r\n"),
        (b"*2147483648\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$999999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
    ] {
        let mut stream = TcpStream::connect(server.address()).expect("connect");
        stream.write_all(bytes).expect("sent");
        let mut got = String::new();
        stream.read_to_string(&mut got).expect("closed after the reply");
        assert_eq!(got, reply);
    }

    // Announces 512 MiB and sends little: nothing is allocated for it.
    let before = resident_bytes(server.id());
    let announcing: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(server.address()).expect("connect");
            stream.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870912\r\nabc").expect("sent");
            stream
        })
        .collect();
    assert_eq!(good.run("GET k"), Reply::bulk("v"));
    let grown = resident_bytes(server.id()).saturating_sub(before);
    assert!(grown < 64 << 20, "the server grew by {grown} bytes for bytes that never arrived");
    drop(announcing);

    // Random bytes, a vanished client in the middle of a request, a half-closed one that still gets
    // its replies.
    for seed in 0..50u8 {
        let mut stream = TcpStream::connect(server.address()).expect("connect");
        let noise: Vec<u8> =
            (0..500u32).map(|i| (i.wrapping_mul(2_654_435_761 + u32::from(seed)) >> 24) as u8).collect();
        // The server may have closed already: that is an answer too.
        let _ = stream.write_all(&noise);
    }
    let mut half = server.client();
    half.send(&[b"GET", b"k"]).expect("sent");
    half.stream().shutdown(Shutdown::Write).expect("half closed");
    assert_eq!(half.receive().expect("the reply still comes"), Reply::bulk("v"));
    assert!(half.receive().is_err(), "and then the connection ends");
    assert_eq!(good.run("GET k"), Reply::bulk("v"));
    assert!(server.terminate().success());
}

fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib * 1024
}

/// That it is dropped in the end is shown in `tests/redis/pipelines.rs`.
#[test]
fn a_client_that_takes_no_replies_costs_what_the_limit_says() {
    let directory = Directory::new("slow-reader");
    let server = Server::start(directory.path(), &["--store", "mem:256M"]);
    let mut client = server.client();
    assert_eq!(client.call(&[b"SET", b"big", &vec![b'x'; 1 << 20]]).expect("set"), Reply::ok());
    let limit = [&b"CONFIG"[..], b"SET", b"client-output-buffer-limit", b"normal 8mb 0 0"];
    assert_eq!(client.call(&limit).expect("set"), Reply::ok());
    let before = resident_bytes(server.id());
    let mut slow: Vec<Client> = (0..4).map(|_| server.client()).collect();
    for slow in &mut slow {
        slow.stream().set_write_timeout(Some(Duration::from_millis(500))).expect("set");
        // Asks for 2 GiB of replies and reads none of them.
        for _ in 0..2000 {
            if slow.send(&[b"GET", b"big"]).is_err() {
                break;
            }
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let grown = resident_bytes(server.id()).saturating_sub(before);
    assert!(grown < 64 << 20, "replies that nobody takes pile up: {grown} bytes");
    assert_eq!(client.run("PING"), Reply::Status("PONG".to_owned()));
    drop(slow);
    assert!(server.terminate().success());
}

#[test]
fn connections_over_the_limit_are_refused_with_redis_words() {
    let directory = Directory::new("limit");
    let server = Server::start(directory.path(), &["--store", "mem:64M", "--max-connections", "3"]);
    let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for client in &mut clients {
        assert_eq!(client.run("PING"), Reply::Status("PONG".to_owned()));
    }
    let refused = server.client().receive().expect("a reply before the close");
    assert_eq!(refused, Reply::Error("ERR max number of clients reached".to_owned()));
    drop(clients.pop());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut client = server.client();
        let sent = client.call(&[b"PING"]);
        if matches!(&sent, Ok(Reply::Status(_))) {
            break;
        }
        assert!(Instant::now() < deadline, "the place of the client that left is never free: {sent:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.terminate().success());
}

#[test]
fn a_password_is_asked_for() {
    let directory = Directory::new("password");
    fs::write(directory.path().join("secret"), "hunter2\n").expect("written");
    let server = Server::start(directory.path(), &["--store", "mem:64M", "--password-file", "secret"]);
    let mut client = server.client();
    assert_eq!(client.run("GET k"), Reply::Error("NOAUTH Authentication required.".to_owned()));
    assert!(matches!(client.run("AUTH wrong"), Reply::Error(message) if message.starts_with("WRONGPASS")));
    assert_eq!(client.run("AUTH hunter2"), Reply::ok());
    assert_eq!(client.run("SET k v"), Reply::ok());
}

#[test]
fn a_configuration_file_says_what_flags_say() {
    let directory = Directory::new("config");
    fs::write(directory.path().join("boson.toml"), "store = \"mem:32M\"\ndurability = \"sync\"\n")
        .expect("written");
    let server = Server::start(directory.path(), &["--config", "boson.toml"]);
    for part in ["mem:32M", "durability sync"] {
        assert!(server.start_line().contains(part), "{}", server.start_line());
    }
}

#[test]
fn a_full_store_refuses_writes_and_recovers() {
    let directory = Directory::new("full");
    let server = Server::start(directory.path(), &["--store", "mem:16M"]);
    let mut client = server.client();
    let value = vec![b'x'; 100_000];
    let mut refusal = None;
    for i in 0..1000 {
        match client.call(&[b"SET", format!("k{i}").as_bytes(), &value]).expect("replies") {
            Reply::Error(message) => {
                refusal = Some((i, message));
                break;
            }
            reply => assert_eq!(reply, Reply::ok()),
        }
    }
    let (count, message) = refusal.expect("16 MiB do not hold 100 MB");
    assert!(message.contains("no space") || message.contains("full"), "{message}");
    for i in 0..count {
        let reply = client.call(&[b"GET", format!("k{i}").as_bytes()]).expect("replies");
        assert_eq!(reply, Reply::Bulk(value.clone()), "k{i} was acknowledged");
    }
    for i in 0..count {
        assert_eq!(client.run(&format!("DEL k{i}")), Reply::Integer(1), "deletes work on a full store");
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.call(&[b"SET", b"again", &value]).expect("replies") != Reply::ok() {
        assert!(Instant::now() < deadline, "space never comes back");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(server.terminate().success());
}

#[test]
fn an_idle_server_sleeps() {
    let directory = Directory::new("idle");
    let server = Server::start(directory.path(), &[]);
    let _clients: Vec<Client> = (0..10).map(|_| server.client()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let ticks = |id: u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
        fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
    };
    let before = ticks(server.id());
    std::thread::sleep(Duration::from_secs(3));
    // A tick is 10 ms: 1 % of 3 s is 3 ticks.
    let used = ticks(server.id()) - before;
    assert!(used <= 3, "an idle server used {used} ticks of 10 ms in 3 s");
    assert!(server.terminate().success());
}

#[test]
fn metrics_are_scraped() {
    let directory = Directory::new("metrics");
    let server = Server::start(directory.path(), &["--store", "mem:64M", "--metrics", "127.0.0.1:0"]);
    let address = server.start_line().trim().rsplit("metrics on ").next().expect("named").to_owned();
    server.client().run("SET k v");
    let mut stream = TcpStream::connect(&address).expect("connect");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("closed after the answer");
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("\nboson_commands_total 1\n"), "{page}");
}

#[test]
fn a_server_takes_as_many_descriptors_as_it_may_have() {
    let directory = Directory::new("descriptors");
    // Inherited by the server.
    let own = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(256), maximum: own.maximum };
    setrlimit(Resource::Nofile, few).expect("fewer are always allowed");
    let server = Server::start(directory.path(), &["--store", "mem:64M"]);
    setrlimit(Resource::Nofile, own).expect("what it was");
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.id())).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
    assert!(server.terminate().success());
}

#[test]
fn the_version_says_what_was_built() {
    let output = Command::new(env!("CARGO_BIN_EXE_boson")).arg("--version").output().expect("it runs");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with(concat!("boson ", env!("CARGO_PKG_VERSION"), "\n")), "{text}");
    let dpdk = if cfg!(any(feature = "dpdk", feature = "spdk")) { "for DPDK " } else { "without DPDK" };
    assert!(text.contains(dpdk) && text.contains("features: ") && text.contains(" cli"), "{text}");
}

#[test]
fn doctor_knows_a_file_system_without_direct_io() {
    let directory = Directory::new("ramfs");
    // A file system mounted for this one process, and entered after that.
    let script = "mount -t ramfs none \"$1\" && cd \"$1\" && exec \"$0\" doctor";
    let doctor = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(env!("CARGO_BIN_EXE_boson"))
        .arg(directory.path())
        .output();
    let Some(output) = doctor.ok().filter(|output| output.status.success()) else {
        eprintln!("NOT RUN: nothing can be mounted here (needs root and unshare)");
        return;
    };
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text.lines().find(|line| line.starts_with("file:")).expect("named");
    assert!(line.contains("degraded"), "{line}");
}

#[test]
fn a_server_waits_for_the_address_of_one_that_is_ending() {
    let directory = Directory::new("ending");
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = other.local_addr().expect("bound").to_string();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        drop(other);
    });
    let server = Server::start(directory.path(), &["--store", "mem:64M", "--listen", &address]);
    ending.join().expect("no panic");
    assert!(server.start_line().contains(&address), "{}", server.start_line());
    assert!(server.terminate().success());
}
