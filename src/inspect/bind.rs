//! A Unix socket in the file system that belongs to one user.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, ErrorKind, Result};

/// Connections that wait while another one is answered.
const BACKLOG: i32 = 16;
/// The longest path of a socket (`unix(7)`: 108 bytes with the zero at its end).
const MAX_PATH_BYTES: usize = 107;

/// A name in the file system that this process made. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Name {
    path: PathBuf,
    inode: (u64, u64),
}

impl Name {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        if rustix::fs::lstat(&self.path).is_ok_and(|stat| inode(&stat) == self.inode) {
            // A name that cannot be removed is taken over by the next listener.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Listens at `path`, with mode 0600. A socket there on which nobody listens, left behind by a process that was killed, is taken
/// over.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, Name)> {
    let failed = |errno: Errno| {
        Error::os(errno.raw_os_error(), "listen for inspection at").at(path.display().to_string())
    };
    let refused = |kind, why: &'static str| {
        Error::new(kind, "listen for inspection at").at(path.display().to_string()).because(why)
    };
    let address = match SocketAddrUnix::new(path) {
        Ok(address) if (1..=MAX_PATH_BYTES).contains(&path.as_os_str().len()) => address,
        _ => {
            let why = "the path of a Unix socket has 1 to 107 bytes and no zero byte";
            return Err(refused(ErrorKind::InvalidInput, why));
        }
    };
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    // Linux gives the name the mode of the socket, so it never has another one.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    match rustix::net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            if !is_abandoned(path) {
                let why = "another process listens there, or it is no socket";
                return Err(refused(ErrorKind::InUse, why));
            }
            rustix::fs::unlink(path).map_err(failed)?;
            rustix::net::bind(&socket, &address).map_err(failed)?;
        }
        bound => bound.map_err(failed)?,
    }
    let stat = rustix::fs::lstat(path).map_err(failed)?;
    let name = Name { path: path.to_owned(), inode: inode(&stat) };
    rustix::net::listen(&socket, BACKLOG).map_err(failed)?;
    Ok((UnixListener::from(socket), name))
}

/// Whether `path` is a socket on which nobody listens.
fn is_abandoned(path: &Path) -> bool {
    rustix::fs::lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket)
        && UnixStream::connect(path).is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED))
}
