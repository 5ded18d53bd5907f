//! What a controller is asked between being ready and being used, one question after the other.

use super::super::command::{Completion, Entry, admin, cns, feature};
use super::super::identify::{ControllerIdentity, NamespaceIdentity};
use super::super::registers::Registers;
use super::{Controller, Phase, Purpose};
use crate::error::{Error, ErrorKind};
use crate::rt::Instant;

/// The most namespaces of one controller: what one page of the list names.
const MAX_NAMESPACES: usize = 1024;
/// From this version on there is a list of active namespaces.
const VERSION_1_1: u32 = 0x1_0100;
/// All critical warnings, and changes of namespaces, as bits of the event configuration.
const HEALTH_EVENTS: u32 = 0x1f;
const NAMESPACE_EVENTS: u32 = 1 << 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Controller,
    SetWriteCache,
    WriteCache,
    QueueCount,
    DoorbellBuffers,
    EventConfiguration,
    ActiveNamespaces,
    Namespace(u32),
}

impl<R: Registers + Clone> Controller<R> {
    /// Asks the question of `step`.
    pub(super) fn bring_up(&mut self, step: Step, now: Instant) {
        let none = Entry::new(admin::IDENTIFY, 0);
        let (entry, data) = match step {
            Step::Controller => (none.with(10, cns::CONTROLLER), true),
            Step::SetWriteCache => {
                let enabled = u32::from(self.options.write_cache == Some(true));
                let entry = Entry::new(admin::SET_FEATURES, 0);
                (entry.with(10, feature::VOLATILE_WRITE_CACHE).with(11, enabled), false)
            }
            Step::WriteCache => {
                (Entry::new(admin::GET_FEATURES, 0).with(10, feature::VOLATILE_WRITE_CACHE), false)
            }
            Step::QueueCount => {
                let last = u32::from(self.options.queue_pairs.max(1) - 1);
                let entry = Entry::new(admin::SET_FEATURES, 0);
                (entry.with(10, feature::NUMBER_OF_QUEUES).with(11, last | last << 16), false)
            }
            Step::DoorbellBuffers => {
                let [values, events] = self.shadow.device_addresses();
                (Entry::new(admin::DOORBELL_BUFFER_CONFIG, 0).data(values, events), false)
            }
            Step::EventConfiguration => {
                let notices = self.identity.as_ref().is_some_and(|identity| identity.namespace_notices);
                let events = HEALTH_EVENTS | if notices { NAMESPACE_EVENTS } else { 0 };
                let entry = Entry::new(admin::SET_FEATURES, 0);
                (entry.with(10, feature::ASYNC_EVENT_CONFIGURATION).with(11, events), false)
            }
            Step::ActiveNamespaces => (none.with(10, cns::ACTIVE_NAMESPACES), true),
            Step::Namespace(number) => (Entry::new(admin::IDENTIFY, number).with(10, cns::NAMESPACE), true),
        };
        if !self.send(entry, data, Purpose::BringUp(step), now) {
            self.refuse(&Error::new(ErrorKind::LimitReached, "bring up controller"));
        }
    }

    /// The controller answered the question of `step`.
    pub(super) fn brought_up(&mut self, step: Step, index: usize, completion: &Completion, now: Instant) {
        if self.phase != Phase::Identifying {
            return;
        }
        let status = completion.status;
        let optional = matches!(
            step,
            Step::SetWriteCache | Step::WriteCache | Step::DoorbellBuffers | Step::EventConfiguration
        );
        if !status.is_success() && !optional {
            self.refuse(&status.error("bring up controller", false));
            return;
        }
        let next = match step {
            Step::Controller => {
                let identity = ControllerIdentity::parse(
                    &self.page(index),
                    self.capabilities.page_shifts[0],
                    self.version(),
                );
                match identity {
                    Err(error) => {
                        self.refuse(&error);
                        return;
                    }
                    Ok(identity) => {
                        let cache = identity.volatile_cache;
                        self.volatile_cache = cache;
                        self.identity = Some(identity);
                        match (cache, self.options.write_cache) {
                            (true, Some(_)) => Step::SetWriteCache,
                            (true, None) => Step::WriteCache,
                            (false, _) => Step::QueueCount,
                        }
                    }
                }
            }
            Step::SetWriteCache => Step::WriteCache,
            Step::WriteCache => {
                // A cache that does not say whether it is on is taken to be on.
                self.volatile_cache = !status.is_success() || completion.result & 1 == 1;
                Step::QueueCount
            }
            Step::QueueCount => {
                let [low, high, completion_low, completion_high] = completion.result.to_le_bytes();
                let granted = u16::from_le_bytes([low, high])
                    .min(u16::from_le_bytes([completion_low, completion_high]));
                self.queue_pairs = granted.saturating_add(1).min(self.options.queue_pairs.max(1));
                let shadowed = self.identity.as_ref().is_some_and(|identity| identity.shadow_doorbells);
                if shadowed { Step::DoorbellBuffers } else { Step::EventConfiguration }
            }
            Step::DoorbellBuffers => {
                self.is_shadowed = status.is_success();
                Step::EventConfiguration
            }
            Step::EventConfiguration if self.version() >= VERSION_1_1 => Step::ActiveNamespaces,
            Step::EventConfiguration => {
                let count = self.identity.as_ref().map_or(0, |identity| identity.namespaces);
                self.unidentified.extend((1..=count).take(MAX_NAMESPACES));
                return self.next_namespace(now);
            }
            Step::ActiveNamespaces => {
                let numbers = namespace_list(&self.page(index));
                self.unidentified.extend(numbers);
                return self.next_namespace(now);
            }
            Step::Namespace(number) => {
                self.namespaces.extend(NamespaceIdentity::parse(&self.page(index), number));
                return self.next_namespace(now);
            }
        };
        self.bring_up(next, now);
    }

    fn next_namespace(&mut self, now: Instant) {
        match self.unidentified.pop_front() {
            Some(number) => self.bring_up(Step::Namespace(number), now),
            None => self.became_ready(now),
        }
    }
}

/// The numbers of a namespace list, which ends with a 0 if it is not full.
pub(super) fn namespace_list(page: &[u8; 4096]) -> Vec<u32> {
    let numbers = page.as_chunks().0.iter().map(|&number| u32::from_le_bytes(number));
    numbers.take_while(|&number| number != 0).collect()
}
