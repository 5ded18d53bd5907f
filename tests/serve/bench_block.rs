//! `boson bench block`: what it writes it finds again, and what it must not write over it does not.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::bench::Bench;
use crate::support::server::Directory;

const BENCH: Bench = Bench(&["--log", "warn", "bench", "block"]);

fn succeeds(directory: &Path, arguments: &[&str]) -> String {
    BENCH.succeeds(directory, arguments)
}

fn fails(directory: &Path, arguments: &[&str]) -> String {
    BENCH.fails(directory, arguments)
}

const FILE: &str = "file:data?size=8M";

#[test]
fn a_second_run_checks_what_the_first_one_wrote() {
    let directory = Directory::new("bench-verify");
    let at = directory.path();
    succeeds(at, &[FILE, "--rw", "write", "--verify"]);
    let found = succeeds(at, &[FILE, "--rw", "read", "--verify"]);
    assert!(found.contains("2048 blocks checked, 0 of them never written"), "{found}");
    succeeds(at, &[FILE, "--rw", "randrw", "--verify", "--durable", "--format", "--time", "1"]);
    succeeds(at, &[FILE, "--rw", "read", "--verify", "--style", "coroutine"]);

    // One byte, a block that moved, and a block that is empty again.
    let file = OpenOptions::new().read(true).write(true).open(at.join("data")).expect("there");
    let mut block = vec![0; 4096];
    file.read_exact_at(&mut block, 40_960).expect("reads");
    file.write_all_at(&block, 81_920).expect("writes");
    file.write_all_at(b"x", 1_000_001).expect("writes");
    file.write_all_at(&[0; 4096], 4096).expect("writes");
    let wrong = fails(at, &[FILE, "--rw", "read", "--verify"]);
    assert!(wrong.contains("2 of 2048 blocks are wrong"), "{wrong}");
    assert!(wrong.contains("at 81920 it belongs elsewhere"), "{wrong}");
    assert!(wrong.contains("at 999424 its checksum is wrong"), "{wrong}");
    let output = BENCH.run(at, &[FILE, "--rw", "read", "--verify", "--json"]);
    assert!(!output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["jobs"][0]["error"], libc::EILSEQ, "as fio says it");
}

#[test]
fn it_writes_over_nothing_that_nobody_gave_up() {
    let directory = Directory::new("bench-format");
    let at = directory.path();
    // At the front, behind an empty first megabyte, in the middle of a sparse file, at its end.
    for place in [0, (1 << 20) + 5, 5 << 20, (8 << 20) - 8] {
        let path = at.join("data");
        let file = std::fs::File::create(&path).expect("made");
        file.set_len(8 << 20).expect("sparse");
        file.write_all_at(b"precious", place).expect("writes");
        let refused = fails(at, &[FILE, "--rw", "randwrite", "--time", "1"]);
        assert!(refused.contains("it is not empty") && refused.contains("--format"), "{refused}");
        let place = usize::try_from(place).expect("small");
        assert_eq!(&std::fs::read(&path).expect("there")[place..place + 8], b"precious");
    }
    // Reading it is no harm.
    succeeds(at, &[FILE, "--rw", "randread", "--time", "1", "--warm-up", "0"]);
}

#[test]
fn its_json_has_the_names_of_fio() {
    let directory = Directory::new("bench-json");
    let arguments = ["mem:16M", "--rw", "randrw", "--time", "1", "--warm-up", "0", "--json", "--cores", "0"];
    let text = succeeds(directory.path(), &arguments);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let job = &json["jobs"][0];
    for side in ["read", "write"] {
        let count = job[side]["total_ios"].as_u64().expect("a number");
        assert!(count > 0, "{text}");
        assert_eq!(job[side]["io_bytes"].as_u64(), Some(count * 4096));
        assert!(job[side]["iops"].as_f64().is_some_and(|iops| iops > 0.0), "{text}");
        assert!(job[side]["clat_ns"]["percentile"]["99.990000"].is_u64(), "{text}");
    }
    assert_eq!(job["error"], 0);
}

#[test]
fn operations_that_are_not_timed_are_counted() {
    let directory = Directory::new("bench-timed");
    let arguments =
        ["mem:16M", "--time", "1", "--warm-up", "0", "--json", "--time-every", "100", "--idle", "poll"];
    let text = succeeds(directory.path(), &arguments);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let read = &json["jobs"][0]["read"];
    let (all, timed) = (read["total_ios"].as_u64().expect("a number"), read["clat_ns"]["N"].as_u64());
    let timed = timed.expect("a number");
    assert!(timed > 0 && (90..110).contains(&(all / timed)), "{timed} of {all}");
    let number = |name: &str| read["clat_ns"][name].as_f64().expect("a number");
    assert!(number("min") <= number("mean") && number("mean") <= number("max"), "{text}");
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let directory = Directory::new("bench-wrong");
    for (arguments, says) in [
        (&["mem:16M", "--block-size", "1000"][..], "multiple of that"),
        (&["mem:16M", "--durable"][..], "--durable is about writes"),
        (&["mem:8K", "--block-size", "1M"][..], "too few"),
        (&["mem:16M", "--block-size", "18446744073709551615"][..], "blocks have 512 to"),
        (&["mem:16M", "--mix", "101"][..], "101"),
        (&["disk:/dev/sda"][..], "no namespace of kind disk:"),
        (&["blk:/dev/none"][..], "/dev/none"),
    ] {
        let error = fails(directory.path(), arguments);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}
