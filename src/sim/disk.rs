//! The disk of a simulated machine.

use std::ops::Deref;

use crate::block::{MemoryDevice, MemoryNamespace, MemoryOptions, namespace_by_its_field};

/// A [`MemoryDevice`] together with a namespace of it: its time is that of the core that uses it,
/// which is virtual in a simulation, and its seed decides the rest.
///
/// It outlives the executors that use it, as a disk outlives processes.
#[derive(Clone, Debug)]
pub struct Disk {
    device: MemoryDevice,
    namespace: MemoryNamespace,
}

impl Disk {
    /// A disk of zeros. `seed` decides latencies, and what power failures and other faults take.
    ///
    /// # Panics
    ///
    /// If the options contradict each other.
    #[track_caller]
    pub fn new(options: MemoryOptions, seed: u64) -> Self {
        let device = match MemoryDevice::open("sim:disk", options.seed(seed)) {
            Ok(device) => device,
            Err(error) => panic!("{error}"),
        };
        let namespace = device.namespace();
        Self { device, namespace }
    }

    /// The same disk, for another executor: the machine after a restart.
    #[must_use]
    pub fn attach_again(&self) -> Self {
        Self { device: self.device.clone(), namespace: self.device.namespace() }
    }
}

impl Deref for Disk {
    type Target = MemoryDevice;

    fn deref(&self) -> &MemoryDevice {
        &self.device
    }
}

namespace_by_its_field!(Disk, namespace);
