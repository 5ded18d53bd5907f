//! Runs of `boson bench`.

use std::path::Path;
use std::process::{Command, Output};

/// A benchmark that this file is about: what stands between `boson` and its arguments.
pub(super) struct Bench(pub(super) &'static [&'static str]);

impl Bench {
    pub(super) fn run(&self, directory: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_boson"));
        command.args(self.0).args(arguments).current_dir(directory);
        command.output().expect("boson starts")
    }

    /// What it printed.
    pub(super) fn succeeds(&self, directory: &Path, arguments: &[&str]) -> String {
        let output = self.run(directory, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What it said instead.
    pub(super) fn fails(&self, directory: &Path, arguments: &[&str]) -> String {
        let output = self.run(directory, arguments);
        assert!(!output.status.success(), "{arguments:?} succeeds");
        String::from_utf8(output.stderr).expect("UTF-8")
    }
}
