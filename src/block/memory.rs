//! `mem:SIZE`: a device in memory, which can be as slow, as volatile and as faulty as real ones.
//!
//! There is one: [`MemoryDevice`] is the namespace of small programs, the oracle of the tests of
//! other devices, and the disk of the [simulation](crate::sim).
//!
//! | file | what |
//! |---|---|
//! | `chunks` | bytes of which most were never written |
//! | `medium` | blocks with a volatile cache in front, and what a power cut leaves |
//! | `file_system` | what is below it, and may be full |
//! | `state` | what is in flight, faults, power |
//! | `namespace` | a core's handle: turns, latency, statistics |
//!
//! Its state is behind a lock, which every operation takes twice for as long as it copies: the only
//! device of which that is true.

mod chunks;
mod fault;
mod file_system;
mod medium;
mod namespace;
mod options;
mod state;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use super::{Device, NamespaceInfo};
use crate::error::{Error, ErrorKind, Result};
use crate::user_code;

pub use fault::Fault;
pub use namespace::MemoryNamespace;
pub use options::{MemoryOptions, TrimLeaves};
use state::DeviceState;

/// A device in memory. Clones share it: it outlives the cores and the simulated machines that use
/// it, as a disk does.
#[derive(Clone)]
pub struct MemoryDevice(Arc<DeviceShared>);

struct DeviceShared {
    info: NamespaceInfo,
    options: MemoryOptions,
    state: Mutex<DeviceState>,
}

impl MemoryDevice {
    /// A device of zeros that behaves as `options` say. `name` is for messages.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the options contradict each other.
    pub fn open(name: impl Into<String>, options: MemoryOptions) -> Result<Self> {
        let info = options.info(name.into())?;
        let state = Mutex::new(DeviceState::new(&options));
        Ok(Self(Arc::new(DeviceShared { info, options, state })))
    }

    /// What [`attach`](Device::attach) gives, also outside of a core and of a removed device.
    pub fn namespace(&self) -> MemoryNamespace {
        MemoryNamespace::of(self.clone())
    }

    fn options(&self) -> &MemoryOptions {
        &self.0.options
    }

    fn size_bytes(&self) -> u64 {
        self.with(|state| state.size_bytes)
    }

    /// Calls `change` with the state; what it wakes is woken after that.
    fn with<T>(&self, change: impl FnOnce(&mut DeviceState) -> T) -> T {
        // Nothing panics half way through a change of it but for a defect; what is there then is as
        // good as what a device holds after one.
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut state);
        let woken = std::mem::take(&mut state.woken);
        drop(state);
        user_code::wake_all(woken);
        changed
    }

    /// Replaces the device's faults with `faults`. Commands are counted from here. Without any, the
    /// device works again.
    pub fn inject(&self, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().collect();
        self.with(|state| state.set_faults(faults));
    }

    /// The processes that use it end. What they had written stays where it is, a write in flight
    /// arrives or does not, and there are no faults any more.
    pub fn kill(&self) {
        self.with(DeviceState::kill);
    }

    /// The power fails, and is back at once. Of what was not durable, each atomic unit that was
    /// written is there or is not, in any combination. Whatever was in flight fails, and there are
    /// no faults any more.
    pub fn power_loss(&self) {
        self.with(DeviceState::cut_power);
    }

    /// The power is back after [`Fault::cuts_power`], or the device after [`remove`](Self::remove).
    pub fn power_on(&self) {
        self.with(DeviceState::power_on);
    }

    /// Takes the device away. Whatever is in flight fails, and everything after it.
    pub fn remove(&self) {
        self.with(DeviceState::remove);
    }

    /// Flips one bit of what is stored at `offset` (bytes), behind everybody's back.
    pub fn flip_bit(&self, offset: u64, bit: u8) {
        self.with(|state| state.alter(offset, 1, |bytes| bytes[0] ^= 1 << (bit % 8)));
    }

    /// Copies `bytes` to `offset` (bytes), behind everybody's back.
    pub fn overwrite(&self, offset: u64, bytes: &[u8]) {
        self.with(|state| state.alter(offset, bytes.len(), |stored| stored.copy_from_slice(bytes)));
    }

    /// What a read of `len` bytes at `offset` would see now.
    pub fn peek(&self, offset: u64, len: usize) -> Vec<u8> {
        self.with(|state| state.peek(offset, len))
    }

    /// Others have `bytes` of the file system below it
    /// ([`MemoryOptions::file_system_bytes`]), or as many as the device leaves. How many they have.
    pub fn others_have(&self, bytes: u64) -> u64 {
        self.with(|state| state.file_system.as_mut().map_or(0, |below| below.others_have(bytes)))
    }

    /// What it takes of the file system below it, in bytes.
    pub fn taken_bytes(&self) -> u64 {
        self.with(|state| state.file_system.as_ref().map_or(0, |below| below.taken_bytes()))
    }

    /// How many commands were completed.
    pub fn operations(&self) -> u64 {
        self.with(|state| state.operations())
    }
}

impl Device for MemoryDevice {
    type Namespace = MemoryNamespace;

    fn info(&self) -> &NamespaceInfo {
        &self.0.info
    }

    async fn attach(&self) -> Result<MemoryNamespace> {
        if self.with(|state| state.is_removed()) {
            return Err(Error::new(ErrorKind::Closed, "attach")
                .at(self.info().name.clone())
                .because("the device was removed: open it again once it is back"));
        }
        Ok(self.namespace())
    }
}

impl std::fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDevice").field("info", self.info()).finish_non_exhaustive()
    }
}
