//! One core's channel to a block device of SPDK.

use std::ffi::c_void;
use std::mem;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use boson_spdk_sys as sys;

use super::super::super::queue::{Command, CommandKind, Failure, Refused, Segment};
use super::super::env::strerror;
use super::super::reach::Reach;
use super::super::requests::{Requests, StatusField, slot};
use super::super::status;
use super::Bdev;
use super::thread::{self, SpdkThread};
use crate::eal::idle::Idle;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::poller::Park;

/// The most commands at once.
const SLOTS: u16 = 256;

/// The naps of a core that has no command with the device: the longer one while the device has
/// nothing that wants to be polled all the time. Messages of other threads of SPDK, and its timers,
/// are seen this late at most.
const SHORT_NAP: Duration = Duration::from_millis(2);
const LONG_NAP: Duration = Duration::from_millis(20);

/// How often the thread is polled at the end until the device has given back its last command.
const END_POLLS: u32 = 10_000_000;

/// A channel of one core to one device.
pub(in super::super) struct Channel {
    raw: Option<NonNull<sys::spdk_io_channel>>,
    requests: Requests,
    block_shift: u32,
    /// The bits of an address that must be 0.
    unaligned: usize,
    blocks: u64,
    reach: Rc<Reach>,
    idle: Idle,
    in_use: usize,
    // Dropped in this order: the channel is gone by then; the core's thread; the device.
    thread: Rc<SpdkThread>,
    bdev: Arc<Bdev>,
}

impl Channel {
    pub(in super::super) fn attach(bdev: Arc<Bdev>) -> Result<Self> {
        let state = Arc::clone(bdev.state());
        let failed = |kind, why: &str| {
            Error::new(kind, "attach to namespace")
                .at(format!("spdk:bdev/{}", state.name()))
                .because(why.to_owned())
        };
        if state.is_removed() {
            return Err(failed(ErrorKind::Closed, "the device was removed"));
        }
        state.env.eal().register_thread();
        let reach = Reach::of_this_core();
        let thread = thread::of_this_core()?;
        thread.enter();
        state.channels.fetch_add(1, Ordering::AcqRel);
        // SAFETY: the descriptor is open as long as `bdev` lives, and this core's thread is the
        // current one.
        let raw = unsafe { sys::spdk_bdev_get_io_channel(state.descriptor()) };
        let Some(raw) = NonNull::new(raw) else {
            state.channels.fetch_sub(1, Ordering::AcqRel);
            return Err(failed(ErrorKind::OutOfMemory, "SPDK has no memory for another channel"));
        };
        let description = bdev.description();
        Ok(Self {
            raw: Some(raw),
            requests: Requests::new(SLOTS),
            block_shift: description.block_bytes.trailing_zeros(),
            unaligned: usize::try_from(description.buffer_align).unwrap_or(1).max(1).next_power_of_two() - 1,
            blocks: description.blocks,
            reach,
            idle: Idle::new(),
            in_use: 0,
            thread,
            bdev,
        })
    }

    pub(in super::super) fn slots(&self) -> u16 {
        self.requests.count()
    }

    /// What is not aligned as the device wants it SPDK copies itself, so boson does it, which
    /// counts it. What is behind the device may be on the bus, so the memory must be in the arena,
    /// if that can be reached at all.
    pub(in super::super) fn accepts(&self, memory: &[Segment]) -> bool {
        (!self.reach.is_reachable() || self.reach.holds(memory))
            && memory.iter().all(|piece| piece.ptr.addr().get() & self.unaligned == 0)
    }

    /// # Safety
    ///
    /// As [`Port::submit`](super::super::super::queue::Port::submit).
    pub(in super::super) unsafe fn submit(
        &mut self,
        number: u16,
        command: &Command<'_>,
    ) -> Result<(), Refused> {
        let state = self.bdev.state();
        let Some(channel) = self.raw.filter(|_| !state.is_removed()) else {
            return Err(refused(ErrorKind::Closed, "the device was removed"));
        };
        let request = self.requests.begin(number, command.memory, command.expected);
        request.sent(1);
        let (descriptor, channel, argument) = (state.descriptor(), channel.as_ptr(), request.argument());
        let (pieces, count) = request.pieces();
        let pieces = pieces.cast();
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let block = command.offset >> self.block_shift;
        let blocks = command.len >> self.block_shift;
        self.thread.enter();
        let code = match command.kind {
            // SAFETY: for this and the next five calls:
            // - the descriptor is open and the channel is this core's, whose thread is the current
            //   one;
            // - the pieces stay in the slot until the command is done, and the memory that they
            //   name until then too, as the caller promises;
            // - `done` takes `argument`, the slot's address; slots live until `shut_down`, after
            //   which SPDK has no command of theirs.
            CommandKind::Read => unsafe {
                sys::spdk_bdev_readv_blocks(
                    descriptor,
                    channel,
                    pieces,
                    count,
                    block,
                    blocks,
                    Some(done),
                    argument,
                )
            },
            CommandKind::Write { .. } => {
                // SAFETY: as for the read.
                unsafe {
                    sys::spdk_bdev_writev_blocks(
                        descriptor,
                        channel,
                        pieces,
                        count,
                        block,
                        blocks,
                        Some(done),
                        argument,
                    )
                }
            }
            CommandKind::Flush => {
                let all = state.blocks.load(Ordering::Acquire);
                // SAFETY: as for the read; there is no memory.
                unsafe { sys::spdk_bdev_flush_blocks(descriptor, channel, 0, all, Some(done), argument) }
            }
            CommandKind::Trim => {
                // SAFETY: as for the flush.
                unsafe {
                    sys::spdk_bdev_unmap_blocks(descriptor, channel, block, blocks, Some(done), argument)
                }
            }
            CommandKind::WriteZeroes => {
                // SAFETY: as for the flush.
                unsafe {
                    sys::spdk_bdev_write_zeroes_blocks(
                        descriptor,
                        channel,
                        block,
                        blocks,
                        Some(done),
                        argument,
                    )
                }
            }
            CommandKind::CompareAndWrite => {
                let (expected, expected_count) = request.expected();
                let expected_count = i32::try_from(expected_count).unwrap_or(i32::MAX);
                // SAFETY: as for the read, also for what is expected.
                unsafe {
                    sys::spdk_bdev_comparev_and_writev_blocks(
                        descriptor,
                        channel,
                        expected.cast(),
                        expected_count,
                        pieces,
                        count,
                        block,
                        blocks,
                        Some(done),
                        argument,
                    )
                }
            }
        };
        if code == 0 {
            self.in_use += 1;
            return Ok(());
        }
        request.sent(0);
        Err(match -code {
            // SPDK has none of its own requests free: another command that ends frees one.
            libc::ENOMEM | libc::EAGAIN => Refused::Full,
            libc::ENOTSUP => refused(ErrorKind::Unsupported, "the device has no such command"),
            libc::EBADF => refused(ErrorKind::PermissionDenied, "the device is open for reading only"),
            _ => refused(ErrorKind::InvalidInput, format!("SPDK does not take it: {}", strerror(code))),
        })
    }

    pub(in super::super) fn poll(
        &mut self,
        budget: usize,
        mut done: impl FnMut(u16, Result<(), Box<Failure>>),
    ) -> usize {
        let busy = self.thread.poll();
        let events = self.requests.drain(budget, |slot, field| {
            let result = if field == 0 { Ok(()) } else { Err(status::failure(field, None)) };
            done(slot, result);
        });
        self.in_use -= events;
        if self.in_use == 0 && self.bdev.state().is_removed() {
            self.put_channel();
        }
        if events > 0 || (busy && self.in_use > 0) {
            self.idle.busy();
        }
        events
    }

    pub(in super::super) fn resized(&mut self) -> Option<u64> {
        let blocks = self.bdev.state().blocks.load(Ordering::Acquire);
        (mem::replace(&mut self.blocks, blocks) != blocks).then_some(blocks << self.block_shift)
    }

    pub(in super::super) fn park(&mut self, in_use: usize) -> Park {
        if in_use > 0 { self.idle.park() } else { Park::Nap(self.thread.rest(SHORT_NAP, LONG_NAP)) }
    }

    pub(in super::super) fn shut_down(&mut self) -> bool {
        for _ in 0..END_POLLS {
            if self.in_use == 0 {
                break;
            }
            self.poll(usize::MAX, |_, _| {});
        }
        if self.in_use > 0 {
            // Giving the channel back now would free what the device works with.
            self.requests.leak();
            mem::forget((Rc::clone(&self.reach), Rc::clone(&self.thread), Arc::clone(&self.bdev)));
            return false;
        }
        self.put_channel();
        true
    }

    fn put_channel(&mut self) {
        let Some(raw) = self.raw.take() else { return };
        self.thread.enter();
        // SAFETY: the channel is this core's, whose thread is the current one, and has no command.
        unsafe { sys::spdk_put_io_channel(raw.as_ptr()) };
        // SPDK ends the channel in a message to the same thread.
        while self.thread.poll() {}
        self.bdev.state().channels.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn refused(kind: ErrorKind, why: impl Into<std::borrow::Cow<'static, str>>) -> Refused {
    Refused::Failed(Failure { outcome: Outcome::NotStarted, ..Failure::new(kind, why) })
}

/// SPDK is done with a command.
unsafe extern "C" fn done(io: *mut sys::spdk_bdev_io, success: bool, argument: *mut c_void) {
    let mut field: StatusField = 0;
    if !success {
        let (mut result, mut code_type, mut code) = (0, 0, 0);
        // SAFETY: `io` is done and not freed; the three are places for numbers.
        unsafe {
            sys::spdk_bdev_io_get_nvme_status(io, &raw mut result, &raw mut code_type, &raw mut code);
        }
        let [code, _, _, _] = code.to_le_bytes();
        let [code_type, _, _, _] = code_type.to_le_bytes();
        field = u16::from_le_bytes([code, code_type & 7]);
        if field == 0 {
            // A failure without a reason: generic, internal error.
            field = 0x0006;
        }
    }
    // SAFETY: every completion gives its I/O back, once.
    unsafe { sys::spdk_bdev_free_io(io) };
    // SAFETY: `submit` gave SPDK the slot's address, and slots live until SPDK has none of their
    // commands.
    unsafe { slot(argument) }.called_back(field, false);
}
