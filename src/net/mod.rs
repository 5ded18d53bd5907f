//! Networks: packet devices, the userspace TCP/IP stack that stands on them, the addresses that name both, and one set of
//! socket types over the stack and over the kernel's sockets.

mod accept;
pub mod address;
pub mod device;
mod kernel;
mod open;
mod remote;
pub mod stack;
mod tcp;
pub(crate) mod unix;

pub use open::NetConfig;
pub use remote::RemoteStream;
pub use tcp::{Net, TcpListener, TcpStream};
pub use unix::{PeerCredentials, UnixAddr, UnixListener, UnixStream};
