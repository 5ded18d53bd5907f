//! The ways to open a file and to make a directory.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{File, run};

/// The ways to open a file; as [`std::fs::OpenOptions`], with what `std` has in its extension for
/// Unix.
#[derive(Clone, Debug)]
pub struct OpenOptions(std::fs::OpenOptions);

impl Default for OpenOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OpenOptions {
    /// No way to open a file yet.
    pub fn new() -> Self {
        Self(std::fs::OpenOptions::new())
    }

    /// Opens the file for reading.
    pub fn read(&mut self, read: bool) -> &mut Self {
        self.0.read(read);
        self
    }

    /// Opens the file for writing.
    pub fn write(&mut self, write: bool) -> &mut Self {
        self.0.write(write);
        self
    }

    /// Writes at the end of the file, wherever that is when a write is made.
    pub fn append(&mut self, append: bool) -> &mut Self {
        self.0.append(append);
        self
    }

    /// Empties the file when it is opened.
    pub fn truncate(&mut self, truncate: bool) -> &mut Self {
        self.0.truncate(truncate);
        self
    }

    /// Creates the file if there is none.
    pub fn create(&mut self, create: bool) -> &mut Self {
        self.0.create(create);
        self
    }

    /// Creates the file; fails if there is one.
    pub fn create_new(&mut self, create_new: bool) -> &mut Self {
        self.0.create_new(create_new);
        self
    }

    /// Sets the mode bits of a file that is created; those of the umask are taken away.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.0.mode(mode);
        self
    }

    /// Sets further flags of open(2).
    pub fn custom_flags(&mut self, flags: i32) -> &mut Self {
        self.0.custom_flags(flags);
        self
    }

    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::OpenOptions::open`].
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn open<P: AsRef<Path>>(&self, path: P) -> io::Result<File> {
        let (options, path) = (self.0.clone(), path.as_ref().to_owned());
        run("open", move || options.open(path)).map(File::from)
    }
}

/// The ways to make a directory; as [`std::fs::DirBuilder`], with what `std` has in its extension
/// for Unix.
#[derive(Clone, Copy, Debug)]
pub struct DirBuilder {
    recursive: bool,
    mode: u32,
}

impl Default for DirBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl DirBuilder {
    /// One directory, with the mode bits 0777 less the umask.
    pub fn new() -> Self {
        Self { recursive: false, mode: 0o777 }
    }

    /// With those above it that are missing; it may be there already.
    pub fn recursive(&mut self, recursive: bool) -> &mut Self {
        self.recursive = recursive;
        self
    }

    /// The mode bits of the directories, less the umask.
    pub fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    /// Makes the directory `path`.
    ///
    /// # Errors
    ///
    /// As for [`std::fs::DirBuilder::create`].
    ///
    /// # Panics
    ///
    /// In an async task.
    #[track_caller]
    pub fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        let (Self { recursive, mode }, path) = (*self, path.as_ref().to_owned());
        run("create_dir", move || std::fs::DirBuilder::new().recursive(recursive).mode(mode).create(path))
    }
}
