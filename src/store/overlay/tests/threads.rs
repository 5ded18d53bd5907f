//! Writers, readers and the drain at the same time: nobody reads what is older than what was
//! acknowledged before, and nothing is brought into the tree twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;

const KEYS: usize = 600;
/// Keys from here on are in a deleted range.
const RANGE: usize = 400;
const TREE: TreeRoot = TreeRoot { tree: 1, root: 7 };

/// A tree of versions: 0 was in its pages before the log, the log's is 1, and later ones are
/// written.
struct Versions {
    overlay: Overlay,
    tree: Vec<Mutex<u64>>,
    acknowledged: Vec<AtomicU64>,
}

fn key(at: usize) -> [u8; 8] {
    (at as u64).to_be_bytes()
}

impl Versions {
    fn new() -> Self {
        let keys: Vec<_> = (0..RANGE).map(key).collect();
        let mut operations: Vec<_> = keys.iter().map(|key| put(1, key, b"1")).collect();
        let from = key(RANGE);
        operations.push(Operation::DeleteRange { tree: 1, from: &from, to: b"" });
        Self {
            overlay: overlay_of(&operations),
            tree: (0..KEYS).map(|_| Mutex::new(0)).collect(),
            acknowledged: (0..KEYS).map(|_| AtomicU64::new(1)).collect(),
        }
    }

    fn in_tree(&self, at: usize) -> std::sync::MutexGuard<'_, u64> {
        self.tree[at].lock().expect("no panic")
    }

    fn install(&self, at: usize, claim: Claim<'_>) {
        let mut version = self.in_tree(at);
        assert_eq!(*version, 0, "key {at} is brought into the tree once, before it is written");
        *version = 1;
        drop(version);
        claim.finish();
    }

    /// Brings a key into the tree, and lets others run while it is busy.
    fn claim(&self, at: usize) {
        loop {
            match self.overlay.claim(TREE, &key(at)) {
                Claimed::Nothing => return,
                Claimed::Busy => thread::yield_now(),
                // Now and then the tree says no.
                Claimed::Mine(claim) if at.is_multiple_of(7) && *self.in_tree(at) == 0 => {
                    if self.acknowledged[at].fetch_add(0, Ordering::Relaxed) == 1 && rarely(at) {
                        drop(claim);
                    } else {
                        self.install(at, claim);
                    }
                }
                Claimed::Mine(claim) => self.install(at, claim),
            }
        }
    }

    fn write(&self, at: usize) {
        self.claim(at);
        let mut version = self.in_tree(at);
        *version += 1;
        let written = *version;
        drop(version);
        self.acknowledged[at].fetch_max(written, Ordering::SeqCst);
    }

    fn read(&self, at: usize) -> u64 {
        match self.overlay.get(TREE, &key(at)) {
            Some(_) => 1,
            None => *self.in_tree(at),
        }
    }

    /// Reads keys as scans do: the view, then the tree.
    fn scan(&self, from: usize, to: usize) {
        let before: Vec<_> = (from..to).map(|at| self.acknowledged[at].load(Ordering::SeqCst)).collect();
        let (first, last) = (key(from), key(to));
        let bounds = (Bound::Included(first.as_slice()), Bound::Excluded(last.as_slice()));
        let view = self.overlay.view(TREE, bounds, Direction::Forwards, usize::MAX);
        for (at, before) in (from..to).zip(before) {
            let version = if view.hides(&key(at)) { 1 } else { *self.in_tree(at) };
            assert!(version >= before, "a scan finds {version} of key {at}, and {before} was acknowledged");
        }
    }

    fn drain(&self) {
        let mut hand = Hand::default();
        while !self.overlay.is_drained() {
            for taken in self.overlay.take_next(&mut hand, 16, |_| Some(7)) {
                if let Claimed::Mine(claim) = self.overlay.claim_at(taken) {
                    let at = u64::from_be_bytes(claim.record().key.try_into().expect("8 bytes"));
                    self.install(usize::try_from(at).expect("a key"), claim);
                }
            }
            let Some(range) = self.overlay.next_range(|_| Some(7)) else { continue };
            let from = u64::from_be_bytes((*range.from()).try_into().expect("8 bytes"));
            let from = usize::try_from(from).expect("a key");
            let to = KEYS.min(from + 5);
            for at in from..to {
                self.claim(at);
            }
            let next = key(to);
            while !range.pass((to < KEYS).then_some(&next)) {
                thread::yield_now();
            }
        }
    }
}

/// By a number that differs from call to call.
fn rarely(at: usize) -> bool {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    (CALLS.fetch_add(1, Ordering::Relaxed) + at as u64).is_multiple_of(3)
}

fn run(writers: u64, seed: u64) {
    let versions = Versions::new();
    let versions = &versions;
    thread::scope(|scope| {
        for writer in 0..writers {
            scope.spawn(move || {
                let mut random = seed * 77 + writer + 1;
                for _ in 0..2000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let at = usize::try_from(random >> 33).expect("31 bits") % KEYS;
                    let before = versions.acknowledged[at].load(Ordering::SeqCst);
                    let read = versions.read(at);
                    assert!(read >= before, "key {at} reads {read}, and {before} was acknowledged");
                    if random.is_multiple_of(3) {
                        versions.write(at);
                    }
                    if random.is_multiple_of(31) {
                        versions.scan(at.saturating_sub(20), at);
                    }
                }
            });
        }
        scope.spawn(|| versions.drain());
    });
    assert!(versions.overlay.is_drained());
    for at in 0..KEYS {
        let version = *versions.in_tree(at);
        assert!(version >= versions.acknowledged[at].load(Ordering::SeqCst) && version >= 1, "key {at}");
    }
}

#[test]
fn one_writer_and_the_drain() {
    (0..20).for_each(|seed| run(1, seed));
}

#[test]
fn three_writers_and_the_drain() {
    (0..20).for_each(|seed| run(3, seed));
}
