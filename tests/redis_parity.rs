//! Runs the same commands against redis-server and boson and compares the replies byte for byte.
//!
//! Where boson differs from Redis 7.0 on purpose:
//!
//! | what | why |
//! |---|---|
//! | commands on lists, hashes, sets, streams, scripts, transactions, publishing and replication are unknown | there are strings only |
//! | MULTI and WATCH are errors, and what stands between MULTI and EXEC or DISCARD is refused | there are no transactions, and nothing of one may run |
//! | a refused HELLO changes nothing; Redis 7.0 leaves what came before the bad option done | as Redis 7.2 |
//! | CONFIG client-output-buffer-limit holds a client back, and drops it if it then takes nothing; there is no hard limit | a pipeline completes |
//! | CLIENT SETINFO exists | from Redis 7.2: today's client libraries send it |
//! | CLIENT LIST and INFO have other numbers and fewer fields | they describe another server |
//! | COMMAND INFO has no key specifications and subcommands, COMMAND DOCS is empty, HELP texts are our own | clients take them as optional |
//! | CONFIG GET appendonly says `yes` | the store always writes a log |
//! | CONFIG GET knows fewer parameters | |
//! | a request has at most 1,048,576 arguments, Redis 7.0 allows 2,147,483,647 | everything has a limit |
//! | a NUL byte in a line of the protocol is like any other byte | Redis stops reading the line there and waits for ever |
//! | SCAN cursors are remembered by the server, and an unknown one is an error | keys are in order, not in a hash table |
//! | keys are at most 4,096 bytes long, and a command that writes many keys must fit a quarter of the store's log | the store's limits |
//! | EXISTS, DEL and their like cost a read of the value if it is not in memory | keys and values lie on a device |

mod not_run;
#[path = "redis_parity/peer.rs"]
mod peer;
#[path = "redis_parity/random.rs"]
mod random;

use peer::{Boson, Redis, kind, reply_len, sorted};

const SCRIPT: &str = include_str!("redis_parity/commands.txt");

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

/// Whether both are integers, and not further apart than the time that may have passed between them.
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

/// The table behind COMMAND INFO: the first eight of its ten elements.
#[test]
fn commands_are_described_as_in_redis() {
    let Some(mut redis) = Redis::start() else { return };
    let mut boson = Boson::new();
    for command in boson::redis::command::table::all() {
        for described in std::iter::once(command).chain(command.subcommands) {
            if described.full_name == "client|setinfo" {
                continue;
            }
            let request = format!("command info {}\r\n", described.full_name).into_bytes();
            let (expected, actual) = (redis.call(&request), boson.call(&request));
            let ours = actual.strip_suffix(b"*0\r\n*0\r\n").expect("no key specifications, no subcommands");
            let start = String::from_utf8_lossy(&expected[..ours.len().min(expected.len())]).into_owned();
            assert_eq!(String::from_utf8_lossy(ours), start, "{}", described.full_name);
        }
    }
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
