//! How a command ended, in the specification's words (Base 3.3.3.2.1), and as a boson error.

use std::fmt;

use crate::error::{Error, ErrorKind, Outcome};

/// The status field of a completion, without the phase bit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Status(u16);

/// Status code types.
const GENERIC: u8 = 0;
const COMMAND_SPECIFIC: u8 = 1;
const MEDIA: u8 = 2;
const PATH: u8 = 3;
const VENDOR: u8 = 7;

impl Status {
    /// Successful Completion.
    pub const SUCCESS: Self = Self(0);

    /// The status field as it stands in bits 15:1 of a completion's last half-word.
    pub(in super::super) const fn from_field(field: u16) -> Self {
        Self(field)
    }

    /// A status with this type and code.
    pub const fn new(code_type: u8, code: u8) -> Self {
        Self((code_type as u16 & 7) << 8 | code as u16)
    }

    /// The same with Do Not Retry set.
    #[must_use]
    pub const fn do_not_retry(self) -> Self {
        Self(self.0 | 1 << 14)
    }

    /// The field as it stands in a completion, without the phase bit.
    pub const fn field(self) -> u16 {
        self.0
    }

    /// Status code type (SCT).
    pub const fn code_type(self) -> u8 {
        self.0.to_le_bytes()[1] & 7
    }

    /// Status code (SC).
    pub const fn code(self) -> u8 {
        self.0.to_le_bytes()[0]
    }

    /// Do Not Retry (DNR): the same command would fail again.
    pub const fn is_do_not_retry(self) -> bool {
        self.0 >> 14 & 1 == 1
    }

    /// More (M): the error information log has more about it.
    pub const fn has_more(self) -> bool {
        self.0 >> 13 & 1 == 1
    }

    /// Whether the command succeeded.
    pub const fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Whether trying the same command again at once may help: the controller was interrupted or
    /// its transport hiccuped, and it does not say otherwise.
    pub const fn is_transient(self) -> bool {
        !self.is_do_not_retry()
            && matches!((self.code_type(), self.code()), (GENERIC, 0x21 | 0x22) | (PATH, 0x00 | 0x60 | 0x70))
    }

    /// Whether it is the status of a compare that found other data.
    pub const fn is_compare_failure(self) -> bool {
        matches!((self.code_type(), self.code()), (MEDIA, 0x85))
    }

    /// Whether it is the status of a command of a fused pair whose other command failed.
    pub const fn is_failed_fused(self) -> bool {
        matches!((self.code_type(), self.code()), (GENERIC, 0x09))
    }

    /// The name of its type.
    pub const fn type_name(self) -> &'static str {
        match self.code_type() {
            GENERIC => "generic command status",
            COMMAND_SPECIFIC => "command specific status",
            MEDIA => "media and data integrity error",
            PATH => "path related status",
            VENDOR => "vendor specific status",
            _ => "reserved status type",
        }
    }

    /// The name that the specification gives it.
    pub const fn name(self) -> &'static str {
        match (self.code_type(), self.code()) {
            (GENERIC, code) => generic(code),
            (COMMAND_SPECIFIC, code) => command_specific(code),
            (MEDIA, 0x80) => "Write Fault",
            (MEDIA, 0x81) => "Unrecovered Read Error",
            (MEDIA, 0x82) => "End-to-end Guard Check Error",
            (MEDIA, 0x83) => "End-to-end Application Tag Check Error",
            (MEDIA, 0x84) => "End-to-end Reference Tag Check Error",
            (MEDIA, 0x85) => "Compare Failure",
            (MEDIA, 0x86) => "Access Denied",
            (MEDIA, 0x87) => "Deallocated or Unwritten Logical Block",
            (MEDIA, 0x88) => "End-to-End Storage Tag Check Error",
            (PATH, 0x00) => "Internal Path Error",
            (PATH, 0x01) => "Asymmetric Access Persistent Loss",
            (PATH, 0x02) => "Asymmetric Access Inaccessible",
            (PATH, 0x03) => "Asymmetric Access Transition",
            (PATH, 0x60) => "Controller Pathing Error",
            (PATH, 0x70) => "Host Pathing Error",
            (PATH, 0x71) => "Command Aborted By Host",
            _ => "a status without a name in NVMe 2.0",
        }
    }

    /// The class of error that it is.
    pub(in super::super) fn kind(self) -> ErrorKind {
        match (self.code_type(), self.code()) {
            // Invalid opcode: the controller lacks the command.
            (GENERIC, 0x01) => ErrorKind::Unsupported,
            (GENERIC, 0x02 | 0x0d..=0x11 | 0x13 | 0x16 | 0x1e | 0x80)
            | (COMMAND_SPECIFIC, 0x02 | 0x08 | 0x81 | 0x83) => ErrorKind::InvalidInput,
            (GENERIC, 0x07 | 0x08) | (PATH, 0x71) => ErrorKind::Cancelled,
            (GENERIC, 0x0b) => ErrorKind::NotFound,
            (GENERIC, 0x15 | 0x20 | 0x23) | (COMMAND_SPECIFIC, 0x82) | (MEDIA, 0x86) => {
                ErrorKind::PermissionDenied
            }
            (GENERIC, 0x81) => ErrorKind::NoSpace,
            (GENERIC, 0x83) => ErrorKind::InUse,
            (MEDIA, 0x81..=0x84 | 0x87 | 0x88) => ErrorKind::Corrupt,
            _ => ErrorKind::Os,
        }
    }

    /// Whether a command that ended so may have taken effect. Only what is refused before it begins
    /// surely did not.
    pub(in super::super) fn outcome(self) -> Outcome {
        match (self.code_type(), self.code()) {
            (GENERIC, 0x01..=0x03 | 0x09..=0x11 | 0x13..=0x16 | 0x1e | 0x20 | 0x23 | 0x80 | 0x83)
            | (COMMAND_SPECIFIC, _)
            | (MEDIA, 0x85) => Outcome::NotStarted,
            _ => Outcome::Unknown,
        }
    }

    /// The error of `operation` that ended so, with this status as its source. `changes` says
    /// whether the operation changes anything: its error then says whether it may have.
    #[cold]
    pub fn error(self, operation: &'static str, changes: bool) -> Error {
        let error = Error::new(self.kind(), operation).because(format!("{self}{}", self.advice()));
        let error = error.caused_by(self);
        if changes { error.outcome_is(self.outcome()) } else { error }
    }

    /// What to do about it, after a full stop, where there is something.
    pub(in super::super) fn advice(self) -> &'static str {
        match (self.code_type(), self.code()) {
            (GENERIC, 0x20) => "; the namespace is write-protected",
            (GENERIC, 0x82) => "; the namespace is not ready yet: try again later",
            (GENERIC, 0x83) => "; another host has reserved the namespace",
            (MEDIA, 0x81) => "; the blocks cannot be read: restore them from a copy",
            (MEDIA, 0x80) => "; the device could not write: replace it",
            _ => "",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the controller answered {} ({}, type {:x}h, code {:02x}h{}{})",
            self.name(),
            self.type_name(),
            self.code_type(),
            self.code(),
            if self.is_do_not_retry() { ", do not retry" } else { "" },
            if self.has_more() { ", more in the error log" } else { "" }
        )
    }
}

impl std::error::Error for Status {}

/// The status of which `error` was made, if it was made of one.
pub(super) fn status_of(error: &Error) -> Option<Status> {
    std::error::Error::source(error)?.downcast_ref().copied()
}

/// Whether `error` is that of a compare-and-write that found other data.
pub(super) fn is_miscompare(error: &Error) -> bool {
    status_of(error).is_some_and(Status::is_compare_failure)
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}h/{:02x}h {}", self.code_type(), self.code(), self.name())
    }
}

const fn generic(code: u8) -> &'static str {
    match code {
        0x00 => "Successful Completion",
        0x01 => "Invalid Command Opcode",
        0x02 => "Invalid Field in Command",
        0x03 => "Command ID Conflict",
        0x04 => "Data Transfer Error",
        0x05 => "Commands Aborted due to Power Loss Notification",
        0x06 => "Internal Error",
        0x07 => "Command Abort Requested",
        0x08 => "Command Aborted due to SQ Deletion",
        0x09 => "Command Aborted due to Failed Fused Command",
        0x0a => "Command Aborted due to Missing Fused Command",
        0x0b => "Invalid Namespace or Format",
        0x0c => "Command Sequence Error",
        0x0d => "Invalid SGL Segment Descriptor",
        0x0e => "Invalid Number of SGL Descriptors",
        0x0f => "Data SGL Length Invalid",
        0x10 => "Metadata SGL Length Invalid",
        0x11 => "SGL Descriptor Type Invalid",
        0x12 => "Invalid Use of Controller Memory Buffer",
        0x13 => "PRP Offset Invalid",
        0x14 => "Atomic Write Unit Exceeded",
        0x15 => "Operation Denied",
        0x16 => "SGL Offset Invalid",
        0x18 => "Host Identifier Inconsistent Format",
        0x19 => "Keep Alive Timer Expired",
        0x1a => "Keep Alive Timeout Invalid",
        0x1b => "Command Aborted due to Preempt and Abort",
        0x1c => "Sanitize Failed",
        0x1d => "Sanitize In Progress",
        0x1e => "SGL Data Block Granularity Invalid",
        0x1f => "Command Not Supported for Queue in CMB",
        0x20 => "Namespace is Write Protected",
        0x21 => "Command Interrupted",
        0x22 => "Transient Transport Error",
        0x23 => "Command Prohibited by Command and Feature Lockdown",
        0x24 => "Admin Command Media Not Ready",
        0x80 => "LBA Out of Range",
        0x81 => "Capacity Exceeded",
        0x82 => "Namespace Not Ready",
        0x83 => "Reservation Conflict",
        0x84 => "Format In Progress",
        0x85 => "Invalid Value Size",
        0x86 => "Invalid Key Size",
        0x87 => "KV Key Does Not Exist",
        0x88 => "Unrecovered Error",
        0x89 => "Key Exists",
        _ => "a generic status without a name in NVMe 2.0",
    }
}

const fn command_specific(code: u8) -> &'static str {
    match code {
        0x00 => "Completion Queue Invalid",
        0x01 => "Invalid Queue Identifier",
        0x02 => "Invalid Queue Size",
        0x03 => "Abort Command Limit Exceeded",
        0x05 => "Asynchronous Event Request Limit Exceeded",
        0x06 => "Invalid Firmware Slot",
        0x07 => "Invalid Firmware Image",
        0x08 => "Invalid Interrupt Vector",
        0x09 => "Invalid Log Page",
        0x0a => "Invalid Format",
        0x0b => "Firmware Activation Requires Conventional Reset",
        0x0c => "Invalid Queue Deletion",
        0x0d => "Feature Identifier Not Saveable",
        0x0e => "Feature Not Changeable",
        0x0f => "Feature Not Namespace Specific",
        0x10 => "Firmware Activation Requires NVM Subsystem Reset",
        0x11 => "Firmware Activation Requires Controller Level Reset",
        0x12 => "Firmware Activation Requires Maximum Time Violation",
        0x13 => "Firmware Activation Prohibited",
        0x14 => "Overlapping Range",
        0x15 => "Namespace Insufficient Capacity",
        0x16 => "Namespace Identifier Unavailable",
        0x18 => "Namespace Already Attached",
        0x19 => "Namespace Is Private",
        0x1a => "Namespace Not Attached",
        0x1b => "Thin Provisioning Not Supported",
        0x1c => "Controller List Invalid",
        0x1d => "Device Self-test In Progress",
        0x1e => "Boot Partition Write Prohibited",
        0x1f => "Invalid Controller Identifier",
        0x20 => "Invalid Secondary Controller State",
        0x21 => "Invalid Number of Controller Resources",
        0x22 => "Invalid Resource Identifier",
        0x23 => "Sanitize Prohibited While Persistent Memory Region is Enabled",
        0x24 => "ANA Group Identifier Invalid",
        0x25 => "ANA Attach Failed",
        0x26 => "Insufficient Capacity",
        0x27 => "Namespace Attachment Limit Exceeded",
        0x28 => "Prohibition of Command Execution Not Supported",
        0x29 => "I/O Command Set Not Supported",
        0x2a => "I/O Command Set Not Enabled",
        0x2b => "I/O Command Set Combination Rejected",
        0x2c => "Invalid I/O Command Set",
        0x2d => "Identifier Unavailable",
        0x80 => "Conflicting Attributes",
        0x81 => "Invalid Protection Information",
        0x82 => "Attempted Write to Read Only Range",
        0x83 => "Command Size Limit Exceeded",
        _ => "a command specific status without a name in NVMe 2.0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_words() {
        let media = Status::new(2, 0x81).do_not_retry();
        let error = media.error("read", false);
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(
            error.to_string(),
            "read: the controller answered Unrecovered Read Error (media and data integrity error, \
             type 2h, code 81h, do not retry); the blocks cannot be read: restore them from a copy"
        );
        assert!(!media.is_transient() && !media.is_success());
        assert!(Status::new(0, 0x21).is_transient());
        assert!(!Status::new(0, 0x21).do_not_retry().is_transient());
        // More and the command retry delay say nothing about success.
        assert!(Status::from_field(1 << 13 | 3 << 11).is_success());
    }

    #[test]
    fn every_status_has_words_and_an_outcome() {
        for field in 1..0x800 {
            let status = Status::from_field(field);
            let error = status.error("write", true);
            assert!(error.to_string().contains(status.name()));
            assert!(!status.name().is_empty());
        }
        assert_eq!(Status::new(0, 0x80).error("write", true).outcome(), Outcome::NotStarted);
        assert_eq!(Status::new(2, 0x80).error("write", true).outcome(), Outcome::Unknown);
    }
}
