//! Blocks that tell where they belong: what `--verify` writes and checks.
//!
//! | offset | bytes | what |
//! |--:|--:|---|
//! | 0 | 8 | `BSNBENCH` |
//! | 8 | 8 | where the block is in the namespace, in bytes |
//! | 16 | 8 | its generation: the seed of the run above, the number of the write below |
//! | 24 | 8 | XXH3 of all other bytes |
//! | 32 | | bytes that cannot be compressed, made from the two numbers |
//!
//! Numbers are little endian.

use xxhash_rust::xxh3::Xxh3;

use super::load::split_mix;

const MAGIC: &[u8; 8] = b"BSNBENCH";
const HEADER_BYTES: usize = 32;

/// What a block was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// All zeros: it was never written.
    Empty,
    /// A whole block of this generation.
    Written(u64),
    /// Something else; this says what.
    Wrong(&'static str),
}

/// Makes `block` one of `generation` that belongs at `offset` (bytes).
pub(super) fn fill(block: &mut [u8], offset: u64, generation: u64) {
    let (header, payload) = block.split_at_mut(HEADER_BYTES);
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&offset.to_le_bytes());
    header[16..24].copy_from_slice(&generation.to_le_bytes());
    let mut state = split_mix(offset ^ split_mix(generation));
    for word in payload.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&split_mix(state).to_le_bytes()[..word.len()]);
    }
    let checksum = checksum(block);
    block[24..32].copy_from_slice(&checksum.to_le_bytes());
}

/// What `block`, which was read at `offset` (bytes), is.
pub(super) fn check(block: &[u8], offset: u64) -> Found {
    if block.iter().all(|&byte| byte == 0) {
        return Found::Empty;
    }
    if &block[..8] != MAGIC {
        return Found::Wrong("it was not written by a load with --verify, or is torn");
    }
    if number(block, 24) != checksum(block) {
        return Found::Wrong("its checksum is wrong: it is torn or corrupt");
    }
    if number(block, 8) != offset {
        return Found::Wrong("it belongs elsewhere: a write or a read was misdirected");
    }
    Found::Written(number(block, 16))
}

fn number(block: &[u8], at: usize) -> u64 {
    block[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn checksum(block: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&block[..24]);
    hash.update(&block[HEADER_BYTES..]);
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_where_it_belongs_and_nowhere_else() {
        let mut block = vec![0; 4096];
        assert_eq!(check(&block, 8192), Found::Empty);
        fill(&mut block, 8192, 7);
        assert_eq!(check(&block, 8192), Found::Written(7));
        assert!(matches!(check(&block, 4096), Found::Wrong(why) if why.contains("elsewhere")));
    }

    #[test]
    fn every_byte_counts() {
        let mut block = vec![0; 512];
        fill(&mut block, 0, 1);
        for at in 0..block.len() {
            block[at] ^= 1;
            assert!(matches!(check(&block, 0), Found::Wrong(_)), "byte {at}");
            block[at] ^= 1;
        }
        let mut torn = block.clone();
        let mut other = vec![0; 512];
        fill(&mut other, 0, 2);
        torn[256..].copy_from_slice(&other[256..]);
        assert!(matches!(check(&torn, 0), Found::Wrong(why) if why.contains("torn")));
    }
}
