//! A conversation: requests are received and run while replies are sent.
//!
//! Receiving and running take turns, since both use the input buffer; sending goes on beside them.
//! A client may therefore write all its requests before it reads a reply, as client libraries do
//! with a pipeline. When more than [`Limits::output_bytes`](super::super::Limits::output_bytes) of
//! replies wait, nothing is received or run until the client takes some.
//!
//! One task does it all. A read that waits is kept while replies are sent, not dropped and begun
//! anew: dropping costs a system call, and on a stream of another core it would lose what was about
//! to arrive.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::super::fate::{DropReason, End, Stage};
use super::super::keyspace::yield_now;
use super::super::session::Session;
use crate::Result;
use crate::block::Namespace;
use crate::error::{BufResult, without_buf};
use crate::mem::IoBuf;
use crate::net::TcpStream;
use crate::store::Env;

/// How long a client whose connection ends may take to accept its last replies, and for how long
/// its input is then discarded, so that no reset overtakes them.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// What a connection has waited for.
enum ConnectionEvent<B> {
    Received(Result<usize>, B),
    Sent(Result<usize>, B),
    /// Something else has happened: look at everything again.
    Woken,
    /// The client's time is over.
    Late(DropReason),
}

/// Receives, runs and sends until the connection ends.
pub(super) async fn converse<E: Env, N: Namespace>(session: &mut Session<E, N>, stream: &TcpStream) -> End {
    let server = session.server().clone();
    let sleep = |duration| server.env.sleep(duration);
    let (mut receiving, mut sending) = (None, None);
    let mut sent_bytes = 0;
    let mut timer = pin!(None);
    let mut limit = None;
    let mut has_run_a_batch = false;
    loop {
        let mut goes_on = !session.is_held_back() && !session.client().is_killed();
        if goes_on && session.stage() == Stage::Running {
            if has_run_a_batch {
                // Others have a turn between two batches of a long pipeline.
                yield_now().await;
            }
            session.run().await;
            has_run_a_batch = true;
            goes_on = !session.is_held_back();
        }
        if let Stage::Ended(end) = session.stage() {
            return end;
        }
        if sending.is_none() && session.has_replies() {
            let batch = session.take_replies();
            let len = batch.len();
            sent_bytes = 0;
            sending = Some(stream.write(batch.slice(0..len)));
        }
        match session.stage() {
            Stage::Closing if sending.is_none() => {
                session.sent_all();
                continue;
            }
            Stage::Receiving if goes_on && receiving.is_none() => {
                receiving = Some(stream.read(session.take_buffer()));
            }
            _ => {}
        }
        let waits = !(goes_on && session.stage() == Stage::Running);
        let event =
            next_event(session, waits, &mut receiving, &mut sending, (&mut limit, timer.as_mut()), sleep)
                .await;
        match event {
            ConnectionEvent::Received(result, buffer) => {
                receiving = None;
                match result {
                    // Whatever came before the end of the stream has been run.
                    Ok(0) => session.close(),
                    Ok(len) => {
                        session.received(buffer, len);
                        has_run_a_batch = false;
                    }
                    Err(_) => session.lost(),
                }
            }
            ConnectionEvent::Sent(Ok(len), part) if len > 0 => {
                sending = None;
                sent_bytes += len;
                let batch = part.into_inner();
                if sent_bytes < batch.len() {
                    session.sent_part(len);
                    let end = batch.len();
                    sending = Some(stream.write(batch.slice(sent_bytes..end)));
                } else {
                    session.sent(batch);
                }
            }
            ConnectionEvent::Sent(..) => session.lost(),
            ConnectionEvent::Woken => {}
            ConnectionEvent::Late(reason) => {
                if reason == DropReason::SlowReader {
                    tracing::warn!(
                        "client {} took none of its {} bytes of replies for {} s; the output buffer limit is {} bytes",
                        stream.peer_addr(),
                        session.unsent_bytes(),
                        session.server().limits().write.as_secs_f64(),
                        session.server().limits().output_bytes,
                    );
                }
                session.drop_for(reason);
            }
        }
    }
}

type TimeLimit = Option<(Duration, DropReason)>;

/// How long the client may take to send or to take something, and why it is dropped otherwise.
fn current_limit<E: Env, N: Namespace>(session: &Session<E, N>, is_sending: bool) -> TimeLimit {
    if session.client().is_killed() {
        return Some((if is_sending { LINGER } else { Duration::ZERO }, DropReason::Killed));
    }
    let limits = session.server().limits();
    let idle = limits.idle.map(|idle| (idle, DropReason::Idle));
    let must_read = is_sending && (session.stage() == Stage::Closing || session.is_held_back());
    let write = must_read.then_some((limits.write, DropReason::SlowReader));
    [write, idle].into_iter().flatten().min_by_key(|(duration, _)| *duration)
}

/// What happens next to a read or a write, or to the client. Returns [`ConnectionEvent::Woken`] at
/// once unless it `waits`. A timer is set, by `sleep`, only if there is a limit; it runs on until
/// something is sent or received.
async fn next_event<E, N, B, R, W, T>(
    session: &Session<E, N>,
    waits: bool,
    receiving: &mut Option<R>,
    sending: &mut Option<W>,
    (limit, mut timer): (&mut TimeLimit, Pin<&mut Option<T>>),
    sleep: impl Fn(Duration) -> T,
) -> ConnectionEvent<B>
where
    E: Env,
    N: Namespace,
    R: Future<Output = BufResult<usize, B>> + Unpin,
    W: Future<Output = BufResult<usize, B>> + Unpin,
    T: Future<Output = ()>,
{
    let was_held_back = session.is_held_back();
    // A client that is killed gets no more time by taking something.
    let restart = |limit: &mut TimeLimit, timer: &mut Pin<&mut Option<T>>| {
        if !session.client().is_killed() {
            timer.set(None);
            *limit = None;
        }
    };
    poll_fn(|cx| {
        if let Some(write) = sending
            && let Poll::Ready(sent) = Pin::new(write).poll(cx)
        {
            let (result, buffer) = without_buf(sent);
            restart(limit, &mut timer);
            return Poll::Ready(ConnectionEvent::Sent(result, buffer));
        }
        if let Some(read) = receiving
            && let Poll::Ready(received) = Pin::new(read).poll(cx)
        {
            let (result, buffer) = without_buf(received);
            restart(limit, &mut timer);
            return Poll::Ready(ConnectionEvent::Received(result, buffer));
        }
        // This gets the task woken when the client is killed and when others push something;
        // `current_limit` looks at whether it is killed.
        let has_event = session.poll_event(cx).is_ready();
        let pushes_can_be_sent = has_event && sending.is_none() && session.has_pushes();
        if !waits || session.is_held_back() != was_held_back || pushes_can_be_sent {
            return Poll::Ready(ConnectionEvent::Woken);
        }
        let now = current_limit(session, sending.is_some());
        if *limit != now {
            timer.set(None);
            *limit = now;
        }
        let Some((duration, reason)) = now else { return Poll::Pending };
        if duration.is_zero() {
            return Poll::Ready(ConnectionEvent::Late(reason));
        }
        if timer.is_none() {
            timer.set(Some(sleep(duration)));
        }
        match timer.as_mut().as_pin_mut().map(|timer| timer.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(ConnectionEvent::Late(reason)),
            _ => Poll::Pending,
        }
    })
    .await
}
