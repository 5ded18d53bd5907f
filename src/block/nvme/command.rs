//! Submission queue entries of 64 bytes and completion queue entries of 16 (Base 3.3.3).

/// A submission queue entry as sixteen 32-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Command dwords 0 to 15.
    pub words: [u32; 16],
}

/// Opcodes of the NVM command set (NVM Command Set 3.2).
pub(in super::super) mod opcode {
    pub(in crate::block) const FLUSH: u8 = 0x00;
    pub(in crate::block) const WRITE: u8 = 0x01;
    pub(in crate::block) const READ: u8 = 0x02;
    pub(in crate::block) const COMPARE: u8 = 0x05;
    pub(in crate::block) const WRITE_ZEROES: u8 = 0x08;
    pub(in crate::block) const DATASET_MANAGEMENT: u8 = 0x09;
}

/// Opcodes of admin commands (Base 5).
pub(in super::super) mod admin {
    pub(in super::super) const DELETE_SUBMISSION_QUEUE: u8 = 0x00;
    pub(in super::super) const CREATE_SUBMISSION_QUEUE: u8 = 0x01;
    pub(in crate::block) const GET_LOG_PAGE: u8 = 0x02;
    pub(in super::super) const DELETE_COMPLETION_QUEUE: u8 = 0x04;
    pub(in super::super) const CREATE_COMPLETION_QUEUE: u8 = 0x05;
    pub(in crate::block) const IDENTIFY: u8 = 0x06;
    pub(in super::super) const ABORT: u8 = 0x08;
    pub(in super::super) const SET_FEATURES: u8 = 0x09;
    pub(in super::super) const GET_FEATURES: u8 = 0x0a;
    pub(in super::super) const ASYNC_EVENT_REQUEST: u8 = 0x0c;
    pub(in super::super) const DOORBELL_BUFFER_CONFIG: u8 = 0x7c;
}

/// Feature identifiers (Base 5.27.1).
pub(super) mod feature {
    pub(in super::super) const VOLATILE_WRITE_CACHE: u32 = 0x06;
    pub(in super::super) const NUMBER_OF_QUEUES: u32 = 0x07;
    pub(in super::super) const ASYNC_EVENT_CONFIGURATION: u32 = 0x0b;
}

/// Log page identifiers (Base 5.16.1).
pub(in super::super) mod log_page {
    pub(in super::super) const ERROR_INFORMATION: u8 = 0x01;
    pub(in crate::block) const HEALTH: u8 = 0x02;
    pub(in super::super) const CHANGED_NAMESPACES: u8 = 0x04;
}

/// What an Identify command asks for (CNS, Base 5.17.2).
pub(in super::super) mod cns {
    pub(in crate::block) const NAMESPACE: u32 = 0x00;
    pub(in crate::block) const CONTROLLER: u32 = 0x01;
    pub(in super::super) const ACTIVE_NAMESPACES: u32 = 0x02;
}

/// FUA in the upper half of a 64-bit view of dwords 12 and 13, that is bit 30 of dword 12.
pub(in super::super) const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// FUSE: the first of two fused commands (dword 0, bits 9:8).
pub(super) const FUSED_FIRST: u32 = 0b01 << 8;
/// FUSE: the second of two fused commands.
pub(super) const FUSED_SECOND: u32 = 0b10 << 8;
/// PSDT: the data pointer is an SGL, metadata is one buffer (dword 0, bits 15:14).
pub(super) const DATA_IS_SGL: u32 = 0b01 << 14;
/// Dataset Management dword 11: deallocate (AD).
pub(in super::super) const DEALLOCATE: u32 = 1 << 2;

impl Entry {
    /// A command with `opcode` for namespace `nsid` (0 for none, all ones for all).
    pub(super) fn new(opcode: u8, nsid: u32) -> Self {
        let mut words = [0; 16];
        words[0] = u32::from(opcode);
        words[1] = nsid;
        Self { words }
    }

    /// Its opcode.
    pub fn opcode(&self) -> u8 {
        self.words[0].to_le_bytes()[0]
    }

    /// Its command id.
    pub fn command_id(&self) -> u16 {
        let [_, _, low, high] = self.words[0].to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    pub(super) fn set_command_id(&mut self, id: u16) {
        self.words[0] = self.words[0] & 0xffff | u32::from(id) << 16;
    }

    /// The 64 bits of dwords `at` and `at + 1`.
    pub(super) fn pair(&self, at: usize) -> u64 {
        u64::from(self.words[at]) | u64::from(self.words[at + 1]) << 32
    }

    pub(super) fn set_pair(&mut self, at: usize, value: u64) {
        let [low, high] = super::registers::halves(value);
        self.words[at] = low;
        self.words[at + 1] = high;
    }

    /// With a data pointer of two physical region pages (PRP1, PRP2).
    pub(super) fn data(mut self, first: u64, second: u64) -> Self {
        self.set_pair(6, first);
        self.set_pair(8, second);
        self
    }

    /// With command dword `at` set to `value`.
    pub(super) fn with(mut self, at: usize, value: u32) -> Self {
        self.words[at] = value;
        self
    }
}

/// A completion queue entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What the command gives back (dword 0).
    pub result: u32,
    /// The submission queue of the command.
    pub submission_queue: u16,
    /// The id of the command.
    pub command_id: u16,
    /// The status field without the phase bit.
    pub status: super::Status,
}
