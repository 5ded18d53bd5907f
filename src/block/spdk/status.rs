//! How a command ended, in words.

use std::ffi::CStr;

use boson_spdk_sys as sys;

use super::super::queue::Failure;
use super::requests::StatusField;
use crate::error::{ErrorKind, Outcome};

/// Generic: aborted because its submission queue was deleted. SPDK says it of whatever was with a
/// controller that was reset or lost.
pub(super) const ABORTED_QUEUE_DELETION: StatusField = 0x0008;
/// Generic: aborted by request. SPDK says it of what had not been sent yet.
const COMPARE_FAILURE: StatusField = 0x0285;
const DO_NOT_RETRY: StatusField = 1 << 14;
const MORE: StatusField = 1 << 13;
/// Status code type and code.
const TYPE_AND_CODE: StatusField = 0x07ff;

/// Why a command failed. `lost` says, where that is so, why the queue pair that it was on is gone.
pub(super) fn failure(field: StatusField, lost: Option<&str>) -> Box<Failure> {
    let status = field & TYPE_AND_CODE;
    if let Some(reason) = lost
        && status == ABORTED_QUEUE_DELETION
    {
        return Box::new(Failure::new(
            ErrorKind::Closed,
            format!("the controller was lost while it had the command ({reason}); do it again"),
        ));
    }
    let [code, code_type] = status.to_le_bytes();
    // SAFETY: any number is accepted; the result is a string constant.
    let text = unsafe { sys::boson_spdk_status_text(field) };
    // SAFETY: `text` is that string, and ends with NUL.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let retry = if field & DO_NOT_RETRY == 0 { "" } else { ", do not retry" };
    let more = if field & MORE == 0 { "" } else { ", more in the error log" };
    let mut failure = Failure::new(
        kind(code_type, code),
        format!("NVMe status {text} (type {code_type:#x}, code {code:#04x}{retry}{more})"),
    );
    failure.miscompare = status == COMPARE_FAILURE;
    failure.retry =
        field & DO_NOT_RETRY == 0 && matches!((code_type, code), (0, 0x21 | 0x22) | (3, 0x00 | 0x60 | 0x70));
    if failure.miscompare
        || code_type == 1
        || (code_type == 0 && matches!(code, 0x01..=0x03 | 0x09..=0x20 | 0x80))
    {
        failure.outcome = Outcome::NotStarted;
    }
    Box::new(failure)
}

fn kind(code_type: u8, code: u8) -> ErrorKind {
    match (code_type, code) {
        (0, 0x01) => ErrorKind::Unsupported,
        (0, 0x02 | 0x0d..=0x13 | 0x80) => ErrorKind::InvalidInput,
        (0, 0x07 | 0x08) => ErrorKind::Cancelled,
        (0, 0x0b) => ErrorKind::NotFound,
        (0, 0x20) | (2, 0x86) => ErrorKind::PermissionDenied,
        (0, 0x81) => ErrorKind::NoSpace,
        (2, 0x81..=0x84 | 0x87 | 0x88) => ErrorKind::Corrupt,
        _ => ErrorKind::Os,
    }
}
