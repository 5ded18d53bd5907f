//! The model's queues: entries that are fetched, completions that are posted, doorbells in memory.

use rand::Rng;

use super::super::command::{Entry, FUSED_FIRST, FUSED_SECOND};
use super::super::rings::{COMPLETION_BYTES, ENTRY_BYTES};
use super::super::status::Status;
use super::machine::Machine;
use super::space::Unmapped;

pub(super) struct SubmissionQueue {
    pub(super) base: u64,
    pub(super) entries: u16,
    pub(super) head: u16,
    pub(super) tail: u16,
    pub(super) completion_queue: u16,
}

pub(super) struct CompletionQueue {
    pub(super) base: u64,
    pub(super) entries: u16,
    pub(super) head: u16,
    pub(super) tail: u16,
    pub(super) phase: bool,
    pub(super) vector: Option<u16>,
}

impl CompletionQueue {
    /// The host has taken all that was posted, as far as its doorbell says.
    pub(super) fn is_empty(&self) -> bool {
        self.head == self.tail
    }
}

/// A command that was fetched and not executed, with the second of its fused pair.
pub(super) struct Fetched {
    pub(super) queue: u16,
    pub(super) entry: Entry,
    pub(super) second: Option<Entry>,
}

/// A command that was executed and not completed.
pub(super) struct Executed {
    pub(super) queue: u16,
    pub(super) command_id: u16,
    pub(super) result: u32,
    pub(super) status: Status,
}

/// Command ids that the host may not use, with their queues: their commands are not completed.
#[derive(Default)]
pub(super) struct Outstanding(Vec<(u16, u16)>);

impl Outstanding {
    /// False if it is there already.
    fn insert(&mut self, queue: u16, id: u16) -> bool {
        match self.0.binary_search(&(queue, id)) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, (queue, id));
                true
            }
        }
    }

    fn remove(&mut self, queue: u16, id: u16) {
        if let Ok(at) = self.0.binary_search(&(queue, id)) {
            self.0.remove(at);
        }
    }

    fn has(&self, queue: u16, id: u16) -> bool {
        self.0.binary_search(&(queue, id)).is_ok()
    }

    /// How many there are of one queue.
    fn count(&self, queue: u16) -> usize {
        self.0.partition_point(|(number, _)| *number <= queue)
            - self.0.partition_point(|(number, _)| *number < queue)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Machine {
    pub(super) fn create_completion_queue(
        &mut self,
        number: u16,
        base: u64,
        entries: u16,
        vector: Option<u16>,
    ) {
        let queue = CompletionQueue { base, entries, head: 0, tail: 0, phase: true, vector };
        self.completions.insert(number, queue);
    }

    pub(super) fn create_submission_queue(
        &mut self,
        number: u16,
        base: u64,
        entries: u16,
        completion_queue: u16,
    ) {
        let queue = SubmissionQueue { base, entries, head: 0, tail: 0, completion_queue };
        self.submissions.insert(number, queue);
    }

    /// Where the doorbell of a queue is in the buffers.
    fn shadow_of(&self, number: u16, completions: bool) -> Option<[u64; 2]> {
        let stride = 4_u64 << self.options.doorbell_stride;
        let offset = (2 * u64::from(number) + u64::from(completions)) * stride;
        self.shadow.filter(|_| number > 0).map(|buffers| buffers.map(|buffer| buffer + offset))
    }

    /// Reads a doorbell from memory, after its event index was set to `seen`.
    fn shadow_doorbell(&mut self, number: u16, completions: bool, seen: Option<u16>) -> Option<u16> {
        let [value, event] = self.shadow_of(number, completions)?;
        let mut bytes = [0; 4];
        let written = seen.map_or(Ok(()), |seen| self.space.write(event, &u32::from(seen).to_le_bytes()));
        if let Err(Unmapped(address)) = written.and_then(|()| self.space.read(value, &mut bytes)) {
            self.violation(format!("a doorbell in memory at {address:#x}, which is not mapped"));
            return None;
        }
        u16::try_from(u32::from_le_bytes(bytes)).ok()
    }

    /// Looks at the doorbells of queues that are awake. One with nothing in it falls asleep, once
    /// its event index says so and the doorbell still has not moved.
    pub(super) fn look_at_shadows(&mut self) {
        for number in self.awake.clone() {
            let Some(queue) = self.submissions.get(&number) else { continue };
            let seen = (queue.head == queue.tail).then_some(queue.tail);
            let Some(tail) = self.shadow_doorbell(number, false, seen) else { continue };
            if seen == Some(tail) {
                self.awake.remove(&number);
            }
            match self.submissions.get_mut(&number) {
                Some(queue) if tail < queue.entries => queue.tail = tail,
                _ => self.violation(format!("{tail} is in the doorbell of queue {number} in memory")),
            }
        }
    }

    fn entry_at(&self, base: u64, at: u16) -> Result<Entry, Unmapped> {
        let mut bytes = [0; ENTRY_BYTES];
        self.space.read(base + u64::from(at) * ENTRY_BYTES as u64, &mut bytes)?;
        let mut words = [0; 16];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Ok(Entry { words })
    }

    /// Takes the next entry of a submission queue: false if there is none.
    fn next_entry(&mut self, number: u16) -> Option<Entry> {
        let queue = self.submissions.get(&number)?;
        if queue.head == queue.tail {
            return None;
        }
        let (base, at, entries) = (queue.base, queue.head, queue.entries);
        let entry = match self.entry_at(base, at) {
            Ok(entry) => entry,
            Err(Unmapped(address)) => {
                self.violation(format!("a submission queue at {address:#x}, which is not mapped"));
                self.is_fatal = true;
                return None;
            }
        };
        if let Some(queue) = self.submissions.get_mut(&number) {
            queue.head = if at + 1 == entries { 0 } else { at + 1 };
        }
        Some(entry)
    }

    pub(super) fn fetch(&mut self, number: u16) -> bool {
        let Some(entry) = self.next_entry(number) else { return false };
        if !self.accept(number, &entry) {
            return true;
        }
        let mut second = None;
        if entry.words[0] & FUSED_FIRST != 0 {
            match self.next_entry(number) {
                Some(next) if next.words[0] & FUSED_SECOND != 0 && self.accept(number, &next) => {
                    second = Some(next);
                }
                other => {
                    self.violation("the first of two fused commands without the second");
                    self.finish(number, &entry, Status::new(0, 0x0a));
                    if let Some(other) = other {
                        self.finish(number, &other, Status::new(0, 0x0a));
                    }
                    return true;
                }
            }
        }
        self.fetched.push(Fetched { queue: number, entry, second });
        true
    }

    /// Refuses a command whose id is in use.
    fn accept(&mut self, queue: u16, entry: &Entry) -> bool {
        let fresh = self.outstanding.insert(queue, entry.command_id());
        if !fresh {
            self.violation(format!("command id {:#x} of queue {queue} is in use", entry.command_id()));
            self.finish(queue, entry, Status::new(0, 0x03));
        }
        let places = self.submissions.get(&queue).map_or(0, |queue| queue.entries) - 1;
        if self.outstanding.count(queue) > usize::from(places) {
            self.violation(format!("queue {queue} has more commands than places for their completions"));
        }
        fresh
    }

    pub(super) fn finish(&mut self, queue: u16, entry: &Entry, status: Status) {
        self.finish_with(queue, entry, status, 0);
    }

    pub(super) fn finish_with(&mut self, queue: u16, entry: &Entry, status: Status, result: u32) {
        self.done.push(Executed { queue, command_id: entry.command_id(), result, status });
    }

    /// Posts a completion; false if its queue is full.
    pub(super) fn complete(&mut self, at: usize) -> bool {
        let (queue, noise) = (self.done[at].queue, self.options.noise);
        let Some(completion_queue) = self.submissions.get(&queue).map(|queue| queue.completion_queue) else {
            self.done.swap_remove(at);
            return true;
        };
        let head = self.completions.get(&completion_queue).map(|queue| queue.head);
        if let Some(head) = self.shadow_doorbell(completion_queue, true, head)
            && let Some(queue) = self.completions.get_mut(&completion_queue)
        {
            queue.head = head.min(queue.entries - 1);
        }
        if self.room(completion_queue) == 0 {
            return false;
        }
        let executed = self.done.remove(at);
        let head = self.submissions.get(&queue).map_or(0, |queue| queue.head);
        self.outstanding.remove(queue, executed.command_id);
        let words = |queue: u16, head: u16, id: u16, status: Status| {
            [
                executed.result,
                0,
                u32::from(head) | u32::from(queue) << 16,
                u32::from(id) | u32::from(status.field()) << 17,
            ]
        };
        let right = words(queue, head, executed.command_id, executed.status);
        self.post(completion_queue, right);
        // A host leaves room for as many completions as it has commands out, and no more.
        let spare = self.outstanding.count(queue);
        let mut extra = Vec::new();
        if self.chance(noise.duplicates) {
            extra.push(right);
        }
        if self.chance(noise.unknown) {
            let id = self.random.random();
            if !self.outstanding.has(queue, id) {
                extra.push(words(queue, head, id, Status::SUCCESS));
            }
        }
        if self.chance(noise.wrong) {
            let entries = self.submissions.get(&queue).map_or(0, |queue| queue.entries);
            let head = if self.random.random_bool(0.5) { entries } else { u16::MAX };
            extra.push(words(queue ^ 0x55, head, executed.command_id, Status::SUCCESS));
        }
        for words in extra {
            if queue != 0 && usize::from(self.room(completion_queue)) > spare {
                self.post(completion_queue, words);
            }
        }
        true
    }

    /// How many completions the host has room for.
    fn room(&self, number: u16) -> u16 {
        self.completions.get(&number).map_or(0, |queue| {
            let used = if queue.tail >= queue.head {
                queue.tail - queue.head
            } else {
                queue.tail + queue.entries - queue.head
            };
            queue.entries - 1 - used
        })
    }

    fn post(&mut self, number: u16, mut words: [u32; 4]) {
        let Some(queue) = self.completions.get_mut(&number) else { return };
        words[3] |= u32::from(queue.phase) << 16;
        let at = queue.base + u64::from(queue.tail) * COMPLETION_BYTES as u64;
        queue.tail += 1;
        if queue.tail == queue.entries {
            queue.tail = 0;
            queue.phase = !queue.phase;
        }
        let vector = queue.vector;
        if let Err(Unmapped(address)) = self.space.post(at, words) {
            self.violation(format!("a completion queue at {address:#x}, which is not mapped"));
        }
        // Not before the completion is there.
        vector.into_iter().for_each(|vector| self.interrupt(vector));
    }

    pub(super) fn report_event(&mut self, event: u32) {
        self.events.push_back(event);
        self.answer_events();
    }

    /// Gives events to requests, as long as there are both.
    pub(super) fn answer_events(&mut self) {
        while !self.events.is_empty()
            && let Some(command_id) = self.event_requests.pop_front()
        {
            let result = self.events.pop_front().unwrap_or_default();
            self.done.push(Executed { queue: 0, command_id, result, status: Status::SUCCESS });
        }
    }
}
