//! How a memory device behaves.

use std::time::Duration;

use super::super::NamespaceInfo;
use super::super::queue::CommandKind;
use crate::error::{Error, ErrorKind, Result};

/// The largest transfer of a device, in bytes, unless it is told otherwise.
const MAX_TRANSFER_BYTES: u32 = 1 << 20;
/// That of a [`MemoryOptions::disk`].
const DISK_MAX_TRANSFER_BYTES: u32 = 128 << 10;

/// What is left where a range was trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrimLeaves {
    /// Zeros.
    Zeros,
    /// In each block what was there, zeros, or bytes that nobody wrote.
    Anything,
}

/// What a [`MemoryDevice`](super::MemoryDevice) can do, and how long that takes.
#[derive(Clone, Debug)]
pub struct MemoryOptions {
    pub(super) size_bytes: u64,
    pub(super) max_size_bytes: u64,
    pub(super) block_size_bytes: u32,
    pub(super) max_transfer_bytes: u32,
    pub(super) optimal_boundary_bytes: u32,
    pub(super) atomic_write_bytes: u32,
    pub(super) atomic_boundary_bytes: u32,
    pub(super) volatile_cache: bool,
    pub(super) forced_unit_access: bool,
    pub(super) trim: Option<TrimLeaves>,
    pub(super) write_zeroes: bool,
    pub(super) max_compare_and_write_bytes: u32,
    pub(super) file_system_bytes: Option<u64>,
    pub(super) read_only: bool,
    pub(super) queue_depth: Option<u32>,
    pub(super) read_latency: Duration,
    pub(super) write_latency: Duration,
    pub(super) flush_latency: Duration,
    pub(super) trim_latency: Duration,
    pub(super) seed: u64,
}

impl MemoryOptions {
    /// Memory of `size_bytes` bytes in blocks of 4096: it can do everything, at once, and has no
    /// volatile cache.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            max_size_bytes: size_bytes,
            block_size_bytes: 4096,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            optimal_boundary_bytes: 0,
            atomic_write_bytes: 4096,
            atomic_boundary_bytes: 0,
            volatile_cache: false,
            forced_unit_access: true,
            trim: Some(TrimLeaves::Zeros),
            write_zeroes: true,
            max_compare_and_write_bytes: MAX_TRANSFER_BYTES,
            file_system_bytes: None,
            read_only: false,
            queue_depth: None,
            read_latency: Duration::ZERO,
            write_latency: Duration::ZERO,
            flush_latency: Duration::ZERO,
            trim_latency: Duration::ZERO,
            seed: 0,
        }
    }

    /// A plain disk of `size_bytes` bytes in blocks of 4096: it answers within 200 µs and flushes
    /// within 2 ms, has a volatile cache, tears writes between sectors of 512 bytes, transfers
    /// 128 KiB at once, and can do nothing but read, write and flush.
    pub fn disk(size_bytes: u64) -> Self {
        Self {
            max_transfer_bytes: DISK_MAX_TRANSFER_BYTES,
            atomic_write_bytes: 512,
            volatile_cache: true,
            forced_unit_access: false,
            trim: None,
            write_zeroes: false,
            max_compare_and_write_bytes: 0,
            read_latency: Duration::from_micros(200),
            write_latency: Duration::from_micros(200),
            flush_latency: Duration::from_millis(2),
            ..Self::new(size_bytes)
        }
    }

    /// With a size to which it can grow, in bytes.
    #[must_use]
    pub fn max_size_bytes(self, max_size_bytes: u64) -> Self {
        Self { max_size_bytes, ..self }
    }

    /// With another block size, in bytes: a power of two from 512 to 65536.
    #[must_use]
    pub fn block_size_bytes(self, block_size_bytes: u32) -> Self {
        Self { block_size_bytes, ..self }
    }

    /// With another largest transfer, in bytes: whole blocks. Larger operations are divided.
    #[must_use]
    pub fn max_transfer_bytes(self, max_transfer_bytes: u32) -> Self {
        Self { max_transfer_bytes, ..self }
    }

    /// Divides transfers at multiples of this many bytes, whole blocks; 0 for none.
    #[must_use]
    pub fn optimal_boundary_bytes(self, optimal_boundary_bytes: u32) -> Self {
        Self { optimal_boundary_bytes, ..self }
    }

    /// With another unit that a power cut leaves either old or new, in bytes: a power of two from
    /// 512 on.
    #[must_use]
    pub fn atomic_write_bytes(self, atomic_write_bytes: u32) -> Self {
        Self { atomic_write_bytes, ..self }
    }

    /// Writes are not atomic across multiples of this many bytes; 0 for none.
    #[must_use]
    pub fn atomic_boundary_bytes(self, atomic_boundary_bytes: u32) -> Self {
        Self { atomic_boundary_bytes, ..self }
    }

    /// Whether writes are durable only once they are flushed.
    #[must_use]
    pub fn volatile_cache(self, volatile_cache: bool) -> Self {
        Self { volatile_cache, ..self }
    }

    /// Whether a write can be durable by itself, past the cache.
    #[must_use]
    pub fn forced_unit_access(self, forced_unit_access: bool) -> Self {
        Self { forced_unit_access, ..self }
    }

    /// What a trim leaves; with `None` it does nothing, and the device says so.
    #[must_use]
    pub fn trim(self, trim: impl Into<Option<TrimLeaves>>) -> Self {
        Self { trim: trim.into(), ..self }
    }

    /// Whether zeros are a command of the device.
    #[must_use]
    pub fn write_zeroes(self, write_zeroes: bool) -> Self {
        Self { write_zeroes, ..self }
    }

    /// The longest compare-and-write, in bytes; 0 for none.
    #[must_use]
    pub fn max_compare_and_write_bytes(self, max_compare_and_write_bytes: u32) -> Self {
        Self { max_compare_and_write_bytes, ..self }
    }

    /// With a file system below it, as a file has: what is written first, or first after a trim,
    /// takes its blocks from these bytes, of which others may take some
    /// ([`MemoryDevice::others_have`](super::MemoryDevice::others_have)).
    #[must_use]
    pub fn file_system_bytes(self, bytes: impl Into<Option<u64>>) -> Self {
        Self { file_system_bytes: bytes.into(), ..self }
    }

    /// Whether it may only be read.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    /// How many commands of one core it works on at once; `None` for any number. The others wait
    /// their turn.
    #[must_use]
    pub fn queue_depth(self, queue_depth: impl Into<Option<u32>>) -> Self {
        Self { queue_depth: queue_depth.into(), ..self }
    }

    /// The longest that a read takes; how long each takes is drawn evenly from zero on.
    #[must_use]
    pub fn read_latency(self, read_latency: Duration) -> Self {
        Self { read_latency, ..self }
    }

    /// The longest that a write, or a compare-and-write, takes.
    #[must_use]
    pub fn write_latency(self, write_latency: Duration) -> Self {
        Self { write_latency, ..self }
    }

    /// The longest that a flush takes.
    #[must_use]
    pub fn flush_latency(self, flush_latency: Duration) -> Self {
        Self { flush_latency, ..self }
    }

    /// The longest that a trim, or a command that makes zeros, takes.
    #[must_use]
    pub fn trim_latency(self, trim_latency: Duration) -> Self {
        Self { trim_latency, ..self }
    }

    /// Decides latencies, and what power cuts and other faults take.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    pub(super) fn latency(&self, kind: CommandKind) -> Duration {
        match kind {
            CommandKind::Read => self.read_latency,
            CommandKind::Write { .. } | CommandKind::CompareAndWrite => self.write_latency,
            CommandKind::Flush => self.flush_latency,
            CommandKind::Trim | CommandKind::WriteZeroes => self.trim_latency,
        }
    }

    /// What the namespace is, if the options are possible.
    pub(super) fn info(&self, name: String) -> Result<NamespaceInfo> {
        self.check().map_err(|wrong| {
            Error::new(ErrorKind::InvalidInput, "open namespace").at(name.clone()).because(wrong)
        })?;
        Ok(NamespaceInfo {
            model: "memory of this process".to_owned(),
            max_size_bytes: self.max_size_bytes,
            max_transfer_bytes: self.max_transfer_bytes,
            optimal_boundary_bytes: self.optimal_boundary_bytes,
            atomic_write_bytes: self.atomic_write_bytes,
            atomic_boundary_bytes: self.atomic_boundary_bytes,
            volatile_cache: self.volatile_cache,
            forced_unit_access: self.forced_unit_access,
            trim: self.trim.is_some(),
            zeros_after_trim: self.trim == Some(TrimLeaves::Zeros),
            sparse: self.file_system_bytes.is_some(),
            write_zeroes: self.write_zeroes,
            max_compare_and_write_bytes: self.max_compare_and_write_bytes,
            read_only: self.read_only,
            ..NamespaceInfo::new(name, self.size_bytes, self.block_size_bytes)
        })
    }

    fn check(&self) -> Result<(), String> {
        let block = self.block_size_bytes;
        if !(block.is_power_of_two() && (512..=65536).contains(&block)) {
            return Err(format!("blocks of {block} bytes are none of the powers of two from 512 to 65536"));
        }
        let sizes = [self.size_bytes, self.max_size_bytes];
        if sizes.iter().any(|size| !size.is_multiple_of(block.into())) || sizes[0] > sizes[1] {
            let [size, most] = sizes;
            return Err(format!("sizes {size} to {most} in blocks of {block} bytes are not possible"));
        }
        let atomic = self.atomic_write_bytes;
        if !(atomic.is_power_of_two() && atomic >= 512) {
            return Err(format!("an atomic unit of {atomic} bytes is no power of two from 512 on"));
        }
        for (what, bytes) in [
            ("a largest transfer", self.max_transfer_bytes),
            ("an optimal boundary", self.optimal_boundary_bytes),
            ("an atomic boundary", self.atomic_boundary_bytes),
            ("a longest compare-and-write", self.max_compare_and_write_bytes),
        ] {
            if !bytes.is_multiple_of(block) {
                return Err(format!("{what} of {bytes} bytes is not whole blocks of {block} bytes"));
            }
        }
        if self.max_transfer_bytes == 0 || self.queue_depth == Some(0) {
            return Err("a device that transfers nothing is none: allow at least one block and one command"
                .to_owned());
        }
        Ok(())
    }
}
