//! The accept loop that servers share.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use boson::net::{TcpListener, TcpStream};
use boson::{ErrorKind, rt};
use tracing::warn;

/// How long to wait before accepting again when the process has no descriptor left.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How many connections all cores of a server may have open.
#[derive(Debug)]
pub(crate) struct ConnectionLimit {
    open: AtomicUsize,
    most: usize,
}

impl ConnectionLimit {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), most })
    }

    /// A place for one connection until it is dropped; `None` if there is none left.
    pub(crate) fn take(self: &Arc<Self>) -> Option<ConnectionPlace> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        // Dropping the place gives back what was taken too much.
        let place = ConnectionPlace(Arc::clone(self));
        (before < self.most).then_some(place)
    }
}

#[derive(Debug)]
pub(crate) struct ConnectionPlace(Arc<ConnectionLimit>);

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs `serve` for each connection in a task of its own; closes connections over the limit at once.
pub(crate) async fn accept_each<S, F>(listener: TcpListener, limit: Arc<ConnectionLimit>, serve: S)
where
    S: Fn(Rc<TcpStream>, SocketAddr) -> F,
    F: Future<Output = ()> + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match limit.take() {
                Some(place) => {
                    let serving = serve(Rc::new(stream), peer);
                    drop(rt::spawn("connection", async move {
                        serving.await;
                        drop(place);
                    }));
                }
                None => warn!("connection from {peer} refused: {} are open, the most allowed", limit.most),
            },
            // The connection was gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::Closed => {}
            Err(error) => {
                warn!("accepting on {} failed, trying again: {error}", listener.local_addr());
                rt::sleep(RETRY_AFTER).await;
            }
        }
    }
}
