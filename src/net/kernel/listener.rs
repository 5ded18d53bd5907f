//! Listening, and accepting connections.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::{Addresses, local_address, new_socket, peer_address, set_up};
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::kernel::{Acceptor, Stream, from_io};

/// A listening socket.
#[derive(Debug)]
pub(in crate::net) struct KernelListener {
    acceptor: Acceptor,
    local: SocketAddr,
}

impl KernelListener {
    /// Binds with `SO_REUSEADDR`, and with `SO_REUSEPORT` if `shared` so that each core can have a
    /// listener of its own.
    pub(in crate::net) fn bind(address: SocketAddr, backlog: i32, shared: bool) -> Result<Self> {
        let failed = |operation: &'static str| {
            move |errno: Errno| {
                let error = Error::os(errno.raw_os_error(), operation).at(address.to_string());
                error.outcome_is(Outcome::NotStarted)
            }
        };
        let socket = new_socket(&address).map_err(failed("open a socket for"))?;
        sockopt::set_socket_reuseaddr(&socket, true).map_err(failed("listen on"))?;
        if shared {
            sockopt::set_socket_reuseport(&socket, true).map_err(failed("listen on"))?;
        }
        rustix::net::bind(&socket, &address).map_err(failed("listen on"))?;
        rustix::net::listen(&socket, backlog).map_err(failed("listen on"))?;
        let local = local_address(&socket)?;
        Ok(Self { acceptor: Acceptor::new(socket), local })
    }

    pub(in crate::net) fn socket(&self) -> &OwnedFd {
        self.acceptor.socket()
    }

    pub(in crate::net) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(in crate::net) async fn accept(&self) -> Result<(Stream, Addresses)> {
        loop {
            let accepted = self.acceptor.accept().await.map_err(|error| from_io(&error, "accept"));
            match accepted.and_then(|socket| self.greet(socket)) {
                Err(error)
                    if error.kind() == ErrorKind::Closed
                        || matches!(error.code(), Some(libc::ECONNABORTED | libc::ENETDOWN)) =>
                {
                    // It was reset, or lost its network, while it waited to be accepted
                    // (accept(2)): nobody need hear of it.
                }
                result => return result,
            }
        }
    }

    fn greet(&self, socket: OwnedFd) -> Result<(Stream, Addresses)> {
        let peer = peer_address(&socket)?;
        // A listener on every address does not say which one this connection came to.
        let local = if self.local.ip().is_unspecified() { local_address(&socket)? } else { self.local };
        set_up(Stream::new(socket), Addresses { local, peer })
    }
}
