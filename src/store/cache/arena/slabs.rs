//! Slabs and their blocks, shared by all cores, without locks and without memory of their own: this
//! module deals in numbers only.
//!
//! A slab has one class at a time and is cut into blocks of it. Which blocks are free is in a
//! bitmap beside the slab; *how many* may be taken is in the slab's word, with the class:
//!
//! | slab | class | count |
//! |---|---|---|
//! | unused | `NONE` | 0 |
//! | cut into blocks | a class | free blocks that nobody has claimed |
//! | in use as a whole | `WHOLE` | slabs of this allocation, or 0 for its second slab |
//!
//! | step | by |
//! |---|---|
//! | take *k* blocks | CAS of the word: count − *k*. The count was a promise that so many bits are set; then *k* set bits are cleared |
//! | give a block | its bit is set (Release), then count + 1 (AcqRel) |
//! | give an empty slab another class | CAS of the word, if the count is that of all blocks, to the new class with count 0. Nobody has a block and nobody is clearing bits, so the bitmap is written plainly; then count + its blocks |
//!
//! A word says everything about its slab, and there are no links. So it does no harm if a CAS
//! succeeds on a word that has changed and changed back: what it expected is true again.
//!
//! Slabs are found through sets, which are hints (see [`Set`]): one per class of slabs with free
//! blocks, and one of slabs that are empty, whatever their class. They are searched from where the
//! core found something last, word by word: 64 slabs a step. Who looks while another core is
//! between two steps may miss what that one is about to publish, and finds the arena full for a
//! moment.
//!
//! Some slabs can be a reserve: who may not have it says how many slabs are to stay empty. Slabs
//! that are not empty are counted for this, each *before* it is claimed, so the reserve is never
//! touched even for a moment.

use super::set::Set;
use crate::store::atomic::{AtomicU32, AtomicU64, Ordering};

/// The class of an unused slab.
const NONE: u32 = 0xffff;
/// The class of a slab that is one allocation, or half of one.
const WHOLE: u32 = 0xfffe;

/// A slab's word, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    class: u32,
    count: u32,
}

impl Word {
    const UNUSED: Self = Self { class: NONE, count: 0 };

    fn read(word: u32) -> Self {
        Self { class: word >> 16, count: word & 0xffff }
    }

    fn bits(self) -> u32 {
        self.class << 16 | self.count
    }
}

/// All slabs of an arena.
pub(super) struct Slabs {
    words: Box<[AtomicU32]>,
    /// By slab, `words_per_slab` each: bit *n* is set if block *n* is free.
    free: Box<[AtomicU64]>,
    words_per_slab: usize,
    /// By class.
    blocks_per_slab: Box<[u32]>,
    /// By class: slabs with free blocks.
    with_free: Box<[Set]>,
    empty: Set,
    /// Slabs that are not empty, at least: one is counted before it is claimed, and no longer after
    /// it is empty.
    in_use: AtomicU64,
}

impl Slabs {
    /// `count` unused slabs, for classes with so many blocks in a slab.
    pub(super) fn new(count: usize, blocks_per_slab: Box<[u32]>) -> Self {
        let most = blocks_per_slab.iter().max().copied().unwrap_or_default();
        let words_per_slab = index(most).div_ceil(64);
        let slabs = Self {
            words: (0..count).map(|_| AtomicU32::new(Word::UNUSED.bits())).collect(),
            free: (0..count * words_per_slab).map(|_| AtomicU64::new(0)).collect(),
            words_per_slab,
            with_free: blocks_per_slab.iter().map(|_| Set::new(count)).collect(),
            blocks_per_slab,
            empty: Set::new(count),
            in_use: AtomicU64::new(0),
        };
        (0..count).for_each(|slab| slabs.empty.insert(slab));
        slabs
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    fn word(&self, slab: usize) -> Word {
        Word::read(self.words[slab].load(Ordering::Acquire))
    }

    fn change(&self, slab: usize, from: Word, to: Word) -> bool {
        let word = &self.words[slab];
        word.compare_exchange(from.bits(), to.bits(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn is_empty(&self, word: Word) -> bool {
        let all = self.blocks_per_slab.get(index(word.class));
        word.class == NONE || all.is_some_and(|&all| word.count == all)
    }

    /// Takes at most `most` blocks of `class` out of one slab, and calls `put` with the number of
    /// the slab and of the block for each. The slab; `None` if there is no such block and no empty
    /// slab, but for the last `keep_empty`. Starts to look at slab `from`.
    pub(super) fn take(
        &self,
        class: usize,
        most: u32,
        from: usize,
        keep_empty: usize,
        mut put: impl FnMut(usize, usize),
    ) -> Option<usize> {
        let found = self.with_free[class].find(from, |slab| {
            let claimed = self.claim(slab, class, most, keep_empty)?;
            self.pick(slab, claimed, |block| put(slab, block));
            Some(slab)
        });
        found.or_else(|| {
            let slab = self.using(1, keep_empty, || {
                self.empty.find(from, |slab| self.claim_empty(slab, class_number(class), 0))
            })?;
            self.cut(slab, class, most, |block| put(slab, block));
            Some(slab)
        })
    }

    /// Counts `count` more slabs as in use, and does `claim`, which makes it true or not. None if
    /// less than `keep_empty` slabs would be empty, or as `claim` says.
    fn using<T>(&self, count: u32, keep_empty: usize, claim: impl FnOnce() -> Option<T>) -> Option<T> {
        let most = u64::try_from(self.len().saturating_sub(keep_empty)).expect("64 bits");
        let more = |in_use: u64| Some(in_use + u64::from(count)).filter(|in_use| *in_use <= most);
        // It orders nothing: what a slab holds is ordered by the slab's word.
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let claimed = claim();
        if claimed.is_none() {
            self.no_longer_using(count);
        }
        claimed
    }

    fn no_longer_using(&self, count: u32) {
        self.in_use.fetch_sub(u64::from(count), Ordering::Relaxed);
    }

    /// Claims at most `most` free blocks of a slab; `None` if it has none, or another class, or is
    /// empty and is to stay empty.
    fn claim(&self, slab: usize, class: usize, most: u32, keep_empty: usize) -> Option<u32> {
        let class_number = class_number(class);
        let can = |word: Word| word.class == class_number && word.count > 0;
        loop {
            let word = self.word(slab);
            if !can(word) {
                self.with_free[class].remove(slab);
                if can(self.word(slab)) {
                    self.with_free[class].insert(slab);
                }
                return None;
            }
            let claimed = word.count.min(most);
            let change =
                || self.change(slab, word, Word { count: word.count - claimed, ..word }).then_some(claimed);
            if !self.is_empty(word) {
                if change().is_some() {
                    return Some(claimed);
                }
            } else if self.using(1, keep_empty, change).is_some() {
                return Some(claimed);
            } else if self.word(slab) == word {
                return None;
            }
        }
    }

    /// Clears `claimed` set bits, which are there: the caller has claimed so many.
    fn pick(&self, slab: usize, claimed: u32, mut put: impl FnMut(usize)) {
        let words = &self.free[slab * self.words_per_slab..][..self.words_per_slab];
        let mut missing = claimed;
        // More than once only if others took what was seen here, and gave back behind it.
        while missing > 0 {
            for (number, word) in words.iter().enumerate() {
                let mut wanted = lowest(word.load(Ordering::Relaxed), missing);
                if wanted != 0 {
                    wanted &= word.fetch_and(!wanted, Ordering::AcqRel);
                    missing -= wanted.count_ones();
                    ones(wanted).for_each(|bit| put(number * 64 + bit));
                }
            }
        }
    }

    /// Takes a slab that is empty, as it seems, out of its class; `None` if it is not.
    fn claim_empty(&self, slab: usize, class: u32, count: u32) -> Option<usize> {
        let word = self.word(slab);
        let is_claimed = self.is_empty(word) && self.change(slab, word, Word { class, count });
        self.empty.remove(slab);
        if self.is_empty(self.word(slab)) {
            self.empty.insert(slab);
        }
        is_claimed.then_some(slab)
    }

    /// Cuts a slab, which the caller has claimed for `class`, into blocks: at most `most` for the
    /// caller, the rest for everybody.
    fn cut(&self, slab: usize, class: usize, most: u32, put: impl FnMut(usize)) {
        let all = self.blocks_per_slab[class];
        let own = all.min(most);
        for number in 0..self.words_per_slab {
            let before = u32::try_from(number * 64).expect("few blocks");
            let bits = first(all.saturating_sub(before)) & !first(own.saturating_sub(before));
            self.free[slab * self.words_per_slab + number].store(bits, Ordering::Relaxed);
        }
        (0..index(own)).for_each(put);
        if all > own {
            self.words[slab].fetch_add(all - own, Ordering::AcqRel);
            self.with_free[class].insert(slab);
        }
    }

    /// Gives a block back. It was taken from here, as a block of `class`, and nobody uses it.
    pub(super) fn give(&self, class: usize, slab: usize, block: usize) {
        let bit = 1 << (block % 64);
        let free = &self.free[slab * self.words_per_slab + block / 64];
        let before = free.fetch_or(bit, Ordering::AcqRel);
        assert!(before & bit == 0, "block {block} of slab {slab} is given back twice");
        let word = Word::read(self.words[slab].fetch_add(1, Ordering::AcqRel));
        debug_assert_eq!(word.class, class_number(class), "slab {slab} is of that class");
        if word.count == 0 {
            self.with_free[class].insert(slab);
        }
        if word.count + 1 == self.blocks_per_slab[class] {
            self.empty.insert(slab);
            self.no_longer_using(1);
        }
    }

    /// Takes `count` slabs as a whole, one or two, if `keep_empty` others stay empty; two lie next
    /// to each other. The first one.
    pub(super) fn take_whole(&self, count: u32, from: usize, keep_empty: usize) -> Option<usize> {
        self.using(count, keep_empty, || self.find_whole(count, from))
    }

    fn find_whole(&self, count: u32, from: usize) -> Option<usize> {
        self.empty.find(from, |slab| {
            if count == 1 {
                return self.claim_empty(slab, WHOLE, 1);
            }
            if slab + 1 == self.len() || !self.is_empty(self.word(slab + 1)) {
                return None;
            }
            self.claim_empty(slab, WHOLE, 2)?;
            let both = self.claim_empty(slab + 1, WHOLE, 0).map(|_| slab);
            if both.is_none() {
                self.unuse(slab);
            }
            both
        })
    }

    /// Gives back what [`take_whole`](Self::take_whole) returned, which nobody uses.
    pub(super) fn give_whole(&self, slab: usize) {
        let word = self.word(slab);
        assert!(word.class == WHOLE && word.count > 0, "slab {slab} is in use as a whole: {word:?}");
        (slab..slab + index(word.count)).for_each(|slab| self.unuse(slab));
        self.no_longer_using(word.count);
    }

    fn unuse(&self, slab: usize) {
        self.words[slab].store(Word::UNUSED.bits(), Ordering::Release);
        self.empty.insert(slab);
    }

    /// How many slabs are empty. Exact if nobody changes it at this moment.
    pub(super) fn empty_slabs(&self) -> usize {
        (0..self.len()).filter(|&slab| self.is_empty(self.word(slab))).count()
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("32 bits are an index")
}

fn class_number(class: usize) -> u32 {
    u32::try_from(class).expect("few classes")
}

/// The first `count` bits, or all.
fn first(count: u32) -> u64 {
    1u64.checked_shl(count).map_or(u64::MAX, |bit| bit - 1)
}

/// The lowest `count` of the bits that are set.
fn lowest(bits: u64, count: u32) -> u64 {
    if bits.count_ones() <= count {
        return bits;
    }
    let rest = (0..count).fold(bits, |rest, _| rest & (rest - 1));
    bits & !rest
}

/// The numbers of the bits that are set.
fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then_some(bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(index(bit))
    })
}
