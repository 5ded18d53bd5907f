//! Many schedules of threads, by chance. Each run makes the same choices, so that a failure comes
//! again; shuttle prints its schedule.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

use super::super::defect::Defect;
use super::threads::{COLLAPSE, PACK, Program, SPLIT_AND_REMOVE, Small, run};

const SEED: u64 = 0x5eed;
const IDS: usize = 24;
const PAGES: usize = 6_000;

fn schedules(scheduler: impl Scheduler + 'static, program: Program, defect: Option<Defect>) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(60_000);
    Runner::new(scheduler, config).run(move || run(Small::new(IDS, PAGES, defect), program, 1));
}

#[test]
fn random_schedules() {
    for program in [SPLIT_AND_REMOVE, COLLAPSE, PACK] {
        schedules(RandomScheduler::new_from_seed(SEED, 10_000), program, None);
    }
}

#[test]
fn schedules_with_few_preemptions() {
    for program in [SPLIT_AND_REMOVE, COLLAPSE, PACK] {
        for depth in 1..=5 {
            schedules(PctScheduler::new_from_seed(SEED, depth, 2_000), program, None);
        }
    }
}

#[test]
fn each_broken_rule_is_noticed() {
    let defects = [
        (Defect::SkipEpochCheck, SPLIT_AND_REMOVE),
        (Defect::MergeHalf, SPLIT_AND_REMOVE),
        (Defect::SecondUnposted, SPLIT_AND_REMOVE),
        (Defect::FreeIdEarly, SPLIT_AND_REMOVE),
        (Defect::RemoveBlind, SPLIT_AND_REMOVE),
        (Defect::CollapseUnfrozen, COLLAPSE),
        (Defect::PostBlind, SPLIT_AND_REMOVE),
        (Defect::ScanWithoutBounds, SPLIT_AND_REMOVE),
        (Defect::PackHalfFrozen, PACK),
        (Defect::PackFreesEarly, PACK),
    ];
    let mut missed = Vec::new();
    for (defect, program) in defects {
        let search = || {
            schedules(RandomScheduler::new_from_seed(SEED, 15_000), program, Some(defect));
            schedules(PctScheduler::new_from_seed(SEED, 3, 15_000), program, Some(defect));
        };
        if catch_unwind(AssertUnwindSafe(search)).is_ok() {
            missed.push(defect);
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}
