//! What a [`Command`] is to a controller, and what is refused before it gets there.

use super::super::super::queue::{Command, CommandKind, Failure, Refused, Segment};
use super::super::command::{DEALLOCATE, FORCE_UNIT_ACCESS, FUSED_FIRST, FUSED_SECOND, opcode};
use super::super::registers::Registers;
use super::super::transfer::{DataPointer, LIST_BYTES, describe};
use super::{Compare, QueuePair, State};
use crate::error::{ErrorKind, Outcome};

/// The most blocks of one read, write or write-zeroes (NLB has 16 bits and means one more).
const MAX_BLOCKS: u64 = 1 << 16;
/// The most ranges of one Dataset Management command.
const MAX_RANGES: u64 = 256;

/// The words of a command's entry that are not the same for all commands of a queue pair.
pub(super) struct Words {
    /// Dword 0 without the command id.
    pub(super) head: u32,
    /// Dword 12.
    pub(super) control: u32,
    /// Dwords 10 and 11.
    pub(super) start: u64,
    /// Dwords 6 to 9.
    pub(super) data: [u64; 2],
}

const NO_DATA: DataPointer = DataPointer { words: [0; 2], flag: 0 };

impl<R: Registers> QueuePair<R> {
    /// The entry of a command; its list, if it needs one, is in the page of `index`.
    #[inline]
    pub(super) fn words(&mut self, index: usize, command: &Command<'_>) -> Result<Words, Refused> {
        let (code, flags) = match command.kind {
            CommandKind::Read => (opcode::READ, 0),
            CommandKind::Write { durable } => (opcode::WRITE, if durable { FORCE_UNIT_ACCESS } else { 0 }),
            _ => return self.rare_words(index, command),
        };
        let (start, last) = self.blocks(command)?;
        let data = self.data(index, command, command.memory)?;
        Ok(Words { head: u32::from(code) | data.flag, control: flags | last, start, data: data.words })
    }

    /// The same for all but reads and writes.
    fn rare_words(&mut self, index: usize, command: &Command<'_>) -> Result<Words, Refused> {
        let code = match command.kind {
            CommandKind::Trim => return self.trim(index, command),
            CommandKind::Flush => {
                return Ok(Words { head: opcode::FLUSH.into(), control: 0, start: 0, data: [0; 2] });
            }
            CommandKind::WriteZeroes => opcode::WRITE_ZEROES,
            _ => opcode::WRITE,
        };
        let (start, last) = self.blocks(command)?;
        let mut head = u32::from(code);
        let mut data = NO_DATA;
        if command.kind == CommandKind::CompareAndWrite {
            if self.compares.is_empty() {
                return Err(self.unsupported());
            }
            head |= FUSED_SECOND;
            data = self.data(index, command, command.memory)?;
            let expected = self.data(index + self.trackers.len(), command, command.expected)?;
            self.compares[index] = Compare {
                head: u32::from(opcode::COMPARE) | FUSED_FIRST | expected.flag,
                data: expected.words,
            };
        }
        Ok(Words { head: head | data.flag, control: last, start, data: data.words })
    }

    /// The first block of a command, and how many come after it: up to 65,535.
    #[inline]
    fn blocks(&self, command: &Command<'_>) -> Result<(u64, u32), Refused> {
        let shift = self.attachment.block_shift;
        let mask = (1 << shift) - 1;
        let last = (command.len >> shift).wrapping_sub(1);
        match u32::try_from(last) {
            Ok(count) if last < MAX_BLOCKS && (command.offset | command.len) & mask == 0 => {
                Ok((command.offset >> shift, count))
            }
            _ => Err(self.invalid(format!(
                "{} bytes at {} are not 1 to {MAX_BLOCKS} whole blocks of {}",
                command.len,
                command.offset,
                mask + 1
            ))),
        }
    }

    /// The data pointer to `segments`, with a list in page `list` if it needs one.
    #[inline]
    fn data(
        &mut self,
        list: usize,
        command: &Command<'_>,
        segments: &[Segment],
    ) -> Result<DataPointer, Refused> {
        // The controller transfers what the blocks say, whatever the pieces are.
        if segments.iter().map(|segment| segment.len as u64).sum::<u64>() != command.len {
            return Err(self.invalid("the memory is not as long as the blocks".to_owned()));
        }
        let regions = &mut self.regions;
        let translate = |segment: &Segment| regions.translate(segment.ptr.addr().get(), segment.len);
        describe(self.method, segments, translate, &self.lists, list * LIST_BYTES).map_err(|_| Refused::Copy)
    }

    fn trim(&mut self, index: usize, command: &Command<'_>) -> Result<Words, Refused> {
        let shift = self.attachment.block_shift;
        let (mut lba, mut left) = (command.offset >> shift, command.len >> shift);
        let most = u64::from(u32::MAX);
        let ranges = left.div_ceil(most);
        let whole = (command.offset | command.len) & ((1 << shift) - 1) == 0;
        if !(1..=MAX_RANGES).contains(&ranges) || !whole {
            return Err(self.invalid(format!("{} bytes cannot be one trim", command.len)));
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
        // Dword 10 is how many ranges come after the first, dword 11 what to do with them.
        Ok(Words {
            head: opcode::DATASET_MANAGEMENT.into(),
            control: 0,
            start: (ranges - 1) | u64::from(DEALLOCATE) << 32,
            data: [self.lists.device_address(page), 0],
        })
    }

    #[cold]
    pub(super) fn invalid(&self, why: String) -> Refused {
        refused(ErrorKind::InvalidInput, why)
    }

    #[cold]
    fn unsupported(&self) -> Refused {
        refused(ErrorKind::Unsupported, "the controller has no fused compare and write".to_owned())
    }

    #[cold]
    pub(super) fn not_attached(&self) -> Refused {
        if self.state == State::Stopped {
            return Refused::Full;
        }
        let why = "the controller is gone: open the device again when it is back".to_owned();
        refused(ErrorKind::Closed, why)
    }
}

fn refused(kind: ErrorKind, why: String) -> Refused {
    Refused::Failed(Failure { outcome: Outcome::NotStarted, ..Failure::new(kind, why) })
}
