//! The log of a namespace's writes that QEMU's `blklogwrites` keeps, in the format of Linux's
//! dm-log-writes; and the namespace as it may be after a power cut, made from that log.
//!
//! An entry gets its place when its write or flush is done, before the machine is told. So what the
//! machine knew to be written when it asked for a flush is in front of this flush. What it had not
//! heard of yet may be in front of it too: such a write counts as durable here, though a device
//! could lose it.

use std::io;
use std::path::Path;

use crate::support::steps::Random;

const MAGIC: u64 = 0x006a_7366_7773_6872;
/// Where in the superblock the number of entries is.
pub(crate) const COUNT_OFFSET: u64 = 16;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// `len` bytes for `offset` of the namespace, which are at `at` of the log.
    Write {
        offset: usize,
        len: usize,
        at: usize,
    },
    /// The range reads as zeros.
    Discard {
        offset: usize,
        len: usize,
    },
    Flush,
}

/// Whether a flush makes durable what was written before it. A test of the tests says that the last
/// one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushes {
    Heeded,
    LastDropped,
}

/// What was written to a namespace, in the order in which it was done.
pub(crate) struct WriteLog {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the log, up to its last flush.
    pub(crate) fn read(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).expect("eight bytes");
        let number = |at: usize| usize::try_from(word(at)).expect("a size in memory");
        assert_eq!((word(0), word(8)), (MAGIC, 1), "{}: a log of this version", path.display());
        let sector = number(24) & 0xffff_ffff;
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..word(usize::try_from(COUNT_OFFSET).expect("small")) {
            let (offset, len) = (number(at) * sector, number(at + 8) * sector);
            let flags = word(at + 16);
            at += sector;
            entries.push(match flags {
                FLUSH => Entry::Flush,
                DISCARD => Entry::Discard { offset, len },
                0 => Entry::Write { offset, len, at },
                _ => panic!("entry {} of {}: flags {flags}", entries.len(), path.display()),
            });
            at += if flags == 0 { len } else { 0 };
        }
        Ok(Self { bytes, entries })
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// After how many entries each of its flushes was done.
    pub(crate) fn flushes(&self) -> Vec<usize> {
        let flushes = self.entries.iter().enumerate().filter(|(_, entry)| **entry == Entry::Flush);
        flushes.map(|(before, _)| before + 1).collect()
    }

    /// Writes an entry to an image, or those of its blocks that `keeps` says.
    fn apply(&self, entry: Entry, image: &mut [u8], block: usize, mut keeps: impl FnMut() -> bool) {
        let (offset, len) = match entry {
            Entry::Write { offset, len, .. } | Entry::Discard { offset, len } => (offset, len),
            Entry::Flush => return,
        };
        for start in (0..len).step_by(block) {
            if !keeps() {
                continue;
            }
            let piece = &mut image[offset + start..][..block.min(len - start)];
            match entry {
                Entry::Write { at, .. } => piece.copy_from_slice(&self.bytes[at + start..][..piece.len()]),
                Entry::Discard { .. } | Entry::Flush => piece.fill(0),
            }
        }
    }
}

/// A namespace that was all zeros at first, at ever later points of its log.
pub(crate) struct Crashes<'a> {
    log: &'a WriteLog,
    flushes: Flushes,
    block: usize,
    /// What is durable, and after how many entries.
    durable: Vec<u8>,
    applied: usize,
}

impl<'a> Crashes<'a> {
    pub(crate) fn new(log: &'a WriteLog, size: usize, block: usize, flushes: Flushes) -> Self {
        Self { log, flushes, block, durable: vec![0; size], applied: 0 }
    }

    /// What may be there if the power goes after `point` entries: all that was flushed, and of the
    /// rest the blocks that chance keeps.
    pub(crate) fn at(&mut self, point: usize, random: &mut Random) -> Vec<u8> {
        let entries = &self.log.entries[..point];
        let mut flushes = (0..point).rev().filter(|&at| entries[at] == Entry::Flush);
        if self.flushes == Flushes::LastDropped {
            flushes.next();
        }
        let flushed = flushes.next().map_or(0, |at| at + 1);
        for entry in entries.get(self.applied..flushed).unwrap_or_default() {
            self.log.apply(*entry, &mut self.durable, self.block, || true);
        }
        self.applied = self.applied.max(flushed);
        let mut image = self.durable.clone();
        // Now and then all of it, or nothing, is kept.
        let odds = random.next(5);
        for entry in &entries[self.applied..] {
            self.log.apply(*entry, &mut image, self.block, || random.next(4) < odds);
        }
        image
    }
}

#[cfg(test)]
mod tests {
    use super::{COUNT_OFFSET, Crashes, DISCARD, Entry, FLUSH, Flushes, MAGIC, WriteLog};
    use crate::support::server::Directory;
    use crate::support::steps::Random;

    const SECTOR: usize = 512;

    fn log(entries: &[(u64, u64, u64, u8)]) -> Vec<u8> {
        let mut bytes = vec![0; SECTOR];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8] = 1;
        bytes[usize::try_from(COUNT_OFFSET).expect("small")] = u8::try_from(entries.len()).expect("few");
        bytes[24..28].copy_from_slice(&512u32.to_le_bytes());
        for &(sector, sectors, flags, fill) in entries {
            let mut header = [sector, sectors, flags, 0].map(u64::to_le_bytes).concat();
            header.resize(SECTOR, 0);
            bytes.extend(header);
            if flags == 0 {
                bytes.resize(bytes.len() + SECTOR * usize::try_from(sectors).expect("few"), fill);
            }
        }
        bytes
    }

    #[test]
    fn what_was_flushed_stays_and_the_rest_is_kept_by_block_or_not() {
        let directory = Directory::new("write-log");
        let path = directory.path().join("log");
        let entries = [(0, 2, 0, 1), (4, 1, 0, 2), (0, 0, FLUSH, 0), (1, 2, 0, 3), (4, 1, DISCARD, 0)];
        // What is behind the last entry that is counted is no entry yet.
        std::fs::write(&path, [log(&entries), vec![7; 100]].concat()).expect("writable");
        let log = WriteLog::read(&path).expect("readable");
        assert_eq!((log.len(), log.flushes()), (5, vec![3]));
        assert_eq!(log.entries[4], Entry::Discard { offset: 4 * SECTOR, len: SECTOR });

        let mut random = Random(1);
        let mut seen = std::collections::HashSet::new();
        let mut crashes = Crashes::new(&log, 5 * SECTOR, SECTOR, Flushes::Heeded);
        for _ in 0..100 {
            let image = crashes.at(5, &mut random);
            let sectors: Vec<u8> = image.chunks(SECTOR).map(|sector| sector[0]).collect();
            assert!(image.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            assert_eq!(sectors[0], 1, "it was flushed");
            seen.insert(sectors);
        }
        assert_eq!(seen.len(), 8, "either of the second write's blocks, and the discard: {seen:?}");
        let mut lost = Crashes::new(&log, 5 * SECTOR, SECTOR, Flushes::LastDropped);
        assert!((0..100).any(|_| lost.at(5, &mut random)[0] == 0), "a flush that was dropped keeps nothing");
    }
}
