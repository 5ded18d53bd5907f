//! The mapping: from the id of a page to where the page is.
//!
//! Every page has an entry of two words, 16 bytes, and every change of a page is a compare-and-swap
//! on the first of them ([`word`](crate::store::word)). Entries lie in **frames** of 256, which are made
//! when the first of their ids is given out. A frame keeps one bit an id that says whether the id
//! is free.
//!
//! # Ids
//!
//! [`Map::allocate`] takes an id from the frame of a neighbour, so that siblings share a frame and
//! a descent touches few of them; otherwise from the frame that the core fills; otherwise from a
//! frame that has [`WORTHWHILE`] free ids, or from a new one. Frames with that many free ids wait
//! on a stack that all cores share. It is touched once in [`WORTHWHILE`] ids.
//!
//! | bit of the id | word | who may change them |
//! |---|---|---|
//! | free | free; the second word has the epoch that the next use starts from | whoever clears the bit |
//! | in use | anything | the owner of the new id until its page is installed; then everybody, by compare-and-swap |
//!
//! The bit is cleared by a compare-and-swap that acquires, and set by [`Map::free`] with a release
//! after the words were stored. So an id has one owner, which sees what the owner before left.
//!
//! # Reading a cold entry
//!
//! The second word counts only for cold and free pages. It is stored before the first word becomes
//! cold, so [`Entry::load`] reads first, second, first: if the first did not change in between,
//! the two belong together. (The first word could only have become the same again by a page that
//! left the address and came back, and an address is not used again while an operation that may
//! have seen it is under way.)
#![cfg_attr(not(test), expect(dead_code, reason = "the next store is not in use yet"))]

mod frames;
#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use std::fmt;
use std::sync::OnceLock;

use self::frames::{FRAME_LEN, Frame, FrameStack};
use crate::store::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::store::word::{Epoch, MapWord, PageId, SecondWord};

/// Ids of a frame.
pub(in crate::store) const FRAME_PAGES: u64 = FRAME_LEN as u64;
/// Frames of a chunk of the directory.
const CHUNK_FRAMES: usize = 1024;
/// The last frame is not used, so that a frame's number plus one fits 32 bits.
const MAX_CHUNKS: u64 = (1 << 32) / CHUNK_FRAMES as u64 - 1;
/// How many free ids bring a frame back to the cores.
const WORTHWHILE: u32 = if cfg!(loom) { 2 } else { 64 };
/// Ids below this one are not given out: 0 means none, and some pages have ids for ever.
pub(in crate::store) const RESERVED_PAGES: u64 = 16;

/// The words of one page.
#[derive(Debug, Default)]
pub(in crate::store) struct Entry {
    first: AtomicU64,
    second: AtomicU64,
}

impl Entry {
    /// The first word alone. What a node that it names holds is visible (Acquire).
    pub(in crate::store) fn word(&self) -> MapWord {
        MapWord::from_memory(self.first.load(Ordering::Acquire))
    }

    /// Both words, as they were together at one moment.
    pub(in crate::store) fn load(&self) -> (MapWord, SecondWord) {
        let mut first = self.first.load(Ordering::Acquire);
        loop {
            let second = self.second.load(Ordering::Acquire);
            let again = self.first.load(Ordering::Acquire);
            if first == again {
                return (MapWord::from_memory(first), SecondWord::from_memory(second));
            }
            first = again;
        }
    }

    /// Replaces `current` by `new`. Publishes everything that was written before (Release).
    ///
    /// # Errors
    ///
    /// What the word is instead.
    pub(in crate::store) fn replace(&self, current: MapWord, new: MapWord) -> Result<(), MapWord> {
        self.first
            .compare_exchange(current.bits(), new.bits(), Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(MapWord::from_memory)
    }

    /// Replaces a node by its image: the second word, then the first.
    ///
    /// Only one thread at a time may do this for a page: the one that its node's flag of a flush
    /// under way names.
    ///
    /// # Errors
    ///
    /// What the word is instead. The second word is changed even so, which nobody reads while the
    /// page has a node.
    pub(in crate::store) fn make_cold(
        &self,
        current: MapWord,
        cold: MapWord,
        second: SecondWord,
    ) -> Result<(), MapWord> {
        self.second.store(second.bits(), Ordering::Release);
        self.replace(current, cold)
    }
}

type Chunk = [OnceLock<Box<Frame>>];

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").finish_non_exhaustive()
    }
}

/// The entries of all pages, and which ids are free. Shared by all cores.
pub(in crate::store) struct Map {
    /// Made on demand, as the frames in them are.
    chunks: Box<[OnceLock<Box<Chunk>>]>,
    /// Frames below this one were given out.
    next_frame: AtomicU32,
    reusable: FrameStack,
}

/// Which frame a core takes new ids from.
#[derive(Debug, Default)]
pub(in crate::store) struct Filling(Option<u32>);

impl Map {
    /// A mapping without pages, for ids below `max_pages`, rounded up to whole chunks of 2^18 ids.
    pub(in crate::store) fn new(max_pages: u64) -> Self {
        let chunks = max_pages.div_ceil(FRAME_PAGES * CHUNK_FRAMES as u64).clamp(1, MAX_CHUNKS);
        let map = Self {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            next_frame: AtomicU32::new(0),
            reusable: FrameStack::default(),
        };
        let mut filling = Filling::default();
        for _ in 0..RESERVED_PAGES {
            map.allocate(None, &mut filling).expect("a fresh frame has room");
        }
        map.stop_filling(&mut filling);
        map
    }

    /// The entry of a page. None if no id in its frame was ever given out.
    pub(in crate::store) fn entry(&self, id: PageId) -> Option<&Entry> {
        let (frame, at) = place(id);
        Some(&self.frame(frame)?.entries[at])
    }

    fn frame(&self, index: u32) -> Option<&Frame> {
        let (chunk, at) = place_of_frame(index);
        Some(self.chunks.get(chunk)?.get()?[at].get()?)
    }

    /// The first words of all pages, while nobody changes them.
    pub(in crate::store) fn words(&self) -> impl Iterator<Item = MapWord> + '_ {
        let frames = 0..self.next_frame.load(Ordering::Relaxed);
        frames.flat_map(|index| &self.known(index).entries).map(Entry::word)
    }

    fn known(&self, index: u32) -> &Frame {
        self.frame(index).expect("a frame that was given out stays")
    }

    /// Takes a free id, from the frame of `neighbour` if there is one, and the epoch that its use
    /// starts from. The entry says that the page is free until the caller installs one by
    /// [`Entry::replace`] of [`MapWord::FREE`]. None if all ids are in use.
    pub(in crate::store) fn allocate(
        &self,
        neighbour: Option<PageId>,
        filling: &mut Filling,
    ) -> Option<(PageId, Epoch)> {
        if let Some(neighbour) = neighbour
            && let Some(taken) = self.take(place(neighbour).0)
        {
            return Some(taken);
        }
        loop {
            if let Some(taken) = filling.0.and_then(|index| self.take(index)) {
                return Some(taken);
            }
            self.stop_filling(filling);
            filling.0 = Some(self.frame_with_free_ids()?);
        }
    }

    /// Leaves the frame that a core fills to others: the core ends, or the frame is full.
    pub(in crate::store) fn stop_filling(&self, filling: &mut Filling) {
        if let Some(index) = filling.0.take()
            && self.known(index).leave()
        {
            self.reusable.push(index, self.known(index));
        }
    }

    /// A frame with free ids that no core fills.
    fn frame_with_free_ids(&self) -> Option<u32> {
        if let Some(index) = self.reusable.pop(|index| self.known(index)) {
            return Some(index);
        }
        let mut index = self.next_frame.load(Ordering::Relaxed);
        loop {
            let (chunk, at) = place_of_frame(index);
            let chunk = self.chunks.get(chunk)?;
            match self.next_frame.compare_exchange_weak(
                index,
                index + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Err(now) => index = now,
                Ok(_) => {
                    let frames = chunk.get_or_init(|| (0..CHUNK_FRAMES).map(|_| OnceLock::new()).collect());
                    frames[at].get_or_init(|| Box::new(Frame::new()));
                    return Some(index);
                }
            }
        }
    }

    fn take(&self, index: u32) -> Option<(PageId, Epoch)> {
        let frame = self.frame(index)?;
        let at = frame.take()?;
        let id = PageId::new(u64::from(index) * FRAME_PAGES + at as u64);
        let second = SecondWord::from_memory(frame.entries[at].second.load(Ordering::Relaxed));
        Some((id.expect("chunks end before the last id"), second.epoch()))
    }

    /// Makes `id` free if its entry says `current`, which nobody but the caller changes any more.
    /// Its next use starts from `epoch`. Whether the entry said so.
    pub(in crate::store) fn free(&self, id: PageId, current: MapWord, epoch: Epoch) -> bool {
        let (index, at) = place(id);
        let frame = self.known(index);
        let entry = &frame.entries[at];
        entry.second.store(SecondWord::new(0, epoch, false, false).bits(), Ordering::Relaxed);
        if entry.replace(current, MapWord::FREE).is_err() {
            return false;
        }
        frame.give(at);
        if frame.claim() {
            self.reusable.push(index, frame);
        }
        true
    }
}

/// The frame of an id, and the id's place in it.
fn place(id: PageId) -> (u32, usize) {
    let frame = u32::try_from(id.get() / FRAME_PAGES).expect("40 bits less 8");
    (frame, usize::try_from(id.get() % FRAME_PAGES).expect("below 256"))
}

/// The chunk of a frame, and the frame's place in it.
fn place_of_frame(index: u32) -> (usize, usize) {
    let index = index as usize;
    (index / CHUNK_FRAMES, index % CHUNK_FRAMES)
}
