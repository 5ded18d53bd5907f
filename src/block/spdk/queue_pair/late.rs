//! Commands that take too long.

use std::ptr;

use boson_spdk_sys as sys;

use super::super::env::strerror;
use super::super::requests::Overdue;
use super::{QueuePair, RawQueuePair};
use crate::time::Instant;

impl QueuePair {
    /// Aborts commands that take too long. One that has not ended some seconds later has the
    /// controller reset; what the controller says of the abort plays no part.
    pub(super) fn look_for_late_commands(&self, raw: RawQueuePair, now: Instant) {
        let state = self.controller.state();
        for (slot, overdue) in self.requests.overdue(now) {
            match overdue {
                Overdue::Abort => {
                    tracing::warn!("{}: a command does not end; aborting it", state.name());
                    // One that is sent while the controller is disconnected counts for SPDK as
                    // under way for ever.
                    let code = state.gate().pass(&self.presence, || {
                        // SAFETY: the queue pair is this core's, and of the attached controller,
                        // which is not disconnected during the call; SPDK compares the slot's
                        // address with those of its commands, and calls no function of ours for the
                        // abort.
                        unsafe {
                            sys::spdk_nvme_ctrlr_cmd_abort_ext(
                                state.raw(),
                                raw.as_ptr(),
                                slot.argument(),
                                None,
                                ptr::null_mut(),
                            )
                        }
                    });
                    // The next poll follows the controller that stops at this moment.
                    let Some(code) = code else { return };
                    if code != 0 {
                        tracing::warn!("{}: it cannot be aborted: {}", state.name(), strerror(code));
                    }
                }
                Overdue::Reset => {
                    state.report_loss("a command does not end, not even after it was to be aborted");
                    return;
                }
            }
        }
    }
}
