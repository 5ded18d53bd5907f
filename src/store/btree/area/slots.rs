//! The memory of an area: the words of its slots, and the heap that their entries lie in.
//!
//! The only code of the area that touches raw memory. What keeps it right:
//!
//! - A slot's word goes from free to reserved once, by the compare-and-swap in [`Slots::claim`].
//!   Whoever does it has the [`Room`], and the room's bytes with it.
//! - A room starts where that of the slot before it ends, and offset and length of a slot that is
//!   taken never change. So no two rooms overlap.
//! - A room's owner alone writes to it, and never once the slot is live, because
//!   [`Room::publish`] consumes it. The room of an aborted slot is its owner's for ever.
//! - Others read a room's bytes only when they have seen the slot live with `Acquire`, after its
//!   owner made it so with `Release`.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;

use super::slot::{Request, SlotWord, State};
use crate::store::atomic::{AtomicU64, Ordering};

/// Bytes that the entries of an area lie in.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Heap<'a> {
    base: NonNull<u8>,
    len_bytes: usize,
    /// In models: one cell for every 8 bytes, which notices accesses that race.
    #[cfg(loom)]
    watched: &'a [loom::cell::UnsafeCell<()>],
    memory: PhantomData<&'a UnsafeCell<[u8]>>,
}

impl<'a> Heap<'a> {
    /// # Safety
    ///
    /// `base` is aligned to 8 bytes; it and the `len_bytes` after it are one allocation, valid for
    /// reads and writes during `'a`. In that time only heaps of areas over the same slots access
    /// them.
    pub(in crate::store) unsafe fn new(
        base: NonNull<u8>,
        len_bytes: usize,
        #[cfg(loom)] watched: &'a [loom::cell::UnsafeCell<()>],
    ) -> Self {
        Self {
            base,
            len_bytes,
            #[cfg(loom)]
            watched,
            memory: PhantomData,
        }
    }

    /// In models: these bytes are written now.
    fn watch_write(&self, offset: usize, len: usize) {
        #[cfg(loom)]
        for cell in &self.watched[offset / SlotWord::UNIT..(offset + len).div_ceil(SlotWord::UNIT)] {
            cell.with_mut(|_| ());
        }
        let _ = (offset, len);
    }

    /// In models: these bytes are read now.
    fn watch_read(&self, offset: usize, len: usize) {
        #[cfg(loom)]
        for cell in &self.watched[offset / SlotWord::UNIT..(offset + len).div_ceil(SlotWord::UNIT)] {
            cell.with(|_| ());
        }
        let _ = (offset, len);
    }

    /// # Safety
    ///
    /// The caller has the room that these bytes belong to. `offset + bytes.len()` is within the
    /// heap.
    unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        self.watch_write(offset, bytes.len());
        // SAFETY: the offset is within the heap, which is one allocation.
        let to = unsafe { self.base.add(offset) };
        // SAFETY: the target is within the heap. Nobody else accesses the caller's room, so the
        // source, which is borrowed, does not overlap it.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// # Safety
    ///
    /// These bytes are within the heap and were written; the write happened before this call, and
    /// they are not written again during `'a`.
    unsafe fn read(&self, offset: usize, len: usize) -> &'a [u8] {
        self.watch_read(offset, len);
        // SAFETY: the offset is within the heap, which is one allocation.
        let from = unsafe { self.base.add(offset) };
        // SAFETY: the bytes are initialised and unchanged for as long as the slice lives, as the
        // caller promises.
        unsafe { slice::from_raw_parts(from.as_ptr(), len) }
    }
}

/// Why a slot was not claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unclaimed {
    /// Someone else has the slot.
    Taken,
    /// The area is sealed before or at this slot.
    Sealed,
    /// The heap has less room than the entry needs.
    NoRoom,
}

/// Slots and heap of one area.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Slots<'a> {
    words: &'a [AtomicU64],
    heap: Heap<'a>,
}

impl<'a> Slots<'a> {
    /// # Safety
    ///
    /// During `'a` the words are changed through `Slots` with this heap only. When the first of
    /// them was made, they were 0.
    pub(in crate::store) unsafe fn new(words: &'a [AtomicU64], heap: Heap<'a>) -> Self {
        Self { words, heap }
    }

    pub(super) fn capacity(&self) -> usize {
        self.words.len()
    }

    /// The word of a slot. What its owner wrote before it made the slot live is visible afterwards.
    pub(super) fn load(&self, index: usize) -> SlotWord {
        SlotWord::from_bits(self.words[index].load(Ordering::Acquire))
    }

    /// The first slot that is not taken, or how many there are.
    #[inline]
    pub(super) fn first_free(&self) -> usize {
        let is_taken = |word: &AtomicU64| SlotWord::from_bits(word.load(Ordering::Acquire)).is_taken();
        self.words.iter().position(|word| !is_taken(word)).unwrap_or(self.words.len())
    }

    /// The slots below `end` that are seen live with this tag, the last one first.
    #[inline]
    pub(super) fn live_of_tag(
        &self,
        end: usize,
        tag: u16,
    ) -> impl Iterator<Item = (usize, SlotWord)> + use<'a> {
        let words = self.words[..end].iter().enumerate().rev();
        let words = words.map(|(index, word)| (index, SlotWord::from_bits(word.load(Ordering::Acquire))));
        words.filter(move |(_, word)| word.is_live_with(tag))
    }

    fn change(&self, index: usize, from: SlotWord, to: SlotWord) -> Result<(), SlotWord> {
        self.words[index]
            .compare_exchange(from.bits(), to.bits(), Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(SlotWord::from_bits)
    }

    /// Reserves slot `index` and fills its room with `parts`, one after the other. The slot before
    /// it must be taken or sealed.
    pub(super) fn claim(
        &self,
        index: usize,
        request: Request,
        parts: &[&[u8]],
    ) -> Result<Room<'a>, Unclaimed> {
        let parts_len: usize = parts.iter().map(|part| part.len()).sum();
        assert!(parts_len == request.entry_len, "a request is as long as its parts");
        let offset = match index.checked_sub(1).map(|before| self.load(before)) {
            None => 0,
            Some(SlotWord::SEALED) => return Err(Unclaimed::Sealed),
            Some(before) => {
                assert!(before.is_taken(), "slots are taken in order");
                before.offset() + before.room()
            }
        };
        let word = SlotWord::reserved(request, offset).ok_or(Unclaimed::NoRoom)?;
        if offset + word.room() > self.heap.len_bytes {
            return Err(Unclaimed::NoRoom);
        }
        match self.change(index, SlotWord::FREE, word) {
            Ok(()) => {}
            Err(SlotWord::SEALED) => return Err(Unclaimed::Sealed),
            Err(_) => return Err(Unclaimed::Taken),
        }
        let padding = &[0; SlotWord::UNIT][..word.room() - parts_len];
        let mut at = offset;
        for part in parts.iter().chain([&padding]) {
            // SAFETY: the change above reserved this slot, so its room is ours. Parts and padding
            // together are as long as the room, which is within the heap.
            unsafe { self.heap.write(at, part) };
            at += part.len();
        }
        Ok(Room { slots: *self, index, word, len: request.entry_len })
    }

    /// Makes a free slot the end of the area, or says what it is instead.
    pub(super) fn seal(&self, index: usize) -> Result<(), SlotWord> {
        self.change(index, SlotWord::FREE, SlotWord::SEALED)
    }

    /// Aborts a slot that was seen reserved as `word`. It returns what the slot is now.
    pub(super) fn abort(&self, index: usize, word: SlotWord) -> SlotWord {
        assert!(word.state() == State::Reserved, "only what is reserved is aborted");
        match self.change(index, word, word.aborted()) {
            Ok(()) => word.aborted(),
            Err(now) => now,
        }
    }

    /// The room of a live slot, and its word. The entry may be shorter, by 7 bytes at most.
    pub(super) fn entry(&self, index: usize) -> Option<(SlotWord, EntryBytes<'a>)> {
        let word = self.load(index);
        (word.state() == State::Live).then_some((word, EntryBytes { heap: self.heap, word }))
    }
}

/// The bytes of an entry whose slot was seen live.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryBytes<'a> {
    heap: Heap<'a>,
    word: SlotWord,
}

impl<'a> EntryBytes<'a> {
    /// `len` bytes from `at` bytes on.
    ///
    /// # Panics
    ///
    /// If that reaches beyond the room.
    pub(super) fn get(&self, at: usize, len: usize) -> &'a [u8] {
        assert!(at + len <= self.word.room(), "an entry is within its room");
        // SAFETY: the slot was seen live with Acquire. So its owner has written the whole room
        // before and gave it up, and the assertion keeps this read within it.
        unsafe { self.heap.read(self.word.offset() + at, len) }
    }
}

/// A slot that this writer has reserved, and the room of its entry. Dropping it aborts the slot.
#[derive(Debug)]
pub(super) struct Room<'a> {
    slots: Slots<'a>,
    index: usize,
    word: SlotWord,
    len: usize,
}

impl Room<'_> {
    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn tag(&self) -> u16 {
        self.word.tag()
    }

    /// Whether someone has aborted the slot.
    pub(super) fn is_aborted(&self) -> bool {
        self.slots.load(self.index) != self.word
    }

    /// Replaces the first bytes of the entry.
    pub(super) fn write_head(&mut self, head: [u8; 8]) {
        assert!(head.len() <= self.len, "an entry has at least its head");
        // SAFETY: this is the slot's room, and the entry in it is longer than its head.
        unsafe { self.slots.heap.write(self.word.offset(), &head) };
    }

    /// Makes the slot live. False if someone has aborted it.
    pub(super) fn publish(self) -> bool {
        let this = ManuallyDrop::new(self);
        this.slots.change(this.index, this.word, this.word.live()).is_ok()
    }

    /// Makes the slot live whatever it is: a [defect](super::Defect::PublishByStore).
    pub(super) fn publish_by_store(self) {
        let this = ManuallyDrop::new(self);
        this.slots.words[this.index].store(this.word.live().bits(), Ordering::Release);
    }
}

impl Drop for Room<'_> {
    /// The write did not happen: nobody has to wait for it.
    fn drop(&mut self) {
        self.slots.abort(self.index, self.word);
    }
}
