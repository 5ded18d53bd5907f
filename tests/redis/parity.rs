//! Runs the same commands against redis-server and boson and compares the replies byte for byte.
//!
//! Where boson differs from Redis 7.0 on purpose is listed in docs/redis.md, under "Differences
//! from Redis".

mod random;

use crate::support::redis_peer as peer;
use peer::{Boson, Redis, kind, reply_len, sorted};

const SCRIPT: &str = include_str!("parity/commands.txt");

/// Runs `command` on both and compares the replies as its mark says.
fn compare(redis: &mut Redis, boson: &mut Boson, marked: &str) -> Result<(), String> {
    let (mark, command) = match marked.as_bytes().first() {
        Some(mark @ (b'~' | b'%' | b'^')) => (*mark, &marked[1..]),
        _ => (b'=', marked),
    };
    let request = format!("{command}\r\n").into_bytes();
    let expected = redis.call(&request);
    let actual = boson.call(&request);
    assert_eq!(reply_len(&actual), Some(actual.len()), "one whole reply to {command}");
    let same = match mark {
        b'~' => close(&expected, &actual),
        b'%' => sorted(&expected) == sorted(&actual),
        b'^' => kind(&expected) == kind(&actual),
        _ => expected == actual,
    };
    if same {
        return Ok(());
    }
    Err(format!("{command}\n  redis {}\n  boson {}", expected.escape_ascii(), actual.escape_ascii()))
}

/// Whether both are integers, and not further apart than the time that may have passed between
/// them.
fn close(expected: &[u8], actual: &[u8]) -> bool {
    let number =
        |reply: &[u8]| std::str::from_utf8(reply).ok()?.trim().strip_prefix(':')?.parse::<i64>().ok();
    match (number(expected), number(actual)) {
        (Some(a), Some(b)) => a == b || (a >= 0 && b >= 0 && a.abs_diff(b) <= 1 + a.unsigned_abs() / 20),
        _ => false,
    }
}

fn run_script(resp3: bool) {
    let Some(mut redis) = Redis::start() else { return };
    let mut boson = Boson::new();
    let mut problems = Vec::new();
    let hello: &[&str] = if resp3 { &["^hello 3"] } else { &[] };
    let lines =
        SCRIPT.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("# ") && *line != "#");
    for line in hello.iter().copied().chain(lines) {
        problems.extend(compare(&mut redis, &mut boson, line).err());
    }
    assert!(problems.is_empty(), "{} replies differ:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn every_command_replies_as_redis_does_in_resp2() {
    run_script(false);
}

#[test]
fn every_command_replies_as_redis_does_in_resp3() {
    run_script(true);
}

#[test]
fn random_commands_reply_as_redis_does() {
    let Some(mut redis) = Redis::start() else { return };
    let seed = std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in seed..seed + 4 {
        let mut boson = Boson::new();
        redis.call(b"flushall\r\n");
        redis.call(b"reset\r\n");
        let mut commands = random::Commands::new(seed);
        for _ in 0..5_000 {
            let command = commands.next_command();
            if let Err(problem) = compare(&mut redis, &mut boson, &command) {
                panic!("BOSON_SEED={seed}: {problem}");
            }
        }
        compare(&mut redis, &mut boson, "%keys *")
            .unwrap_or_else(|problem| panic!("BOSON_SEED={seed}: {problem}"));
    }
}

/// Keys around and above the 4,096 bytes that the store takes: two for each length, which differ in
/// their last byte.
#[test]
fn random_commands_on_long_keys_reply_as_redis_does() {
    let Some(mut redis) = Redis::start() else { return };
    let keys: Vec<String> = [4_063, 4_064, 4_065, 4_095, 4_096, 4_097, 4_100]
        .iter()
        .flat_map(|len| ["a", "b"].map(|last| format!("user:{}{last}", "x".repeat(len - 6))))
        .collect();
    let seed = std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut boson = Boson::new();
    let mut commands = random::Commands::on(seed, keys);
    for _ in 0..5_000 {
        let command = commands.next_command();
        compare(&mut redis, &mut boson, &command)
            .unwrap_or_else(|problem| panic!("BOSON_SEED={seed}: {problem}"));
    }
}

/// The same commands on keys that have more bytes than an inline command may have.
#[test]
fn every_command_takes_long_keys() {
    const COMMANDS: &str = "set K v;get K;set J w;get J;get K;append K x;get K;strlen K;setrange K 1 yz;getrange K 0 1;\
        set N 5;incr N;incrby N 7;decr N;incrbyfloat N 1.5;get N;mset K 1 J 2 short 3;mget K J N short;msetnx K 1 L 2;\
        exists K J L K;touch K L;type K;type L;set K v nx;set K w xx get;set K v ex 1000 keepttl;set K v px 100000 get;\
        persist K;ttl K;expire K 33177117;expireat K 33177117420;expiretime K;set K u keepttl;pexpiretime K;\
        rename K L;get K;get L;expiretime L;rename L short;get short;expiretime short;rename short K;renamenx K J;\
        renamenx K L;get L;getex L exat 33177117421;expiretime L;getex L persist;ttl L;setnx L 1;setnx K 1;getset K 2;\
        setex K 33177117 v;psetex K 33177117000 v;substr K 0 -1;%keys *;%keys P*;%keys K;%keys *y;keys Q*;\
        %scan 0 count 1000;%scan 0 match K count 1000;%scan 0 match P* count 1000;%scan 0 match Q* count 1000;\
        command getkeys mset K 1 J 2;getdel K;getdel K;del J K;unlink L N short;dbsize;\
        set K v;randomkey;expire K -1;randomkey;set K v;pexpireat K 1;exists K;flushall";
    let Some(mut redis) = Redis::start() else { return };
    let mut boson = Boson::new();
    for len in [4_064, 4_095, 4_096, 4_097, 4_100, 64 << 10, 1 << 20] {
        let prefix = "p".repeat(len - 2);
        let key = |last: &str| format!("{prefix}k{last}");
        for marked in COMMANDS.split(';').map(str::trim) {
            let command = marked.trim_start_matches('%');
            let mut request = format!("*{}\r\n", command.split(' ').count()).into_bytes();
            for word in command.split(' ') {
                let argument = match word {
                    "K" | "J" | "L" | "N" => key(word),
                    "P*" => format!("{prefix}*"),
                    "Q*" => format!("{prefix}q*"),
                    word => word.to_owned(),
                };
                request.extend_from_slice(format!("${}\r\n{argument}\r\n", argument.len()).as_bytes());
            }
            let (expected, actual) = (redis.call(&request), boson.call(&request));
            let same =
                if command == marked { expected == actual } else { sorted(&expected) == sorted(&actual) };
            let shown = |reply: &[u8]| reply[..reply.len().min(200)].escape_ascii().to_string();
            assert!(
                same,
                "{command} with {len} bytes\n  redis {}\n  boson {}",
                shown(&expected),
                shown(&actual)
            );
        }
    }
}

/// What comes back, up to the end of the connection, for bytes that break the protocol.
#[test]
fn broken_requests_get_the_errors_of_redis() {
    let Some(mut redis) = Redis::start() else { return };
    let long = "a".repeat(70_000);
    for bytes in [
        "*abc\r\n",
        "*\r\n",
        "*-1\r\nping\r\n*0\r\nquit\r\n",
        "*01\r\n",
        "*2147483648\r\n",
        "*9223372036854775808\r\n",
        "*1\r\nx\r\n",
        "*1\r\n\r\n",
        "*1\r\n:5\r\n",
        "*2\r\n$3\r\nget\r\nk\r\n",
        "*1\r\n$abc\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$-2\r\n",
        "*1\r\n$\r\n",
        "*1\r\n$536870913\r\n",
        "*1\r\n$99999999999999999999\r\n",
        "*1\r\n$04\r\nping\r\n",
        "ping\r\nget \"a\r\nping\r\n",
        "get 'a\r\n",
        "get \"a\"b\r\n",
        "get 'a'b\r\n",
        "set a \"\\x41\\n\"\r\nget a\r\n\r\n  \r\nquit\r\nping\r\n",
        "*1\r\n$4\r\npingXX*1\r\n$4\r\nquit\r\n",
        "post / HTTP/1.1\r\n",
        "ping\r\nHost: localhost\r\n",
        "quit now\r\nping\r\n",
        "client reply off\r\nping\r\n*x\r\n",
        "client reply skip\r\nping\r\necho a\r\nquit\r\n",
        "client reply off\r\nping\r\nclient reply skip\r\nping\r\nclient reply on\r\nquit\r\n",
        "client reply skip\r\nclient reply skip\r\necho a\r\necho b\r\nquit\r\n",
        "client reply skip\r\nnosuch\r\nget\r\nquit\r\n",
        "client reply off\r\nreset\r\nquit\r\n",
        "client reply skip\r\nreset\r\nquit\r\n",
        &long,
        &format!("*{long}"),
        &format!("*1\r\n${long}"),
    ] {
        let expected = redis.converse(bytes.as_bytes());
        let actual = Boson::new().converse(bytes.as_bytes());
        let shown = &bytes[..bytes.len().min(100)];
        assert_eq!(actual.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{shown:?}");
    }
}

#[test]
fn a_password_is_asked_for_as_redis_does() {
    let Some(mut redis) = Redis::start() else { return };
    redis.call(b"config set requirepass secret\r\n");
    let many = format!("*11\r\n{}", "$1\r\na\r\n".repeat(11));
    for bytes in [
        "ping\r\nget k\r\nnosuch\r\nget\r\nauth\r\nauth wrong\r\nauth default wrong\r\nauth other secret\r\nauth a b c\r\nquit\r\n",
        "auth secret\r\nping\r\nquit\r\n",
        "auth default secret\r\nping\r\nreset\r\nping\r\nquit\r\n",
        "hello 3\r\nhello 3 auth default wrong\r\nhello 3 setname x auth default wrong\r\nquit\r\n",
        "hello 2 auth default\r\nhello\r\nhello 5\r\ncommand\r\nquit\r\n",
        "multi\r\nset k v\r\nexec\r\nexec x\r\nwatch k\r\ndiscard\r\nquit\r\n",
        "*2\r\n$4\r\necho\r\n$16385\r\n",
        "auth secret\r\n*2\r\n$4\r\necho\r\n$5\r\nhello\r\nquit\r\n",
        &many,
    ] {
        let mut boson = Boson::with_password(b"secret");
        let expected = redis.converse(bytes.as_bytes());
        let actual = boson.converse(bytes.as_bytes());
        assert_eq!(actual.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{bytes:?}");
    }
}

/// The commands there are, as boson lists them, each with the full names of its subcommands.
fn listed(boson: &mut Boson) -> Vec<(String, Vec<String>)> {
    let list = String::from_utf8(boson.call(b"command list\r\n")).expect("text");
    let names = list.lines().filter(|line| !line.starts_with(['*', '$']));
    let (subcommands, names): (Vec<&str>, Vec<&str>) = names.partition(|name| name.contains('|'));
    let commands = names.into_iter().map(|name| {
        let its_own = subcommands.iter().filter(|full| full.split('|').next() == Some(name));
        (name.to_owned(), its_own.map(ToString::to_string).collect())
    });
    let commands: Vec<(String, Vec<String>)> = commands.collect();
    assert!(commands.len() > 50, "commands are found");
    commands
}

/// COMMAND INFO and COMMAND DOCS of every command there is. Redis has more subcommands, in no
/// particular order; those that are in both are described alike.
#[test]
fn commands_are_described_as_in_redis() {
    let Some(mut redis) = Redis::start() else { return };
    let mut boson = Boson::new();
    for hello in ["hello 2\r\n", "hello 3\r\n"] {
        redis.call(hello.as_bytes());
        boson.call(hello.as_bytes());
        let map = |len: usize| if hello.contains('2') { format!("*{}", len * 2) } else { format!("%{len}") };
        for (name, subcommand_names) in listed(&mut boson) {
            for topic in ["info", "docs"] {
                let request = |name: &str| format!("command {topic} {name}\r\n").into_bytes();
                // What there is of one command, in an array or a map of one element.
                let one = |reply: Vec<u8>| reply[4..].to_vec();
                let mut subcommands = Vec::new();
                for subcommand in &subcommand_names {
                    let actual = one(boson.call(&request(subcommand)));
                    subcommands.extend_from_slice(&actual);
                    // It came with Redis 7.2.
                    if subcommand != "client|setinfo" {
                        let expected = one(redis.call(&request(subcommand)));
                        assert_eq!(actual.escape_ascii().to_string(), expected.escape_ascii().to_string());
                    }
                }
                let mut expected = one(redis.call(&request(&name)));
                if !subcommand_names.is_empty() {
                    let count = subcommand_names.len();
                    let head = if topic == "info" { format!("*{count}") } else { map(count) };
                    let start = if topic == "info" {
                        let first = expected.windows(6).position(|bytes| &bytes[1..] == b"*10\r\n");
                        // The line in front of the first subcommand is their number.
                        first.and_then(|first| expected[..first].iter().rposition(|&byte| byte == b'*'))
                    } else {
                        expected.windows(11).position(|bytes| bytes == b"subcommands").map(|at| at + 13)
                    };
                    let start = start.expect("Redis has subcommands, too");
                    expected.truncate(start);
                    expected.extend_from_slice(format!("{head}\r\n").as_bytes());
                    expected.extend_from_slice(&subcommands);
                }
                let actual = one(boson.call(&request(&name)));
                assert_eq!(actual.escape_ascii().to_string(), expected.escape_ascii().to_string());
            }
        }
    }
}

/// What `redis-cli` asks for to show its help.
#[test]
fn all_commands_are_documented_at_once_as_one_by_one() {
    let mut boson = Boson::new();
    let all = boson.call(b"command docs\r\n");
    let commands = listed(&mut boson);
    let mut each = format!("*{}\r\n", commands.len() * 2).into_bytes();
    for (name, _) in commands {
        let one = boson.call(format!("command docs {name}\r\n").as_bytes());
        each.extend_from_slice(one.strip_prefix(b"*2\r\n").expect("one command"));
    }
    assert_eq!(all.escape_ascii().to_string(), each.escape_ascii().to_string());
}

/// A scan to the end gives the same keys, with any count and pattern.
#[test]
fn scans_find_what_redis_finds() {
    let Some(mut redis) = Redis::start() else { return };
    let mut boson = Boson::new();
    for index in 0..500 {
        let request = format!("set {}:{index} v\r\n", ["user", "item", "us"][index % 3]).into_bytes();
        assert_eq!(redis.call(&request), boson.call(&request));
    }
    for options in [
        "",
        "count 1",
        "count 7",
        "count 1000",
        "match user:*",
        "match *1 count 3",
        "match u?er:1* count 5",
        "match x* count 2",
        "type hash count 9",
    ] {
        let mut expected = redis.scan(options);
        expected.sort();
        expected.dedup();
        let mut actual = boson.scan(options);
        actual.sort();
        assert_eq!(actual, expected, "{options}");
    }
}

#[test]
fn patterns_match_what_redis_matches() {
    let Some(mut redis) = Redis::start() else { return };
    let mut boson = Boson::new();
    let keys = "a b c ab ba aa abc [ ] ^ - [] [^] a-b ^a ]a -- \\\\ \\\\a a\\\\b * ? a*b a?b aab abab bb b-a";
    for key in keys.split(' ') {
        let request = format!("set \"{key}\" v\r\n").into_bytes();
        assert_eq!(redis.call(&request), boson.call(&request));
    }
    let seed = std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for pattern in random::patterns(seed).take(5_000) {
        let command = format!("%keys \"{}\"", pattern.replace('\\', "\\\\"));
        compare(&mut redis, &mut boson, &command)
            .unwrap_or_else(|problem| panic!("BOSON_SEED={seed}: {problem}"));
    }
}
