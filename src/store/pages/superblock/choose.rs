//! Which of four copies counts.

use std::fmt;

use super::{BYTES, COPIES, COPY_OFFSET, MAGIC, Sequences, Superblock, VERSION, sum};
use crate::error::{Error, ErrorKind};

/// What the places for superblocks hold.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum Choice {
    /// Only zeros.
    Blank,
    /// Nothing that a boson store wrote.
    Foreign,
    /// A store.
    Store {
        superblock: Box<Superblock>,
        /// Of the copies of this store; those of others, and damaged ones, count as 0.
        sequences: Sequences,
        /// The number that the next superblock gets.
        next_sequence: u64,
    },
}

/// Why a store is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Refusal {
    Version1,
    NewerVersion(u32),
    /// There are copies, none of them valid. How many of the four were read at all.
    Damaged {
        read: usize,
    },
    /// The copies belong to two stores, and neither has more of them.
    TwoStores,
    /// Two states of the store with this and that sequence number, neither made of the other.
    Forked(u64, u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version1 => f.write_str(
                "this store has format version 1, which this boson does not read: serve it with the boson \
                 that wrote it, and copy its keys to a new store (docs/disk-format.md says how)",
            ),
            Self::NewerVersion(version) => write!(
                f,
                "the store has format version {version}, this program knows version {VERSION}: use a newer boson"
            ),
            Self::Damaged { read: 4 } => f.write_str(
                "it holds a boson store, but every superblock copy is damaged: restore it from a copy",
            ),
            Self::Damaged { read } => write!(
                f,
                "it holds a boson store, but {} of 4 superblock copies cannot be read and the others are \
                 damaged: restore it from a copy",
                4 - read
            ),
            Self::TwoStores => f.write_str(
                "its superblock copies belong to two stores, as many to each: restore it from one source",
            ),
            Self::Forked(a, b) => write!(
                f,
                "the store was continued twice: its superblocks {a} and {b} do not follow each other, so two \
                 programs wrote it at once, or an old part of it was copied back; restore it from one source"
            ),
        }
    }
}

impl Refusal {
    /// The error of opening the store on the namespace `name`.
    pub(in crate::store) fn error(self, name: &str) -> Error {
        let kind = match self {
            Self::Version1 | Self::NewerVersion(_) => ErrorKind::UnsupportedFormat,
            Self::Damaged { .. } | Self::TwoStores | Self::Forked(..) => ErrorKind::Corrupt,
        };
        Error::new(kind, "open store").at(name.to_owned()).because(self.to_string())
    }
}

/// What one place holds.
enum Copy {
    /// A superblock that was written here.
    Valid(Superblock),
    /// A superblock that was written for another place: it tells nothing, but its number is used.
    Misplaced(Superblock),
    Version(u32),
    Damaged,
    Blank,
    Foreign,
}

fn read_copy(block: &[u8], place: usize) -> Copy {
    if block.iter().all(|&byte| byte == 0) {
        return Copy::Blank;
    }
    let Some(bytes) = block.first_chunk::<BYTES>().filter(|bytes| bytes[..8] == MAGIC) else {
        return Copy::Foreign;
    };
    if bytes[8..16] != sum(bytes).to_le_bytes() {
        return Copy::Damaged;
    }
    let version = u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
    if version != VERSION {
        return Copy::Version(version);
    }
    match Superblock::decode_body(bytes) {
        Some(superblock) if usize::from(bytes[COPY_OFFSET]) == place => Copy::Valid(superblock),
        Some(superblock) => Copy::Misplaced(superblock),
        None => Copy::Damaged,
    }
}

/// Whether the first block of one of [`V1_COPIES`](super::V1_COPIES) is a whole superblock of
/// version 1. For stores whose places of version 2 say nothing, or are damaged.
pub(in crate::store) fn is_version_1(block: &[u8]) -> bool {
    matches!(read_copy(block, 0), Copy::Version(1))
}

/// Copies with the same content.
struct Group {
    superblock: Superblock,
    checksum: u64,
    copies: usize,
}

/// What the first blocks of the four places say; `None` is one that could not be read, or that lies
/// beyond the end of the namespace.
///
/// # Errors
///
/// Why the store must not be opened.
pub(in crate::store) fn choose(blocks: [Option<&[u8]>; COPIES.len()]) -> Result<Choice, Refusal> {
    let copies: Vec<_> = (0..)
        .zip(blocks)
        .filter_map(|(place, block): (usize, _)| block.map(|block| (place, read_copy(block, place))))
        .collect();
    let versions = || {
        copies.iter().filter_map(|(_, copy)| match copy {
            Copy::Version(version) => Some(*version),
            _ => None,
        })
    };
    // One copy of another version is enough: the program that wrote it does not know our other
    // places.
    match versions().max() {
        Some(version) if version > VERSION => return Err(Refusal::NewerVersion(version)),
        Some(_) => return Err(Refusal::Version1),
        None => {}
    }
    let valid: Vec<_> = copies
        .iter()
        .filter_map(|(place, copy)| match copy {
            Copy::Valid(superblock) => Some((*place, superblock)),
            _ => None,
        })
        .collect();
    if valid.is_empty() {
        let any = |wanted: fn(&Copy) -> bool| copies.iter().any(|(_, copy)| wanted(copy));
        return if any(|copy| matches!(copy, Copy::Damaged | Copy::Misplaced(_))) {
            Err(Refusal::Damaged { read: copies.len() })
        } else if any(|copy| matches!(copy, Copy::Foreign)) {
            Ok(Choice::Foreign)
        } else {
            Ok(Choice::Blank)
        };
    }
    let identity = majority(valid.iter().map(|(_, superblock)| superblock.identity))?;
    let mut sequences = [0; 4];
    let mut groups: Vec<Group> = Vec::new();
    for (place, superblock) in valid.into_iter().filter(|(_, superblock)| superblock.identity == identity) {
        sequences[place] = superblock.sequence;
        match groups.iter_mut().find(|group| group.superblock == *superblock) {
            Some(group) => group.copies += 1,
            None => {
                groups.push(Group { superblock: *superblock, checksum: superblock.checksum(), copies: 1 })
            }
        }
    }
    let misplaced = copies.iter().filter_map(|(_, copy)| match copy {
        Copy::Misplaced(superblock) if superblock.identity == identity => Some(superblock.sequence),
        _ => None,
    });
    let next_sequence = misplaced.chain(sequences).max().unwrap_or(0) + 1;
    let superblock = Box::new(newest(groups)?);
    Ok(Choice::Store { superblock, sequences, next_sequence })
}

/// The identity that most copies have.
fn majority(identities: impl Iterator<Item = [u8; 16]> + Clone) -> Result<[u8; 16], Refusal> {
    let count = |wanted: &[u8; 16]| identities.clone().filter(|identity| identity == wanted).count();
    let best = identities.clone().max_by_key(|identity| count(identity)).expect("there is one at least");
    let rival = identities.clone().any(|identity| identity != best && count(&identity) == count(&best));
    if rival { Err(Refusal::TwoStores) } else { Ok(best) }
}

fn newest(mut groups: Vec<Group>) -> Result<Superblock, Refusal> {
    groups.sort_by_key(|group| (group.copies >= 2, group.superblock.sequence, group.copies));
    let best = groups.pop().expect("there is one group at least");
    let Some(next) = groups.pop().filter(|next| (next.copies >= 2) == (best.copies >= 2)) else {
        return Ok(best.superblock);
    };
    let (newer, older) = (best.superblock.sequence, next.superblock.sequence);
    let forked = newer == older || (best.copies >= 2 && best.superblock.parent != next.checksum);
    if forked { Err(Refusal::Forked(newer, older)) } else { Ok(best.superblock) }
}
