//! House rules as a test: layers, where unsafe code may be, file sizes, names, leftovers.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the bottom up; a module may use those of lower rank, and itself.
const LAYERS: [(&str, u32); 14] = [
    ("error", 0),
    ("mem", 1),
    ("rt", 2),
    ("inspect", 4),
    ("net", 3),
    ("block", 3),
    ("thread", 3),
    ("blocking", 4),
    ("compat", 4),
    ("store", 4),
    ("redis", 5),
    ("sim", 6),
    ("sys", 0),
    ("bin", 7),
];

const MAX_LINES: usize = 1000;

struct Source {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directories: &[&str]) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut pending: Vec<PathBuf> = directories.iter().map(|directory| root().join(directory)).collect();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending
                .extend(fs::read_dir(&path).expect("readable").map(|entry| entry.expect("readable").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("readable");
            let path = path.strip_prefix(root()).expect("under the root").display().to_string();
            sources.push(Source { path, text });
        }
    }
    assert!(!sources.is_empty(), "no sources found");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// The part of a file before its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// The identifier that `text` starts with.
fn first_name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn layers_point_down() {
    let rank = |module: &str| LAYERS.iter().find(|(name, _)| *name == module).map(|(_, rank)| *rank);
    let mut problems = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !is_test_file(&source.path)) {
        let own = source.path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        if own == "lib" {
            continue;
        }
        let Some(own_rank) = rank(own) else {
            problems.push(format!(
                "{}: `{own}` is in no layer; add it to this test and to docs/architecture.md",
                source.path
            ));
            continue;
        };
        for (number, line) in without_tests(&source.text).lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            let used = line.split("crate::").skip(1).flat_map(|used| match used.strip_prefix('{') {
                // `use crate::{a, b::C}`
                Some(group) => group.split(", ").map(first_name).collect(),
                None => vec![first_name(used)],
            });
            for used in used {
                if let Some(used_rank) = rank(used)
                    && used != own
                    && used_rank >= own_rank
                {
                    problems.push(format!(
                        "{}:{}: `{own}` uses `{used}`, which is not below it",
                        source.path,
                        number + 1
                    ));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn unsafe_code_is_only_where_the_inventory_says() {
    let inventory = fs::read_to_string(root().join("docs/unsafe.md")).expect("docs/unsafe.md");
    let mut allowed: Vec<String> = Vec::new();
    for row in inventory.lines().filter(|line| line.starts_with("| `")) {
        let cell = row.trim_start_matches('|').split('|').next().unwrap_or_default();
        allowed.extend(cell.split('`').skip(1).step_by(2).map(|name| name.trim_end_matches('*').to_owned()));
    }
    let mut problems = Vec::new();
    for source in sources(&["src", "examples"]).iter().filter(|source| !is_test_file(&source.path)) {
        let path = source.path.trim_start_matches("src/");
        let uses_unsafe = without_tests(&source.text).lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn")
        });
        if uses_unsafe && !allowed.iter().any(|name| path.starts_with(name.as_str())) {
            problems.push(format!("{path}: unsafe code, but docs/unsafe.md does not name it"));
        }
    }
    report(&problems);
}

#[test]
fn time_and_randomness_come_in_from_outside() {
    let sources_of_them = [
        "Instant::now()",
        "SystemTime::now()",
        "UNIX_EPOCH.elapsed()",
        "clock_gettime",
        "thread::sleep",
        "getrandom",
        "thread_rng",
        "rand::rng()",
        "rand::random",
        "OsRng",
        "from_os_rng",
        "from_entropy",
        "RandomState",
    ];
    let mut problems = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| !is_test_file(&source.path)) {
        // The command line is the outside, and these are the clock and the seed that it, or another program, gives to the rest by name.
        let outside = ["src/rt/time.rs", "src/rt/machine.rs"];
        if source.path.starts_with("src/bin/") || outside.contains(&source.path.as_str()) {
            continue;
        }
        for (number, line) in without_tests(&source.text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(found) = sources_of_them.iter().find(|name| code.contains(**name)) {
                problems.push(format!("{}:{}: {found}", source.path, number + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn files_are_one_idea_and_say_what_it_is() {
    let mut problems = Vec::new();
    for source in sources(&["src", "tests", "examples", "sys"]) {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            problems.push(format!("{}: {lines} lines; past {MAX_LINES} a file is two ideas", source.path));
        }
        let generated_tests = source.path.ends_with("/tests.rs") || source.path.ends_with("/tests/mod.rs");
        if !source.text.starts_with("//!") && !generated_tests {
            problems.push(format!("{}: the first line says what the file is (`//! …`)", source.path));
        }
        let stem = Path::new(&source.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if ["util", "utils", "common", "helpers", "misc"].contains(&stem) {
            problems.push(format!("{}: a name that says nothing", source.path));
        }
    }
    report(&problems);
}

#[test]
fn nothing_is_left_over() {
    // Written apart so that this file does not find itself.
    let markers = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("dbg", "!(")];
    let mut problems = Vec::new();
    for source in sources(&["src", "tests", "examples", "sys"]) {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(marker) = markers.iter().find(|marker| line.contains(**marker)) {
                problems.push(format!("{}:{}: {marker}", source.path, number + 1));
            }
        }
    }
    report(&problems);
}
