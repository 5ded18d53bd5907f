//! What the cores of a store tell each other of trees that have lost their names.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Outcome};
use crate::store::engine::signal::Errand;

/// Who waits for keys to be deleted looks each time so many more are.
const TOLD_KEYS: u64 = 256;

/// Which trees have lost their names since the store was opened, and how far their task is.
#[derive(Debug, Default)]
pub(in crate::store::engine) struct Dying {
    pub(super) lost: LostTrees,
    /// To take apart what is left of them.
    pub(in crate::store::engine) errand: Errand,
    /// Keys that it has deleted.
    deleted: AtomicU64,
}

impl Dying {
    /// The task has deleted some more keys; whether those who wait for that are to look.
    pub(super) fn has_deleted(&self, keys: usize) -> bool {
        let before = self.deleted.fetch_add(keys as u64, Ordering::AcqRel);
        before / TOLD_KEYS != (before + keys as u64) / TOLD_KEYS
    }

    pub(in crate::store::engine) fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Acquire)
    }
}

/// Why an operation was refused: its tree was cleared or removed after it was looked up. It is the
/// source of the error, so that no error of a device, whatever its kind, is taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LostName {
    tree: u32,
}

impl LostName {
    /// The error for who still has the tree with this number.
    pub(super) fn error(tree: u32) -> Error {
        Error::new(ErrorKind::NotFound, "use tree")
            .because("the tree was cleared or removed meanwhile: it is to be looked up again")
            .outcome_is(Outcome::NotStarted)
            .caused_by(Self { tree })
    }
}

/// The number of the tree, if an operation was refused because that has lost its name, and for no
/// other reason: nothing was changed, and the name is to be looked up again. Ask this, and not the
/// error's kind: that of a device that went away is the same.
pub(in crate::store) fn lost_name(error: &Error) -> Option<u32> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<LostName>().map(|lost| lost.tree)
}

impl fmt::Display for LostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tree {} has no name any more", self.tree)
    }
}

impl std::error::Error for LostName {}

/// The numbers of the trees that have lost their names since the store was opened: a bit each, in
/// pieces of which each is twice as long as the one before. No piece moves, so readers take no
/// lock.
#[derive(Debug, Default)]
pub(super) struct LostTrees {
    pieces: [OnceLock<Box<[AtomicU64]>>; 27],
}

impl LostTrees {
    /// The piece of a number, the word in it, and the bit in that.
    fn place(number: u32) -> (usize, usize, u64) {
        let word = u64::from(number) / 64 + 1;
        let piece = word.ilog2();
        let in_piece = usize::try_from(word - (1 << piece)).expect("there are less than 2^26 words");
        (piece as usize, in_piece, 1 << (number % 64))
    }

    pub(super) fn insert(&self, number: u32) {
        let (piece, word, bit) = Self::place(number);
        let words =
            self.pieces[piece].get_or_init(|| (0..1_u64 << piece).map(|_| AtomicU64::new(0)).collect());
        words[word].fetch_or(bit, Ordering::Release);
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        let (piece, word, bit) = Self::place(number);
        self.pieces[piece].get().is_some_and(|words| words[word].load(Ordering::Acquire) & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_lost_when_it_was_said_and_no_other_is() {
        let lost = LostTrees::default();
        let numbers = [0, 1, 2, 63, 64, 191, 192, 5_000, 1 << 20, u32::MAX / 64, u32::MAX];
        for (at, &number) in numbers.iter().enumerate() {
            if number > 1 << 24 {
                // Its piece would take much memory.
                assert!(!lost.contains(number));
                continue;
            }
            assert!(!lost.contains(number));
            lost.insert(number);
            assert!(numbers[..=at].iter().all(|&number| lost.contains(number)));
            assert!(!lost.contains(number ^ 32) && !lost.contains(number + 3));
        }
    }
}
