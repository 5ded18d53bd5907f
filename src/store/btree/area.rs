//! The append area of a leaf: how several cores write to it at once, and what they read.
//!
//! An area is a row of slots over a heap. A slot is one word; its states, and who may change them,
//! stand in `slot`. All that writers, readers and consolidations agree on is in these words: there
//! is no count of slots and no frozen bit beside them. Slots are taken in order, by a
//! compare-and-swap (CAS) of the first free one, and whoever freezes the area takes that slot for
//! the [seal](Area::freeze), after which nobody takes another.
//!
//! # A write
//!
//! 1. [`reserve`](Area::reserve) the first free slot by one CAS, with kind, tag and room in its
//!    word, and fill the entry. The room starts where that of the slot before it ends.
//! 2. [`settle`](Reserved::settle): wait a bounded time for each earlier slot of the same tag that
//!    is reserved, then abort it. Now every earlier write of this key is live, or never will be.
//! 3. Draw the sequence number. An earlier write of this key drew before it became live, so its
//!    number is smaller. *So two writes of one key have their numbers in the order of their slots.*
//! 4. [`publish`](Settled::publish): put the number into the entry, and make the slot live by one
//!    CAS. If it fails, a later writer of the key, or a consolidation, has aborted the slot: the
//!    number is void, and the writer starts over.
//!
//! An abort needs no help from the writer that it hits, so nobody waits for a thread that does not
//! run. It is the price that two writers of a key can abort each other in turns; the wait makes
//! that rare, and whoever was aborted often yields.
//!
//! # A read-modify-write
//!
//! [`view`](Area::view) finds the first free slot and settles what lies before it;
//! [`lookup`](Area::lookup) reads the key there; [`reserve_at`](Area::reserve_at) takes that slot,
//! or one behind it, if no slot in between is of the same tag. So no write of the key came in since
//! the view, and whatever is reserved later settles this slot first. A slot is free once only, so
//! no version has to be compared. An open intent for the key is a conflict: the transaction may
//! draw its number before this write does.
//!
//! A cached copy is written in this way too. By [`reserve`](Area::reserve) it could come after a
//! newer put of its key, and hide it.
//!
//! # Intents
//!
//! A transaction's intent settles like a write, and becomes live as an intent, with the address of
//! the transaction record. Its number is drawn later, when all intents of the transaction are live.
//! So an intent has a larger number than all earlier slots of its key, and any relation to later
//! ones. Three rules follow:
//!
//! - It settles although it does not draw. Else a read-modify-write could reserve, a transaction
//!   write and commit, and the read-modify-write draw a larger number than the write that it did
//!   not see.
//! - Readers look for intents in all slots, and take the largest number.
//! - A consolidation that carries an open intent into the new area puts later writes of the key
//!   below it, into the image. So whoever finds that the newest entry of an area is a committed
//!   intent ([`Lookup::is_intent`]) compares its number with that of what lies below.
//!
//! # Freezing
//!
//! [`freeze`](Area::freeze) seals the area, and [`decide_all`](Area::decide_all) waits for, or
//! aborts, what is reserved. Then the content is final: it is merged into a new node, which
//! replaces this one by a CAS of the mapping word. A full area needs no seal: nobody can take a
//! slot. All numbers in the new node's area are larger than all numbers here: its writers draw
//! after they reserved there, which is after the last slot here became live. For the same reason
//! nobody may put a node with an area on top of this one before its slots are decided.
//!
//! # Dirt
//!
//! The area is dirty if it has changes, and nobody keeps a number of it. The flusher finds the page
//! in a list that writers put it on between reserve and draw. [`Settled::must_list`] says when: if
//! no earlier slot has a change that is live. A writer that sees one knows that its writer has
//! listed the page; one that sees only reserved slots does not.
//!
//! # Memory orderings
//!
//! | access | ordering | what it publishes |
//! |---|---|---|
//! | CAS free → reserved | AcqRel | all slots before it are taken: who sees this one sees them |
//! | CAS reserved → live | Release is enough | entry and number |
//! | load of a slot | Acquire | an entry that is live; the draw of a settled slot came before |
//! | CAS free → sealed, reserved → aborted | Acquire is enough | – |
//! | failed CAS | Acquire | as a load |
//!
//! All of them are one function, whose CAS is AcqRel.
#![cfg_attr(all(test, any(loom, shuttle)), allow(dead_code, reason = "models use a part of it"))]

mod clean;
mod defect;
mod entry;
mod lookup;
mod slot;
mod slots;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

#[allow(unused_imports, reason = "the tree is to use them; until then which are used differs")]
pub(in crate::store) use {
    defect::Defect,
    entry::{Entry, NewEntry},
    lookup::{IntentState, Lookup},
    slot::Kind,
    slots::{Heap, Slots},
};
use {
    slot::{SlotWord, State},
    slots::{Room, Unclaimed},
};

/// Why a slot was not reserved. The remedy is the same for all but [`Changed`](Self::Changed): make
/// room by a consolidation, or help with the one that is under way, and start over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Refused {
    /// No slot is left, or the heap has too little room for this entry. An entry that needs more
    /// than the heap of an empty area never fits.
    Full,
    /// The area is frozen: its node is being replaced.
    Frozen,
    /// Someone has taken a slot of the same tag since the [`View`]: read again.
    Changed,
}

/// What became of a slot that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Published {
    /// The write is in the area.
    Live,
    /// Someone has aborted the slot. The number that was drawn for it is void.
    Aborted,
}

/// What became of a [write](Area::write).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Written {
    /// The write is in the area, under this number.
    Live(u64),
    /// Someone has aborted it. The number that was drawn for it, if one was, is void.
    Aborted(Option<u64>),
    Refused(Refused),
}

/// The moment of an area that a read-modify-write reads: the slots below `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct View {
    end: usize,
}

/// The append area of one node.
///
/// Where a function takes `wait`, it calls that for a slot that is reserved, with the number of
/// times that it has waited for this slot: true if a little time has passed and the slot is to be
/// looked at again, false if patience is over and the slot is to be aborted. [`spin`] is one.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Area<'a> {
    slots: Slots<'a>,
    #[cfg(all(test, loom))]
    defect: Option<Defect>,
}

/// Waits for a slot that is reserved: some 200 ns altogether. That is longer than a writer that
/// runs takes from reserving to publishing, and shorter than to be preempted.
pub(in crate::store) fn spin(waited: u32) -> bool {
    const ROUNDS: u32 = 8;
    std::hint::spin_loop();
    waited < ROUNDS
}

impl<'a> Area<'a> {
    pub(in crate::store) fn new(slots: Slots<'a>) -> Self {
        Self {
            slots,
            #[cfg(all(test, loom))]
            defect: None,
        }
    }

    /// The same area, whose protocol is broken in this way.
    #[cfg(all(test, loom))]
    pub(in crate::store) fn with_defect(self, defect: Option<Defect>) -> Self {
        Self { defect, ..self }
    }

    /// Whether the protocol is to be broken in this way. Never but in models.
    fn has(&self, defect: Defect) -> bool {
        #[cfg(all(test, loom))]
        let has = self.defect == Some(defect);
        #[cfg(not(all(test, loom)))]
        let has = {
            let _ = defect;
            false
        };
        has
    }

    /// The number of slots that there are.
    pub(in crate::store) fn slots(&self) -> usize {
        self.slots.capacity()
    }

    /// The number of slots that are taken.
    pub(in crate::store) fn taken(&self) -> usize {
        self.slots.first_free()
    }

    /// Whether nobody can take another slot.
    pub(in crate::store) fn is_frozen(&self) -> bool {
        let taken = self.taken();
        taken == self.slots.capacity() || self.slots.load(taken) == SlotWord::SEALED
    }

    /// Reserves the first free slot for `new`, and fills its entry.
    ///
    /// # Errors
    ///
    /// [`Refused::Full`] or [`Refused::Frozen`].
    pub(in crate::store) fn reserve(&self, new: &NewEntry<'_>) -> Result<Reserved<'a>, Refused> {
        self.reserve_from(self.taken(), new, |_| true)
    }

    /// Reserves the first free slot for `new`, and fills its entry, if no slot of its tag was taken
    /// since `view`.
    ///
    /// # Errors
    ///
    /// Each of [`Refused`].
    pub(in crate::store) fn reserve_at(
        &self,
        view: View,
        new: &NewEntry<'_>,
    ) -> Result<Reserved<'a>, Refused> {
        if self.has(Defect::IgnoreNewerSlots) {
            return self.reserve(new);
        }
        self.reserve_from(view.end, new, |taken| {
            // An aborted slot says nothing of its key.
            taken.tag() != new.tag || taken.state() == State::Aborted
        })
    }

    /// Reserves the first free slot from `first` on, and walks over those before it that were taken
    /// and do not matter.
    fn reserve_from(
        &self,
        first: usize,
        new: &NewEntry<'_>,
        does_not_matter: impl Fn(SlotWord) -> bool,
    ) -> Result<Reserved<'a>, Refused> {
        let (head, head_len) = new.head();
        let parts = [&head[..head_len], new.key, new.value];
        for index in first..self.slots.capacity() {
            match self.slots.claim(index, new.request(head_len), &parts) {
                Ok(room) => return Ok(Reserved { area: *self, room }),
                Err(Unclaimed::Taken) if does_not_matter(self.slots.load(index)) => {}
                Err(Unclaimed::Taken) => return Err(Refused::Changed),
                Err(Unclaimed::Sealed) => return Err(Refused::Frozen),
                Err(Unclaimed::NoRoom) => return Err(Refused::Full),
            }
        }
        Err(Refused::Full)
    }

    /// A whole write: reserves, settles, draws and publishes. `draw` gives the number; its argument
    /// is [`Settled::must_list`]. It is not called if the slot is aborted before.
    pub(in crate::store) fn write(
        &self,
        new: &NewEntry<'_>,
        wait: impl FnMut(u32) -> bool,
        draw: impl FnOnce(bool) -> u64,
    ) -> Written {
        match self.reserve(new) {
            Ok(reserved) => reserved.finish(wait, draw),
            Err(refused) => Written::Refused(refused),
        }
    }

    /// What a read-modify-write of a key with this tag reads. Every slot of the tag in it is
    /// decided.
    pub(in crate::store) fn view(&self, tag: u16, wait: impl FnMut(u32) -> bool) -> View {
        let view = View { end: self.taken() };
        self.settle_before(view.end, tag, wait);
        view
    }

    /// Decides the slots of this tag before `end`. It returns whether one of all the slots before
    /// `end` has a change that is live.
    fn settle_before(&self, end: usize, tag: u16, mut wait: impl FnMut(u32) -> bool) -> bool {
        let mut has_change = false;
        for index in 0..end {
            let mut word = self.slots.load(index);
            if word.tag() == tag {
                word = self.decide(index, word, &mut wait);
            }
            has_change = has_change || word.state() == State::Live && word.kind().is_change();
        }
        has_change
    }

    /// Waits for a slot that was seen as `word`, then aborts it. It returns what the slot is then:
    /// live or aborted.
    fn decide(&self, index: usize, mut word: SlotWord, wait: &mut impl FnMut(u32) -> bool) -> SlotWord {
        let mut waited = 0;
        while word.state() == State::Reserved {
            if !wait(waited) {
                return self.slots.abort(index, word);
            }
            waited += 1;
            word = self.slots.load(index);
        }
        word
    }

    /// Keeps everyone from taking another slot, from now on. It returns how many are taken. Several
    /// may freeze the same area.
    pub(in crate::store) fn freeze(&self) -> usize {
        if self.has(Defect::LeaveUnsealed) {
            return self.taken();
        }
        for index in self.taken()..self.slots.capacity() {
            match self.slots.seal(index) {
                Ok(()) | Err(SlotWord::SEALED) => return index,
                Err(_) => {}
            }
        }
        self.slots.capacity()
    }

    /// Decides every slot of a frozen area. Then its content is final.
    pub(in crate::store) fn decide_all(&self, mut wait: impl FnMut(u32) -> bool) {
        if self.has(Defect::LeaveReserved) {
            return;
        }
        for index in 0..self.taken() {
            self.decide(index, self.slots.load(index), &mut wait);
        }
    }
}

/// A slot that this writer has reserved, with its entry but for the number. Dropping it aborts the
/// slot.
#[derive(Debug)]
pub(in crate::store) struct Reserved<'a> {
    area: Area<'a>,
    room: Room<'a>,
}

impl<'a> Reserved<'a> {
    /// Decides all earlier slots of the same tag. After that, and not before, the number is drawn.
    pub(in crate::store) fn settle(self, wait: impl FnMut(u32) -> bool) -> Settled<'a> {
        let Self { area, room } = self;
        if area.has(Defect::DrawWithoutOrder) {
            return Settled { area, room, must_list: true };
        }
        let has_change = area.settle_before(room.index(), room.tag(), wait);
        let has_change = if area.has(Defect::ListFirstOnly) { room.index() > 0 } else { has_change };
        Settled { area, room, must_list: !has_change }
    }

    /// The rest of a [write](Area::write): settles, draws and publishes.
    pub(in crate::store) fn finish(
        self,
        wait: impl FnMut(u32) -> bool,
        draw: impl FnOnce(bool) -> u64,
    ) -> Written {
        let settled = self.settle(wait);
        if settled.room.is_aborted() {
            return Written::Aborted(None);
        }
        let seq = draw(settled.must_list());
        match settled.publish(seq) {
            Published::Live => Written::Live(seq),
            Published::Aborted => Written::Aborted(Some(seq)),
        }
    }
}

/// A reserved slot before which no slot of its tag is undecided. Dropping it aborts the slot.
#[derive(Debug)]
pub(in crate::store) struct Settled<'a> {
    area: Area<'a>,
    room: Room<'a>,
    must_list: bool,
}

impl Settled<'_> {
    /// Whether the page is to be put on a list of dirty pages before the number is drawn, if this
    /// entry is a [change](Kind::is_change). It may be on a list already.
    pub(in crate::store) fn must_list(&self) -> bool {
        self.must_list
    }

    /// Puts `seq` into the entry and makes the slot live. For an intent `seq` is the address of its
    /// transaction record; for a cached copy the number of what it is a copy of, or 0.
    pub(in crate::store) fn publish(self, seq: u64) -> Published {
        let Self { area, mut room, .. } = self;
        room.write_head(seq.to_le_bytes());
        if area.has(Defect::PublishByStore) {
            room.publish_by_store();
            return Published::Live;
        }
        if room.publish() { Published::Live } else { Published::Aborted }
    }
}
