//! A device's registers: a window of its memory, mapped into this process.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The registers of a device: its first base address register (BAR 0). Cheap to clone, and usable
/// by any thread.
///
/// Each access is one load or store of its width that the compiler neither repeats nor leaves out.
/// What this thread wrote to memory before it writes a register is visible to the device that acts
/// upon it, and what it reads from memory after it has read a register is not older than that.
///
/// Registers are little-endian; the values here are the processor's numbers.
///
/// # Where there is no register
///
/// What lies outside of the window, or is not aligned to its width, behaves as on the bus: it reads
/// as all ones, and what is written there is lost. So does all of a device that was removed: see
/// [`Registers::REMOVED`].
#[derive(Clone)]
pub struct Registers(Arc<Window>);

/// The mapping. It keeps the device's file open by itself.
struct Window {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the window is no memory of Rust's, is mapped until this is dropped, and is accessed only
// by volatile loads and stores of registers, which hardware takes from any thread in some order.
unsafe impl Send for Window {}
// SAFETY: as above; there is nothing else to share.
unsafe impl Sync for Window {}

impl Registers {
    /// What any 32-bit register of a device reads as that is no longer there.
    pub const REMOVED: u32 = u32::MAX;

    /// Maps `len` bytes at `offset` of the device's descriptor.
    pub(super) fn map(device: BorrowedFd<'_>, offset: u64, len: usize) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a mapping at an address of the kernel's choice touches no existing memory.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, device, offset) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
        Ok(Self(Arc::new(Window { base, len })))
    }

    /// How long the window is, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.0.len
    }

    /// The address of a register of type `T` at `offset`; `None` where there is none.
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        if end > self.0.len || !offset.is_multiple_of(align_of::<T>()) {
            return None;
        }
        // SAFETY: `offset` is within the mapping, as was just checked.
        Some(unsafe { self.0.base.add(offset) }.cast::<T>().as_ptr())
    }

    /// Reads the 32-bit register at `offset` (bytes).
    #[inline]
    pub fn read32(&self, offset: usize) -> u32 {
        let Some(register) = self.at::<u32>(offset) else { return u32::MAX };
        // SAFETY: `at` gives an aligned address inside the window, which is mapped for reading
        // while `self` lives.
        let value = unsafe { register.read_volatile() };
        fence(Ordering::Acquire);
        u32::from_le(value)
    }

    /// Writes the 32-bit register at `offset` (bytes).
    #[inline]
    pub fn write32(&self, offset: usize, value: u32) {
        let Some(register) = self.at::<u32>(offset) else { return };
        before_a_register();
        // SAFETY: `at` gives an aligned address inside the window, which is mapped for writing
        // while `self` lives. What the device does to memory thereupon is bounded by what was
        // mapped for it, which is the promise of whoever mapped it.
        unsafe { register.write_volatile(value.to_le()) };
    }

    /// Reads the 64-bit register at `offset` (bytes) at once.
    #[inline]
    pub fn read64(&self, offset: usize) -> u64 {
        let Some(register) = self.at::<u64>(offset) else { return u64::MAX };
        // SAFETY: as in `read32`.
        let value = unsafe { register.read_volatile() };
        fence(Ordering::Acquire);
        u64::from_le(value)
    }

    /// Writes the 64-bit register at `offset` (bytes) at once.
    #[inline]
    pub fn write64(&self, offset: usize, value: u64) {
        let Some(register) = self.at::<u64>(offset) else { return };
        before_a_register();
        // SAFETY: as in `write32`.
        unsafe { register.write_volatile(value.to_le()) };
    }
}

/// Orders what this thread wrote to memory before what it writes to a register next.
#[inline]
fn before_a_register() {
    // On x86 the processor keeps the order of stores, and only the compiler has to be told. On
    // others a release fence orders memory among processors but not towards a device, which takes
    // the strongest that there is.
    if cfg!(target_arch = "x86_64") {
        fence(Ordering::Release);
    } else {
        fence(Ordering::SeqCst);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, with its length; nobody has the window any more.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "a device's window can be unmapped");
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registers").field("len_bytes", &self.0.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// A window of a file in memory, which a device's descriptor behaves like.
    fn window(len: usize) -> (Registers, std::os::fd::OwnedFd) {
        let file = rustix::fs::memfd_create("registers", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        rustix::fs::ftruncate(&file, 8192).expect("room");
        (Registers::map(file.as_fd(), 4096, len).expect("mapped"), file)
    }

    #[test]
    fn registers_are_little_endian_and_at_their_offset() {
        let (registers, file) = window(4096);
        registers.write32(0x14, 0x0046_0001);
        registers.write64(0x28, 0x1122_3344_5566_7788);
        let mut bytes = [0; 4];
        rustix::io::pread(&file, &mut bytes, 4096 + 0x14).expect("read");
        assert_eq!(bytes, [0x01, 0x00, 0x46, 0x00]);
        assert_eq!(registers.read32(0x28), 0x5566_7788);
        assert_eq!(registers.read64(0x28), 0x1122_3344_5566_7788);
    }

    #[test]
    fn where_no_register_is_reads_give_all_ones_and_writes_are_lost() {
        let (registers, file) = window(4096);
        for offset in [4096, 4094, 2, usize::MAX, usize::MAX - 3] {
            registers.write32(offset, 1);
            assert_eq!(registers.read32(offset), Registers::REMOVED, "{offset}");
        }
        for offset in [4092, 4096, 4, usize::MAX - 7] {
            registers.write64(offset, 1);
            assert_eq!(registers.read64(offset), u64::MAX, "{offset}");
        }
        let mut bytes = [1; 4096];
        rustix::io::pread(&file, &mut bytes, 4096).expect("read");
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
}
