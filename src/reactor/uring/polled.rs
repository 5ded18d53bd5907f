//! A ring for devices that are asked whether they are done instead of interrupting
//! (`IORING_SETUP_IOPOLL`): block devices whose driver was given poll queues
//! (`nvme.poll_queues=1`).
//!
//! Its operations have slots among those of the core's other ring, and complete like them. A core
//! does not sleep while it has some.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::probe::RingFeature;
use super::ring::Ring;
use crate::mem::{DmaBuf, IoBufMut};

/// Operations under way at once; those beyond go through the other ring.
const ENTRIES: u32 = 128;
/// The least that one segment of a command carries: a page.
const SEGMENT_BYTES: u32 = 4096;
/// How often a device is asked for its answer to the one read that shows whether it can be polled:
/// a second or more.
const PROBE_ATTEMPTS: usize = 1 << 20;

/// The second ring of a core.
pub(super) struct PolledRing {
    ring: IoUring,
    /// The devices it serves, held open, so that a number here means the device that was tried.
    devices: Vec<Served>,
    in_flight: u32,
}

struct Served {
    device: Rc<OwnedFd>,
    /// What the driver makes one command of. What it cuts is not polled, and Linux 6.1 loses it: a
    /// request of 516 KiB never completes where the limit is 512.
    most_bytes: u32,
}

impl PolledRing {
    fn new() -> io::Result<Self> {
        Ok(Self { ring: build(ENTRIES)?, devices: Vec::new(), in_flight: 0 })
    }

    /// Whether it has this many bytes read from or written to this device.
    pub(super) fn serves(&self, descriptor: RawFd, bytes: u32) -> bool {
        let mut devices = self.devices.iter();
        devices.any(|served| served.device.as_raw_fd() == descriptor && bytes <= served.most_bytes)
    }

    /// Queues an operation if there is room.
    ///
    /// # Safety
    ///
    /// Whatever memory `entry` points to stays valid, and unmoved, until it has completed.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // The completion queue is as long as twice the submission queue: it cannot overflow.
        // SAFETY: the caller's promise is passed on.
        let pushed = self.in_flight < ENTRIES && unsafe { self.ring.submission().push(entry) }.is_ok();
        self.in_flight += u32::from(pushed);
        pushed
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// Submits what is queued and asks the devices, if anything is under way; says whether it is.
    pub(super) fn poll(&mut self) -> io::Result<bool> {
        if !self.is_busy() {
            return Ok(false);
        }
        // On a ring of this kind the call polls, also with nothing to submit.
        self.ring.submit()?;
        Ok(true)
    }

    pub(super) fn next(&mut self) -> Option<cqueue::Entry> {
        let entry = self.ring.completion().next()?;
        self.in_flight -= 1;
        Some(entry)
    }
}

fn build(entries: u32) -> io::Result<IoUring> {
    IoUring::builder().setup_iopoll().build(entries)
}

/// Whether this kernel has rings of this kind.
pub(super) fn is_available() -> bool {
    build(1).is_ok()
}

/// What the driver of a block device makes one command of, in bytes, if its queue can be polled.
/// Before Linux 6.12 the kernel polls others too, which interrupt all the same.
fn polled_queue(device: &OwnedFd) -> io::Result<Option<u32>> {
    let number = rustix::fs::fstat(device)?.st_rdev;
    let directory = format!("/sys/dev/block/{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let attribute = |name: &str| -> io::Result<u32> {
        // A partition has the queue of its disk.
        let text = std::fs::read_to_string(format!("{directory}/queue/{name}"))
            .or_else(|_| std::fs::read_to_string(format!("{directory}/../queue/{name}")))?;
        text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
    };
    if attribute("io_poll")? != 1 {
        return Ok(None);
    }
    // Pages may lie apart, and the first and the last be parts of one.
    let segments = attribute("max_segments")?.saturating_sub(1).saturating_mul(SEGMENT_BYTES);
    Ok(Some(segments.min(attribute("max_sectors_kb")?.saturating_mul(1024))))
}

/// Reads the first block of `device` by polling. Fails with `EOPNOTSUPP` if its driver has no poll
/// queues.
fn try_read(device: &OwnedFd, block_bytes: u32) -> io::Result<()> {
    let mut ring = build(1)?;
    let mut buf = DmaBuf::zeroed(block_bytes as usize);
    let read = opcode::Read::new(types::Fd(device.as_raw_fd()), buf.stable_mut_ptr(), block_bytes).build();
    // SAFETY: the buffer has `block_bytes` bytes and lives until the read has completed, or for
    // ever if it does not.
    let pushed = unsafe { ring.submission().push(&read) };
    pushed.map_err(io::Error::other)?;
    for _ in 0..PROBE_ATTEMPTS {
        let submitted = ring.submit();
        if let Some(entry) = ring.completion().next() {
            return match entry.result() {
                0.. => Ok(()),
                code => Err(io::Error::from_raw_os_error(-code)),
            };
        }
        match submitted.map_err(|error| error.raw_os_error()) {
            Ok(_) | Err(Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)) => {}
            Err(_) => break,
        }
    }
    std::mem::forget((ring, buf));
    Err(io::ErrorKind::TimedOut.into())
}

impl Ring {
    /// Polls `device` for the reads and writes that are not under way yet.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) if this ring may not, or if the driver has no
    /// poll queues (`queue/io_poll` in sysfs), or the kernel's code, for one if there is no sysfs.
    pub(in crate::reactor) fn poll_device(&self, device: &Rc<OwnedFd>, block_bytes: u32) -> io::Result<()> {
        let most_bytes = if self.has(RingFeature::PolledDevices) { polled_queue(device)? } else { None };
        let most_bytes = most_bytes.ok_or(io::ErrorKind::Unsupported)?;
        try_read(device, block_bytes)?;
        self.with_polled(|polled| {
            if polled.is_none() {
                *polled = Some(PolledRing::new()?);
            }
            let served = || Served { device: Rc::clone(device), most_bytes };
            polled.iter_mut().for_each(|polled| polled.devices.push(served()));
            Ok(())
        })
    }

    /// Polls the device with this descriptor no more.
    pub(in crate::reactor) fn stop_polling(&self, descriptor: RawFd) {
        let removed = self.with_polled(|polled| {
            let devices = polled.as_mut().map(|polled| &mut polled.devices);
            let at = |devices: &Vec<Served>| {
                devices.iter().position(|served| served.device.as_raw_fd() == descriptor)
            };
            Ok(devices.and_then(|devices| at(devices).map(|at| devices.swap_remove(at))))
        });
        // Closing the device may be the last use of the descriptor: not under the borrow.
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No device here need have poll queues: operations that do nothing show that what goes in
    /// comes out.
    #[test]
    fn operations_complete_and_are_counted() {
        let Ok(mut ring) = PolledRing::new() else { return };
        assert!(!ring.poll().expect("nothing to do"));
        for number in 0..u64::from(ENTRIES) {
            // SAFETY: the entry points to no memory.
            assert!(unsafe { ring.push(&opcode::Nop::new().build().user_data(number)) });
        }
        // SAFETY: likewise.
        assert!(!unsafe { ring.push(&opcode::Nop::new().build()) }, "there is a limit");
        let mut seen = Vec::new();
        while ring.poll().expect("the ring works") {
            while let Some(entry) = ring.next() {
                seen.push(entry.user_data());
            }
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..u64::from(ENTRIES)));
    }

    #[test]
    fn a_file_that_cannot_be_polled_is_refused() {
        if !is_available() {
            return;
        }
        let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").expect("there"));
        assert!(try_read(&file, 512).is_err(), "it was not opened for direct I/O");
    }
}
