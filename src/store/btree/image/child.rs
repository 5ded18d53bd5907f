//! Child words: how a parent refers to a page.

/// The id of a page (bits 0 to 39) and the epoch that its parent knows of (bits 40 to 63).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ChildWord(u64);

impl ChildWord {
    /// No page.
    pub(crate) const NONE: Self = Self(0);
    const ID_BITS: u32 = 40;
    const ID_MASK: u64 = (1 << Self::ID_BITS) - 1;

    /// The word of page `id`, below 2^40, at `epoch`, below 2^24.
    pub(crate) fn new(id: u64, epoch: u32) -> Self {
        assert!(id <= Self::ID_MASK && epoch < 1 << 24, "page {id} at epoch {epoch} has no child word");
        Self(u64::from(epoch) << Self::ID_BITS | id)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    pub(crate) fn id(self) -> u64 {
        self.0 & Self::ID_MASK
    }

    pub(crate) fn epoch(self) -> u32 {
        u32::try_from(self.0 >> Self::ID_BITS).expect("24 bits are left")
    }

    /// Whether it refers to a page.
    pub(crate) fn is_some(self) -> bool {
        self.id() != 0
    }
}
