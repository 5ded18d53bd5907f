//! What a [`Command`] is to a controller, and what is refused before it gets there.

use super::super::super::queue::{Command, CommandKind, Failure, Refused, Segment};
use super::super::command::{DEALLOCATE, FORCE_UNIT_ACCESS, FUSED_FIRST, FUSED_SECOND, opcode};
use super::super::dma::Regions;
use super::super::registers::Registers;
use super::super::transfer::{DataPointer, LIST_BYTES, Method, NO_DATA, describe};
use super::{Compare, QueuePair, State};
use crate::error::{ErrorKind, Outcome};

/// The most blocks of one read, write or write-zeroes (NLB has 16 bits and means one more).
const MAX_BLOCKS: u64 = 1 << 16;
/// The most ranges of one Dataset Management command.
const MAX_RANGES: u64 = 256;

/// What blocks and memory are to the controller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// The block size as a power of two.
    pub(super) block_shift: u32,
    /// The bits of an offset within a block.
    pub(super) block_mask: u64,
    pub(super) page_bytes: u64,
    pub(super) method: Method,
}

impl Format {
    /// The first block of a command, and how many come after it: up to 65,535.
    fn blocks(&self, command: &Command<'_>) -> Option<(u64, u32)> {
        let shift = self.block_shift;
        let last = (command.len >> shift).wrapping_sub(1);
        let are_whole = (command.offset | command.len) & self.block_mask == 0;
        let last = u32::try_from(last).ok().filter(|&last| u64::from(last) < MAX_BLOCKS && are_whole)?;
        Some((command.offset >> shift, last))
    }
}

/// The words of the entry that most commands have: a read or a write of one piece within a page.
pub(super) struct Simple {
    /// Dword 0 without the command id.
    pub(super) head: u32,
    /// Dword 12.
    pub(super) control: u32,
    /// Dwords 10 and 11.
    pub(super) start: u64,
    /// Dwords 6 and 7; 8 and 9 are 0.
    pub(super) address: u64,
}

impl Simple {
    /// `None` if the command is no such, or has anything wrong.
    #[inline]
    pub(super) fn of(command: &Command<'_>, format: &Format, regions: &Regions) -> Option<Self> {
        let (code, flags) = match command.kind {
            CommandKind::Read => (opcode::READ, 0),
            CommandKind::Write { durable } => (opcode::WRITE, if durable { FORCE_UNIT_ACCESS } else { 0 }),
            _ => return None,
        };
        let [only] = command.memory else { return None };
        let len = command.len;
        let address = regions.translate_again(only.ptr.addr().get(), only.len)?;
        let is_whole = (command.offset | len) & format.block_mask == 0 && len != 0 && only.len as u64 == len;
        let is_in_a_page = address & 3 == 0 && (address & (format.page_bytes - 1)) + len <= format.page_bytes;
        if !is_whole || !is_in_a_page {
            return None;
        }
        let last = u32::try_from((len >> format.block_shift) - 1).ok().filter(|&last| last < 1 << 16)?;
        let start = command.offset >> format.block_shift;
        Some(Self { head: code.into(), control: flags | last, start, address })
    }
}

impl<R: Registers> QueuePair<R> {
    /// Describes any command in the tracker of `index`. Its list, if it needs one, is in the page
    /// of that index.
    #[inline(never)]
    pub(super) fn describe(&mut self, index: usize, command: &Command<'_>) -> Result<(), Refused> {
        let (code, flags) = match command.kind {
            CommandKind::Read => (opcode::READ, 0),
            CommandKind::Write { durable: true } => (opcode::WRITE, FORCE_UNIT_ACCESS),
            CommandKind::Write { durable: false } | CommandKind::CompareAndWrite => (opcode::WRITE, 0),
            CommandKind::WriteZeroes => (opcode::WRITE_ZEROES, 0),
            CommandKind::Flush => (opcode::FLUSH, 0),
            CommandKind::Trim => (opcode::DATASET_MANAGEMENT, 0),
        };
        let mut head = u32::from(code);
        let mut data = NO_DATA;
        let (start, control) = match command.kind {
            CommandKind::Flush => (0, 0),
            CommandKind::Trim => {
                data.words[0] = self.lists.device_address(index * LIST_BYTES);
                (self.trim(index, command)?, 0)
            }
            _ => {
                let (start, last) = self.format.blocks(command).ok_or_else(|| {
                    let block = 1_u64 << self.format.block_shift;
                    let Command { offset, len, .. } = *command;
                    invalid(format!(
                        "{len} bytes at {offset} are not 1 to {MAX_BLOCKS} whole blocks of {block}"
                    ))
                })?;
                (start, flags | last)
            }
        };
        if matches!(
            command.kind,
            CommandKind::Read | CommandKind::Write { .. } | CommandKind::CompareAndWrite
        ) {
            data = self.data(index, command, command.memory)?;
        }
        if command.kind == CommandKind::CompareAndWrite {
            if self.compares.is_empty() {
                let why = "the controller has no fused compare and write".to_owned();
                return Err(refused(ErrorKind::Unsupported, why));
            }
            head |= FUSED_SECOND;
            let expected = self.data(index + self.trackers.len(), command, command.expected)?;
            self.compares[index] = Compare {
                head: u32::from(opcode::COMPARE) | FUSED_FIRST | expected.flag,
                data: expected.words,
            };
        }
        let tracker = &mut self.trackers[index];
        (tracker.head, tracker.control) = (head | data.flag, control);
        (tracker.start, tracker.data) = (start, data.words);
        Ok(())
    }

    /// The data pointer to `segments`, with a list in page `list` if it needs one.
    fn data(
        &mut self,
        list: usize,
        command: &Command<'_>,
        segments: &[Segment],
    ) -> Result<DataPointer, Refused> {
        // The controller transfers what the blocks say, whatever the pieces are.
        if segments.iter().map(|segment| segment.len as u64).sum::<u64>() != command.len {
            return Err(invalid("the memory is not as long as the blocks".to_owned()));
        }
        let regions = &mut self.regions;
        let translate = |segment: &Segment| regions.translate(segment.ptr.addr().get(), segment.len);
        describe(self.format.method, segments, translate, &self.lists, list * LIST_BYTES)
            .map_err(|_| Refused::Copy)
    }

    /// Lists the ranges of a trim in the page of `index`. Returns dwords 10 and 11: how many come
    /// after the first, and what to do with them.
    fn trim(&mut self, index: usize, command: &Command<'_>) -> Result<u64, Refused> {
        let shift = self.format.block_shift;
        let (mut lba, mut left) = (command.offset >> shift, command.len >> shift);
        let most = u64::from(u32::MAX);
        let ranges = left.div_ceil(most);
        let whole = (command.offset | command.len) & ((1 << shift) - 1) == 0;
        if !(1..=MAX_RANGES).contains(&ranges) || !whole {
            return Err(invalid(format!("{} bytes cannot be one trim", command.len)));
        }
        let mut at = index * LIST_BYTES;
        while left > 0 {
            let blocks = left.min(most);
            // Context attributes are 0; then the length in blocks and the first block.
            self.lists.write64(at, blocks << 32);
            self.lists.write64(at + 8, lba);
            at += 16;
            lba += blocks;
            left -= blocks;
        }
        Ok((ranges - 1) | u64::from(DEALLOCATE) << 32)
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

#[cold]
pub(super) fn invalid(why: String) -> Refused {
    refused(ErrorKind::InvalidInput, why)
}

fn refused(kind: ErrorKind, why: String) -> Refused {
    Refused::Failed(Failure { outcome: Outcome::NotStarted, ..Failure::new(kind, why) })
}
