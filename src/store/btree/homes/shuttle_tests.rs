//! Two loaders, two evicters, two writers and the keeper at one page, in many schedules.

use std::sync::Arc;

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};

use super::model::{Keeper, Model};

const SCHEDULES: usize = 3_000;
const STEPS: u32 = 4;

/// What the keeper does, round and round.
fn keep(page: &Model, keeper: &mut Keeper) {
    for round in 0..STEPS {
        let frames = keeper.begin(page);
        let was = keeper.entry(page);
        match round % 3 {
            0 => keeper.flush(page),
            1 => keeper.clean(page),
            _ => keeper.flush_beside(page),
        }
        let exported = keeper.export(page, &frames);
        assert!(exported.iter().all(|entry| *entry == was), "{exported:?} is not {was:?}, which was durable");
        keeper.flush(page);
        keeper.check(page);
    }
}

fn program() {
    let page = Arc::new(Model::new());
    let steps: [fn(&Model); 3] = [Model::load, |page| drop(page.evict()), Model::write];
    let thread = |step: fn(&Model)| {
        let page = Arc::clone(&page);
        thread::spawn(move || (0..STEPS).for_each(|_| step(&page)))
    };
    let threads: Vec<_> = steps.into_iter().chain(steps).map(thread).collect();
    let mut keeper = Keeper::default();
    keep(&page, &mut keeper);
    threads.into_iter().for_each(|thread| thread.join().expect("no thread of a model panics"));
    page.check(&keeper);
}

fn run(scheduler: impl Scheduler + 'static) {
    // A frame of the mapping is made on the stack.
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(program);
}

#[test]
fn loaders_evicters_writers_and_a_keeper() {
    run(RandomScheduler::new(SCHEDULES));
}

#[test]
fn the_same_with_few_preemptions() {
    run(PctScheduler::new(4, SCHEDULES));
}
