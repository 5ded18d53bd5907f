//! The process at the other end of a Unix socket.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::error::{Error, Result};

/// Whose process made the other end of a Unix socket (`SO_PEERCRED`, `unix(7)`): the one that
/// connected, or the one that listened, as it was at that moment. The kernel vouches for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process's number in this process's PID namespace, and `None` if it has none there. By
    /// now the process may have ended, and the number may be another's.
    pub process: Option<u32>,
    /// Its effective user's number.
    pub user: u32,
    /// Its effective group's number.
    pub group: u32,
}

impl PeerCredentials {
    /// Those of the process that `socket` is connected with.
    pub(super) fn of(socket: &OwnedFd) -> Result<Self> {
        // Not by rustix, whose process number cannot be 0, which it is across PID namespaces.
        let mut credentials = MaybeUninit::<libc::ucred>::uninit();
        let size = libc::socklen_t::try_from(size_of::<libc::ucred>()).expect("12 bytes");
        let mut len = size;
        // SAFETY: the value is valid for writes of `len` bytes, which are its size, and `len` is
        // valid for reads and writes; nobody else uses either meanwhile.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                credentials.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 || len != size {
            return Err(Error::io(std::io::Error::last_os_error(), "ask for the credentials of the peer"));
        }
        // SAFETY: the call succeeded and says that it wrote the whole value.
        let credentials = unsafe { credentials.assume_init() };
        Ok(Self {
            process: u32::try_from(credentials.pid).ok().filter(|&process| process > 0),
            user: credentials.uid,
            group: credentials.gid,
        })
    }
}
