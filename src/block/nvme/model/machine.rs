//! The model's registers and its power, and what it does next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::registers::{
    ACQ, AQA, ASQ, CAP, CC, CC_ENABLE, CC_SHUTDOWN_MASK, CSTS, CSTS_FATAL, CSTS_READY,
    CSTS_SHUTDOWN_COMPLETE, DOORBELLS, INTMC, INTMS, VS, halves,
};
use super::super::status::Status;
use super::disk::Disk;
use super::execute::Pieces;
use super::options::ModelOptions;
use super::queues::{CompletionQueue, Executed, Fetched, Outstanding, SubmissionQueue};
use super::space::Space;
use super::vectors::Vector;

pub(super) const VERSION: u32 = 0x2_0000;
const MAX_VIOLATIONS: usize = 16;
/// No schedule needs more steps than this to settle.
const MAX_SETTLING: usize = 1 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    Stopped,
    /// It becomes ready in this many steps; `None` is never.
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
    pub(super) is_fatal: bool,
    pub(super) removed: bool,
    configuration: u32,
    admin_attributes: u32,
    admin_bases: [u64; 2],
    pub(super) submissions: BTreeMap<u16, SubmissionQueue>,
    pub(super) completions: BTreeMap<u16, CompletionQueue>,
    pub(super) fetched: Vec<Fetched>,
    pub(super) done: Vec<Executed>,
    pub(super) outstanding: Outstanding,
    pub(super) event_requests: VecDeque<u16>,
    pub(super) events: VecDeque<u32>,
    pub(super) changed: Vec<u32>,
    pub(super) queues_granted: bool,
    /// It makes no I/O queues.
    pub(super) refuses_queues: bool,
    pub(super) cache_enabled: bool,
    /// Where doorbells and event indices are in memory, if the host said so.
    pub(super) shadow: Option<[u64; 2]>,
    /// Submission queues whose doorbells in memory are looked at.
    pub(super) awake: BTreeSet<u16>,
    pub(super) failures: VecDeque<(u8, Status)>,
    pub(super) bad_blocks: BTreeMap<(u32, u64), Status>,
    pub(super) vectors: BTreeMap<u16, Vector>,
    /// Masks that the host wrote and that are on their way.
    pub(super) masks: VecDeque<(u16, bool)>,
    pub(super) violations: Vec<String>,
    pub(super) executed: u64,
    /// How many writes of those carried the bit for forced unit access.
    pub(super) forced_writes: u64,
    pub(super) pauses: u64,
    /// Kept so that a command needs no new ones: the pieces of its memory, and its data.
    pub(super) pieces: Pieces,
    pub(super) data: Vec<u8>,
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
            is_fatal: false,
            removed: false,
            configuration: 0,
            admin_attributes: 0,
            admin_bases: [0; 2],
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            fetched: Vec::new(),
            done: Vec::new(),
            outstanding: Outstanding::default(),
            event_requests: VecDeque::new(),
            events: VecDeque::new(),
            changed: Vec::new(),
            queues_granted: false,
            refuses_queues: false,
            cache_enabled: true,
            shadow: None,
            awake: BTreeSet::new(),
            failures: VecDeque::new(),
            bad_blocks: BTreeMap::new(),
            vectors: BTreeMap::new(),
            masks: VecDeque::new(),
            violations: Vec::new(),
            executed: 0,
            forced_writes: 0,
            pauses: 0,
            pieces: Vec::new(),
            data: Vec::new(),
            options,
        }
    }

    pub(super) fn violation(&mut self, what: impl Into<String>) {
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(what.into());
        }
    }

    /// True in this many of 1000 cases.
    pub(super) fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.random.random_range(0..1000) < per_mille
    }

    // Registers.

    pub(super) fn read32(&mut self, offset: usize) -> u32 {
        if self.removed {
            return u32::MAX;
        }
        self.let_masks_arrive();
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
        ready | if self.is_fatal { CSTS_FATAL } else { 0 }
    }

    pub(super) fn write32(&mut self, offset: usize, value: u32) {
        if self.removed {
            return;
        }
        self.let_masks_arrive();
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

    /// A controller level reset: some of what was under way happens, some does not.
    fn stop(&mut self) {
        for command in std::mem::take(&mut self.fetched) {
            if self.random.random_bool(0.5) && !self.is_fatal {
                self.execute_partly(&command);
            }
        }
        self.forget();
        self.is_fatal = false;
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
        self.is_fatal = false;
        self.power = Power::Stopped;
        self.events.clear();
        self.reset_vectors();
        for disk in &mut self.disks {
            disk.cut_power(&mut self.random);
        }
    }

    pub(super) fn fatal(&mut self) {
        self.is_fatal = true;
        // A controller that failed has lost its cache, or not.
        for disk in &mut self.disks {
            disk.cut_power(&mut self.random);
        }
    }

    pub(super) fn hang(&mut self, stuck: bool) {
        self.power = Power::Hung { stuck };
    }

    pub(super) fn wake_up(&mut self) {
        if let Power::Hung { .. } = self.power {
            self.power = Power::Running;
        }
    }

    /// Takes a step towards being ready, or disabled. False if neither is due.
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
        // One that hangs sees them when it goes on.
        if !matches!(self.power, Power::Running | Power::ShutDown | Power::Hung { .. }) {
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
        !self.removed && !self.is_fatal && matches!(self.power, Power::Running | Power::ShutDown)
    }

    pub(super) fn step(&mut self) -> bool {
        if self.removed || self.change_power() {
            return !self.removed;
        }
        if !self.works() {
            return self.let_mask_arrive();
        }
        if !self.masks.is_empty() && self.random.random_bool(0.5) {
            return self.let_mask_arrive();
        }
        let noise = self.options.noise;
        if self.chance(noise.spurious_interrupts) {
            let vector = self.completions.values().filter_map(|queue| queue.vector).next_back();
            vector.into_iter().for_each(|vector| self.interrupt(vector));
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
        }) || self.let_mask_arrive()
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
        let mut from = 0;
        while let Some((&number, _)) = self.submissions.range(from..).next() {
            from = number.saturating_add(1);
            while self.fetch(number) {
                while let Some(command) = self.fetched.pop() {
                    self.execute(&command);
                }
            }
        }
        while !self.done.is_empty() && self.complete(0) {}
    }
}

fn pick(random: &mut StdRng, len: usize) -> Option<usize> {
    (len > 0).then(|| random.random_range(0..len))
}
