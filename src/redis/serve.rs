//! Sessions on sockets.

mod conversation;

use std::future::{Future, poll_fn};
use std::net::Shutdown;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use self::conversation::{LINGER, converse};
use super::fate::{DropReason, End};
use super::server::Server;
use super::session::{Session, TOO_MANY_CLIENTS};
use crate::block::Namespace;
use crate::net::{TcpListener, TcpStream, is_network_lost};
use crate::store::Env;
use crate::{Error, ErrorKind, Result};

/// How often active expiry looks for keys whose time has come.
const EXPIRY_PERIOD: Duration = Duration::from_millis(100);
/// The pause between its steps while there are more keys to visit.
const EXPIRY_PAUSE: Duration = Duration::from_millis(10);
/// How many keys it visits in a step.
const EXPIRY_BUDGET: usize = 1_000;
/// How long to wait before accepting again when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// If accepting has not failed for this long, it works again, and the next failure is logged anew.
const ACCEPT_WORKS_AFTER: Duration = Duration::from_secs(10);
/// How much input is discarded, in bytes.
const LINGER_BYTES: usize = 1 << 20;
/// How long connections may take to end when the server ends.
const DRAIN: Duration = Duration::from_secs(5);
/// How often to check whether they have ended.
const DRAIN_PERIOD: Duration = Duration::from_millis(10);

/// Accepts connections and serves each in a task of its own until a client sends SHUTDOWN or
/// [`Server::request_shutdown`] is called; then ends the connections and returns. When accepting
/// fails, say for want of descriptors or memory, it logs that and tries again until it works.
///
/// # Errors
///
/// The listener's when its network is [lost for good](is_network_lost). Every connection has ended
/// then.
pub async fn serve<E: Env, N: Namespace>(server: &Rc<Server<E, N>>, listener: &TcpListener) -> Result<()> {
    let lost = until(server.shutdown_requested(), accept(server, listener)).await;
    server.kill_all();
    for _ in 0..DRAIN.as_millis() / DRAIN_PERIOD.as_millis() {
        if server.client_count() == 0 {
            break;
        }
        server.env.sleep(DRAIN_PERIOD).await;
    }
    lost.map_or(Ok(()), Err)
}

/// Accepts until the network is lost, and returns that error.
async fn accept<E: Env, N: Namespace>(server: &Rc<Server<E, N>>, listener: &TcpListener) -> Error {
    let mut failed_at = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let task = serve_connection(server.clone(), stream);
                server.env.spawn("redis connection", task);
            }
            // The connection was gone before it was accepted.
            Err(error) if error.kind() == ErrorKind::Closed => {}
            Err(error) if is_network_lost(&error) => return error,
            Err(error) => {
                // Logged once: accepting is tried twenty times a second, and may fail for hours.
                let now = server.now();
                if failed_at
                    .replace(now)
                    .is_none_or(|before| now.saturating_since(before) > ACCEPT_WORKS_AFTER)
                {
                    tracing::warn!(
                        "accepting on {} fails, tried until it works: {error}",
                        listener.local_addr()
                    );
                }
                server.env.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Deletes expired keys for as long as the server runs. Spawn it once per server. It costs next to
/// nothing while no key has an expiry time.
pub async fn expire_keys<E: Env, N: Namespace>(server: Rc<Server<E, N>>) {
    let mut is_failing = false;
    while !server.shutdown_is_requested() {
        let visited = match server.expire_step(EXPIRY_BUDGET).await {
            Ok(visited) => {
                is_failing = false;
                visited
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!("active expiry fails, tried until it works: {error}");
                }
                0
            }
        };
        server.env.sleep(if visited < EXPIRY_BUDGET { EXPIRY_PERIOD } else { EXPIRY_PAUSE }).await;
    }
}

/// Serves one connection until its end.
pub async fn serve_connection<E: Env, N: Namespace>(server: Rc<Server<E, N>>, stream: TcpStream) {
    let (peer, local) = (stream.peer_addr().to_string(), stream.local_addr().to_string());
    let Some(mut session) = Session::new(&server, peer, local) else {
        tracing::warn!(
            "client {} refused: {} clients are connected",
            stream.peer_addr(),
            server.client_count()
        );
        // A new connection's send buffer has room for one line.
        let _ = stream.try_write(TOO_MANY_CLIENTS);
        return;
    };
    let end = converse(&mut session, &stream).await;
    drop(session);
    match end {
        End::Gone => {}
        End::Sent => linger(&server.env, stream).await,
        End::Dropped(reason) => {
            tracing::info!("client {} dropped: {reason}", stream.peer_addr());
            // What waits for a client that misbehaves is thrown away.
            if !matches!(reason, DropReason::Killed | DropReason::Idle) {
                stream.abort();
            }
        }
    }
}

/// Closes the connection behind what was sent. Input that still comes is discarded for a while:
/// closing a socket with unread input resets the connection, and the reset may overtake the last
/// reply.
async fn linger<E: Env>(env: &E, stream: TcpStream) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let discard = async {
        let mut buffer = vec![0; 4096];
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            match stream.read(buffer).await {
                Ok((len, returned)) if len > 0 => {
                    discarded += len;
                    buffer = returned;
                }
                _ => break,
            }
        }
    };
    until(env.sleep(LINGER), discard).await;
}

/// The output of `future`; `None` if `limit` completes first.
async fn until<F: Future>(limit: impl Future<Output = ()>, future: F) -> Option<F::Output> {
    let (mut limit, mut future) = (pin!(limit), pin!(future));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        limit.as_mut().poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests;
