//! How the model executes commands of the NVM command set, and moves their data.

use std::mem;

use rand::Rng;

use super::super::command::{DATA_IS_SGL, DEALLOCATE, Entry, FORCE_UNIT_ACCESS, opcode};
use super::super::status::Status;
use super::machine::Machine;
use super::queues::Fetched;
use super::space::Unmapped;

const INVALID_OPCODE: Status = Status::new(0, 0x01).do_not_retry();
const INVALID_FIELD: Status = Status::new(0, 0x02).do_not_retry();
const DATA_TRANSFER_ERROR: Status = Status::new(0, 0x04);
const FAILED_FUSED: Status = Status::new(0, 0x09);
const INVALID_NAMESPACE: Status = Status::new(0, 0x0b).do_not_retry();
const SGL_INVALID: Status = Status::new(0, 0x0d).do_not_retry();
const SGL_LENGTH_INVALID: Status = Status::new(0, 0x0f).do_not_retry();
const PRP_OFFSET_INVALID: Status = Status::new(0, 0x13).do_not_retry();
const LBA_OUT_OF_RANGE: Status = Status::new(0, 0x80).do_not_retry();
const COMPARE_FAILURE: Status = Status::new(2, 0x85);
const PAGE: u64 = 4096;

/// Pieces of host memory: address and length in bytes.
pub(super) type Pieces = Vec<(u64, usize)>;

impl Machine {
    pub(super) fn execute(&mut self, command: &Fetched) {
        let queue = command.queue;
        if queue == 0 {
            self.execute_admin(&command.entry);
            return;
        }
        self.executed += 1;
        let is_forced =
            command.entry.opcode() == opcode::WRITE && command.entry.words[12] & FORCE_UNIT_ACCESS != 0;
        self.forced_writes += u64::from(is_forced);
        let Some(second) = &command.second else {
            let status = self.run(&command.entry);
            self.finish(queue, &command.entry, status);
            return;
        };
        // A fused pair happens at once or not at all.
        let first_status = self.run(&command.entry);
        let second_status = if first_status.is_success() { self.run(second) } else { FAILED_FUSED };
        let first_status = if second_status.is_success() || !first_status.is_success() {
            first_status
        } else {
            FAILED_FUSED
        };
        self.finish(queue, &command.entry, first_status);
        self.finish(queue, second, second_status);
    }

    /// A reset comes while the command is executed: a write leaves some of its blocks.
    pub(super) fn execute_partly(&mut self, command: &Fetched) {
        let entry = &command.entry;
        if command.queue == 0 || command.second.is_some() || entry.opcode() != opcode::WRITE {
            return;
        }
        let blocks = self.random.random_range(1..=(entry.words[12] & 0xffff) + 1);
        let _ = self.write(entry, u64::from(blocks));
    }

    fn run(&mut self, entry: &Entry) -> Status {
        let code = entry.opcode();
        if let Some(at) = self.failures.iter().position(|(of, _)| *of == code)
            && let Some((_, status)) = self.failures.remove(at)
        {
            return status;
        }
        let noise = self.options.noise;
        if self.chance(noise.transient) {
            return Status::new(0, if self.random.random_bool(0.5) { 0x21 } else { 0x22 });
        }
        if self.chance(noise.statuses) {
            let field = self.random.random_range(1..0x800);
            let status =
                Status::new(u8::try_from(field >> 8).unwrap_or(7), u8::try_from(field & 0xff).unwrap_or(1));
            return if self.random.random_bool(0.5) { status.do_not_retry() } else { status };
        }
        let Some(disk) = self.disk(entry.words[1]) else { return INVALID_NAMESPACE };
        let shift = self.disks[disk].format.block_shift;
        let (block, count) = (entry.pair(10), u64::from(entry.words[12] & 0xffff) + 1);
        if matches!(code, opcode::READ | opcode::WRITE | opcode::COMPARE | opcode::WRITE_ZEROES) {
            if !self.disks[disk].has(block, count) {
                return LBA_OUT_OF_RANGE;
            }
            let limit = self.options.max_transfer_shift;
            if code != opcode::WRITE_ZEROES && limit != 0 && count << shift > PAGE << limit {
                self.violation(format!("a transfer of {count} blocks exceeds MDTS"));
                return INVALID_FIELD;
            }
            let bad = self.bad_blocks.range((entry.words[1], block)..(entry.words[1], block + count)).next();
            if let Some((_, status)) = bad {
                return *status;
            }
        }
        match code {
            opcode::FLUSH => {
                self.disks[disk].flush();
                Ok(())
            }
            opcode::READ => {
                let bytes = usize::try_from(count << shift).unwrap_or(usize::MAX);
                self.with_pieces(entry, bytes, |machine, pieces| {
                    let mut data = machine.disks[disk].read(block, bytes);
                    for &(address, len) in pieces {
                        let piece;
                        (piece, data) = data.split_at(len);
                        machine.space.write(address, piece)?;
                    }
                    Ok(())
                })
            }
            opcode::WRITE => self.write(entry, count),
            opcode::COMPARE => self.compare(entry),
            opcode::WRITE_ZEROES => {
                let zeros = vec![0; usize::try_from(count << shift).unwrap_or(usize::MAX)];
                self.disks[disk].write(block, &zeros, entry.words[12] & FORCE_UNIT_ACCESS != 0);
                Ok(())
            }
            opcode::DATASET_MANAGEMENT => self.deallocate(disk, entry),
            _ => Err(INVALID_OPCODE),
        }
        .err()
        .unwrap_or(Status::SUCCESS)
    }

    pub(super) fn disk(&self, number: u32) -> Option<usize> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.disks.get(index).filter(|disk| disk.active).map(|_| index)
    }

    pub(super) fn fail_block(&mut self, number: u32, block: u64, status: Status) {
        if status.is_success() {
            self.bad_blocks.remove(&(number, block));
        } else {
            self.bad_blocks.insert((number, block), status);
        }
    }

    pub(super) fn peek(&self, number: u32, block: u64) -> Vec<u8> {
        self.disk(number).map_or(Vec::new(), |disk| {
            let disk = &self.disks[disk];
            disk.read(block, disk.block_bytes()).to_vec()
        })
    }

    /// Executes a write, of which the first `kept` blocks are written.
    fn write(&mut self, entry: &Entry, kept: u64) -> Result<(), Status> {
        let disk = self.disk(entry.words[1]).ok_or(INVALID_NAMESPACE)?;
        let shift = self.disks[disk].format.block_shift;
        let (block, count) = (entry.pair(10), u64::from(entry.words[12] & 0xffff) + 1);
        if !self.disks[disk].has(block, count) {
            return Err(LBA_OUT_OF_RANGE);
        }
        let mut data = mem::take(&mut self.data);
        data.resize(usize::try_from(count << shift).unwrap_or(usize::MAX), 0);
        let taken = self.take_from_host(entry, &mut data);
        if taken.is_ok() {
            let durable = entry.words[12] & FORCE_UNIT_ACCESS != 0 || !self.cache_enabled;
            data.truncate(usize::try_from(kept << shift).unwrap_or(usize::MAX));
            self.disks[disk].write(block, &data, durable);
        }
        self.data = data;
        taken
    }

    fn compare(&mut self, entry: &Entry) -> Result<(), Status> {
        let disk = self.disk(entry.words[1]).ok_or(INVALID_NAMESPACE)?;
        let shift = self.disks[disk].format.block_shift;
        let bytes = usize::try_from((u64::from(entry.words[12] & 0xffff) + 1) << shift).unwrap_or(usize::MAX);
        let mut expected = vec![0; bytes];
        self.take_from_host(entry, &mut expected)?;
        let same = self.disks[disk].read(entry.pair(10), bytes) == expected;
        if same { Ok(()) } else { Err(COMPARE_FAILURE) }
    }

    fn deallocate(&mut self, disk: usize, entry: &Entry) -> Result<(), Status> {
        let ranges = usize::try_from(entry.words[10] & 0xff).unwrap_or(0) + 1;
        let mut data = vec![0; ranges * 16];
        self.take_from_host(entry, &mut data)?;
        if entry.words[11] & DEALLOCATE == 0 {
            return Ok(());
        }
        for range in data.as_chunks::<16>().0 {
            let [_, _, _, _, a, b, c, d, block @ ..] = *range;
            let (count, block) = (u64::from(u32::from_le_bytes([a, b, c, d])), u64::from_le_bytes(block));
            if !self.disks[disk].has(block, count) {
                return Err(LBA_OUT_OF_RANGE);
            }
            let zeros = vec![0; usize::try_from(count).unwrap_or(0) << self.disks[disk].format.block_shift];
            if !zeros.is_empty() {
                self.disks[disk].write(block, &zeros, false);
            }
        }
        Ok(())
    }

    /// Copies `data` to the memory that `entry` names.
    pub(super) fn give_to_host(&mut self, entry: &Entry, data: &[u8]) -> Result<(), Status> {
        self.with_pieces(entry, data.len(), |machine, pieces| {
            let mut rest = data;
            for &(address, len) in pieces {
                let piece;
                (piece, rest) = rest.split_at(len);
                machine.space.write(address, piece)?;
            }
            Ok(())
        })
    }

    fn take_from_host(&mut self, entry: &Entry, data: &mut [u8]) -> Result<(), Status> {
        self.with_pieces(entry, data.len(), |machine, pieces| {
            let mut at = 0;
            for &(address, len) in pieces {
                machine.space.read(address, &mut data[at..at + len])?;
                at += len;
            }
            Ok(())
        })
    }

    /// Calls `move_data` with the pieces of a command's `len` bytes.
    fn with_pieces(
        &mut self,
        entry: &Entry,
        len: usize,
        move_data: impl FnOnce(&Self, &Pieces) -> Result<(), Unmapped>,
    ) -> Result<(), Status> {
        let mut pieces = mem::take(&mut self.pieces);
        pieces.clear();
        let found = self.find_pieces(entry, len, &mut pieces);
        let moved = found.map(|()| move_data(self, &pieces));
        self.pieces = pieces;
        moved?.map_err(|fault| self.fault(fault))
    }

    fn fault(&mut self, Unmapped(address): Unmapped) -> Status {
        self.violation(format!("DMA to {address:#x}, which is not mapped"));
        DATA_TRANSFER_ERROR
    }

    /// The memory of a command that moves `len` bytes.
    fn find_pieces(&mut self, entry: &Entry, len: usize, pieces: &mut Pieces) -> Result<(), Status> {
        if entry.words[0] & DATA_IS_SGL != 0 {
            if self.options.sgl == 0 {
                self.violation("an SGL for a controller without");
                return Err(INVALID_FIELD);
            }
            self.scatter_gather(entry, len, pieces)
        } else {
            self.physical_pages(entry, len, pieces)
        }
    }

    fn physical_pages(&mut self, entry: &Entry, len: usize, pieces: &mut Pieces) -> Result<(), Status> {
        let (first, second) = (entry.pair(6), entry.pair(8));
        let offset = first % PAGE;
        if !offset.is_multiple_of(4) {
            self.violation(format!("PRP1 {first:#x} is not aligned to 4 bytes"));
            return Err(PRP_OFFSET_INVALID);
        }
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let in_first = size(PAGE - offset).min(len);
        pieces.push((first, in_first));
        let mut left = len - in_first;
        let mut list = second;
        let is_list = left > size(PAGE);
        while left > 0 {
            let page = if is_list {
                let page = self.word(list)?;
                list += 8;
                if list.is_multiple_of(PAGE) && left > size(PAGE) {
                    // The last entry of a list page points to the next.
                    list = page;
                    continue;
                }
                page
            } else {
                second
            };
            if !page.is_multiple_of(PAGE) {
                self.violation(format!("a PRP entry {page:#x} is not a page"));
                return Err(PRP_OFFSET_INVALID);
            }
            let piece = size(PAGE).min(left);
            pieces.push((page, piece));
            left -= piece;
        }
        Ok(())
    }

    fn word(&mut self, address: u64) -> Result<u64, Status> {
        let mut word = [0; 8];
        match self.space.read(address, &mut word) {
            Ok(()) => Ok(u64::from_le_bytes(word)),
            Err(fault) => Err(self.fault(fault)),
        }
    }

    fn scatter_gather(&mut self, entry: &Entry, len: usize, pieces: &mut Pieces) -> Result<(), Status> {
        let mut left = len;
        let (address, rest) = (entry.pair(6), entry.pair(8));
        let descriptors = match rest >> 60 {
            0 => vec![(address, rest)],
            3 => {
                let bytes = rest & 0xffff_ffff;
                let count = if bytes.is_multiple_of(16) { bytes / 16 } else { 0 };
                let mut list = Vec::new();
                for number in 0..count {
                    list.push((self.word(address + number * 16)?, self.word(address + number * 16 + 8)?));
                }
                list
            }
            _ => return Err(SGL_INVALID),
        };
        for (address, rest) in descriptors {
            let bytes = usize::try_from(rest & 0xffff_ffff).unwrap_or(usize::MAX);
            let odd = self.options.sgl == 2 && (!address.is_multiple_of(4) || !bytes.is_multiple_of(4));
            if rest >> 60 != 0 || odd {
                self.violation("an SGL descriptor that the controller does not take");
                return Err(SGL_INVALID);
            }
            let bytes = bytes.min(left);
            pieces.push((address, bytes));
            left -= bytes;
        }
        if left > 0 {
            self.violation("an SGL that is shorter than its command");
            return Err(SGL_LENGTH_INVALID);
        }
        Ok(())
    }
}
