//! Networks: packet devices, the userspace TCP/IP stack that stands on them, the addresses that name both, and one set of
//! socket types over the stack and over the kernel's sockets. Beside them what connects processes of one machine: Unix sockets and
//! pipes.

mod accept;
pub mod address;
pub mod device;
mod dropped;
mod kernel;
mod open;
mod pipe;
mod remote;
pub mod stack;
mod tcp;
mod transfer;
mod udp;
pub(crate) mod unix;

pub use open::NetConfig;
pub use pipe::{PipeReader, PipeWriter, pipe};
pub use remote::RemoteStream;
pub use tcp::{Net, TcpListener, TcpStream, is_network_lost};
pub use udp::UdpSocket;
pub use unix::{PeerCredentials, UnixAddr, UnixListener, UnixStream};
