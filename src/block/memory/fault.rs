//! What goes wrong on purpose.

use std::ops::Range;

use super::super::queue::CommandKind;

/// A fault to inject ([`MemoryDevice::inject`](super::MemoryDevice::inject)): which commands it
/// meets, and what becomes of them.
///
/// By itself it makes every command that it meets fail with `EIO`. An operation is one command, or
/// several if it is larger than the device transfers at once. Commands are met when they complete.
///
/// ```
/// # use boson::block::Fault;
/// // The fourth write from now on fails with ENOSPC, and no other.
/// let full = Fault::write().after(3).once().fails_with(28);
/// // A bad block.
/// let bad = Fault::read().at(1 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    which: Which,
    within: Range<u64>,
    after: u64,
    times: u64,
    effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Any,
    Read,
    Write,
    Flush,
    Trim,
    WriteZeroes,
    CompareAndWrite,
}

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It fails with this code. A part of a write may have been stored.
    Fail(i32),
    /// It fails with `EIO`, and everything that was not durable is lost.
    LoseCache,
    /// It succeeds and does nothing.
    Vanish,
    /// It works on the blocks that are this many bytes further, if there are any.
    Misdirect(u64),
    /// One bit is another one: of what was read, or of what is stored.
    FlipBit,
    /// A read gives what was there at the last flush.
    Stale,
    /// It never completes.
    Hang,
    /// The power fails, with this command done or not.
    CutPower,
    /// The device is taken away.
    Remove,
}

impl Fault {
    const fn new(which: Which) -> Self {
        Self { which, within: 0..u64::MAX, after: 0, times: u64::MAX, effect: Effect::Fail(libc::EIO) }
    }

    /// Meets any command.
    pub const fn any() -> Self {
        Self::new(Which::Any)
    }

    /// Meets reads.
    pub const fn read() -> Self {
        Self::new(Which::Read)
    }

    /// Meets writes, durable ones and others; also the zeros that are written for want of a
    /// command.
    pub const fn write() -> Self {
        Self::new(Which::Write)
    }

    /// Meets flushes, also those of durable writes on a device without forced unit access.
    pub const fn flush() -> Self {
        Self::new(Which::Flush)
    }

    /// Meets trims.
    pub const fn trim() -> Self {
        Self::new(Which::Trim)
    }

    /// Meets the commands that make zeros.
    pub const fn write_zeroes() -> Self {
        Self::new(Which::WriteZeroes)
    }

    /// Meets compare-and-write.
    pub const fn compare_and_write() -> Self {
        Self::new(Which::CompareAndWrite)
    }

    /// Meets only commands that touch the byte at `offset`.
    #[must_use]
    pub fn at(self, offset: u64) -> Self {
        self.within(offset..offset.saturating_add(1))
    }

    /// Meets only commands that touch a byte of `range`.
    #[must_use]
    pub fn within(self, range: Range<u64>) -> Self {
        Self { within: range, ..self }
    }

    /// Lets the first `count` that it would meet pass.
    #[must_use]
    pub fn after(self, count: u64) -> Self {
        Self { after: count, ..self }
    }

    /// Meets `count` commands and no more.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self { times: count, ..self }
    }

    /// Meets one command and no more.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    const fn with(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// They fail with the `errno` code `code`. A write that fails may have been stored in part.
    #[must_use]
    pub fn fails_with(self, code: i32) -> Self {
        self.with(Effect::Fail(code))
    }

    /// They fail with `EIO`, and everything that was not durable is lost, as a page cache loses it
    /// after a failed flush.
    #[must_use]
    pub fn loses_cache(self) -> Self {
        self.with(Effect::LoseCache)
    }

    /// They report success and do nothing: a lost write, a flush that is skipped. A read leaves its
    /// buffer as it was.
    #[must_use]
    pub fn vanishes(self) -> Self {
        self.with(Effect::Vanish)
    }

    /// They work on the blocks that are `by_bytes` further instead, whole blocks, if those are
    /// inside the namespace.
    #[must_use]
    pub fn is_misdirected(self, by_bytes: u64) -> Self {
        self.with(Effect::Misdirect(by_bytes))
    }

    /// One bit of what is read, or is stored, is another one.
    #[must_use]
    pub fn flips_a_bit(self) -> Self {
        self.with(Effect::FlipBit)
    }

    /// Reads give what was there at the last flush.
    #[must_use]
    pub fn is_stale(self) -> Self {
        self.with(Effect::Stale)
    }

    /// They never complete, until the device is removed, loses its power or gets other faults.
    #[must_use]
    pub fn hangs(self) -> Self {
        self.with(Effect::Hang)
    }

    /// The power fails when they are done, before anybody learns that; the device is off until
    /// [`MemoryDevice::power_on`](super::MemoryDevice::power_on).
    #[must_use]
    pub fn cuts_power(self) -> Self {
        self.with(Effect::CutPower)
    }

    /// The device is taken away.
    #[must_use]
    pub fn removes_device(self) -> Self {
        self.with(Effect::Remove)
    }

    fn meets(&self, kind: CommandKind, offset: u64, len: u64) -> bool {
        let of_kind = match self.which {
            Which::Any => true,
            Which::Read => kind == CommandKind::Read,
            Which::Write => matches!(kind, CommandKind::Write { .. }),
            Which::Flush => kind == CommandKind::Flush,
            Which::Trim => kind == CommandKind::Trim,
            Which::WriteZeroes => kind == CommandKind::WriteZeroes,
            Which::CompareAndWrite => kind == CommandKind::CompareAndWrite,
        };
        // A flush is of everything.
        let of_range = kind == CommandKind::Flush
            || (offset < self.within.end && self.within.start < offset.saturating_add(len));
        of_kind && of_range
    }
}

/// Counts a command, and gives what the first fault that meets it does.
pub(super) fn met(faults: &mut Vec<Fault>, kind: CommandKind, offset: u64, len: u64) -> Option<Effect> {
    let mut effect = None;
    for fault in faults.iter_mut().filter(|fault| fault.meets(kind, offset, len)) {
        if fault.after > 0 {
            fault.after -= 1;
        } else if effect.is_none() {
            fault.times = fault.times.saturating_sub(u64::from(fault.times < u64::MAX));
            effect = Some(fault.effect);
        }
    }
    faults.retain(|fault| fault.times > 0);
    effect
}
