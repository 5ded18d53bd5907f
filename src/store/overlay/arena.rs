//! The bytes of keys and values, each once, in chunks that never move.
//!
//! Nothing is given back before all is: entries drain in the order of keys, and lie here in that of
//! the log.

/// So large that the kernel may use huge pages for it. What is not written takes no memory.
const CHUNK_BYTES: usize = 4 << 20;

/// Where bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    chunk: u16,
    offset: u32,
}

#[derive(Debug, Default)]
pub(super) struct Arena {
    chunks: Vec<Vec<u8>>,
    bytes: usize,
}

impl Arena {
    /// Copies `pieces`, one after the other.
    pub(super) fn add(&mut self, pieces: [&[u8]; 3]) -> Place {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        if self.chunks.last().is_none_or(|last| last.capacity() - last.len() < len) {
            self.chunks.push(Vec::with_capacity(len.max(CHUNK_BYTES)));
        }
        self.bytes += len;
        let chunk = self.chunks.len() - 1;
        let last = &mut self.chunks[chunk];
        let offset = u32::try_from(last.len()).expect("a chunk has 4 MiB, or one record");
        for piece in pieces {
            last.extend_from_slice(piece);
        }
        Place { chunk: u16::try_from(chunk).expect("a log has less than 256 GiB"), offset }
    }

    pub(super) fn bytes(&self, place: Place, len: usize) -> &[u8] {
        let offset = place.offset as usize;
        &self.chunks[usize::from(place.chunk)][offset..offset + len]
    }

    pub(super) fn bytes_mut(&mut self, place: Place, len: usize) -> &mut [u8] {
        let offset = place.offset as usize;
        &mut self.chunks[usize::from(place.chunk)][offset..offset + len]
    }

    /// Bytes of what was added.
    pub(super) fn used_bytes(&self) -> usize {
        self.bytes
    }
}
