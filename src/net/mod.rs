//! Networks: packet devices, the userspace stack, and one set of socket types over it and over the kernel's sockets.

pub mod device;
mod kernel;
mod tcp;

pub use tcp::{Net, TcpListener, TcpStream};
