//! A namespace's blocks: what reads see, what is durable, and the writes between the two.

use rand::Rng;
use rand::rngs::StdRng;

use super::options::ModelNamespace;

/// A block that was written and is not durable yet.
struct Unflushed {
    block: u64,
    bytes: Box<[u8]>,
    /// Blocks with the same number are lost or kept together.
    unit: u64,
}

pub(super) struct Disk {
    pub(super) format: ModelNamespace,
    pub(super) active: bool,
    volatile: bool,
    /// What reads see.
    current: Vec<u8>,
    /// What is safe.
    durable: Vec<u8>,
    unflushed: Vec<Unflushed>,
    next_unit: u64,
}

impl Disk {
    pub(super) fn new(format: ModelNamespace, volatile: bool) -> Self {
        let bytes = usize::try_from(format.blocks << format.block_shift).expect("a disk fits into memory");
        Self {
            format,
            active: true,
            volatile,
            current: vec![0; bytes],
            durable: vec![0; bytes],
            unflushed: Vec::new(),
            next_unit: 0,
        }
    }

    pub(super) fn block_bytes(&self) -> usize {
        1 << self.format.block_shift
    }

    /// Whether the blocks exist.
    pub(super) fn has(&self, block: u64, count: u64) -> bool {
        block.checked_add(count).is_some_and(|end| end <= self.format.blocks)
    }

    fn range(&self, block: u64, bytes: usize) -> std::ops::Range<usize> {
        let from = usize::try_from(block << self.format.block_shift).expect("within the disk");
        from..from + bytes
    }

    pub(super) fn read(&self, block: u64, bytes: usize) -> &[u8] {
        &self.current[self.range(block, bytes)]
    }

    /// Writes whole blocks; `durable` ones survive at once.
    pub(super) fn write(&mut self, block: u64, bytes: &[u8], durable: bool) {
        let range = self.range(block, bytes.len());
        self.current[range.clone()].copy_from_slice(bytes);
        let count = (bytes.len() >> self.format.block_shift) as u64;
        if durable || !self.volatile {
            // Older versions in the cache must not come back.
            self.unflushed.retain(|old| !(block..block + count).contains(&old.block));
            self.durable[range].copy_from_slice(bytes);
            return;
        }
        let atomic = u64::from(self.format.atomic_blocks.max(1));
        let boundary = u64::from(self.format.atomic_boundary_blocks);
        let whole = count <= atomic && (boundary == 0 || block / boundary == (block + count - 1) / boundary);
        for (number, piece) in bytes.chunks_exact(self.block_bytes()).enumerate() {
            if number == 0 || !whole {
                self.next_unit += 1;
            }
            let (block, unit) = (block + number as u64, self.next_unit);
            self.unflushed.push(Unflushed { block, bytes: piece.into(), unit });
        }
    }

    pub(super) fn flush(&mut self) {
        for write in std::mem::take(&mut self.unflushed) {
            let range = self.range(write.block, write.bytes.len());
            self.durable[range].copy_from_slice(&write.bytes);
        }
    }

    /// Loses some of what is not durable; the rest is.
    pub(super) fn cut_power(&mut self, random: &mut StdRng) {
        let mut kept = (0, false);
        for write in std::mem::take(&mut self.unflushed) {
            if kept.0 != write.unit {
                kept = (write.unit, random.random_bool(0.5));
            }
            if kept.1 {
                let range = self.range(write.block, write.bytes.len());
                self.durable[range].copy_from_slice(&write.bytes);
            }
        }
        self.current.copy_from_slice(&self.durable);
    }

    /// Changes its size; new blocks are zero.
    pub(super) fn resize(&mut self, blocks: u64) {
        self.flush();
        self.active = blocks > 0;
        if self.active {
            self.format.blocks = blocks;
            let bytes = usize::try_from(blocks << self.format.block_shift).expect("a disk fits into memory");
            self.current.resize(bytes, 0);
            self.durable.resize(bytes, 0);
        }
    }

    /// Formats it with blocks of another size. All of it is zero.
    pub(super) fn reformat(&mut self, block_shift: u32) {
        let format = &mut self.format;
        format.blocks = format.blocks << format.block_shift >> block_shift;
        format.block_shift = block_shift;
        *self = Self::new(*format, self.volatile);
    }
}
