//! Mappings that hold stacks, and the guards between these.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corosensei::stack::StackPointer;
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use super::PAGE_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::user_code::contain;

/// Tops of neighbouring stacks lie at different places in their pages. Were they at the same place,
/// all stacks would compete for the same few sets of the first-level cache.
pub(super) const COLORS: usize = 8;
pub(super) const COLOR_BYTES: usize = 192;

/// Linux 6.13; not in `libc` for every target.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Stacks of this process whose guard is a mapping of its own.
pub(super) static PROTECTED: AtomicUsize = AtomicUsize::new(0);

/// How the pages under stacks are made to fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guards {
    /// By `MADV_GUARD_INSTALL`, unless the kernel does not know it.
    Install,
    /// By `mprotect`.
    Protect,
}

/// One mapping with stacks of one size, each above its guard page.
pub(super) struct Slab {
    pub(super) start: NonNull<c_void>,
    pub(super) stacks: usize,
    pub(super) stack_bytes: usize,
    /// Guards that are mappings of their own.
    pub(super) protected: std::cell::Cell<usize>,
}

impl Slab {
    /// Room for `stacks` stacks, or for as many as there is room for: at least one.
    ///
    /// # Errors
    ///
    /// The kernel's code if there is no room for one.
    pub(super) fn new(mut stacks: usize, stack_bytes: usize) -> Result<Self> {
        let (start, len) = loop {
            let len = stacks * (stack_bytes + PAGE_BYTES);
            match map(len) {
                Ok(start) => break (start, len),
                // Where the kernel does not overcommit memory (vm.overcommit_memory=2), each byte
                // counts that could be written.
                Err(Errno::NOMEM) if stacks > 1 => stacks /= 2,
                Err(errno) => {
                    return Err(Error::os(errno.raw_os_error(), "map stacks of coroutines")
                        .at(format!("{len} bytes"))
                        .because(format!(
                            "no room for {len} bytes of address space ({errno}): smaller stacks \
                             (`boson::thread::Builder::stack_size`), fewer coroutines, or a higher limit (`ulimit -v`)"
                        )));
                }
            }
        };
        let slab = Self { start, stacks, stack_bytes, protected: std::cell::Cell::new(0) };
        // A huge page would make every stack cost 2 MiB. An error means that there are none.
        // SAFETY: the range is the mapping made above, and the advice does not change what is in
        // it.
        let _ = unsafe { libc::madvise(slab.start.as_ptr(), len, libc::MADV_NOHUGEPAGE) };
        Ok(slab)
    }

    pub(super) fn len(&self) -> usize {
        self.stacks * (self.stack_bytes + PAGE_BYTES)
    }

    /// The lowest address of a stack: that of its guard.
    pub(super) fn guard(&self, index: usize) -> *mut c_void {
        assert!(index < self.stacks, "a stack is inside its slab");
        self.start.as_ptr().wrapping_byte_add(index * (self.stack_bytes + PAGE_BYTES))
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        PROTECTED.fetch_sub(self.protected.get(), Ordering::Relaxed);
        // SAFETY: the mapping is the slab's own, of this length, and every stack in it held a
        // reference to the slab.
        if let Err(errno) = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.len()) } {
            contain(|| tracing::error!("stacks could not be unmapped: {errno}"));
        }
    }
}

/// Maps memory for stacks.
fn map(len: usize) -> std::result::Result<NonNull<c_void>, Errno> {
    let (protection, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK);
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, protection, flags) }?;
    Ok(NonNull::new(start).expect("the kernel maps nothing at address zero"))
}

/// A place for a stack, with its guard.
pub(super) struct StackSlot {
    pub(super) slab: Rc<Slab>,
    pub(super) index: usize,
}

impl StackSlot {
    /// The highest address.
    fn end(&self) -> usize {
        self.slab.guard(self.index).addr() + PAGE_BYTES + self.slab.stack_bytes
    }

    /// Where the stack begins: below the highest address, by the slot's colour.
    pub(super) fn base(&self) -> StackPointer {
        let base = self.end() - self.index % COLORS * COLOR_BYTES;
        NonZeroUsize::new(base).expect("a stack is not at address zero")
    }

    /// Gives the memory back, but for `kept` bytes at the top.
    pub(super) fn discard(&self, kept: usize) {
        let len = self.slab.stack_bytes.saturating_sub(kept);
        let start = self.slab.guard(self.index).wrapping_byte_add(PAGE_BYTES);
        // SAFETY: the range is the lower part of a stack that nobody runs on: what it holds is not
        // needed any more. Should it fail, the memory stays.
        let _ = unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
    }
}

/// Makes the page under a stack fault, and returns how it was done.
pub(super) fn make_guard(slot: &StackSlot, guards: Guards) -> Result<Guards> {
    let page = slot.slab.guard(slot.index);
    if guards == Guards::Install {
        // SAFETY: the page is the lowest of a slot that nobody runs on yet, inside its slab's
        // mapping.
        if unsafe { libc::madvise(page, PAGE_BYTES, MADV_GUARD_INSTALL) } == 0 {
            return Ok(Guards::Install);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(Error::io(error, "guard a stack"));
        }
    }
    let most = max_protected();
    if PROTECTED.fetch_add(1, Ordering::Relaxed) >= most {
        PROTECTED.fetch_sub(1, Ordering::Relaxed);
        return Err(Error::new(ErrorKind::LimitReached, "guard a stack").because(format!(
            "before Linux 6.13 a guarded stack takes two mappings, so there can be {most} of them: raise the sysctl \
             vm.max_map_count"
        )));
    }
    // SAFETY: the page is the lowest of a slot that nobody runs on yet, inside its slab's mapping.
    if let Err(errno) = unsafe { rustix::mm::mprotect(page, PAGE_BYTES, MprotectFlags::empty()) } {
        PROTECTED.fetch_sub(1, Ordering::Relaxed);
        return Err(Error::os(errno.raw_os_error(), "guard a stack"));
    }
    slot.slab.protected.set(slot.slab.protected.get() + 1);
    Ok(Guards::Protect)
}

/// How many stacks may have a guard that is a mapping of its own: their two mappings each take up
/// to three quarters of all.
pub(super) fn max_protected() -> usize {
    static MOST: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *MOST.get_or_init(|| {
        let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
            .unwrap_or(65_530);
        mappings / 4 * 3 / 2
    })
}
