//! The Prometheus endpoint: answers `GET /metrics` with the text exposition format, version 0.0.4.
//!
//! Deliberately not a web server: one request per connection, a bounded header, a time limit.

use std::fmt::{Display, Write};
use std::rc::Rc;
use std::time::Duration;

use boson::net::{TcpListener, TcpStream};
use boson::rt;
use boson::{Error, Result};
use tracing::warn;

use crate::listen::{ConnectionLimit, accept_each};

const MAX_REQUEST_BYTES: usize = 8 << 10;
const MAX_CONNECTIONS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// A metric with its documentation and its values.
#[derive(Debug)]
pub(crate) struct Metric {
    /// Without the `boson_` that every name starts with.
    name: String,
    help: &'static str,
    kind: MetricKind,
    /// What follows the name, such as `{core="0"}`, and the value.
    samples: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    pub(crate) fn new(kind: MetricKind, name: impl Into<String>, help: &'static str) -> Self {
        Self { name: name.into(), help, kind, samples: Vec::new() }
    }

    /// A counter with one value.
    pub(crate) fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self::new(MetricKind::Counter, name, help).with("", value)
    }

    /// A gauge with one value.
    pub(crate) fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self::new(MetricKind::Gauge, name, help).with("", value)
    }

    /// The same, with one more value.
    pub(crate) fn with(mut self, suffix: impl Into<String>, value: impl Display) -> Self {
        self.samples.push((suffix.into(), value.to_string()));
        self
    }
}

/// The text that Prometheus scrapes.
pub(crate) fn render(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for Metric { name, help, kind, samples } in metrics {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP boson_{name} {help}\n# TYPE boson_{name} {kind}");
        for (suffix, value) in samples {
            let _ = writeln!(text, "boson_{name}{suffix} {value}");
        }
    }
    text
}

/// Answers scrapes for as long as it is polled. Returns the error after which there can be no
/// further ones.
pub(crate) async fn serve<C>(listener: TcpListener, collect: C) -> Error
where
    C: AsyncFn() -> Vec<Metric> + 'static,
{
    let collect = Rc::new(collect);
    let limit = ConnectionLimit::new(MAX_CONNECTIONS);
    accept_each(listener, |stream, peer| {
        let Some(place) = limit.take(peer) else { return };
        let collect = Rc::clone(&collect);
        drop(rt::named("metrics").spawn(async move {
            let answered = rt::timeout(PATIENCE, answer(stream, async || render(&collect().await))).await;
            if let Err(error) = answered.and_then(|answered| answered) {
                warn!("a scrape from {peer} failed: {error}");
            }
            drop(place);
        }));
    })
    .await
}

async fn answer(stream: TcpStream, body: impl AsyncFnOnce() -> String) -> Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let (len, part) = stream.read(Vec::with_capacity(1024)).await?;
        if len == 0 || request.len() + part.len() > MAX_REQUEST_BYTES {
            return Ok(());
        }
        request.extend_from_slice(&part);
    }
    let response = respond(&request, body).await;
    stream.write_all(response.into_bytes()).await?;
    Ok(())
}

async fn respond(request: &[u8], body: impl AsyncFnOnce() -> String) -> String {
    let (status, body) = if request.starts_with(b"GET /metrics ") {
        ("200 OK", body().await)
    } else if request.starts_with(b"GET ") {
        ("404 Not Found", "only /metrics is here\n".to_owned())
    } else {
        ("405 Method Not Allowed", "only GET is answered\n".to_owned())
    };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn the_exposition_names_kind_and_help() {
        let metrics = [
            Metric::counter("commands_total", "Commands run.", 7),
            Metric::new(MetricKind::Gauge, "tasks", "Tasks.").with("{core=\"0\"}", 1).with("{core=\"1\"}", 2),
        ];
        assert_eq!(
            render(&metrics),
            "# HELP boson_commands_total Commands run.\n# TYPE boson_commands_total counter\nboson_commands_total 7\n\
             # HELP boson_tasks Tasks.\n# TYPE boson_tasks gauge\nboson_tasks{core=\"0\"} 1\nboson_tasks{core=\"1\"} 2\n"
        );
    }

    #[test]
    fn only_get_metrics_is_answered() {
        let respond = |request: &[u8]| {
            let mut response = std::pin::pin!(respond(request, async || "x 1\n".to_owned()));
            match response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(response) => response,
                Poll::Pending => panic!("nothing in it waits"),
            }
        };
        assert!(respond(b"GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(respond(b"GET /metrics HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nx 1\n"));
        assert!(respond(b"GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(respond(b"POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
    }
}
