//! Block devices that the core asks for completions.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};

use super::current;
use super::uring::Ring;

/// A device that its core polls, until this is dropped.
#[derive(Debug)]
pub(crate) struct PolledDevice {
    reactor: Weak<Ring>,
    descriptor: RawFd,
}

impl PolledDevice {
    /// Has the current core poll `device` for the reads and writes that are not under way yet.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) if the core has no ring that polls or the driver
    /// no poll queues (`queue/io_poll` in sysfs), or the kernel's code, for one if there is no
    /// sysfs.
    pub(crate) fn new(device: &Rc<OwnedFd>, block_bytes: u32) -> io::Result<Self> {
        let reactor = current::with_ring(|ring| ring.cloned()).ok_or(io::ErrorKind::Unsupported)?;
        reactor.poll_device(device, block_bytes)?;
        Ok(Self { reactor: Rc::downgrade(&reactor), descriptor: device.as_raw_fd() })
    }
}

impl Drop for PolledDevice {
    fn drop(&mut self) {
        if let Some(reactor) = self.reactor.upgrade() {
            reactor.stop_polling(self.descriptor);
        }
    }
}
