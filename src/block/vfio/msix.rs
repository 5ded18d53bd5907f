//! The table of MSI-X, as far as it is not the kernel's: the mask bit of each entry.
//!
//! Where an interrupt goes (address and data of its entry) is set up by the kernel alone, which
//! VFIO wants to be asked for it. The IOMMU keeps a device from raising interrupts that are not its
//! own, so since Linux 4.16 a process may map the table with the rest of the BAR that it lies in.
//!
//! The kernel writes an entry when its interrupt is switched on, and may when the interrupt moves
//! to another processor and when the function was reset. Each time it leaves the interrupt
//! unmasked, so that at worst more interrupts arrive than this process asked for.
//!
//! Sections are those of the PCI Express Base Specification 5.0; PCI Local Bus 3.0 has the same in
//! 6.8.

use std::fmt;
use std::os::fd::BorrowedFd;

use rustix::io::pread;

use super::registers::Registers;
use super::{MAX_BAR_BYTES, uapi};

/// The part of configuration space that capabilities of PCI lie in, in bytes.
const CONFIG_BYTES: usize = 256;
/// The status register, in it the bit that says that there are capabilities, and where the first
/// is (7.5.1.1).
const STATUS: usize = 0x06;
const HAS_CAPABILITIES: u16 = 1 << 4;
const FIRST_CAPABILITY: usize = 0x34;
/// More capabilities than this do not fit.
const MAX_CAPABILITIES: usize = 48;

/// The capability of MSI-X: its id, where its message control register and its table register are
/// in it (7.7.2), and how many bits of the latter name a BAR.
const MSIX: u8 = 0x11;
const MESSAGE_CONTROL: usize = 2;
const TABLE: usize = 4;
const BAR_BITS: u32 = 7;
/// How long an entry is, where its vector control word is, and in that the mask bit (7.7.2).
const ENTRY_BYTES: usize = 16;
const VECTOR_CONTROL: usize = 12;
const MASKED: u32 = 1;

/// Where a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// The number of its BAR.
    bar: u32,
    /// In bytes from the start of the BAR.
    offset: usize,
    entries: usize,
}

impl Place {
    /// As configuration space says; `None` if it tells of no table.
    fn read(config: &[u8; CONFIG_BYTES]) -> Option<Self> {
        let word = |at: usize| config.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
        if word(STATUS)? & HAS_CAPABILITIES == 0 {
            return None;
        }
        let mut at = usize::from(config[FIRST_CAPABILITY] & !3);
        for _ in 0..MAX_CAPABILITIES {
            let [id, next] = config.get(at..at + 2)?.try_into().ok()?;
            if at == 0 {
                return None;
            }
            if id == MSIX {
                let table = u32::from(word(at + TABLE)?) | u32::from(word(at + TABLE + 2)?) << 16;
                return Some(Self {
                    bar: table & BAR_BITS,
                    offset: usize::try_from(table & !BAR_BITS).ok()?,
                    entries: usize::from(word(at + MESSAGE_CONTROL)? & 0x7ff) + 1,
                });
            }
            at = usize::from(next & !3);
        }
        None
    }

    /// Where it ends, in bytes from the start of the BAR.
    fn end(&self) -> usize {
        self.offset.saturating_add(self.entries * ENTRY_BYTES)
    }
}

/// A device's table of MSI-X.
pub(super) struct Table {
    bar: Registers,
    place: Place,
}

impl Table {
    /// The table of a device whose BAR 0 is mapped already; `None` if it has none, or one that may
    /// not be mapped. A device works without.
    pub(super) fn find(device: BorrowedFd<'_>, bar0: &Registers) -> Option<Self> {
        let config = uapi::region_info(device, uapi::CONFIG_REGION).ok()?;
        let mut bytes = [0; CONFIG_BYTES];
        pread(device, &mut bytes, config.offset).ok().filter(|read| *read == CONFIG_BYTES)?;
        let place = Place::read(&bytes)?;
        // BARs are the first six regions.
        let region = uapi::BAR0_REGION + place.bar;
        if region >= uapi::BAR0_REGION + 6 || !uapi::maps_msix(device, region).ok()? {
            return None;
        }
        let info = uapi::region_info(device, region).ok()?;
        let len = usize::try_from(info.size.min(MAX_BAR_BYTES)).ok()?;
        if place.end() > len {
            return None;
        }
        let bar = match place.bar {
            0 => bar0.clone(),
            _ => Registers::map(device, info.offset, place.end()).ok()?,
        };
        Some(Self { bar, place })
    }

    /// The mask of a vector; `None` if there is no such vector, or no device any more.
    pub(super) fn mask(&self, vector: u32) -> Option<VectorMask> {
        let entry = usize::try_from(vector).ok().filter(|entry| *entry < self.place.entries)?;
        let at = self.place.offset + entry * ENTRY_BYTES + VECTOR_CONTROL;
        let control = self.bar.read32(at);
        (control != Registers::REMOVED).then(|| VectorMask {
            bar: self.bar.clone(),
            at,
            others: control & !MASKED,
        })
    }
}

/// The mask bit of one interrupt of MSI-X. While an interrupt is masked the device raises none, and
/// notes that it would have (6.1.4): then it raises one as soon as it is unmasked,
/// though what it was for may have been taken care of meanwhile.
///
/// It keeps the device's registers mapped.
pub struct VectorMask {
    bar: Registers,
    at: usize,
    /// The other bits of the word, which are not to be changed.
    others: u32,
}

impl VectorMask {
    /// Masks the interrupt, or unmasks it. This is one write, which is on its way when this
    /// returns: the device has it before whatever is written to it after that.
    pub fn set(&self, masked: bool) {
        self.bar.write32(self.at, self.others | if masked { MASKED } else { 0 });
    }

    /// Whether the interrupt is masked, as the device says: a read, which takes its time.
    pub fn is_set(&self) -> bool {
        self.bar.read32(self.at) & MASKED != 0
    }
}

impl fmt::Debug for VectorMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VectorMask").field("at", &self.at).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// Configuration space with capabilities at these places, each with an id, the next one and six
    /// bytes more.
    fn config(capabilities: &[(usize, u8, u8, [u8; 6])]) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        config[STATUS] = 0x10;
        config[FIRST_CAPABILITY] =
            capabilities.first().map_or(0, |first| u8::try_from(first.0).expect("small"));
        for &(at, id, next, rest) in capabilities {
            (config[at], config[at + 1]) = (id, next);
            config[at + 2..at + 8].copy_from_slice(&rest);
        }
        config
    }

    #[test]
    fn the_table_is_where_its_capability_says() {
        // As QEMU's controller has it: 65 entries at 0x2000 of BAR 0, behind another capability.
        let rest = [64, 0x80, 0x00, 0x20, 0x00, 0x00];
        let found = Place::read(&config(&[(0x60, 0x01, 0x40, [0; 6]), (0x40, MSIX, 0, rest)]));
        assert_eq!(found, Some(Place { bar: 0, offset: 0x2000, entries: 65 }));
        let rest = [0xff, 0x07, 0x04, 0x00, 0x01, 0x80];
        let found = Place::read(&config(&[(0x40, MSIX, 0, rest)])).expect("a table");
        assert_eq!(found, Place { bar: 4, offset: 0x8001_0000, entries: 2048 });
        assert_eq!(found.end(), 0x8001_8000);
    }

    #[test]
    fn what_is_no_table_is_none() {
        let table = [0; 6];
        let mut without = config(&[(0x40, MSIX, 0, table)]);
        without[STATUS] = 0;
        assert_eq!(Place::read(&without), None, "it says that it has no capabilities");
        assert_eq!(Place::read(&config(&[])), None);
        assert_eq!(Place::read(&config(&[(0x40, 0x01, 0x50, table), (0x50, 0x10, 0, table)])), None);
        assert_eq!(
            Place::read(&config(&[(0x40, 0x01, 0x50, table), (0x50, 0x10, 0x40, table)])),
            None,
            "a circle"
        );
        let mut at_the_end = config(&[(0x40, 0x01, 0xfc, table)]);
        at_the_end[0xfc] = MSIX;
        assert_eq!(Place::read(&at_the_end), None, "its table register lies outside");
    }

    #[test]
    fn a_mask_changes_one_bit_of_its_own_entry() {
        let file = rustix::fs::memfd_create("bar", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&file, 8192).expect("room");
        let bar = Registers::map(file.as_fd(), 0, 8192).expect("mapped");
        let table = Table { bar: bar.clone(), place: Place { bar: 0, offset: 0x1000, entries: 3 } };
        for word in 0..12 {
            bar.write32(0x1000 + 4 * word, 0x5500_0000);
        }
        let mask = table.mask(1).expect("an entry");
        assert!(!mask.is_set());
        mask.set(true);
        assert!(mask.is_set());
        let words =
            |changed: u32| (0..12).map(|at| if at == 7 { changed } else { 0x5500_0000 }).collect::<Vec<_>>();
        let found = || (0..12).map(|word| bar.read32(0x1000 + 4 * word)).collect::<Vec<_>>();
        assert_eq!(found(), words(0x5500_0001));
        mask.set(false);
        assert_eq!(found(), words(0x5500_0000));
        assert!(table.mask(3).is_none());
        bar.write32(0x1000 + 12, Registers::REMOVED);
        assert!(table.mask(0).is_none(), "the device is gone");
    }
}
