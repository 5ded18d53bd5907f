//! Which clients keep copies of which keys, and telling them when these are out of date: CLIENT
//! TRACKING.
//!
//! A client that tracks is told, by a push in RESP3, when a key that it has read may have changed:
//! once for each key, until it reads the key again. In broadcast mode it is told of every key that
//! begins with one of its prefixes, read or not.
//!
//! No invalidation is lost while its client is connected:
//!
//! - A client is remembered for a key *before* the key is read, and told *after* a change is
//!   visible, and before the reply to whoever made it. Whatever comes in between, on whichever
//!   core, it either reads the new value or is told.
//! - What is pushed to a client while one of its commands runs is sent behind the reply, never in
//!   front of it: the reply may hold the value from before.
//! - A client for which more waits to be sent than `client-output-buffer-limit` is disconnected.

pub(super) mod mode;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};

use self::mode::{TrackedReads, TrackingMode};
use super::client::Client;
use super::lock::lock;
use super::reply::{Protocol, Replies};

/// How many keys are remembered at most, unless `tracking-table-max-keys` says otherwise. Beyond
/// that, clients are told to drop some.
pub(super) const MAX_TRACKED_KEYS: usize = 1_000_000;
/// How much the remembered keys may take, in bytes: a single one may be half a GiB long.
pub(super) const MAX_TRACKED_BYTES: usize = 256 << 20;
/// The id of nobody, for changes that no client made.
pub(super) const NOBODY: u64 = 0;
/// How large a buffer for pushes is kept, in bytes.
const KEPT_PUSH_BYTES: usize = 1024;

/// The clients that may have copies of a key.
#[derive(Debug)]
struct KeyHolders {
    /// In ascending order.
    clients: Vec<u64>,
    /// The index of the key in [`TrackedKeys::keys`].
    place: usize,
}

/// The keys that clients may have copies of.
#[derive(Debug, Default)]
struct TrackedKeys {
    holders: HashMap<Arc<[u8]>, KeyHolders>,
    keys: Vec<Arc<[u8]>>,
    bytes: usize,
    /// Where the next key is taken from when there are too many.
    hand: usize,
}

impl TrackedKeys {
    /// Remembers that `client` may have a copy of `key`. `is_there` tells which clients still are.
    fn remember(&mut self, key: &[u8], client: u64, tracking: usize, is_there: impl Fn(u64) -> bool) {
        let Some(holders) = self.holders.get_mut(key) else {
            let key: Arc<[u8]> = key.into();
            self.bytes += key.len();
            self.holders.insert(key.clone(), KeyHolders { clients: vec![client], place: self.keys.len() });
            self.keys.push(key);
            return;
        };
        if let Err(place) = holders.clients.binary_search(&client) {
            holders.clients.insert(place, client);
            // Clients that went away stay until the key changes, which may be never.
            if holders.clients.len() > 2 * tracking + 8 {
                holders.clients.retain(|&client| is_there(client));
            }
        }
    }

    fn take(&mut self, key: &[u8]) -> Vec<u64> {
        let Some((key, holders)) = self.holders.remove_entry(key) else { return Vec::new() };
        self.bytes -= key.len();
        self.keys.swap_remove(holders.place);
        if let Some(moved) = self.keys.get(holders.place)
            && let Some(moved) = self.holders.get_mut(moved)
        {
            moved.place = holders.place;
        }
        holders.clients
    }

    /// A key, a different one each time.
    fn next_key(&mut self) -> Option<Arc<[u8]>> {
        self.hand = self.hand.checked_add(1).filter(|&hand| hand < self.keys.len()).unwrap_or(0);
        self.keys.get(self.hand).cloned()
    }
}

/// The clients that track, and what they may have copies of.
#[derive(Debug, Default)]
struct Trackers {
    clients: BTreeMap<u64, Arc<Client>>,
    table: TrackedKeys,
}

/// The clients of all cores that track.
#[derive(Debug)]
pub(super) struct Tracking {
    trackers: Mutex<Trackers>,
    /// Whether there are any: most servers have none, and their writes look no further.
    is_active: AtomicBool,
    /// `tracking-table-max-keys`; 0 is no limit.
    max_keys: AtomicUsize,
    /// The most bytes that may wait to be sent to a client.
    output_bytes: AtomicUsize,
    /// How many clients had to be disconnected.
    dropped_clients: AtomicU64,
}

impl Tracking {
    pub(super) fn new() -> Self {
        Self {
            trackers: Mutex::default(),
            is_active: AtomicBool::new(false),
            max_keys: AtomicUsize::new(MAX_TRACKED_KEYS),
            output_bytes: AtomicUsize::new(usize::MAX),
            dropped_clients: AtomicU64::new(0),
        }
    }

    pub(super) fn max_keys(&self) -> usize {
        self.max_keys.load(Ordering::Relaxed)
    }

    pub(super) fn set_max_keys(&self, keys: usize) {
        self.max_keys.store(keys, Ordering::Relaxed);
    }

    pub(super) fn set_output_bytes(&self, bytes: usize) {
        self.output_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn dropped_clients(&self) -> u64 {
        self.dropped_clients.load(Ordering::Relaxed)
    }

    pub(super) fn reset_dropped_clients(&self) {
        self.dropped_clients.store(0, Ordering::Relaxed);
    }

    /// Whether any client tracks.
    pub(super) fn is_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    /// How many clients track.
    pub(super) fn client_count(&self) -> usize {
        lock(&self.trackers).clients.len()
    }

    /// How many keys are remembered, for how many clients altogether, and how many prefixes there
    /// are.
    pub(super) fn totals(&self) -> [usize; 3] {
        let trackers = lock(&self.trackers);
        let items = trackers.table.holders.values().map(|holders| holders.clients.len()).sum();
        let mut prefixes: Vec<Vec<u8>> = Vec::new();
        for client in trackers.clients.values() {
            prefixes.extend(lock(&client.tracking).iter().flat_map(|mode| mode.prefixes.clone()));
        }
        prefixes.sort_unstable();
        prefixes.dedup();
        [trackers.table.keys.len(), items, prefixes.len()]
    }

    /// From here on `client` tracks in this mode.
    pub(super) fn enable(&self, client: &Arc<Client>, mode: TrackingMode) {
        let mut trackers = lock(&self.trackers);
        *lock(&client.tracking) = Some(mode);
        client.tracks.store(true);
        trackers.clients.insert(client.id, Arc::clone(client));
        self.is_active.store(true, Ordering::Relaxed);
        drop(trackers);
        // The client's next command reads. Either it sees what another core has written, or that
        // core sees, behind the fence of `invalidate`, that somebody tracks.
        fence(Ordering::SeqCst);
    }

    /// From here on `client` does not track.
    pub(super) fn disable(&self, client: &Client) {
        if !client.tracks.load() {
            return;
        }
        let mut trackers = lock(&self.trackers);
        *lock(&client.tracking) = None;
        client.tracks.store(false);
        trackers.clients.remove(&client.id);
        if trackers.clients.is_empty() {
            trackers.table = TrackedKeys::default();
            self.is_active.store(false, Ordering::Relaxed);
        }
    }

    /// Remembers that `client` is about to read `keys`, if it tracks those of this command.
    pub(super) fn remember<'k>(&self, client: &Client, keys: impl Iterator<Item = &'k [u8]>) {
        match &*lock(&client.tracking) {
            Some(mode) if !mode.broadcasts() => match mode.reads {
                TrackedReads::OptIn if !mode.caching => return,
                TrackedReads::OptOut if mode.caching => return,
                _ => {}
            },
            _ => return,
        }
        let mut trackers = lock(&self.trackers);
        let Trackers { clients, table } = &mut *trackers;
        for key in keys {
            table.remember(key, client.id, clients.len(), |client| clients.contains_key(&client));
            while self.is_over(table)
                && let Some(key) = table.next_key()
            {
                let holders = table.take(&key);
                holders.iter().filter_map(|id| clients.get(id)).for_each(|client| self.tell(client, &[&key]));
            }
        }
    }

    fn is_over(&self, table: &TrackedKeys) -> bool {
        let max_keys = Some(self.max_keys()).filter(|&keys| keys > 0).unwrap_or(usize::MAX);
        table.keys.len() > max_keys || table.bytes > MAX_TRACKED_BYTES
    }

    /// Tells the clients concerned that `keys` may have changed, by the client with the id
    /// `writer`.
    pub(super) fn invalidate(&self, keys: &[&[u8]], writer: u64) {
        // Behind the change; see `enable`.
        fence(Ordering::SeqCst);
        if !self.is_active() {
            return;
        }
        let mut trackers = lock(&self.trackers);
        let Trackers { clients, table } = &mut *trackers;
        for key in keys {
            let holders = table.take(key);
            for client in holders.iter().filter_map(|id| clients.get(id)) {
                let is_told = lock(&client.tracking)
                    .as_ref()
                    .is_some_and(|mode| !(mode.broadcasts() || mode.no_loop && client.id == writer));
                if is_told {
                    self.tell(client, &[key]);
                }
            }
        }
        for client in clients.values() {
            let mode = lock(&client.tracking);
            let Some(mode) = mode.as_ref().filter(|mode| mode.broadcasts()) else { continue };
            if mode.no_loop && client.id == writer {
                continue;
            }
            let covered: Vec<&[u8]> = keys.iter().copied().filter(|key| mode.covers(key)).collect();
            if !covered.is_empty() {
                self.tell(client, &covered);
            }
        }
    }

    /// Tells all clients that track that every key may have changed.
    pub(super) fn invalidate_all(&self) {
        fence(Ordering::SeqCst);
        let mut trackers = lock(&self.trackers);
        trackers.table = TrackedKeys::default();
        for client in trackers.clients.values() {
            self.push(client, Replies::null);
        }
    }

    fn tell(&self, client: &Client, keys: &[&[u8]]) {
        self.push(client, |pushes| {
            pushes.array(keys.len());
            keys.iter().for_each(|key| pushes.bulk(key));
        });
    }

    /// Pushes an invalidation; `write` writes its keys. Clients that speak RESP2 get none, as in
    /// Redis.
    fn push(&self, client: &Client, write: impl FnOnce(&mut Replies)) {
        if client.protocol.load() != Protocol::Resp3 || client.is_killed() {
            return;
        }
        let mut pushes = lock(&client.pushes);
        pushes.set_protocol(Protocol::Resp3);
        pushes.push(2);
        pushes.bulk(b"invalidate");
        write(&mut pushes);
        let waiting = pushes.len() + client.output_bytes.load() + client.output_batches_bytes.load();
        if waiting > self.output_bytes.load(Ordering::Relaxed) {
            tracing::warn!(
                "client {} dropped: {waiting} bytes wait for it, and it cannot be told which keys have changed",
                client.peer
            );
            *pushes = Replies::new();
            client.has_pushes.store(false);
            self.dropped_clients.fetch_add(1, Ordering::Relaxed);
            client.kill();
        } else {
            client.has_pushes.store(true);
            client.wake();
        }
    }
}

/// Moves what waits to be pushed to `client` to the end of `replies`.
pub(super) fn take_pushes(client: &Client, replies: &mut Replies) {
    if !client.has_pushes.load() {
        return;
    }
    let mut pushes = lock(&client.pushes);
    client.has_pushes.store(false);
    replies.append(&pushes);
    pushes.truncate(0);
    pushes.release_unused(KEPT_PUSH_BYTES);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remember(table: &mut TrackedKeys, key: &[u8], client: u64) {
        table.remember(key, client, usize::MAX / 4, |_| true);
    }

    #[test]
    fn the_table_knows_who_may_have_a_copy() {
        let mut table = TrackedKeys::default();
        for (key, client) in [(b"a", 2), (b"b", 1), (b"a", 1), (b"c", 3), (b"a", 2)] {
            remember(&mut table, key, client);
        }
        assert_eq!(table.take(b"a"), [1, 2]);
        assert!(table.take(b"a").is_empty());
        assert_eq!((table.keys.len(), table.bytes), (2, 2));
        assert_eq!(table.take(b"c"), [3]);
        assert_eq!(table.take(b"b"), [1]);
        assert_eq!((table.keys.len(), table.holders.len(), table.bytes), (0, 0, 0));
        assert_eq!(table.next_key(), None);
    }

    #[test]
    fn every_key_has_its_turn_to_be_dropped() {
        let mut table = TrackedKeys::default();
        (0..100u8).for_each(|key| remember(&mut table, &[key], 1));
        for left in (0..100).rev() {
            let key = table.next_key().expect("a key");
            assert_eq!(table.take(&key), [1]);
            assert_eq!((table.keys.len(), table.holders.len()), (left, left));
        }
    }

    #[test]
    fn clients_that_went_away_do_not_pile_up() {
        let mut table = TrackedKeys::default();
        for client in 0..10_000 {
            table.remember(b"hot", client, 1, |other| other == client);
            assert!(table.holders[&b"hot"[..]].clients.len() <= 11);
        }
        assert!(table.take(b"hot").contains(&9_999));
    }
}
