//! Tests in a process of their own.

use std::process::{Command, Stdio};

/// In the child: which test it runs.
const VARIABLE: &str = "BOSON_TEST_OWN_PROCESS";

/// The name of a test as the harness knows it, from the type name of a function inside the test.
pub(crate) fn test_name(inner_function: &str) -> String {
    let test = inner_function.trim_end_matches("::here");
    test.split_once("::").map_or(test, |(_, name)| name).to_owned()
}

/// The name of the test `name` in the module `module` (`module_path!()`), as the harness knows it.
pub(crate) fn named_in(module: &str, name: &str) -> String {
    test_name(&format!("{module}::{name}"))
}

/// Calls `first`, runs the test in a child process, and returns true; false in that child, which is
/// to run it now.
///
/// # Panics
///
/// If the test fails in the child.
pub(crate) fn ran_in_child(inner_function: &str, first: impl FnOnce()) -> bool {
    let name = test_name(inner_function);
    if std::env::var_os(VARIABLE).is_some_and(|test| *test == *name) {
        return false;
    }
    first();
    let output = Command::new(std::env::current_exe().expect("there is one"))
        .args(["--exact", "--include-ignored", "--nocapture", &name])
        .env(VARIABLE, &name)
        .stdin(Stdio::null())
        .output()
        .expect("a child process");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the test failed in a process of its own: {}", output.status);
    assert!(said.contains("1 passed"), "the test ran: {said}");
    true
}

#[allow(unused_macros, reason = "most test programs have no such test")]
/// The first line of a test that needs a process of its own; `after` is what the parent does before
/// it starts the child.
macro_rules! own_process {
    () => {
        own_process!(after())
    };
    (after $first:expr) => {
        fn here() {}
        let first = || {
            $first;
        };
        if crate::support::own_process::ran_in_child(std::any::type_name_of_val(&here), first) {
            return;
        }
    };
}
