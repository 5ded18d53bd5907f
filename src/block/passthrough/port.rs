//! A ring of NVMe commands as a port of the queue.

use std::mem;
use std::time::Duration;

use super::super::queue::{Command, CommandKind, Failure, Port, Refused, Segment};
use super::command::{self, Data, URING_IO, URING_IO_VECTORED};
use crate::kernel::{COMMAND_BYTES, CommandRing, DeviceCommand};
use crate::rt::poller::Park;
use crate::time::Instant;

/// The most pieces of memory of one command: the pages of the longest.
const MAX_PIECES: usize = 256;
/// A page of the controller, in bytes. What is in several pieces ends, and goes on, at one.
const PAGE_BYTES: usize = 4096;
/// The alignment of memory that the driver does not copy, in bytes.
const DWORD_BYTES: usize = 4;
/// How soon commands are offered again that the kernel did not take.
const OFFER_AGAIN: Duration = Duration::from_millis(1);
/// How often a command goes to the kernel again that was not sent to the controller.
const MAX_TRIES: u16 = 1000;
/// How long a core that ends waits for its commands: some seconds.
const ROUNDS_AT_END: usize = 100;
const ROUND: Duration = Duration::from_millis(50);
/// The same if the device is polled, as often as it is asked.
const POLLS_AT_END: usize = 1 << 20;

/// See [the module](self).
pub(super) struct PassthroughPort {
    ring: CommandRing,
    slots: Vec<SlotCommand>,
    /// Slots whose commands go to the kernel again.
    again: Vec<u16>,
    nsid: u32,
    block_shift: u32,
}

/// The command of a slot.
struct SlotCommand {
    command: DeviceCommand,
    /// Its memory is registered, and was used as such.
    is_registered: bool,
    tries: u16,
    /// What the command may point to. The kernel reads there while the slot is in use.
    pieces: Vec<libc::iovec>,
    range: Box<[u8; 16]>,
}

impl SlotCommand {
    fn empty() -> Self {
        let command =
            DeviceCommand { operation: URING_IO, command: [0; COMMAND_BYTES], memory: None, user_data: 0 };
        Self { command, is_registered: false, tries: 0, pieces: Vec::new(), range: Box::default() }
    }
}

impl PassthroughPort {
    pub(super) fn new(ring: CommandRing, slots: u16, nsid: u32, block_shift: u32) -> Self {
        let slots = (0..slots).map(|_| SlotCommand::empty()).collect();
        Self { ring, slots, again: Vec::new(), nsid, block_shift }
    }

    /// Where the memory of a command is, and whether that is a list.
    fn data(&mut self, slot: u16, command: &Command<'_>) -> (Data, bool) {
        let SlotCommand { pieces, range, .. } = &mut self.slots[usize::from(slot)];
        let address = |pointer: *const u8| pointer.expose_provenance() as u64;
        match command.memory {
            [] if command.kind == CommandKind::Trim => {
                **range = command::range(command, self.block_shift);
                (Data { address: address(range.as_ptr()), len: 16 }, false)
            }
            [] => (Data::default(), false),
            [only] => (Data { address: address(only.ptr.as_ptr()), len: count(only.len) }, false),
            memory => {
                pieces.clear();
                pieces.extend(
                    memory
                        .iter()
                        .map(|piece| libc::iovec { iov_base: piece.ptr.as_ptr().cast(), iov_len: piece.len }),
                );
                (Data { address: address(pieces.as_ptr().cast()), len: count(pieces.len()) }, true)
            }
        }
    }

    /// Gives the command of a slot to the ring; whether there was room.
    fn push(&mut self, slot: u16) -> bool {
        let of_slot = &mut self.slots[usize::from(slot)];
        of_slot.is_registered = self.ring.is_registered(of_slot.command.memory);
        of_slot.tries += 1;
        // SAFETY: the command points to memory that stays until the slot is done, as the caller of
        // `submit` promised, or to the slot's own, which nobody changes until then.
        unsafe { self.ring.push(&of_slot.command) }
    }

    /// Whether the command of a slot goes to the kernel again because of its `result`, which says
    /// that it was not sent to the controller.
    fn goes_again(&mut self, slot: u16, result: i32) -> bool {
        let Some(of_slot) = self.slots.get(usize::from(slot)) else { return false };
        let again = match result.wrapping_neg() {
            // There was no room, or a signal.
            libc::EAGAIN | libc::EINTR => true,
            // Linux 6.1 takes registered memory only if what is registered is small.
            libc::EINVAL if of_slot.is_registered => {
                self.ring.use_no_registered_memory();
                true
            }
            // The address is good. Linux 6.1 says this of commands that found the driver's queue
            // full and went on in one of the kernel's threads.
            libc::EFAULT => true,
            _ => false,
        };
        again && of_slot.tries < MAX_TRIES
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// Whether the driver tells the controller of these pieces where they are, by physical region pages
/// (Base 4.1.1), and does not copy them.
pub(super) fn fits(memory: &[Segment]) -> bool {
    let last = memory.len().saturating_sub(1);
    memory.len() <= MAX_PIECES
        && memory.iter().enumerate().all(|(number, piece)| {
            let start = piece.ptr.as_ptr().addr();
            let end = start.wrapping_add(piece.len);
            start.is_multiple_of(if number == 0 { DWORD_BYTES } else { PAGE_BYTES })
                && (number == last || end.is_multiple_of(PAGE_BYTES))
        })
}

// SAFETY:
// - the ring gives a command's result once, with the slot that it was pushed with, and the kernel
//   works on its memory, and on what the slot has, only until then;
// - `shut_down` returns true only if all results have come back.
unsafe impl Port for PassthroughPort {
    const NAME: &'static str = "NVMe passthrough";

    fn slots(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    fn accepts(&self, memory: &[Segment]) -> bool {
        fits(memory)
    }

    unsafe fn submit(&mut self, slot: u16, command: &Command<'_>) -> Result<(), Refused> {
        let (data, is_list) = self.data(slot, command);
        let bytes = command::encode(command, self.nsid, self.block_shift, data);
        let bytes = bytes.ok_or_else(|| Refused::Failed(command::impossible()))?;
        let of_slot = &mut self.slots[usize::from(slot)];
        of_slot.tries = 0;
        of_slot.command = DeviceCommand {
            operation: if is_list { URING_IO_VECTORED } else { URING_IO },
            command: bytes,
            memory: match command.memory {
                [only] => Some((only.ptr.as_ptr().addr(), only.len)),
                _ => None,
            },
            user_data: slot.into(),
        };
        if self.push(slot) { Ok(()) } else { Err(Refused::Full) }
    }

    fn kick(&mut self) {
        while let Some(slot) = self.again.pop() {
            if !self.push(slot) {
                self.again.push(slot);
                break;
            }
        }
        self.ring.hand_over();
    }

    fn poll(
        &mut self,
        _now: Instant,
        budget: usize,
        mut done: impl FnMut(u16, Result<(), Box<Failure>>),
    ) -> usize {
        self.ring.refresh();
        let mut events = 0;
        while events < budget
            && let Some((slot, result)) = self.ring.next()
        {
            events += 1;
            let slot = u16::try_from(slot).unwrap_or(u16::MAX);
            if self.goes_again(slot, result) {
                self.again.push(slot);
            } else {
                done(slot, command::result(result));
            }
        }
        events
    }

    fn park(&mut self, in_use: usize) -> Park {
        match (in_use, self.ring.is_polled()) {
            (0, _) => Park::Idle,
            // Nothing wakes the core for what the kernel does not have.
            _ if !self.again.is_empty() || self.ring.has_queued() => Park::Nap(OFFER_AGAIN),
            (_, true) => Park::Spin,
            (_, false) => Park::Wake(self.ring.descriptor()),
        }
    }

    fn shut_down(&mut self) -> bool {
        let rounds = if self.ring.is_polled() { POLLS_AT_END } else { ROUNDS_AT_END };
        for _ in 0..rounds {
            while self.ring.next().is_some() {}
            if self.ring.in_flight() == 0 {
                return true;
            }
            self.ring.hand_over();
            self.ring.wait(ROUND);
        }
        false
    }
}

impl Drop for PassthroughPort {
    fn drop(&mut self) {
        if self.ring.in_flight() > 0 {
            // The kernel may still read it.
            mem::forget(mem::take(&mut self.slots));
        }
    }
}
