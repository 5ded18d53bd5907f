//! Bringing keys into the tree: claims, and the background task's way through all keys.

use std::marker::PhantomData;

use super::entry::{Entry, Newest, Taken};
use super::order::Position;
use super::ranges::{Passed, Range};
use super::{Found, Overlay, Part, Record, TreeRoot};
use crate::store::atomic::Ordering;

/// The hand looks at this many entries at once, so that it lets others run.
const LOOKS_PER_STEP: usize = 4096;

/// What somebody found who wanted to bring a key into the tree.
#[derive(Debug)]
#[must_use]
pub(in crate::store) enum Claimed<'o> {
    /// The tree has what is newest of the key.
    Nothing,
    /// Another core brings the key into the tree right now. Let others run, and ask again.
    Busy,
    Mine(Claim<'o>),
}

/// The right to bring one key into the tree, and the duty not to wait.
///
/// Do not hold it across an await. Dropped without [`Claim::finish`], it leaves the key as it was:
/// then nothing of it may be in the tree. It stays with the core that has it.
#[derive(Debug)]
#[must_use]
pub(in crate::store) struct Claim<'o> {
    overlay: &'o Overlay,
    part: &'o Part,
    held: Held<'o>,
    _stays: PhantomData<*const ()>,
}

#[derive(Debug)]
enum Held<'o> {
    Entry(&'o Entry),
    Range(&'o Range, Box<[u8]>),
    Finished,
}

impl Claim<'_> {
    /// What to bring into the tree, where it is older than everything that is written by now.
    pub(in crate::store) fn record(&self) -> Record<'_> {
        match &self.held {
            Held::Entry(entry) => self.overlay.record(entry),
            Held::Range(range, key) => {
                let number = range.number;
                Record { number, from: number, key, newest: Newest::Deleted }
            }
            Held::Finished => unreachable!("only the end of a claim leaves this behind"),
        }
    }

    /// The tree has it.
    pub(in crate::store) fn finish(mut self) {
        match std::mem::replace(&mut self.held, Held::Finished) {
            Held::Entry(entry) => {
                self.part.puts.fetch_sub(u64::from(entry.is_put()), Ordering::Relaxed);
                entry.drained();
                self.overlay.settle(self.part);
            }
            Held::Range(range, key) => range.drained(key),
            Held::Finished => {}
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        match &self.held {
            Held::Entry(entry) => entry.undrained(),
            Held::Range(range, key) => range.undrained(key),
            Held::Finished => {}
        }
    }
}

/// Where the background task is. Each has its own.
#[derive(Debug, Default)]
pub(in crate::store) struct Hand(usize);

/// Where an entry is, for [`Overlay::claim_at`].
pub(in crate::store) type Place = (TreeRoot, Position);

/// A deleted range that the background task goes through.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct RangeDrain<'o> {
    overlay: &'o Overlay,
    part: &'o Part,
    range: &'o Range,
}

impl Overlay {
    /// Claims a key, for a writer of the key or for the drain of a range.
    pub(in crate::store) fn claim(&self, tree: TreeRoot, key: &[u8]) -> Claimed<'_> {
        let Some(part) = self.part(tree) else { return Claimed::Nothing };
        match self.find(part, key) {
            Some(Found::Entry(entry)) => self.claimed(part, entry.claim(), Held::Entry(entry)),
            Some(Found::Range(range)) => {
                let taken = range.claim(key);
                match taken {
                    Taken::Mine => self.claimed(part, taken, Held::Range(range, key.into())),
                    _ => self.claimed(part, taken, Held::Finished),
                }
            }
            None => Claimed::Nothing,
        }
    }

    /// Up to `count` entries that nobody has brought into the tree yet, in the order of trees and
    /// keys from the hand on, and round again. `root_of` says the root that a tree has now; entries
    /// of other roots are passed over. There may be none although the overlay is not drained: then
    /// others have them, or the hand has looked at many that are drained.
    pub(in crate::store) fn take_next(
        &self,
        hand: &mut Hand,
        count: usize,
        mut root_of: impl FnMut(u32) -> Option<u64>,
    ) -> Vec<Place> {
        let mut taken = Vec::new();
        let mut looks = LOOKS_PER_STEP;
        if hand.0 >= self.order.len() {
            hand.0 = 0;
        }
        let mut at = self.parts.partition_point(|part| part.positions.end <= hand.0);
        while let Some(part) = self.parts.get(at).filter(|_| looks > 0 && taken.len() < count) {
            at += 1;
            looks = looks.saturating_sub(1);
            let TreeRoot { tree, root } = part.root;
            if !part.is_open() || root_of(tree) != Some(root) {
                hand.0 = part.positions.end;
                continue;
            }
            while hand.0 < part.positions.end && looks > 0 && taken.len() < count {
                let position = Position::new(hand.0);
                if self.entry_at(position).answers() {
                    taken.push((part.root, position));
                }
                hand.0 += 1;
                looks = looks.saturating_sub(1);
            }
        }
        taken
    }

    /// Whether the hand is through with all entries; it goes round again if it goes on.
    pub(in crate::store) fn is_round(&self, hand: &Hand) -> bool {
        hand.0 >= self.order.len()
    }

    /// Claims what [`Overlay::take_next`] said.
    pub(in crate::store) fn claim_at(&self, (tree, position): Place) -> Claimed<'_> {
        let Some(part) = self.part(tree) else { return Claimed::Nothing };
        let entry = self.entry_at(position);
        self.claimed(part, entry.claim(), Held::Entry(entry))
    }

    /// A deleted range that the trees may still have keys of.
    ///
    /// Its drain reads the tree's keys from [`RangeDrain::from`] up to [`RangeDrain::to`], claims
    /// each by [`Overlay::claim`], and brings what that says into the tree. Then it says how far it
    /// has come. There is one such drain at a time.
    pub(in crate::store) fn next_range(
        &self,
        mut root_of: impl FnMut(u32) -> Option<u64>,
    ) -> Option<RangeDrain<'_>> {
        let open = self.parts.iter().filter(|part| part.is_open() && !part.ranges.is_empty());
        let mut live = open.filter(|part| root_of(part.root.tree) == Some(part.root.root));
        live.find_map(|part| {
            let range = part.ranges.iter().find(|range| !range.is_drained())?;
            Some(RangeDrain { overlay: self, part, range })
        })
    }

    fn claimed<'o>(&'o self, part: &'o Part, taken: Taken, held: Held<'o>) -> Claimed<'o> {
        match taken {
            Taken::Mine => Claimed::Mine(Claim { overlay: self, part, held, _stays: PhantomData }),
            Taken::Busy => Claimed::Busy,
            Taken::Drained | Taken::Gone => Claimed::Nothing,
        }
    }
}

impl RangeDrain<'_> {
    pub(in crate::store) fn tree(&self) -> TreeRoot {
        self.part.root
    }

    /// The first key that may have to be deleted.
    pub(in crate::store) fn from(&self) -> Box<[u8]> {
        self.range.passed()
    }

    /// Where the range ends. None: with the tree.
    pub(in crate::store) fn to(&self) -> Option<&[u8]> {
        self.range.to.as_deref()
    }

    /// All keys of the tree below `to` that were to be deleted are, or in all of the range. False:
    /// somebody has claimed a key there. Let others run, and say it again.
    #[must_use]
    pub(in crate::store) fn pass(&self, to: Option<&[u8]>) -> bool {
        let passed = self.range.pass(to);
        if passed == Passed::Wholly {
            self.overlay.settle(self.part);
        }
        passed != Passed::Blocked
    }
}
