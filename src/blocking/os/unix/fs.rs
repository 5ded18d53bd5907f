//! Symbolic links and owners, with the surface of [`std::os::unix::fs`].

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::blocking::offloaded::run;

/// Makes `link` a symbolic link to `original`.
///
/// # Errors
///
/// As for [`std::os::unix::fs::symlink`].
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn symlink<P: AsRef<Path>, Q: AsRef<Path>>(original: P, link: Q) -> io::Result<()> {
    let (original, link) = (original.as_ref().to_owned(), link.as_ref().to_owned());
    run("symlink", move || std::os::unix::fs::symlink(original, link))
}

/// Changes the owner and the group of a file, or of what a symbolic link points to; `None` leaves
/// one as it is.
///
/// # Errors
///
/// As for [`std::os::unix::fs::chown`].
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn chown<P: AsRef<Path>>(path: P, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let path = path.as_ref().to_owned();
    run("chown", move || std::os::unix::fs::chown(path, uid, gid))
}

/// As [`chown`], of a symbolic link itself.
///
/// # Errors
///
/// As for [`std::os::unix::fs::lchown`].
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn lchown<P: AsRef<Path>>(path: P, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let path = path.as_ref().to_owned();
    run("lchown", move || std::os::unix::fs::lchown(path, uid, gid))
}

/// As [`chown`], of an open file.
///
/// # Errors
///
/// As for [`std::os::unix::fs::fchown`], and `EMFILE`.
///
/// # Panics
///
/// In an async task.
#[track_caller]
pub fn fchown<F: AsFd>(file: F, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let file = file.as_fd().try_clone_to_owned()?;
    run("fchown", move || std::os::unix::fs::fchown(file, uid, gid))
}
