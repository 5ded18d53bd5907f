//! The controller's registers (Base 3.1): where they are and what their bits say.

use std::sync::Arc;
use std::time::Duration;

/// The registers of one controller: a mapped BAR, or a model. Offsets are in bytes from the start
/// of BAR 0 and aligned to the size of the access.
///
/// A write is ordered after everything that this thread wrote to DMA memory before it: a doorbell
/// never overtakes the entry it announces. A controller that was removed reads as all ones.
pub trait Registers {
    /// The 32-bit register at `offset`.
    fn read32(&self, offset: usize) -> u32;

    /// Sets the 32-bit register at `offset`.
    fn write32(&self, offset: usize, value: u32);

    /// The 64-bit register at `offset`, as two 32-bit reads unless the device allows one.
    fn read64(&self, offset: usize) -> u64 {
        u64::from(self.read32(offset)) | u64::from(self.read32(offset + 4)) << 32
    }

    /// Sets the 64-bit register at `offset`, its lower half first.
    fn write64(&self, offset: usize, value: u64) {
        let [low, high] = halves(value);
        self.write32(offset, low);
        self.write32(offset + 4, high);
    }
}

impl<R: Registers + ?Sized> Registers for Arc<R> {
    fn read32(&self, offset: usize) -> u32 {
        (**self).read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        (**self).write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        (**self).read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        (**self).write64(offset, value);
    }
}

/// The lower and the upper half of `value`.
pub(super) fn halves(value: u64) -> [u32; 2] {
    let bytes = value.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// Controller Capabilities (CAP).
pub(super) const CAP: usize = 0x00;
/// Version (VS).
pub(super) const VS: usize = 0x08;
/// Interrupt Mask Set (INTMS).
pub(super) const INTMS: usize = 0x0c;
/// Interrupt Mask Clear (INTMC).
pub(super) const INTMC: usize = 0x10;
/// Controller Configuration (CC).
pub(super) const CC: usize = 0x14;
/// Controller Status (CSTS).
pub(super) const CSTS: usize = 0x1c;
/// Admin Queue Attributes (AQA).
pub(super) const AQA: usize = 0x24;
/// Admin Submission Queue Base Address (ASQ).
pub(super) const ASQ: usize = 0x28;
/// Admin Completion Queue Base Address (ACQ).
pub(super) const ACQ: usize = 0x30;
/// Controller Ready Timeouts (CRTO).
pub(super) const CRTO: usize = 0x68;
/// The first doorbell (NVMe over PCIe Transport 3.1.2).
pub(super) const DOORBELLS: usize = 0x1000;

/// What a 32-bit register of an absent device reads as.
pub(super) const ALL_ONES: u32 = u32::MAX;

/// CC.EN: the controller is to process commands.
pub(super) const CC_ENABLE: u32 = 1;
/// CC.SHN: a normal shutdown is coming.
pub(super) const CC_SHUTDOWN_NORMAL: u32 = 1 << 14;
/// CC.SHN, all its bits.
pub(super) const CC_SHUTDOWN_MASK: u32 = 3 << 14;

/// CSTS.RDY: the controller processes commands.
pub(super) const CSTS_READY: u32 = 1;
/// CSTS.CFS: the controller failed and wants a reset.
pub(super) const CSTS_FATAL: u32 = 1 << 1;
/// CSTS.SHST, all its bits.
pub(super) const CSTS_SHUTDOWN_MASK: u32 = 3 << 2;
/// CSTS.SHST: the shutdown is complete.
pub(super) const CSTS_SHUTDOWN_COMPLETE: u32 = 2 << 2;

/// CC for an enabled controller: entries of 64 and 16 bytes, round robin, the NVM command set (or
/// all I/O command sets where the controller only offers that), pages of `1 << page_shift` bytes.
pub(super) fn enabled_configuration(page_shift: u32, all_command_sets: bool) -> u32 {
    let command_set = if all_command_sets { 0b110 } else { 0 };
    CC_ENABLE | command_set << 4 | (page_shift - 12) << 7 | 6 << 16 | 4 << 20
}

/// What CAP says (Base 3.1.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The most entries of an I/O queue (MQES, as a count).
    pub max_queue_entries: u32,
    /// How long becoming ready, or ceasing to be, may take (TO).
    pub timeout: Duration,
    /// Bytes from one doorbell to the next (DSTRD).
    pub doorbell_stride_bytes: usize,
    /// The NVM command set is there (CSS bit 0).
    pub nvm_command_set: bool,
    /// One or more I/O command sets are there (CSS bit 6).
    pub all_command_sets: bool,
    /// CRTO says how long becoming ready may take (CRMS bit 0).
    pub ready_timeouts: bool,
    /// Pages of the controller are between these (MPSMIN, MPSMAX), each as a power of two.
    pub page_shifts: [u32; 2],
}

impl Capabilities {
    /// What the register's value says.
    pub fn new(cap: u64) -> Self {
        let bits = |from: u32, count: u32| {
            u32::try_from(cap >> from & ((1 << count) - 1)).expect("a field has at most 16 bits")
        };
        Self {
            max_queue_entries: bits(0, 16) + 1,
            // 0 is no time at all by the letter; controllers that say it mean one unit.
            timeout: Duration::from_millis(500) * bits(24, 8).max(1),
            doorbell_stride_bytes: 4 << bits(32, 4),
            nvm_command_set: bits(37, 1) == 1,
            all_command_sets: bits(43, 1) == 1,
            ready_timeouts: bits(59, 1) == 1,
            page_shifts: [12 + bits(48, 4), 12 + bits(52, 4)],
        }
    }

    /// With what the register CRTO says, where there is one: CAP.TO has but 127 s.
    pub(super) fn with_ready_timeouts(self, crto: u32) -> Self {
        let units = crto & 0xffff;
        if !self.ready_timeouts {
            return self;
        }
        Self { timeout: self.timeout.max(Duration::from_millis(500) * units), ..self }
    }

    /// Where the tail of submission queue `queue` is written.
    pub(super) fn submission_doorbell(&self, queue: u16) -> usize {
        DOORBELLS + 2 * usize::from(queue) * self.doorbell_stride_bytes
    }

    /// Where the head of completion queue `queue` is written.
    pub(super) fn completion_doorbell(&self, queue: u16) -> usize {
        DOORBELLS + (2 * usize::from(queue) + 1) * self.doorbell_stride_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_their_bits() {
        // QEMU's: 2048 entries, 7.5 s, no stride, NVM and all command sets, 4 KiB to 64 KiB.
        let cap = 2047 | 1 << 16 | 0xf << 24 | 1 << 37 | 1 << 43 | 4 << 52;
        let read = Capabilities::new(cap);
        assert_eq!(read.max_queue_entries, 2048);
        assert_eq!(read.timeout, Duration::from_millis(7500));
        assert_eq!(read.page_shifts, [12, 16]);
        assert!(read.nvm_command_set && read.all_command_sets);
        assert_eq!(read.submission_doorbell(0), 0x1000);
        assert_eq!(read.completion_doorbell(3), 0x1000 + 7 * 4);
        let slow = Capabilities::new(cap | 1 << 59);
        assert_eq!(slow.with_ready_timeouts(0x0002_0400).timeout, Duration::from_secs(512));
        assert_eq!(read.with_ready_timeouts(0x0002_0400).timeout, read.timeout, "a reserved register");
        let strided = Capabilities::new(cap | 2 << 32);
        assert_eq!(strided.completion_doorbell(1), 0x1000 + 3 * 16);
    }
}
