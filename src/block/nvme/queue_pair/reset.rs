//! A queue pair through resets of its controller: what waits, what fails.

use super::super::super::queue::CommandKind;
use super::super::io::Fate;
use super::super::registers::Registers;
use super::{QueuePair, State};
use crate::error::{Error, Result};

impl<R: Registers> QueuePair<R> {
    /// The controller has stopped (it is disabled, was reset by the bus, or is gone) and touches no
    /// memory any more. Every command in flight fails now with `error` or waits for
    /// [`QueuePair::resume`], as `decide` says for its slot, its kind, and whether it was
    /// announced to the controller. The rings are as new.
    pub(in super::super) fn stop(
        &mut self,
        error: &dyn Fn(CommandKind) -> Error,
        decide: &mut dyn FnMut(u16, CommandKind, bool) -> Fate,
        done: &mut dyn FnMut(u16, Result<()>),
    ) {
        if self.state == State::Gone {
            return;
        }
        self.state = State::Stopped;
        self.rings.clear();
        let announced = self.announced;
        self.announced = self.next_number;
        for index in 0..self.trackers.len() {
            for id in [index, index + self.trackers.len()] {
                if self.ids.is_issued(id) {
                    self.ids.revoke(id);
                }
            }
            let tracker = &mut self.trackers[index];
            if tracker.pending == 0 {
                // Free, or it waits already.
                continue;
            }
            let slot = u16::try_from(index).expect("at most 1023 slots");
            tracker.pending = 0;
            let (kind, was_announced) = (tracker.kind, tracker.number < announced);
            match decide(slot, kind, was_announced) {
                Fate::Replay => {
                    self.counts.replays += 1;
                    self.waiting.push_back(slot);
                }
                Fate::Fail => self.report(index, Err(error(kind)), done),
            }
        }
    }

    /// Commands of this kind that wait fail with `error`.
    pub(in super::super) fn fail_waiting(
        &mut self,
        kind: CommandKind,
        error: &dyn Fn(CommandKind) -> Error,
        done: &mut dyn FnMut(u16, Result<()>),
    ) {
        for _ in 0..self.waiting.len() {
            let Some(slot) = self.waiting.pop_front() else { break };
            let index = usize::from(slot);
            if self.trackers[index].kind == kind {
                self.report(index, Err(error(kind)), done);
            } else {
                self.waiting.push_back(slot);
            }
        }
    }

    /// The controller knows the queues (again). What waited is sent.
    pub(in super::super) fn resume(&mut self) {
        if self.state == State::Stopped {
            self.state = State::Attached;
            self.send_waiting();
        }
    }

    /// The controller is gone for good: everything fails with `error`, now and later.
    pub(in super::super) fn give_up(
        &mut self,
        error: &dyn Fn(CommandKind) -> Error,
        done: &mut dyn FnMut(u16, Result<()>),
    ) {
        self.stop(error, &mut |_, _, _| Fate::Fail, done);
        self.state = State::Gone;
        while let Some(slot) = self.waiting.pop_front() {
            let index = usize::from(slot);
            let kind = self.trackers[index].kind;
            self.report(index, Err(error(kind)), done);
        }
    }
}
