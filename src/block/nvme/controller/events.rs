//! Asynchronous events (Base 5.2): what a controller says without being asked.

use super::super::command::{Completion, Entry, admin, log_page};
use super::super::identify::HealthLog;
use super::super::registers::Registers;
use super::bring_up::namespace_list;
use super::{Controller, Purpose};
use crate::rt::Instant;

/// Something that happened to a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// It has stopped and touches no memory any more: what was in flight may be reported.
    Stopped,
    /// It takes requests. After a reset the I/O queues have to be created again.
    Ready,
    /// It does not work; [`Controller::failure`] says why. It may still write to the memory of what
    /// is in flight: reset its function from outside before that memory is used again.
    Failed,
    /// It is gone; it touches no memory any more.
    Removed,
    /// These namespaces changed; none are named if there were too many, or it did not say.
    NamespacesChanged(Vec<u32>),
    /// Its health changed: what it said, and the log page if it could be read.
    Health(&'static str, Option<Box<HealthLog>>),
    /// It met an error of its own or of ours.
    Error(&'static str),
    /// Something else, as dword 0 of the event's completion has it.
    Other(u32),
}

fn error_words(info: u8) -> &'static str {
    match info {
        0 => "a write to the doorbell of no queue",
        1 => "a write of an invalid value to a doorbell",
        2 => "a diagnostic failure",
        3 => "a persistent internal error",
        4 => "a transient internal error",
        5 => "a firmware image could not be loaded",
        _ => "an error without a name in NVMe 2.0",
    }
}

fn health_words(info: u8) -> &'static str {
    match info {
        0 => "the reliability of the NVM subsystem is degraded",
        1 => "the temperature is past a threshold",
        2 => "the spare capacity is below its threshold",
        _ => "its health changed",
    }
}

impl<R: Registers + Clone> Controller<R> {
    /// Keeps as many event requests with the controller as it takes, up to the option.
    pub(super) fn request_events(&mut self, now: Instant) {
        let limit = self.identity.as_ref().map_or(1, |identity| identity.async_event_limit);
        for _ in 0..self.options.async_events.min(limit) {
            self.request_event(now);
        }
    }

    fn request_event(&mut self, now: Instant) {
        // Without room the controller keeps the event until the next request.
        self.send(Entry::new(admin::ASYNC_EVENT_REQUEST, 0), false, Purpose::AsyncEvent, now);
    }

    pub(super) fn event(&mut self, completion: &Completion, now: Instant) {
        if !completion.status.is_success() {
            // More requests than it takes, or it was told to abort one: it is not asked again.
            return;
        }
        let [kind, info, page, _] = completion.result.to_le_bytes();
        // No more events of this type come until the log page was read.
        let clear = match (kind & 7, info) {
            (0, info) => {
                self.push_event(Event::Error(error_words(info)));
                Some(log_page::ERROR_INFORMATION)
            }
            (1, info) => {
                self.health = health_words(info);
                Some(log_page::HEALTH)
            }
            (2, 0) => Some(log_page::CHANGED_NAMESPACES),
            _ => {
                self.push_event(Event::Other(completion.result));
                (page != 0).then_some(page)
            }
        };
        if let Some(page) = clear {
            // The largest that is read: a page of memory; health has 512 bytes.
            let dwords = if page == log_page::CHANGED_NAMESPACES { 1024 } else { 128 };
            if !self.send(log(page, dwords), true, Purpose::EventLog(page), now) {
                self.event_log(page, None);
            }
        }
        self.request_event(now);
    }

    /// The log page of an event was read, into the page of the admin slot; without one it could not
    /// be.
    pub(super) fn event_log(&mut self, page: u8, read: Option<usize>) {
        match page {
            log_page::CHANGED_NAMESPACES => {
                let mut numbers = read.map_or(Vec::new(), |index| namespace_list(&self.page(index)));
                // All ones says that there are more than the list can name.
                numbers.retain(|&number| number != u32::MAX);
                self.push_event(Event::NamespacesChanged(numbers));
            }
            log_page::HEALTH => {
                let log = read.map(|index| Box::new(HealthLog::parse(&self.page(index))));
                self.push_event(Event::Health(self.health, log));
            }
            _ => {}
        }
    }
}

/// Get Log Page for the first `dwords` of `page`, of the controller.
pub(super) fn log(page: u8, dwords: u32) -> Entry {
    Entry::new(admin::GET_LOG_PAGE, u32::MAX).with(10, u32::from(page) | (dwords - 1) << 16)
}
