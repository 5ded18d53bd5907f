//! `boson bench store`: it checks what it reads, says what it measured, and its stress notices a
//! write that is lost.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::bench::Bench;
use crate::support::not_run;
use crate::support::server::Directory;

const BENCH: Bench = Bench(&["--log", "off", "bench", "store"]);

fn succeeds(directory: &Path, arguments: &[&str]) -> String {
    BENCH.succeeds(directory, arguments)
}

fn fails(directory: &Path, arguments: &[&str]) -> String {
    BENCH.fails(directory, arguments)
}

fn json(directory: &Path, arguments: &[&str]) -> serde_json::Value {
    let arguments = [arguments, &["--json"]].concat();
    serde_json::from_str(&succeeds(directory, &arguments)).expect("JSON")
}

const FILE: &str = "file:data";

#[test]
fn every_workload_does_what_its_name_says() {
    let directory = Directory::new("bench-store-loads");
    for (workload, kinds) in [
        ("a", &["read", "update"][..]),
        ("d", &["insert", "read"][..]),
        ("e", &["insert", "scan"][..]),
        ("f", &["modify", "read"][..]),
        ("fill-sequential", &["insert"][..]),
        ("fill-random", &["insert"][..]),
        ("overwrite", &["update"][..]),
        ("read-missing", &["missing"][..]),
        ("read-while-writing", &["read", "update"][..]),
        ("seek-random", &["seek"][..]),
        ("scan", &["scan"][..]),
        ("delete-random", &["delete"][..]),
    ] {
        let arguments = ["mem:64M", "--workload", workload, "--records", "3000", "--operations", "2000"];
        let found = json(directory.path(), &arguments);
        assert_eq!(found["operations"], 2000, "{workload}: {found}");
        let there: Vec<&String> = found["kinds"].as_object().expect("an object").keys().collect();
        assert_eq!(there, kinds, "{workload}: {found}");
        for kind in kinds {
            let side = &found["kinds"][kind];
            let number = |name: &str| side["latency_ns"][name].as_u64().expect("a number");
            assert!(number("p50") <= number("p99") && number("p99") <= number("max"), "{workload}: {side}");
            assert_eq!(Some(number("N")), side["operations"].as_u64(), "{workload}");
        }
        assert_eq!(found["wrong"], 0);
    }
}

#[test]
fn what_is_written_and_taken_is_counted() {
    let directory = Directory::new("bench-store-bytes");
    let arguments = [FILE, "--workload", "fill-random", "--records", "20000", "--batch", "100"];
    let found = json(directory.path(), &arguments);
    let number = |name: &str| found[name].as_u64().expect("a number");
    assert_eq!(number("user_bytes"), 20_000 * 116, "{found}");
    assert_eq!(number("live_bytes"), 20_000 * 116);
    assert_eq!(found["kinds"]["insert"]["operations"], 200, "a batch is one call");
    assert!(number("written_to_namespace_bytes") > number("user_bytes"), "log and pages: {found}");
    assert!(number("store_bytes") > number("live_bytes") && number("resident_bytes") > 0, "{found}");
    let text = succeeds(directory.path(), &[FILE, "--format", "--records", "1000", "--operations", "100"]);
    assert!(text.contains("operations/s") && text.contains("of the user's"), "{text}");
}

#[test]
fn a_second_run_finds_the_records_of_the_first_and_notices_one_that_changed() {
    fn run<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
        [&[FILE, "--records", "2000", "--cache", "64K"][..], arguments].concat()
    }
    let directory = Directory::new("bench-store-load");
    let at = directory.path();
    let refused = fails(at, &["file:new?size=64M", "--workload", "c", "--load", "off"]);
    assert!(refused.contains("it is empty") && refused.contains("load them first"), "{refused}");
    succeeds(at, &run(&["--workload", "a", "--operations", "1000"]));
    let refused = fails(at, &run(&["--workload", "c"]));
    assert!(refused.contains("it is not empty") && refused.contains("--load off"), "{refused}");
    let read =
        ["--workload", "c", "--distribution", "uniform", "--operations", "20000", "--load", "off", "--warm"];
    let found = json(at, &run(&read));
    assert_eq!(found["checked"], 20_000, "{found}");
    assert!(found["load_seconds"].is_null());

    // Another seed has other values, more records are not there.
    let wrong = fails(at, &run(&[&read[..], &["--seed", "2"]].concat()));
    assert!(wrong.contains("not what was written for this key"), "{wrong}");
    let more = [&[FILE, "--records", "2500"][..], &read].concat();
    let wrong = fails(at, &more);
    assert!(wrong.contains("it is not there"), "{wrong}");
}

#[test]
fn stress_passes_and_its_crashes_lose_nothing() {
    let directory = Directory::new("bench-store-stress");
    let at = directory.path();
    let stress = ["--stress", "--records", "300", "--tasks", "8"];
    let said = succeeds(at, &[&["mem:64M", "--time", "1"][..], &stress].concat());
    assert!(said.contains("no acknowledged write lost"), "{said}");
    for durability in ["sync", "interval"] {
        let crash = [FILE, "--format", "--crash=3", "--durability", durability];
        let said = succeeds(at, &[&crash[..], &stress].concat());
        assert!(said.contains("3 rounds") && said.contains("no acknowledged write lost"), "{said}");
    }
}

/// The canary: writes that are claimed to be durable and are not.
#[test]
fn stress_notices_writes_that_were_claimed_to_be_durable() {
    let directory = Directory::new("bench-store-canary");
    let arguments =
        [FILE, "--stress", "--crash=20", "--records", "300", "--durability", "none", "--claim-durable"];
    let said = fails(directory.path(), &arguments);
    assert!(said.contains("after round") && said.contains("should be"), "{said}");
}

/// What a crash leaves is cut off at its end: the log's last records.
#[test]
fn a_store_that_lost_its_log_is_noticed() {
    let directory = Directory::new("bench-store-cut");
    let at = directory.path();
    let fill =
        [FILE, "--workload", "fill-random", "--records", "5000", "--end", "abort", "--durability", "sync"];
    succeeds(at, &fill);
    let file = std::fs::OpenOptions::new().write(true).open(at.join("data")).expect("there");
    let len = file.metadata().expect("there").len();
    let zeros = vec![0; 1 << 20];
    // The superblocks stay; everything else goes.
    for place in (1 << 20..len).step_by(1 << 20) {
        let bytes = zeros.len().min(usize::try_from(len - place).expect("small"));
        file.write_all_at(&zeros[..bytes], place).expect("writes");
    }
    let read = [FILE, "--workload", "c", "--records", "5000", "--operations", "5000", "--load", "off"];
    fails(at, &read);
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let directory = Directory::new("bench-store-wrong");
    for (arguments, says) in [
        (&["mem:64M", "--workload", "g"][..], "delete-random"),
        (&["mem:64M", "--value-bytes", "4"][..], "values have 8 to"),
        (&["mem:64M", "--durability", "soon"][..], "none of none, interval, sync"),
        (&["mem:64M", "--crash=2"][..], "--stress"),
        (&["mem:64M", "--stress", "--crash=2"][..], "memory does not outlive its process"),
        (&["disk:/dev/sda"][..], "no namespace of kind disk:"),
    ] {
        let error = fails(directory.path(), arguments);
        assert!(error.contains(says), "{arguments:?}: {error}");
    }
}

#[test]
fn several_cores_share_the_work() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        not_run::not_run("a bench of a store on two cores: there is one CPU only");
        return;
    }
    let directory = Directory::new("bench-store-cores");
    for (workload, operations) in [("a", 20_000), ("d", 20_000), ("f", 20_000), ("fill-random", 5000)] {
        let operations_text = operations.to_string();
        let arguments = ["mem:128M", "--workload", workload, "--records", "5000", "--cores", "0,1"];
        let found = json(directory.path(), &[&arguments[..], &["--operations", &operations_text]].concat());
        assert_eq!(found["operations"], operations, "{workload}: {found}");
        assert_eq!((&found["wrong"], &found["cores"]), (&0.into(), &2.into()), "{workload}: {found}");
    }
    let refused = fails(directory.path(), &["mem:64M", "--cores", "0,9999"]);
    assert!(refused.contains("9999"), "{refused}");
}
