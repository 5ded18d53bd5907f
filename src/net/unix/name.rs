//! Names of Unix sockets in the file system: taking them, also from processes that were killed, and
//! giving them back.
//!
//! bind(2) makes the name, listen(2) makes it answer, and nothing does both. So a name whose socket
//! refuses connections belongs to a process that was killed, or to one that is between the two
//! calls; and two processes that found the same abandoned name could each remove it, the second one
//! the first one's new name. So a process that takes a name holds a lock meanwhile: `flock(2)` on
//! an empty file beside the socket, `.NAME.boson-lock` (`NAME.lock` is what users of flock(1) call
//! theirs). Under the lock the name is looked at, removed if nobody answers, bound, and listened
//! on; then the file is removed and the lock with it. Nobody waits for it: its holder is
//! getting the name.
//!
//! The lock binds those who take it. A program that does not can still lose its name between its
//! bind and its listen.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, ErrorKind, Result};
use crate::fork::Process;

/// How often the file of the lock may be gone by the time that it is locked.
const MAX_ATTEMPTS: usize = 64;

/// A name in the file system that this process made for a socket. Dropping it removes the name.
///
/// It is to be dropped before its socket: while that listens nobody else takes the name, so what is
/// removed is certainly this one.
#[derive(Debug)]
pub(crate) struct Name {
    path: PathBuf,
    inode: Option<(u64, u64)>,
    process: Process,
}

impl Name {
    /// Binds `socket` to `path` and listens, for `backlog` connections. The path of a socket on
    /// which nobody listens, left behind by a process that was killed, is taken over. Errors name
    /// `operation` and the path.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a path that no socket can have;
    /// [`InUse`](ErrorKind::InUse) if somebody listens there or is about to, or it is no socket;
    /// otherwise the kernel's code.
    pub(crate) fn take(socket: &OwnedFd, path: &Path, backlog: i32, operation: &'static str) -> Result<Self> {
        let place = || path.display().to_string();
        let failed = |errno: Errno| Error::os(errno.raw_os_error(), operation).at(place());
        let address = SocketAddrUnix::new(path).map_err(failed)?;
        let _lock = Lock::take(path).map_err(|refusal| match refusal {
            Refusal::Failed(errno) => failed(errno),
            Refusal::Held => Error::os(libc::EADDRINUSE, operation)
                .at(place())
                .because("another process is taking the name at this moment"),
            Refusal::Foreign(lock) => Error::new(ErrorKind::InUse, operation).at(place()).because(format!(
                "{} is in the way: it is to be the lock of the name, an empty file",
                lock.display()
            )),
        })?;
        let bound = match rustix::net::bind(socket, &address) {
            Err(Errno::ADDRINUSE) if is_abandoned(&address, path) => {
                rustix::fs::unlink(path).map_err(failed)?;
                rustix::net::bind(socket, &address)
            }
            bound => bound,
        };
        bound.map_err(|errno| match errno {
            Errno::ADDRINUSE => failed(errno).because("another process listens there, or it is no socket"),
            _ => failed(errno),
        })?;
        let inode = rustix::fs::lstat(path).ok().map(|stat| inode(&stat));
        // From here on a failure removes the name again.
        let name = Self { path: path.to_owned(), inode, process: Process::current() };
        rustix::net::listen(socket, backlog).map_err(failed)?;
        Ok(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the name, if it is still this one. A child of a fork leaves its parent's alone.
    pub(crate) fn remove(&mut self) {
        if self.process.is_left() {
            return;
        }
        if let Some(own) = self.inode.take()
            && rustix::fs::lstat(&self.path).is_ok_and(|stat| inode(&stat) == own)
        {
            // A name that cannot be removed is taken over by the next listener.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The right to take a name.
struct Lock {
    path: PathBuf,
    _file: OwnedFd,
}

/// Why the right was not had.
enum Refusal {
    Failed(Errno),
    /// Somebody else has it.
    Held,
    /// The file of this path is something else.
    Foreign(PathBuf),
}

impl Lock {
    fn take(name: &Path) -> Result<Self, Refusal> {
        let socket = name.file_name().ok_or(Refusal::Failed(Errno::INVAL))?;
        let mut file = OsString::from(".");
        file.push(socket);
        file.push(".boson-lock");
        let path = name.with_file_name(file);
        // Neither through a link, nor waiting for the other end of a named pipe.
        let flags = OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        for _ in 0..MAX_ATTEMPTS {
            let file = match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => file,
                Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => return Err(Refusal::Foreign(path)),
                Err(errno) => return Err(Refusal::Failed(errno)),
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Refusal::Held),
                Err(errno) => return Err(Refusal::Failed(errno)),
            }
            let locked = rustix::fs::fstat(&file).map_err(Refusal::Failed)?;
            if FileType::from_raw_mode(locked.st_mode) != FileType::RegularFile || locked.st_size != 0 {
                return Err(Refusal::Foreign(path));
            }
            // The previous holder of the lock may have removed the file meanwhile, and others may
            // have locked a new one.
            if rustix::fs::lstat(&path).is_ok_and(|stat| inode(&stat) == inode(&locked)) {
                return Ok(Self { path, _file: file });
            }
        }
        Err(Refusal::Held)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked, so that nobody else's is removed. One that is left behind is locked
        // by the next.
        let _ = rustix::fs::unlink(&self.path);
    }
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Whether `path` is a socket on which nobody listens.
fn is_abandoned(address: &SocketAddrUnix, path: &Path) -> bool {
    // Connecting to a file that is no socket is refused too.
    let is_socket =
        rustix::fs::lstat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
    let refuses = || {
        let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, address)
    };
    is_socket && refuses() == Err(Errno::CONNREFUSED)
}
