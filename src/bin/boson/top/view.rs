//! What two looks at a process tell: rates, quantiles of what is new, tasks in an order.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use boson::block::{NamespaceStats, OperationStats};
use boson::observe::inspect::{CoreReport, TaskRecord};
use boson::observe::{Histogram, TaskState};
use boson::rt::Instant;
use boson::rt::reactor::ReactorKind;

use super::sample::Sample;

/// What is shown of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) program: String,
    pub(crate) process: u64,
    pub(crate) release: String,
    /// The time that rates and quantiles are of.
    pub(crate) window: Duration,
    pub(crate) cores: Vec<CoreRow>,
    pub(crate) namespaces: Vec<NamespaceRow>,
    pub(crate) tasks: Vec<TaskRow>,
    /// There are further tasks.
    pub(crate) is_cut: bool,
}

/// What is shown of a core.
#[derive(Clone, Debug, Default)]
pub(crate) struct CoreRow {
    pub(crate) core: usize,
    pub(crate) cpu: usize,
    pub(crate) reactor: ReactorKind,
    pub(crate) is_silent: bool,
    /// The task that a silent core is in, and where it was spawned.
    pub(crate) stuck_in: Option<(String, String)>,
    /// Parts of the time, 0 to 1.
    pub(crate) busy: f64,
    pub(crate) spinning: f64,
    pub(crate) asleep: f64,
    /// Per second.
    pub(crate) polls: f64,
    pub(crate) parks: f64,
    pub(crate) ring_enters: f64,
    pub(crate) completions: f64,
    pub(crate) messages: f64,
    /// Now.
    pub(crate) tasks: u64,
    /// Since the core was made.
    pub(crate) stalls: u64,
    pub(crate) panicked: u64,
    pub(crate) poll: Quantiles,
    pub(crate) queue_wait: Quantiles,
    pub(crate) turn: Quantiles,
}

/// What is shown of one kind of operation on a namespace of a core.
#[derive(Clone, Debug, Default)]
pub(crate) struct NamespaceRow {
    pub(crate) core: usize,
    pub(crate) name: String,
    pub(crate) operation: &'static str,
    /// Per second.
    pub(crate) completed: f64,
    pub(crate) bytes: f64,
    pub(crate) latency: Quantiles,
    /// Since the core attached to it.
    pub(crate) failed: u64,
    /// Of the namespace: now, and since the core attached to it.
    pub(crate) queue_depth: u64,
    pub(crate) max_queue_depth: u64,
    pub(crate) retries: u64,
}

/// A distribution in three numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quantiles {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

/// What is shown of a task.
#[derive(Clone, Debug)]
pub(crate) struct TaskRow {
    pub(crate) core: usize,
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) created_at: String,
    pub(crate) state: TaskState,
    pub(crate) waits_for: Option<String>,
    /// The name of its task queue.
    pub(crate) queue: String,
    pub(crate) is_coroutine: bool,
    /// The room on its stack in bytes, if it has one of its own.
    pub(crate) stack_bytes: Option<u64>,
    pub(crate) since: Duration,
    pub(crate) polls: u32,
    /// Per second.
    pub(crate) polls_rate: f64,
}

/// What tasks are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Longest since the last poll first.
    Since,
    /// Most polls per second first, then most polls.
    Rate,
    /// Most polls first.
    Polls,
    /// By name.
    Name,
    /// In the order of their making.
    Number,
}

impl Order {
    pub(crate) const ALL: [Self; 5] = [Self::Since, Self::Rate, Self::Polls, Self::Name, Self::Number];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Since => "since",
            Self::Rate => "polls/s",
            Self::Polls => "polls",
            Self::Name => "name",
            Self::Number => "id",
        }
    }

    fn compare(self, a: &TaskRow, b: &TaskRow) -> Ordering {
        let by_number = || (a.core, a.id).cmp(&(b.core, b.id));
        let first = match self {
            Self::Since => b.since.cmp(&a.since),
            Self::Rate => b.polls_rate.total_cmp(&a.polls_rate).then(b.polls.cmp(&a.polls)),
            Self::Polls => b.polls.cmp(&a.polls),
            Self::Name => a.name.cmp(&b.name),
            Self::Number => Ordering::Equal,
        };
        first.then_with(by_number)
    }
}

impl View {
    /// What happened between two looks at a process; without the first, since it began.
    pub(crate) fn between(before: Option<&Sample>, now: &Sample) -> Self {
        let process = &now.snapshot.process;
        let before = before.filter(|before| before.snapshot.process == *process);
        let old_core =
            |core: usize| before?.snapshot.cores.iter().find(|old| old.core == core && !old.is_silent);
        let cores: Vec<CoreRow> =
            now.snapshot.cores.iter().map(|core| CoreRow::between(old_core(core.core), core)).collect();
        let namespaces = now.snapshot.cores.iter().flat_map(|core| namespaces(old_core(core.core), core));
        let windows: HashMap<usize, Duration> =
            now.snapshot.cores.iter().map(|core| (core.core, window(old_core(core.core), core))).collect();
        let old_polls: HashMap<(usize, u64), u32> = before
            .map(|before| before.tasks.iter().map(|task| ((task.core, task.id), task.polls)).collect())
            .unwrap_or_default();
        let task_row = |task: &TaskRecord| {
            let window = windows.get(&task.core).copied().unwrap_or_default();
            // A task that is new began with no polls.
            let old = old_polls.get(&(task.core, task.id)).copied().unwrap_or(0);
            TaskRow {
                core: task.core,
                id: task.id,
                name: printable(&task.name),
                created_at: printable(&task.created_at),
                state: task.state,
                waits_for: task.waits_for.as_deref().map(printable),
                since: task.since,
                queue: printable(&task.queue),
                is_coroutine: task.is_coroutine,
                stack_bytes: task.stack_bytes,
                polls: task.polls,
                polls_rate: rate(u64::from(task.polls.wrapping_sub(old)), window),
            }
        };
        Self {
            program: printable(&process.program),
            process: process.id,
            release: printable(&process.release),
            window: windows.values().copied().max().unwrap_or_default(),
            namespaces: namespaces.collect(),
            cores,
            tasks: now.tasks.iter().map(task_row).collect(),
            is_cut: now.is_cut,
        }
    }

    /// Puts the tasks in an order.
    pub(crate) fn sort(&mut self, order: Order, reverse: bool) {
        self.tasks.sort_by(|a, b| {
            let ordering = order.compare(a, b);
            if reverse { ordering.reverse() } else { ordering }
        });
    }

    /// Leaves out all tasks after the first `most`.
    pub(crate) fn truncate(&mut self, most: usize) {
        self.is_cut |= self.tasks.len() > most;
        self.tasks.truncate(most);
    }

    /// How many tasks the process has by its counters.
    pub(crate) fn task_count(&self) -> u64 {
        self.cores.iter().map(|core| core.tasks).sum()
    }
}

/// Another process chose these names: nothing of them may steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn window(old: Option<&CoreReport>, new: &CoreReport) -> Duration {
    new.now - old.map_or(Instant::ORIGIN, |old| old.now)
}

/// The operations of a core's namespaces that there were since the core attached to them.
fn namespaces(old: Option<&CoreReport>, new: &CoreReport) -> Vec<NamespaceRow> {
    let window = window(old, new);
    let mut rows = Vec::new();
    for stats in &new.namespaces {
        let old = old.and_then(|old| old.namespaces.iter().find(|old| old.name == stats.name));
        let before = |name: &str| {
            let operations = old.map(NamespaceStats::operations)?;
            operations.into_iter().find(|(other, _)| *other == name).map(|(_, operation)| operation)
        };
        let operations = stats.operations().into_iter();
        let is_used = |operation: &OperationStats| operation.completed + operation.failed > 0;
        for (name, operation) in operations.filter(|(_, operation)| is_used(operation)) {
            let old = before(name);
            let since = |new: u64, old: Option<u64>| rate(new.saturating_sub(old.unwrap_or(0)), window);
            rows.push(NamespaceRow {
                core: new.core,
                name: printable(&stats.name),
                operation: name,
                completed: since(operation.completed, old.map(|old| old.completed)),
                bytes: since(operation.bytes, old.map(|old| old.bytes)),
                latency: match old {
                    Some(old) => Quantiles::of(&operation.latency.since(&old.latency)),
                    None => Quantiles::of(&operation.latency),
                },
                failed: operation.failed,
                queue_depth: stats.queue_depth,
                max_queue_depth: stats.max_queue_depth,
                retries: stats.retries,
            });
        }
    }
    rows
}

fn rate(count: u64, window: Duration) -> f64 {
    if window.is_zero() { 0.0 } else { precise(count) / window.as_secs_f64() }
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn precise(count: u64) -> f64 {
    count as f64
}

impl CoreRow {
    fn between(old: Option<&CoreReport>, new: &CoreReport) -> Self {
        let window = window(old, new);
        let old_stats = old.map(|old| old.stats).unwrap_or_default();
        let stats = &new.stats;
        let part = |new: Duration, old: Duration| {
            if window.is_zero() {
                0.0
            } else {
                (new.saturating_sub(old).as_secs_f64() / window.as_secs_f64()).min(1.0)
            }
        };
        let per_second = |new: u64, old: u64| rate(new.saturating_sub(old), window);
        let quantiles = |new: &Histogram, old: Option<&Histogram>| match old {
            Some(old) => Quantiles::of(&new.since(old)),
            None => Quantiles::of(new),
        };
        Self {
            core: new.core,
            cpu: new.cpu,
            reactor: stats.reactor,
            is_silent: new.is_silent,
            stuck_in: new.stuck_in.as_ref().map(|(name, place)| (printable(name), printable(place))),
            busy: part(stats.busy, old_stats.busy),
            spinning: part(stats.spinning, old_stats.spinning),
            asleep: part(stats.asleep, old_stats.asleep),
            polls: per_second(stats.polls, old_stats.polls),
            parks: per_second(stats.parks, old_stats.parks),
            ring_enters: per_second(stats.ring_enters, old_stats.ring_enters),
            completions: per_second(stats.completions, old_stats.completions),
            messages: per_second(stats.messages, old_stats.messages),
            tasks: stats.tasks as u64,
            stalls: stats.stalls,
            panicked: stats.panicked,
            poll: quantiles(&new.latencies.poll, old.map(|old| &old.latencies.poll)),
            queue_wait: quantiles(&new.latencies.queue_wait, old.map(|old| &old.latencies.queue_wait)),
            turn: quantiles(&new.latencies.turn, old.map(|old| &old.latencies.turn)),
        }
    }
}

impl Quantiles {
    fn of(histogram: &Histogram) -> Self {
        let at = |quantile| Duration::from_nanos(histogram.quantile(quantile));
        Self { p50: at(0.5), p99: at(0.99), max: Duration::from_nanos(histogram.max()) }
    }
}
