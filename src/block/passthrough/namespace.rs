//! What a core has of an NVMe namespace that the kernel's driver passes commands to.

use super::super::namespace_by_its_field;
use super::super::queue::QueueNamespace;
use super::PassthroughDevice;
use super::port::PassthroughPort;

/// An NVMe namespace, as one core uses it: a ring of its own. Clones share it.
#[derive(Clone, Debug)]
pub struct PassthroughNamespace {
    queue: QueueNamespace<PassthroughPort>,
    /// After the queue: the last of them closes it.
    _device: PassthroughDevice,
}

impl PassthroughNamespace {
    pub(super) fn attach(port: PassthroughPort, device: PassthroughDevice) -> Self {
        let queue = QueueNamespace::attach(port, device.0.info.clone());
        Self { queue, _device: device }
    }
}

namespace_by_its_field!(PassthroughNamespace, queue);
