//! The memory under an arena: one mapping, in hugepages where the kernel has some to give.
//!
//! Hugepages come from `hugepage-rs`, which maps pages of the kernel's default size; normal pages
//! are mapped here. An arena is made for pages of 2 MiB: where the default is another size (1 GiB,
//! say), an arena of some MiB would hold a whole such page, so it takes normal pages and says so.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use tracing::warn;

use crate::error::{Error, ErrorKind, Result};
use crate::user_code::caught;

/// What kind of pages back an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageKind {
    /// 2 MiB pages from the kernel's pool (`vm.nr_hugepages`).
    Huge2M,
    /// Normal pages: no hugepages were free.
    Normal,
}

/// The size of the hugepages that arenas use, in bytes.
pub(super) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A private anonymous mapping, zeroed, unmapped when it is dropped.
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    pages: PageKind,
}

impl Mapping {
    /// Maps at least `bytes` bytes, rounded up to whole hugepages.
    ///
    /// Without hugepages it takes normal pages; the first mapping of the process that does says so
    /// in the log.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the size overflows, otherwise the kernel's
    /// code.
    pub(super) fn new(bytes: usize) -> Result<Self> {
        let bytes = bytes
            .max(1)
            .checked_next_multiple_of(HUGE_PAGE_BYTES)
            .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "map arena").because("the size overflows"))?;
        if let Some(base) = map_huge(bytes) {
            return Ok(Self { base, bytes, pages: PageKind::Huge2M });
        }
        say_what_is_missing(bytes / HUGE_PAGE_BYTES);
        Ok(Self { base: map_normal(bytes)?, bytes, pages: PageKind::Normal })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn pages(&self) -> PageKind {
        self.pages
    }

    /// Asks the kernel for transparent hugepages where the pages are normal ones. It may have none.
    ///
    /// A page is then 2 MiB from its first touch on: this is for memory that is going to be full.
    pub(super) fn prefer_hugepages(&self) {
        if self.pages == PageKind::Normal {
            // SAFETY: the range is this mapping. The advice says how the kernel is to back it, and
            // changes nothing of what is there.
            let advised = unsafe { madvise(self.base.as_ptr().cast(), self.bytes, Advice::LinuxHugepage) };
            // A kernel without them says that the advice is invalid.
            _ = advised;
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        match self.pages {
            // SAFETY: `map_huge` allocated it with this very layout, and nobody uses it any more:
            // its arena says so in the documentation of `Arena::region`.
            PageKind::Huge2M => unsafe { hugepage_rs::dealloc(self.base.as_ptr(), layout(self.bytes)) },
            PageKind::Normal => {
                // SAFETY: the mapping made in `new`, with its length; unused as above.
                let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
                debug_assert!(unmapped.is_ok(), "an arena's mapping can be unmapped");
            }
        }
    }
}

/// The layout of `bytes` bytes, which are whole hugepages; any alignment up to one is met.
fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 1).expect("whole hugepages do not overflow an isize on this machine")
}

/// Maps `bytes` bytes, whole hugepages, from the kernel's pool; `None` if it has too few free ones
/// of 2 MiB.
fn map_huge(bytes: usize) -> Option<NonNull<u8>> {
    if default_hugepage_bytes() != Some(HUGE_PAGE_BYTES) || isize::try_from(bytes).is_err() {
        return None;
    }
    // `hugepage-rs` panics if it cannot read /proc/meminfo, for want of a descriptor, say.
    // SAFETY: the layout is not empty.
    caught(|| unsafe { hugepage_rs::alloc(layout(bytes)) }).ok().and_then(NonNull::new)
}

/// The kernel's default size of hugepages, in bytes (`Hugepagesize` in `/proc/meminfo`); `None` if
/// it has none, or does not say.
pub fn default_hugepage_bytes() -> Option<usize> {
    static DEFAULT: OnceLock<usize> = OnceLock::new();
    if let Some(bytes) = DEFAULT.get() {
        return Some(*bytes);
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(*DEFAULT.get_or_init(|| kib << 10))
}

/// Maps `bytes` bytes, whole hugepages, in normal pages at an address that a hugepage could have.
///
/// The kernel may then back them with transparent hugepages. And SPDK's map of memory has entries
/// of 2 MiB: of a region that is not aligned to them it does not take the translation for devices
/// back, and says nothing (`vtophys_notify` in its `memory.c`).
fn map_normal(bytes: usize) -> Result<NonNull<u8>> {
    let failed = |code| Error::os(code, "map arena");
    let with_room = bytes.checked_add(HUGE_PAGE_BYTES).ok_or_else(|| failed(libc::ENOMEM))?;
    // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no existing
    // memory.
    let ptr = unsafe {
        mmap_anonymous(std::ptr::null_mut(), with_room, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }
    .map_err(|errno| failed(errno.raw_os_error()))?;
    let before = ptr.addr().next_multiple_of(HUGE_PAGE_BYTES) - ptr.addr();
    let base = ptr.wrapping_byte_add(before);
    for (rest, len) in [(ptr, before), (base.wrapping_byte_add(bytes), HUGE_PAGE_BYTES - before)] {
        if len > 0 {
            // SAFETY: this is a part of the mapping that was made just now, which nobody uses; the
            // addresses and lengths are multiples of a page, as those of the mapping are.
            let unmapped = unsafe { munmap(rest, len) };
            debug_assert!(unmapped.is_ok(), "a part of a mapping can be unmapped");
        }
    }
    NonNull::new(base.cast::<u8>()).ok_or_else(|| failed(libc::ENOMEM))
}

/// Says in the log, once for the process, why arenas have normal pages.
fn say_what_is_missing(wanted: usize) {
    static SAID: AtomicBool = AtomicBool::new(false);
    // No `Once`: a subscriber to the log may panic, or make an arena.
    if SAID.swap(true, Ordering::Relaxed) {
        return;
    }
    match default_hugepage_bytes() {
        Some(bytes) if bytes != HUGE_PAGE_BYTES => warn!(
            "hugepages for an arena have 2 MiB, but this kernel's default is {} MiB; using normal pages; for \
             hugepages boot with default_hugepagesz=2M, and see /proc/sys/vm/nr_hugepages",
            bytes >> 20
        ),
        _ => warn!(
            "no {wanted} free hugepages for an arena, using normal pages; for hugepages: \
             echo {wanted} > /proc/sys/vm/nr_hugepages, and as many for each further core"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{HUGE_PAGE_BYTES, Mapping, PageKind, map_normal};

    #[test]
    fn normal_pages_are_where_hugepages_could_be() {
        for count in [1, 3, 1, 2] {
            let bytes = count * HUGE_PAGE_BYTES;
            let mapping =
                Mapping { base: map_normal(bytes).expect("mapped"), bytes, pages: PageKind::Normal };
            assert!(mapping.base().addr().get().is_multiple_of(HUGE_PAGE_BYTES), "{:?}", mapping.base());
            // SAFETY: the mapping has that many bytes, zeroed, and nobody else knows it.
            let all = unsafe { std::slice::from_raw_parts_mut(mapping.base().as_ptr(), mapping.len()) };
            all.fill(1);
            assert!(all.iter().all(|&byte| byte == 1));
        }
    }
}
