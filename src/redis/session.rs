//! One connection without its socket: requests in, replies out.
//!
//! The commands of a pipeline run one after the other, in the order they came, and their replies
//! come in the same order. What they changed becomes durable together: [`Session::run`] waits once,
//! at the end, before any of the replies may be sent. Other connections see a change as soon as it
//! is made, so a read may show what a power failure can still take away.
//!
//! Running does not wait for sending: the next commands run whether or not the client takes its
//! replies, until [`Limits::output_bytes`](super::Limits::output_bytes) of replies wait. A client
//! may therefore write a whole pipeline before it reads. [`Session::take_replies`] hands the
//! replies over in batches; what a batch acknowledges is durable before the batch is handed over.

mod input;
mod outbox;

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll};

use self::input::{Input, KEPT_BUFFER_BYTES};
use self::outbox::Outbox;
use super::client::Client;
use super::command::{self, Context};
use super::fate::{DropReason, Fate, Stage};
use super::keyspace::yield_now;
use super::reply::Replies;
use super::request::{ParseProgress, ProtocolError, RequestLimits, RequestParser};
use super::server::Server;
use super::stats::Counted;
use super::tracking::take_pushes;
use crate::block::Namespace;
use crate::mem::{IoBuf, Slice};
use crate::store::{Commit, Env};

/// How large a batch of replies is, in bytes. Once there are this many, later commands write to the
/// next batch.
const OUTPUT_MARK_BYTES: usize = 1 << 20;

/// How many commands of one connection run before other tasks get a turn.
const COMMANDS_PER_TURN: usize = 512;

/// What to send on a connection that is one too many.
pub const TOO_MANY_CLIENTS: &[u8] = b"-ERR max number of clients reached\r\n";

/// One connection without its socket.
///
/// The program that has the socket receives ([`feed`](Self::feed), or
/// [`take_buffer`](Self::take_buffer) and [`received`](Self::received)), runs what has arrived
/// ([`run`](Self::run)) and sends ([`take_replies`](Self::take_replies), [`sent`](Self::sent)).
/// While it waits for the socket it polls [`poll_event`](Self::poll_event), too: other clients push
/// to this one and may end it. It says what becomes of the socket by [`close`](Self::close),
/// [`sent_all`](Self::sent_all) and [`lost`](Self::lost), until the [`stage`](Self::stage) is
/// [`Ended`](Stage::Ended).
///
/// A session keeps no time: [`Limits::idle`](super::Limits::idle) and
/// [`Limits::write`](super::Limits::write) are enforced by [`serve()`](super::serve()) and
/// [`serve_connection`](super::serve_connection). A program with limits of its own calls
/// [`drop_for`](Self::drop_for).
pub struct Session<E: Env, N: Namespace> {
    server: Rc<Server<E, N>>,
    client: Arc<Client>,
    input: Input,
    parser: RequestParser,
    /// The replies to what ran last.
    replies: Replies,
    /// The batches before them.
    outbox: Outbox,
    fate: Fate,
    /// How many commands have run since other tasks had a turn.
    turn: usize,
    /// The changes that are not yet known to be durable.
    commit: Commit,
    /// Where the replies lie that acknowledge a change.
    promises: Vec<Range<usize>>,
}

impl<E: Env, N: Namespace> Session<E, N> {
    /// A connection from the address `peer` to the address `local` (as text, for CLIENT LIST).
    /// `None` if there are too many: send [`TOO_MANY_CLIENTS`] and close.
    pub fn new(server: &Rc<Server<E, N>>, peer: impl Into<String>, local: impl Into<String>) -> Option<Self> {
        let client = server.admit(peer.into(), local.into())?;
        Some(Self {
            server: server.clone(),
            client,
            input: Input::new(),
            parser: RequestParser::new(),
            replies: Replies::new(),
            outbox: Outbox::new(),
            fate: Fate::new(),
            turn: 0,
            commit: Commit::default(),
            promises: Vec::new(),
        })
    }

    /// The server it is connected to.
    pub fn server(&self) -> &Rc<Server<E, N>> {
        &self.server
    }

    /// Which stage of its life it is in.
    pub fn stage(&self) -> Stage {
        self.fate.stage()
    }

    /// Whether another client or the end of the server asked for its end.
    pub fn is_killed(&self) -> bool {
        self.client.is_killed()
    }

    /// Ready when others have pushed something to this client ([`has_pushes`](Self::has_pushes):
    /// send it) or have asked for its end ([`is_killed`](Self::is_killed): [`run`](Self::run) makes
    /// it [`Closing`](Stage::Closing) or [`Ended`](Stage::Ended)). The task is woken for either,
    /// and when limits have changed, so that it asks again whether the client
    /// [is held back](Self::is_held_back). Only the task that polled last is woken.
    pub fn poll_event(&self, cx: &mut task::Context<'_>) -> Poll<()> {
        // Whoever is sending and cannot send a push yet must still hear of the client's end.
        let is_killed = self.client.poll_killed(cx.waker());
        if is_killed || self.has_pushes() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The client's stream has ended: what waits is sent, nothing more is received or run. A
    /// session that is [`Running`](Stage::Running) leaves the rest of its requests.
    pub fn close(&mut self) {
        self.fate.close();
    }

    /// Ends a session that is [`Closing`](Stage::Closing), if nothing is left to send.
    pub fn sent_all(&mut self) {
        if self.outbox.taken_bytes() == 0 && !self.has_replies() {
            self.fate.sent_all();
        }
    }

    /// The network failed or the client went away: nothing more is sent.
    pub fn lost(&mut self) {
        self.fate.lost();
    }

    /// What the server knows of this client.
    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Takes the buffer to receive into; [`Session::received`] takes it back. It grows as requests
    /// arrive, never because of the lengths that they announce.
    pub fn take_buffer(&mut self) -> Slice<Vec<u8>> {
        let buffer = self.input.take_space();
        self.client.input_capacity_bytes.store(self.input.capacity());
        buffer
    }

    /// Gives back the buffer of [`Session::take_buffer`] with `len` bytes received at its start.
    pub fn received(&mut self, buffer: Slice<Vec<u8>>, len: usize) {
        debug_assert!(len <= buffer.bytes_init(), "more received than there was room for");
        self.input.give_back(buffer.into_inner(), len);
        self.count_received(len);
    }

    /// Receives a copy of `bytes`.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.push(bytes);
        self.count_received(bytes.len());
    }

    fn count_received(&mut self, len: usize) {
        if len > 0 {
            self.fate.received();
        }
        self.server.count(Counted::InputBytes, len);
        self.client.input_bytes.store(self.input.unread().len());
        self.client.last_active.store(self.server.now());
    }

    /// Runs the commands that have arrived, until one is incomplete, there are 1 MiB of replies, or
    /// the client is [held back](Session::is_held_back), and waits until what they changed is
    /// durable. Returns the stage that the connection is in then.
    pub async fn run(&mut self) -> Stage {
        if self.replies.len() >= OUTPUT_MARK_BYTES {
            self.outbox.push(self.replies.take());
        }
        if self.client.is_killed() && self.fate.is_open() {
            self.drop_for(DropReason::Killed);
        }
        while self.fate.is_open() {
            let limits = self.server.limits();
            if self.replies.len() >= OUTPUT_MARK_BYTES || self.unsent_bytes() > limits.output_bytes {
                if self.input.unread().is_empty() {
                    self.fate.ran_all();
                }
                break;
            }
            let auth_required = self.server.needs_password() && !self.client.authenticated.load();
            let accepted = RequestLimits { bulk_bytes: limits.bulk_bytes, auth_required };
            match self.parser.parse(self.input.unread(), &accepted) {
                Ok(ParseProgress::Complete) => {
                    self.execute().await;
                    self.turn += 1;
                    if self.turn >= COMMANDS_PER_TURN {
                        self.turn = 0;
                        yield_now().await;
                    }
                }
                Ok(ParseProgress::Incomplete { wanted_bytes }) => {
                    self.input.want(wanted_bytes);
                    self.fate.ran_all();
                    if self.input.unread().len() > limits.input_bytes {
                        self.drop_for(DropReason::TooMuchInput);
                    }
                    break;
                }
                Err(error) => self.reject(error),
            }
        }
        self.settle().await;
        // A client that was killed meanwhile gets the replies to what has been run.
        if self.client.is_killed() {
            self.fate.close();
        }
        self.client.input_bytes.store(self.input.unread().len());
        // Replies that CLIENT REPLY threw away have left their buffer behind.
        self.replies.release_unused(KEPT_BUFFER_BYTES);
        self.count_unsent();
        self.fate.stage()
    }

    /// Runs the request that the parser found complete.
    async fn execute(&mut self) {
        let request = self.parser.request(self.input.unread());
        if let Some(name) = request.get(0) {
            if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
                self.drop_for(DropReason::Http);
                return;
            }
            take_pushes(&self.client, &mut self.replies);
            let start = self.replies.len();
            self.fate.begin_command();
            let mut ctx = Context {
                server: &*self.server,
                client: &self.client,
                replies: &mut self.replies,
                commit: Commit::default(),
                now: self.server.unix_ms(),
                fate: &mut self.fate,
            };
            command::execute(&mut ctx, request).await;
            let commit = ctx.commit;
            if self.replies.len() - start > self.server.limits().reply_bytes {
                self.drop_for(DropReason::TooMuchOutput);
            }
            if !self.fate.sends_reply() {
                self.replies.truncate(start);
            }
            if commit != Commit::default() {
                self.commit = self.commit.and(commit);
                if self.replies.len() > start {
                    self.promises.push(start..self.replies.len());
                }
            }
            // Behind the reply, which may hold the value from before.
            take_pushes(&self.client, &mut self.replies);
        }
        self.input.consume(self.parser.consumed());
        self.parser.reset();
    }

    fn reject(&mut self, error: ProtocolError) {
        tracing::debug!(client = self.client.id, peer = self.client.peer, "{error}");
        self.fate.begin_command();
        if self.fate.sends_reply() {
            match error {
                // Redis quotes the byte as it is, text or not.
                ProtocolError::ExpectedDollar(byte) => {
                    let text = [&b"ERR Protocol error: expected '$', got '"[..], &[byte], b"'"].concat();
                    self.replies.error(&text);
                }
                error => self.replies.error(format!("ERR {error}").as_bytes()),
            }
        }
        self.server.count(Counted::Errors, 1);
        self.fate.close();
    }

    /// Waits until what the commands changed is durable. If that fails, their replies become
    /// errors.
    async fn settle(&mut self) {
        let commit = std::mem::take(&mut self.commit);
        if let Err(error) = self.server.keyspace.wait_durable(commit).await {
            let text = command::describe_store_error(&error);
            for promise in self.promises.iter().rev() {
                self.replies.replace_by_error(promise.clone(), &text);
            }
            self.server.count(Counted::Errors, self.promises.len());
        }
        self.promises.clear();
        self.promises.shrink_to(KEPT_BUFFER_BYTES / size_of::<Range<usize>>());
    }

    /// How many bytes of replies are still to be sent, including those of the batch that was taken.
    pub fn unsent_bytes(&self) -> usize {
        self.outbox.taken_bytes() + self.outbox.waiting_bytes() + self.replies.len()
    }

    /// Whether so many replies wait that nothing more should be received from this client, or run
    /// for it, until it takes some.
    pub fn is_held_back(&self) -> bool {
        self.unsent_bytes() > self.server.limits().output_bytes
    }

    /// Whether [`Session::take_replies`] has something to send.
    pub fn has_replies(&self) -> bool {
        self.has_pushes() || self.outbox.waiting() > 0 || !self.replies.is_empty()
    }

    /// Whether others have pushed something that is to be sent to this client.
    pub fn has_pushes(&self) -> bool {
        self.client.has_pushes.load()
    }

    /// Takes the next batch to send: replies, and what others push to this client.
    pub fn take_replies(&mut self) -> Vec<u8> {
        take_pushes(&self.client, &mut self.replies);
        let batch = self.outbox.pop().unwrap_or_else(|| self.replies.take());
        self.outbox.taken(&batch);
        batch
    }

    /// Ends the connection without sending its replies.
    pub fn drop_for(&mut self, reason: DropReason) {
        self.fate.drop_for(reason);
        if matches!(reason, DropReason::TooMuchOutput | DropReason::SlowReader) {
            self.server.count(Counted::DroppedClients, 1);
        }
    }

    /// Notes that `len` more bytes of the batch of [`Session::take_replies`] are sent, though not
    /// yet all of it.
    pub fn sent_part(&mut self, len: usize) {
        self.outbox.sent_part(len);
        self.server.count(Counted::OutputBytes, len);
        self.count_unsent();
    }

    /// Gives back the buffer of [`Session::take_replies`] once all its bytes are sent.
    pub fn sent(&mut self, buffer: Vec<u8>) {
        self.server.count(Counted::OutputBytes, self.outbox.sent());
        self.replies.give_back(buffer, KEPT_BUFFER_BYTES);
        self.count_unsent();
    }

    /// Updates what CLIENT LIST and INFO show.
    fn count_unsent(&self) {
        let (client, outbox) = (&self.client, &self.outbox);
        client.output_bytes.store(outbox.taken_bytes() + self.replies.len());
        client.output_batches.store(outbox.waiting());
        client.output_batches_bytes.store(outbox.waiting_bytes());
        client.output_capacity_bytes.store(outbox.capacity() + self.replies.capacity());
    }
}

impl<E: Env, N: Namespace> Drop for Session<E, N> {
    fn drop(&mut self) {
        self.server.forget(&self.client);
    }
}

impl<E: Env, N: Namespace> std::fmt::Debug for Session<E, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("client", &self.client)
            .field("fate", &self.fate)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
