//! What the kernel says about a file or a block device: by statx(2), and in `/sys/dev/block`.
//! Where it says nothing, the cautious answer is taken.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};

use super::super::NamespaceInfo;

/// The kernel's unit of sizes in sysfs.
const SECTOR_BYTES: u64 = 512;
/// `STATX_WRITE_ATOMIC`, since Linux 6.11.
const STATX_WRITE_ATOMIC: u32 = 0x1_0000;

/// How direct I/O must be aligned, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectAlignment {
    /// Of addresses in memory.
    pub(super) memory: u32,
    /// Of offsets, and of the length of each piece of memory.
    pub(super) offset: u32,
}

/// Which writes the kernel does all or nothing of (`RWF_ATOMIC`): of a power of two bytes, aligned
/// to themselves, from `min_bytes` to `max_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AtomicWrites {
    min_bytes: u32,
    /// 0 if there are none.
    pub(super) max_bytes: u32,
}

impl AtomicWrites {
    /// Whether a write of `len` bytes at `offset` can be one.
    pub(super) fn has(self, offset: u64, len: u64) -> bool {
        (u64::from(self.min_bytes)..=u64::from(self.max_bytes)).contains(&len)
            && len.is_power_of_two()
            && offset.is_multiple_of(len)
    }
}

/// What statx(2) says about direct I/O.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DirectLimits {
    pub(super) alignment: Option<DirectAlignment>,
    pub(super) atomic: AtomicWrites,
}

impl DirectLimits {
    pub(super) fn of(file: &OwnedFd) -> Self {
        let atomic = StatxFlags::from_bits_retain(STATX_WRITE_ATOMIC);
        let wanted = StatxFlags::DIOALIGN | atomic;
        let Ok(found) = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, wanted) else {
            return Self::default();
        };
        let said = StatxFlags::from_bits_retain(found.stx_mask);
        let (memory, offset) = (found.stx_dio_mem_align, found.stx_dio_offset_align);
        let is_aligned =
            said.contains(StatxFlags::DIOALIGN) && memory.is_power_of_two() && offset.is_power_of_two();
        let (min_bytes, max_bytes) = (found.stx_atomic_write_unit_min, found.stx_atomic_write_unit_max);
        let is_atomic = said.contains(atomic) && 0 < min_bytes && min_bytes <= max_bytes;
        Self {
            alignment: is_aligned.then_some(DirectAlignment { memory, offset }),
            atomic: if is_atomic { AtomicWrites { min_bytes, max_bytes } } else { AtomicWrites::default() },
        }
    }
}

/// Whether a file system punches holes, which read as zeros, and zeroes ranges (fallocate(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Allocates {
    pub(super) holes: bool,
    pub(super) zeros: bool,
}

impl Allocates {
    pub(super) fn of(file: &OwnedFd) -> Self {
        const EXT4: i64 = 0xef53;
        const XFS: i64 = 0x5846_5342;
        const BTRFS: i64 = 0x9123_683e;
        const F2FS: i64 = 0xf2f5_2010;
        const TMPFS: i64 = 0x0102_1994;
        let Ok(system) = rustix::fs::fstatfs(file) else { return Self::default() };
        match system.f_type {
            EXT4 | XFS | BTRFS | F2FS => Self { holes: true, zeros: true },
            TMPFS => Self { holes: true, zeros: false },
            _ => Self::default(),
        }
    }
}

/// The directory of a block device in sysfs.
pub(in super::super) struct Sysfs(PathBuf);

impl Sysfs {
    /// The directory of the device that `device` is open on.
    pub(in super::super) fn of(device: &OwnedFd) -> Self {
        let number = rustix::fs::fstat(device).map_or(0, |found| found.st_rdev);
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        Self(format!("/sys/dev/block/{major}:{minor}").into())
    }

    #[cfg(test)]
    pub(super) fn at(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// An attribute of the device, or of its disk if it is a partition.
    pub(in super::super) fn text(&self, attribute: &str) -> Option<String> {
        let read = |path: &Path| std::fs::read_to_string(path).ok();
        let text = read(&self.0.join(attribute)).or_else(|| read(&self.0.join("..").join(attribute)))?;
        Some(text.trim().to_owned())
    }

    pub(in super::super) fn number(&self, attribute: &str) -> Option<u64> {
        self.text(attribute)?.parse().ok()
    }

    /// Says in `info` what the device can do.
    pub(super) fn describe(&self, info: &mut NamespaceInfo) {
        let block = info.block_size_bytes;
        let is_positive = |attribute| self.number(attribute).is_some_and(|number| number > 0);
        info.model = self.text("device/model").unwrap_or_default();
        info.volatile_cache = self.text("queue/write_cache").is_none_or(|cache| cache != "write through");
        info.forced_unit_access = info.volatile_cache && self.number("queue/fua") == Some(1);
        info.trim = is_positive("queue/discard_max_bytes");
        info.write_zeroes = is_positive("queue/write_zeroes_max_bytes");
        let bytes = |number: Option<u64>, unit: u64| {
            let bytes = number.and_then(|number| number.checked_mul(unit)).unwrap_or(0);
            u32::try_from(bytes).ok().filter(|bytes| *bytes >= block).map(|bytes| bytes / block * block)
        };
        info.optimal_boundary_bytes = bytes(self.number("queue/chunk_sectors"), SECTOR_BYTES).unwrap_or(0);
        if let Some(max) = bytes(self.number("queue/max_sectors_kb"), 1024) {
            info.max_transfer_bytes = max;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory as sysfs has for a device, with these attributes.
    fn sysfs(name: &str, attributes: &[(&str, &str)]) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("boson-sysfs-{name}-{}", std::process::id()));
        for (attribute, text) in attributes {
            let path = directory.join(attribute);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        directory
    }

    fn described(directory: &Path) -> NamespaceInfo {
        let mut info = NamespaceInfo::new("blk:/dev/x", 1 << 30, 4096);
        Sysfs::at(directory).describe(&mut info);
        info
    }

    #[test]
    fn a_device_is_what_sysfs_says() {
        let directory = sysfs(
            "full",
            &[
                ("device/model", "FAST DISK   \n"),
                ("queue/write_cache", "write back\n"),
                ("queue/fua", "1\n"),
                ("queue/discard_max_bytes", "4294966784\n"),
                ("queue/write_zeroes_max_bytes", "0\n"),
                ("queue/chunk_sectors", "256\n"),
                ("queue/max_sectors_kb", "1281\n"),
                ("sda1/partition", "1\n"),
            ],
        );
        let info = described(&directory);
        assert_eq!(info.model, "FAST DISK");
        assert!(info.volatile_cache && info.forced_unit_access && info.trim && !info.write_zeroes);
        assert_eq!((info.optimal_boundary_bytes, info.max_transfer_bytes), (128 << 10, 1280 << 10));
        // A partition has the queue of its disk.
        assert_eq!(described(&directory.join("sda1")), info);
        std::fs::write(directory.join("queue/write_cache"), "write through\n").expect("written");
        let info = described(&directory);
        assert!(!info.volatile_cache && !info.forced_unit_access, "no cache, so nothing to force");
        let _ = std::fs::remove_dir_all(directory);
    }

    #[test]
    fn where_sysfs_says_nothing_or_nonsense_nothing_is_promised() {
        let mut cautious = NamespaceInfo::new("blk:/dev/x", 1 << 30, 4096);
        cautious.volatile_cache = true;
        assert_eq!(described(Path::new("/nowhere")), cautious);
        let attributes = [
            ("queue/write_cache", ""),
            ("queue/fua", "yes"),
            ("queue/discard_max_bytes", "-1"),
            ("queue/write_zeroes_max_bytes", ""),
            ("queue/chunk_sectors", "18446744073709551615"),
            ("queue/max_sectors_kb", "1"),
        ];
        let directory = sysfs("nonsense", &attributes);
        assert_eq!(described(&directory), cautious);
        let _ = std::fs::remove_dir_all(directory);
    }

    #[test]
    fn an_atomic_write_is_a_power_of_two_aligned_to_itself() {
        let atomic = AtomicWrites { min_bytes: 4096, max_bytes: 16384 };
        assert!(atomic.has(0, 4096) && atomic.has(16384, 16384) && atomic.has(4096, 4096));
        assert!(!atomic.has(4096, 8192), "it is not aligned to itself");
        assert!(!atomic.has(0, 12288), "no power of two");
        assert!(!atomic.has(0, 32768) && !atomic.has(0, 2048) && !atomic.has(0, 0));
        assert!(!AtomicWrites::default().has(0, 0));
    }
}
