//! `boson bench block` on a device that never answers.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::eal_arguments;

/// Its first hundred reads stay with the device for ever.
const CONFIGURATION: &str = r#"{"subsystems":[{"subsystem":"bdev","config":[
  {"method":"bdev_malloc_create","params":{"name":"M0","num_blocks":1024,"block_size":4096}},
  {"method":"bdev_error_create","params":{"base_name":"M0"}},
  {"method":"bdev_error_inject_error",
   "params":{"name":"EE_M0","io_type":"read","error_type":"pending","num":100}},
  {"method":"bdev_wait_for_examine"}]}]}"#;

#[test]
fn a_bench_of_a_device_that_never_answers_ends_with_the_second_signal() {
    let path = std::env::temp_dir().join(format!("boson-spdk-hung-{}.json", std::process::id()));
    std::fs::write(&path, CONFIGURATION).expect("a file");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_boson"))
        .args(["--log", "error", "bench", "block", "spdk:bdev/EE_M0", "--rw", "randread"])
        .args(["--depth", "4", "--time", "1", "--warm-up", "0", "--eal", &eal_arguments()])
        .arg("--spdk-config")
        .arg(&path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let process = Pid::from_child(&bench);
    let mut lines =
        BufReader::new(bench.stderr.take().expect("piped")).lines().map(|line| line.expect("text"));
    // The measured second has long passed when the first progress is shown.
    let shown = lines.next().expect("progress");
    assert!(shown.contains("of 1 s, 0k operations/s"), "{shown}");
    kill_process(process, Signal::INT).expect("it runs");
    let waits = lines.next().expect("what it waits for");
    assert!(waits.contains("a second signal ends that"), "{waits}");
    std::thread::sleep(Duration::from_millis(300));
    assert!(bench.try_wait().expect("a child").is_none(), "it waits");
    kill_process(process, Signal::INT).expect("it runs");
    let last = lines.last().expect("why it ended");
    assert!(last.contains("the device still has operations"), "{last}");
    assert_eq!(bench.wait().expect("it ends").code(), Some(1));
    std::fs::remove_file(&path).expect("it is there");
}
