//! What is refused is refused whole: no part of it is done.

use super::*;

/// All keys of all databases, with their values and expiry times.
fn contents(world: &World) -> String {
    let mut client = world.connect();
    let mut contents = String::new();
    for database in 0..16 {
        client.call(&format!("select {database}"));
        let mut keys = strings(&client.call("keys *"));
        keys.sort();
        for key in keys {
            contents += &format!("{database} {key} {}", client.call(&format!("get {key}")));
            contents += &client.call(&format!("pexpiretime {key}"));
        }
    }
    contents
}

/// Some keys, in two databases.
fn filled() -> World {
    let world = World::new();
    let mut client = world.connect();
    for command in ["mset a 1 b text", "set c v px 100000", "select 3", "set a other"] {
        client.call(command);
    }
    world
}

fn word() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "c", "d", "1", "5", "*", "nx", "ex", "px", "100", "-1", "get"])
}

/// A command that changes something, or might if it were taken for another.
fn body() -> impl Strategy<Value = String> {
    let names = vec![
        "set",
        "mset",
        "msetnx",
        "setnx",
        "setex",
        "getset",
        "getdel",
        "getex",
        "append",
        "setrange",
        "incr",
        "decr",
        "incrby",
        "incrbyfloat",
        "del",
        "unlink",
        "expire",
        "pexpire",
        "persist",
        "rename",
        "renamenx",
        "flushdb",
        "flushall",
        "select",
        "get",
        "ping",
        "nosuch",
        "watch",
        "multi",
        "hello",
        "auth",
        "config set maxclients",
        "client setname",
        "client reply",
        "client kill",
        "unwatch",
        "shutdown",
        "client no-evict",
        "script",
        "eval",
    ];
    (prop::sample::select(names), prop::collection::vec(word(), 0..4))
        .prop_map(|(name, words)| [&[name][..], &words].concat().join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However a group is made, split and ended, each of its commands gets an error and none runs.
    #[test]
    fn nothing_of_a_refused_transaction_runs(
        bodies in prop::collection::vec(body(), 0..12),
        end in prop::sample::select(vec!["exec", "EXEC", "discard", "exec now", "reset", "quit", ""]),
        piece in 1usize..200,
    ) {
        let world = filled();
        let before = contents(&world);
        let mut client = world.connect();
        client.call("client setname mine");
        let limits = world.server.limits();
        let group: String = std::iter::once("multi")
            .chain(bodies.iter().map(String::as_str))
            .chain([end])
            .map(|command| format!("{command}\r\n"))
            .collect();
        let mut replies = Vec::new();
        for piece in group.as_bytes().chunks(piece) {
            replies.extend(client.send(piece).0);
        }
        let replies = String::from_utf8(replies).expect("text");
        let lines: Vec<&str> = replies.lines().collect();
        let (last, refused) = if end.is_empty() {
            (None, &lines[..])
        } else {
            lines.split_last().map(|(last, refused)| (Some(*last), refused)).expect("replies")
        };
        prop_assert_eq!(refused.len(), bodies.len() + 1, "{}", replies);
        for line in refused {
            prop_assert!(line.starts_with("-ERR "), "{} in {}", line, replies);
        }
        let expected = match end {
            "exec" | "EXEC" => Some("-EXECABORT Transaction discarded because of previous errors."),
            "exec now" => {
                Some("-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command")
            }
            "reset" => Some("+RESET"),
            "" => None,
            _ => Some("+OK"),
        };
        prop_assert_eq!(last, expected);
        prop_assert_eq!(contents(&world), before);
        prop_assert_eq!(world.server.limits(), limits);
        prop_assert!(!world.server.shutdown_is_requested());
        if !matches!(end, "reset" | "quit" | "") {
            // The connection is as it was, and its next commands run.
            prop_assert_eq!(client.call("client getname"), "$4\r\nmine\r\n");
            prop_assert_eq!(client.call("get b"), "$4\r\ntext\r\n");
            prop_assert_eq!(client.call("exec"), "-ERR EXEC without MULTI\r\n");
        }
    }
}

#[test]
fn a_refused_transaction_says_what_is_the_matter() {
    let world = filled();
    let mut client = world.connect();
    let (replies, _) = client.send(
        b"watch a\r\nmulti\r\nset y 1\r\nmulti\r\nwatch y\r\nnosuch\r\nset\r\nclient info\r\nexec\r\nexists y\r\n",
    );
    let replies = String::from_utf8(replies).expect("text");
    let lines: Vec<&str> = replies.lines().collect();
    assert_eq!(
        lines,
        [
            "-ERR WATCH is not supported yet: there are no transactions",
            "-ERR MULTI is not supported yet: nothing is run up to EXEC or DISCARD",
            "-ERR not run: the MULTI before it is not supported yet",
            "-ERR MULTI calls can not be nested",
            "-ERR WATCH inside MULTI is not allowed",
            "-ERR unknown command 'nosuch', with args beginning with: ",
            "-ERR wrong number of arguments for 'set' command",
            "-ERR not run: the MULTI before it is not supported yet",
            "-EXECABORT Transaction discarded because of previous errors.",
            ":0",
        ]
    );
    client.call("multi");
    let list = world.connect().call("client list");
    assert!(list.contains(" flags=x ") && list.contains(" multi=0 "), "{list}");
    assert_eq!(client.call("discard"), "+OK\r\n");
    assert_eq!(client.call("discard"), "-ERR DISCARD without MULTI\r\n");
    assert_eq!(client.call("unwatch"), "+OK\r\n");
}

/// The replies of a group are thrown away like any others; it is refused all the same.
#[test]
fn a_transaction_without_replies_is_refused_too() {
    for start in ["client reply off", "client reply skip"] {
        let world = filled();
        let before = contents(&world);
        let mut client = world.connect();
        client.send(format!("{start}\r\nmulti\r\nset y 1\r\nclient reply on\r\nexec\r\n").as_bytes());
        assert_eq!(contents(&world), before, "{start}");
    }
}

#[test]
fn what_is_not_supported_is_not_among_the_commands() {
    let mut client = World::new().connect();
    for name in ["multi", "exec", "discard", "watch", "unwatch"] {
        assert_eq!(client.call(&format!("command info {name}")), "*1\r\n$-1\r\n", "{name}");
        assert_eq!(client.call(&format!("command list filterby pattern {name}")), "*0\r\n", "{name}");
    }
}

/// What came before a bad option is not done either.
#[test]
fn a_command_with_a_bad_part_does_nothing() {
    let state = |world: &World, client: &mut TestClient| {
        let limits = format!("{:?} {}", world.server.limits(), world.server.needs_password());
        let rest = ["client getname", "client info"].map(|command| client.call(command));
        let protocol = client.session.client().protocol.load();
        // The name of the last command is part of CLIENT INFO.
        let info = rest[1].split(" cmd=").next().expect("a part").replace("qbuf=", "");
        format!(
            "{limits} {} {protocol:?} {}",
            rest[0],
            info.split(" db=").nth(1).map_or("", |rest| &rest[..3])
        )
    };
    for command in [
        "hello 3 setname x nosuch",
        "hello 3 setname x setname \"a b\"",
        "hello 3 setname x auth default",
        "hello 3 setname x auth other wrong",
        "config set timeout 5 maxclients abc",
        "config set timeout 5 nosuch 1",
        "config set requirepass secret port 1",
        "config set timeout 5 timeout 6",
        "config set client-output-buffer-limit \"normal 1mb 0 0 nosuch 1 2 3\"",
        "config set timeout 5 client-output-buffer-limit \"normal 1mb 0\"",
        "client kill id 1 nosuch yes",
        "client kill id 1 skipme perhaps",
        "client kill type nosuch id 1",
        "flushall nosuch",
        "flushall async sync",
        "flushdb nosuch",
        "set a new nx xx",
        "set a new ex 5 px 5",
        "set a new ex 5 keepttl",
        "set a new ex 0",
        "set a new get nosuch",
        "getex a ex 5 persist",
        "getex a ex 0",
        "getex a nosuch",
        "setex a 0 new",
        "expire a 5 nx xx",
        "expire a 5 gt lt",
        "expire a 5 nosuch",
        "pexpireat a abc",
        "mset a new b",
        "mset d new a new \"\"",
        "msetnx d new e",
        "rename nosuch a",
        "incrby a abc",
        "incrbyfloat a abc",
        "setrange a -1 new",
        "select 99",
        "shutdown nosave nosuch",
        "client reply nosuch",
        "client no-evict nosuch",
        "subscribe a",
        "monitor",
        "eval \"return redis.call('set','y','1')\" 0",
        "script load \"return 1\"",
    ] {
        let world = filled();
        let mut other = world.connect();
        let mut client = world.connect();
        let before = (contents(&world), state(&world, &mut client));
        let reply = client.call(command);
        assert!(reply.starts_with('-'), "{command}: {reply}");
        assert_eq!((contents(&world), state(&world, &mut client)), before, "{command}");
        assert_eq!(other.call("ping"), "+PONG\r\n", "{command}");
        assert!(!world.server.shutdown_is_requested(), "{command}");
    }
}

#[test]
fn a_refused_hello_does_not_authenticate() {
    let world = World::with(Config::default().password("secret"));
    let mut client = world.connect();
    for command in [
        "hello 3 auth default secret nosuch",
        "hello 3 auth default secret setname \"a b\"",
        "hello 3 setname x",
    ] {
        assert!(client.call(command).starts_with('-'), "{command}");
        assert_eq!(client.call("ping"), "-NOAUTH Authentication required.\r\n", "{command}");
    }
    assert!(client.call("hello 2 auth default secret setname x").starts_with("*14"));
    assert_eq!(client.call("client getname"), "$1\r\nx\r\n");
}
