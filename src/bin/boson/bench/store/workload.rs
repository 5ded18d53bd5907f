//! What a load does, and in which order: the workloads of YCSB and those of `db_bench`. Shared with
//! `benches/peers`, so it uses nothing but the standard library and the numbers beside it.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::data::{ABSENT, KeyOrder};
use super::draw::{Random, ScrambledZipfian, Zipfian};

/// Declares an enum with a name for each variant, as it is written on the command line.
macro_rules! named {
    ($(#[$meta:meta])* $type:ident { $($(#[$about:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum $type { $($(#[$about])* $variant,)* }

        impl $type {
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|it| it.name() == text).ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|it| it.name()).collect();
                    format!("`{text}` is none of {}", names.join(", "))
                })
            }
        }
    };
}

named! {
    /// A load by its name. `a` to `f` have the mixes of YCSB's `workloads/workloada` to `f`.
    Workload {
        A = "a",
        B = "b",
        C = "c",
        D = "d",
        E = "e",
        F = "f",
        /// Every record once, keys ascending.
        FillSequential = "fill-sequential",
        /// Every record once, keys anywhere.
        FillRandom = "fill-random",
        Overwrite = "overwrite",
        ReadRandom = "read-random",
        /// Keys that are not there, among those that are.
        ReadMissing = "read-missing",
        /// One task overwrites, the others read.
        ReadWhileWriting = "read-while-writing",
        /// The first key at or after one that is not there.
        SeekRandom = "seek-random",
        /// A hundred records from a key on.
        Scan = "scan",
        /// Every record once, in no order.
        DeleteRandom = "delete-random",
    }
}

named! {
    Distribution {
        /// YCSB's: exponent 0.99, scrambled.
        Zipfian = "zipfian",
        Uniform = "uniform",
        /// Zipfian from the newest record backwards.
        Latest = "latest",
    }
}

named! {
    /// Kinds of operations, each of which has its own latencies.
    Kind {
        Read = "read",
        Missing = "missing",
        Update = "update",
        Insert = "insert",
        Modify = "modify",
        Scan = "scan",
        Seek = "seek",
        Delete = "delete",
    }
}

/// YCSB's `maxscanlength`, and the length of the load `scan`.
const SCAN_LENGTH: u64 = 100;

impl Workload {
    /// How many of a hundred operations are of each kind.
    fn mix(self, task: u64) -> &'static [(Kind, u64)] {
        match self {
            Self::A => &[(Kind::Read, 50), (Kind::Update, 50)],
            Self::B => &[(Kind::Read, 95), (Kind::Update, 5)],
            Self::C | Self::ReadRandom => &[(Kind::Read, 100)],
            Self::D => &[(Kind::Read, 95), (Kind::Insert, 5)],
            Self::E => &[(Kind::Scan, 95), (Kind::Insert, 5)],
            Self::F => &[(Kind::Read, 50), (Kind::Modify, 50)],
            Self::FillSequential | Self::FillRandom => &[(Kind::Insert, 100)],
            Self::Overwrite => &[(Kind::Update, 100)],
            Self::ReadWhileWriting if task == 0 => &[(Kind::Update, 100)],
            Self::ReadWhileWriting => &[(Kind::Read, 100)],
            Self::ReadMissing => &[(Kind::Missing, 100)],
            Self::SeekRandom => &[(Kind::Seek, 100)],
            Self::Scan => &[(Kind::Scan, 100)],
            Self::DeleteRandom => &[(Kind::Delete, 100)],
        }
    }

    /// Whether it goes over the records once, and starts with a store that has none (fills) or all
    /// of them (deletes).
    pub(super) fn is_one_pass(self) -> bool {
        self.fills() || self == Self::DeleteRandom
    }

    /// Whether it starts with an empty store.
    pub(super) fn fills(self) -> bool {
        matches!(self, Self::FillSequential | Self::FillRandom)
    }

    pub(super) fn key_order(self) -> KeyOrder {
        if self == Self::FillSequential { KeyOrder::Ascending } else { KeyOrder::Scattered }
    }

    /// What it draws records by if nothing else is said.
    pub(super) fn distribution(self) -> Distribution {
        match self {
            Self::A | Self::B | Self::C | Self::E | Self::F => Distribution::Zipfian,
            Self::D => Distribution::Latest,
            _ => Distribution::Uniform,
        }
    }
}

/// What every task does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) workload: Workload,
    pub(super) distribution: Distribution,
    /// How many records there are at the start, or are to be filled in.
    pub(super) records: u64,
    /// Ends after this many operations of all tasks together; a batch counts by its records.
    pub(super) operations: Option<u64>,
    /// How many records a write of a fill or of `overwrite` has, at least 1.
    pub(super) batch: u64,
    pub(super) tasks: u64,
    pub(super) seed: u64,
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Kind,
    /// The record's number; of a batch the first one's.
    pub(super) number: u64,
    /// How many records it writes, one after the other by their numbers, or is to find at most.
    pub(super) length: u64,
}

/// What the tasks of a run share: which records there are.
#[derive(Debug)]
pub(super) struct Population {
    /// The number of the next record that is to be inserted.
    next: AtomicU64,
    /// Records below this are there.
    present: AtomicU64,
    /// Others that are there, until those before them are.
    ahead: Mutex<BTreeSet<u64>>,
    /// Where a load that goes over the records once is.
    pass: AtomicU64,
}

impl Population {
    pub(super) fn new(records: u64) -> Self {
        Self {
            next: AtomicU64::new(records),
            present: AtomicU64::new(records),
            ahead: Mutex::default(),
            pass: AtomicU64::new(0),
        }
    }

    /// The insertion of record `number` was acknowledged: it may be drawn from now on.
    pub(super) fn inserted(&self, number: u64) {
        let mut ahead = self.ahead.lock().expect("nothing panics while it holds this");
        ahead.insert(number);
        let mut present = self.present.load(Ordering::Acquire);
        while ahead.remove(&present) {
            present += 1;
        }
        self.present.store(present, Ordering::Release);
    }

    fn present(&self) -> u64 {
        self.present.load(Ordering::Acquire)
    }

    /// The next records of one pass over `records`: the first one's number, and how many.
    fn take(&self, records: u64, most: u64) -> Option<(u64, u64)> {
        let first = self.pass.fetch_add(most, Ordering::Relaxed);
        (first < records).then(|| (first, most.min(records - first)))
    }
}

/// The operations of one task, in order: the same for the same seed, task and plan, as long as the
/// tasks' insertions come in the same order.
#[derive(Debug)]
pub(super) struct Steps {
    plan: Plan,
    population: Arc<Population>,
    mix: &'static [(Kind, u64)],
    random: Random,
    scrambled: ScrambledZipfian,
    /// Only where the newest records are drawn.
    latest: Option<Zipfian>,
    left: u64,
}

impl Steps {
    /// Those of each of the plan's tasks.
    pub(super) fn of_all(plan: &Plan, population: &Arc<Population>) -> Vec<Self> {
        let latest = (plan.distribution == Distribution::Latest).then(|| Zipfian::new(plan.records));
        let share = |task: u64| {
            plan.operations.map_or(u64::MAX, |all| all / plan.tasks + u64::from(task < all % plan.tasks))
        };
        let steps = |task| Self {
            plan: *plan,
            population: Arc::clone(population),
            mix: plan.workload.mix(task),
            random: Random::new(plan.seed, task),
            scrambled: ScrambledZipfian::new(),
            latest: latest.clone(),
            left: share(task),
        };
        (0..plan.tasks).map(steps).collect()
    }

    /// The next one; `None` when there are no more.
    pub(super) fn next(&mut self) -> Option<Step> {
        let step = self.draw()?;
        let records = if step.kind == Kind::Scan || step.kind == Kind::Seek { 1 } else { step.length };
        self.left = self.left.checked_sub(records)?;
        Some(step)
    }

    fn draw(&mut self) -> Option<Step> {
        if self.left == 0 {
            return None;
        }
        let kind = self.kind();
        let step = |number, length| Some(Step { kind, number, length });
        let batch = self.plan.batch.min(self.left);
        match kind {
            Kind::Insert if self.plan.workload.fills() => {
                let (number, length) = self.population.take(self.plan.records, batch)?;
                step(number, length)
            }
            Kind::Insert => step(self.population.next.fetch_add(1, Ordering::Relaxed), 1),
            Kind::Delete => step(self.population.take(self.plan.records, 1)?.0, 1),
            Kind::Read | Kind::Modify => step(self.record(), 1),
            Kind::Update => {
                let first = self.record();
                step(first, batch.min(self.population.present() - first))
            }
            Kind::Missing => step(self.record() + ABSENT, 1),
            Kind::Seek => step(self.record() + ABSENT, 1),
            Kind::Scan if self.plan.workload == Workload::Scan => step(self.record(), SCAN_LENGTH),
            Kind::Scan => {
                let number = self.record();
                step(number, 1 + self.random.below(SCAN_LENGTH))
            }
        }
    }

    fn kind(&mut self) -> Kind {
        if let [(kind, _)] = self.mix {
            return *kind;
        }
        let mut drawn = self.random.below(100);
        for (kind, share) in self.mix {
            if drawn < *share {
                return *kind;
            }
            drawn -= share;
        }
        unreachable!("the shares of a mix add up to 100")
    }

    /// A record that is there.
    fn record(&mut self) -> u64 {
        let present = self.population.present();
        match self.plan.distribution {
            Distribution::Uniform => self.random.below(present),
            // Over the records that there were at first, so that the popular ones stay the same.
            // (YCSB adds those that it expects, and draws again where one is not there yet.)
            Distribution::Zipfian => self.scrambled.item(&mut self.random, self.plan.records),
            Distribution::Latest => {
                let latest = self.latest.as_mut().expect("made for this distribution");
                latest.grow(present);
                present - 1 - latest.rank(&mut self.random)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(workload: Workload) -> Plan {
        Plan {
            workload,
            distribution: workload.distribution(),
            records: 1000,
            operations: Some(100_000),
            batch: 1,
            tasks: 1,
            seed: 1,
        }
    }

    /// All steps of a run, of one task after the other; what is inserted is acknowledged at once.
    fn run(plan: &Plan) -> Vec<Step> {
        let population = Arc::new(Population::new(if plan.workload.fills() { 0 } else { plan.records }));
        let mut all = Vec::new();
        for mut steps in Steps::of_all(plan, &population) {
            while let Some(step) = steps.next() {
                if step.kind == Kind::Insert && !plan.workload.fills() {
                    population.inserted(step.number);
                }
                all.push(step);
            }
        }
        all
    }

    #[test]
    fn mixes_are_those_of_ycsb() {
        let cases = [
            (Workload::A, &[(Kind::Read, 50), (Kind::Update, 50)][..]),
            (Workload::B, &[(Kind::Read, 95), (Kind::Update, 5)][..]),
            (Workload::C, &[(Kind::Read, 100)][..]),
            (Workload::D, &[(Kind::Read, 95), (Kind::Insert, 5)][..]),
            (Workload::E, &[(Kind::Scan, 95), (Kind::Insert, 5)][..]),
            (Workload::F, &[(Kind::Read, 50), (Kind::Modify, 50)][..]),
        ];
        for (workload, mix) in cases {
            let steps = run(&plan(workload));
            assert_eq!(steps.len(), 100_000);
            for (kind, share) in mix {
                let found = steps.iter().filter(|step| step.kind == *kind).count();
                let expected: u64 = share * 1000;
                assert!(expected.abs_diff(found as u64) < 1000, "{workload:?}: {found} are {kind:?}");
            }
            assert!(steps.iter().all(|step| mix.iter().any(|(kind, _)| *kind == step.kind)));
        }
    }

    #[test]
    fn scans_of_e_have_1_to_100_records_each_as_often() {
        let mut lengths = [0; 101];
        let steps = run(&plan(Workload::E));
        let scans = steps.iter().filter(|step| step.kind == Kind::Scan);
        scans.for_each(|step| lengths[usize::try_from(step.length).expect("small")] += 1);
        assert_eq!(lengths[0], 0);
        assert!(lengths[1..].iter().all(|&count| (750..1150).contains(&count)), "{lengths:?}");
        assert!(run(&plan(Workload::Scan)).iter().all(|step| step.length == 100));
    }

    #[test]
    fn the_newest_record_is_the_most_frequent_and_none_is_drawn_before_it_is_there() {
        let plan = plan(Workload::D);
        let population = Arc::new(Population::new(plan.records));
        let mut steps = Steps::of_all(&plan, &population).pop().expect("one task");
        let (mut ages, mut drawn, mut pending) = (vec![0u32; 10_000], 0u32, None);
        while let Some(step) = steps.next() {
            if step.kind == Kind::Insert {
                // Acknowledged only when the next one is begun.
                pending.replace(step.number).into_iter().for_each(|number| population.inserted(number));
                continue;
            }
            assert!(step.number < population.present(), "record {} is not there yet", step.number);
            ages[usize::try_from(population.present() - 1 - step.number).expect("small")] += 1;
            drawn += 1;
        }
        // Between the ζ of 1,000 and of 6,000 records.
        let share = f64::from(ages[0]) / f64::from(drawn);
        assert!((0.105..0.135).contains(&share), "the newest one has a share of {share}");
        assert!(ages[0] > ages[1] && ages[1] > ages[3] && ages[3] > ages[30]);
    }

    #[test]
    fn a_record_is_there_when_all_before_it_are() {
        let population = Population::new(10);
        for (number, present) in [(12, 10), (11, 10), (10, 13), (14, 13), (13, 15)] {
            population.inserted(number);
            assert_eq!(population.present(), present, "after {number}");
        }
    }

    #[test]
    fn uniform_and_zipfian_draw_every_record_and_no_other() {
        for distribution in [Distribution::Uniform, Distribution::Zipfian] {
            let mut counts = vec![0; 1000];
            for step in run(&Plan { distribution, ..plan(Workload::C) }) {
                counts[usize::try_from(step.number).expect("small")] += 1;
            }
            assert!(counts.iter().all(|&count| count > 0), "{distribution:?}");
            let most = counts.iter().max().copied().unwrap_or(0);
            assert_eq!(most > 1000, distribution == Distribution::Zipfian, "{distribution:?}: {most}");
        }
    }

    #[test]
    fn one_pass_takes_every_record_once_in_batches_and_by_several_tasks() {
        for (workload, batch, tasks) in
            [(Workload::FillRandom, 1, 1), (Workload::FillSequential, 7, 3), (Workload::DeleteRandom, 1, 2)]
        {
            let plan = Plan { batch, tasks, operations: None, ..plan(workload) };
            let steps = run(&plan);
            let mut numbers: Vec<u64> =
                steps.iter().flat_map(|step| step.number..step.number + step.length).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..1000), "{workload:?}");
            assert_eq!(steps.len() as u64, 1000_u64.div_ceil(batch));
        }
    }

    #[test]
    fn operations_are_divided_and_no_batch_goes_beyond_them() {
        let plan = Plan { operations: Some(103), tasks: 4, batch: 10, ..plan(Workload::Overwrite) };
        let steps = run(&plan);
        assert_eq!(steps.iter().map(|step| step.length).sum::<u64>(), 103);
        assert!(steps.iter().all(|step| step.number + step.length <= 1000));
    }

    #[test]
    fn a_seed_gives_the_same_steps_and_another_one_others() {
        let plan = Plan { operations: Some(1000), tasks: 2, ..plan(Workload::E) };
        assert_eq!(run(&plan), run(&plan));
        assert_ne!(run(&plan), run(&Plan { seed: 2, ..plan }));
        let half: Vec<Step> = run(&plan);
        assert_ne!(half[..400], half[500..900], "tasks differ");
    }

    #[test]
    fn only_the_first_task_writes_while_others_read() {
        let plan = Plan { tasks: 3, operations: Some(300), ..plan(Workload::ReadWhileWriting) };
        let steps = run(&plan);
        assert!(steps[..100].iter().all(|step| step.kind == Kind::Update));
        assert!(steps[100..].iter().all(|step| step.kind == Kind::Read));
    }

    #[test]
    fn what_a_command_line_says_is_understood() {
        assert_eq!("fill-random".parse(), Ok(Workload::FillRandom));
        assert!("g".parse::<Workload>().is_err_and(|why| why.contains("delete-random")));
        assert_eq!("latest".parse(), Ok(Distribution::Latest));
    }
}
