//! The mapping: from the id of a page to where the page is.
//!
//! Every page has an entry of two words, 16 bytes, and every change of a page is a compare-and-swap
//! on the first of them ([`word`](crate::store::word)). Entries lie in **frames** of 256, which
//! stay in memory once they are there. A frame keeps one bit an id that says whether the id is
//! free.
//!
//! # Frames
//!
//! | frame | where it is | becomes |
//! |---|---|---|
//! | new | nowhere: no id of it was ever given out | loaded, when the first of its ids is given out |
//! | absent | on the namespace, as a map page: below `next_page` of the superblock | loaded, by [`Map::install_frame`] |
//! | loaded | in memory | – |
//!
//! After a store is opened every frame that it had is absent. [`Map::entry`] says which frame a
//! caller has to load; it reads the map page and calls [`Map::install_frame`]. Several may load one
//! frame: the first one's content stands. What bundles say that are newer than the map page (the
//! overlay of recovery) is applied in that call, by the one that comes first, under a lock: to
//! apply is also to forget, so a second loader would put the frame there without it.
//!
//! The free ids of an absent frame are not given out. When it is loaded it goes on the stack of
//! frames that are worth filling, if it is.
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
//! # The second word
//!
//! | page | its second word |
//! |---|---|
//! | free | the epoch that the next use starts from |
//! | new: in memory, and never durable | the same, still: what is durable is that the id is free |
//! | cold, or damaged | what a reader of the image has to find |
//! | in memory, and durable | nothing |
//!
//! It is stored before the first word becomes cold, so [`Entry::load`] reads first, second, first:
//! if the first did not change in between, the two belong together. (The first word could only have
//! become the same again by a page that left the address and came back, and an address is not used
//! again while an operation that may have seen it is under way.) There is one exception, an image
//! that is replaced while its page is cold: [`homes`](super::homes) has it.
//!
//! # Memory
//!
//! | | bytes a page |
//! |---|---|
//! | entries | 16 |
//! | bits of free ids | 0.125 |
//! | a frame's place on the stack, and whether it has one | 0.03 |
//! | directory: a pointer to the frame, and whether it is loaded | 0.0625 |
//! | whether the frame changed since the last checkpoint | 0.0005 |
//!
//! Together 16.22 for each page of a loaded frame, and 0.06 for each of an absent one. The bits of
//! free ids could be spared: an id is free if its word says so. But then who takes an id would have
//! to look through up to 4 KiB of words, and would need a word that says "taken" to keep others
//! away; the bits are one line.

mod frames;
#[cfg(all(test, loom))]
mod loom_tests;
mod once;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use std::fmt;
use std::sync::PoisonError;

use self::frames::{FRAME_LEN, Frame, FrameStack};
use self::once::Once;
use crate::store::atomic::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::store::pages::MapPage;
use crate::store::word::{Epoch, MapWord, PageId, SecondWord};

/// Ids of a frame.
pub(in crate::store) const FRAME_PAGES: u64 = FRAME_LEN as u64;
/// Frames of a chunk of the directory.
const CHUNK_FRAMES: usize = if cfg!(any(loom, shuttle)) { 64 } else { 1024 };
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
    fn new(first: MapWord, second: SecondWord) -> Self {
        Self { first: AtomicU64::new(first.bits()), second: AtomicU64::new(second.bits()) }
    }

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

    /// The second word alone. What it means the first word says, as long as that stays.
    pub(super) fn second(&self) -> SecondWord {
        SecondWord::from_memory(self.second.load(Ordering::Acquire))
    }

    /// Makes the page its image: the second word, then the first. Only under the lock that
    /// [`homes`](super::homes) has for the page.
    ///
    /// # Errors
    ///
    /// What the word is instead. The second word is changed even so. That of a page that was
    /// durable and is in memory nobody reads.
    pub(super) fn make_cold(
        &self,
        current: MapWord,
        cold: MapWord,
        second: SecondWord,
    ) -> Result<(), MapWord> {
        self.second.store(second.bits(), Ordering::Release);
        self.replace(current, cold)
    }
}

/// What there is of an id.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Lookup<'m> {
    Entry(&'m Entry),
    /// This frame is on the namespace, and is to be loaded.
    Absent(u32),
    /// No id of its frame was ever given out.
    Never,
}

impl<'m> Lookup<'m> {
    /// The entry of a page whose frame is loaded.
    pub(in crate::store) fn loaded(self) -> Option<&'m Entry> {
        if let Self::Entry(entry) = self { Some(entry) } else { None }
    }
}

/// Neighbouring frames, made on demand.
#[derive(Default)]
struct Chunk {
    frames: Box<[Once<Box<Frame>>]>,
    /// A bit for each frame: whether what is durable of its pages is not what its map page says.
    changed: Box<[AtomicU64]>,
}

impl Chunk {
    fn new() -> Self {
        Self {
            frames: (0..CHUNK_FRAMES).map(|_| Once::new()).collect(),
            changed: (0..CHUNK_FRAMES / 64).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map").finish_non_exhaustive()
    }
}

/// The entries of all pages, and which ids are free. Shared by all cores.
pub(in crate::store) struct Map {
    /// Made on demand, as the frames in them are.
    chunks: Box<[Once<Chunk>]>,
    /// Frames below this one were given out.
    next_frame: AtomicU32,
    /// Frames below this one were given out before the store was opened: they may be absent.
    stored_frames: u32,
    /// Held by who puts a frame there that was absent.
    loading: Mutex<()>,
    reusable: FrameStack,
}

/// Which frame a core takes new ids from.
#[derive(Debug, Default)]
pub(in crate::store) struct Filling(Option<u32>);

impl Map {
    /// A mapping without pages, for ids below `max_pages`, rounded up to whole chunks of 2^18 ids.
    pub(in crate::store) fn new(max_pages: u64) -> Self {
        let map = Self::with_frames(max_pages, 0);
        let mut filling = Filling::default();
        for _ in 0..RESERVED_PAGES {
            map.allocate(None, &mut filling).expect("a fresh frame has room");
        }
        map.stop_filling(&mut filling);
        map
    }

    /// The mapping of a store that has given out ids below `next_page`, of which every frame is
    /// absent. For ids below `max_pages`, or below `next_page` if that is more.
    ///
    /// Ids come from new frames until frames with free ids are loaded. So who opens a store does
    /// well to load the last frame, or each opening leaves one that is filled in part.
    pub(in crate::store) fn open(max_pages: u64, next_page: u64) -> Self {
        if next_page == 0 {
            return Self::new(max_pages);
        }
        let frames = next_page.div_ceil(FRAME_PAGES).min(MAX_CHUNKS * CHUNK_FRAMES as u64);
        Self::with_frames(max_pages.max(next_page), u32::try_from(frames).expect("below 2^32"))
    }

    fn with_frames(max_pages: u64, frames: u32) -> Self {
        let chunks = max_pages.div_ceil(FRAME_PAGES * CHUNK_FRAMES as u64).clamp(1, MAX_CHUNKS);
        Self {
            chunks: (0..chunks).map(|_| Once::new()).collect(),
            next_frame: AtomicU32::new(frames),
            stored_frames: frames,
            loading: Mutex::new(()),
            reusable: FrameStack::default(),
        }
    }

    /// What there is of a page.
    #[inline]
    pub(in crate::store) fn entry(&self, id: PageId) -> Lookup<'_> {
        let (index, at) = place(id);
        match self.frame(index) {
            Some(frame) => Lookup::Entry(&frame.entries[at]),
            None if index < self.stored_frames => Lookup::Absent(index),
            None => Lookup::Never,
        }
    }

    fn frame(&self, index: u32) -> Option<&Frame> {
        let (chunk, at) = place_of_frame(index);
        Some(self.chunks.get(chunk)?.get()?.frames[at].get()?)
    }

    /// Puts a frame there that is absent. `page` is what its map page says, or an empty one if the
    /// map has no such page. `apply` brings that up to date with what is newer than the map page,
    /// and says whether it changed anything; it is called only if the frame is still absent, so
    /// once for each frame, and by one caller at a time.
    ///
    /// False if the frame is not absent, or not any more.
    pub(in crate::store) fn install_frame(
        &self,
        index: u32,
        mut page: MapPage,
        apply: impl FnOnce(&mut MapPage) -> bool,
    ) -> bool {
        let one_at_a_time = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if index >= self.stored_frames || self.frame(index).is_some() {
            return false;
        }
        if apply(&mut page) {
            self.mark_changed(index);
        }
        let (chunk, at) = place_of_frame(index);
        let reserved = if index == 0 { RESERVED_PAGES } else { 0 };
        let frame = self.chunk(chunk).frames[at].get_or_init(|| Box::new(Frame::of(&page, reserved)));
        drop(one_at_a_time);
        if frame.claim() {
            self.reusable.push(index, frame);
        }
        true
    }

    fn chunk(&self, chunk: usize) -> &Chunk {
        self.chunks[chunk].get_or_init(Chunk::new)
    }

    /// The entries of a frame that is loaded, with the ids of their pages.
    pub(super) fn entries(&self, index: u32) -> Option<impl Iterator<Item = (PageId, &Entry)>> {
        let ids = u64::from(index) * FRAME_PAGES..;
        let ids = ids.map(|id| PageId::new(id).expect("chunks end before the last id"));
        Some(ids.zip(&self.frame(index)?.entries))
    }

    /// What is durable of a page in this frame is not what its map page says.
    pub(super) fn mark_changed(&self, index: u32) {
        let (chunk, at) = place_of_frame(index);
        self.chunk(chunk).changed[at / 64].fetch_or(1 << (at % 64), Ordering::AcqRel);
    }

    /// The frames that were marked since this was called last.
    pub(super) fn take_changed(&self) -> Vec<u32> {
        let mut frames = Vec::new();
        for (first, chunk) in (0u32..).step_by(CHUNK_FRAMES).zip(&self.chunks) {
            let Some(chunk) = chunk.get() else { continue };
            for (first, word) in (first..).step_by(64).zip(&chunk.changed) {
                let mut bits = word.swap(0, Ordering::AcqRel);
                while bits != 0 {
                    frames.push(first + bits.trailing_zeros());
                    bits &= bits - 1;
                }
            }
        }
        frames
    }

    /// Ids from here on were never given out.
    pub(in crate::store) fn next_page(&self) -> u64 {
        u64::from(self.next_frame.load(Ordering::Relaxed)) * FRAME_PAGES
    }

    /// The first words of all pages in loaded frames, while nobody changes them.
    pub(in crate::store) fn words(&self) -> impl Iterator<Item = MapWord> + '_ {
        let frames = 0..self.next_frame.load(Ordering::Relaxed);
        frames.filter_map(|index| self.frame(index)).flat_map(|frame| &frame.entries).map(Entry::word)
    }

    fn known(&self, index: u32) -> &Frame {
        self.frame(index).expect("a frame that ids were taken from stays")
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
                    chunk.get_or_init(Chunk::new).frames[at].get_or_init(|| Box::new(Frame::new()));
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

    /// Takes this very id, if it is free and its frame is loaded: it belongs to a page that was
    /// made before the store was opened, and was never durable.
    pub(in crate::store) fn claim(&self, id: PageId) -> bool {
        let (index, at) = place(id);
        self.frame(index).is_some_and(|frame| frame.take_this(at))
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

/// The frame of a page.
pub(super) fn frame_of(id: PageId) -> u32 {
    place(id).0
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
