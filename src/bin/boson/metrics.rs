//! The Prometheus endpoint: answers `GET /metrics` with the text exposition format, version 0.0.4.
//!
//! Deliberately not a web server: one request per connection, a bounded header, a time limit.

use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

use boson::Result;
use boson::net::{TcpListener, TcpStream};
use boson::rt;
use tracing::warn;

use crate::listen::{ConnectionLimit, accept_each};

const MAX_REQUEST_BYTES: usize = 8 << 10;
const MAX_CONNECTIONS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// A metric's value with its documentation.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) value: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

/// The text that Prometheus scrapes.
pub(crate) fn render(metrics: &[Metric]) -> String {
    let mut text = String::new();
    for Metric { name, help, kind, value } in metrics {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "# HELP boson_{name} {help}\n# TYPE boson_{name} {kind}\nboson_{name} {value}");
    }
    text
}

/// Answers scrapes for as long as it is polled.
pub(crate) async fn serve<C>(listener: TcpListener, collect: C)
where
    C: Fn() -> Vec<Metric> + 'static,
{
    let collect = Rc::new(collect);
    let limit = ConnectionLimit::new(MAX_CONNECTIONS);
    accept_each(listener, |stream, peer| {
        let Some(place) = limit.take(peer) else { return };
        let collect = Rc::clone(&collect);
        drop(rt::spawn("metrics", async move {
            let answered = rt::timeout(PATIENCE, answer(stream, || render(&collect()))).await;
            if let Err(error) = answered.and_then(|answered| answered) {
                warn!("a scrape from {peer} failed: {error}");
            }
            drop(place);
        }));
    })
    .await;
}

async fn answer(stream: TcpStream, body: impl FnOnce() -> String) -> Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        let (read, part) = stream.read(Vec::with_capacity(1024)).await;
        if read? == 0 || request.len() + part.len() > MAX_REQUEST_BYTES {
            return Ok(());
        }
        request.extend_from_slice(&part);
    }
    let response = respond(&request, body);
    stream.write_all(response.into_bytes()).await.0
}

fn respond(request: &[u8], body: impl FnOnce() -> String) -> String {
    let (status, body) = if request.starts_with(b"GET /metrics ") {
        ("200 OK", body())
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
    use super::*;

    #[test]
    fn the_exposition_names_kind_and_help() {
        let metric = Metric { name: "commands_total", help: "Commands run.", kind: Kind::Counter, value: 7 };
        assert_eq!(
            render(&[metric]),
            "# HELP boson_commands_total Commands run.\n# TYPE boson_commands_total counter\nboson_commands_total 7\n"
        );
    }

    #[test]
    fn only_get_metrics_is_answered() {
        let body = || "x 1\n".to_owned();
        assert!(respond(b"GET /metrics HTTP/1.1\r\n\r\n", body).starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(respond(b"GET /metrics HTTP/1.1\r\n\r\n", body).ends_with("\r\n\r\nx 1\n"));
        assert!(respond(b"GET / HTTP/1.1\r\n\r\n", body).starts_with("HTTP/1.1 404"));
        assert!(respond(b"POST /metrics HTTP/1.1\r\n\r\n", body).starts_with("HTTP/1.1 405"));
    }
}
