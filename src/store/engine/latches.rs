//! Writes of several cores to the same keys: one after the other, and seen whole.
//!
//! On one core nothing comes in between where nothing awaits. For other cores, a step that writes
//! holds the *latches* of its keys from what it reads to its record. A step is some µs: whoever
//! finds a latch taken spins. Steps that read, and do not write, take none: they look before and
//! after whether anybody was there (a sequence lock), and start over if so.
//!
//! A latch is one of [`LATCHES`] for all keys, by their hash. A step that has several takes them in
//! the order of their places, so none waits for one that waits for it; and it awaits nothing while
//! it has one. What takes longer than a step, such as a large transaction, keeps others away by
//! other means ([`pending`](super::pending)), and waits once for the steps that began before.
//!
//! | | latches of | from | to |
//! |---|---|---|---|
//! | a write ([`operations`](super::operations)) | its key | the look whether it may be written | its record |
//! | an update ([`update`](super::update)) | its key | the same | its record |
//! | a transaction ([`transaction`](super::transaction)) | all declared keys | the same | its record |
//! | a read of several keys | none; all of them if others come in between again and again | | |
//!
//! A read of one key needs none: it sees one write or another, whole.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::store::btree::TreeRoot;

/// So many, of a cache line each; a power of two, of which two bytes of a hash are a fair draw.
const LATCHES: usize = 1024;
/// So often whoever waits looks before it lets other threads run: the core that has the latch may
/// have no processor.
const SPINS: u32 = 128;
/// Places of so many keys need no memory of their own.
const FEW: usize = 4;

/// Odd while somebody has it; 2 more after each.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Latch(AtomicU64);

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Latches(Box<[Latch]>);

/// A key of a tree.
type Key<'k> = (TreeRoot, &'k [u8]);
/// In order, each once.
type Places = SmallVec<[usize; FEW]>;

/// The latches of a step. It must not await while it has them.
#[must_use]
pub(super) struct Latched<'l> {
    latches: &'l Latches,
    places: Places,
}

/// What the latches of some keys were when nobody had them.
pub(super) struct Moment {
    were: SmallVec<[(usize, u64); FEW]>,
}

fn place(tree: u32, key: &[u8]) -> usize {
    let [first, second, ..] = xxh3_64_with_seed(key, tree.into()).to_le_bytes();
    usize::from(u16::from_le_bytes([first, second])) % LATCHES
}

fn places(keys: &[Key<'_>]) -> Places {
    let mut places: Places = keys.iter().map(|(tree, key)| place(tree.tree, key)).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// Until `look` finds what it looks for.
fn spin<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let mut spins = 0;
    loop {
        if let Some(found) = look() {
            return found;
        }
        spins += 1;
        if spins % SPINS == 0 {
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}

impl Default for Latches {
    fn default() -> Self {
        Self((0..LATCHES).map(|_| Latch::default()).collect())
    }
}

impl Latches {
    /// Takes that of one key.
    pub(super) fn take(&self, (tree, key): Key<'_>) -> Latched<'_> {
        let mut places = Places::new();
        places.push(place(tree.tree, key));
        self.take_places(places)
    }

    /// Takes those of all these keys.
    pub(super) fn take_all(&self, keys: &[Key<'_>]) -> Latched<'_> {
        self.take_places(places(keys))
    }

    fn take_places(&self, places: Places) -> Latched<'_> {
        for place in &places {
            let latch = &self.0[*place].0;
            spin(|| {
                let free = latch.load(Ordering::Relaxed) & !1;
                latch.compare_exchange_weak(free, free + 1, Ordering::Acquire, Ordering::Relaxed).ok()
            });
        }
        // Whoever sees what is written now sees afterwards that the latch is taken.
        fence(Ordering::Release);
        Latched { latches: self, places }
    }

    /// Waits until everybody who has a latch now, of whatever key, has given it back.
    pub(super) fn wait_for_holders(&self) {
        (0..LATCHES).for_each(|place| drop(self.take_places(std::iter::once(place).collect())));
    }

    /// A moment at which nobody had them, from which on what is read of the keys is read.
    pub(super) fn moment(&self, keys: &[Key<'_>]) -> Moment {
        let free = |place: usize| {
            let latch = self.0[place].0.load(Ordering::Acquire);
            latch.is_multiple_of(2).then_some((place, latch))
        };
        Moment { were: places(keys).into_iter().map(|place| spin(|| free(place))).collect() }
    }

    /// Whether nobody has written to one of the keys since.
    pub(super) fn is_still(&self, moment: &Moment) -> bool {
        fence(Ordering::Acquire);
        moment.were.iter().all(|(place, was)| self.0[*place].0.load(Ordering::Relaxed) == *was)
    }
}

impl Drop for Latched<'_> {
    fn drop(&mut self) {
        for place in &self.places {
            self.latches.0[*place].0.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::word::{ChildWord, Epoch, PageId};

    fn keys(names: &[[u8; 1]]) -> Vec<Key<'_>> {
        names
            .iter()
            .map(|name| {
                (
                    TreeRoot { tree: 7, root: ChildWord::new(PageId::new(1).expect("an id"), Epoch::FIRST) },
                    &name[..],
                )
            })
            .collect()
    }

    #[test]
    fn a_moment_is_over_when_one_of_its_keys_was_latched() {
        let (latches, names) = (Latches::default(), [[1], [2], [1]]);
        let all = keys(&names);
        let moment = latches.moment(&all);
        assert!(latches.is_still(&moment));
        drop(latches.take_all(&keys(&[[3], [4]])));
        assert!(latches.is_still(&moment), "the hashes are others");
        let latched = latches.take(all[1]);
        assert!(!latches.is_still(&moment));
        drop(latched);
        assert!(!latches.is_still(&moment));
        assert!(latches.is_still(&latches.moment(&all)));
    }

    #[test]
    fn who_wants_the_same_keys_in_any_order_waits_and_gets_them() {
        let (latches, sum) = (Latches::default(), std::cell::Cell::new(0_u64));
        struct Guarded<'c>(&'c std::cell::Cell<u64>);
        // SAFETY: the cell is read and written only with the latches of the keys, by one thread at
        // a time; that is what the test is about.
        unsafe impl Sync for Guarded<'_> {}
        let guarded = Guarded(&sum);
        std::thread::scope(|scope| {
            for names in [[[1], [2], [3]], [[3], [1], [9]], [[2], [3], [3]]] {
                let (latches, guarded) = (&latches, &guarded);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        let _latched = latches.take_all(&keys(&names));
                        let Guarded(sum) = guarded;
                        sum.set(sum.get() + 1);
                    }
                });
            }
        });
        assert_eq!(sum.get(), 60_000);
    }
}
