//! What a device stores, and what of it a power cut takes away.

use std::collections::VecDeque;

use rand::Rng;
use rand::rngs::StdRng;

use super::chunks::Chunks;

/// The smallest unit that a power cut leaves either old or new.
pub(super) const SECTOR_BYTES: u64 = 512;
/// How much a volatile cache holds. What is written beyond that makes the oldest durable.
const CACHE_BYTES: u64 = 64 << 20;
/// A range of zeros is kept in pieces of this size.
const MAX_ENTRY_BYTES: u64 = 1 << 20;

/// How many writes went to the cache before some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark(u64);

/// Blocks, with a volatile cache in front of them.
///
/// The blocks hold what was written last, which is what reads see. For each write that is not
/// durable the cache has what was there before it. A power cut takes back all of them, the last one
/// first, which leaves what is durable; then it picks those that had reached the medium after all,
/// and puts them back.
pub(super) struct Medium {
    blocks: Chunks,
    cache: VecDeque<Entry>,
    cached_bytes: u64,
    /// The number of the entry that comes next.
    next: u64,
    /// A power cut leaves a write to a range of this size, aligned to itself, either whole or
    /// undone.
    atomic_bytes: u64,
    /// But not across multiples of this, if it is not 0.
    atomic_boundary_bytes: u64,
}

/// A write that is not durable.
struct Entry {
    offset: u64,
    content: Content,
    /// It is durable itself, but something before it is not.
    is_durable: bool,
}

/// What was there before a write; during a power cut, what the write put there.
enum Content {
    Bytes(Vec<u8>),
    Zeros(u64),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => *len,
        }
    }
}

impl Medium {
    pub(super) fn new(atomic_bytes: u32, atomic_boundary_bytes: u32) -> Self {
        Self {
            blocks: Chunks::default(),
            cache: VecDeque::new(),
            cached_bytes: 0,
            next: 0,
            atomic_bytes: u64::from(atomic_bytes).max(SECTOR_BYTES),
            atomic_boundary_bytes: atomic_boundary_bytes.into(),
        }
    }

    pub(super) fn blocks(&self) -> &Chunks {
        &self.blocks
    }

    /// Writes `bytes`; durably, or to the cache.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) {
        self.remember(offset, bytes.len() as u64, durable);
        self.blocks.write(offset, bytes);
    }

    /// Makes a range zeros; durably, or in the cache.
    pub(super) fn clear(&mut self, offset: u64, len: u64, durable: bool) {
        let mut at = offset;
        while at < offset + len {
            let part = (offset + len - at).min(MAX_ENTRY_BYTES);
            self.remember(at, part, durable);
            at += part;
        }
        self.blocks.clear(offset, len);
    }

    /// Keeps what a write is about to replace.
    fn remember(&mut self, offset: u64, len: u64, is_durable: bool) {
        if is_durable && self.cache.is_empty() {
            return;
        }
        let content = self.content(offset, len);
        self.cache.push_back(Entry { offset, content, is_durable });
        self.next += 1;
        self.cached_bytes += len;
        while self.cached_bytes > CACHE_BYTES {
            self.forget_oldest();
        }
    }

    fn content(&self, offset: u64, len: u64) -> Content {
        if self.blocks.is_clear(offset, len) {
            return Content::Zeros(len);
        }
        let mut bytes = vec![0; usize::try_from(len).expect("one transfer")];
        self.blocks.read(offset, &mut bytes);
        Content::Bytes(bytes)
    }

    fn forget_oldest(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cached_bytes -= entry.content.len();
        }
    }

    /// What was written until now.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.next)
    }

    /// Makes durable what was written before `mark`.
    pub(super) fn make_durable(&mut self, mark: Mark) {
        while !self.cache.is_empty() && self.next - (self.cache.len() as u64) < mark.0 {
            self.forget_oldest();
        }
    }

    /// What a read would have seen if nothing had been written since the last flush.
    pub(super) fn read_durable(&self, offset: u64, to: &mut [u8]) {
        self.blocks.read(offset, to);
        for entry in self.cache.iter().rev() {
            let (start, end) = (entry.offset.max(offset), entry.offset + entry.content.len());
            let end = end.min(offset + to.len() as u64);
            if start >= end {
                continue;
            }
            let range = |from: u64| place(start - from)..place(end - from);
            match &entry.content {
                Content::Bytes(bytes) => {
                    to[range(offset)].copy_from_slice(&bytes[range(entry.offset)]);
                }
                Content::Zeros(_) => to[range(offset)].fill(0),
            }
        }
    }

    /// Everything that is not durable is lost.
    pub(super) fn lose_cache(&mut self) {
        self.take_back();
        for entry in std::mem::take(&mut self.cache) {
            if entry.is_durable {
                put(&mut self.blocks, entry.offset, &entry.content);
            }
        }
        self.cached_bytes = 0;
    }

    /// The power fails: of each write that is not durable, each atomic unit is there or is not.
    /// Half of the time it is all or nothing for everything, which is likelier than chance to show
    /// a missing flush.
    pub(super) fn cut_power(&mut self, random: &mut StdRng) {
        let keep = match random.random_range(0..4) {
            0 => 0.0,
            1 => 1.0,
            _ => random.random_range(0.0..1.0),
        };
        self.take_back();
        let cache = std::mem::take(&mut self.cache);
        self.cached_bytes = 0;
        for entry in cache {
            let end = entry.offset + entry.content.len();
            let mut at = entry.offset;
            while at < end {
                let unit_end = self.unit_end(at).min(end);
                if entry.is_durable || random.random_bool(keep) {
                    put_part(&mut self.blocks, &entry, at, unit_end);
                }
                at = unit_end;
            }
        }
    }

    /// Leaves what is durable, and in each entry what its write had put there.
    fn take_back(&mut self) {
        for at in (0..self.cache.len()).rev() {
            let (offset, len) = (self.cache[at].offset, self.cache[at].content.len());
            let written = self.content(offset, len);
            let before = std::mem::replace(&mut self.cache[at].content, written);
            put(&mut self.blocks, offset, &before);
        }
    }

    /// Where the atomic unit ends that `offset` is in.
    fn unit_end(&self, offset: u64) -> u64 {
        let end = offset - offset % self.atomic_bytes + self.atomic_bytes;
        match self.atomic_boundary_bytes {
            0 => end,
            boundary => end.min(offset - offset % boundary + boundary),
        }
    }

    /// Everything from `size` on is gone, for ever.
    pub(super) fn truncate(&mut self, size: u64) {
        self.blocks.truncate(size);
        for entry in &mut self.cache {
            let left = size.saturating_sub(entry.offset).min(entry.content.len());
            self.cached_bytes -= entry.content.len() - left;
            match &mut entry.content {
                Content::Bytes(bytes) => bytes.truncate(place(left)),
                Content::Zeros(len) => *len = left,
            }
        }
    }
}

fn place(bytes: u64) -> usize {
    usize::try_from(bytes).expect("inside one transfer")
}

fn put(blocks: &mut Chunks, offset: u64, content: &Content) {
    match content {
        Content::Bytes(bytes) => blocks.write(offset, bytes),
        Content::Zeros(len) => blocks.clear(offset, *len),
    }
}

/// What `entry` has from `start` to `end`.
fn put_part(blocks: &mut Chunks, entry: &Entry, start: u64, end: u64) {
    match &entry.content {
        Content::Bytes(bytes) => {
            blocks.write(start, &bytes[place(start - entry.offset)..place(end - entry.offset)]);
        }
        Content::Zeros(_) => blocks.clear(start, end - start),
    }
}
