//! Saying that a test, or a part of one, cannot run here.

use std::io::Write;

/// Says why a test does not run here; the caller then returns. CI has all that the tests need, so
/// there it is a failure.
///
/// The line goes to standard error, which the test harness hides, and to the file that
/// `BOSON_NOT_RUN` names, which `scripts/test` prints at its end.
pub(crate) fn not_run(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must run this test, but: {why}");
    eprintln!("NOT RUN: {why}");
    if let Some(path) = std::env::var_os("BOSON_NOT_RUN") {
        let mut file =
            std::fs::File::options().append(true).create(true).open(path).expect("a writable file");
        writeln!(file, "NOT RUN: {why}").expect("a writable file");
    }
}
