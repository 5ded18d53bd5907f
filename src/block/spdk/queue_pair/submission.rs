//! Sending commands, and why one is not sent.

use std::ffi::c_void;
use std::mem;

use boson_spdk_sys as sys;

use super::super::env::strerror;
use super::super::gate::Phase;
use super::super::requests::{StatusField, slot};
use super::{Link, QueuePair, RawQueuePair, STATUS_TYPE_AND_CODE};
use crate::block::queue::{Command, CommandKind, Failure, Refused, Segment};
use crate::error::{ErrorKind, Outcome};

const COMPARE_FAILURE: StatusField = 0x0285;

impl QueuePair {
    /// A device on the PCI bus reaches the arena only; over TCP the kernel copies from anywhere.
    pub(in crate::block::spdk) fn accepts(&self, memory: &[Segment]) -> bool {
        memory.len() <= self.max_segments
            && (!self.controller.state().is_pci() || (self.reach.holds(memory) && fits_page_lists(memory)))
    }

    /// # Safety
    ///
    /// As [`Port::submit`](crate::block::queue::Port::submit).
    pub(in crate::block::spdk) unsafe fn submit(
        &mut self,
        number: u16,
        command: &Command<'_>,
    ) -> Result<(), Refused> {
        let Link::Up(raw) = self.link else { return Err(self.refusal()) };
        if command.kind == CommandKind::Flush && self.may_have_lost() {
            return Err(Refused::Failed(Failure::writes_may_be_lost()));
        }
        let sent = self.controller.state().gate().pass(&self.presence, || {
            // SAFETY: the link is up, the controller is not disconnected during the call, and for
            // the memory there is the caller's promise.
            unsafe { self.send(raw, number, command) }
        });
        // The next poll follows the controller that stops at this moment.
        sent.unwrap_or(Err(Refused::Full))
    }

    /// # Safety
    ///
    /// As for `submit`; the link is up with `raw`, and the controller is not disconnected during
    /// the call.
    unsafe fn send(&self, raw: RawQueuePair, number: u16, command: &Command<'_>) -> Result<(), Refused> {
        let request = self.requests.begin(number, command.memory, command.expected);
        let callbacks = if command.kind == CommandKind::CompareAndWrite { 2 } else { 1 };
        request.sent(callbacks);
        let (ns, queue, argument) = (self.ns, raw.as_ptr(), request.argument());
        let (pieces, count) = request.pieces();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let block = command.offset >> self.block_shift;
        let blocks = u32::try_from(command.len >> self.block_shift).unwrap_or(u32::MAX);
        let code = match command.kind {
            // SAFETY: for this and the next five calls:
            // - `ns` and `queue` are of the attached controller, and this core's: `connect` fetched
            //   them, and the link is up;
            // - the pieces stay in the slot until the command is done, and the memory that they
            //   name until then too, as the caller promises;
            // - `done` takes `argument`, the slot's address; slots live until `shut_down`, after
            //   which SPDK has no command of theirs.
            CommandKind::Read => unsafe {
                sys::boson_spdk_read(ns, queue, block, blocks, pieces.cast(), count, Some(done), argument)
            },
            CommandKind::Write { durable } => {
                // SAFETY: as for the read.
                unsafe {
                    sys::boson_spdk_write(
                        ns,
                        queue,
                        block,
                        blocks,
                        pieces.cast(),
                        count,
                        durable,
                        Some(done),
                        argument,
                    )
                }
            }
            // SAFETY: as for the read; there is no memory.
            CommandKind::Flush => unsafe { sys::spdk_nvme_ns_cmd_flush(ns, queue, Some(done), argument) },
            CommandKind::Trim => {
                // SAFETY: as for the flush.
                unsafe { sys::boson_spdk_trim(ns, queue, block, blocks, Some(done), argument) }
            }
            CommandKind::WriteZeroes => {
                // SAFETY: as for the flush.
                unsafe { sys::boson_spdk_write_zeroes(ns, queue, block, blocks, Some(done), argument) }
            }
            CommandKind::CompareAndWrite => {
                let ([memory], [expected]) = (command.memory, command.expected) else {
                    request.sent(0);
                    return Err(refused("a compare and write takes its memory in one piece each"));
                };
                let (memory, expected) = (memory.ptr.as_ptr().cast(), expected.ptr.as_ptr().cast());
                let mut submitted = 0;
                // SAFETY: as for the read; `submitted` is a place for a number.
                let code = unsafe {
                    sys::boson_spdk_compare_and_write(
                        ns,
                        queue,
                        block,
                        blocks,
                        expected,
                        memory,
                        Some(done),
                        Some(done),
                        argument,
                        &raw mut submitted,
                    )
                };
                if submitted == 1 {
                    // The device aborts a first half without its second, and says so.
                    request.sent(1);
                    return Ok(());
                }
                code
            }
        };
        if code == 0 {
            return Ok(());
        }
        request.sent(0);
        Err(match -code {
            // No request of SPDK's is free, or the queue pair failed a moment ago: the next poll
            // sees it.
            libc::ENOMEM | libc::ENXIO | libc::EAGAIN => Refused::Full,
            _ => refused(format!("SPDK does not take the command: {}", strerror(code))),
        })
    }

    /// Whether the controller failed since the last flush, so that its cache may be gone: said
    /// once.
    fn may_have_lost(&mut self) -> bool {
        let failures = self.controller.state().failures();
        mem::replace(&mut self.failures, failures) != failures
    }

    /// What a command gets while there is no queue pair.
    fn refusal(&self) -> Refused {
        let state = self.controller.state();
        let (kind, why) = match state.phase() {
            Phase::Gone => (ErrorKind::Closed, "the controller was removed".to_owned()),
            Phase::Down => {
                (ErrorKind::Closed, format!("{}; boson goes on trying to reach it", state.reason()))
            }
            Phase::Serving if self.is_starved => (
                ErrorKind::LimitReached,
                "the controller came back with fewer queue pairs than there are cores, or DPDK has no \
                 memory for one: use fewer cores; boson goes on trying to get one"
                    .to_owned(),
            ),
            Phase::Serving | Phase::Stopping | Phase::Draining | Phase::Resetting => return Refused::Full,
        };
        let failure = Failure { outcome: Outcome::NotStarted, ..Failure::new(kind, why) };
        Refused::Failed(failure)
    }
}

/// Whether page lists can describe the memory (PRP, Base 2.0c 4.1.1): it starts at a double word,
/// and pieces meet at page boundaries.
fn fits_page_lists(memory: &[Segment]) -> bool {
    const PAGE: usize = 4096;
    let last = memory.len().saturating_sub(1);
    memory.iter().enumerate().all(|(number, piece)| {
        let at = piece.ptr.addr().get();
        at.is_multiple_of(if number == 0 { 4 } else { PAGE })
            && (number == last || (at + piece.len).is_multiple_of(PAGE))
    })
}

fn refused(why: impl Into<String>) -> Refused {
    Refused::Failed(Failure {
        outcome: Outcome::NotStarted,
        ..Failure::new(ErrorKind::InvalidInput, why.into())
    })
}

/// SPDK is done with a command, or with one half of a fused one.
unsafe extern "C" fn done(argument: *mut c_void, completion: *const sys::spdk_nvme_cpl) {
    // SAFETY: SPDK passes a completion that is valid during this call.
    let field = unsafe { sys::boson_spdk_status(completion) };
    // SAFETY: `submit` gave SPDK the slot's address, and slots live until SPDK has none of their
    // commands.
    let slot = unsafe { slot(argument) };
    let is_success = field & STATUS_TYPE_AND_CODE == 0;
    slot.called_back(if is_success { 0 } else { field }, field & STATUS_TYPE_AND_CODE == COMPARE_FAILURE);
}
