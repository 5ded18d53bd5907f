//! Files and directories with the surface of [`std::fs`], for coroutines.
//!
//! What a file holds is read and written through the core's io_uring (or, without one, on its
//! threads for blocking work). Everything else, from opening to renaming, has no asynchronous call
//! and runs on those threads ([`rt::offload`](crate::rt::offload)). On a plain thread all of it is
//! `std`'s.
//!
//! # Different from `std::fs`
//!
//! - A [`File`] belongs to its thread and is not `Send`. It becomes `std`'s by [`File::into_std`],
//!   which can fail.
//! - Those that wait for [`File::lock`] try again now and then.
//! - What `std` has in traits for Unix ([`FileExt`](std::os::unix::fs::FileExt) and others) are
//!   methods here.
//! - One read or write carries [`TRANSFER_BYTES`] at most.
//! - What was begun when a coroutine is cancelled may still take effect.
//! - [`File::metadata`] and its like open a second descriptor of the file for a moment. When that
//!   one closes, the record locks (`F_SETLK`, fcntl(2)) that this process has on the file are gone,
//!   as with any descriptor of it that closes.

mod dir;
mod file;
mod lock;
mod options;

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

pub use dir::{DirEntry, ReadDir, read_dir};
pub use file::{File, TRANSFER_BYTES};
pub use options::{DirBuilder, OpenOptions};
pub use std::fs::{FileTimes, FileType, Metadata, Permissions, TryLockError};

use super::offloaded::{cancelled, run};

/// Defines functions that are `std::fs`'s of the same name, each on a path.
macro_rules! on_a_path {
    ($($(#[$doc:meta])* $name:ident -> $output:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        ///
        #[doc = concat!("As for [`std::fs::", stringify!($name), "`].")]
        ///
        /// # Panics
        ///
        /// In an async task.
        #[track_caller]
        pub fn $name<P: AsRef<Path>>(path: P) -> io::Result<$output> {
            let path = path.as_ref().to_owned();
            run(stringify!($name), move || std::fs::$name(path))
        }
    )*};
}

on_a_path! {
    /// The absolute path without symbolic links.
    canonicalize -> PathBuf;
    /// Makes a directory.
    create_dir -> ();
    /// Makes a directory and those above it that are missing.
    create_dir_all -> ();
    /// Whether there is something at the path; an error if that cannot be known.
    exists -> bool;
    /// What is known of a file, or of what a symbolic link points to.
    metadata -> Metadata;
    /// The path in a symbolic link.
    read_link -> PathBuf;
    /// Removes an empty directory.
    remove_dir -> ();
    /// Removes a directory with everything in it.
    remove_dir_all -> ();
    /// Removes a file.
    remove_file -> ();
    /// What is known of a file or of a symbolic link itself.
    symlink_metadata -> Metadata;
}

/// Defines functions that are `std::fs`'s of the same name, each on two paths.
macro_rules! on_two_paths {
    ($($(#[$doc:meta])* $name:ident -> $output:ty;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        ///
        #[doc = concat!("As for [`std::fs::", stringify!($name), "`].")]
        ///
        /// # Panics
        ///
        /// In an async task.
        #[track_caller]
        pub fn $name<P: AsRef<Path>, Q: AsRef<Path>>(from: P, to: Q) -> io::Result<$output> {
            let (from, to) = (from.as_ref().to_owned(), to.as_ref().to_owned());
            run(stringify!($name), move || std::fs::$name(from, to))
        }
    )*};
}

on_two_paths! {
    /// Copies a file with its permissions; how many bytes it has.
    copy -> u64;
    /// Gives a file a second name.
    hard_link -> ();
    /// Renames a file or directory, replacing what has the new name.
    rename -> ();
}

/// Changes the permissions of a file or directory.
///
/// # Errors
///
/// As for [`std::fs::set_permissions`].
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn set_permissions<P: AsRef<Path>>(path: P, permissions: Permissions) -> io::Result<()> {
    let path = path.as_ref().to_owned();
    run("set_permissions", move || std::fs::set_permissions(path, permissions))
}

/// The whole of a file.
///
/// # Errors
///
/// As for [`std::fs::read`].
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn read<P: AsRef<Path>>(path: P) -> io::Result<Vec<u8>> {
    let (mut file, len) = open_with_len(path.as_ref())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len)?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The whole of a file, which is text.
///
/// # Errors
///
/// As for [`std::fs::read_to_string`].
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn read_to_string<P: AsRef<Path>>(path: P) -> io::Result<String> {
    let (mut file, len) = open_with_len(path.as_ref())?;
    let mut text = String::new();
    text.try_reserve_exact(len)?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

#[track_caller]
fn open_with_len(path: &Path) -> io::Result<(File, usize)> {
    let path = path.to_owned();
    let (file, len) = run("open", move || {
        let file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        Ok((file, len))
    })?;
    Ok((File::from(file), usize::try_from(len).unwrap_or(0)))
}

/// Makes `contents` the whole of a file, which is created if there is none.
///
/// # Errors
///
/// As for [`std::fs::write`].
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn write<P: AsRef<Path>, C: AsRef<[u8]>>(path: P, contents: C) -> io::Result<()> {
    File::create(path)?.write_all(contents.as_ref())
}
