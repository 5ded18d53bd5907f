//! The admin queue: commands with a page of data each, and what their answers are for.

use super::super::command::{Completion, Entry};
use super::super::registers::Registers;
use super::bring_up::Step;
use super::{ADMIN_ENTRIES, Controller, PAGE_BYTES, Phase, ResetCause, Ticket};
use crate::rt::Instant;

/// What an admin command in flight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    BringUp(Step),
    AsyncEvent,
    /// Reading this log page ends an asynchronous event.
    EventLog(u8),
    Job(Ticket, u8),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct AdminCommand {
    purpose: Purpose,
    pub(super) deadline: Instant,
}

impl<R: Registers + Clone> Controller<R> {
    /// Takes what the admin queue has, and looks whether anything in it is late.
    pub(super) fn poll_admin(&mut self, now: Instant) {
        for _ in 0..ADMIN_ENTRIES {
            let Some(completion) = self.rings.pop() else { break };
            let Some(index) = self.ids.complete(completion.command_id) else {
                self.strays += 1;
                continue;
            };
            self.rings.completed(1);
            if let Some(command) = self.commands[index].take() {
                self.answered(index, command.purpose, &completion, now);
            }
        }
        self.rings.ring_head();
        self.rings.ring_tail();
        let late = self.commands.iter().flatten().any(|command| now >= command.deadline);
        if late && self.phase == Phase::Identifying && !self.was_ready {
            self.fail("it did not answer an admin command in time");
        } else if late && matches!(self.phase, Phase::Identifying | Phase::Ready) {
            self.recover(ResetCause::TimedOut, now);
        }
    }

    fn answered(&mut self, index: usize, purpose: Purpose, completion: &Completion, now: Instant) {
        match purpose {
            Purpose::BringUp(step) => self.brought_up(step, index, completion, now),
            Purpose::AsyncEvent => self.event(completion, now),
            Purpose::EventLog(page) => {
                self.event_log(page, completion.status.is_success().then_some(index));
            }
            Purpose::Job(ticket, step) => self.job_answered(ticket, step, index, completion, now),
        }
    }

    /// Sends an admin command; with `data` its data pointer is the page of its slot. False if there
    /// is no room.
    pub(super) fn send(&mut self, mut entry: Entry, data: bool, purpose: Purpose, now: Instant) -> bool {
        let free = self.commands.iter().position(Option::is_none);
        let Some(index) = free.filter(|_| self.rings.has_room(1)) else { return false };
        if data {
            self.pages.zero(index * PAGE_BYTES, PAGE_BYTES);
            entry = entry.data(self.pages.device_address(index * PAGE_BYTES), 0);
        }
        entry.set_command_id(self.ids.issue(index));
        // An event may take forever.
        let deadline = if purpose == Purpose::AsyncEvent {
            Instant::FAR_FUTURE
        } else {
            now + self.options.admin_timeout
        };
        self.commands[index] = Some(AdminCommand { purpose, deadline });
        self.rings.push(&entry);
        self.rings.ring_tail();
        true
    }

    /// The data that an admin command left in the page of its slot.
    pub(super) fn page(&self, index: usize) -> Box<[u8; PAGE_BYTES]> {
        let mut data = Box::new([0; PAGE_BYTES]);
        self.pages.read_bytes(index * PAGE_BYTES, &mut *data);
        data
    }
}
