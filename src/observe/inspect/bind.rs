//! A Unix socket in the file system that belongs to one user.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::net::UnixAddr;
use crate::net::unix::Name;

/// Connections that wait while another one is answered.
const BACKLOG: i32 = 16;

/// Listens at `path`, with mode 0600. A socket there on which nobody listens, left behind by a
/// process that was killed, is taken over.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, Name)> {
    const OPERATION: &str = "listen for inspection at";
    let failed = |errno: Errno| Error::os(errno.raw_os_error(), OPERATION).at(path.display().to_string());
    UnixAddr::from_path(path)?;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(failed)?;
    // Linux gives the name the mode of the socket, so it never has another one.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let name = Name::take(&socket, path, BACKLOG, OPERATION)?;
    Ok((UnixListener::from(socket), name))
}
