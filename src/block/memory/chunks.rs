//! Bytes of which most were never written.

use std::ops::Range;

/// Memory is taken in chunks of this size, when they are first written.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// An array of bytes, as long as it needs to be; what was never written reads as zeros.
#[derive(Default)]
pub(super) struct Chunks {
    chunks: Vec<Option<Box<[u8]>>>,
}

/// Calls `each` with the number of a chunk, the range within it, and the range within the `len`
/// bytes from `offset` on.
fn for_each_chunk(offset: u64, len: usize, mut each: impl FnMut(usize, Range<usize>, Range<usize>)) {
    let chunk_bytes = CHUNK_BYTES as u64;
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let chunk = usize::try_from(at / chunk_bytes).expect("checked against the size in memory");
        let start = usize::try_from(at % chunk_bytes).expect("less than a chunk");
        let part = (CHUNK_BYTES - start).min(len - done);
        each(chunk, start..start + part, done..done + part);
        done += part;
    }
}

impl Chunks {
    pub(super) fn read(&self, offset: u64, to: &mut [u8]) {
        for_each_chunk(offset, to.len(), |chunk, from, within| match self.chunks.get(chunk) {
            Some(Some(bytes)) => to[within].copy_from_slice(&bytes[from]),
            _ => to[within].fill(0),
        });
    }

    pub(super) fn write(&mut self, offset: u64, from: &[u8]) {
        for_each_chunk(offset, from.len(), |chunk, to, within| {
            if self.chunks.len() <= chunk {
                self.chunks.resize_with(chunk + 1, || None);
            }
            let bytes = self.chunks[chunk].get_or_insert_with(|| vec![0; CHUNK_BYTES].into_boxed_slice());
            bytes[to].copy_from_slice(&from[within]);
        });
    }

    /// Makes a range zeros, and gives whole chunks of it back.
    pub(super) fn clear(&mut self, offset: u64, len: u64) {
        let chunk_bytes = CHUNK_BYTES as u64;
        // Beyond the last chunk everything is zeros already.
        let end = (offset + len).min(self.chunks.len() as u64 * chunk_bytes);
        let mut at = offset;
        while at < end {
            let part = (chunk_bytes - at % chunk_bytes).min(end - at);
            for_each_chunk(at, usize::try_from(part).unwrap_or(CHUNK_BYTES), |chunk, range, _| {
                let slot = &mut self.chunks[chunk];
                if range.len() == CHUNK_BYTES {
                    *slot = None;
                } else if let Some(bytes) = slot {
                    bytes[range].fill(0);
                }
            });
            at += part;
        }
    }

    /// Makes everything from `size` on zeros.
    pub(super) fn truncate(&mut self, size: u64) {
        self.clear(size, u64::MAX - size);
        let chunks = size.div_ceil(CHUNK_BYTES as u64);
        self.chunks.truncate(usize::try_from(chunks).unwrap_or(usize::MAX));
    }

    /// The first byte at or after `offset` that may differ from zero.
    pub(super) fn next_data(&self, offset: u64) -> Option<u64> {
        let first = usize::try_from(offset / CHUNK_BYTES as u64).ok()?;
        let written = self.chunks.iter().enumerate().skip(first).find(|(_, chunk)| chunk.is_some())?.0;
        Some(offset.max((written * CHUNK_BYTES) as u64))
    }

    /// Whether nothing in the range was ever written.
    pub(super) fn is_clear(&self, offset: u64, len: u64) -> bool {
        self.next_data(offset).is_none_or(|data| data >= offset + len)
    }
}
