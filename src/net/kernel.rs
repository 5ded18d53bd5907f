//! TCP over the kernel.

mod listener;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

pub(super) use listener::KernelListener;

use crate::error::{Error, Outcome, Result};
use crate::kernel::Stream;

/// How long a connection is idle before the peer is asked whether it is still there, and how long
/// until it is asked again.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// How many times it is asked before the connection ends with `ETIMEDOUT`.
const KEEPALIVE_PROBES: u32 = 5;

/// Both ends of a TCP connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// Connects a new socket.
pub(super) async fn connect(address: SocketAddr) -> Result<(Stream, Addresses)> {
    let failed =
        |code: i32| Error::os(code, "connect to").at(address.to_string()).outcome_is(Outcome::NotStarted);
    let socket = new_socket(&address).map_err(|errno| failed(errno.raw_os_error()))?;
    let stream = Stream::connect(socket, &address)
        .await
        .map_err(|error| failed(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let local = local_address(stream.socket())?;
    set_up(stream, Addresses { local, peer: address })
}

/// Gives a connection the options that all have.
fn set_up(stream: Stream, addresses: Addresses) -> Result<(Stream, Addresses)> {
    let socket = stream.socket();
    let set = || {
        sockopt::set_tcp_nodelay(socket, true)?;
        // A peer that vanished is noticed, as on the userspace stack.
        sockopt::set_socket_keepalive(socket, true)?;
        sockopt::set_tcp_keepidle(socket, KEEPALIVE_AFTER)?;
        sockopt::set_tcp_keepintvl(socket, KEEPALIVE_AFTER)?;
        sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)
    };
    set().map_err(|errno| {
        Error::os(errno.raw_os_error(), "set up the socket of").at(addresses.peer.to_string())
    })?;
    Ok((stream, addresses))
}

fn new_socket(address: &SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))
}

pub(super) fn local_address(socket: &OwnedFd) -> Result<SocketAddr> {
    let address = rustix::net::getsockname(socket)
        .map_err(|errno| Error::os(errno.raw_os_error(), "read the local address"))?;
    SocketAddr::try_from(address).map_err(|errno| Error::os(errno.raw_os_error(), "read the local address"))
}

fn peer_address(socket: &OwnedFd) -> Result<SocketAddr> {
    let missing = |errno: Errno| Error::os(errno.raw_os_error(), "read the peer's address");
    let address =
        rustix::net::getpeername(socket).map_err(missing)?.ok_or_else(|| missing(Errno::NOTCONN))?;
    SocketAddr::try_from(address).map_err(missing)
}
