//! A host in one piece: the model, the driver, memory and a clock that the test moves.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::time::Duration;

use super::super::super::queue::{Command, CommandKind, Refused, Segment};
use super::super::io::{Attachment, Fate, default_fate};
use super::super::model::{Model, ModelNamespace, ModelOptions};
use super::super::queue_pair::QueuePair;
use super::super::{Controller, ControllerOptions, Event, Phase, Region, Reply, Request, ResetCause, Ticket};
use crate::error::{Error, Result};
use crate::mem::DmaBuf;
use crate::rt::Instant;

/// Memory of each slot, in bytes.
pub(super) const SLOT_BYTES: usize = 52 << 10;
/// So many slots have memory.
pub(super) const SLOTS: u16 = 20;
/// Nothing takes more turns than this.
const MAX_TURNS: usize = 100_000;

thread_local! {
    /// The memory of the last host, for the next: most of a short schedule's time is its zeroing.
    static MEMORY: RefCell<Option<DmaBuf>> = const { RefCell::new(None) };
}

pub(super) struct Host {
    pub(super) model: Model,
    pub(super) controller: Controller<Model>,
    pub(super) queue: QueuePair<Model>,
    pub(super) now: Instant,
    pub(super) events: Vec<Event>,
    base: NonNull<u8>,
    pub(super) region: Region,
    memory: Option<DmaBuf>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.model.unmap(&self.region);
        MEMORY.with_borrow_mut(|memory| *memory = self.memory.take());
    }
}

/// Two buffers for each slot.
const MEMORY_BYTES: usize = 2 * SLOTS as usize * SLOT_BYTES;

pub(super) fn options() -> ModelOptions {
    ModelOptions::new(ModelNamespace::new(1024, 9))
}

impl Host {
    /// A controller that is ready, and a queue pair of `entries` for namespace 1.
    pub(super) fn start(options: ModelOptions, entries: u16, seed: u64) -> Self {
        Self::try_start(options, entries, seed).expect("the controller becomes ready")
    }

    pub(super) fn try_start(options: ModelOptions, entries: u16, seed: u64) -> Result<Self> {
        let model = Model::new(options, seed);
        let mut controller =
            Controller::new(model.clone(), &model, ControllerOptions::new("nvme:test").queue_pairs(4))?;
        let mut now = Instant::ORIGIN;
        turn_until(&model, &mut controller, &mut now, Phase::Ready)?;
        let identity = controller.identity().expect("a ready controller was identified");
        let namespace = controller.namespaces().first().expect("a namespace");
        namespace.check_format()?;
        let attachment = Attachment {
            name: "nvme:test/1".to_owned(),
            namespace: namespace.number,
            block_shift: namespace.block_shift,
            fused: identity.fused_compare_and_write,
            page_shift: controller.page_shift(),
            sgl_alignment: identity.sgl_alignment,
        };
        let mut queue = QueuePair::new(
            model.clone(),
            controller.capabilities(),
            &model,
            1,
            entries,
            Some(1),
            attachment,
        )?;
        let mut memory = MEMORY.take().unwrap_or_else(|| DmaBuf::zeroed(MEMORY_BYTES));
        let base = NonNull::new(memory.as_mut_ptr()).expect("a buffer is somewhere");
        // SAFETY: the buffer is aligned to 4096 and does not move, and the host unmaps it before it
        // goes.
        let region = unsafe { model.map(base, MEMORY_BYTES) };
        queue.regions_mut().insert(region);
        let mut host =
            Self { model, controller, queue, now, events: Vec::new(), base, region, memory: Some(memory) };
        host.attach()?;
        Ok(host)
    }

    /// Creates the queues with the controller and lets the queue pair go on.
    pub(super) fn attach(&mut self) -> Result<()> {
        let spec = self.queue.spec();
        self.queue.mirror(self.controller.capabilities(), self.controller.shadow_doorbells());
        self.ask(Request::CreateQueues(spec))?;
        self.queue.resume();
        Ok(())
    }

    pub(super) fn turn(&mut self) {
        self.model.step();
        self.controller.poll(self.now);
        while let Some(event) = self.controller.next_event() {
            self.events.push(event);
        }
        self.now += Duration::from_millis(1);
    }

    pub(super) fn until(&mut self, phase: Phase) -> Result<()> {
        turn_until(&self.model, &mut self.controller, &mut self.now, phase)?;
        while let Some(event) = self.controller.next_event() {
            self.events.push(event);
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, ticket: Ticket) -> Result<Reply> {
        for _ in 0..MAX_TURNS {
            self.turn();
            if let Some(result) = self.controller.take(ticket) {
                return result;
            }
        }
        panic!("no answer: {:?}", self.controller);
    }

    pub(super) fn ask(&mut self, request: Request) -> Result<Reply> {
        let ticket = self.controller.request(request, self.now)?;
        self.answer(ticket)
    }

    /// Resets the controller; what was in flight and failed is returned.
    pub(super) fn reset(&mut self, cause: ResetCause) -> Result<Vec<(u16, Result<()>)>> {
        self.controller.reset(cause, self.now);
        self.recover()
    }

    /// Brings queues back after the controller began a reset.
    pub(super) fn recover(&mut self) -> Result<Vec<(u16, Result<()>)>> {
        self.until(Phase::Ready)?;
        let healthy = self.controller.reset_cause() != ResetCause::Fatal;
        let failed = self.stop(|_, operation, announced| default_fate(operation, announced, healthy));
        self.attach()?;
        Ok(failed)
    }

    pub(super) fn stop(
        &mut self,
        mut decide: impl FnMut(u16, CommandKind, bool) -> Fate,
    ) -> Vec<(u16, Result<()>)> {
        let mut failed = Vec::new();
        let controller = &self.controller;
        let error = |operation: CommandKind| -> Error { controller.error(operation.name()) };
        self.queue.stop(&error, &mut decide, &mut |slot, result| failed.push((slot, result)));
        failed
    }

    /// The memory of `slot`: the first or the second buffer, from `from` on.
    pub(super) fn segment(&self, slot: u16, second: bool, from: usize, len: usize) -> Segment {
        let at = (usize::from(slot) * 2 + usize::from(second)) * SLOT_BYTES + from;
        assert!(at + len <= MEMORY_BYTES);
        let ptr = self.base.as_ptr().wrapping_add(at);
        Segment { ptr: NonNull::new(ptr).expect("within the buffer"), len }
    }

    pub(super) fn fill(&self, segment: &Segment, bytes: &[u8]) {
        assert_eq!(segment.len, bytes.len());
        let to = self.base.as_ptr().wrapping_add(segment.ptr.addr().get() - self.base.addr().get());
        // SAFETY: the segment lies in the host's memory, which no command uses now.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    pub(super) fn bytes(&self, segment: &Segment) -> Vec<u8> {
        let from = self.base.as_ptr().wrapping_add(segment.ptr.addr().get() - self.base.addr().get());
        let mut bytes = vec![0; segment.len];
        // SAFETY: as in `fill`.
        unsafe { from.copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        bytes
    }

    pub(super) fn submit(
        &mut self,
        slot: u16,
        kind: CommandKind,
        offset: u64,
        len: u64,
        memory: &[Segment],
    ) -> Result<(), Refused> {
        self.send(slot, &Command { kind, offset, len, memory, expected: &[] })
    }

    /// Submits a command that names memory of the host.
    pub(super) fn send(&mut self, slot: u16, command: &Command<'_>) -> Result<(), Refused> {
        // SAFETY: the memory lives as long as the host, and a slot has one command at a time.
        unsafe { self.queue.submit(slot, command, self.now) }
    }

    /// Polls once; what is done.
    pub(super) fn poll(&mut self) -> Vec<(u16, Result<()>)> {
        let mut done = Vec::new();
        self.queue.poll(32, |slot, result| done.push((slot, result)));
        done
    }

    /// Lets the command in `slot` end.
    pub(super) fn wait(&mut self, slot: u16) -> Result<()> {
        self.queue.kick();
        for _ in 0..MAX_TURNS {
            self.turn();
            for (done, result) in self.poll() {
                if done == slot {
                    return result;
                }
            }
        }
        panic!("slot {slot} never ends: {:?}", self.queue);
    }

    /// Writes `bytes` at `offset` through slot 0.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) -> Result<()> {
        let segment = self.segment(0, false, 0, bytes.len());
        self.fill(&segment, bytes);
        self.submit(0, CommandKind::Write { durable }, offset, bytes.len() as u64, &[segment])
            .expect("there is room");
        self.wait(0)
    }

    /// Reads `len` bytes at `offset` through slot 0.
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let segment = self.segment(0, false, 0, len);
        self.fill(&segment, &vec![0xee; len]);
        self.submit(0, CommandKind::Read, offset, len as u64, &[segment]).expect("there is room");
        self.wait(0)?;
        Ok(self.bytes(&segment))
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.submit(0, CommandKind::Flush, 0, 0, &[]).expect("there is room");
        self.wait(0)
    }
}

/// Lets a controller go on until it is in `phase`; its failure if it does not get there.
pub(super) fn turn_until(
    model: &Model,
    controller: &mut Controller<Model>,
    now: &mut Instant,
    phase: Phase,
) -> Result<()> {
    for _ in 0..MAX_TURNS {
        model.step();
        let reached = controller.poll(*now);
        if reached == phase {
            return Ok(());
        }
        if matches!(reached, Phase::Failed | Phase::Removed | Phase::Off) {
            return Err(controller.error("test"));
        }
        *now += Duration::from_millis(1);
    }
    panic!("never {phase:?}: {controller:?}");
}

/// Bytes that differ from place to place.
pub(super) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at / 3 + at / 512 + usize::from(seed)) % 251).expect("small")).collect()
}
