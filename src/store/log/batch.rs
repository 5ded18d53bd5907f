//! Batches: what one write of the log carries (disk format, section 6).

use crate::mem::DmaBuf;
use crate::rt::Instant;
use crate::store::codec::{Reader, checksum, to_u32};

pub(in crate::store) const HEADER_BYTES: usize = 96;
const MAGIC: u32 = u32::from_le_bytes(*b"bLOG");

/// A batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct BatchHeader {
    pub(in crate::store) payload_len: u32,
    pub(in crate::store) identity: [u8; 16],
    pub(in crate::store) epoch: u64,
    pub(in crate::store) sequence: u64,
    pub(in crate::store) position: u64,
    pub(in crate::store) first_lsn: u64,
    pub(in crate::store) records: u32,
    pub(in crate::store) durable_sequence: u64,
    pub(in crate::store) chain: u64,
    pub(in crate::store) payload_checksum: u64,
}

impl BatchHeader {
    /// The encoded header and its checksum, which the next batch chains to.
    pub(in crate::store) fn encode(&self) -> ([u8; HEADER_BYTES], u64) {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&self.payload_len.to_le_bytes());
        out.extend_from_slice(&self.identity);
        for field in [self.epoch, self.sequence, self.position, self.first_lsn] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.records.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for field in [self.durable_sequence, self.chain, self.payload_checksum] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let sum = checksum(&out);
        let mut header = [0; HEADER_BYTES];
        header[..HEADER_BYTES - 8].copy_from_slice(&out);
        header[HEADER_BYTES - 8..].copy_from_slice(&sum.to_le_bytes());
        (header, sum)
    }

    /// The header at the front of `block` and its checksum, if that is right.
    pub(in crate::store) fn decode(block: &[u8]) -> Option<(Self, u64)> {
        let header = block.get(..HEADER_BYTES)?;
        let mut reader = Reader::new(header);
        if reader.u32()? != MAGIC {
            return None;
        }
        let payload_len = reader.u32()?;
        let identity = reader.identity()?;
        let (epoch, sequence, position, first_lsn) =
            (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let (records, _) = (reader.u32()?, reader.u32()?);
        let (durable_sequence, chain, payload_checksum) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let sum = reader.u64()?;
        (sum == checksum(&header[..HEADER_BYTES - 8])).then_some((
            Self {
                payload_len,
                identity,
                epoch,
                sequence,
                position,
                first_lsn,
                records,
                durable_sequence,
                chain,
                payload_checksum,
            },
            sum,
        ))
    }
}

/// A batch on its way to the namespace.
pub(in crate::store) struct Batch {
    pub(in crate::store) position: u64,
    pub(in crate::store) sequence: u64,
    pub(in crate::store) last_lsn: u64,
    pub(in crate::store) flush_by: Option<Instant>,
    /// Values that must be on the namespace before this batch is written, as a count of them since
    /// opening.
    pub(in crate::store) externals: u64,
    /// Whether it refers to any of them itself.
    pub(in crate::store) has_new_externals: bool,
    pub(in crate::store) len: u64,
    /// What to write; taken when it is written.
    pub(in crate::store) bytes: Option<DmaBuf>,
}

impl Batch {
    /// The position after it.
    pub(in crate::store) fn end(&self) -> u64 {
        self.position + self.len
    }
}

/// The header and payload of a batch, padded to whole blocks; `buffer` is the payload behind
/// [`HEADER_BYTES`] of room.
pub(super) fn assemble(buffer: &[u8], mut header: BatchHeader, block: usize) -> (DmaBuf, u64) {
    let payload = &buffer[HEADER_BYTES..];
    header.payload_len = to_u32(payload.len());
    header.payload_checksum = checksum(payload);
    let (encoded, sum) = header.encode();
    let mut bytes = DmaBuf::zeroed(buffer.len().next_multiple_of(block));
    bytes[..buffer.len()].copy_from_slice(buffer);
    bytes[..HEADER_BYTES].copy_from_slice(&encoded);
    (bytes, sum)
}
