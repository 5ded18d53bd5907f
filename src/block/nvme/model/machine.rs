//! The model's registers and queues, and what it does next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::command::{Entry, FUSED_FIRST, FUSED_SECOND};
use super::super::registers::{
    ACQ, AQA, ASQ, CAP, CC, CC_ENABLE, CC_SHUTDOWN_MASK, CSTS, CSTS_FATAL, CSTS_READY,
    CSTS_SHUTDOWN_COMPLETE, DOORBELLS, INTMC, INTMS, VS, halves,
};
use super::super::rings::{COMPLETION_BYTES, ENTRY_BYTES};
use super::super::status::Status;
use super::disk::Disk;
use super::options::ModelOptions;
use super::space::{Space, Unmapped};

pub(super) const VERSION: u32 = 0x2_0000;
const MAX_VIOLATIONS: usize = 16;
/// No schedule needs more steps than this to settle.
const MAX_SETTLING: usize = 1 << 20;

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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    Stopped,
    /// It becomes ready in so many steps; `None` is never.
    Starting(Option<u32>),
    Running,
    Stopping(u32),
    /// CSTS.SHST says that it is shut down.
    ShutDown,
    /// It does nothing; `stuck` is whether a reset helps not either.
    Hung {
        stuck: bool,
    },
}

pub(super) struct Machine {
    pub(super) options: ModelOptions,
    pub(super) random: StdRng,
    pub(super) space: Space,
    pub(super) disks: Vec<Disk>,
    power: Power,
    fatal: bool,
    pub(super) removed: bool,
    configuration: u32,
    admin_attributes: u32,
    admin_bases: [u64; 2],
    pub(super) submissions: BTreeMap<u16, SubmissionQueue>,
    pub(super) completions: BTreeMap<u16, CompletionQueue>,
    pub(super) fetched: Vec<Fetched>,
    pub(super) done: Vec<Executed>,
    /// Command ids that the host may not use: their commands are not completed.
    pub(super) outstanding: BTreeSet<(u16, u16)>,
    pub(super) event_requests: VecDeque<u16>,
    pub(super) events: VecDeque<u32>,
    pub(super) changed: Vec<u32>,
    pub(super) queues_granted: bool,
    pub(super) cache_enabled: bool,
    /// Where doorbells and event indices are in memory, if the host said so.
    pub(super) shadow: Option<[u64; 2]>,
    /// Submission queues whose doorbells in memory are looked at.
    awake: BTreeSet<u16>,
    pub(super) failures: VecDeque<(u8, Status)>,
    pub(super) bad_blocks: BTreeMap<(u32, u64), Status>,
    pub(super) interrupts: BTreeSet<u16>,
    pub(super) violations: Vec<String>,
    pub(super) executed: u64,
}

impl Machine {
    pub(super) fn new(options: ModelOptions, seed: u64) -> Self {
        let disks =
            options.namespaces.iter().map(|format| Disk::new(*format, options.volatile_cache)).collect();
        Self {
            random: StdRng::seed_from_u64(seed),
            space: Space::default(),
            disks,
            power: Power::Stopped,
            fatal: false,
            removed: false,
            configuration: 0,
            admin_attributes: 0,
            admin_bases: [0; 2],
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            fetched: Vec::new(),
            done: Vec::new(),
            outstanding: BTreeSet::new(),
            event_requests: VecDeque::new(),
            events: VecDeque::new(),
            changed: Vec::new(),
            queues_granted: false,
            cache_enabled: true,
            shadow: None,
            awake: BTreeSet::new(),
            failures: VecDeque::new(),
            bad_blocks: BTreeMap::new(),
            interrupts: BTreeSet::new(),
            violations: Vec::new(),
            executed: 0,
            options,
        }
    }

    pub(super) fn violation(&mut self, what: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(what.into());
        }
    }

    /// True in so many of 1000 cases.
    pub(super) fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.random.random_range(0..1000) < per_mille
    }

    // Registers.

    pub(super) fn read32(&mut self, offset: usize) -> u32 {
        if self.removed {
            return u32::MAX;
        }
        let [cap_low, cap_high] = halves(self.capabilities());
        match offset {
            CAP => cap_low,
            0x04 => cap_high,
            VS => VERSION,
            CC => self.configuration,
            CSTS => {
                self.change_power();
                self.status()
            }
            AQA => self.admin_attributes,
            _ => 0,
        }
    }

    fn capabilities(&self) -> u64 {
        let entries = u64::from(self.options.max_queue_entries - 1);
        let timeout = u64::from(self.options.timeout) << 24;
        entries | 1 << 16 | timeout | u64::from(self.options.doorbell_stride) << 32 | 1 << 37 | 4 << 52
    }

    fn status(&self) -> u32 {
        let ready = match self.power {
            Power::Running | Power::Stopping(_) | Power::Hung { .. } => CSTS_READY,
            Power::ShutDown => CSTS_READY | CSTS_SHUTDOWN_COMPLETE,
            Power::Stopped | Power::Starting(_) => 0,
        };
        ready | if self.fatal { CSTS_FATAL } else { 0 }
    }

    pub(super) fn write32(&mut self, offset: usize, value: u32) {
        if self.removed {
            return;
        }
        let set_half = |whole: &mut u64, upper: bool| {
            let [low, high] = halves(*whole);
            let [low, high] = if upper { [low, value] } else { [value, high] };
            *whole = u64::from(low) | u64::from(high) << 32;
        };
        match offset {
            CC => self.configure(value),
            AQA => self.admin_attributes = value,
            ASQ => set_half(&mut self.admin_bases[0], false),
            0x2c => set_half(&mut self.admin_bases[0], true),
            ACQ => set_half(&mut self.admin_bases[1], false),
            0x34 => set_half(&mut self.admin_bases[1], true),
            INTMS | INTMC => {}
            DOORBELLS.. => self.doorbell(offset - DOORBELLS, value),
            _ => self.violation(format!("a write of {value:#x} to register {offset:#x}")),
        }
    }

    fn configure(&mut self, value: u32) {
        let was = self.configuration;
        self.configuration = value;
        if was & CC_ENABLE == 0 && value & CC_ENABLE != 0 {
            if !matches!(self.power, Power::Stopped) {
                self.violation("CC.EN is set while CSTS.RDY is 1");
            }
            self.start();
        } else if was & CC_ENABLE != 0 && value & CC_ENABLE == 0 {
            if matches!(self.power, Power::Starting(Some(_))) {
                self.violation("CC.EN is cleared while CSTS.RDY is 0");
            }
            self.stop();
        } else if value & CC_SHUTDOWN_MASK != 0 && matches!(self.power, Power::Running) {
            self.disks.iter_mut().for_each(Disk::flush);
            self.power = Power::ShutDown;
        }
    }

    fn start(&mut self) {
        if matches!(self.power, Power::Hung { stuck: true }) {
            return;
        }
        let [low, high] = [self.admin_attributes & 0xfff, self.admin_attributes >> 16 & 0xfff];
        let entries = |last: u32| u16::try_from(last + 1).expect("twelve bits and one");
        if !self.admin_bases.iter().all(|base| base.is_multiple_of(4096)) {
            self.violation("admin queues are not aligned to pages");
        }
        self.create_completion_queue(0, self.admin_bases[1], entries(high), Some(0));
        self.create_submission_queue(0, self.admin_bases[0], entries(low), 0);
        self.power = Power::Starting(self.options.ready_steps);
    }

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

    /// A controller level reset: some of what was under way happens, some does not.
    fn stop(&mut self) {
        for command in std::mem::take(&mut self.fetched) {
            if self.random.random_bool(0.5) && !self.fatal {
                self.execute_partly(&command);
            }
        }
        self.forget();
        self.fatal = false;
        self.power = match self.power {
            Power::Hung { stuck: true } => Power::Hung { stuck: true },
            Power::Starting(None) => Power::Stopped,
            _ => Power::Stopping(self.options.ready_steps.unwrap_or(0)),
        };
    }

    /// Everything that a reset clears.
    fn forget(&mut self) {
        self.submissions.clear();
        self.completions.clear();
        self.fetched.clear();
        self.done.clear();
        self.outstanding.clear();
        self.event_requests.clear();
        self.queues_granted = false;
        self.shadow = None;
        self.awake.clear();
    }

    pub(super) fn cut_power(&mut self) {
        self.forget();
        self.configuration = 0;
        self.fatal = false;
        self.power = Power::Stopped;
        self.events.clear();
        for disk in &mut self.disks {
            disk.cut_power(&mut self.random);
        }
    }

    pub(super) fn fatal(&mut self) {
        self.fatal = true;
        // A controller that failed has lost its cache, or not.
        for disk in &mut self.disks {
            disk.cut_power(&mut self.random);
        }
    }

    pub(super) fn hang(&mut self, stuck: bool) {
        self.power = Power::Hung { stuck };
    }

    /// Comes a step nearer to being ready, or to not being so. False if neither is due.
    fn change_power(&mut self) -> bool {
        self.power = match self.power {
            Power::Starting(Some(0)) => Power::Running,
            Power::Starting(Some(left)) => Power::Starting(Some(left - 1)),
            Power::Stopping(0) => Power::Stopped,
            Power::Stopping(left) => Power::Stopping(left - 1),
            _ => return false,
        };
        true
    }

    fn doorbell(&mut self, offset: usize, value: u32) {
        if !matches!(self.power, Power::Running | Power::ShutDown) {
            // Cores that have not noticed a reset yet do that.
            return;
        }
        let index = offset / (4 << self.options.doorbell_stride);
        let number = u16::try_from(index / 2).unwrap_or(u16::MAX);
        let value = u16::try_from(value).unwrap_or(u16::MAX);
        let known = if index.is_multiple_of(2) {
            self.submissions
                .get_mut(&number)
                .filter(|queue| value < queue.entries)
                .map(|queue| queue.tail = value)
        } else {
            self.completions
                .get_mut(&number)
                .filter(|queue| value < queue.entries)
                .map(|queue| queue.head = value)
        };
        if known.is_none() {
            self.violation(format!("{value} is written to doorbell {index}"));
            self.report_event(0x0001_0000);
        }
        if index.is_multiple_of(2) && number > 0 && self.shadow.is_some() {
            self.awake.insert(number);
        }
        if self.options.immediate {
            self.settle_in_order();
        } else if index.is_multiple_of(2) && self.random.random_bool(0.5) && self.works() {
            // Some controllers fetch before the write of the doorbell has returned.
            self.fetch(number);
        }
    }

    // What it does.

    fn works(&self) -> bool {
        !self.removed && !self.fatal && matches!(self.power, Power::Running | Power::ShutDown)
    }

    pub(super) fn step(&mut self) -> bool {
        if self.removed || self.change_power() {
            return !self.removed;
        }
        if !self.works() {
            return false;
        }
        let noise = self.options.noise;
        if self.chance(noise.spurious_interrupts) {
            self.interrupts.extend(self.completions.values().filter_map(|queue| queue.vector).next_back());
        }
        self.look_at_shadows();
        let first = self.random.random_range(0..3);
        (0..3).any(|number| match (first + number) % 3 {
            0 => {
                let queues: Vec<u16> = self
                    .submissions
                    .iter()
                    .filter(|(_, queue)| queue.head != queue.tail)
                    .map(|(&number, _)| number)
                    .collect();
                let number = pick(&mut self.random, queues.len()).map(|at| queues[at]);
                number.is_some_and(|number| self.fetch(number))
            }
            1 => pick(&mut self.random, self.fetched.len()).is_some_and(|at| {
                let command = self.fetched.swap_remove(at);
                self.execute(&command);
                true
            }),
            _ => pick(&mut self.random, self.done.len()).is_some_and(|at| self.complete(at)),
        })
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..MAX_SETTLING {
            if !self.step() {
                break;
            }
        }
    }

    fn settle_in_order(&mut self) {
        if !self.works() {
            return;
        }
        let numbers: Vec<u16> = self.submissions.keys().copied().collect();
        for number in numbers {
            while self.fetch(number) {
                while let Some(command) = self.fetched.pop() {
                    self.execute(&command);
                }
            }
        }
        while !self.done.is_empty() && self.complete(0) {}
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
    fn look_at_shadows(&mut self) {
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
                self.fatal = true;
                return None;
            }
        };
        if let Some(queue) = self.submissions.get_mut(&number) {
            queue.head = if at + 1 == entries { 0 } else { at + 1 };
        }
        Some(entry)
    }

    fn fetch(&mut self, number: u16) -> bool {
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
        let fresh = self.outstanding.insert((queue, entry.command_id()));
        if !fresh {
            self.violation(format!("command id {:#x} of queue {queue} is in use", entry.command_id()));
            self.finish(queue, entry, Status::new(0, 0x03));
        }
        let places = self.submissions.get(&queue).map_or(0, |queue| queue.entries) - 1;
        if self.outstanding.range((queue, 0)..=(queue, u16::MAX)).count() > usize::from(places) {
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
        self.outstanding.remove(&(queue, executed.command_id));
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
        let spare = self.outstanding.iter().filter(|(number, _)| *number == queue).count();
        let mut extra = Vec::new();
        if self.chance(noise.duplicates) {
            extra.push(right);
        }
        if self.chance(noise.unknown) {
            let id = self.random.random();
            if !self.outstanding.contains(&(queue, id)) {
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
        self.interrupts.extend(queue.vector);
        if let Err(Unmapped(address)) = self.space.post(at, words) {
            self.violation(format!("a completion queue at {address:#x}, which is not mapped"));
        }
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

fn pick(random: &mut StdRng, len: usize) -> Option<usize> {
    (len > 0).then(|| random.random_range(0..len))
}
