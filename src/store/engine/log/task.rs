//! A core's task: does what the core's needs call for, one thing at a time.
//!
//! It has a write and a flush under way at most. What ends is reported to the leader first; then
//! those that wait are woken, and what is needed next begins.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use super::core_driver::{Core, OVERLAP_RECORDS};
use super::needs::{Goal, Want};
use super::{LogDriver, lock};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Result};
use crate::mem::DmaBuf;
use crate::rt::{self, yield_now};
use crate::store::env::Env;
use crate::store::wal::{Formed, HEADER_BYTES, Lead, NoBatch, RECORD_HEAD_BYTES};

/// The most that one batch has, unless a record is longer.
const BATCH_BYTES: usize = 128 << 10;
/// Larger writes are flushed also where a write can be durable by itself.
const DURABLE_WRITE_BYTES: usize = 16 << 10;
/// A number that is drawn and not published holds the log back for some instructions of its core,
/// or for longer if that core's thread was preempted. So often the others get a turn, and then...
const TURNS: u32 = 16;
/// ...this passes between two looks.
const LOOK_AGAIN_AFTER: Duration = Duration::from_micros(20);

/// A core's task as others see it: whatever becomes of it, nobody waits for it for ever.
pub(super) struct Duty<E: Env, N: Namespace> {
    core: Rc<Core<E, N>>,
}

impl<E: Env, N: Namespace> Duty<E, N> {
    pub(super) fn new(core: Rc<Core<E, N>>) -> Self {
        Self { core }
    }
}

impl<E: Env, N: Namespace> Drop for Duty<E, N> {
    fn drop(&mut self) {
        let core = &*self.core;
        if core.is_busy() {
            let error = Error::new(ErrorKind::Cancelled, "write log")
                .because("the core that was at it went away, and what became of it is not known");
            core.driver.fail(&error);
        }
        core.ended();
        core.driver.tell_others(core.index(), true, true);
    }
}

/// What to do next.
enum Step {
    Write(Batch),
    Flush,
    /// The leader is another core's, or a number is drawn and not published.
    Again,
    /// Nothing is needed, or something is under way, or there is no segment.
    Wait,
    Fail(Error),
}

/// A batch that is to be written.
struct Batch {
    formed: Formed,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Durable after a flush.
    Cached,
    /// Durable by itself, in one command.
    Durable,
    /// Durable by itself: there is no volatile cache.
    Plain,
}

/// What ended.
#[derive(Default)]
struct Ended {
    written: Option<Result<How>>,
    flushed: Option<Result<()>>,
}

/// Drives the log for its core until that goes, or the log has failed.
pub(super) async fn run<E: Env, N: Namespace>(duty: Duty<E, N>) {
    let core = &*duty.core;
    let driver = &*core.driver;
    let block = driver.format.block_bytes as usize;
    let longest = HEADER_BYTES + RECORD_HEAD_BYTES + core.log().max_record_bytes();
    let mut staging = vec![0; BATCH_BYTES.max(longest.next_multiple_of(block) + 2 * block)];
    let mut write = pin!(None);
    let mut flush = pin!(None);
    let mut tries = 0;
    // Others have not been told yet.
    let (mut has_formed, mut has_ended) = (false, false);
    loop {
        core.slot().is_told.swap(false, Ordering::AcqRel);
        let woken = core.wake();
        if driver.has_failed() {
            core.wake_all();
        }
        // What is under way is seen to its end also then: its bytes must not come later.
        if !core.is_busy() && (driver.has_failed() || core.is_over()) {
            break;
        }
        let mut until = core.needs.borrow().next_due();
        if until.is_some_and(|due| due <= core.env.now()) {
            let mut needs = core.needs.borrow_mut();
            needs.pass_to(core.env.now());
            until = needs.next_due();
        }
        if woken > 0 && core.is_unmet() {
            // They may have more to write, which then shares what comes next.
            yield_now().await;
        }
        match core.step(&mut staging) {
            Step::Write(batch) => {
                let mut buf = rt::arena().alloc(batch.formed.bytes);
                buf.copy_from_slice(&staging[..batch.formed.bytes]);
                write.set(Some(core.write(batch, buf)));
                (has_formed, tries) = (true, 0);
                // Who waits for room of this core need not wait for the write.
                core.wake();
            }
            Step::Flush => {
                flush.set(Some(core.namespace.flush()));
                tries = 0;
                // There may be much to write meanwhile.
                continue;
            }
            Step::Again if tries < TURNS => {
                tries += 1;
                yield_now().await;
                continue;
            }
            Step::Again => until = Some(core.env.now() + LOOK_AGAIN_AFTER),
            Step::Wait => tries = 0,
            Step::Fail(error) => driver.fail(&error),
        }
        if has_formed || has_ended {
            driver.tell_others(core.index(), has_formed, !core.is_busy());
            (has_formed, has_ended) = (false, false);
        }
        let sleep = async {
            match until {
                Some(due) => core.env.sleep(due.saturating_since(core.env.now())).await,
                None => pending().await,
            }
        };
        let mut sleep = pin!(sleep);
        let ended = poll_fn(|cx| {
            core.register(cx);
            let mut ended = Ended::default();
            if let Some(Poll::Ready(result)) = flush.as_mut().as_pin_mut().map(|flush| flush.poll(cx)) {
                flush.set(None);
                ended.flushed = Some(result);
            }
            if let Some(Poll::Ready(result)) = write.as_mut().as_pin_mut().map(|write| write.poll(cx)) {
                write.set(None);
                ended.written = Some(result);
            }
            let is_any = ended.written.is_some() || ended.flushed.is_some();
            if is_any || core.slot().is_told.load(Ordering::Acquire) || sleep.as_mut().poll(cx).is_ready() {
                Poll::Ready(ended)
            } else {
                Poll::Pending
            }
        })
        .await;
        if let Some(result) = ended.written {
            match result {
                Ok(how) => driver.written(how != How::Cached).await,
                Err(error) => driver.fail(&error),
            }
            core.is_writing.set(false);
            has_ended = true;
        }
        if let Some(result) = ended.flushed {
            match result {
                Ok(()) => driver.flushed().await,
                Err(error) => driver.fail(&error),
            }
            core.is_flushing.set(false);
            has_ended = true;
        }
        if has_ended && !core.is_busy() {
            core.end.notify_all();
        }
    }
}

impl LogDriver {
    async fn written(&self, is_durable: bool) {
        let mut lead = self.lead().await;
        lead.written(is_durable);
        self.is_writing.store(false, Ordering::Relaxed);
        self.bundles.batch_durable(lead.leader().durable().batch);
    }

    async fn flushed(&self) {
        self.hear_others().await;
        let mut lead = self.lead().await;
        let durable = lead.flushed();
        self.is_flushing.store(false, Ordering::Relaxed);
        self.bundles.batch_durable(durable.batch);
    }
}

impl<E: Env, N: Namespace> Core<E, N> {
    fn register(&self, cx: &Context<'_>) {
        let mut task = lock(&self.slot().task);
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            let before = task.replace(cx.waker().clone());
            drop(task);
            drop(before);
        }
    }

    /// Looks what is to be done, and says to the others that this core will do it. A batch is at
    /// the front of `staging`.
    fn step(&self, staging: &mut [u8]) -> Step {
        let driver = &*self.driver;
        let is_unmet = self.is_unmet();
        // Before the leader is asked: who is in the way sees it after.
        self.slot().is_unmet.store(is_unmet, Ordering::Relaxed);
        if !is_unmet || driver.has_failed() {
            return Step::Wait;
        }
        let Some(mut lead) = driver.try_lead() else { return Step::Again };
        driver.bundles.hand_over(lead.leader());
        let formed = Goal { number: lead.leader().position().first, ticket: driver.bundles.named() };
        let durable = Goal { number: lead.leader().durable().end, ticket: driver.bundles.durable() };
        let (is_writing, is_flushing) =
            (driver.is_writing.load(Ordering::Relaxed), driver.is_flushing.load(Ordering::Relaxed));
        let want = self.needs.borrow_mut().want(formed, durable, is_flushing);
        match want {
            _ if is_writing => Step::Wait,
            Want::Nothing => Step::Wait,
            Want::Batch { is_durable, is_urgent } => {
                let is_much = driver.wal.order().next() - formed.number >= OVERLAP_RECORDS;
                if is_flushing && !is_urgent && !is_much {
                    return Step::Wait;
                }
                self.form(&mut lead, staging, is_durable)
            }
            Want::Flush => self.start_flush(&mut lead),
        }
    }

    fn start_flush(&self, lead: &mut Lead<'_>) -> Step {
        if lead.start_flush().is_none() {
            return Step::Wait;
        }
        self.driver.meters.flushes.add(1);
        self.driver.is_flushing.store(true, Ordering::Relaxed);
        self.is_flushing.set(true);
        Step::Flush
    }

    /// Asks for the segment after the named one, if the leader has none.
    fn supply(&self, lead: &mut Lead<'_>) {
        let segments = &mut lead.leader().segments;
        if segments.wants_spare() {
            match self.driver.supply.next() {
                Some(name) => segments.offer(name),
                None => self.driver.supply.wanted(),
            }
        }
    }

    fn form(&self, lead: &mut Lead<'_>, staging: &mut [u8], is_durable: bool) -> Step {
        let driver = &*self.driver;
        self.supply(lead);
        let formed = match lead.next_batch(staging) {
            Ok(Some(formed)) => formed,
            Ok(None) => return Step::Again,
            // What was written before keeps its promise, however long this takes.
            Err(NoBatch::NoSegment) if is_durable => return self.start_flush(lead),
            Err(NoBatch::NoSegment) => return Step::Wait,
            Err(NoBatch::Lost(number)) => {
                return Step::Fail(Error::new(ErrorKind::Corrupt, "write log").because(format!(
                    "record {number} was published and is in no buffer: a defect of the store"
                )));
            }
            Err(NoBatch::Failed) => {
                return Step::Fail(
                    Error::new(ErrorKind::Panicked, "write log")
                        .because("a core panicked while it formed a batch"),
                );
            }
        };
        driver.meters.record_bytes.add(formed.records_bytes as u64);
        driver.meters.bytes.add(formed.bytes as u64);
        driver.meters.batches.add(1);
        driver.bundles.formed(formed.batch, formed.bundles);
        driver.supply.ends_at(lead.leader().segments.end());
        // The next one is asked for as soon as it will be needed.
        self.supply(lead);
        driver.formed.store(formed.end, Ordering::Release);
        driver.is_writing.store(true, Ordering::Relaxed);
        self.is_writing.set(true);
        let info = self.namespace.info();
        let is_next = lead.leader().durable().batch + 1 == formed.batch;
        let how = if !info.volatile_cache {
            How::Plain
        } else if is_durable && is_next && info.forced_unit_access && formed.bytes <= DURABLE_WRITE_BYTES {
            How::Durable
        } else {
            How::Cached
        };
        Step::Write(Batch { formed, how })
    }

    async fn write(&self, batch: Batch, buf: DmaBuf) -> Result<How> {
        let Batch { formed, how } = batch;
        let segment_bytes = u64::from(self.driver.format.segment_bytes);
        let at = u64::from(formed.segment) * segment_bytes + u64::from(formed.offset);
        if how == How::Durable {
            self.driver.meters.flushes.add(1);
            self.namespace.write_durable(at, buf).await?;
        } else {
            self.namespace.write(at, buf).await?;
        }
        Ok(how)
    }
}
