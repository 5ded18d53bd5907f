//! The free stacks of a thread.

use std::rc::Rc;

use super::slab::{Guards, Slab, Slot, make_guard};
use super::{CLASSES, MAX_STACK_BYTES, MIN_STACK_BYTES, StackStats};
use crate::error::{Error, ErrorKind, Result};

/// A slab has at most this many bytes, unless one stack is larger. The first one of a class is
/// smaller.
const MAX_SLAB_BYTES: usize = 256 << 20;
/// Stacks in the first slab of a class; each further one has twice as many as the one before.
pub(super) const FIRST_SLAB_STACKS: usize = 16;
/// Free stacks of a class that keep all the memory they used.
pub(super) const WARM: usize = 256;
/// What a stack keeps that is neither among those nor was used for a while, in bytes.
pub(super) const KEPT_BYTES: usize = 16 << 10;
/// How many stacks come back in such a while.
pub(super) const WHILE: usize = 4096;
/// So many stacks come back for each that gives its memory back, so that this does not dominate the
/// cost of spawning.
pub(super) const PAUSE: usize = 8;

/// Stacks of one size.
#[derive(Default)]
pub(super) struct Class {
    /// The last one is the next to be handed out.
    pub(super) free: Vec<Slot>,
    /// So many of the first ones have given their memory back.
    cold: usize,
    /// The fewest that were free at once in this while, and in the one before: the first ones,
    /// which were not used.
    unused: usize,
    unused_before: usize,
    /// How many came back in this while.
    returned: usize,
    /// The newest slab and how many of its stacks were never handed out.
    uncut: Option<(Rc<Slab>, usize)>,
    next_slab_stacks: usize,
    used: usize,
}

impl Class {
    const EMPTY: Self = Self {
        free: Vec::new(),
        cold: 0,
        unused: 0,
        unused_before: 0,
        returned: 0,
        uncut: None,
        next_slab_stacks: FIRST_SLAB_STACKS,
        used: 0,
    };

    fn take(&mut self) -> Option<Slot> {
        let slot = self.free.pop()?;
        let left = self.free.len();
        self.unused = self.unused.min(left);
        self.cold = self.cold.min(left);
        self.used += 1;
        Some(slot)
    }

    fn put(&mut self, slot: Slot) {
        self.used -= 1;
        self.free.push(slot);
        self.returned += 1;
        if self.returned.is_multiple_of(PAUSE) {
            self.cool();
        }
    }

    /// Now and then: one stack gives its memory back, if it is one too many.
    fn cool(&mut self) {
        let spare = self.unused.min(self.unused_before).min(self.free.len().saturating_sub(WARM));
        if self.cold < spare {
            self.free[self.cold].discard(KEPT_BYTES);
            self.cold += 1;
        }
        if self.returned >= WHILE {
            self.returned = 0;
            self.unused_before = self.unused;
            self.unused = self.free.len();
        }
    }
}

pub(super) struct Pool {
    pub(super) classes: [Class; CLASSES],
    guards: Guards,
    reserved_bytes: usize,
}

impl Pool {
    pub(super) const fn new(guards: Guards) -> Self {
        Self { classes: [Class::EMPTY; CLASSES], guards, reserved_bytes: 0 }
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

    pub(super) fn take(&mut self, bytes: usize) -> Result<Slot> {
        let class = Self::class_of(bytes)?;
        if let Some(slot) = self.classes[class].take() {
            return Ok(slot);
        }
        let slot = self.cut(class)?;
        self.classes[class].used += 1;
        Ok(slot)
    }

    /// A stack that was never used, with its guard.
    #[cold]
    fn cut(&mut self, class: usize) -> Result<Slot> {
        if self.classes[class].uncut.is_none() {
            let stack_bytes = MIN_STACK_BYTES << class;
            let most = (MAX_SLAB_BYTES / stack_bytes).max(1);
            let stacks = self.classes[class].next_slab_stacks.min(most);
            let slab = Slab::new(stacks, stack_bytes)?;
            self.reserved_bytes += slab.len();
            let stacks = slab.stacks;
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

    pub(super) fn put(&mut self, slot: Slot) {
        let class = (slot.slab.stack_bytes / MIN_STACK_BYTES).ilog2() as usize;
        self.classes[class].put(slot);
    }

    /// Gives the memory of free stacks back, and takes out those whose slabs are free as a whole.
    /// They are the caller's to drop, when the pool is not borrowed any more: what fails then is
    /// logged, and a subscriber is others' code.
    #[must_use]
    pub(super) fn trim(&mut self) -> Vec<Slot> {
        let mut gone = Vec::new();
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
            class.cold = class.free.len();
            class.unused = class.free.len();
            gone.extend(free);
        }
        gone
    }

    pub(super) fn stats(&self) -> StackStats {
        let sum = |count: fn(&Class) -> usize| self.classes.iter().map(count).sum();
        StackStats {
            used: sum(|class| class.used),
            free: sum(|class| class.free.len()),
            reserved_bytes: self.reserved_bytes,
        }
    }
}
