//! Reading directories.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{FileType, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::run;

/// Entries that are fetched at once.
const BATCH: usize = 128;

/// The entries of a directory, without `.` and `..`.
///
/// # Errors
///
/// As for [`std::fs::read_dir`].
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn read_dir<P: AsRef<Path>>(path: P) -> io::Result<ReadDir> {
    let path = path.as_ref().to_owned();
    let rest = run("read_dir", move || std::fs::read_dir(path))?;
    Ok(ReadDir { fetched: VecDeque::new(), rest: Some(rest) })
}

/// The entries of a directory, in no order. They are fetched a hundred or so at a time.
#[derive(Debug)]
pub struct ReadDir {
    fetched: VecDeque<io::Result<DirEntry>>,
    /// `None` at the end.
    rest: Option<std::fs::ReadDir>,
}

impl Iterator for ReadDir {
    type Item = io::Result<DirEntry>;

    #[track_caller]
    fn next(&mut self) -> Option<io::Result<DirEntry>> {
        if self.fetched.is_empty() {
            let mut rest = self.rest.take()?;
            let fetched = run("read_dir", move || {
                let entries =
                    rest.by_ref().take(BATCH).map(|entry| entry.map(|entry| DirEntry(Arc::new(entry))));
                let entries: VecDeque<_> = entries.collect();
                let rest = (entries.len() == BATCH).then_some(rest);
                Ok((entries, rest))
            });
            match fetched {
                Ok(fetched) => (self.fetched, self.rest) = fetched,
                Err(error) => return Some(Err(error)),
            }
        }
        self.fetched.pop_front()
    }
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry(Arc<std::fs::DirEntry>);

impl DirEntry {
    /// The path of the directory, as it was given, with the entry's name.
    pub fn path(&self) -> PathBuf {
        self.0.path()
    }

    /// Its name in the directory.
    pub fn file_name(&self) -> OsString {
        self.0.file_name()
    }

    /// What is known of it; of a symbolic link itself.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::DirEntry::metadata`].
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn metadata(&self) -> io::Result<Metadata> {
        let entry = Arc::clone(&self.0);
        run("metadata", move || entry.metadata())
    }

    /// Whether it is a file, a directory or something else. Most file systems said so already;
    /// others are asked.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::DirEntry::file_type`].
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn file_type(&self) -> io::Result<FileType> {
        let entry = Arc::clone(&self.0);
        run("file_type", move || entry.file_type())
    }
}
