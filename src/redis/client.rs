//! What the server knows of each client.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use crossbeam_utils::atomic::AtomicCell;

use super::command::table::Command;
use super::lock::lock;
use super::reply::{Protocol, Replies};
use super::tracking::mode::TrackingMode;
use crate::rt::Instant;

/// A connected client, as other clients see it (CLIENT LIST) and reach it (CLIENT KILL), from
/// whichever core. Its own core writes most of it; each value is read for itself.
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
    pub(super) name: Mutex<Vec<u8>>,
    pub(super) library: Mutex<Vec<u8>>,
    pub(super) library_version: Mutex<Vec<u8>>,
    pub(super) database: AtomicCell<usize>,
    pub(super) protocol: AtomicCell<Protocol>,
    pub(super) authenticated: AtomicCell<bool>,
    pub(super) no_evict: AtomicCell<bool>,
    pub(super) last_active: AtomicCell<Instant>,
    pub(super) last_command: AtomicCell<Option<&'static Command>>,
    pub(super) input_bytes: AtomicCell<usize>,
    pub(super) input_capacity_bytes: AtomicCell<usize>,
    /// Bytes of replies in the batch being sent and in the newest one.
    pub(super) output_bytes: AtomicCell<usize>,
    /// Batches of replies behind the one being sent.
    pub(super) output_batches: AtomicCell<usize>,
    pub(super) output_batches_bytes: AtomicCell<usize>,
    /// The memory of all replies.
    pub(super) output_capacity_bytes: AtomicCell<usize>,
    /// Its MULTI was refused: nothing runs up to EXEC or DISCARD.
    pub(super) in_refused_multi: AtomicCell<bool>,
    /// Whether it tracks keys.
    pub(super) tracks: AtomicCell<bool>,
    /// How it tracks keys, if it does.
    pub(super) tracking: Mutex<Option<TrackingMode>>,
    /// What others have pushed to it and is not yet among its replies.
    pub(super) pushes: Mutex<Replies>,
    /// Whether there is any of it.
    pub(super) has_pushes: AtomicCell<bool>,
    killed: AtomicBool,
    /// Wakes the connection while it waits for the client.
    waker: Mutex<Option<Waker>>,
}

impl Client {
    pub(super) fn new(id: u64, peer: String, local: String, now: Instant, authenticated: bool) -> Self {
        Self {
            id,
            peer,
            local,
            connected_at: now,
            name: Mutex::default(),
            library: Mutex::default(),
            library_version: Mutex::default(),
            database: AtomicCell::new(0),
            protocol: AtomicCell::default(),
            authenticated: AtomicCell::new(authenticated),
            no_evict: AtomicCell::new(false),
            last_active: AtomicCell::new(now),
            last_command: AtomicCell::new(None),
            input_bytes: AtomicCell::new(0),
            input_capacity_bytes: AtomicCell::new(0),
            output_bytes: AtomicCell::new(0),
            output_batches: AtomicCell::new(0),
            output_batches_bytes: AtomicCell::new(0),
            output_capacity_bytes: AtomicCell::new(0),
            in_refused_multi: AtomicCell::new(false),
            tracks: AtomicCell::new(false),
            tracking: Mutex::default(),
            pushes: Mutex::default(),
            has_pushes: AtomicCell::new(false),
            killed: AtomicBool::new(false),
            waker: Mutex::default(),
        }
    }

    /// Ends the connection as soon as it next waits.
    pub(super) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake();
    }

    /// Makes the connection check again what it waits for, because limits have changed or there is
    /// something to send.
    pub(super) fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// How much memory its buffers take, in bytes.
    pub(super) fn buffers_bytes(&self) -> usize {
        self.input_capacity_bytes.load() + self.output_capacity_bytes.load() + lock(&self.pushes).capacity()
    }

    /// Whether the connection is to end; if not, `waker` is woken when that changes and by
    /// [`Client::wake`].
    pub(super) fn poll_killed(&self, waker: &Waker) -> bool {
        let mut stored = lock(&self.waker);
        if !stored.as_ref().is_some_and(|stored| stored.will_wake(waker)) {
            *stored = Some(waker.clone());
        }
        drop(stored);
        // Only now: whoever kills it from here on finds the waker.
        self.is_killed()
    }

    /// Whether the connection is to end.
    pub(super) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// The line of CLIENT LIST and CLIENT INFO, without its end.
    pub(super) fn describe(&self, now: Instant) -> Vec<u8> {
        let mut line =
            format!("id={} addr={} laddr={} fd=-1 name=", self.id, self.peer, self.local).into_bytes();
        line.extend_from_slice(&lock(&self.name));
        let buffered = self.buffers_bytes();
        let is_in_multi = self.in_refused_multi.load();
        let tracking = lock(&self.tracking);
        let mut flags = String::new();
        for (flag, is_set) in [
            ('x', is_in_multi),
            ('t', tracking.is_some()),
            ('B', tracking.as_ref().is_some_and(TrackingMode::broadcasts)),
            ('e', self.no_evict.load()),
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
            now.saturating_since(self.last_active.load()).as_secs(),
            flags,
            self.database.load(),
            if is_in_multi { 0 } else { -1 },
            self.input_bytes.load(),
            self.input_capacity_bytes.load().saturating_sub(self.input_bytes.load()),
            self.output_bytes.load(),
            self.output_batches.load(),
            self.output_batches_bytes.load(),
            self.last_command.load().map_or("NULL", |command| command.full_name),
            if tracking.is_some() { 0 } else { -1 },
            self.protocol.load().version(),
        );
        line.extend_from_slice(rest.as_bytes());
        for (name, value) in [(" lib-name=", &self.library), (" lib-ver=", &self.library_version)] {
            let value = lock(value);
            if !value.is_empty() {
                line.extend_from_slice(name.as_bytes());
                line.extend_from_slice(&value);
            }
        }
        line
    }
}
