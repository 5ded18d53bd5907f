//! SCAN keeps the promises of Redis whatever happens meanwhile: it returns every key that is there
//! all the time, it ends, and no cursor is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use boson::block::MemoryNamespace;
use boson::redis::{Config, Server, Session};
use boson::rt::time::MonotonicClock;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, Options};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};

/// A store, and one connection to a server for it.
struct Store {
    executor: Executor,
    db: Db<SimEnv, MemoryNamespace>,
    session: Session<SimEnv, MemoryNamespace>,
}

impl Store {
    fn new() -> Self {
        let executor = Executor::new(1);
        let namespace = MemoryNamespace::new("mem:1G", 1 << 30, 4096).expect("memory");
        let options = Options::default().identity([1; 16]).log_bytes(64 << 20);
        let db = executor.block_on(Db::open_on(executor.env(), namespace, options)).expect("a fresh store");
        let session = connect(&executor, &db);
        Self { executor, db, session }
    }

    /// A new server for the same store, which knows of no cursor.
    fn restart(&mut self) {
        self.session = connect(&self.executor, &self.db);
    }

    fn call(&mut self, request: &str) -> String {
        self.session.feed(request.as_bytes());
        self.session.feed(b"\r\n");
        self.executor.block_on(self.session.run());
        String::from_utf8(self.session.take_replies()).expect("text")
    }

    fn set(&mut self, key: &str) {
        assert_eq!(self.call(&format!("set {key} v")), "+OK\r\n");
    }

    /// One call of SCAN: the next cursor, and the keys.
    fn scan(&mut self, cursor: &str, options: &str) -> (String, Vec<String>) {
        let reply = self.call(&format!("scan {cursor} {options}"));
        assert!(reply.starts_with("*2\r\n$"), "{reply:?}");
        let mut strings =
            reply.split("\r\n").filter(|line| !line.starts_with(['*', '$']) && !line.is_empty());
        let next = strings.next().expect("a cursor").to_owned();
        (next, strings.map(str::to_owned).collect())
    }
}

fn connect(executor: &Executor, db: &Db<SimEnv, MemoryNamespace>) -> Session<SimEnv, MemoryNamespace> {
    let clock = Arc::new(MonotonicClock::new());
    let server =
        Server::new(executor.env(), db.clone(), clock, Config::default()).expect("room for the databases");
    Session::new(&server, "127.0.0.1:1", "127.0.0.1:6380").expect("room for a client")
}

/// Runs this many scans at once; each of them stops somewhere else.
fn interleave(scans: usize) {
    let mut store = Store::new();
    for scan in 0..scans {
        store.call(&format!("mset s{scan}:a 1 s{scan}:b 2 s{scan}:c 3"));
    }
    let mut cursors = vec!["0".to_owned(); scans];
    let mut found = vec![Vec::new(); scans];
    let mut unfinished = scans;
    for _round in 0..4 {
        for (scan, cursor) in cursors.iter_mut().enumerate() {
            if cursor != "0" || found[scan].is_empty() {
                let (next, keys) = store.scan(cursor, &format!("match s{scan}:* count 2"));
                unfinished -= usize::from(next == "0");
                *cursor = next;
                found[scan].extend(keys);
            }
        }
    }
    assert_eq!(unfinished, 0);
    for (scan, found) in found.iter().enumerate() {
        assert_eq!(*found, ["a", "b", "c"].map(|key| format!("s{scan}:{key}")));
    }
}

#[test]
fn five_thousand_scans_at_once_complete() {
    interleave(5_000);
}

#[test]
fn very_many_scans_at_once_complete() {
    let is_long = std::env::var_os("BOSON_TEST_LONG").is_some();
    interleave(if is_long { 100_000 } else { 20_000 });
}

/// More positions than are remembered: the others are found among the keys.
#[test]
fn a_forgotten_position_is_found_again() {
    // With 4,000 bytes each, 16 MiB of positions are forgotten before the scan ends.
    const KEYS: usize = 4_600;
    let mut store = Store::new();
    let key = |index: usize| format!("{index:04}{}", "x".repeat(3_996));
    (0..KEYS).for_each(|index| store.set(&key(index)));
    let mut cursors = vec!["0".to_owned()];
    for index in 0..KEYS - 1 {
        let (next, keys) = store.scan(&cursors[index], "count 1");
        assert_eq!(keys, [key(index)]);
        cursors.push(next);
    }
    for index in (0..600).chain(KEYS - 100..KEYS) {
        let (_, keys) = store.scan(&cursors[index], "count 1");
        assert_eq!(keys, [key(index)], "a scan goes on where it was");
    }
}

#[test]
fn a_scan_goes_on_when_the_server_was_restarted() {
    let mut store = Store::new();
    let keys: Vec<String> = (0..1_000).map(|index| format!("key:{index:03}")).collect();
    keys.iter().for_each(|key| store.set(key));
    let keys_count = keys.len();
    let (mut cursor, mut found) = store.scan("0", "count 7");
    while cursor != "0" {
        store.restart();
        let (next, keys) = store.scan(&cursor, "count 7");
        found.extend(keys);
        cursor = next;
        assert!(found.len() <= keys_count, "the scan starts over");
    }
    assert_eq!(found, keys, "nothing is missing or repeated");
}

/// As in Redis, whatever number a client sends.
#[test]
fn every_number_is_a_cursor() {
    let mut store = Store::new();
    ["a", "b", "c"].iter().for_each(|key| store.set(key));
    for cursor in ["1", "42", "9007199254740991", "9007199254740992", "18446744073709551615", "-1", "+5"] {
        assert_eq!(store.scan(cursor, ""), ("0".to_owned(), ["a", "b", "c"].map(str::to_owned).to_vec()));
    }
    for cursor in ["x", "1x", "18446744073709551616", "-"] {
        assert_eq!(store.call(&format!("scan {cursor}")), "-ERR invalid cursor\r\n");
    }
}

/// One of the scans of the property below.
struct Scan {
    cursor: String,
    count: usize,
    /// The keys that have been there since it began.
    owed: BTreeSet<String>,
    calls: usize,
}

#[test]
fn a_key_that_stays_is_returned_whatever_happens_to_others() {
    const CASES: u64 = 60;
    let first = std::env::var("BOSON_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + CASES {
        let mut random = StdRng::seed_from_u64(seed);
        let mut store = Store::new();
        let mut present = BTreeSet::new();
        let mut scans: BTreeMap<usize, Scan> = BTreeMap::new();
        let mut completed = 0;
        let restarts = random.random_bool(0.3);
        let new_key = |random: &mut StdRng| format!("k{:03}", random.random_range(0..400));
        for _ in 0..random.random_range(0..300) {
            let key = new_key(&mut random);
            store.set(&key);
            present.insert(key);
        }
        for started in 0.. {
            if started < 20 && random.random_bool(0.5) {
                let count = random.random_range(2..30);
                let scan = Scan { cursor: "0".to_owned(), count, owed: present.clone(), calls: 0 };
                scans.insert(started, scan);
            } else if started >= 20 && scans.is_empty() {
                break;
            }
            if restarts && random.random_bool(0.02) {
                store.restart();
            }
            // Fewer new keys than a scan visits, so that it gets ahead of them.
            if random.random_bool(0.5) {
                let key = new_key(&mut random);
                store.set(&key);
                present.insert(key);
            }
            let Some((&number, scan)) = scans.iter_mut().choose(&mut random) else { continue };
            let (next, keys) = store.scan(&scan.cursor, &format!("count {}", scan.count));
            (scan.cursor, scan.calls) = (next, scan.calls + 1);
            keys.iter().for_each(|key| {
                scan.owed.remove(key);
            });
            assert!(scan.calls < 2_000, "BOSON_SEED={seed}: the scan does not end");
            if scan.cursor == "0" {
                assert!(scan.owed.is_empty(), "BOSON_SEED={seed}: never returned: {:?}", scan.owed);
                scans.remove(&number);
                completed += 1;
            }
            // Often the very key at which the scan stopped.
            let deleted =
                if random.random_bool(0.5) { keys.last() } else { present.iter().choose(&mut random) };
            if let Some(key) = deleted.cloned().filter(|_| random.random_bool(0.7)) {
                store.call(&format!("del {key}"));
                present.remove(&key);
                scans.values_mut().for_each(|scan| {
                    scan.owed.remove(&key);
                });
            }
        }
        assert!(completed > 0 || first != 1, "BOSON_SEED={seed}: no scan");
    }
}
