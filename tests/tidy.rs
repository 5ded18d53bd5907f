//! House rules as a test: layers, where unsafe code may be, file sizes, names, leftovers.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the bottom up; a module may use those of lower rank, and itself.
const LAYERS: [(&str, u32); 22] = [
    ("error", 0),
    ("sys", 0),
    ("time", 0),
    ("user_code", 0),
    ("fork", 1),
    ("mem", 1),
    ("pci_address", 1),
    ("reactor", 2),
    ("rt", 3),
    ("sync", 4),
    ("thread", 4),
    ("kernel", 5),
    ("eal", 5),
    ("net", 6),
    ("block", 6),
    ("observe", 7),
    ("blocking", 7),
    ("compat", 7),
    ("store", 7),
    ("redis", 8),
    ("sim", 9),
    ("bin", 10),
];

/// The only rooms that may know how a core does its I/O; the others have the types of `kernel`.
const KNOW_THE_REACTOR: [&str; 3] = ["reactor", "rt", "kernel"];

/// The most files that may import each other in a circle. Such files are one idea.
const MAX_CIRCLE: usize = 5;
/// Rooms in which no file imports another in a circle.
const WITHOUT_CIRCLES: [&str; 3] = ["src/redis/", "src/rt/", "src/sync/"];

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
        if path.is_dir() && !path.ends_with("target") {
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
                if used == "reactor" && !KNOW_THE_REACTOR.contains(&own) {
                    problems.push(format!(
                        "{}:{}: `{own}` uses `reactor`: use `kernel`, or what `rt` has",
                        source.path,
                        number + 1
                    ));
                }
            }
        }
    }
    report(&problems);
}

/// Imports between the files of `src`: for each file, which others it names.
mod imports {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Source, is_test_file, sources, without_tests};

    /// By the path of a file, the paths of the files that it names.
    pub(super) type Graph = BTreeMap<String, BTreeSet<String>>;

    fn module_of(path: &str) -> Vec<String> {
        let path = path.trim_start_matches("src/").trim_end_matches(".rs");
        let path = path.trim_end_matches("/mod").trim_end_matches("lib");
        path.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    /// `text` without comments.
    fn code(text: &str) -> String {
        let lines = without_tests(text).lines().map(|line| line.split("//").next().unwrap_or_default());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Every path in a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
    fn expand(tree: &str) -> Vec<String> {
        let tree = tree.trim();
        let Some((prefix, rest)) = tree.split_once('{') else {
            return vec![tree.split(" as ").next().unwrap_or_default().trim().to_owned()];
        };
        let mut depth = 0;
        let parts = rest.trim_end().trim_end_matches('}').split(|c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        let parts = parts.filter(|part| !part.trim().is_empty());
        parts.flat_map(|part| expand(&format!("{prefix}{}", part.trim()))).collect()
    }

    /// The paths that a file names, as it names them.
    fn named(code: &str) -> Vec<String> {
        let mut paths = Vec::new();
        let mut rest = String::new();
        for (number, part) in code.split("use ").enumerate() {
            let (tree, after) =
                if number == 0 { ("", part) } else { part.split_once(';').unwrap_or((part, "")) };
            paths.extend(expand(&tree.split_whitespace().collect::<Vec<_>>().join(" ")));
            rest.push_str(after);
        }
        for start in ["crate::", "super::"] {
            paths.extend(rest.match_indices(start).map(|(at, _)| {
                let path = &rest[at..];
                path.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                    .next()
                    .unwrap_or_default()
                    .to_owned()
            }));
        }
        paths
    }

    /// From the root of the crate, `path` as it is named in `module`.
    fn absolute(path: &str, module: &[String]) -> Option<Vec<String>> {
        let mut names = path.split("::").map(|name| name.trim().to_owned()).peekable();
        let mut base = match names.next()?.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            _ => return None,
        };
        while names.next_if(|name| name == "super").is_some() {
            base.pop()?;
        }
        base.extend(names);
        Some(base)
    }

    pub(super) fn graph() -> Graph {
        let sources = sources(&["src"]);
        let sources: Vec<&Source> = sources
            .iter()
            .filter(|source| !is_test_file(&source.path) && !source.path.starts_with("src/bin/"))
            .collect();
        let files: BTreeMap<Vec<String>, &str> =
            sources.iter().map(|source| (module_of(&source.path), source.path.as_str())).collect();
        let file_of =
            |path: &[String]| (1..=path.len()).rev().find_map(|len| files.get(&path[..len])).copied();
        let named_by = |source: &Source| {
            let module = module_of(&source.path);
            let paths = named(&code(&source.text));
            let files = paths.iter().filter_map(|path| file_of(&absolute(path, &module)?));
            files.filter(|file| *file != source.path).map(str::to_owned).collect()
        };
        sources.iter().map(|source| (source.path.clone(), named_by(source))).collect()
    }

    /// The files that `from` reaches over imports.
    fn reached<'a>(graph: &'a Graph, from: &str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut pending: Vec<&str> = graph.get(from).into_iter().flatten().map(String::as_str).collect();
        while let Some(file) = pending.pop() {
            if reached.insert(file) {
                pending.extend(graph.get(file).into_iter().flatten().map(String::as_str));
            }
        }
        reached
    }

    /// The circles of files that import each other.
    pub(super) fn circles(graph: &Graph) -> BTreeSet<BTreeSet<&str>> {
        let reached: BTreeMap<&str, BTreeSet<&str>> =
            graph.keys().map(|file| (file.as_str(), reached(graph, file))).collect();
        let circle = |file: &&str| -> BTreeSet<&str> {
            reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect()
        };
        reached.keys().map(circle).filter(|circle| !circle.is_empty()).collect()
    }
}

#[test]
fn circles_of_imports_are_one_idea() {
    let graph = imports::graph();
    assert!(graph.values().map(|files| files.len()).sum::<usize>() > 300, "imports are found");
    let mut problems = Vec::new();
    for circle in imports::circles(&graph) {
        let free = WITHOUT_CIRCLES.iter().find(|room| circle.iter().all(|file| file.starts_with(**room)));
        if let Some(room) = free {
            problems.push(format!("in {room} no file imports another in a circle: {circle:?}"));
        } else if circle.len() > MAX_CIRCLE {
            problems.push(format!("{} files import each other in a circle: {circle:?}", circle.len()));
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

/// What happens when user code panics is decided in one module, which the others call.
#[test]
fn panics_are_caught_in_one_place() {
    const DECIDES: &str = "src/user_code.rs";
    let means = ["catch_unwind", "resume_unwind", "AssertUnwindSafe", "panic_any", "process::abort"];
    let mut problems = Vec::new();
    let mut found_where_it_belongs = 0;
    for source in sources(&["src"]).iter().filter(|source| !is_test_file(&source.path)) {
        for (number, line) in without_tests(&source.text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let Some(found) = means.iter().find(|name| code.contains(**name)) else { continue };
            if source.path == DECIDES {
                found_where_it_belongs += 1;
            } else {
                problems.push(format!("{}:{}: {found}: use `user_code`", source.path, number + 1));
            }
        }
    }
    assert!(found_where_it_belongs > 0, "the module is found");
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
        // The command line is the outside, and these are the clock and the seed that it, or another
        // program, gives to the rest by name.
        let outside = ["src/time.rs", "src/rt/machine.rs"];
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

/// Documents: where their links go.
mod documents {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::root;

    /// Every document of the project. What is built, or is none of its own, is left out.
    pub(super) fn all() -> Vec<PathBuf> {
        let mut documents = Vec::new();
        let mut pending = vec![root().to_owned()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(&directory).expect("readable") {
                let path = entry.expect("readable").path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if path.is_dir() && name != "target" && !name.starts_with('.') {
                    pending.push(path);
                } else if path.extension().is_some_and(|extension| extension == "md") {
                    documents.push(path);
                }
            }
        }
        documents.sort();
        documents
    }

    /// The lines outside of code blocks.
    fn prose(text: &str) -> impl Iterator<Item = &str> {
        let mut is_code = false;
        text.lines().filter(move |line| {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            !is_code && !is_fence
        })
    }

    /// Where links go: `](target)`, and `[name]: target` at the start of a line.
    pub(super) fn links(text: &str) -> Vec<&str> {
        let mut links = Vec::new();
        for line in prose(text) {
            links.extend(line.split("](").skip(1).filter_map(|rest| rest.split(')').next()));
            if let Some((_, target)) = line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
                links.push(target.trim());
            }
        }
        links
    }

    /// The anchors that GitHub makes of the headings of a document: lower case, spaces as hyphens,
    /// without punctuation.
    pub(super) fn anchors(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).expect("readable");
        let mut anchors: Vec<String> = Vec::new();
        for heading in prose(&text).filter(|line| line.starts_with('#')) {
            let name = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = name.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let repeated = (1..).map(|number| format!("{anchor}-{number}"));
            let free = std::iter::once(anchor.clone()).chain(repeated).find(|name| !anchors.contains(name));
            anchors.extend(free);
        }
        anchors
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let documents = documents::all();
    let mut problems = Vec::new();
    let mut checked = 0;
    for document in &documents {
        let text = fs::read_to_string(document).expect("readable");
        for link in documents::links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (path, anchor) =
                link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let directory = document.parent().expect("a file is in a directory");
            let target = if path.is_empty() { document.clone() } else { directory.join(path) };
            let shown = document.strip_prefix(root()).expect("under the root").display();
            if !target.exists() {
                problems.push(format!("{shown}: {link} does not exist"));
            } else if let Some(anchor) = anchor
                && target.extension().is_some_and(|extension| extension == "md")
                && !documents::anchors(&target).iter().any(|name| name == anchor)
            {
                problems.push(format!("{shown}: {link}: no heading has this anchor"));
            }
        }
    }
    assert!(checked > 20, "links are found");
    report(&problems);
}

/// The longest line of prose, in characters.
const MAX_PROSE: usize = 100;

/// Lines of prose in `text`, with their numbers: not those of code fences, tables and bare links,
/// and not those that have no space to break at. `prose` takes what is prose from a line.
fn prose<'a>(
    text: &'a str,
    prose: impl Fn(&'a str) -> Option<&'a str>,
) -> impl Iterator<Item = (usize, &'a str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let Some(words) = prose(line) else {
            fenced = false;
            return false;
        };
        if words.trim_start().starts_with("```") {
            fenced = !fenced;
            return false;
        }
        let words = words.trim();
        !fenced && !words.starts_with('|') && !words.starts_with("# ---") && words.contains(' ')
    })
}

#[test]
fn prose_wraps_at_100_columns() {
    let comment = |line: &str| line.trim_start().starts_with("//");
    let mut problems = Vec::new();
    let mut check = |path: &str, (number, line): (usize, &str)| {
        let columns = line.chars().count();
        if columns > MAX_PROSE {
            problems.push(format!("{path}:{}: {columns} columns of prose, {MAX_PROSE} at most", number + 1));
        }
    };
    for source in sources(&["src", "tests", "examples", "sys", "benches", "fuzz/src"]) {
        let words = |line| comment(line).then(|| line.trim_start().trim_start_matches(['/', '!']));
        prose(&source.text, words).for_each(|line| check(&source.path, line));
    }
    for entry in fs::read_dir(root().join("scripts")).expect("readable") {
        let path = entry.expect("readable").path();
        let text = fs::read_to_string(&path).expect("readable");
        let path = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        prose(&text, |line| line.trim_start().strip_prefix('#')).for_each(|line| check(&path, line));
    }
    let mut documents = 0;
    for directory in [".", "docs", "docs/experiments", "benches/peers", "fuzz"] {
        for entry in fs::read_dir(root().join(directory)).expect("readable") {
            let path = entry.expect("readable").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents += 1;
                let text = fs::read_to_string(&path).expect("readable");
                let path = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
                prose(&text, Some).for_each(|line| check(&path, line));
            }
        }
    }
    assert!(documents > 10, "documents are found");
    report(&problems);
}

#[test]
fn a_module_is_a_file_beside_its_folder() {
    let sources = sources(&["src"]);
    let folders = sources.iter().filter(|source| source.path.ends_with("/mod.rs"));
    report(
        &folders
            .map(|source| format!("{}: call it as its folder, and beside it", source.path))
            .collect::<Vec<_>>(),
    );
}
