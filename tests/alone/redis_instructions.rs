//! Something to count instructions in: one command over and over on a server in this thread. Build
//! with `cargo test --release --test redis_instructions --no-run`, then run the program twice, with
//! different `ROUNDS`, as `COMMAND=incr ROUNDS=20000 valgrind --tool=callgrind PROGRAM --ignored
//! --test-threads=1`: the difference is what the rounds took.

use crate::support::redis_peer as peer;
use peer::Boson;

const KEYS: u64 = 20_000;
/// How many pipelines are made, before what is counted.
const PIPELINES: u64 = 200;
/// How many requests a client sends at once.
const PIPELINE: u64 = 16;

fn setting(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn bulk(request: &mut String, argument: &str) {
    *request += &format!("${}\r\n{argument}\r\n", argument.len());
}

fn request(command: &str, random: &mut u64) -> String {
    let mut key = || {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("key:{:012}", (*random >> 33) % KEYS)
    };
    let (name, arguments): (&str, Vec<String>) = match command {
        "get" => ("GET", vec![key()]),
        "incr" => ("INCR", vec![key()]),
        "mset" => ("MSET", (0..10).flat_map(|_| [key(), "123".to_owned()]).collect()),
        _ => ("SET", vec![key(), "123".to_owned()]),
    };
    let mut request = format!("*{}\r\n", arguments.len() + 1);
    bulk(&mut request, name);
    arguments.iter().for_each(|argument| bulk(&mut request, argument));
    request
}

#[test]
#[ignore = "a measurement"]
fn one_command_over_and_over() {
    let rounds: u64 = setting("ROUNDS", "20000").parse().expect("a number");
    let command = setting("COMMAND", "set");
    let mut boson = Boson::new();
    for index in 0..KEYS {
        let mut request = "*3\r\n$3\r\nSET\r\n".to_owned();
        bulk(&mut request, &format!("key:{:012}", index * 7919 % KEYS));
        bulk(&mut request, "123");
        boson.discard(request.as_bytes(), 1);
    }
    let mut random = 1;
    let pipelines: Vec<String> =
        (0..PIPELINES).map(|_| (0..PIPELINE).map(|_| request(&command, &mut random)).collect()).collect();
    for pipeline in pipelines.iter().cycle().take(usize::try_from(rounds / PIPELINE).expect("a count")) {
        boson.discard(pipeline.as_bytes(), 1);
    }
}
