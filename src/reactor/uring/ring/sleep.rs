//! How a core sleeps in its ring, and what wakes it.

use std::cell::RefMut;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use io_uring::{opcode, types};

use super::{ALARM, DOORBELL, IGNORED, READABLE, Ring, RingInner, retry_later};
use crate::error::{Error, ErrorKind, Result};
use crate::reactor::patience::ROUND;
use crate::reactor::uring::alarm::EndedBy;
use crate::time::Instant;

/// How soon the kernel is asked again when it took no more submissions.
const BACKLOG_RETRY: Duration = Duration::from_millis(1);
/// Rounds that cancelled polls on descriptors get to end.
const ROUNDS_FOR_WATCHES: usize = 16;

const POLLIN: u32 = 1;

impl Ring {
    /// Hands queued operations to the kernel and sleeps from `now` until a completion, the doorbell
    /// or `until`, whichever is first. Returns what `poll` does.
    pub(in crate::reactor) fn wait(&self, now: Instant, until: Option<Instant>) -> Result<usize> {
        let taken = self.inner.borrow().taken;
        self.forget_files();
        let mut inner = self.inner.borrow_mut();
        self.arm_doorbell(&mut inner);
        let longest = match inner.alarm.set(now, Instant::of_kernel(), until, ALARM) {
            EndedBy::Alarm => None,
            EndedBy::Call(longest) => Some(longest),
            EndedBy::New(entry) => {
                self.push(&mut inner, entry.user_data(ALARM));
                None
            }
            EndedBy::Sooner(entry) => {
                self.push(&mut inner, entry.user_data(IGNORED));
                None
            }
        };
        if inner.taken != taken {
            // Making room in the queue took completions. With that of the doorbell or of the alarm
            // among them nothing would end the sleep.
            return Ok(self.deliver_all(inner));
        }
        self.sleep(inner, longest)
    }

    /// The same for `longest` at most, whatever the alarm is set to.
    pub(super) fn wait_for(&self, longest: Duration) -> Result<usize> {
        self.forget_files();
        let mut inner = self.inner.borrow_mut();
        self.arm_doorbell(&mut inner);
        self.sleep(inner, Some(longest))
    }

    fn arm_doorbell(&self, inner: &mut RingInner) {
        if !inner.doorbell_armed {
            inner.doorbell_armed = true;
            let poll = opcode::PollAdd::new(types::Fd(inner.doorbell.as_fd().as_raw_fd()), POLLIN).build();
            self.push(inner, poll.user_data(DOORBELL));
        }
    }

    fn sleep(&self, mut inner: RefMut<'_, RingInner>, longest: Option<Duration>) -> Result<usize> {
        if self.poll_devices(&mut inner)? {
            // Nothing would end the sleep when a device is done.
            return Ok(self.deliver_all(inner));
        }
        if !inner.slots.completed.is_empty() {
            // Making room in the queue took completions whose owners were not told yet: no time to
            // sleep.
            return Ok(self.deliver_all(inner));
        }
        self.enter(&mut inner, longest)?;
        Ok(self.deliver_all(inner))
    }

    /// Hands everything that is queued to the kernel and sleeps there until a completion is there
    /// or `longest` has passed.
    fn enter(&self, inner: &mut RingInner, longest: Option<Duration>) -> Result<()> {
        self.submit_backlog(inner);
        let longest = if inner.backlog.is_empty() {
            longest
        } else {
            Some(longest.map_or(BACKLOG_RETRY, |longest| longest.min(BACKLOG_RETRY)))
        };
        self.enters.set(self.enters.get() + 1);
        let timespec = longest.map(types::Timespec::from);
        let mut args = types::SubmitArgs::new();
        if let Some(timespec) = &timespec {
            args = args.timespec(timespec);
        }
        match inner.ring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) => retry_later(&error),
        }
    }

    /// Wakes a core that sleeps in `wait` when `descriptor` is readable, once.
    pub(in crate::reactor) fn wake_when_readable(&self, descriptor: RawFd) -> Result<()> {
        if descriptor < 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "watch descriptor").because("it is negative"));
        }
        let mut inner = self.inner.borrow_mut();
        if !inner.watched.iter().any(|(watched, _)| *watched == descriptor) {
            let watch = inner.next_watch;
            // Far from `IGNORED`, `DOORBELL` and `ALARM` for as long as anybody lives.
            inner.next_watch += 1;
            inner.watched.push((descriptor, watch));
            let poll = opcode::PollAdd::new(types::Fd(descriptor), POLLIN).build();
            self.push(&mut inner, poll.user_data(READABLE | watch));
        }
        Ok(())
    }

    /// Ends the polls on watched descriptors, and returns when the kernel has let go of these: one
    /// that is closed then is closed for good, and what it had can be opened again at once. The
    /// next `wake_when_readable` starts anew.
    pub(in crate::reactor) fn unwatch_all(&self) {
        if self.process.is_left() {
            return;
        }
        let mut inner = self.inner.borrow_mut();
        for (_, watch) in std::mem::take(&mut inner.watched) {
            inner.watches_ending += 1;
            let cancel = opcode::AsyncCancel::new(READABLE | watch).build();
            self.push(&mut inner, cancel.user_data(IGNORED));
        }
        // The kernel ends a cancelled poll within the call that hands the cancellation over; a
        // second round is for one that it handed over late.
        for _ in 0..ROUNDS_FOR_WATCHES {
            if inner.watches_ending == 0 {
                return;
            }
            if self.enter(&mut inner, Some(ROUND)).is_err() {
                // It comes again with the next `poll`, which returns it.
                break;
            }
            self.reap(&mut inner);
        }
    }
}
