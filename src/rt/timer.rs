//! A hierarchical timing wheel (Varghese and Lauck, SOSP 1987): insert and cancel in constant time.
//!
//! Seven levels of 64 slots. A slot of level 0 is one tick of 2¹⁴ ns (16.4 µs), a slot of level *n*
//! is 64 slots of level *n − 1*. An entry sits on the level where its tick first differs from the
//! wheel's current tick, so it moves down at most once per level before it fires. A bitmap per
//! level finds the next occupied slot without a scan.
//!
//! A slot may hold any number of entries, so moving them to finer levels has a budget too. Nothing
//! fires before all entries of a slot have moved: one that is left may be the earliest.

use crate::time::Instant;

const TICK_SHIFT: u32 = 14;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 7;
/// Deadlines further away than the wheel spans wait on the last level and are inserted again. It
/// spans 62 of the last level's 64 slots of 2³⁶ ticks (807 days): with 64 an entry could come
/// around to the current slot and seem due at once, forever.
const MAX_TICKS: u64 = 62 << (SLOT_BITS * 6);
const NIL: u32 = u32::MAX;
/// Entries are moved to a finer level this many times as cheaply as one is fired.
const MOVES_PER_FIRE: usize = 4;

/// Names an entry of a [`Wheel`] until it fires or is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimerKey {
    index: u32,
    generation: u32,
}

/// Deadlines with a value each. Fires never early, and late by less than one tick (16.4 µs) plus
/// the caller's delay.
#[derive(Debug)]
pub(super) struct Wheel<T> {
    current_tick: u64,
    /// No entry is due before this tick.
    due_tick: u64,
    occupied: [u64; LEVELS],
    heads: [[u32; SLOTS]; LEVELS],
    /// The level and number of the slot whose entries are being moved to finer levels.
    cascading: Option<(usize, usize)>,
    entries: Vec<TimerEntry<T>>,
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct TimerEntry<T> {
    /// `None` while the entry is on the free list.
    value: Option<T>,
    deadline_tick: u64,
    generation: u32,
    level: u8,
    slot: u8,
    previous: u32,
    next: u32,
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self::new(Instant::ORIGIN)
    }
}

impl<T> Wheel<T> {
    /// An empty wheel whose current time is `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            current_tick: now.as_nanos() >> TICK_SHIFT,
            due_tick: u64::MAX,
            occupied: [0; LEVELS],
            heads: [[NIL; SLOTS]; LEVELS],
            cascading: None,
            entries: Vec::new(),
            free: NIL,
            len: 0,
        }
    }

    /// How many entries wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds `value`, to be handed out by the first [`Wheel::expire`] at or after `deadline`. A
    /// deadline in the past fires at the next one.
    ///
    /// # Panics
    ///
    /// If 2³² − 1 entries wait already.
    pub(super) fn insert(&mut self, deadline: Instant, value: T) -> TimerKey {
        // Rounded up: an entry must not fire before its deadline.
        let deadline_tick = deadline.as_nanos().div_ceil(1 << TICK_SHIFT);
        let index = if self.free == NIL {
            let index = u32::try_from(self.entries.len()).expect("fewer than 2^32 timers");
            assert!(index != NIL, "fewer than 2^32 - 1 timers");
            self.entries.push(TimerEntry {
                value: Some(value),
                deadline_tick,
                generation: 0,
                level: 0,
                slot: 0,
                previous: NIL,
                next: NIL,
            });
            index
        } else {
            let index = self.free;
            let entry = self.entry_mut(index);
            entry.value = Some(value);
            entry.deadline_tick = deadline_tick;
            self.free = std::mem::replace(&mut self.entry_mut(index).next, NIL);
            index
        };
        self.link(index);
        self.len += 1;
        TimerKey { index, generation: self.entry(index).generation }
    }

    /// Takes an entry out before it fires; `None` if it has fired.
    pub(super) fn remove(&mut self, key: TimerKey) -> Option<T> {
        self.get_mut(key)?;
        self.unlink(key.index);
        self.release(key.index)
    }

    /// Takes every entry out before it fires, in no order. Their keys name nothing from then on, as
    /// if they had been removed.
    pub(super) fn clear(&mut self) -> Vec<T> {
        let mut values = Vec::with_capacity(self.len);
        for index in 0..self.entries.len() {
            let index = u32::try_from(index).expect("fewer than 2^32 timers");
            if self.entry(index).value.is_some() {
                self.unlink(index);
                values.extend(self.release(index));
            }
        }
        self.cascading = None;
        self.due_tick = u64::MAX;
        values
    }

    /// The value of an entry that has not fired.
    pub(super) fn get_mut(&mut self, key: TimerKey) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    /// A time by which `expire` should be called: at or before the earliest deadline. `None` if no
    /// entry waits.
    ///
    /// For an entry far away this may be early (when its slot moves to a finer level); calling
    /// `expire` then is cheap.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next_slot().map(|(_, _, tick)| Instant::from_nanos(tick << TICK_SHIFT))
    }

    /// Whether `expire` may have something to do at `now`. Costs a comparison.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now.as_nanos() >> TICK_SHIFT >= self.due_tick
    }

    /// Hands the values whose deadline is at or before `now` to `fire`, at most `budget` of them,
    /// and returns how many that were. It also moves entries within the wheel, at most four times
    /// `budget`: there may be more to do even if it was fewer, which [`Wheel::is_due`] tells.
    pub(super) fn expire(&mut self, now: Instant, budget: usize, fire: impl FnMut(T)) -> usize {
        let fired = self.expire_slots(now, budget, fire);
        self.due_tick = self.next_slot().map_or(u64::MAX, |(_, _, tick)| tick);
        fired
    }

    fn expire_slots(&mut self, now: Instant, budget: usize, mut fire: impl FnMut(T)) -> usize {
        let now_tick = now.as_nanos() >> TICK_SHIFT;
        let mut fired = 0;
        let mut moves = budget.saturating_mul(MOVES_PER_FIRE);
        // What was left of it may have been removed.
        self.cascading = self.cascading.filter(|(level, slot)| self.heads[*level][*slot] != NIL);
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now_tick {
                break;
            }
            self.current_tick = self.current_tick.max(tick);
            if level > 0 {
                self.cascade(level, slot, &mut moves);
                if self.cascading.is_some() {
                    return fired;
                }
                continue;
            }
            while self.heads[0][slot] != NIL {
                if fired == budget {
                    return fired;
                }
                let index = self.heads[0][slot];
                self.unlink(index);
                if let Some(value) = self.release(index) {
                    fired += 1;
                    fire(value);
                }
            }
        }
        self.current_tick = self.current_tick.max(now_tick);
        fired
    }

    /// Moves the entries of a coarse slot whose time has come to finer levels, as far as there are
    /// `moves` left.
    fn cascade(&mut self, level: usize, slot: usize, moves: &mut usize) {
        let mut index = self.heads[level][slot];
        while index != NIL && *moves > 0 {
            let next = self.entry(index).next;
            // Never back into this slot: the current tick lies in it, so what it held differs from
            // that on finer levels only.
            self.link(index);
            index = next;
            *moves -= 1;
        }
        self.heads[level][slot] = index;
        if index == NIL {
            self.occupied[level] &= !(1 << slot);
            self.cascading = None;
        } else {
            self.entry_mut(index).previous = NIL;
            self.cascading = Some((level, slot));
        }
    }

    /// The occupied slot that is due first, and the tick at which it is.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        if let Some((level, slot)) = self.cascading
            && self.heads[level][slot] != NIL
        {
            return Some((level, slot, self.current_tick));
        }
        (0..LEVELS).find_map(|level| {
            if self.occupied[level] == 0 {
                return None;
            }
            let shift = SLOT_BITS * u32::try_from(level).expect("a level is small");
            let current_slot = (self.current_tick >> shift) & (SLOTS as u64 - 1);
            // Every occupied slot of a level is at or after the current one within the same turn of
            // the level, except on the last level, where far deadlines wrap around.
            let rotated = self.occupied[level].rotate_right(u32::try_from(current_slot).expect("below 64"));
            let distance = u64::from(rotated.trailing_zeros());
            let tick = if distance == 0 && level == 0 {
                self.current_tick
            } else {
                (((self.current_tick >> shift) + distance) << shift).max(self.current_tick)
            };
            let slot = usize::try_from((current_slot + distance) % SLOTS as u64).expect("below 64");
            Some((level, slot, tick))
        })
    }

    fn link(&mut self, index: u32) {
        let tick = self
            .entry(index)
            .deadline_tick
            .clamp(self.current_tick, self.current_tick.saturating_add(MAX_TICKS));
        let differing_bits = u64::BITS - ((tick ^ self.current_tick) | (SLOTS as u64 - 1)).leading_zeros();
        let level = usize::try_from((differing_bits - 1) / SLOT_BITS).expect("below 64").min(LEVELS - 1);
        let shift = SLOT_BITS * u32::try_from(level).expect("a level is small");
        let slot = usize::try_from((tick >> shift) & (SLOTS as u64 - 1)).expect("below 64");
        let head = std::mem::replace(&mut self.heads[level][slot], index);
        if head != NIL {
            self.entry_mut(head).previous = index;
        }
        let entry = self.entry_mut(index);
        entry.level = u8::try_from(level).expect("below 7");
        entry.slot = u8::try_from(slot).expect("below 64");
        entry.previous = NIL;
        entry.next = head;
        self.occupied[level] |= 1 << slot;
        // When the slot comes, which may be before the entry's own tick.
        self.due_tick = self.due_tick.min((tick >> shift) << shift);
    }

    fn unlink(&mut self, index: u32) {
        let entry = self.entry(index);
        let (level, slot) = (usize::from(entry.level), usize::from(entry.slot));
        let (previous, next) = (entry.previous, entry.next);
        if previous == NIL {
            self.heads[level][slot] = next;
            if next == NIL {
                self.occupied[level] &= !(1 << slot);
            }
        } else {
            self.entry_mut(previous).next = next;
        }
        if next != NIL {
            self.entry_mut(next).previous = previous;
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let free = std::mem::replace(&mut self.free, index);
        let entry = self.entry_mut(index);
        entry.generation = entry.generation.wrapping_add(1);
        entry.next = free;
        let value = entry.value.take();
        self.len -= 1;
        value
    }

    fn entry(&self, index: u32) -> &TimerEntry<T> {
        &self.entries[index as usize]
    }

    fn entry_mut(&mut self, index: u32) -> &mut TimerEntry<T> {
        &mut self.entries[index as usize]
    }
}

#[cfg(test)]
mod tests;
