//! Runs a program, and all that it starts, with io_uring forbidden as the seccomp profiles of
//! container runtimes forbid it:
//!
//! ```text
//! without-io-uring PROGRAM [ARGUMENT…]
//! ```
//!
//! The program finds `BOSON_TEST_IO_URING=forbidden` in its environment, so that it can check that
//! the filter is in force.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: without-io-uring PROGRAM [ARGUMENT…]");
        return ExitCode::from(2);
    };
    if let Err(error) = without_io_uring::forbid_io_uring(libc::EPERM) {
        eprintln!("without-io-uring: {error}");
        return ExitCode::FAILURE;
    }
    let error = Command::new(&program).args(arguments).env("BOSON_TEST_IO_URING", "forbidden").exec();
    eprintln!("without-io-uring: {}: {error}", program.display());
    ExitCode::FAILURE
}
