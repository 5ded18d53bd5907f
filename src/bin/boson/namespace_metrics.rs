//! What the cores of a server did with their namespaces, as metrics.

use boson::block::{NamespaceStats, OperationStats};

use crate::core_metrics::histogram;
use crate::metrics::{Metric, MetricKind};

type GetOfNamespace = fn(&NamespaceStats) -> u64;
type GetOfOperation = fn(&OperationStats) -> u64;

const OF_NAMESPACES: &[(MetricKind, &str, &str, GetOfNamespace)] = &[
    (
        MetricKind::Gauge,
        "namespace_queue_depth",
        "Operations that are with the device, or wait for their turn.",
        |stats| stats.queue_depth,
    ),
    (MetricKind::Gauge, "namespace_max_queue_depth", "The most of them that there were.", |stats| {
        stats.max_queue_depth
    }),
    (
        MetricKind::Counter,
        "namespace_retries_total",
        "Commands that the device asked to send again.",
        |stats| stats.retries,
    ),
    (
        MetricKind::Counter,
        "namespace_copied_bytes_total",
        "Bytes copied because the device does not reach the memory that they were in.",
        |stats| stats.copied_bytes,
    ),
];

const OF_OPERATIONS: &[(&str, &str, GetOfOperation)] = &[
    ("namespace_operations_total", "Operations that succeeded.", |operation| operation.completed),
    ("namespace_failed_operations_total", "Operations that failed.", |operation| operation.failed),
    ("namespace_bytes_total", "Bytes that successful operations moved, or covered.", |operation| {
        operation.bytes
    }),
];

/// Of the namespaces of each core.
pub(crate) fn metrics(namespaces: &[(usize, &NamespaceStats)]) -> Vec<Metric> {
    let labels = |core: usize, stats: &NamespaceStats| {
        format!("core=\"{core}\",namespace=\"{}\"", escaped(&stats.name))
    };
    let mut metrics = Vec::new();
    for (kind, name, help, get) in OF_NAMESPACES {
        let mut metric = Metric::new(*kind, *name, help);
        for (core, stats) in namespaces {
            metric = metric.with(format!("{{{}}}", labels(*core, stats)), get(stats));
        }
        metrics.push(metric);
    }
    let operations = || {
        namespaces.iter().flat_map(|(core, stats)| {
            let of = labels(*core, stats);
            let labelled =
                stats.operations().map(|(name, operation)| (format!("{of},operation=\"{name}\""), operation));
            labelled.into_iter()
        })
    };
    for (name, help, get) in OF_OPERATIONS {
        let mut metric = Metric::new(MetricKind::Counter, *name, help);
        for (labels, operation) in operations() {
            metric = metric.with(format!("{{{labels}}}"), get(operation));
        }
        metrics.push(metric);
    }
    let help = "How long successful operations took.";
    let mut latencies = Metric::new(MetricKind::Histogram, "namespace_operation_seconds", help);
    // Of what never happened there are no buckets.
    for (labels, operation) in operations().filter(|(_, operation)| operation.completed > 0) {
        latencies = histogram(latencies, &labels, &operation.latency);
    }
    metrics.push(latencies);
    metrics
}

/// A label's value: a path may hold anything.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::render;

    #[test]
    fn each_operation_of_each_namespace_is_told() {
        let mut stats = NamespaceStats::default();
        stats.name = "file:a\"b".to_owned();
        stats.queue_depth = 3;
        stats.retries = 2;
        stats.writes.completed = 7;
        stats.writes.bytes = 7 * 4096;
        stats.writes.latency.record(1000);
        stats.reads.failed = 1;
        let text = render(&metrics(&[(1, &stats)]));
        let of = "core=\"1\",namespace=\"file:a\\\"b\"";
        for line in [
            format!("boson_namespace_queue_depth{{{of}}} 3"),
            format!("boson_namespace_retries_total{{{of}}} 2"),
            format!("boson_namespace_operations_total{{{of},operation=\"write\"}} 7"),
            format!("boson_namespace_operations_total{{{of},operation=\"read\"}} 0"),
            format!("boson_namespace_failed_operations_total{{{of},operation=\"read\"}} 1"),
            format!("boson_namespace_bytes_total{{{of},operation=\"write\"}} 28672"),
            format!("boson_namespace_operation_seconds_count{{{of},operation=\"write\"}} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(
            !text.contains("operation_seconds_count{core=\"1\",namespace=\"file:a\\\"b\",operation=\"read\"")
        );
    }
}
