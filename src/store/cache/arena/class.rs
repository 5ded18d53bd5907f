//! Size classes: steps of 64 bytes to 1 KiB, then eight steps for each doubling to 32 KiB, the
//! largest node.
//!
//! So an allocation is rounded up by 1/8 at most, and by 6 % in the mean, once it is above 512
//! bytes.

/// The unit of sizes and addresses, in bytes; also the alignment.
pub(super) const GRANULE_BYTES: usize = 64;
/// How many classes there are.
pub(super) const CLASSES: usize = 56;
/// The largest allocation that has a class, in bytes.
pub(super) const MAX_CLASS_BYTES: usize = 32 << 10;
/// Classes of 64-byte steps: the first ones.
const LINEAR: usize = 16;

/// The smallest class that holds `bytes` bytes; `None` if none does.
pub(super) fn class_of(bytes: usize) -> Option<usize> {
    let last = bytes.max(1).div_ceil(GRANULE_BYTES) - 1;
    if bytes > MAX_CLASS_BYTES {
        None
    } else if last < LINEAR {
        Some(last)
    } else {
        // Its four highest bits, of which the first is set, say which step of which doubling.
        let shift = usize::try_from(last.ilog2()).ok()? - 3;
        Some(LINEAR + (shift - 1) * 8 + (last >> shift) - 8)
    }
}

/// How many granules a block of `class` has.
pub(super) fn granules_of(class: usize) -> usize {
    match class.checked_sub(LINEAR) {
        None => class + 1,
        Some(step) => (step % 8 + 9) << (step / 8 + 1),
    }
}

/// The size of a block of `class`, in bytes.
pub(super) fn bytes_of(class: usize) -> usize {
    granules_of(class) * GRANULE_BYTES
}
