//! A file system below a device, which may become full.

use std::ops::Range;

/// The blocks of a file system, and which of them the device has.
#[derive(Debug)]
pub(super) struct FileSystem {
    block_bytes: u64,
    /// All that there are, and those that others have.
    blocks: u64,
    others: u64,
    /// For each block of the device whether it has one, and how many have.
    has: Vec<bool>,
    count: u64,
}

impl FileSystem {
    pub(super) fn new(bytes: u64, block_bytes: u32) -> Self {
        let block_bytes = u64::from(block_bytes);
        Self { block_bytes, blocks: bytes / block_bytes, others: 0, has: Vec::new(), count: 0 }
    }

    /// Takes what a range of bytes has not got. False, and nothing is taken, if it is not there.
    pub(super) fn take(&mut self, offset: u64, len: u64) -> bool {
        let range = self.range(offset, len);
        if self.has.len() < range.end {
            self.has.resize(range.end, false);
        }
        let missing = self.has[range.clone()].iter().filter(|has| !**has).count() as u64;
        if missing > self.blocks.saturating_sub(self.others + self.count) {
            return false;
        }
        self.has[range].fill(true);
        self.count += missing;
        true
    }

    /// Gives back what a range of bytes has.
    pub(super) fn give_back(&mut self, offset: u64, len: u64) {
        let Range { start, end } = self.range(offset, len);
        let end = end.min(self.has.len());
        for has in self.has.get_mut(start..end).unwrap_or_default() {
            self.count -= u64::from(std::mem::take(has));
        }
    }

    /// Others have so many bytes, or as many as there are. How many that is.
    pub(super) fn others_have(&mut self, bytes: u64) -> u64 {
        self.others = (bytes / self.block_bytes).min(self.blocks - self.count);
        self.others * self.block_bytes
    }

    /// The bytes that the device has.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.count * self.block_bytes
    }

    fn range(&self, offset: u64, len: u64) -> Range<usize> {
        let block = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        block(offset / self.block_bytes)..block((offset.saturating_add(len)).div_ceil(self.block_bytes))
    }
}
