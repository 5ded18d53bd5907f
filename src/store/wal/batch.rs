//! Batches: what one write of the log carries (disk format, section 10).

use super::record::Operations;
use crate::store::codec::{Reader, checksum};

/// The length of a batch header.
pub(in crate::store) const HEADER_BYTES: usize = 112;
/// The length of a bundle entry.
pub(in crate::store) const BUNDLE_BYTES: usize = 24;
/// What stands in front of a record's operations: their length, and the record's number minus the
/// batch's first.
pub(in crate::store) const RECORD_HEAD_BYTES: usize = 8;

const MAGIC: u32 = u32::from_le_bytes(*b"bLG2");

/// A batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct BatchHeader {
    /// Length of what follows the header: bundle entries and records, without padding.
    pub(in crate::store) payload_len: u32,
    pub(in crate::store) identity: [u8; 16],
    pub(in crate::store) epoch: u64,
    /// Number of the batch.
    pub(in crate::store) batch: u64,
    pub(in crate::store) segment: u32,
    /// Where it lies in the segment, in bytes.
    pub(in crate::store) offset: u32,
    pub(in crate::store) generation: u32,
    /// How many bundle entries it has.
    pub(in crate::store) bundles: u32,
    /// The number of its first record.
    pub(in crate::store) first: u64,
    pub(in crate::store) records: u32,
    /// All batches up to this one were known to be flushed.
    pub(in crate::store) durable: u64,
    /// Header checksum of the batch before.
    pub(in crate::store) chain: u64,
    pub(in crate::store) payload_checksum: u64,
}

impl BatchHeader {
    /// Writes the header to `out`, and returns its checksum, to which the next batch chains.
    pub(in crate::store) fn encode(&self, out: &mut [u8; HEADER_BYTES]) -> u64 {
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC.to_le_bytes());
        put(&self.payload_len.to_le_bytes());
        put(&self.identity);
        put(&self.epoch.to_le_bytes());
        put(&self.batch.to_le_bytes());
        put(&self.segment.to_le_bytes());
        put(&self.offset.to_le_bytes());
        put(&self.generation.to_le_bytes());
        put(&self.bundles.to_le_bytes());
        put(&self.first.to_le_bytes());
        put(&self.records.to_le_bytes());
        put(&[0; 4]);
        put(&self.durable.to_le_bytes());
        put(&self.chain.to_le_bytes());
        put(&self.payload_checksum.to_le_bytes());
        put(&[0; 8]);
        let sum = checksum(&out[..HEADER_BYTES - 8]);
        out[HEADER_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        sum
    }

    /// The header at the front of `block` and its checksum, if that is right and what it says about
    /// its own lengths can be.
    pub(in crate::store) fn decode(block: &[u8]) -> Option<(Self, u64)> {
        let bytes = block.get(..HEADER_BYTES)?;
        let mut reader = Reader::new(bytes);
        if reader.u32()? != MAGIC {
            return None;
        }
        let payload_len = reader.u32()?;
        let identity = reader.identity()?;
        let (epoch, batch) = (reader.u64()?, reader.u64()?);
        let (segment, offset, generation, bundles) =
            (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
        let (first, records, zero) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let (durable, chain, payload_checksum) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (zeros, sum) = (reader.u64()?, reader.u64()?);
        if sum != checksum(&bytes[..HEADER_BYTES - 8]) || zero != 0 || zeros != 0 {
            return None;
        }
        let header = Self {
            payload_len,
            identity,
            epoch,
            batch,
            segment,
            offset,
            generation,
            bundles,
            first,
            records,
            durable,
            chain,
            payload_checksum,
        };
        header.is_possible().then_some((header, sum))
    }

    /// Whether the lengths and numbers do not contradict each other.
    fn is_possible(&self) -> bool {
        let entries = u64::from(self.bundles) * BUNDLE_BYTES as u64;
        let records = u64::from(self.records) * (RECORD_HEAD_BYTES + 1) as u64;
        entries + records <= u64::from(self.payload_len)
            && self.durable < self.batch
            && self.first.checked_add(u64::from(self.records)).is_some()
    }

    /// The number after its last record.
    pub(in crate::store) fn end(&self) -> u64 {
        self.first + u64::from(self.records)
    }

    /// What the batch takes of its segment, in bytes, with padding to blocks of `block` bytes.
    pub(in crate::store) fn stored_bytes(&self, block: u32) -> u64 {
        (HEADER_BYTES as u64 + u64::from(self.payload_len)).next_multiple_of(u64::from(block))
    }
}

/// A bundle that is durable with the batch that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct BundleEntry {
    pub(in crate::store) number: u64,
    /// Cold word of the trailer.
    pub(in crate::store) trailer: u64,
    /// Checksum in the trailer.
    pub(in crate::store) checksum: u64,
}

impl BundleEntry {
    pub(in crate::store) fn encode(&self) -> [u8; BUNDLE_BYTES] {
        let mut out = [0; BUNDLE_BYTES];
        for (place, field) in out.chunks_exact_mut(8).zip([self.number, self.trailer, self.checksum]) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        Some(Self { number: reader.u64()?, trailer: reader.u64()?, checksum: reader.u64()? })
    }
}

/// Why a payload is not that of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum NoPayload {
    /// Its length or its checksum is another: it was not written to its end.
    Torn,
    /// It is what was written, and is no batch: a defect of what wrote it, or of what reads it.
    Unreadable,
}

/// A batch whose bytes were checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Batch<'a> {
    pub(in crate::store) header: BatchHeader,
    bundles: &'a [u8],
    records: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The batch with `header` and `payload`, if the payload is as long as the header says, has its
    /// checksum, and is what the header says from its first to its last byte.
    ///
    /// # Errors
    ///
    /// [`NoPayload`].
    pub(in crate::store) fn check(header: BatchHeader, payload: &'a [u8]) -> Result<Self, NoPayload> {
        if payload.len() != header.payload_len as usize || checksum(payload) != header.payload_checksum {
            return Err(NoPayload::Torn);
        }
        Self::parse(header, payload).ok_or(NoPayload::Unreadable)
    }

    fn parse(header: BatchHeader, payload: &'a [u8]) -> Option<Self> {
        let (bundles, records) = payload.split_at_checked(header.bundles as usize * BUNDLE_BYTES)?;
        let mut reader = Reader::new(records);
        for index in 0..header.records {
            let (number, operations) = record(&mut reader)?;
            if number != index || !operations.is_valid() {
                return None;
            }
        }
        reader.is_empty().then_some(Self { header, bundles, records })
    }

    /// The bundles that it makes durable.
    pub(in crate::store) fn bundles(&self) -> impl Iterator<Item = BundleEntry> + use<'a> {
        self.bundles.chunks_exact(BUNDLE_BYTES).filter_map(BundleEntry::decode)
    }

    /// Its records, each with its number, in their order.
    pub(in crate::store) fn records(&self) -> impl Iterator<Item = (u64, Operations<'a>)> + use<'a> {
        let (first, mut reader) = (self.header.first, Reader::new(self.records));
        std::iter::from_fn(move || record(&mut reader).map(|(index, ops)| (first + u64::from(index), ops)))
    }
}

fn record<'a>(reader: &mut Reader<'a>) -> Option<(u32, Operations<'a>)> {
    let (len, number) = (reader.u32()?, reader.u32()?);
    Some((number, Operations(reader.bytes(len as usize)?)))
}

#[cfg(all(test, not(loom)))]
mod tests;
