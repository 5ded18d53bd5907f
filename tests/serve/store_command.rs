//! `boson store`: a store as text and back, copies, and damage.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::not_run;
use crate::support::server::{Directory, Reply, Server};

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What `boson store` does with these arguments and this on its standard input.
fn store(directory: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_boson"))
        .arg("store")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || _ = stdin.write_all(input));
        child.wait_with_output().expect("it ends")
    })
}

/// What it prints; it has nothing to say besides.
fn succeeds(directory: &Path, arguments: &[&str], input: &[u8]) -> String {
    let output = store(directory, arguments, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{arguments:?}: {} {stderr}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// What it says.
fn fails(directory: &Path, arguments: &[&str], input: &[u8]) -> String {
    let output = store(directory, arguments, input);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// The dump of one tree.
fn dump_of(tree: &str, pairs: &Pairs) -> String {
    let mut text = format!("VERSION=3\nformat=bytevalue\ndatabase={tree}\ntype=btree\nHEADER=END\n");
    for (key, value) in pairs {
        write!(text, " {}\n {}\n", hex(key), hex(value)).expect("a string takes all");
    }
    text + "DATA=END\n"
}

fn numbered(count: u32) -> Pairs {
    (0..count)
        .map(|number| (format!("{number:05}").into_bytes(), format!("value {number:05}").into_bytes()))
        .collect()
}

#[test]
fn what_is_loaded_is_dumped_and_copied() {
    let directory = Directory::new("store-text");
    let path = directory.path();
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let mut odd =
        Pairs::from([(Vec::new(), all.clone()), (all.clone(), Vec::new()), (vec![255; 4096], vec![0; 3])]);
    odd.insert(b"long".to_vec(), all.repeat(5000));
    let text = dump_of("a tree", &numbered(20_000)) + &dump_of("größe", &odd);
    let loaded = succeeds(path, &["load", "file:data"], text.as_bytes());
    assert!(loaded.starts_with("20004 keys, "), "{loaded}");
    assert_eq!(succeeds(path, &["dump", "file:data"], b""), text);
    assert_eq!(succeeds(path, &["dump", "file:data", "--tree", "größe"], b""), dump_of("größe", &odd));

    let info: serde_json::Value =
        serde_json::from_str(&succeeds(path, &["info", "file:data", "--json"], b"")).expect("JSON");
    assert_eq!(info["trees"], serde_json::json!({ "a tree": 20_000, "größe": 4 }));
    assert!(info["used_bytes"].as_u64() > Some(1_700_000), "{info}");
    let info = succeeds(path, &["info", "file:data"], b"");
    assert!(info.contains("20004 in 2 trees") || info.contains("20004 keys in 2 trees"), "{info}");

    // A copy is the same, also on a namespace of another size, and there it may not replace others.
    succeeds(path, &["backup", "file:data", "file:copy?size=128M"], b"");
    assert_eq!(succeeds(path, &["dump", "file:copy?size=128M"], b""), text);
    let refusal = fails(path, &["restore", "file:data", "file:copy?size=128M"], b"");
    assert!(refusal.contains("not empty") && refusal.contains("--format"), "{refusal}");
    succeeds(path, &["load", "file:other"], dump_of("x", &numbered(3)).as_bytes());
    succeeds(path, &["restore", "file:data", "file:other", "--format"], b"");
    assert_eq!(succeeds(path, &["dump", "file:other", "--output", "text"], b""), "");
    assert_eq!(std::fs::read_to_string(path.join("text")).expect("text"), text);
    assert!(fails(path, &["dump", "file:other", "-o", "text"], b"").contains("text"), "it is there already");

    // New values replace old ones, and all else stays.
    let more = Pairs::from([(b"00007".to_vec(), b"new".to_vec()), (b"z".to_vec(), b"added".to_vec())]);
    succeeds(path, &["load", "file:data"], dump_of("a tree", &more).as_bytes());
    let mut expected = numbered(20_000);
    expected.extend(more);
    assert_eq!(succeeds(path, &["dump", "file:data", "--tree", "a tree"], b""), dump_of("a tree", &expected));
    let clean = succeeds(path, &["verify", "file:data"], b"");
    assert!(clean.contains("20005 keys") && clean.contains("damaged: 0"), "{clean}");
}

/// What `boson serve` has is in trees that are named like its databases.
#[test]
fn the_keys_of_a_server_move_to_another_store() {
    let directory = Directory::new("store-move");
    let server = Server::start(directory.path(), &["--store", "file:data"]);
    let mut client = server.client();
    assert_eq!(client.run("SET k v"), Reply::ok());
    assert_eq!(client.run("SET short-lived v PX 300000"), Reply::ok());
    let refusal = fails(directory.path(), &["info", "file:data"], b"");
    assert!(refusal.contains("another process") || refusal.contains("in use"), "{refusal}");
    assert!(server.terminate().success());
    succeeds(directory.path(), &["backup", "file:data", "file:copy"], b"");
    let server = Server::start(directory.path(), &["--store", "file:copy"]);
    let mut client = server.client();
    assert_eq!(client.run("GET k"), Reply::bulk("v"));
    assert!(matches!(client.run("PTTL short-lived"), Reply::Integer(1..300_000)));
    assert!(server.terminate().success());
}

/// LMDB's and Berkeley DB's own tools read our text, and we read theirs.
#[test]
fn other_stores_read_the_text_and_are_read() {
    let directory = Directory::new("store-others");
    let path = directory.path();
    let text = dump_of("t", &numbered(500));
    succeeds(path, &["load", "file:data"], text.as_bytes());
    let run = |shell: &str| {
        let output = Command::new("sh").args(["-c", shell]).current_dir(path).output().expect("a shell");
        assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    if Command::new("mdb_load").arg("-V").output().is_err() {
        not_run::not_run("exchange of text with LMDB: mdb_load is not installed (lmdb-utils)");
        return;
    }
    succeeds(path, &["dump", "file:data", "-o", "text"], b"");
    run("mkdir lmdb && mdb_load -f text lmdb");
    for option in ["", "-p "] {
        let theirs = run(&format!("mdb_dump {option}-s t lmdb"));
        succeeds(path, &["load", "file:back", "--format"], &theirs);
        assert_eq!(succeeds(path, &["dump", "file:back"], b""), text);
    }
    // A header without a name is for the tree that one says.
    let anonymous = text.replace("database=t\n", "");
    assert!(fails(path, &["load", "file:other"], anonymous.as_bytes()).contains("--tree"));
    succeeds(path, &["load", "file:other", "--tree", "t"], anonymous.as_bytes());
    assert_eq!(succeeds(path, &["dump", "file:other"], b""), text);
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let directory = Directory::new("store-refused");
    let path = directory.path();
    for command in ["info", "verify", "dump"] {
        let refusal = fails(path, &[command, "file:nosuch"], b"");
        assert!(refusal.contains("no such file"), "{refusal}");
        assert!(!path.join("nosuch").exists(), "{command} made a file");
        let refusal = fails(path, &[command, "mem:64M"], b"");
        assert!(refusal.contains("no store"), "{command}: {refusal}");
    }
    std::fs::write(path.join("foreign"), vec![b'x'; 16 << 20]).expect("room");
    for arguments in [&["info", "file:foreign"][..], &["load", "file:foreign"]] {
        assert!(fails(path, arguments, b"").contains("not a boson store"), "{arguments:?}");
    }
    assert_eq!(std::fs::read(path.join("foreign")).expect("it is there"), vec![b'x'; 16 << 20]);
    assert!(fails(path, &["load", "file:data", "nosuch"], b"").contains("nosuch"));
    assert!(!path.join("data").exists(), "a store was made for nothing");

    // What is wrong has a line, and what came before it stays.
    let pairs = numbered(1000);
    let text = dump_of("t", &pairs);
    succeeds(path, &["load", "file:data"], dump_of("t", &numbered(1)).as_bytes());
    let cut = &text[..text.len() - 30];
    let refusal = fails(path, &["load", "file:data"], cut.as_bytes());
    assert!(refusal.contains("line 2005") && refusal.contains("999 keys"), "{refusal}");
    assert_eq!(succeeds(path, &["dump", "file:data"], b""), dump_of("t", &numbered(999)));
    let refusal = fails(path, &["load", "file:data"], text.replace("DATA=END\n", "").as_bytes());
    assert!(refusal.contains("DATA=END") && refusal.contains("1000 keys"), "{refusal}");
    assert!(fails(path, &["dump", "file:data", "--tree", "u"], b"").contains("no tree \"u\""));
    succeeds(path, &["load", "file:data"], text.as_bytes());
    assert_eq!(succeeds(path, &["dump", "file:data"], b""), text);
    // Whoever reads the text may have enough of it.
    let head = format!("{} store dump file:data 2>&1 | head -n 1", env!("CARGO_BIN_EXE_boson"));
    let output = Command::new("sh").args(["-c", &head]).current_dir(path).output().expect("a shell");
    assert_eq!(output.stdout, b"VERSION=3\n");
}

/// Flips a bit of each copy of `bytes` in a file; returns how many there were.
fn damage(path: &Path, bytes: &[u8]) -> usize {
    let mut content = std::fs::read(path).expect("it is there");
    let mut count = 0;
    for at in 0..content.len() - bytes.len() {
        if content[at..].starts_with(bytes) {
            content[at] ^= 1;
            count += 1;
        }
    }
    std::fs::write(path, content).expect("room");
    count
}

#[test]
fn damage_is_named_and_all_else_is_saved() {
    let directory = Directory::new("store-damage");
    let path = directory.path();
    let pairs = numbered(20_000);
    succeeds(path, &["load", "file:data"], (dump_of("t", &pairs) + &dump_of("u", &numbered(10))).as_bytes());
    assert!(damage(&path.join("data"), b"value 12345") >= 1);

    let output = store(path, &["verify", "file:data"], b"");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let finding = said.lines().find(|line| line.starts_with("damaged: ")).expect("it is named");
    // Which keys it costs: those of one leaf, 12345 among them.
    let quoted: Vec<&str> = finding.split('"').collect();
    let &[_, _, _, from, _, to, ..] = &quoted[..] else { panic!("{finding}") };
    assert!(finding.contains("tree \"t\"") && from <= "12345" && "12345" < to, "{finding}");

    let stops = fails(path, &["dump", "file:data"], b"");
    assert!(stops.contains("damaged") || stops.contains("corrupt") || stops.contains("checksum"), "{stops}");
    let kept: Pairs =
        pairs.into_iter().filter(|(key, _)| !(from.as_bytes()..to.as_bytes()).contains(&&key[..])).collect();
    assert!(kept.len() > 19_500, "{} keys are left", kept.len());
    let saved = succeeds(path, &["dump", "file:data", "--salvage"], b"");
    assert!(saved == dump_of("t", &kept) + &dump_of("u", &numbered(10)), "not what is left of it");
}
