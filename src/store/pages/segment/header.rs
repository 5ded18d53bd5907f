//! The header of a segment (disk format, section 3): one for segments of pages and of the log.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `62 6f 73 6f 6e 00 73 67` (`boson\0sg`) |
//! | 8 | 8 | checksum of bytes 16 to 63 |
//! | 16 | 16 | identity of the store |
//! | 32 | 4 | number of the segment |
//! | 36 | 4 | generation |
//! | 40 | 1 | class: 1 pages, 2 log |
//! | 41 | 1 | pages: temperature; log: zero |
//! | 42 | 2 | zero |
//! | 44 | 4 | log: number of the next segment; pages: zero |
//! | 48 | 4 | log: generation of the next segment; pages: zero |
//! | 52 | 4 | log: the low half of the epoch in which it was opened; pages: zero |
//! | 56 | 8 | number of its first bundle, or batch |
//!
//! The rest of its block is zero.

use super::Temperature;
use crate::store::codec::{Reader, checksum};
use crate::store::pages::damage::{Checker, Damage, Structure};
use crate::store::pages::geometry::Geometry;

/// A segment at one time of its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::store) struct SegmentName {
    pub(in crate::store) segment: u32,
    pub(in crate::store) generation: u32,
}

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum SegmentUse {
    Pages(Temperature),
    Log {
        /// The segment that the log goes on in.
        next: SegmentName,
        /// The low half of the epoch in which it was opened. Its first batch is of the same epoch:
        /// else a header that was left by a torn tail, and that names a segment which is used for
        /// something else by now, could stand before a batch of today.
        epoch: u32,
    },
}

/// The header, written with the segment's first bundle or batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct SegmentHeader {
    pub(in crate::store) name: SegmentName,
    pub(in crate::store) usage: SegmentUse,
    /// The number of its first batch, or bundle.
    pub(in crate::store) first: u64,
}

impl SegmentHeader {
    const MAGIC: [u8; 8] = *b"boson\0sg";
    const PAGES: u8 = 1;
    const LOG: u8 = 2;
    /// Its bytes; the rest of its block is zero.
    pub(in crate::store) const BYTES: usize = 64;

    /// The segment that is named next, of a segment of the log.
    pub(in crate::store) fn next(&self) -> Option<SegmentName> {
        match self.usage {
            SegmentUse::Log { next, .. } => Some(next),
            SegmentUse::Pages(_) => None,
        }
    }

    pub(in crate::store) fn encode(&self, identity: &[u8; 16]) -> [u8; Self::BYTES] {
        let none = SegmentName { segment: 0, generation: 0 };
        let (class, temperature, next, epoch) = match self.usage {
            SegmentUse::Pages(temperature) => (Self::PAGES, temperature as u8, none, 0),
            SegmentUse::Log { next, epoch } => (Self::LOG, 0, next, epoch),
        };
        let mut out = [0; Self::BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &Self::MAGIC);
        put(16, identity);
        put(32, &self.name.segment.to_le_bytes());
        put(36, &self.name.generation.to_le_bytes());
        put(40, &[class, temperature]);
        put(44, &next.segment.to_le_bytes());
        put(48, &next.generation.to_le_bytes());
        put(52, &epoch.to_le_bytes());
        put(56, &self.first.to_le_bytes());
        let sum = checksum(&out[16..]);
        out[8..16].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The header at the front of a segment of the store with this identity.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::store) fn decode(bytes: &[u8], identity: &[u8; 16]) -> Result<Self, &'static str> {
        let bytes = bytes.first_chunk::<{ Self::BYTES }>().ok_or("it ends too early")?;
        let fields = || {
            let mut reader = Reader::new(bytes);
            let (magic, sum, owner) = (reader.bytes(8)?, reader.u64()?, reader.identity()?);
            let name = SegmentName { segment: reader.u32()?, generation: reader.u32()? };
            let (class, temperature, zero) = (reader.u8()?, reader.u8()?, reader.u16()?);
            let next = SegmentName { segment: reader.u32()?, generation: reader.u32()? };
            let (epoch, first) = (reader.u32()?, reader.u64()?);
            Some((magic, sum, owner, name, (class, temperature, zero), next, epoch, first))
        };
        let (magic, sum, owner, name, (class, temperature, zero), next, epoch, first) =
            fields().ok_or("it ends too early")?;
        let check = |holds: bool, problem| if holds { Ok(()) } else { Err(problem) };
        check(magic == Self::MAGIC, "there is none")?;
        check(sum == checksum(&bytes[16..]), "its checksum is wrong")?;
        check(owner == *identity, "it belongs to another store")?;
        let usage = match class {
            Self::PAGES => {
                let known = Temperature::ALL.into_iter().find(|&known| known as u8 == temperature);
                let none = (next.segment, next.generation, epoch) == (0, 0, 0);
                check(none, "it is of pages, and something follows it")?;
                SegmentUse::Pages(known.ok_or("its temperature is not known")?)
            }
            Self::LOG => {
                check(temperature == 0, "it is of the log, and has a temperature")?;
                SegmentUse::Log { next, epoch }
            }
            _ => return Err("its class is not known"),
        };
        check(zero == 0, "there is something where zeros are to be")?;
        Ok(Self { name, usage, first })
    }

    /// Parses the header of `segment`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::store) fn parse(
        bytes: &[u8],
        segment: u32,
        identity: &[u8; 16],
        geometry: &Geometry,
    ) -> Result<Self, Damage> {
        let is = Checker::new(Structure::SegmentHeader, geometry.offset(segment));
        let header = Self::decode(bytes, identity).map_err(|problem| is.damage(problem))?;
        let generation = header.name.generation;
        is.check(header.name.segment == segment && generation > 0, "it is that of another segment")?;
        let follows = header.next().is_none_or(|next| geometry.has(next.segment));
        is.check(follows, "what follows it cannot be")?;
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: [u8; 16] = [6; 16];
    const GEOMETRY: Geometry = Geometry { block: 4096, segment: 256 << 10, segments: 32 };

    fn name(segment: u32, generation: u32) -> SegmentName {
        SegmentName { segment, generation }
    }

    fn headers() -> [SegmentHeader; 2] {
        let log = SegmentUse::Log { next: name(12, 3), epoch: 0x0102_0304 };
        let pages = SegmentUse::Pages(Temperature::Values);
        [pages, log].map(|usage| SegmentHeader { name: name(9, 4), usage, first: 77 })
    }

    #[test]
    fn headers_come_back_and_others_are_refused() {
        for header in headers() {
            let bytes = header.encode(&IDENTITY);
            let parse =
                |bytes: &[u8], segment, identity| SegmentHeader::parse(bytes, segment, identity, &GEOMETRY);
            assert_eq!(parse(&bytes, 9, &IDENTITY), Ok(header));
            assert_eq!(SegmentHeader::decode(&bytes, &IDENTITY), Ok(header));
            assert!(parse(&bytes, 8, &IDENTITY).is_err());
            assert!(parse(&bytes, 9, &[0; 16]).is_err());
            for byte in 0..SegmentHeader::BYTES {
                let mut changed = bytes;
                changed[byte] ^= 4;
                let damage = parse(&changed, 9, &IDENTITY).expect_err("flipped");
                assert_eq!(damage.offset, 9 * (256 << 10));
                assert!(SegmentHeader::decode(&bytes[..byte], &IDENTITY).is_err());
            }
        }
        let beyond = SegmentUse::Log { next: name(32, 3), epoch: 1 };
        let beyond = SegmentHeader { usage: beyond, ..headers()[1] };
        assert!(SegmentHeader::parse(&beyond.encode(&IDENTITY), 9, &IDENTITY, &GEOMETRY).is_err());
    }

    #[test]
    fn what_is_only_for_the_other_use_is_zero() {
        for (header, places) in headers().into_iter().zip([&[44, 48, 52][..], &[41]]) {
            for &place in places {
                let mut bytes = header.encode(&IDENTITY);
                assert_eq!(bytes[place], 0);
                bytes[place] = 1;
                let sum = checksum(&bytes[16..]);
                bytes[8..16].copy_from_slice(&sum.to_le_bytes());
                assert!(SegmentHeader::decode(&bytes, &IDENTITY).is_err(), "byte {place}");
            }
        }
        assert_eq!(headers()[1].encode(&IDENTITY)[52..56], [4, 3, 2, 1]);
    }
}
