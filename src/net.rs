//! Networks: packet devices, the userspace TCP/IP stack on them, the addresses that name both, and
//! one set of socket types over the stack and over the kernel's sockets. Unix sockets and pipes
//! connect processes of one machine.
//!
//! Every core has a network. A socket uses that of its core unless the program names another one:
//!
//! ```
//! use boson::net::{TcpListener, TcpStream};
//!
//! # boson::run(async {
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let client = TcpStream::connect(listener.local_addr()).await?;
//! # drop(client);
//! # Ok::<(), boson::Error>(())
//! # })?;
//! # Ok::<(), boson::Error>(())
//! ```
//!
//! The environment variable `BOSON_NET` chooses the network, `kernel:` by default: the same program
//! runs over a TAP interface with `BOSON_NET='tap:boson0?ip=10.9.0.1/24&host=10.9.0.2/24'` and over
//! a network card with `BOSON_NET='dpdk:0000:03:00.0?ip=10.9.0.1/24'`; [`address`] has the
//! spelling. A program that chooses by itself calls [`Net::open`] and [`Net::set_current`]. One
//! with several networks names the network of each socket: [`TcpListener::bind_on`],
//! [`TcpStream::connect_on`], [`UdpSocket::bind_on`]. See [`Net::current`] for programs with
//! several cores.

pub mod address;
pub mod device;
mod kernel;
mod of_core;
mod open;
mod pipe;
mod remote;
mod resolve;
pub mod stack;
mod tcp;
mod transfer;
mod udp;
pub(crate) mod unix;

pub use open::NetConfig;
pub use pipe::{PipeReader, PipeWriter, pipe};
pub use remote::RemoteStream;
pub use resolve::ToSocketAddrs;
pub use tcp::{Net, TcpListener, TcpStream, is_network_lost};
pub use udp::UdpSocket;
pub use unix::{PeerCredentials, UnixAddr, UnixListener, UnixStream};
