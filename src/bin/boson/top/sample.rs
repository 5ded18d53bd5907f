//! One look at a process.

use boson::Result;
use boson::observe::inspect::{Client, MAX_TASKS_PER_ANSWER, Snapshot, TaskRecord};
use boson::observe::{TaskOrder, TaskRange};

/// The most tasks of one core that are asked for, from either end.
const MAX_TASKS_FROM_AN_END: usize = 5000;

/// What a process answered.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) snapshot: Snapshot,
    /// At most [`MAX_TASKS_FROM_AN_END`] of the oldest and of the newest of each core.
    pub(crate) tasks: Vec<TaskRecord>,
    /// There are tasks between those.
    pub(crate) is_cut: bool,
}

impl Sample {
    /// Asks. Blocks until the process has answered, or for some seconds.
    pub(crate) fn take(client: &Client) -> Result<Self> {
        let snapshot = client.snapshot()?;
        let (mut tasks, mut is_cut) = (Vec::new(), false);
        for core in &snapshot.cores {
            let mut of_core = Vec::new();
            if core.is_silent {
                continue;
            }
            if !take_from(client, core.core, TaskOrder::OldestFirst, None, &mut of_core)? {
                let newest_seen = of_core.last().map(|task: &TaskRecord| task.id);
                is_cut |= !take_from(client, core.core, TaskOrder::NewestFirst, newest_seen, &mut of_core)?;
            }
            tasks.append(&mut of_core);
        }
        Ok(Self { snapshot, tasks, is_cut })
    }
}

/// Adds tasks from one end of a core's list, up to the one with the number `until`; whether it came
/// to the end.
fn take_from(
    client: &Client,
    core: usize,
    order: TaskOrder,
    until: Option<u64>,
    tasks: &mut Vec<TaskRecord>,
) -> Result<bool> {
    let mut after = None;
    let mut taken = 0;
    while taken < MAX_TASKS_FROM_AN_END {
        let page = client.tasks(core, TaskRange { order, after, limit: MAX_TASKS_PER_ANSWER })?.tasks;
        let count = page.len();
        taken += count;
        after = page.last().map(|task| task.id);
        for task in page {
            if until.is_some_and(|until| task.id <= until) {
                return Ok(true);
            }
            tasks.push(task);
        }
        if count < MAX_TASKS_PER_ANSWER {
            return Ok(true);
        }
    }
    Ok(false)
}
