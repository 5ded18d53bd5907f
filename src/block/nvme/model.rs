//! A controller modelled in memory: registers, queues, namespaces with a volatile cache, and every
//! misbehaviour that the driver has to survive, in a seeded order. For tests, simulation and
//! benchmarks.
//!
//! The model does something only in [`Model::step`] and its kin, and on accesses of registers. What
//! the host does against the specification it remembers ([`Model::violations`]).

mod admin;
mod disk;
mod execute;
mod machine;
mod options;
mod queues;
mod space;
mod vectors;

use std::fmt;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dma::{DmaMemory, DmaRegion, Region};
use super::registers::Registers;
use super::status::Status;
use crate::error::{Error, ErrorKind, Result};

use machine::Machine;
pub use options::{ModelNamespace, ModelOptions, Noise, Pace};

/// A controller in memory. Clones are the same controller.
#[derive(Clone)]
pub struct Model(Arc<Mutex<Machine>>);

impl Model {
    /// A controller that has power and is not enabled; `seed` decides whatever the options leave
    /// open.
    pub fn new(options: ModelOptions, seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Machine::new(options, seed))))
    }

    /// Where it is: no other controller that there is at the same time has this address.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        // A test that panicked in the middle fails anyway; what comes after it may look on.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does one thing that there is to do: fetches, executes or completes a command, or becomes
    /// ready. False if there is nothing.
    pub fn step(&self) -> bool {
        self.machine().step()
    }

    /// Does everything that there is to do, and what comes of it.
    pub fn settle(&self) {
        self.machine().settle();
    }

    /// Maps memory of this process for the controller.
    ///
    /// # Safety
    ///
    /// The `len` bytes from `ptr`, which is aligned to 4096, stay valid until [`Model::unmap`] or
    /// the end of the model, and the host uses what a command in flight names only as that
    /// command allows.
    pub unsafe fn map(&self, ptr: NonNull<u8>, len: usize) -> Region {
        // SAFETY: as the caller promises.
        unsafe { self.machine().space.map(ptr, len) }
    }

    /// Unmaps what [`Model::map`] mapped: whatever the controller does there later is a violation.
    pub fn unmap(&self, region: &Region) {
        self.machine().space.unmap(region.device_address);
    }

    /// The power fails and comes back: what was not durable may be lost, and the controller is not
    /// enabled.
    pub fn cut_power(&self) {
        self.machine().cut_power();
    }

    /// Its registers read as all ones from now on, and it does nothing any more.
    pub fn remove(&self) {
        self.machine().removed = true;
    }

    /// It is plugged in again, as after a loss of power.
    pub fn insert(&self) {
        let mut machine = self.machine();
        machine.cut_power();
        machine.removed = false;
    }

    /// It stops to work and says so (CSTS.CFS), until it is reset.
    pub fn fail(&self) {
        self.machine().fatal();
    }

    /// It does nothing any more, without a word, until it is reset; `stuck` says whether a reset
    /// helps not either.
    pub fn hang(&self, stuck: bool) {
        self.machine().hang(stuck);
    }

    /// The next command with this opcode that an I/O queue brings ends with `status` and has no
    /// effect.
    pub fn fail_next(&self, opcode: u8, status: Status) {
        self.machine().failures.push_back((opcode, status));
    }

    /// Every command that touches this block of namespace `number` ends with `status`, until that
    /// is a success.
    pub fn fail_block(&self, number: u32, block: u64, status: Status) {
        self.machine().fail_block(number, block, status);
    }

    /// It makes no I/O queues from now on, or makes them again.
    pub fn refuse_queues(&self, refuse: bool) {
        self.machine().refuses_queues = refuse;
    }

    /// Reports an asynchronous event: dword 0 of its completion.
    pub fn report_event(&self, event: u32) {
        self.machine().report_event(event);
    }

    /// Grows or shrinks namespace `number` to `blocks` (0 makes it inactive), and reports that.
    pub fn resize_namespace(&self, number: u32, blocks: u64) {
        self.machine().resize(number, blocks);
    }

    /// Formats namespace `number` with blocks of `1 << block_shift` bytes, and reports that.
    /// Nothing of what was there is left.
    pub fn format_namespace(&self, number: u32, block_shift: u32) {
        self.machine().reformat(number, block_shift);
    }

    /// It goes on after it hung, as if nothing had been.
    pub fn wake_up(&self) {
        self.machine().wake_up();
    }

    /// How many I/O queue pairs it knows.
    pub fn queue_pairs(&self) -> usize {
        // The first is the admin queue.
        self.machine().submissions.len().saturating_sub(1)
    }

    /// How many pieces of memory are mapped for it.
    pub fn mappings(&self) -> usize {
        self.machine().space.mappings()
    }

    /// Does what is to be done in a turn of a core.
    pub(super) fn turn(&self) {
        let mut machine = self.machine();
        match machine.options.pace {
            Pace::AtOnce => machine.settle(),
            Pace::Steps(most) => {
                for _ in 0..most {
                    if !machine.step() {
                        break;
                    }
                }
            }
            Pace::Alone => {}
        }
    }

    /// Changes how it misbehaves from now on.
    pub fn set_noise(&self, noise: Noise) {
        self.machine().options.noise = noise;
    }

    /// Whether an interrupt with this vector came since the last call, a spurious one perhaps.
    pub fn take_interrupt(&self, vector: u16) -> bool {
        let mut machine = self.machine();
        machine.vectors.get_mut(&vector).is_some_and(|vector| std::mem::take(&mut vector.is_new))
    }

    /// How many interrupts with this vector came.
    pub fn interrupts(&self, vector: u16) -> u64 {
        self.machine().vectors.get(&vector).map_or(0, |vector| vector.raised)
    }

    /// What becomes readable with each interrupt of `vector`, if its interrupts arrive anywhere. It
    /// stays open as long as the model.
    pub(super) fn eventfd(&self, vector: u16) -> Option<RawFd> {
        self.machine().eventfd(vector)
    }

    /// Makes that unreadable until the next interrupt.
    pub(super) fn empty(&self, vector: u16) {
        self.machine().empty(vector);
    }

    /// Whether its interrupts can be masked.
    pub(super) fn can_mask(&self) -> bool {
        self.machine().options.maskable
    }

    /// Masks a vector, or unmasks it.
    pub(super) fn set_mask(&self, vector: u16, masked: bool) {
        self.machine().set_mask(vector, masked);
    }

    /// Its function is reset from outside, if it can be.
    pub(super) fn reset_function(&self) -> bool {
        let mut machine = self.machine();
        let can_be = machine.options.function_reset;
        if can_be {
            machine.cut_power();
        }
        can_be
    }

    /// How often a core has waited for it, with nothing else to do meanwhile.
    #[cfg(test)]
    pub(super) fn pauses(&self) -> u64 {
        self.machine().pauses
    }

    /// A core waits for it. Returns whether it works beside the cores, and wants time for that.
    pub(super) fn pause(&self) -> bool {
        let mut machine = self.machine();
        machine.pauses += 1;
        machine.options.pace == Pace::Alone
    }

    /// What the host did against the specification, in words; at most 16.
    pub fn violations(&self) -> Vec<String> {
        self.machine().violations.clone()
    }

    /// How many commands of I/O queues it has executed.
    pub fn executed(&self) -> u64 {
        self.machine().executed
    }

    /// How many writes of those were to be forced to the medium (FUA).
    pub fn forced_writes(&self) -> u64 {
        self.machine().forced_writes
    }

    /// The bytes of `block` of namespace `number` as a read would give them.
    pub fn peek(&self, number: u32, block: u64) -> Vec<u8> {
        self.machine().peek(number, block)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Model")
    }
}

impl Registers for Model {
    fn read32(&self, offset: usize) -> u32 {
        self.machine().read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.machine().write32(offset, value);
    }
}

/// Unmaps and frees a region's memory when the region is dropped.
struct Keeper {
    model: Model,
    device_address: u64,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.model.machine().space.unmap(self.device_address);
    }
}

impl DmaMemory for Model {
    fn allocate(&self, len: usize) -> Result<DmaRegion> {
        let (ptr, device_address) = self.machine().space.allocate(len).ok_or_else(|| {
            Error::new(ErrorKind::OutOfMemory, "allocate DMA memory").because(format!("{len} bytes"))
        })?;
        let keeper = Keeper { model: self.clone(), device_address };
        // SAFETY: `allocate` gives zeroed memory that lives until the address is unmapped, which
        // the keeper does; besides this region only the model uses it, as a device.
        Ok(unsafe { DmaRegion::new(ptr, len, device_address, Box::new(keeper)) })
    }
}
