//! How a command ended, as the queue takes it.

use super::super::nvme::Status;
use super::super::queue::Failure;
use super::requests::StatusField;
use crate::error::ErrorKind;

/// Generic: aborted because its submission queue was deleted. SPDK says it of whatever a controller
/// had that was reset or lost.
const ABORTED_QUEUE_DELETION: Status = Status::new(0, 0x08);

/// Why a command failed. `loss` is why the queue pair is gone, for a device that has one and as far
/// as that is known.
pub(super) fn failure(field: StatusField, loss: Option<&str>) -> Box<Failure> {
    let status = Status::from_field(field);
    let is_aborted = (status.code_type(), status.code())
        == (ABORTED_QUEUE_DELETION.code_type(), ABORTED_QUEUE_DELETION.code());
    if let Some(reason) = loss
        && is_aborted
    {
        return Box::new(Failure::new(
            ErrorKind::Closed,
            format!(
                "the controller was lost while it had the command ({}); do it again",
                if reason.is_empty() { "its connection or its queue pair failed" } else { reason }
            ),
        ));
    }
    let mut failure = Failure::new(status.kind(), format!("{status}{}", status.advice()));
    failure.outcome = status.outcome();
    failure.retry = status.is_transient();
    failure.miscompare = status.is_compare_failure();
    Box::new(failure)
}

#[cfg(test)]
mod tests {
    use super::failure;
    use crate::error::{ErrorKind, Outcome};

    #[test]
    fn only_what_was_with_a_lost_controller_is_lost() {
        let aborted = failure(0x0008, Some("the target is gone"));
        assert_eq!((aborted.kind, aborted.outcome), (ErrorKind::Closed, Outcome::Unknown));
        assert!(aborted.detail.contains("the target is gone"), "{aborted:?}");
        let media = failure(0x4281, Some("the target is gone"));
        assert_eq!(media.kind, ErrorKind::Corrupt);
        assert!(!media.retry && media.detail.contains("Unrecovered Read Error"), "{media:?}");
        assert!(failure(0x0021, None).retry, "interrupted, and may be tried again");
        assert!(failure(0x0285, None).miscompare);
    }
}
