//! What the server knows of each client.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::task::Waker;

use super::reply::{Protocol, Replies};
use super::tracking::mode::TrackingMode;
use crate::rt::Instant;

/// A connected client, as other clients see it (CLIENT LIST) and reach it (CLIENT KILL).
#[derive(Debug)]
pub(super) struct Client {
    /// Unique while the server runs; a later client has a larger one.
    pub(super) id: u64,
    /// Its address, as text.
    pub(super) peer: String,
    /// The address it connected to, as text.
    pub(super) local: String,
    /// When it connected.
    pub(super) connected_at: Instant,
    pub(super) name: RefCell<Vec<u8>>,
    pub(super) library: RefCell<Vec<u8>>,
    pub(super) library_version: RefCell<Vec<u8>>,
    pub(super) database: Cell<usize>,
    pub(super) protocol: Cell<Protocol>,
    pub(super) authenticated: Cell<bool>,
    pub(super) no_evict: Cell<bool>,
    pub(super) last_active: Cell<Instant>,
    pub(super) last_command: Cell<&'static str>,
    pub(super) input_bytes: Cell<usize>,
    pub(super) input_capacity_bytes: Cell<usize>,
    /// Bytes of replies in the batch being sent and in the newest one.
    pub(super) output_bytes: Cell<usize>,
    /// Batches of replies behind the one being sent.
    pub(super) output_batches: Cell<usize>,
    pub(super) output_batches_bytes: Cell<usize>,
    /// The memory of all replies.
    pub(super) output_capacity_bytes: Cell<usize>,
    /// Its MULTI was refused: nothing runs up to EXEC or DISCARD.
    pub(super) in_refused_multi: Cell<bool>,
    /// How it tracks keys, if it does.
    pub(super) tracking: RefCell<Option<TrackingMode>>,
    /// What others have pushed to it and is not yet among its replies.
    pub(super) pushes: RefCell<Replies>,
    killed: Cell<bool>,
    /// Wakes the connection while it waits for the client.
    waker: RefCell<Option<Waker>>,
}

impl Client {
    pub(super) fn new(id: u64, peer: String, local: String, now: Instant, authenticated: bool) -> Self {
        Self {
            id,
            peer,
            local,
            connected_at: now,
            name: RefCell::default(),
            library: RefCell::default(),
            library_version: RefCell::default(),
            database: Cell::new(0),
            protocol: Cell::default(),
            authenticated: Cell::new(authenticated),
            no_evict: Cell::new(false),
            last_active: Cell::new(now),
            last_command: Cell::new("NULL"),
            input_bytes: Cell::new(0),
            input_capacity_bytes: Cell::new(0),
            output_bytes: Cell::new(0),
            output_batches: Cell::new(0),
            output_batches_bytes: Cell::new(0),
            output_capacity_bytes: Cell::new(0),
            in_refused_multi: Cell::new(false),
            tracking: RefCell::default(),
            pushes: RefCell::default(),
            killed: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// Ends the connection as soon as it next waits.
    pub(super) fn kill(&self) {
        self.killed.set(true);
        self.wake();
    }

    /// Makes the connection check again what it waits for, because limits have changed or there is
    /// something to send.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// How much memory its buffers take, in bytes.
    pub(super) fn buffers_bytes(&self) -> usize {
        self.input_capacity_bytes.get() + self.output_capacity_bytes.get() + self.pushes.borrow().capacity()
    }

    /// Whether the connection is to end; if not, `waker` is woken when that changes and by
    /// [`Client::wake`].
    pub(super) fn poll_killed(&self, waker: &Waker) -> bool {
        if self.killed.get() {
            return true;
        }
        let mut stored = self.waker.borrow_mut();
        if !stored.as_ref().is_some_and(|stored| stored.will_wake(waker)) {
            *stored = Some(waker.clone());
        }
        false
    }

    /// Whether the connection is to end.
    pub(super) fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// The line of CLIENT LIST and CLIENT INFO, without its end.
    pub(super) fn describe(&self, now: Instant) -> Vec<u8> {
        let mut line =
            format!("id={} addr={} laddr={} fd=-1 name=", self.id, self.peer, self.local).into_bytes();
        line.extend_from_slice(&self.name.borrow());
        let buffered = self.buffers_bytes();
        let is_in_multi = self.in_refused_multi.get();
        let tracking = self.tracking.borrow();
        let mut flags = String::new();
        for (flag, is_set) in [
            ('x', is_in_multi),
            ('t', tracking.is_some()),
            ('B', tracking.as_ref().is_some_and(TrackingMode::broadcasts)),
            ('e', self.no_evict.get()),
        ] {
            flags.extend(is_set.then_some(flag));
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let mut rest = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            rest,
            " age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 multi={} qbuf={} qbuf-free={} argv-mem=0 multi-mem=0 \
             rbs=0 rbp=0 obl={} oll={} omem={} tot-mem={buffered} events=r cmd={} user=default redir={} resp={}",
            now.saturating_since(self.connected_at).as_secs(),
            now.saturating_since(self.last_active.get()).as_secs(),
            flags,
            self.database.get(),
            if is_in_multi { 0 } else { -1 },
            self.input_bytes.get(),
            self.input_capacity_bytes.get().saturating_sub(self.input_bytes.get()),
            self.output_bytes.get(),
            self.output_batches.get(),
            self.output_batches_bytes.get(),
            self.last_command.get(),
            if tracking.is_some() { 0 } else { -1 },
            self.protocol.get().version(),
        );
        line.extend_from_slice(rest.as_bytes());
        for (name, value) in [(" lib-name=", &self.library), (" lib-ver=", &self.library_version)] {
            if !value.borrow().is_empty() {
                line.extend_from_slice(name.as_bytes());
                line.extend_from_slice(&value.borrow());
            }
        }
        line
    }
}
