//! Rows as short texts: for the screen and for plain output.

use std::time::Duration;

use boson::observe::TaskState;

use super::view::{CoreRow, NamespaceRow, Quantiles, TaskRow, View};

/// The most telling ones first: a narrow screen shows no more of them than it has room for.
pub(crate) const CORE_HEAD: [&str; 13] = [
    "core", "cpu", "busy", "spin", "sleep", "polls/s", "tasks", "stalls", "panics", "compl/s", "enters/s",
    "parks/s", "msgs/s",
];
pub(crate) const LATENCY_HEAD: [&str; 10] =
    ["core", "poll50", "poll99", "max", "wait50", "wait99", "max", "turn50", "turn99", "max"];
pub(crate) const TASK_HEAD: [&str; 9] =
    ["core", "id", "state", "since", "polls", "polls/s", "name", "waits for", "created at"];

pub(crate) const NAMESPACE_HEAD: [&str; 12] = [
    "core",
    "ops/s",
    "bytes/s",
    "lat50",
    "lat99",
    "max",
    "depth",
    "most",
    "failed",
    "retries",
    "operation",
    "namespace",
];

/// The cells below [`CORE_HEAD`].
pub(crate) fn core(row: &CoreRow) -> [String; 13] {
    if row.is_silent {
        let mut cells = <[String; 13]>::default();
        cells[0] = row.core.to_string();
        cells[2] = "stuck".to_owned();
        return cells;
    }
    [
        row.core.to_string(),
        row.cpu.to_string(),
        percent(row.busy),
        percent(row.spinning),
        percent(row.asleep),
        count(row.polls),
        whole(row.tasks),
        whole(row.stalls),
        whole(row.panicked),
        count(row.completions),
        count(row.ring_enters),
        count(row.parks),
        count(row.messages),
    ]
}

/// The cells below [`LATENCY_HEAD`].
pub(crate) fn latency(row: &CoreRow) -> [String; 10] {
    let three = |quantiles: &Quantiles| {
        [quantiles.p50, quantiles.p99, quantiles.max]
            .map(|value| if row.is_silent { String::new() } else { time(value) })
    };
    let ([a, b, c], [d, e, f], [g, h, i]) = (three(&row.poll), three(&row.queue_wait), three(&row.turn));
    [row.core.to_string(), a, b, c, d, e, f, g, h, i]
}

/// The cells below [`NAMESPACE_HEAD`].
pub(crate) fn namespace(row: &NamespaceRow) -> [String; 12] {
    [
        row.core.to_string(),
        count(row.completed),
        count(row.bytes),
        time(row.latency.p50),
        time(row.latency.p99),
        time(row.latency.max),
        whole(row.queue_depth),
        whole(row.max_queue_depth),
        whole(row.failed),
        whole(row.retries),
        row.operation.to_owned(),
        row.name.clone(),
    ]
}

/// The cells below [`TASK_HEAD`].
pub(crate) fn task(row: &TaskRow) -> [String; 9] {
    [
        row.core.to_string(),
        row.id.to_string(),
        state(row.state).to_owned(),
        time(row.since),
        whole(u64::from(row.polls)),
        count(row.polls_rate),
        match row.stack_bytes {
            Some(bytes) => format!("{} ({} KiB stack)", row.name, bytes >> 10),
            None => row.name.clone(),
        },
        row.waits_for.clone().unwrap_or_else(|| "-".to_owned()),
        row.created_at.clone(),
    ]
}

pub(crate) fn state(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::Ready => "ready",
        _ => "waiting",
    }
}

/// The process on display, in one line.
pub(crate) fn title(view: &View) -> String {
    format!("{} (process {}, boson {}), over {}", view.program, view.process, view.release, time(view.window))
}

/// What each stuck core is in.
pub(crate) fn stuck(view: &View) -> Vec<String> {
    let silent = view.cores.iter().filter(|core| core.is_silent);
    let line = |core: &CoreRow| match &core.stuck_in {
        Some((name, place)) => format!("core {} is stuck in the task {name} of {place}", core.core),
        None => format!("core {} does not answer", core.core),
    };
    silent.map(line).collect()
}

/// How many tasks are shown, in one line.
pub(crate) fn task_title(view: &View) -> String {
    let shown = view.tasks.len();
    if view.is_cut { format!("{shown} of {} tasks", view.task_count()) } else { format!("{shown} tasks") }
}

/// A part of 1 as a percentage.
fn percent(part: f64) -> String {
    if part < 0.0995 { format!("{:.1}%", part * 100.0) } else { format!("{:.0}%", part * 100.0) }
}

/// At most five letters: three digits and a unit.
fn count(value: f64) -> String {
    for (limit, unit, name) in [(999.5, 1.0, ""), (999_500.0, 1e3, "k"), (999_500_000.0, 1e6, "M")] {
        if value < limit {
            let scaled = value / unit;
            let digits = if name.is_empty() && scaled.fract() == 0.0 || scaled >= 99.95 {
                0
            } else if scaled >= 9.995 {
                1
            } else {
                2
            };
            return format!("{scaled:.digits$}{name}");
        }
    }
    format!("{:.0}G", value / 1e9)
}

fn whole(value: u64) -> String {
    if value < 100_000 {
        value.to_string()
    } else {
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        count(value as f64)
    }
}

/// At most seven letters: three digits, or four, and a unit.
pub(crate) fn time(value: Duration) -> String {
    let seconds = value.as_secs();
    match value.as_nanos() {
        0 => "0".to_owned(),
        nanos @ 1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => three_digits(value.as_secs_f64() * 1e6, "µs"),
        1_000_000..1_000_000_000 => three_digits(value.as_secs_f64() * 1e3, "ms"),
        _ if seconds < 100 => three_digits(value.as_secs_f64(), "s"),
        _ if seconds < 100 * 60 => format!("{}m{:02}", seconds / 60, seconds % 60),
        _ if seconds < 100 * 3600 => format!("{}h{:02}", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn three_digits(value: f64, unit: &str) -> String {
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{unit}")
}

/// Everything as plain text.
pub(crate) fn print(view: &View) -> String {
    let mut text = format!("{}\n\n", title(view));
    let cores: Vec<Vec<String>> = view.cores.iter().map(|row| core(row).into()).collect();
    table(&mut text, &CORE_HEAD, CORE_HEAD.len(), &cores);
    for line in stuck(view) {
        text += &format!("{line}\n");
    }
    text.push('\n');
    let latencies: Vec<Vec<String>> = view.cores.iter().map(|row| latency(row).into()).collect();
    table(&mut text, &LATENCY_HEAD, LATENCY_HEAD.len(), &latencies);
    if !view.namespaces.is_empty() {
        text.push('\n');
        let namespaces: Vec<Vec<String>> = view.namespaces.iter().map(|row| namespace(row).into()).collect();
        table(&mut text, &NAMESPACE_HEAD, 10, &namespaces);
    }
    text += &format!("\n{}\n", task_title(view));
    let tasks: Vec<Vec<String>> = view.tasks.iter().map(|row| task(row).into()).collect();
    // From the name on they are words, which stand on the left.
    table(&mut text, &TASK_HEAD, 6, &tasks);
    text
}

/// Columns as wide as their widest cell; the first `numbers` of them stand on the right.
fn table(text: &mut String, head: &[&str], numbers: usize, rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            let cell = if column < numbers { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line += &format!("{}{cell}", if column > 0 { "  " } else { "" });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, shown) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.5, "0.50"),
            (42.25, "42.2"),
            (999.4, "999"),
            (999.9, "1.00k"),
            (12_345.0, "12.3k"),
            (999_499.0, "999k"),
            (999_999.0, "1.00M"),
            (123_456_789.0, "123M"),
            (5e9, "5G"),
        ] {
            assert_eq!(count(value), shown);
        }
        assert_eq!((whole(99_999), whole(1_000_000)), ("99999".to_owned(), "1.00M".to_owned()));
        assert_eq!(
            (percent(0.0), percent(0.0123), percent(1.0)),
            ("0.0%".into(), "1.2%".into(), "100%".into())
        );
    }

    #[test]
    fn times_are_short() {
        for (nanos, shown) in [
            (0, "0"),
            (999, "999ns"),
            (1_000, "1.00µs"),
            (12_345, "12.3µs"),
            (999_999, "1000µs"),
            (1_500_000, "1.50ms"),
            (60_000_000_000, "60.0s"),
            (125_000_000_000, "2m05"),
            (3_600_000_000_000 * 5, "5h00"),
            (86_400_000_000_000 * 12, "12d00"),
        ] {
            assert_eq!(time(Duration::from_nanos(nanos)), shown);
        }
    }
}
