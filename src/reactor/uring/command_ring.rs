//! A ring for the commands of one device: entries of 128 bytes with the device's own command in
//! them (`IORING_OP_URING_CMD`), and completions of 32.
//!
//! It is beside the core's ring, because the size of entries is the ring's, and because a device
//! that is polled (`IORING_SETUP_IOPOLL`) needs one of its own.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::registered::RegisteredArena;
use crate::fork::Process;
use crate::mem::Arena;
use crate::reactor::current;

/// How many bytes of an entry are the device's.
pub(crate) const COMMAND_BYTES: usize = 80;
/// The device's fixed-file slot.
const DEVICE: types::Fixed = types::Fixed(0);

/// A command for the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceCommand {
    /// What the device's driver calls it.
    pub(crate) operation: u32,
    /// What the driver takes.
    pub(crate) command: [u8; COMMAND_BYTES],
    /// The address and length of the memory that it moves, if that is one piece.
    pub(crate) memory: Option<(usize, usize)>,
    /// Comes back with the result.
    pub(crate) user_data: u64,
}

/// See [the module](self).
pub(crate) struct CommandRing {
    ring: IoUring<squeue::Entry128, cqueue::Entry32>,
    /// After the ring, which may have it until then.
    arena: Option<RegisteredArena>,
    uses_arena: bool,
    _device: OwnedFd,
    is_polled: bool,
    entries: u32,
    in_flight: u32,
    /// Whose ring it is: a child of a fork shares its memory and its descriptor.
    process: Process,
}

impl CommandRing {
    /// A ring for `entries` commands at once. The device is asked for completions if it
    /// `is_polled`, and interrupts if not. If the core's own ring has its arena registered, this
    /// one has too: commands on memory of `arena` do not pin it each time.
    ///
    /// # Errors
    ///
    /// The kernel's code: `EINVAL` if it has no such rings (before Linux 5.19), `EPERM` or `ENOSYS`
    /// where io_uring is forbidden.
    pub(crate) fn new(device: OwnedFd, entries: u16, is_polled: bool, arena: &Arena) -> io::Result<Self> {
        let entries = u32::from(entries);
        let ring = if is_polled { polled(entries)? } else { interrupting(entries)? };
        ring.submitter().register_files(&[device.as_raw_fd()])?;
        let wants_arena = current::ring_if_any().is_some_and(|ring| ring.has_registered_arena());
        // What cannot be registered is pinned for each command.
        let arena = if wants_arena { RegisteredArena::new(&ring, arena).ok() } else { None };
        let process = Process::current();
        Ok(Self { ring, arena, uses_arena: true, _device: device, is_polled, entries, in_flight: 0, process })
    }

    /// Queues a command if there is room.
    ///
    /// # Safety
    ///
    /// Whatever memory the command points to stays valid, and is used by nobody else, until its
    /// result has come back.
    pub(crate) unsafe fn push(&mut self, command: &DeviceCommand) -> bool {
        if self.in_flight == self.entries {
            return false;
        }
        let buffer = self.registered_index(command.memory);
        let entry = opcode::UringCmd80::new(DEVICE, command.operation)
            .cmd(command.command)
            .buf_index(buffer)
            .build()
            .user_data(command.user_data);
        // SAFETY: the caller promises that the memory outlives the command.
        let pushed = unsafe { self.ring.submission().push(&entry) }.is_ok();
        self.in_flight += u32::from(pushed);
        pushed
    }

    /// Whether `memory` (address and length) is registered, so that it is not pinned each time.
    pub(crate) fn is_registered(&self, memory: Option<(usize, usize)>) -> bool {
        self.registered_index(memory).is_some()
    }

    fn registered_index(&self, memory: Option<(usize, usize)>) -> Option<u16> {
        let (address, len) = memory.filter(|_| self.uses_arena)?;
        self.arena.as_ref()?.index_of(address, len)
    }

    /// Pins memory for each command from now on, also what is registered.
    pub(crate) fn use_no_registered_memory(&mut self) {
        // It stays registered, and so the arena has to stay.
        self.uses_arena = false;
    }

    /// How many commands the kernel has, or will have.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Hands over what is queued. What the kernel does not take now stays queued.
    pub(crate) fn hand_over(&mut self) {
        if !self.process.is_left() && !self.ring.submission().is_empty() {
            // Only a full completion queue, a signal and a lack of memory are possible, and pass.
            let _ = self.ring.submit();
        }
    }

    /// Whether commands are queued that the kernel did not take.
    pub(crate) fn has_queued(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// Has the kernel say what is done: asks a polled device, and runs what was deferred.
    pub(crate) fn refresh(&mut self) {
        if self.process.is_left() || self.in_flight == 0 {
            return;
        }
        let needs_kernel = self.is_polled || {
            let queue = self.ring.submission();
            queue.taskrun() || queue.cq_overflow()
        };
        if needs_kernel {
            // As in `hand_over`.
            let _ = self.ring.submit();
        }
    }

    /// A command that is done: its `user_data`, and its result as its driver gives it.
    pub(crate) fn next(&mut self) -> Option<(u64, i32)> {
        if self.process.is_left() {
            return None;
        }
        let entry = self.ring.completion().next()?;
        self.in_flight -= 1;
        Some((entry.user_data(), entry.result()))
    }

    /// Sleeps until a command is done, or `longest` has passed. A polled device is asked once.
    pub(crate) fn wait(&mut self, longest: Duration) {
        if self.is_polled {
            self.refresh();
        } else if !self.process.is_left() {
            let timespec = types::Timespec::from(longest);
            // As in `hand_over`, or the time has passed.
            let _ = self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timespec));
        }
    }

    pub(crate) fn is_polled(&self) -> bool {
        self.is_polled
    }

    /// Readable when a command is done, if the device is not polled.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn polled(entries: u32) -> io::Result<IoUring<squeue::Entry128, cqueue::Entry32>> {
    IoUring::builder().setup_iopoll().build(entries)
}

/// With the newest flags that the kernel takes.
fn interrupting(entries: u32) -> io::Result<IoUring<squeue::Entry128, cqueue::Entry32>> {
    let mut newest = IoUring::builder();
    newest.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    newest.build(entries).or_else(|_| IoUring::builder().build(entries))
}
