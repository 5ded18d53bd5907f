//! The entries of commands: what a [`Transfer`] is to a controller, and what is refused before.

use super::super::command::{DEALLOCATE, Entry, FORCE_UNIT_ACCESS, FUSED_FIRST, FUSED_SECOND, opcode};
use super::super::io::{Operation, Refusal, Segment, Transfer};
use super::super::registers::Registers;
use super::super::transfer::{LIST_BYTES, Unfit, describe};
use super::{QueuePair, State};
use crate::error::{Error, ErrorKind, Outcome};

/// The most blocks of one read, write or write-zeroes (NLB has 16 bits and means one more).
const MAX_BLOCKS: u64 = 1 << 16;
/// The most ranges of one Dataset Management command.
const MAX_RANGES: u64 = 256;

impl<R: Registers> QueuePair<R> {
    /// The entry of a command; its list, if it needs one, is in the page of `index`.
    #[inline]
    pub(super) fn entry(&mut self, index: usize, transfer: &Transfer<'_>) -> Result<Entry, Refusal> {
        let namespace = self.attachment.namespace;
        let (code, flags) = match transfer.operation {
            Operation::Read => (opcode::READ, 0),
            Operation::Write { durable } => (opcode::WRITE, if durable { FORCE_UNIT_ACCESS } else { 0 }),
            Operation::CompareAndWrite => (opcode::WRITE, 0),
            Operation::Flush => return Ok(Entry::new(opcode::FLUSH, namespace)),
            Operation::Trim => return self.trim(index, transfer),
            Operation::WriteZeroes => {
                let (lba, blocks) = self.blocks(transfer)?;
                return Ok(Entry::new(opcode::WRITE_ZEROES, namespace).blocks(lba, blocks));
            }
        };
        let (lba, blocks) = self.blocks(transfer)?;
        let mut entry = Entry::new(code, namespace).with(12, flags).blocks(lba, blocks);
        if transfer.operation == Operation::CompareAndWrite {
            if self.compares.is_empty() {
                return Err(self.unsupported(transfer));
            }
            entry.words[0] |= FUSED_SECOND;
        }
        self.data(index, transfer, transfer.memory, &mut entry)?;
        Ok(entry)
    }

    pub(super) fn compare(&mut self, index: usize, transfer: &Transfer<'_>) -> Result<Entry, Refusal> {
        let (lba, blocks) = self.blocks(transfer)?;
        let mut entry = Entry::new(opcode::COMPARE, self.attachment.namespace).blocks(lba, blocks);
        entry.words[0] |= FUSED_FIRST;
        let list = index + self.trackers.len();
        self.data(list, transfer, transfer.expected, &mut entry)?;
        Ok(entry)
    }

    /// The first block of a transfer and how many there are: 1 to 65536.
    #[inline]
    fn blocks(&self, transfer: &Transfer<'_>) -> Result<(u64, u32), Refusal> {
        let shift = self.attachment.block_shift;
        let mask = (1 << shift) - 1;
        let blocks = transfer.len >> shift;
        match u32::try_from(blocks) {
            Ok(count)
                if (1..=MAX_BLOCKS).contains(&blocks) && (transfer.offset | transfer.len) & mask == 0 =>
            {
                Ok((transfer.offset >> shift, count))
            }
            _ => Err(self.invalid(
                transfer,
                format!("{} bytes are not 1 to {MAX_BLOCKS} whole blocks of {}", transfer.len, mask + 1),
            )),
        }
    }

    /// Sets the data pointer of `entry` to `segments`.
    #[inline]
    fn data(
        &mut self,
        list: usize,
        transfer: &Transfer<'_>,
        segments: &[Segment],
        entry: &mut Entry,
    ) -> Result<(), Refusal> {
        // The controller transfers what the blocks say, whatever the pieces are.
        if segments.iter().map(|segment| segment.len() as u64).sum::<u64>() != transfer.len {
            return Err(self.invalid(transfer, "the memory is not as long as the blocks".to_owned()));
        }
        let regions = &mut self.regions;
        let translate = |segment: &Segment| regions.translate(segment.address(), segment.len());
        match describe(self.method, entry, segments, translate, &self.lists, list * LIST_BYTES) {
            Ok(()) => Ok(()),
            Err(Unfit::Odd | Unfit::Unreachable) => Err(Refusal::Odd),
        }
    }

    fn trim(&mut self, index: usize, transfer: &Transfer<'_>) -> Result<Entry, Refusal> {
        let shift = self.attachment.block_shift;
        let (mut lba, mut left) = (transfer.offset >> shift, transfer.len >> shift);
        let most = u64::from(u32::MAX);
        let ranges = left.div_ceil(most);
        let whole = (transfer.offset | transfer.len) & ((1 << shift) - 1) == 0;
        if !(1..=MAX_RANGES).contains(&ranges) || !whole {
            return Err(self.invalid(transfer, format!("{} bytes cannot be one trim", transfer.len)));
        }
        let page = index * LIST_BYTES;
        let mut at = page;
        while left > 0 {
            let blocks = left.min(most);
            // Context attributes are 0; then the length in blocks and the first block.
            self.lists.write64(at, blocks << 32);
            self.lists.write64(at + 8, lba);
            at += 16;
            lba += blocks;
            left -= blocks;
        }
        let last = u32::try_from(ranges - 1).expect("at most 256");
        Ok(Entry::new(opcode::DATASET_MANAGEMENT, self.attachment.namespace)
            .data(self.lists.device_address(page), 0)
            .with(10, last)
            .with(11, DEALLOCATE))
    }

    #[cold]
    pub(super) fn invalid(&self, transfer: &Transfer<'_>, why: String) -> Refusal {
        Refusal::Failed(
            Error::new(ErrorKind::InvalidInput, transfer.operation.name())
                .at(format!("{} offset {}", self.attachment.name, transfer.offset))
                .because(why),
        )
    }

    #[cold]
    fn unsupported(&self, transfer: &Transfer<'_>) -> Refusal {
        Refusal::Failed(
            Error::new(ErrorKind::Unsupported, transfer.operation.name())
                .at(self.attachment.name.clone())
                .because("the controller has no fused compare and write"),
        )
    }

    #[cold]
    pub(super) fn not_attached(&self, transfer: &Transfer<'_>) -> Refusal {
        if self.state == State::Stopped {
            return Refusal::Full;
        }
        Refusal::Failed(
            Error::new(ErrorKind::Closed, transfer.operation.name())
                .at(self.attachment.name.clone())
                .because("the controller is gone: open the device again when it is back")
                .outcome_is(Outcome::NotStarted),
        )
    }
}
