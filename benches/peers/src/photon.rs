//! Photon, where the environment variable `PHOTON_PEER` names the program that `photon/peer.cpp`
//! becomes.

use std::ffi::OsString;
use std::process::Command;

/// The program, if there is one.
pub fn program() -> Option<OsString> {
    std::env::var_os("PHOTON_PEER")
}

/// Runs the program with `arguments`; the numbers that it prints.
pub fn run(arguments: &[&str]) -> Vec<f64> {
    let program = program().expect("asked for only where there is one");
    let output = Command::new(program).args(arguments).output().expect("PHOTON_PEER names a program");
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(
        output.status.success() && !numbers.is_empty(),
        "photon {arguments:?} failed: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    numbers
}
