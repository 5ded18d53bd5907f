//! Stacks of coroutines: slabs of address space, cut into guarded stacks, reused last in first out.
//!
//! A slab is one private anonymous mapping that holds many stacks of one size. Memory is committed page by page, with use, so a
//! large stack costs address space and nothing else. Under every stack lies a guard page, which Linux 6.13 and later marks
//! in the page table (`MADV_GUARD_INSTALL`, madvise(2)) without splitting the mapping: a million stacks then need a few hundred
//! mappings where `vm.max_map_count` allows 65,530. Older kernels protect the page (`mprotect`), which costs two
//! mappings for each stack; there the number of stacks is limited to what leaves a quarter of all mappings to the program.
//!
//! A pool belongs to a thread. A stack that comes back is the next to be handed out. The [`WARM`] first ones keep their
//! memory; a stack that comes back while so many are free keeps [`KEPT_BYTES`] of it.

use std::cell::RefCell;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use corosensei::stack::{Stack, StackPointer};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use super::overflow::SignalStack;
use crate::error::{Error, ErrorKind, Result};

/// The smallest stack, in bytes.
const MIN_STACK_BYTES: usize = 16 << 10;
/// The largest stack, in bytes.
const MAX_STACK_BYTES: usize = 1 << 30;
/// The unit of sizes and the size of a guard, in bytes.
const PAGE_BYTES: usize = 4096;
/// Size classes: powers of two from [`MIN_STACK_BYTES`] to [`MAX_STACK_BYTES`].
const CLASSES: usize = (MAX_STACK_BYTES / MIN_STACK_BYTES).ilog2() as usize + 1;
/// A slab has at most this many bytes, unless one stack is larger. The first one of a class is smaller.
const MAX_SLAB_BYTES: usize = 256 << 20;
/// Stacks in the first slab of a class; each further one has twice as many as the one before.
const FIRST_SLAB_STACKS: usize = 16;
/// Free stacks of a class that keep all the memory they used.
const WARM: usize = 256;
/// What a stack keeps that comes back when [`WARM`] are free already, in bytes.
const KEPT_BYTES: usize = 16 << 10;
/// Tops of neighbouring stacks lie at different places in their pages. Were they at the same place, all stacks would compete for the
/// same few sets of the first-level cache.
const COLORS: usize = 8;
const COLOR_BYTES: usize = 192;

/// Linux 6.13; not in `libc` for every target.
const MADV_GUARD_INSTALL: libc::c_int = 102;

/// Stacks of this process whose guard is a mapping of its own.
static PROTECTED: AtomicUsize = AtomicUsize::new(0);

/// What the stack pool of one thread holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StackStats {
    /// Stacks in use by coroutines.
    pub used: usize,
    /// Stacks that wait to be reused.
    pub free: usize,
    /// Address space of all slabs, in bytes. Only what was touched of it is memory.
    pub reserved_bytes: usize,
}

/// How the pages under stacks are made to fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guards {
    /// By `MADV_GUARD_INSTALL`, unless the kernel does not know it.
    Install,
    /// By `mprotect`.
    Protect,
}

/// One mapping with stacks of one size, each above its guard page.
struct Slab {
    start: NonNull<c_void>,
    stacks: usize,
    stack_bytes: usize,
    /// Guards that are mappings of their own.
    protected: std::cell::Cell<usize>,
}

impl Slab {
    fn new(stacks: usize, stack_bytes: usize) -> Result<Self> {
        let len = stacks * (stack_bytes + PAGE_BYTES);
        let (protection, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::STACK);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, protection, flags) };
        let start = start.map_err(|errno| {
            Error::os(errno.raw_os_error(), "map stacks of coroutines").at(format!("{len} bytes")).because(
                format!(
                    "no room for {len} bytes of address space ({errno}): smaller stacks \
                     (`boson::thread::Builder::stack_size`), fewer coroutines, or a higher limit (`ulimit -v`)"
                ),
            )
        })?;
        let start = NonNull::new(start).expect("the kernel maps nothing at address zero");
        let slab = Self { start, stacks, stack_bytes, protected: std::cell::Cell::new(0) };
        // A huge page would make every stack cost 2 MiB. An error means that there are none.
        // SAFETY: the range is the mapping made above, and the advice does not change what is in it.
        let _ = unsafe { libc::madvise(slab.start.as_ptr(), len, libc::MADV_NOHUGEPAGE) };
        Ok(slab)
    }

    fn len(&self) -> usize {
        self.stacks * (self.stack_bytes + PAGE_BYTES)
    }

    /// The lowest address of a stack: that of its guard.
    fn guard(&self, index: usize) -> *mut c_void {
        assert!(index < self.stacks, "a stack is inside its slab");
        self.start.as_ptr().wrapping_byte_add(index * (self.stack_bytes + PAGE_BYTES))
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        PROTECTED.fetch_sub(self.protected.get(), Ordering::Relaxed);
        // SAFETY: the mapping is the slab's own, of this length, and every stack in it held a reference to the slab.
        if let Err(errno) = unsafe { rustix::mm::munmap(self.start.as_ptr(), self.len()) } {
            tracing::error!("stacks could not be unmapped: {errno}");
        }
    }
}

/// A place for a stack, with its guard.
struct Slot {
    slab: Rc<Slab>,
    index: usize,
}

impl Slot {
    /// The highest address.
    fn end(&self) -> usize {
        self.slab.guard(self.index).addr() + PAGE_BYTES + self.slab.stack_bytes
    }

    /// Where the stack begins: below the highest address, by the slot's colour.
    fn base(&self) -> StackPointer {
        let base = self.end() - self.index % COLORS * COLOR_BYTES;
        NonZeroUsize::new(base).expect("a stack is not at address zero")
    }

    /// Gives the memory back, but for `kept` bytes at the top.
    fn discard(&self, kept: usize) {
        let len = self.slab.stack_bytes.saturating_sub(kept);
        let start = self.slab.guard(self.index).wrapping_byte_add(PAGE_BYTES);
        // SAFETY: the range is the lower part of a stack that nobody runs on: what it holds is not needed any more. Should
        // it fail, the memory stays.
        let _ = unsafe { libc::madvise(start, len, libc::MADV_DONTNEED) };
    }
}

/// A stack of a coroutine. Dropping it gives it back to the pool of the calling thread.
pub(super) struct PooledStack {
    /// Asked for with each switch.
    base: StackPointer,
    slot: Slot,
}

impl PooledStack {
    /// From the calling thread's pool, with room for at least `bytes`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](ErrorKind::InvalidInput) above [`MAX_STACK_BYTES`], the kernel's code if there is no room,
    /// [`LimitReached`](ErrorKind::LimitReached) if there is no mapping left for a guard.
    pub(super) fn take(bytes: usize) -> Result<Self> {
        let slot = POOL.with_borrow_mut(|pool| pool.take(bytes))?;
        Ok(Self { base: slot.base(), slot })
    }

    /// The addresses of the guard: a fault there is an overflow.
    pub(super) fn guard(&self) -> std::ops::Range<usize> {
        let start = self.slot.slab.guard(self.slot.index).addr();
        start..start + PAGE_BYTES
    }

    /// Room on it, in bytes.
    pub(super) fn len(&self) -> usize {
        self.slot.slab.stack_bytes
    }
}

impl Drop for PooledStack {
    fn drop(&mut self) {
        let slot = Slot { slab: Rc::clone(&self.slot.slab), index: self.slot.index };
        // Without a pool any more, the slab goes with its last stack.
        let _ = POOL.try_with(|pool| pool.borrow_mut().put(slot));
    }
}

// SAFETY: below `base` lie at least `MIN_STACK_BYTES` less the largest colour, more than the 4 KiB that are asked for, of memory that
// this value owns, readable and writable; then comes the guard page, which `Pool::cut` made inaccessible and which is above `limit`. `base` is
// a multiple of 64.
unsafe impl Stack for PooledStack {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        NonZeroUsize::new(self.guard().start).expect("a stack is not at address zero")
    }
}

#[derive(Default)]
struct Class {
    free: Vec<Slot>,
    /// The newest slab and how many of its stacks were never handed out.
    uncut: Option<(Rc<Slab>, usize)>,
    next_slab_stacks: usize,
    used: usize,
}

struct Pool {
    classes: [Class; CLASSES],
    guards: Guards,
    reserved_bytes: usize,
    /// Where the thread handles a fault of a stack that is full. Made with the first stack.
    signal_stack: Option<SignalStack>,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::new(Guards::Install)) };
}

/// What the calling thread's pool holds.
pub(super) fn stats() -> StackStats {
    POOL.with_borrow(Pool::stats)
}

/// Gives the memory of the calling thread's free stacks back to the kernel, and the address space of slabs that are free as
/// a whole.
pub(super) fn trim() {
    POOL.with_borrow_mut(Pool::trim);
}

impl Pool {
    const fn new(guards: Guards) -> Self {
        Self {
            classes: [const {
                Class { free: Vec::new(), uncut: None, next_slab_stacks: FIRST_SLAB_STACKS, used: 0 }
            }; CLASSES],
            guards,
            reserved_bytes: 0,
            signal_stack: None,
        }
    }

    fn class_of(bytes: usize) -> Result<usize> {
        if bytes > MAX_STACK_BYTES {
            return Err(Error::new(ErrorKind::InvalidInput, "take a stack")
                .at(format!("{bytes} bytes"))
                .because(format!("a stack has at most {MAX_STACK_BYTES} bytes")));
        }
        let bytes = bytes.max(MIN_STACK_BYTES).next_power_of_two();
        Ok((bytes / MIN_STACK_BYTES).ilog2() as usize)
    }

    fn take(&mut self, bytes: usize) -> Result<Slot> {
        let class = Self::class_of(bytes)?;
        if let Some(slot) = self.classes[class].free.pop() {
            self.classes[class].used += 1;
            return Ok(slot);
        }
        let slot = self.cut(class)?;
        self.classes[class].used += 1;
        Ok(slot)
    }

    /// A stack that was never used, with its guard.
    #[cold]
    fn cut(&mut self, class: usize) -> Result<Slot> {
        if self.signal_stack.is_none() {
            self.signal_stack = Some(SignalStack::install()?);
        }
        if self.classes[class].uncut.is_none() {
            let stack_bytes = MIN_STACK_BYTES << class;
            let most = (MAX_SLAB_BYTES / stack_bytes).max(1);
            let stacks = self.classes[class].next_slab_stacks.min(most);
            let slab = Slab::new(stacks, stack_bytes)?;
            self.reserved_bytes += slab.len();
            self.classes[class].next_slab_stacks = stacks.saturating_mul(2);
            self.classes[class].uncut = Some((Rc::new(slab), stacks));
        }
        let (slab, left) = self.classes[class].uncut.as_ref().expect("made above if there was none");
        let slot = Slot { slab: Rc::clone(slab), index: slab.stacks - left };
        let left = left - 1;
        self.guards = make_guard(&slot, self.guards)?;
        if left == 0 {
            self.classes[class].uncut = None;
        } else if let Some(uncut) = &mut self.classes[class].uncut {
            uncut.1 = left;
        }
        Ok(slot)
    }

    fn put(&mut self, slot: Slot) {
        let class = (slot.slab.stack_bytes / MIN_STACK_BYTES).ilog2() as usize;
        let class = &mut self.classes[class];
        class.used -= 1;
        if class.free.len() >= WARM {
            slot.discard(KEPT_BYTES);
        }
        class.free.push(slot);
    }

    fn trim(&mut self) {
        for class in &mut self.classes {
            class.free.sort_by_key(|slot| (Rc::as_ptr(&slot.slab).addr(), slot.index));
            let free = std::mem::take(&mut class.free);
            let mut uncut = class.uncut.take();
            for group in free.chunk_by(|a, b| Rc::ptr_eq(&a.slab, &b.slab)) {
                let slab = &group[0].slab;
                let is_uncut = uncut.as_ref().is_some_and(|(newest, _)| Rc::ptr_eq(newest, slab));
                if Rc::strong_count(slab) == group.len() + usize::from(is_uncut) {
                    // Nobody else has a stack of it: it goes when `free` does.
                    self.reserved_bytes -= slab.len();
                    if is_uncut {
                        uncut = None;
                    }
                } else {
                    for slot in group {
                        slot.discard(0);
                        class.free.push(Slot { slab: Rc::clone(slab), index: slot.index });
                    }
                }
            }
            class.uncut = uncut;
        }
    }

    fn stats(&self) -> StackStats {
        let sum = |count: fn(&Class) -> usize| self.classes.iter().map(count).sum();
        StackStats {
            used: sum(|class| class.used),
            free: sum(|class| class.free.len()),
            reserved_bytes: self.reserved_bytes,
        }
    }
}

/// Makes the page under a stack fault, and returns how it was done.
fn make_guard(slot: &Slot, guards: Guards) -> Result<Guards> {
    let page = slot.slab.guard(slot.index);
    if guards == Guards::Install {
        // SAFETY: the page is the lowest of a slot that nobody runs on yet, inside its slab's mapping.
        if unsafe { libc::madvise(page, PAGE_BYTES, MADV_GUARD_INSTALL) } == 0 {
            return Ok(Guards::Install);
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(Error::os(error.raw_os_error().unwrap_or(libc::ENOMEM), "guard a stack"));
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

/// How many stacks may have a guard that is a mapping of its own: their two mappings each take up to three quarters of all.
fn max_protected() -> usize {
    static MOST: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *MOST.get_or_init(|| {
        let mappings = std::fs::read_to_string("/proc/sys/vm/max_map_count")
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
            .unwrap_or(65_530);
        mappings / 4 * 3 / 2
    })
}

#[cfg(test)]
mod tests;
