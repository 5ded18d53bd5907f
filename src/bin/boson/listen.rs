//! Listening, and the accept loop that the commands share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use boson::net::{Net, TcpListener, TcpStream, is_network_lost};
use boson::rt::{self, CoreThread};
use boson::sync::oneshot;
use boson::{Error, ErrorKind, Result};
use tracing::warn;

use crate::lasting::{self, Lasting};
use crate::start;

/// How long to wait before accepting again when the process has no descriptor left.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// If accepting has not failed for this long, it works again, and the next failure is logged anew.
const WORKS_AFTER: Duration = Duration::from_secs(10);

/// Makes another core listen on the kernel's `address` too and run `serve` with the listener, and
/// returns that as a part of the server.
pub(crate) async fn listen_on<F>(
    core: &CoreThread,
    address: SocketAddr,
    serve: impl FnOnce(TcpListener) -> F + Send + 'static,
) -> Result<Lasting>
where
    F: Future<Output = Result<()>> + 'static,
{
    let (tell, told) = oneshot::channel();
    let serving = rt::named("accept").spawn_on(core.handle(), move || async move {
        match TcpListener::bind_shared_on(&Net::kernel(), address) {
            Ok(listener) => {
                // Nobody waits for it if this server is ending already.
                let _ = tell.send(Ok(()));
                serve(listener).await
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                Ok(())
            }
        }
    });
    match told.await {
        Ok(bound) => bound.map(|()| lasting::task(serving)),
        // It could not say: its core is gone.
        Err(_) => {
            serving.await.map_err(|error| start::core_ended(&error))??;
            Ok(lasting::task(async { Ok(Ok(())) }))
        }
    }
}

/// Hands each connection to `take` for as long as it is polled. Returns the error after which there
/// will be no further connection.
pub(crate) async fn accept_each(listener: TcpListener, mut take: impl FnMut(TcpStream, SocketAddr)) -> Error {
    let mut failed_at = None;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => take(stream, peer),
            // The connection was gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::Closed => {}
            Err(error) if is_network_lost(&error) => return error,
            Err(error) => {
                // Logged once: accepting is tried ten times a second, and may fail for hours.
                let now = rt::now();
                if failed_at.replace(now).is_none_or(|before| now.saturating_since(before) > WORKS_AFTER) {
                    warn!("accepting on {} fails, tried until it works: {error}", listener.local_addr());
                }
                rt::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// How many connections a command may have open, on all cores together.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    open: AtomicUsize,
    most: usize,
}

impl ConnectionLimit {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), most })
    }

    /// A place for one connection, held until it is dropped. `None`, with a log line, if none is
    /// left.
    pub(crate) fn take(self: &Arc<Self>, peer: SocketAddr) -> Option<ConnectionPlace> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        // If none was left, dropping this place gives it back.
        let place = ConnectionPlace(Arc::clone(self));
        if before < self.most {
            return Some(place);
        }
        warn!("connection from {peer} refused: {} are open, the most allowed", self.most);
        None
    }
}

#[derive(Debug)]
pub(crate) struct ConnectionPlace(Arc<ConnectionLimit>);

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
