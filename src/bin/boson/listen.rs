//! The accept loop that the commands share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use boson::net::{TcpListener, TcpStream};
use boson::{ErrorKind, rt};
use tracing::warn;

/// How long to wait before accepting again when the process has no descriptor left.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Hands each connection to `take`, for as long as it is polled.
pub(crate) async fn accept_each(listener: TcpListener, mut take: impl FnMut(TcpStream, SocketAddr)) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => take(stream, peer),
            // The connection was gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::Closed => {}
            Err(error) => {
                warn!("accepting on {} failed, trying again: {error}", listener.local_addr());
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

    /// A place for one connection until it is dropped. `None`, with a log line, if there is none left.
    pub(crate) fn take(self: &Arc<Self>, peer: SocketAddr) -> Option<ConnectionPlace> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        // Dropping the place gives back what was taken too much.
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
