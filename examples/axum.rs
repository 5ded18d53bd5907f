//! An axum server on boson: `cargo run --release --example axum`, then `curl
//! http://127.0.0.1:3000/`.
//!
//! The environment chooses the network. The same program on the userspace stack, as root:
//! `BOSON_NET='tap:boson0?ip=10.9.0.1/24&host=10.9.0.2/24' axum 10.9.0.1:3000`. Ctrl-C lets the
//! requests that have begun finish.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path};
use axum::routing::{get, post};
use boson::compat::{HyperIo, HyperTimer, on_core};
use boson::net::{TcpListener, TcpStream, is_network_lost};
use boson::rt;
use boson::rt::signal::Signals;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;

const MAX_CONNECTIONS: usize = 10_000;
/// How long a client may take to send the head of a request, and to begin one on a connection that
/// is kept open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may take to finish once the server is to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[allow(dead_code, reason = "tests/compat/hyper.rs includes this file for its server")]
fn main() -> boson::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:3000".to_owned());
    let signals = Signals::new()?;
    boson::run(async {
        let listener = TcpListener::bind(address).await?;
        println!("listening on {}", listener.local_addr());
        // A signal that cannot be read stops the server too.
        serve(listener, app(), async { drop(signals.next().await) }).await
    })
}

/// An ordinary axum application.
pub(crate) fn app() -> Router {
    Router::new()
        .route("/", get(async || "Hello from boson!\n"))
        .route("/echo", post(async |body: Body| body))
        .route("/length", post(async |body: String| body.len().to_string()))
        .layer(DefaultBodyLimit::max(32 << 20))
        // axum asks for futures that are `Send`. Those of boson stay on their core: `on_core`
        // promises that.
        .route(
            "/sleep/{ms}",
            get(|Path(ms): Path<u64>| {
                on_core(async move {
                    rt::sleep(Duration::from_millis(ms)).await;
                    format!("slept {ms} ms\n")
                })
            }),
        )
}

/// Answers requests until `stop` completes, and then those that have begun.
pub(crate) async fn serve(
    listener: TcpListener,
    app: Router,
    stop: impl Future<Output = ()>,
) -> boson::Result<()> {
    let mut stop = pin!(stop);
    let graceful = GracefulShutdown::new();
    let timer = HyperTimer::new(std::time::Instant::now());
    loop {
        match select(pin!(listener.accept()), stop.as_mut()).await {
            Either::Left((Ok((stream, _)), _)) if graceful.count() < MAX_CONNECTIONS => {
                rt::named("connection").spawn(serve_connection(
                    stream,
                    app.clone(),
                    timer,
                    graceful.watcher(),
                ));
            }
            // One connection too many is closed.
            Either::Left((Ok(_), _)) => {}
            Either::Left((Err(error), _)) if is_network_lost(&error) => return Err(error),
            Either::Left((Err(error), _)) => {
                eprintln!("{error}");
                // Without a descriptor to accept with, another one comes back when a connection
                // ends.
                rt::sleep(Duration::from_millis(100)).await;
            }
            Either::Right(_) => break,
        }
    }
    drop(listener);
    rt::timeout(STOP_TIMEOUT, graceful.shutdown()).await
}

async fn serve_connection(stream: TcpStream, app: Router, timer: HyperTimer, watcher: Watcher) {
    let peer = stream.peer_addr();
    let connection = http1::Builder::new()
        .timer(timer)
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(HyperIo::new(stream), TowerToHyperService::new(app));
    if let Err(error) = watcher.watch(connection).await {
        eprintln!("{peer}: {error}");
    }
}
