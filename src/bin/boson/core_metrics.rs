//! What the cores of a server count, as metrics.

use std::time::Duration;

use boson::block::{self, NamespaceStats};
use boson::observe;
use boson::observe::inspect::{COUNTERS, CounterKind};
use boson::observe::{CoreLatencies, CoreStats, Histogram};
use boson::rt::{self, Handle, Instant};

use crate::metrics::{Metric, MetricKind};
use crate::namespace_metrics;

/// How long a core may take to answer.
const PATIENCE: Duration = Duration::from_millis(250);
/// Buckets end below these powers of two, in nanoseconds: from 255 ns to 17 s. The histograms of a
/// core have borders there too, so every count is exact.
const BUCKET_BITS: std::ops::RangeInclusive<u32> = 8..=34;

/// What a core counted.
#[derive(Debug, Default)]
struct Counted {
    stats: CoreStats,
    latencies: CoreLatencies,
    namespaces: Vec<NamespaceStats>,
}

/// `None` if the core did not answer.
type Answer = Option<Counted>;

/// Asks every core, which may be this one too.
pub(crate) async fn collect(cores: &[Handle]) -> Vec<Metric> {
    let give_up = rt::now() + PATIENCE;
    let count = || Counted {
        stats: observe::stats(),
        latencies: observe::latencies(),
        namespaces: NamespaceStats::by_name(block::stats()),
    };
    let questions: Vec<_> = cores.iter().map(|core| core.run(count)).collect();
    let mut answers = Vec::new();
    for question in questions {
        answers.push(answer_until(give_up, question).await);
    }
    metrics(&answers)
}

async fn answer_until(give_up: Instant, question: rt::RemoteJoin<Counted>) -> Answer {
    rt::timeout(give_up - rt::now(), question).await.ok()?.ok()
}

fn metrics(answers: &[Answer]) -> Vec<Metric> {
    let numbered = || answers.iter().enumerate();
    let answered = || numbered().filter_map(|(core, answer)| Some((core, answer.as_ref()?)));
    let mut up = Metric::new(MetricKind::Gauge, "core_up", "1 if the core answers, 0 if it is stuck.");
    for (core, answer) in numbered() {
        up = up.with(format!("{{core=\"{core}\"}}"), u8::from(answer.is_some()));
    }
    let mut metrics = vec![up];
    for counter in COUNTERS {
        let (kind, name) = match counter.kind {
            CounterKind::Total => (MetricKind::Counter, format!("core_{}_total", counter.name)),
            CounterKind::TotalNanos => (MetricKind::Counter, format!("core_{}_seconds_total", counter.name)),
            // `Current`, and what a later version of the library may add.
            _ => (MetricKind::Gauge, format!("core_{}", counter.name)),
        };
        let mut metric = Metric::new(kind, name, counter.help);
        for (core, counted) in answered() {
            let value = counter.get(&counted.stats);
            let label = format!("{{core=\"{core}\"}}");
            metric = match counter.kind {
                CounterKind::TotalNanos => metric.with(label, seconds(value)),
                _ => metric.with(label, value),
            };
        }
        metrics.push(metric);
    }
    for (name, help, get) in HISTOGRAMS {
        let mut metric = Metric::new(MetricKind::Histogram, *name, help);
        for (core, counted) in answered() {
            metric = histogram(metric, &format!("core=\"{core}\""), get(&counted.latencies));
        }
        metrics.push(metric);
    }
    let namespaces =
        answered().flat_map(|(core, counted)| counted.namespaces.iter().map(move |stats| (core, stats)));
    metrics.extend(namespace_metrics::metrics(&namespaces.collect::<Vec<_>>()));
    metrics
}

type GetHistogram = fn(&CoreLatencies) -> &Histogram;

const HISTOGRAMS: &[(&str, &str, GetHistogram)] = &[
    ("core_poll_seconds", "How long a poll of a task took; a sample.", |latencies| &latencies.poll),
    ("core_queue_wait_seconds", "From a task's wake to its poll; a sample.", |latencies| {
        &latencies.queue_wait
    }),
    ("core_turn_seconds", "How long a turn of the loop took that did something.", |latencies| {
        &latencies.turn
    }),
];

/// Adds what `histogram` counts, in nanoseconds, with `labels`.
pub(crate) fn histogram(mut metric: Metric, labels: &str, histogram: &Histogram) -> Metric {
    let mut buckets = histogram.buckets().peekable();
    let mut below = 0;
    for bits in BUCKET_BITS {
        let largest = (1 << bits) - 1;
        while let Some((_, count)) = buckets.next_if(|(top, _)| *top <= largest) {
            below += count;
        }
        metric = metric.with(format!("_bucket{{{labels},le=\"{}\"}}", seconds(largest)), below);
    }
    metric
        .with(format!("_bucket{{{labels},le=\"+Inf\"}}"), histogram.count())
        .with(format!("_sum{{{labels}}}"), seconds(histogram.sum()))
        .with(format!("_count{{{labels}}}"), histogram.count())
}

/// Nanoseconds in seconds.
fn seconds(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::render;

    #[test]
    fn values_count_in_every_bucket_from_theirs_on() {
        let mut values = Histogram::new();
        for nanos in [100, 255, 256, 1_000_000, 1 << 36] {
            values.record(nanos);
        }
        let metric = histogram(Metric::new(MetricKind::Histogram, "h", "Help."), "core=\"3\"", &values);
        let text = render(&[metric]);
        for line in [
            "boson_h_bucket{core=\"3\",le=\"0.000000255\"} 2",
            "boson_h_bucket{core=\"3\",le=\"0.000000511\"} 3",
            "boson_h_bucket{core=\"3\",le=\"0.000524287\"} 3",
            "boson_h_bucket{core=\"3\",le=\"0.001048575\"} 4",
            "boson_h_bucket{core=\"3\",le=\"17.179869183\"} 4",
            "boson_h_bucket{core=\"3\",le=\"+Inf\"} 5",
            "boson_h_count{core=\"3\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn a_stuck_core_is_down_and_has_no_values() {
        let text = render(&metrics(&[None, Some(Default::default())]));
        assert!(text.contains("boson_core_up{core=\"0\"} 0\nboson_core_up{core=\"1\"} 1\n"), "{text}");
        assert!(!text.contains("boson_core_polls_total{core=\"0\"}"), "{text}");
        assert!(text.contains("boson_core_polls_total{core=\"1\"} 0\n"), "{text}");
    }
}
