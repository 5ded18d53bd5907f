//! A device with a volatile cache: of the blocks that were not flushed, a crash keeps any.

use std::collections::BTreeMap;

use rand::Rng;
use rand::rngs::StdRng;

const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
type Blocks = BTreeMap<u64, Vec<u8>>;

#[derive(Default)]
pub(super) struct Disk {
    durable: Blocks,
    /// Newer than what is durable; in the order of their writes.
    unflushed: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    /// Writes at the start of a block; the rest of the last block is zeros.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset.is_multiple_of(BLOCK));
        for (index, bytes) in (0..).zip(bytes.chunks(BLOCK_BYTES)) {
            let mut block = bytes.to_vec();
            block.resize(BLOCK_BYTES, 0);
            self.unflushed.push((offset / BLOCK + index, block));
        }
    }

    pub(super) fn trim(&mut self, offset: u64, len: usize) {
        self.write(offset, &vec![0; len]);
    }

    pub(super) fn flush(&mut self) {
        self.durable.extend(self.unflushed.drain(..));
    }

    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let (first, last) = (offset / BLOCK, (offset + len as u64).div_ceil(BLOCK));
        let mut bytes = Vec::new();
        for block in first..last {
            let newest = self.unflushed.iter().rev().find(|(other, _)| *other == block);
            let found = newest.map(|(_, bytes)| bytes).or_else(|| self.durable.get(&block));
            bytes.extend_from_slice(found.map_or(&[0; BLOCK_BYTES][..], |found| &found[..]));
        }
        let start = usize::try_from(offset % BLOCK).expect("below a block");
        bytes[start..start + len].to_vec()
    }

    pub(super) fn crash(&mut self, random: &mut StdRng) {
        for (block, bytes) in std::mem::take(&mut self.unflushed) {
            if random.random_range(0..2) == 0 {
                self.durable.insert(block, bytes);
            }
        }
    }
}
