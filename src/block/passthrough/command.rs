//! Commands as the kernel's NVMe driver takes them in an entry of a ring: `struct nvme_uring_cmd`
//! of `linux/nvme_ioctl.h`.

use super::super::nvme::Status;
use super::super::nvme::command::{DEALLOCATE, FORCE_UNIT_ACCESS, opcode};
use super::super::queue::{Command, CommandKind, Failure};
use crate::error::{ErrorKind, Outcome};
use crate::kernel::COMMAND_BYTES;

/// `NVME_URING_CMD_IO`: `_IOWR('N', 0x80, struct nvme_uring_cmd)`. The memory is one piece.
pub(super) const URING_IO: u32 = 0xc048_4e80;
/// `NVME_URING_CMD_IO_VEC`. The memory is a list of pieces.
pub(super) const URING_IO_VECTORED: u32 = 0xc048_4e81;

/// Where a command's memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) address: u64,
    /// Bytes, or pieces of a list.
    pub(super) len: u32,
}

/// Writes `command` as the driver takes it. `None` for one that it cannot do.
pub(super) fn encode(
    command: &Command<'_>,
    nsid: u32,
    block_shift: u32,
    data: Data,
) -> Option<[u8; COMMAND_BYTES]> {
    let lba = command.offset >> block_shift;
    // The number of blocks, less one.
    let blocks = u32::try_from((command.len >> block_shift).saturating_sub(1)).unwrap_or(u32::MAX);
    let lba_words = [low(lba), low(lba >> 32)];
    let (operation, words) = match command.kind {
        CommandKind::Read => (opcode::READ, [lba_words[0], lba_words[1], blocks]),
        CommandKind::Write { durable } => {
            let force = if durable { FORCE_UNIT_ACCESS } else { 0 };
            (opcode::WRITE, [lba_words[0], lba_words[1], blocks | force])
        }
        CommandKind::Flush => (opcode::FLUSH, [0; 3]),
        CommandKind::WriteZeroes => (opcode::WRITE_ZEROES, [lba_words[0], lba_words[1], blocks]),
        // One range, which is in the memory: see `range`.
        CommandKind::Trim => (opcode::DATASET_MANAGEMENT, [0, DEALLOCATE, 0]),
        // Fused commands do not pass.
        CommandKind::CompareAndWrite => return None,
    };
    let mut bytes = [0; COMMAND_BYTES];
    bytes[0] = operation;
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(4, &nsid.to_ne_bytes());
    put(24, &data.address.to_ne_bytes());
    put(36, &data.len.to_ne_bytes());
    for (word, value) in words.iter().enumerate() {
        put(40 + 4 * word, &value.to_ne_bytes());
    }
    Some(bytes)
}

fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The range that a trim deallocates, as the controller reads it (NVM Command Set 3.2.3.1).
pub(super) fn range(command: &Command<'_>, block_shift: u32) -> [u8; 16] {
    let blocks = u32::try_from(command.len >> block_shift).unwrap_or(u32::MAX);
    let mut range = [0; 16];
    range[4..8].copy_from_slice(&blocks.to_le_bytes());
    range[8..].copy_from_slice(&(command.offset >> block_shift).to_le_bytes());
    range
}

/// What the result of a command says: a status of the controller, or a negated errno of the kernel.
pub(super) fn result(result: i32) -> Result<(), Box<Failure>> {
    if result == 0 {
        return Ok(());
    }
    Err(Box::new(match u16::try_from(result) {
        Ok(field) => failure(Status::from_field(field)),
        Err(_) => {
            let error = std::io::Error::from_raw_os_error(result.wrapping_neg());
            Failure {
                code: error.raw_os_error(),
                ..Failure::new(ErrorKind::Os, format!("the kernel's NVMe driver refused it: {error}"))
            }
        }
    }))
}

fn failure(status: Status) -> Failure {
    Failure {
        outcome: status.outcome(),
        retry: status.is_transient(),
        miscompare: status.is_compare_failure(),
        ..Failure::new(status.kind(), format!("{status}{}", status.advice()))
    }
}

/// A command that the driver cannot do.
pub(super) fn impossible() -> Failure {
    Failure {
        outcome: Outcome::NotStarted,
        ..Failure::new(ErrorKind::Unsupported, "the kernel's NVMe driver does not pass such a command")
    }
}
