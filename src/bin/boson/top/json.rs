//! What is shown, for programs. Times are in nanoseconds, rates per second, parts 0 to 1.

use std::time::Duration;

use serde_json::{Value, json};

use super::cells;
use super::view::{Quantiles, View};

pub(crate) fn print(view: &View) -> String {
    let cores = view.cores.iter().map(|core| {
        json!({
            "core": core.core,
            "silent": core.is_silent,
            "stuck_in": core.stuck_in,
            "cpu": core.cpu,
            "reactor": core.reactor.name(),
            "busy": core.busy,
            "spinning": core.spinning,
            "asleep": core.asleep,
            "polls_per_s": core.polls,
            "parks_per_s": core.parks,
            "ring_enters_per_s": core.ring_enters,
            "completions_per_s": core.completions,
            "messages_per_s": core.messages,
            "tasks": core.tasks,
            "stalls": core.stalls,
            "panicked": core.panicked,
            "poll": quantiles(&core.poll),
            "queue_wait": quantiles(&core.queue_wait),
            "turn": quantiles(&core.turn),
        })
    });
    let namespaces = view.namespaces.iter().map(|row| {
        json!({
            "core": row.core,
            "namespace": row.name,
            "operation": row.operation,
            "completed_per_s": row.completed,
            "bytes_per_s": row.bytes,
            "latency": quantiles(&row.latency),
            "failed": row.failed,
            "queue_depth": row.queue_depth,
            "max_queue_depth": row.max_queue_depth,
            "retries": row.retries,
        })
    });
    let tasks = view.tasks.iter().map(|task| {
        json!({
            "core": task.core,
            "id": task.id,
            "name": task.name,
            "created_at": task.created_at,
            "state": cells::state(task.state),
            "waits_for": task.waits_for,
            "queue": task.queue,
            "is_coroutine": task.is_coroutine,
            "stack_bytes": task.stack_bytes,
            "since_ns": nanos(task.since),
            "polls": task.polls,
            "polls_per_s": task.polls_rate,
        })
    });
    let object = json!({
        "program": view.program,
        "process": view.process,
        "release": view.release,
        "window_ns": nanos(view.window),
        "task_count": view.task_count(),
        "cores": cores.collect::<Vec<Value>>(),
        "namespaces": namespaces.collect::<Vec<Value>>(),
        "tasks": tasks.collect::<Vec<Value>>(),
    });
    format!("{object}\n")
}

fn quantiles(quantiles: &Quantiles) -> Value {
    json!({
        "p50_ns": nanos(quantiles.p50),
        "p99_ns": nanos(quantiles.p99),
        "max_ns": nanos(quantiles.max),
    })
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
