mod refused;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use self::world::{TestClient, World};
use super::super::{Config, End, Limits};
use super::*;

use crate::block::Fault;
use crate::store::{Durability, Options};

fn world_with(limits: Limits) -> World {
    World::with(Config::default().limits(limits))
}

fn dropped(reason: DropReason) -> Stage {
    Stage::Ended(End::Dropped(reason))
}

/// The bulk strings of a reply, in order.
fn strings(reply: &str) -> Vec<String> {
    let mut lines = reply.split("\r\n");
    let mut strings = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with('$') {
            strings.push(lines.next().expect("a string behind its length").to_owned());
        }
    }
    strings
}

#[test]
fn a_pipeline_is_replied_to_in_order_however_it_is_split() {
    let mut commands = String::new();
    let mut expected = String::new();
    for index in 0..300 {
        commands += &format!(
            "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{index}\r\nGET k\r\nINCR n\r\nnosuch\r\n",
            index.to_string().len()
        );
        expected += &format!("+OK\r\n${}\r\n{index}\r\n:{}\r\n", index.to_string().len(), index + 1);
        expected += "-ERR unknown command 'nosuch', with args beginning with: \r\n";
    }
    let (replies, stage) = World::new().connect().send(commands.as_bytes());
    assert_eq!((String::from_utf8_lossy(&replies).into_owned(), stage), (expected.clone(), Stage::Receiving));

    for len in [1, 7, 64, 1000] {
        let mut client = World::new().connect();
        let replies: Vec<u8> =
            commands.as_bytes().chunks(len).flat_map(|chunk| client.send(chunk).0).collect();
        assert_eq!(String::from_utf8_lossy(&replies), expected, "in pieces of {len} bytes");
    }
}

#[test]
fn replies_come_in_batches() {
    let mut client = World::new().connect();
    let value = "v".repeat(300_000);
    client.call(&format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$300000\r\n{value}").replace("\r\n\r\n", "\r\n"));
    client.session.feed("GET k\r\n".repeat(20).as_bytes());
    let world = World::new();
    let mut received = 0;
    let mut rounds = 0;
    loop {
        let stage = world.run(client.session.run());
        let replies = client.session.take_replies();
        assert!(replies.len() < OUTPUT_MARK_BYTES + 300_100, "{}", replies.len());
        received += replies.len();
        rounds += 1;
        client.session.sent(replies);
        if stage != Stage::Running {
            assert_eq!(stage, Stage::Receiving);
            break;
        }
    }
    assert_eq!(received, 20 * ("$300000\r\n".len() + 300_002));
    assert_eq!(rounds, 5);
}

/// Sets a value that is too long for an inline command.
fn set(client: &mut TestClient, key: &str, value: &[u8]) {
    let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len());
    let (reply, _) = client.send(&[head.as_bytes(), value, b"\r\n"].concat());
    assert_eq!(reply, b"+OK\r\n");
}

/// The first batch is being sent all the time.
#[test]
fn commands_run_while_replies_wait_up_to_the_limit() {
    const LIMIT: usize = 5 << 20;
    let world = world_with(Limits::default().output_bytes(LIMIT));
    let mut client = world.connect();
    for index in 0..20u8 {
        set(&mut client, &format!("k{index}"), &vec![b'a' + index; 300_000]);
    }
    let commands: String = (0..40).map(|index| format!("get k{}\r\n", index % 20)).collect();
    client.session.feed(commands.as_bytes());
    assert_eq!(world.run(client.session.run()), Stage::Running);
    let mut received = client.session.take_replies();
    while !client.session.is_held_back() {
        assert_eq!(world.run(client.session.run()), Stage::Running);
    }
    let waits = client.session.unsent_bytes();
    assert!((LIMIT..LIMIT + 300_100).contains(&waits), "{waits} bytes");
    let seen = client.session.client().clone();
    assert_eq!(seen.output_bytes.load() + seen.output_batches_bytes.load(), waits);
    assert!(seen.output_batches.load() >= 3 && seen.output_capacity_bytes.load() < waits + (2 << 20));

    // What is sent is free, and all of it comes in order.
    client.session.sent_part(1_000_000);
    assert_eq!(client.session.unsent_bytes(), waits - 1_000_000);
    client.session.sent(Vec::new());
    loop {
        let stage = world.run(client.session.run());
        while client.session.has_replies() {
            let batch = client.session.take_replies();
            received.extend_from_slice(&batch);
            client.session.sent(batch);
        }
        if stage == Stage::Receiving {
            break;
        }
    }
    let values = (0..40).map(|index| char::from(b'a' + index % 20).to_string().repeat(300_000));
    let expected: String = values.map(|value| format!("$300000\r\n{value}\r\n")).collect();
    assert!(received == expected.as_bytes(), "{} bytes of {}", received.len(), expected.len());
    assert_eq!(client.session.unsent_bytes(), 0);
    assert!(seen.output_capacity_bytes.load() <= KEPT_BUFFER_BYTES, "{}", seen.output_capacity_bytes.load());
}

#[test]
fn replies_that_are_thrown_away_leave_no_room_behind() {
    let world = World::new();
    let mut client = world.connect();
    set(&mut client, "k", &vec![b'v'; 1 << 20]);
    client.send(b"client reply off\r\nget k\r\n");
    let capacity = client.session.client().output_capacity_bytes.load();
    assert!(capacity <= KEPT_BUFFER_BYTES, "{capacity}");
}

#[test]
fn a_client_whose_reply_is_too_large_is_dropped() {
    let world = world_with(Limits::default().reply_bytes(10_000));
    let mut client = world.connect();
    for index in 0..2_000 {
        client.call(&format!("set key:{index} v"));
    }
    assert_eq!(client.send(b"keys *\r\n").1, dropped(DropReason::TooMuchOutput));
    assert_eq!(world.server.stats().dropped_clients, 1);
    let mut other = world.connect();
    assert_eq!(other.call("get key:7"), "$1\r\nv\r\n");
}

#[test]
fn one_request_cannot_make_more_replies_than_the_limit() {
    let world = world_with(Limits::default().reply_bytes(10_000));
    let mut client = world.connect();
    client.call(&format!("set k {}", "v".repeat(4_000)));
    let (replies, stage) = client.send(format!("mget{}\r\n", " k".repeat(1_000)).as_bytes());
    assert_eq!(stage, dropped(DropReason::TooMuchOutput));
    assert!(replies.len() < 15_000, "{}", replies.len());
}

#[test]
fn a_client_whose_request_is_too_large_is_dropped() {
    let world = world_with(Limits::default().input_bytes(10_000));
    let mut client = world.connect();
    assert_eq!(client.send(b"*2\r\n$4\r\nECHO\r\n$9000\r\n").1, Stage::Receiving);
    assert_eq!(client.send(&[b'x'; 9_002]).1, Stage::Receiving);
    assert_eq!(client.send(b"*3\r\n$4\r\nECHO\r\n$9000\r\n").1, Stage::Receiving);
    assert_eq!(client.send(&[b'x'; 9_002]).1, Stage::Receiving);
    assert_eq!(client.send(b"$9000\r\n").1, Stage::Receiving);
    assert_eq!(client.send(&[b'x'; 9_000]).1, dropped(DropReason::TooMuchInput));
}

#[test]
fn the_connection_ends_after_a_protocol_error() {
    let mut client = World::new().connect();
    let (replies, stage) = client.send(b"PING\r\n*1\r\n!\r\nPING\r\n");
    assert_eq!(replies, b"+PONG\r\n-ERR Protocol error: expected '$', got '!'\r\n");
    assert_eq!(stage, Stage::Closing);
    assert_eq!(client.send(b"PING\r\n"), (Vec::new(), Stage::Closing));
}

#[test]
fn a_client_that_speaks_http_is_dropped() {
    let mut client = World::new().connect();
    let (replies, stage) = client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k v\r\n");
    assert_eq!((replies, stage), (Vec::new(), dropped(DropReason::Http)));
}

#[test]
fn clients_beyond_the_limit_are_refused_until_one_leaves() {
    let world = world_with(Limits::default().max_clients(2));
    let (first, _second) = (world.connect(), world.connect());
    assert!(world.try_connect().is_none());
    assert_eq!(world.server.stats().rejected_connections, 1);
    drop(first);
    assert!(world.try_connect().is_some());
}

#[test]
fn a_client_is_ended_by_another_or_by_itself() {
    let world = World::new();
    let (mut one, mut other) = (world.connect(), world.connect());
    assert_eq!(one.call(&format!("client kill id {}", other.session.client().id)), ":1\r\n");
    assert_eq!(other.send(b"PING\r\n").1, dropped(DropReason::Killed));
    assert_eq!(one.send(b"client kill 192.0.2.1:5000\r\n"), (b"+OK\r\n".to_vec(), Stage::Closing));
}

#[derive(Default)]
struct WakeCount(AtomicUsize);

impl Wake for WakeCount {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// All that a program with a socket of its own needs, without the socket.
#[test]
fn whoever_has_the_socket_hears_of_pushes_and_of_the_end() {
    let world = World::new();
    let (mut one, mut other) = (world.connect(), world.connect());
    other.send(b"hello 3\r\nclient tracking on\r\nget k\r\n");
    let wakes = Arc::new(WakeCount::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = std::task::Context::from_waker(&waker);
    assert!(other.session.poll_event(&mut cx).is_pending());
    one.call("set k v");
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "woken by the push");
    // It may be sending: then the push waits, and the client's end must not.
    assert!(other.session.poll_event(&mut cx).is_ready());
    one.call(&format!("client kill id {}", other.session.client().id));
    assert_eq!(wakes.0.load(Ordering::Relaxed), 2, "woken by the end");
    assert!(other.session.poll_event(&mut cx).is_ready() && other.session.is_killed());
    assert_eq!(world.run(other.session.run()), dropped(DropReason::Killed));
}

#[test]
fn whoever_has_the_socket_ends_the_connection() {
    let world = World::new();
    let mut client = world.connect();
    client.session.feed(b"ping\r\n");
    world.run(client.session.run());
    client.session.sent_all();
    assert_eq!(client.session.stage(), Stage::Receiving, "nobody closed it");
    client.session.close();
    client.session.sent_all();
    assert_eq!(client.session.stage(), Stage::Closing, "a reply waits");
    let replies = client.session.take_replies();
    client.session.sent_all();
    assert_eq!(client.session.stage(), Stage::Closing, "a reply is being sent");
    client.session.sent(replies);
    client.session.sent_all();
    assert_eq!(client.session.stage(), Stage::Ended(End::Sent));

    let mut client = world.connect();
    client.session.lost();
    assert_eq!(client.session.stage(), Stage::Ended(End::Gone));
}

#[test]
fn shutdown_is_requested_without_a_reply() {
    let world = World::new();
    assert_eq!(world.connect().send(b"shutdown nosave\r\n"), (Vec::new(), Stage::Closing));
    assert!(world.server.shutdown_is_requested());
}

#[test]
fn client_list_shows_every_client() {
    let world = World::new();
    let (mut one, mut other) = (world.connect(), world.connect());
    one.call("client setname first");
    other.call("select 7");
    world.advance_ms(5_000);
    let list = one.call("client list");
    assert!(
        list.contains("id=1 addr=192.0.2.1:5000 laddr=192.0.2.2:6380 fd=-1 name=first age=5 idle=0 "),
        "{list}"
    );
    assert!(list.contains("id=2 ") && list.contains(" name= age=5 idle=5 flags=N db=7 "), "{list}");
    assert_eq!(one.call("client list id 2").lines().count(), 3, "length, line, end");
}

/// Each row of the table is found by its name. With as many arguments as it takes, its command runs
/// and replies.
#[test]
fn every_command_of_the_table_is_handled() {
    for command in command::table::every() {
        let name = command.full_name.replace('|', " ");
        let mut has_run = false;
        for arguments in ["", " 1", " 1 2", " 1 2 3"] {
            let request = format!("{name}{arguments}");
            let mut client = World::new().connect();
            let (reply, _) = client.send(format!("{request}\r\n").as_bytes());
            let reply = String::from_utf8_lossy(&reply);
            assert!(!reply.starts_with("-ERR unknown command"), "{request}: {reply}");
            let names_a_subcommand = !command.subcommands.is_empty() && !arguments.is_empty();
            let last = client.session.client().last_command.load().map(|command| command.full_name);
            if command.accepts(request.split(' ').count()) && !names_a_subcommand {
                assert_eq!(last, Some(command.full_name), "{request}: {reply}");
                has_run = true;
            }
            // The end of the connection is the reply to SHUTDOWN.
            assert!(!reply.is_empty() || command.full_name == "shutdown", "{request}");
        }
        // The others are containers, and never run without a subcommand.
        assert!(has_run || !command.subcommands.is_empty(), "{name}");
    }
}

/// HELP leaves no subcommand out.
#[test]
fn help_names_every_subcommand() {
    for container in command::table::all().iter().filter(|command| !command.subcommands.is_empty()) {
        let help = World::new().connect().call(&format!("{} help", container.name));
        for subcommand in container.subcommands {
            let name = format!("\r\n+{}", subcommand.name.to_ascii_uppercase());
            assert!(help.contains(&name), "{} in {help}", subcommand.full_name);
        }
    }
}

#[test]
fn a_long_pipeline_lets_others_run() {
    let mut client = World::new().connect();
    client.session.feed(&b"ping\r\n".repeat(10_000));
    let mut turns = 0;
    let mut run = std::pin::pin!(client.session.run());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while run.as_mut().poll(&mut context).is_pending() {
        turns += 1;
    }
    assert!(turns >= 10_000 / COMMANDS_PER_TURN, "{turns}");
}

#[test]
fn a_password_set_later_holds_for_new_clients() {
    let world = World::new();
    let mut early = world.connect();
    early.call("config set requirepass secret");
    assert_eq!(early.call("ping"), "+PONG\r\n");
    let mut late = world.connect();
    assert_eq!(late.call("ping"), "-NOAUTH Authentication required.\r\n");
    assert_eq!(
        late.call("auth secreT"),
        "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    );
    assert_eq!(late.call("auth secret"), "+OK\r\n");
    assert_eq!(late.call("ping"), "+PONG\r\n");
}

#[test]
fn an_expired_key_is_absent_from_every_command() {
    for (command, expected) in [
        ("get k", "$-1\r\n"),
        ("mget k other", "*2\r\n$-1\r\n$1\r\no\r\n"),
        ("exists k", ":0\r\n"),
        ("strlen k", ":0\r\n"),
        ("getrange k 0 -1", "$0\r\n\r\n"),
        ("ttl k", ":-2\r\n"),
        ("pttl k", ":-2\r\n"),
        ("expiretime k", ":-2\r\n"),
        ("type k", "+none\r\n"),
        ("touch k", ":0\r\n"),
        ("del k", ":0\r\n"),
        ("unlink k k", ":0\r\n"),
        ("persist k", ":0\r\n"),
        ("expire k 100", ":0\r\n"),
        ("getdel k", "$-1\r\n"),
        ("getex k ex 10", "$-1\r\n"),
        ("getex k", "$-1\r\n"),
        ("getset k new", "$-1\r\n"),
        ("set k new get", "$-1\r\n"),
        ("set k new xx", "$-1\r\n"),
        ("set k new nx", "+OK\r\n"),
        ("setnx k new", ":1\r\n"),
        ("msetnx k new l new", ":1\r\n"),
        ("incr k", ":1\r\n"),
        ("incrbyfloat k 0.5", "$3\r\n0.5\r\n"),
        ("append k x", ":1\r\n"),
        ("setrange k 1 x", ":2\r\n"),
        ("rename k l", "-ERR no such key\r\n"),
        ("renamenx other k", ":1\r\n"),
        ("keys *", "*1\r\n$5\r\nother\r\n"),
        ("scan 0", "*2\r\n$1\r\n0\r\n*1\r\n$5\r\nother\r\n"),
    ] {
        let world = World::new();
        let mut client = world.connect();
        client.call("set other o");
        client.call("set k 5 px 1000");
        world.advance_ms(999);
        assert_eq!(client.call("get k"), "$1\r\n5\r\n", "a moment before");
        assert_eq!(client.call("pttl k"), ":1\r\n");
        world.advance_ms(1);
        assert_eq!(client.call(command), expected, "{command}");
    }
}

#[test]
fn what_replaces_an_expired_key_does_not_expire() {
    for command in
        ["set k v keepttl", "append k v", "incr k", "incrbyfloat k 1", "setrange k 0 v", "rename other k"]
    {
        let world = World::new();
        let mut client = world.connect();
        client.call("set other o");
        client.call("set k 5 px 1000");
        world.advance_ms(1_000);
        client.call(command);
        assert_eq!(client.call("ttl k"), ":-1\r\n", "{command}");
    }
}

#[test]
fn reading_an_expired_key_deletes_it() {
    let world = World::new();
    let mut client = world.connect();
    client.call("mset a 1 b 2 c 3");
    client.call("expire a 1");
    client.call("expire b 1");
    world.advance_ms(1_000);
    assert_eq!(client.call("dbsize"), ":3\r\n");
    client.call("get a");
    assert_eq!(client.call("dbsize"), ":2\r\n");
    client.call("mget b c");
    assert_eq!(client.call("dbsize"), ":1\r\n");
    assert_eq!(world.server.stats().expired_keys, 2);
}

#[test]
fn active_expiry_deletes_what_nobody_asks_for() {
    let world = World::new();
    let mut client = world.connect();
    for index in 0..1_000 {
        let database = index % 3;
        client.call(&format!("select {database}"));
        client.call(&format!("set k{index} v px {}", if index < 900 { 1_000 } else { 100_000 }));
    }
    client.call("set permanent v");
    world.advance_ms(1_000);
    for _ in 0..30 {
        let visited = world.run(world.server.expire_step(100)).expect("no error");
        assert!(visited <= 100, "{visited}");
    }
    let sizes: usize =
        (0..3usize).map(|database| usize::try_from(world.server.keyspace.len(database)).expect("few")).sum();
    assert_eq!(sizes, 101);
    world.run(world.server.expire_step(10_000)).expect("no error");
    let info = client.call("info keyspace");
    assert!(info.contains("db0:keys=35,expires=34,") || info.contains("db0:keys=34,expires=34,"), "{info}");
}

#[test]
fn active_expiry_rests_while_no_key_can_expire() {
    let world = World::new();
    let mut client = world.connect();
    client.call("mset a 1 b 2 c 3");
    let step = || world.run(world.server.expire_step(1_000)).expect("no error");
    assert_eq!(step(), 3, "a first look, since a key may have been there before the start");
    assert_eq!(step(), 0);
    client.call("expire a 10");
    client.call("expire b 20");
    world.advance_ms(9_999);
    assert_eq!(step(), 0, "nothing expires before its time");
    world.advance_ms(1);
    assert_eq!(step(), 3);
    assert_eq!(client.call("dbsize"), ":2\r\n");
    assert_eq!(step(), 0);
    world.advance_ms(10_000);
    assert_eq!(step(), 2);
    assert_eq!(client.call("dbsize"), ":1\r\n");
    assert_eq!(step(), 0);
}

/// Scans to the end, with `meanwhile` between the calls.
fn scan(
    client: &mut TestClient,
    options: &str,
    mut meanwhile: impl FnMut(&mut TestClient, usize),
) -> Vec<String> {
    let mut found = Vec::new();
    let mut cursor = "0".to_owned();
    for round in 0..10_000 {
        let reply = client.call(&format!("scan {cursor} {options}"));
        let mut strings = strings(&reply).into_iter();
        cursor = strings.next().expect("a cursor");
        found.extend(strings);
        if cursor == "0" {
            return found;
        }
        meanwhile(client, round);
    }
    panic!("the scan does not end")
}

#[test]
fn a_scan_finds_whatever_is_there_all_the_time() {
    let world = World::new();
    let mut client = world.connect();
    let stable: BTreeSet<String> = (0..400).map(|index| format!("k{:03}", index * 2)).collect();
    for key in &stable {
        client.call(&format!("set {key} v"));
    }
    for count in [1, 3, 10, 50] {
        let found = scan(&mut client, &format!("count {count}"), |client, round| {
            // Keys come and go before and behind the cursor, and so does the one that it stands on.
            let at = (round * 37) % 800;
            client.call(&format!("set k{:03} v", at | 1));
            client.call(&format!("del k{:03}", (at * 7 % 800) | 1));
        });
        let mut times = BTreeMap::new();
        found.iter().for_each(|key| *times.entry(key).or_insert(0) += 1);
        for key in &stable {
            assert_eq!(times.get(key), Some(&1), "{key} with count {count}");
        }
    }
}

#[test]
fn info_counts_what_happened() {
    let world = World::new();
    let mut client = world.connect();
    for command in ["set a 1 ex 10", "get a", "get nosuch", "nosuch", "get"] {
        client.call(command);
    }
    world.advance_ms(65_000);
    client.call("get a");
    let info = client.call("info");
    for line in [
        "redis_version:7.0.15",
        concat!("boson_version:", env!("CARGO_PKG_VERSION")),
        "uptime_in_seconds:65",
        "connected_clients:1",
        "keyspace_hits:1",
        "keyspace_misses:2",
        "expired_keys:1",
        "total_commands_processed:5",
        "total_error_replies:2",
    ] {
        assert!(info.contains(&format!("\r\n{line}\r\n")), "{line} in {info}");
    }
    client.call("config resetstat");
    assert!(client.call("info stats").contains("\r\nexpired_keys:0\r\n"));
}

/// What tells starts of a server apart comes from its `Env`, unless a seed is set.
#[test]
fn only_starts_with_the_same_randomness_are_alike() {
    fn start(executor_seed: u64, config: Config) -> (String, Vec<String>) {
        let world = World::seeded(executor_seed, config);
        let mut client = world.connect();
        let info = client.call("info server");
        let run_id = info.lines().find(|line| line.starts_with("run_id:")).expect("a line").to_owned();
        for key in 0..100 {
            client.call(&format!("set {key} v"));
        }
        (run_id, (0..20).map(|_| client.call("randomkey")).collect())
    }

    let (run_id, keys) = start(1, Config::default());
    assert_eq!(start(1, Config::default()), (run_id.clone(), keys.clone()), "a simulation repeats");
    let other = start(2, Config::default());
    assert!(other.0 != run_id && other.1 != keys, "{run_id} {keys:?} again");
    assert_eq!(start(1, Config::default().seed([9; 32])), start(2, Config::default().seed([9; 32])));
}

#[test]
fn a_connection_keeps_no_large_buffers() {
    let mut client = World::new().connect();
    let value = vec![b'v'; 1 << 20];
    let request = [&b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n"[..], &value, b"\r\nGET k\r\n"].concat();
    client.send(&request);
    let buffer = client.session.take_buffer();
    client.session.received(buffer, 0);
    assert!(client.session.input.capacity() <= KEPT_BUFFER_BYTES);
    let replies = client.session.take_replies();
    assert!(replies.capacity() <= KEPT_BUFFER_BYTES, "{}", replies.capacity());
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        prop::sample::select(vec![
            "get",
            "set",
            "getex",
            "mget",
            "mset",
            "incrbyfloat",
            "setrange",
            "getrange",
            "expire",
            "pexpireat",
            "scan",
            "keys",
            "client",
            "command",
            "config",
            "hello",
            "info",
            "ex",
            "px",
            "nx",
            "match",
            "count",
            "list",
            "getkeys",
            "kill",
            "reply",
            "skip",
            "a",
            "b",
            "0",
            "-1",
            "9223372036854775807",
            "1e4000",
            "*",
            "[",
        ])
        .prop_map(|word| word.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(word, 0..6).prop_map(|words| {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        bytes
    })
}

proptest! {
    #[test]
    fn no_request_panics(commands in prop::collection::vec(command(), 0..20), garbage in prop::collection::vec(any::<u8>(), 0..30)) {
        let mut client = World::new().connect();
        for command in &commands {
            client.send(command);
        }
        client.send(&garbage);
    }
}

fn options(durability: Durability) -> Options {
    Options::default().identity([7; 16]).log_bytes(1 << 20).durability(durability)
}

#[test]
fn values_and_expiry_times_survive_a_restart() {
    let world = World::on_disk(Config::default(), options(Durability::Sync), 64 << 20);
    let mut client = world.connect();
    client.call("mset a 1 b 2");
    client.call("expire b 100");
    client.call("select 9");
    client.call("set c 3 px 1000");
    drop(client);
    world.advance_ms(1_000);
    let world = world.restart();
    let mut client = world.connect();
    assert_eq!(client.call("mget a b"), "*2\r\n$1\r\n1\r\n$1\r\n2\r\n");
    assert_eq!((client.call("ttl a"), client.call("ttl b")), (":-1\r\n".into(), ":99\r\n".into()));
    client.call("select 9");
    assert_eq!(client.call("dbsize"), ":1\r\n");
    assert_eq!(world.run(world.server.expire_step(1_000)).expect("no error"), 3);
    assert_eq!(client.call("dbsize"), ":0\r\n", "the first pass after a start looks at every key");
}

#[test]
fn a_write_that_does_not_become_durable_is_not_acknowledged() {
    let world = World::on_disk(Config::default(), options(Durability::Sync), 64 << 20);
    let mut client = world.connect();
    assert_eq!(client.call("set a before"), "+OK\r\n");
    client.call("set volatile v px 10000");
    world.disk.inject([Fault::flush()]);
    let (replies, stage) =
        client.send(b"get a\r\nset a after\r\nping\r\nincr n\r\nsetnx a x\r\nget nosuch\r\n");
    let replies = String::from_utf8(replies).expect("text");
    let lines: Vec<&str> = replies.split("\r\n").collect();
    assert_eq!(stage, Stage::Receiving);
    assert_eq!(lines[..2], ["$6", "before"]);
    assert!(lines[2].starts_with("-MISCONF ") && lines[2].contains("Input/output error"), "{}", lines[2]);
    assert_eq!(lines[3], "+PONG");
    assert!(lines[4].starts_with("-MISCONF "), "{}", lines[4]);
    assert_eq!(lines[5..], [":0", "$-1", ""], "what wrote nothing is not affected");
    let refused = client.call("set b v");
    assert!(refused.starts_with("-MISCONF "), "{refused}");
    assert_eq!(client.call("get nosuch"), "$-1\r\n", "reads go on");
    world.advance_ms(10_000);
    assert_eq!(client.call("get volatile"), "$-1\r\n", "also of a key that is expired and cannot be deleted");
    assert_eq!(client.call("mget volatile nosuch"), "*2\r\n$-1\r\n$-1\r\n");
}

#[test]
fn a_full_store_refuses_writes_until_there_is_room() {
    let world = World::on_disk(Config::default(), options(Durability::Sync), 8 << 20);
    let mut client = world.connect();
    let value = "v".repeat(20_000);
    let mut stored = 0;
    let refusal = loop {
        let reply = client.call(&format!("set k{stored} {value}"));
        if reply != "+OK\r\n" {
            break reply;
        }
        stored += 1;
        assert!(stored < 1_000, "8 MiB do not hold 20 MB");
    };
    assert!(refusal.starts_with("-OOM "), "{refusal}");
    assert!(stored > 50, "{stored}");
    assert_eq!(client.call("get k0").len(), value.len() + "$20000\r\n\r\n".len());
    assert_eq!(client.call(&format!("exists k{stored}")), ":0\r\n");
    for index in 0..stored / 2 {
        assert_eq!(client.call(&format!("del k{index}")), ":1\r\n");
    }
    assert_eq!(client.call(&format!("set again {value}")), "+OK\r\n");
}

#[test]
fn a_value_in_an_unknown_form_is_an_error_and_can_be_replaced() {
    let world = World::new();
    let mut client = world.connect();
    for stored in [&b""[..], b"\x02v", b"\x01short"] {
        let tree = world.server.keyspace.db().tree("0").expect("a tree");
        world.run(tree.put(b"k", stored)).expect("stored");
        client.call("set l v");
        for command in
            ["get k", "incr k", "mget l k", "rename k l", "append k x", "expire k 10", "set k v keepttl"]
        {
            let reply = client.call(command);
            assert!(reply.starts_with("-ERR ") && reply.contains("unknown form"), "{command}: {reply}");
        }
        assert_eq!(client.call("get l"), "$1\r\nv\r\n");
        assert_eq!(client.call("set k v"), "+OK\r\n");
        world.run(tree.put(b"k", stored)).expect("stored");
        assert_eq!(client.call("del k"), ":1\r\n");
    }
}
