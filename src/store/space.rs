//! Which units of the namespace are in use: a bitmap, searched next-fit.

/// A run of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    /// The first unit, counted from the start of the namespace.
    pub(super) start: u64,
    /// How many.
    pub(super) units: u32,
}

impl Extent {
    pub(super) fn end(&self) -> u64 {
        self.start + u64::from(self.units)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// The smallest and the largest step by which a namespace grows.
const GROW_STEP_BYTES: std::ops::RangeInclusive<u64> = 16 << 20..=1 << 30;

/// By how much a namespace of `size_bytes` grows at once.
pub(super) fn grow_step_bytes(size_bytes: u64) -> u64 {
    (size_bytes / 8).clamp(*GROW_STEP_BYTES.start(), *GROW_STEP_BYTES.end())
}

const WORD: u64 = 64;
/// Words per group: the free units of a group are counted, so that a search skips full groups.
const GROUP_WORDS: u64 = 64;

/// The allocation map in memory.
pub(super) struct Space {
    /// 1 is in use; the bits past `units` are set.
    words: Vec<u64>,
    group_free: Vec<u32>,
    units: u64,
    free: u64,
    cursor: u64,
    /// Units from here on are taken only if there are no others.
    ceiling: u64,
    /// What no object ever lies in, and what that comes to in units.
    fixed: Vec<Extent>,
    fixed_units: u64,
}

impl Space {
    /// A map of `units` free units.
    pub(super) fn new(units: u64) -> Self {
        let mut space = Self {
            words: Vec::new(),
            group_free: Vec::new(),
            units: 0,
            free: 0,
            cursor: 0,
            ceiling: u64::MAX,
            fixed: Vec::new(),
            fixed_units: 0,
        };
        space.grow(units);
        space
    }

    /// The map that `bytes` (disk format, section 5) describes, for a namespace of `units`. `None`
    /// if it says more than that.
    pub(super) fn from_bytes(bytes: &[u8], units: u64) -> Option<Self> {
        let mut space = Self::new(units);
        // By words: the map of a large namespace has hundreds of millions of bits, and nobody else
        // runs meanwhile.
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            let used = u64::from_le_bytes(word);
            let inside = units.saturating_sub(index as u64 * WORD);
            if inside < WORD && used >> inside != 0 {
                return None;
            }
            if used != 0 {
                space.words[index] |= used;
                space.group_free[index / super::codec::to_usize(GROUP_WORDS)] -= used.count_ones();
                space.free -= u64::from(used.count_ones());
            }
        }
        Some(space)
    }

    /// The map as it is stored, without the extents in `except`.
    pub(super) fn to_bytes<'a>(&self, len: usize, except: impl Iterator<Item = &'a Extent>) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.words.iter().take(len.div_ceil(8)).flat_map(|word| word.to_le_bytes()).collect();
        // The bits past the end of the namespace are set in memory, and zero on disk.
        let end = super::codec::to_usize(self.units / 8);
        if bytes.len() > end {
            bytes.truncate(end + 1);
            bytes[end] &= (1 << (self.units % 8)) - 1;
        }
        bytes.resize(len, 0);
        for extent in except {
            for unit in extent.start..extent.end() {
                if let Some(byte) = bytes.get_mut(super::codec::to_usize(unit / 8)) {
                    *byte &= !(1 << (unit % 8));
                }
            }
        }
        bytes
    }

    /// How many bytes [`Space::to_bytes`] needs to cover every unit in use.
    pub(super) fn used_bytes(&self) -> usize {
        super::codec::to_usize(self.top().div_ceil(WORD)) * 8
    }

    /// The bits of a word that are in use and within the namespace.
    fn used_in_word(&self, word: u64) -> u64 {
        let bits = self.words[super::codec::to_usize(word)];
        let inside = self.units - word * WORD;
        if inside >= WORD { bits } else { bits & ((1 << inside) - 1) }
    }

    pub(super) fn units(&self) -> u64 {
        self.units
    }

    pub(super) fn free_units(&self) -> u64 {
        self.free
    }

    /// The units that objects take.
    pub(super) fn object_units(&self) -> u64 {
        self.units - self.free - self.fixed_units
    }

    /// Sets an extent that is inside, and no part of which was fixed before, aside for good: it is
    /// in use, and never given back.
    pub(super) fn fix(&mut self, extent: Extent) {
        self.set(extent);
        self.fixed.push(extent);
        self.fixed_units += u64::from(extent.units);
    }

    /// Makes the namespace `units` units large; does nothing if it is that large already.
    pub(super) fn grow(&mut self, units: u64) {
        if units <= self.units {
            return;
        }
        let groups = super::codec::to_usize(units.div_ceil(WORD * GROUP_WORDS));
        self.words.resize(groups * super::codec::to_usize(GROUP_WORDS), u64::MAX);
        self.group_free.resize(groups, 0);
        let (start, added) = (self.units, units - self.units);
        self.units = units;
        self.change(start, added, false);
    }

    /// Takes `count` consecutive units.
    pub(super) fn allocate(&mut self, count: u32) -> Option<Extent> {
        if count == 0 || u64::from(count) > self.free {
            return None;
        }
        let (wanted, ceiling) = (u64::from(count), self.units.min(self.ceiling));
        let cursor = self.cursor.min(ceiling);
        let found = self
            .find(cursor, ceiling, wanted)
            .or_else(|| self.find(0, ceiling.min(cursor.saturating_add(wanted)), wanted))
            .or_else(|| self.find(ceiling, self.units, wanted))?;
        let extent = Extent { start: found, units: count };
        self.change(extent.start, wanted, true);
        self.cursor = extent.end();
        Some(extent)
    }

    /// Keeps what is taken from now on below `ceiling` units, as long as there is room.
    pub(super) fn set_ceiling(&mut self, ceiling: u64) {
        self.ceiling = ceiling;
    }

    /// The unit after the last one in use.
    pub(super) fn top(&self) -> u64 {
        let last = (0..self.units.div_ceil(WORD)).rev().find(|&word| self.used_in_word(word) != 0);
        last.map_or(0, |word| (word + 1) * WORD - u64::from(self.used_in_word(word).leading_zeros()))
    }

    /// Cuts the map down to `units`, but not below the last unit in use.
    pub(super) fn shrink(&mut self, units: u64) {
        let units = units.max(self.top());
        if units < self.units {
            self.change(units, self.units - units, true);
            self.units = units;
        }
    }

    /// Starts the next search at the front again, which keeps the map, and a growing namespace,
    /// short.
    pub(super) fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// Marks an extent in use, whatever it was.
    pub(super) fn set(&mut self, extent: Extent) {
        for unit in extent.start..extent.end() {
            if !self.is_used(unit) {
                self.change(unit, 1, true);
            }
        }
    }

    /// Takes these very units. Returns false, and changes nothing, if any of them is outside or in
    /// use.
    #[must_use]
    pub(super) fn take(&mut self, extent: Extent) -> bool {
        let is_free = (extent.start..extent.end()).all(|unit| !self.is_used(unit));
        if is_free {
            self.change(extent.start, u64::from(extent.units), true);
        }
        is_free
    }

    /// Whether all of an extent is inside and in use.
    pub(super) fn is_all_used(&self, extent: Extent) -> bool {
        extent.end() <= self.units && (extent.start..extent.end()).all(|unit| self.is_used(unit))
    }

    /// Whether a unit is in use; a unit outside is.
    pub(super) fn is_used(&self, unit: u64) -> bool {
        unit >= self.units || self.words[super::codec::to_usize(unit / WORD)] & (1 << (unit % WORD)) != 0
    }

    /// Gives an object's extent back. Returns false, and changes nothing, if it cannot be one: any
    /// of it is free already, or fixed.
    #[must_use]
    pub(super) fn release(&mut self, extent: Extent) -> bool {
        let is_fixed = self.fixed.iter().any(|fixed| fixed.overlaps(&extent));
        let is_objects = !is_fixed && self.is_all_used(extent);
        if is_objects {
            self.change(extent.start, u64::from(extent.units), false);
        }
        is_objects
    }

    /// Gives extents back that were just taken.
    pub(super) fn undo(&mut self, extents: impl Iterator<Item = Extent>) {
        for extent in extents {
            assert!(self.release(extent), "it was just taken");
        }
    }

    fn find(&self, from: u64, to: u64, count: u64) -> Option<u64> {
        let mut unit = from;
        let mut run = 0;
        while unit < to {
            if unit.is_multiple_of(WORD * GROUP_WORDS)
                && self.group_free[super::codec::to_usize(unit / (WORD * GROUP_WORDS))] == 0
            {
                run = 0;
                unit += WORD * GROUP_WORDS;
                continue;
            }
            let offset = unit % WORD;
            let bits = self.words[super::codec::to_usize(unit / WORD)] >> offset;
            let zeros = u64::from(bits.trailing_zeros()).min(WORD - offset);
            run += zeros;
            if run >= count {
                let start = unit + zeros - run;
                return (start + count <= to).then_some(start);
            }
            unit += zeros;
            if zeros < WORD - offset {
                run = 0;
                unit += u64::from((bits >> zeros).trailing_ones());
            }
        }
        None
    }

    /// Sets or clears `count` bits from `start`, all of which are the other way round.
    fn change(&mut self, start: u64, count: u64, used: bool) {
        let mut unit = start;
        let end = start + count;
        while unit < end {
            let offset = unit % WORD;
            let in_word = (WORD - offset).min(end - unit);
            let ones = if in_word == WORD { u64::MAX } else { (1 << in_word) - 1 };
            let mask = ones << offset;
            let word = &mut self.words[super::codec::to_usize(unit / WORD)];
            let group = &mut self.group_free[super::codec::to_usize(unit / (WORD * GROUP_WORDS))];
            let delta = mask.count_ones();
            if used {
                *word |= mask;
                *group -= delta;
            } else {
                *word &= !mask;
                *group += delta;
            }
            unit += in_word;
        }
        if used {
            self.free -= count;
        } else {
            self.free += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_words_and_given_back() {
        let mut space = Space::new(200);
        let first = space.allocate(60).expect("room");
        let second = space.allocate(100).expect("room");
        assert_eq!((first.start, second.start), (0, 60));
        assert_eq!(space.allocate(41), None);
        assert!(space.release(first));
        assert!(!space.release(first), "it is free already");
        assert_eq!(space.free_units(), 100);
        assert_eq!(space.allocate(61), None, "60 and 40 are apart");
        assert_eq!(space.allocate(60), Some(first));
    }

    #[test]
    fn units_are_taken_by_name_if_all_are_free() {
        let mut space = Space::new(200);
        assert!(space.take(Extent { start: 190, units: 10 }));
        for (start, units) in [(190, 1), (180, 11), (199, 1), (200, 1), (150, 51)] {
            assert!(!space.take(Extent { start, units }), "from {start}");
        }
        assert_eq!(space.free_units(), 190);
    }

    #[test]
    fn what_is_fixed_is_never_given_back() {
        let mut space = Space::new(200);
        space.fix(Extent { start: 0, units: 16 });
        space.fix(Extent { start: 100, units: 50 });
        let object = space.allocate(10).expect("room");
        assert_eq!((object.start, space.object_units()), (16, 10));
        for (start, units) in [(0, 1), (15, 2), (90, 20), (149, 1)] {
            assert!(!space.release(Extent { start, units }), "from {start}");
        }
        assert_eq!((space.free_units(), space.object_units()), (124, 10));
        assert!(space.release(object));
        assert_eq!((space.free_units(), space.object_units()), (134, 0));
    }

    #[test]
    fn the_stored_form_reads_back_without_what_was_left_out() {
        let mut space = Space::new(10_000);
        let kept = space.allocate(700).expect("room");
        let left_out = space.allocate(9).expect("room");
        let bytes = space.to_bytes(space.used_bytes(), [left_out].iter());
        let again = Space::from_bytes(&bytes, 10_000).expect("valid");
        assert_eq!(again.free_units(), 9_300);
        assert!((kept.start..kept.end()).all(|unit| again.is_used(unit)));
        let small = Space::new(100);
        let bytes_of_small = small.to_bytes(64, [].iter());
        assert_eq!(bytes_of_small, [0; 64], "what is past the end is not in use");
        assert!(Space::from_bytes(&bytes, 600).is_none(), "more than the namespace has");
    }

    #[test]
    fn full_groups_are_skipped_and_growth_adds_room() {
        let mut space = Space::new(5_000);
        while space.allocate(1).is_some() {}
        assert_eq!(space.free_units(), 0);
        space.grow(5_100);
        assert_eq!(space.allocate(100).map(|extent| extent.start), Some(5_000));
        assert_eq!(space.allocate(1), None);
    }

    #[test]
    fn a_map_that_shrinks_keeps_what_is_in_use_and_can_grow_again() {
        let mut space = Space::new(10_000);
        let low = space.allocate(100).expect("room");
        let high = space.allocate(5_000).expect("room");
        space.set_ceiling(1_000);
        assert_eq!(space.allocate(900).map(|extent| extent.start), Some(5_100), "only beyond the ceiling");
        space.set_ceiling(200);
        assert!(space.release(high));
        assert_eq!(space.allocate(100).map(|extent| extent.start), Some(100), "below the ceiling");
        assert_eq!(space.top(), 6_000);
        space.shrink(300);
        assert_eq!((space.units(), space.free_units()), (6_000, 4_900));
        assert!(space.release(Extent { start: 5_100, units: 900 }));
        assert_eq!(space.top(), low.end() + 100);
        space.shrink(300);
        assert_eq!((space.units(), space.free_units()), (300, 100));
        assert!(space.is_used(300), "what is outside is not to be had");
        space.grow(700);
        assert_eq!((space.units(), space.free_units()), (700, 500));
        space.set_ceiling(u64::MAX);
        assert_eq!(space.allocate(500).map(|extent| extent.start), Some(200));
    }
}
