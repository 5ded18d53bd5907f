//! The kernel's sockets, pipes and files, over whichever reactor the core has.
//!
//! The rooms above see descriptors that read and write; that some cores have an io_uring with
//! multishot requests, registered files and polled devices, and others have epoll, ends here. This
//! room decides when a connection reads ahead, when it is worth a fixed-file slot, and what becomes
//! of the bytes of a read that was dropped.

mod acceptor;
mod datagram;
mod dropped;
mod file;
mod pipe;
mod stream;
mod transfer;

pub(crate) use acceptor::Acceptor;
pub(crate) use datagram::DatagramSocket;
pub(crate) use file::{File, WriteFlags};
pub(crate) use pipe::{PipeReader, PipeWriter};
pub(crate) use stream::Stream;
pub(crate) use transfer::{Step, Transferred, from_io};

pub(crate) use crate::reactor::{COMMAND_BYTES, CommandRing, DeviceCommand, is_simulated};
