//! What is wrong with a page, and the limits that its bytes are held against.

use std::fmt;

/// The longest key, in bytes.
pub(crate) const MAX_KEY_BYTES: usize = 4096;
/// The longest value that lies in a leaf, in bytes. Of users' values only shorter ones do.
pub(crate) const MAX_LEAF_VALUE_BYTES: usize = 14 << 10;
/// The longest content of a page with an image, in bytes: with its header it takes 64 KiB.
pub(crate) const MAX_CONTENT_BYTES: usize = 65_472;

/// Why bytes are no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// The offset of what is wrong, in bytes from the start of what was to be decoded.
    pub(crate) at: usize,
    pub(crate) reason: &'static str,
}

impl Damage {
    pub(crate) fn new(at: usize, reason: &'static str) -> Self {
        Self { at, reason }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.reason)
    }
}

/// `Err` with this place and reason unless `holds`.
pub(super) fn check(holds: bool, at: usize, reason: &'static str) -> Result<(), Damage> {
    if holds { Ok(()) } else { Err(Damage::new(at, reason)) }
}
