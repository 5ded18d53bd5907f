//! Threads that write, look up and scan one small tree: the program that shuttle schedules, and
//! that the machine's own threads run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[cfg(shuttle)]
use shuttle::thread;
#[cfg(not(shuttle))]
use std::thread;

use super::arena::Arena;
use super::audit::{check, finish, get, scan_down, scan_up, write};
use super::model::Key;

pub(super) type Small = Arena<2, 3>;

/// What a writer does: `(key, value)`, in order. Writers have different keys.
type Writes = &'static [(Key, Option<u32>)];

/// A first tree and what two writers do to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    /// Keys of the first tree that nobody touches, with themselves as values.
    stay: &'static [Key],
    /// Keys that the first tree has besides.
    go: &'static [Key],
    writers: [Writes; 2],
}

/// Splits of three leaves, up to the root, while others are emptied and one is filled again.
pub(super) const SPLIT_AND_REMOVE: Program = Program {
    stay: &[200, 500],
    go: &[100, 300, 400, 600],
    writers: [
        &[(410, Some(1)), (420, Some(2)), (110, Some(3)), (120, Some(4)), (430, Some(5)), (410, None)],
        &[(300, None), (400, None), (100, None), (600, None), (310, Some(6)), (310, None)],
    ],
};

/// All leaves of one of two parents are emptied, while those of the other split.
pub(super) const COLLAPSE: Program = Program {
    stay: &[100, 200],
    go: &[300, 400, 500, 600],
    writers: [
        &[(210, Some(1)), (220, Some(2)), (110, Some(3)), (120, Some(4)), (210, None), (220, None)],
        &[(600, None), (500, None), (300, None), (400, None), (410, Some(6)), (410, None)],
    ],
};

/// Neighbours become small together, and one of them is written to meanwhile.
pub(super) const PACK: Program = Program {
    stay: &[100, 200, 300, 400],
    go: &[110, 210, 310, 410],
    writers: [
        &[(110, None), (120, Some(1)), (310, None), (320, Some(2)), (120, None), (320, None)],
        &[(210, None), (220, Some(3)), (410, None), (230, Some(4)), (220, None), (230, None)],
    ],
};

fn is_sorted(entries: &[(Key, u32)]) -> bool {
    entries.windows(2).all(|two| two[0].0 < two[1].0)
}

fn has_all(entries: &[(Key, u32)], keys: &[Key]) -> bool {
    keys.iter().all(|key| entries.contains(&(*key, *key)))
}

/// Runs two writers, one that looks up and scans forwards, and one that scans backwards.
pub(super) fn run(tree: Small, program: Program, rounds: usize) {
    let Program { stay, go, writers } = program;
    let tree = Arc::new(tree);
    let mut truth = BTreeMap::new();
    for key in stay.iter().chain(go).copied().collect::<BTreeSet<_>>() {
        write(&&*tree, key, Some(key));
        truth.insert(key, key);
    }
    let mut threads = Vec::new();
    for writes in writers {
        let tree = Arc::clone(&tree);
        threads.push(thread::spawn(move || {
            let mut mine = go.iter().map(|key| (*key, *key)).collect::<BTreeMap<_, _>>();
            for (key, value) in (0..rounds).flat_map(|_| writes) {
                assert_eq!(write(&&*tree, *key, *value), mine.get(key).copied(), "nobody else writes {key}");
                match value {
                    Some(value) => mine.insert(*key, *value),
                    None => mine.remove(key),
                };
                assert_eq!(get(&&*tree, *key), *value, "what was written to {key} is found");
            }
        }));
        for (key, value) in writes {
            match value {
                Some(value) => truth.insert(*key, *value),
                None => truth.remove(key),
            };
        }
    }
    let forwards = Arc::clone(&tree);
    threads.push(thread::spawn(move || {
        for _ in 0..rounds {
            for key in stay {
                assert_eq!(get(&&*forwards, *key), Some(*key), "what stays is found");
            }
            let entries = scan_up(&&*forwards);
            assert!(is_sorted(&entries) && has_all(&entries, stay), "{entries:?}");
        }
    }));
    let backwards = Arc::clone(&tree);
    threads.push(thread::spawn(move || {
        for _ in 0..rounds {
            let mut entries = scan_down(&&*backwards);
            entries.reverse();
            assert!(is_sorted(&entries) && has_all(&entries, stay), "{entries:?}");
        }
    }));
    for thread in threads {
        thread.join().expect("it ends");
    }
    finish(&&*tree).expect("everything is visited");
    check(&&*tree, tree.ids(), &[], &truth).unwrap_or_else(|wrong| panic!("{wrong}"));
}
