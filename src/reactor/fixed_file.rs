//! Files and sockets that the core's ring finds in fixed-file slots.

use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use super::current;
use super::uring::{Ring, RingFeature};

/// How many slots sockets leave to files.
const SLOTS_FOR_FILES: usize = 64;

/// A file's slot in the table of its core's ring, until it is dropped.
#[derive(Debug)]
pub(crate) struct FixedFile {
    reactor: Weak<Ring>,
    slot: u16,
}

impl FixedFile {
    /// Registers `file` with the ring of the current core; `None` if there is no core or no ring,
    /// it may not, or its table is full.
    pub(crate) fn register(file: &Rc<OwnedFd>) -> Option<Self> {
        Self::register_if(RingFeature::RegisteredFiles, file, 0)
    }

    /// The same for a socket. Sockets leave slots for files.
    pub(crate) fn register_socket(socket: &Rc<OwnedFd>) -> Option<Self> {
        Self::register_if(RingFeature::RegisteredSockets, socket, SLOTS_FOR_FILES)
    }

    fn register_if(feature: RingFeature, file: &Rc<OwnedFd>, kept: usize) -> Option<Self> {
        // A read that its core has done may be told so outside of it.
        let reactor = current::ring_if_any()?;
        if !reactor.has(feature) {
            return None;
        }
        let slot = reactor.register_file(file, kept).ok()?;
        Some(Self { reactor: Rc::downgrade(&reactor), slot })
    }
}

impl Drop for FixedFile {
    fn drop(&mut self) {
        if let Some(reactor) = self.reactor.upgrade() {
            reactor.unregister_file(self.slot);
        }
    }
}
