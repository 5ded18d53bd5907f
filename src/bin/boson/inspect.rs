//! Where servers answer `boson top`, and where that looks for them.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use boson::observe::inspect::Inspector;
use boson::rt::Handle;
use boson::{Error, Result};
use rustix::process::{Pid, getuid, test_kill_process};
use tracing::warn;

/// How many names in the runtime directory are examined at most.
const MAX_NAMES: usize = 4096;
/// The value of `--inspect` that asks for no inspector.
const NONE: &str = "none";

/// Starts the inspector of a server named `command`, at the `asked` path. Without a path it starts
/// in the runtime directory, and a failure there is no more than a warning.
pub(crate) fn start(asked: Option<&Path>, command: &str, cores: Vec<Handle>) -> Result<Option<Inspector>> {
    let program = format!("boson {command}");
    if let Some(path) = asked {
        return if path.as_os_str() == NONE {
            Ok(None)
        } else {
            Inspector::start(path, program, cores).map(Some)
        };
    }
    let started = own_directory().and_then(|directory| {
        remove_abandoned(&directory);
        let name = format!("{command}-{}.sock", std::process::id());
        Inspector::start(directory.join(name), program, cores)
    });
    Ok(started.inspect_err(|error| warn!("`boson top` will not find this process: {error}")).ok())
}

/// The one process that answers in the runtime directory.
pub(crate) fn find() -> Result<PathBuf> {
    let directory = directory();
    check(&directory)?;
    let mut found: Vec<PathBuf> =
        sockets(&directory).into_iter().filter(|path| UnixStream::connect(path).is_ok()).collect();
    found.sort();
    let refused =
        |kind, why| Error::new(kind, "find a boson process").at(directory.display().to_string()).because(why);
    match (found.pop(), found.as_slice()) {
        (Some(path), []) => Ok(path),
        (None, _) => Err(refused(
            boson::ErrorKind::NotFound,
            "none answers there: start one, or name the socket of its --inspect".to_owned(),
        )),
        (Some(path), others) => {
            let names = others.iter().chain([&path]).map(|path| format!("\n  boson top {}", path.display()));
            Err(refused(
                boson::ErrorKind::InvalidInput,
                format!("several answer there, choose one:{}", names.collect::<String>()),
            ))
        }
    }
}

/// `$XDG_RUNTIME_DIR/boson`, or `/run/boson` for root, or else a directory that belongs to the user
/// under the temporary directory.
fn directory() -> PathBuf {
    let user = getuid();
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(path) if !path.is_empty() => PathBuf::from(path).join("boson"),
        _ if user.is_root() => PathBuf::from("/run/boson"),
        _ => std::env::temp_dir().join(format!("boson-{}", user.as_raw())),
    }
}

/// The runtime directory, made if it is absent.
fn own_directory() -> Result<PathBuf> {
    let path = directory();
    match DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(unusable(&path, error)),
        _ => {}
    }
    check(&path)?;
    Ok(path)
}

/// Refuses a runtime directory in which others can make and remove names: a server there could be
/// anybody's. An absent one counts as empty.
fn check(path: &Path) -> Result<()> {
    // Not through a link: anybody may make one among the temporary files.
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|error| unusable(path, error))?,
    };
    let problem = if !found.is_dir() {
        "it is no directory".to_owned()
    } else if found.uid() != getuid().as_raw() {
        format!("it belongs to user {}, who may not be trusted", found.uid())
    } else if found.mode() & 0o022 != 0 {
        "others can write to it: chmod go-w".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(boson::ErrorKind::InvalidInput, "use the directory")
        .at(path.display().to_string())
        .because(problem))
}

fn unusable(path: &Path, error: io::Error) -> Error {
    Error::io(error, "use the directory").at(path.display().to_string())
}

fn sockets(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.take(MAX_NAMES).flatten().map(|entry| entry.path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect()
}

/// Removes the sockets of processes that were killed.
fn remove_abandoned(directory: &Path) {
    for path in sockets(directory) {
        let id = path.file_stem().and_then(|stem| stem.to_str()?.rsplit_once('-')?.1.parse().ok());
        let is_gone = id
            .and_then(Pid::from_raw)
            .is_some_and(|id| test_kill_process(id) == Err(rustix::io::Errno::SRCH));
        if is_gone && UnixStream::connect(&path).is_err() {
            // Another process may have been faster.
            let _ = fs::remove_file(&path);
        }
    }
}
