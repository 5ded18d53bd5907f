//! Transactions: several keys, in any trees, read and changed in one step.
//!
//! | step | awaits | what it makes sure of |
//! |---|---|---|
//! | the overlay's entries of all keys are brought over, all leaves are loaded | yes | nothing is missing later |
//! | room in memory and in the log | yes | nothing has to be waited for later |
//! | all keys are read, and the closure runs | no | it sees one moment |
//! | one number is drawn; each change goes into its leaf under it | no | |
//! | one record has all changes | no | a crash leaves all of them, or none |
//!
//! If a page turns out to be missing in the third step it begins again. From then on nothing
//! awaits, so no other task of this core comes in between; the [latches](super::latches) of the
//! keys keep the writes of other cores away.
//!
//! The pages may be written with some of the changes before the record is in the log: no bundle is
//! named before a batch that has all numbers in its pages.
//!
//! # Room for the record
//!
//! It is taken before the closure runs, for the longest value of each key, or for the longest
//! record that there may be.
//!
//! # Long values
//!
//! One that is to be read is read before the third step, which begins again if the key refers to
//! another one by then. One that is written, or replaced, makes the transaction a longer one
//! ([`long`]): the closure runs, what it saw is noted, the new values are written, and the changes
//! are made if the keys still have what it saw. If not it runs again. So it has to do the same for
//! the same values, but for what it returns: its last call counts.
//!
//! # Large transactions
//!
//! A transaction is *large*, and goes another way ([`large`]), if it has more than [`MANY_KEYS`]
//! keys, if its changes are longer than a record, or if the leaves of its keys are not in memory
//! all at once after [`TRIES`] tries.
//!
//! # If memory runs out between two changes
//!
//! There is memory for [`BYTES_PER_KEY`] for each key before the first, an eighth of the cache at
//! most; changes may use the reserve besides; and where even that is not enough, clean pages are
//! evicted at once. If all of it fails, the changes that are left go to an overlay of records in
//! the same step ([`overlays`](super::overlays)), as they do after a crash: the record has all of
//! them.

mod large;
mod long;
mod parts;
mod read;
mod remains;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::ops::Range;

pub use self::read::Reading;
use smallvec::{SmallVec, smallvec};

use super::change::{Kept, OneChange, To};
use super::core_store::CoreStore;
use super::counts::{Count, count};
use super::operations::{operation, overlaid, reference_of};
use super::space::account::{Kind, grows_by};
use super::update::{LONGEST_VALUE, effect_of};
use super::values::INLINE_BYTES;
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::store::btree::{Change, Known, Miss, Refusal, TreeRoot, Value};
use crate::store::cache::Room;
use crate::store::env::Env;
use crate::store::options::{Durability, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::store::overlay::{Newest, SortedBuilder, Span};
use crate::store::wal::{Effect, Operation, Room as LogRoom};

/// What a change takes of the memory if its leaf is split: two leaves, and a part of the page
/// above.
const BYTES_PER_KEY: u64 = 16 << 10;
/// A transaction with more keys is large: to read so many in one step takes long enough.
const MANY_KEYS: usize = 512;
/// How often the leaves of a transaction's keys are loaded until it is large.
const TRIES: u32 = 8;

/// No longer buffer is kept for the next transaction.
const KEPT_BYTES: usize = 64 << 10;

/// A declared key, and its tree.
pub(in crate::store) type Key<'k> = (TreeRoot, &'k [u8]);

/// What a transaction did to a key so far: nothing, a value among the staged bytes, a deletion.
#[derive(Clone, Debug)]
enum Staged {
    Nothing,
    Put(Range<usize>),
    Delete,
}

/// What is kept of so many keys needs no memory of its own: most transactions have one or two.
const FEW: usize = 2;

/// What was found of each key.
type Found<'t> = SmallVec<[Option<&'t [u8]>; FEW]>;
/// For each place, the first one of the same key.
type Places = SmallVec<[usize; FEW]>;

/// What the closure of a transaction sees: the declared keys, and what it has written to them.
///
/// A key is named by its tree and itself; the methods that end in `_at` take its place in the list
/// of declared keys instead. A key that is declared twice is one. Nothing that the closure writes
/// reaches the store before it has returned; then all of it does, or nothing.
///
/// # Panics
///
/// Its methods panic for a key that was not declared.
pub struct Transaction<'t> {
    keys: &'t [Key<'t>],
    found: Found<'t>,
    /// For each place, the first one of the same key.
    first: Places,
    writes: SmallVec<[Staged; FEW]>,
    staged: Vec<u8>,
    /// Where each key is, made when a key of many is first asked for by name.
    places: OnceCell<HashMap<(u32, &'t [u8]), usize>>,
}

impl std::fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Txn").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Transaction<'_> {
    /// How many keys were declared.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none was declared.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The place of a declared key.
    pub(in crate::store) fn place_of(&self, tree: u32, key: &[u8]) -> Option<usize> {
        if self.keys.len() <= FEW_KEYS {
            return self.keys.iter().position(|(of, declared)| of.tree == tree && *declared == key);
        }
        let all = || self.keys.iter().enumerate().map(|(at, (of, key))| ((of.tree, *key), at)).collect();
        self.places.get_or_init(all).get(&(tree, key)).copied()
    }

    /// The value of a key, as this transaction sees it.
    pub fn get_at(&self, place: usize) -> Option<&[u8]> {
        let place = self.first[place];
        match &self.writes[place] {
            Staged::Put(range) => Some(&self.staged[range.clone()]),
            Staged::Delete => None,
            Staged::Nothing => self.found[place],
        }
    }

    /// Whether a key is there, as this transaction sees it.
    pub fn contains_at(&self, place: usize) -> bool {
        self.get_at(place).is_some()
    }

    /// Puts `value`.
    pub fn put_at(&mut self, place: usize, value: &[u8]) {
        self.put_parts_at(place, &[value]);
    }

    /// Puts the concatenation of `parts`.
    pub fn put_parts_at(&mut self, place: usize, parts: &[&[u8]]) {
        let start = self.staged.len();
        parts.iter().for_each(|part| self.staged.extend_from_slice(part));
        self.writes[self.first[place]] = Staged::Put(start..self.staged.len());
    }

    /// Deletes a key; whether it was there.
    pub fn delete_at(&mut self, place: usize) -> bool {
        let was_there = self.get_at(place).is_some();
        self.writes[self.first[place]] = Staged::Delete;
        was_there
    }

    /// Takes everything back that was put or deleted so far.
    pub fn discard(&mut self) {
        self.writes.fill(Staged::Nothing);
        self.staged.clear();
    }

    /// What it changes, without the deletions of what is not there.
    fn finish(self, mut list: Vec<OneChange>) -> Changes {
        let puts = self.writes.iter().enumerate().filter_map(|(place, write)| match write {
            Staged::Put(range) => Some((place, &self.staged[range.clone()])),
            Staged::Nothing | Staged::Delete => None,
        });
        let adds = puts
            .map(|(place, value)| {
                grows_by(self.keys[place].1, self.found[place].map(<[u8]>::len), Change::Put(value))
            })
            .fold((0, Kind::Replaces), |(all, kind), (more, of)| (all + more, kind.and(of)));
        let all = self.writes.into_iter().zip(&self.found).enumerate();
        list.extend(all.filter_map(|(place, (write, found))| {
            let to = match write {
                Staged::Put(range) => To::Put(range),
                Staged::Delete if found.is_some() => To::Delete,
                Staged::Delete | Staged::Nothing => return None,
            };
            let change = if to == To::Delete { Change::Delete } else { Change::Put(&[]) };
            Some(OneChange { place, effect: effect_of(found.is_some(), change), to })
        }));
        Changes { list, staged: self.staged, adds }
    }
}

/// What a transaction changes.
struct Changes {
    list: Vec<OneChange>,
    staged: Vec<u8>,
    /// What they add to the store at most, in bytes, if no value is long.
    adds: (u64, Kind),
}

impl Changes {
    fn iter<'c>(&'c self, keys: &'c [Key<'c>]) -> impl Iterator<Item = (Key<'c>, Change<'c>, Effect)> {
        self.some(keys, 0..self.list.len())
    }

    fn some<'c>(
        &'c self,
        keys: &'c [Key<'c>],
        some: Range<usize>,
    ) -> impl Iterator<Item = (Key<'c>, Change<'c>, Effect)> {
        self.list[some].iter().map(|OneChange { place, to, effect }| {
            let change = match to {
                To::Put(range) => Change::Put(&self.staged[range.clone()]),
                To::Reference(reference) => Change::PutReference(reference),
                To::Delete => Change::Delete,
            };
            (keys[*place], change, *effect)
        })
    }

    fn operations<'c>(&'c self, keys: &'c [Key<'c>]) -> impl Iterator<Item = Operation<'c>> {
        self.operations_in(keys, 0..self.list.len())
    }

    /// The operations of some of the changes.
    fn operations_in<'c>(
        &'c self,
        keys: &'c [Key<'c>],
        some: Range<usize>,
    ) -> impl Iterator<Item = Operation<'c>> {
        self.some(keys, some).map(|((tree, key), change, effect)| operation(tree, key, change, effect))
    }

    /// The length of their record, in bytes.
    fn record_bytes(&self, keys: &[Key<'_>]) -> usize {
        self.operations(keys).map(|operation| operation.encoded_len()).sum()
    }

    /// Whether a value does not lie with its key: one that is put, or one of those that are `seen`
    /// and go.
    fn has_long(&self, seen: &[Option<Value<'_>>]) -> bool {
        self.list.iter().any(|change| {
            let is_long = matches!(&change.to, To::Put(range) if range.len() > INLINE_BYTES);
            is_long || seen[change.place].is_some_and(|seen| seen.is_reference)
        })
    }

    fn check(&self) -> Result<()> {
        let is_too_long =
            |change: &OneChange| matches!(&change.to, To::Put(range) if range.len() > MAX_VALUE_BYTES);
        if self.list.iter().any(is_too_long) {
            return too_long_a_value();
        }
        Ok(())
    }
}

pub(super) fn too_long_a_value<T>() -> Result<T> {
    refused("the value is longer than a store takes")
}

fn refused<T>(why: &str) -> Result<T> {
    let error = Error::new(ErrorKind::InvalidInput, "write to store").because(why.to_owned());
    Err(error.outcome_is(Outcome::NotStarted))
}

/// So few keys are compared with each other rather than hashed.
const FEW_KEYS: usize = 8;

/// The first place of each place's key.
fn first_places(keys: &[Key<'_>]) -> Places {
    if keys.len() <= FEW_KEYS {
        let is_same = |(a, key): &Key<'_>, (b, other): &Key<'_>| a.tree == b.tree && key == other;
        let first = |(at, key)| keys[..at].iter().position(|before| is_same(before, key)).unwrap_or(at);
        return keys.iter().enumerate().map(first).collect();
    }
    let mut first = HashMap::with_capacity(keys.len());
    let places = keys.iter().enumerate();
    places.map(|(at, (tree, key))| *first.entry((tree.tree, *key)).or_insert(at)).collect()
}

/// Runs the closure on what was found of the keys, with the first place of each.
fn run_on<'t, R>(
    keys: &'t [Key<'t>],
    (found, first): (Found<'t>, Places),
    (list, staged): Kept,
    run: &mut impl FnMut(&mut Transaction<'_>) -> R,
) -> Result<(R, Changes)> {
    let writes = smallvec![Staged::Nothing; keys.len()];
    let mut transaction = Transaction { keys, found, first, writes, staged, places: OnceCell::new() };
    let result = run(&mut transaction);
    let changes = transaction.finish(list);
    changes.check()?;
    Ok((result, changes))
}

/// What a transaction's closure asks of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reads {
    All,
    /// Whether they are there. Long values are not read, and look empty.
    Presence,
}

/// Whose keys are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Those of trees that have names, as long as they have them.
    Named,
    /// Those of a tree that nobody can reach any more.
    Dying,
}

/// What became of an attempt to run a transaction.
enum Attempt<R> {
    Missed(Miss),
    /// A long value was replaced after it was read.
    Outdated,
    /// Its changes are longer than a record.
    Large,
    Ran(R, Changes),
    /// The same, and the changes are not to be made without what the closure [saw](long::Seen).
    Long(R, Changes, long::Seen),
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Lets `run` read and change these keys in one step. What it returned, and the number of the
    /// write, if it changed something. It may be called several times; see the head of the module.
    ///
    /// # Errors
    ///
    /// As for [`CoreStore::write`], and [`ErrorKind::LimitReached`] if the changes are longer than
    /// a part of the log; nothing was changed. If one of the trees has lost its name it is to
    /// be looked up again ([`lost_name`](super::dying::lost_name)).
    pub(in crate::store) async fn transact<R>(
        &self,
        keys: &[Key<'_>],
        durability: Durability,
        run: impl FnMut(&mut Transaction<'_>) -> R,
    ) -> Result<(R, Option<u64>)> {
        self.transact_reading(Reads::All, keys, durability, run).await
    }

    /// The same where the closure may not ask for all that there is.
    pub(super) async fn transact_reading<R>(
        &self,
        reads: Reads,
        keys: &[Key<'_>],
        durability: Durability,
        mut run: impl FnMut(&mut Transaction<'_>) -> R,
    ) -> Result<(R, Option<u64>)> {
        if keys.iter().any(|(_, key)| key.len() > MAX_KEY_BYTES) {
            return refused("a key is longer than a store takes");
        }
        if keys.len() > MANY_KEYS {
            return Box::pin(self.transact_large((reads, durability), keys, &mut run)).await;
        }
        let longest = |(tree, key): &Key<'_>| {
            operation(*tree, key, Change::Put(LONGEST_VALUE), Effect::Unknown).encoded_len()
        };
        let most = keys.iter().map(longest).sum::<usize>().min(self.log.log().max_record_bytes());
        let (mut long, mut failed, mut asked, mut tries) = (long::Values::new(), None, 0, 0);
        // Long values that are written, and that the closure may put once more.
        let mut spare = long::Spare::default();
        loop {
            self.wait_for_log().await?;
            self.prepare(keys).await?;
            if reads == Reads::All && !self.read_long(keys, &mut long, &mut failed).await? {
                continue;
            }
            let mut room = self.log_room(most).await?;
            let latched = self.shared.latches.take_all(keys);
            if !self.may_change(keys) {
                continue;
            }
            self.check_trees(keys)?;
            // Nothing awaits from here to the record.
            if let Err(refusal) = self.is_ready(keys) {
                drop((room, latched));
                tries += 1;
                if tries >= TRIES {
                    break;
                }
                self.overcome(refusal).await?;
                continue;
            }
            let attempt = self.attempt(keys, (reads, &long), &mut run)?;
            // Once more: a tree that was cleared on another core is taken apart there.
            self.check_trees(keys)?;
            let (result, changes) = match attempt {
                Attempt::Ran(result, changes) => (result, changes),
                Attempt::Outdated => continue,
                Attempt::Large => break,
                Attempt::Missed(miss) => {
                    drop((room, latched));
                    Box::pin(self.load(miss)).await?;
                    continue;
                }
                Attempt::Long(result, changes, seen) => {
                    drop((room, latched));
                    let given = (&seen, std::mem::take(&mut spare));
                    let carried = self.carry_out(keys, changes, given, (durability, Reach::Named));
                    // Boxed, as what is rare: whoever waits holds this future.
                    match Box::pin(carried).await? {
                        long::Carried::Out(number) => return Ok((result, Some(number))),
                        long::Carried::Changed(left) => {
                            spare = left;
                            continue;
                        }
                        long::Carried::Large => break,
                    }
                }
            };
            if changes.list.is_empty() {
                self.keep_memory(changes);
                return Ok((result, None));
            }
            if !self.shared.space.admit(changes.adds.0, changes.adds.1) {
                drop((room, latched));
                Box::pin(self.ask_for_room(&mut asked)).await?;
                continue;
            }
            let number = self.apply(keys, &changes, &mut room);
            drop((room, latched));
            self.log.commit(number, durability);
            self.keep_memory(changes);
            return Ok((result, Some(number)));
        }
        Box::pin(self.transact_large((reads, durability), keys, &mut run)).await
    }

    /// The memory of changes that are made is kept for the next ones, unless it is much.
    fn keep_memory(&self, Changes { mut list, mut staged, .. }: Changes) {
        list.clear();
        staged.clear();
        if list.capacity() <= MANY_KEYS && staged.capacity() <= KEPT_BYTES {
            self.kept.set((list, staged));
        }
    }

    /// Runs the transaction on what the keys have now, unless a page is missed.
    fn attempt<R>(
        &self,
        keys: &[Key<'_>],
        (reads, long): (Reads, &long::Values),
        run: &mut impl FnMut(&mut Transaction<'_>) -> R,
    ) -> Result<Attempt<R>> {
        let pin = self.core.pin();
        let seen: std::result::Result<SmallVec<[_; FEW]>, Miss> =
            keys.iter().map(|(tree, key)| pin.get(*tree, key)).collect();
        let seen = match seen {
            Ok(seen) => seen,
            Err(miss) => return Ok(Attempt::Missed(miss)),
        };
        let mut found = Found::with_capacity(keys.len());
        for seen in &seen {
            found.push(match seen {
                Some(seen) if seen.is_reference && reads == Reads::Presence => Some(&[][..]),
                Some(seen) if seen.is_reference => match long.get(&reference_of(seen.value)) {
                    Some(value) => Some(&value[..]),
                    None => return Ok(Attempt::Outdated),
                },
                seen => seen.map(|seen| seen.value),
            });
        }
        let kept = self.kept.take();
        let (result, changes) = run_on(keys, (found, first_places(keys)), kept, run)?;
        if changes.record_bytes(keys) > self.log.log().max_record_bytes() && !changes.has_long(&seen) {
            return Ok(Attempt::Large);
        }
        Ok(if changes.has_long(&seen) {
            Attempt::Long(result, changes, long::Seen::new(&seen))
        } else {
            Attempt::Ran(result, changes)
        })
    }

    /// Brings over what the overlay has of the keys, loads their leaves, and waits for memory.
    pub(super) async fn prepare(&self, keys: &[Key<'_>]) -> Result<()> {
        for (tree, key) in keys {
            self.bring_over(*tree, key).await?;
            loop {
                let leaf = self.core.pin_with(Room::Reserve).leaf_for(*tree, key);
                match leaf {
                    Ok(_) => break,
                    Err(refusal) => self.overcome(refusal).await?,
                }
            }
        }
        while !self.has_memory(keys.len()) {
            self.shared.check_writable("write to store")?;
            Box::pin(self.wait_for_memory()).await?;
        }
        Ok(())
    }

    /// Whether the leaves are in memory that writes to these keys go to. Some may have been evicted
    /// while others were waited for.
    pub(super) fn is_ready(&self, keys: &[Key<'_>]) -> std::result::Result<(), Refusal> {
        let pin = self.core.pin_with(Room::Reserve);
        keys.iter().try_for_each(|(tree, key)| pin.leaf_for(*tree, key).map(drop))
    }

    /// Whether these keys may be changed in this step: nobody has them, and there is memory. If not
    /// whoever wants to starts over: others came while it waited for the log.
    pub(super) fn may_change(&self, keys: &[Key<'_>]) -> bool {
        keys.iter().all(|(tree, key)| self.may_write(*tree, key)) && self.has_memory(keys.len())
    }

    /// Whether there is memory to change so many keys.
    fn has_memory(&self, keys: usize) -> bool {
        let account = self.shared.memory.account();
        let ordinary = account.limit_bytes() - account.reserve_bytes();
        let wanted = (keys as u64 * BYTES_PER_KEY).min(ordinary / 8);
        account.used_bytes() + wanted <= ordinary
    }

    /// What makes room for one change is not to evict the leaf of another.
    fn spare_leaves(&self, keys: &[Key<'_>]) {
        let pin = self.core.pin();
        let leaves = keys.iter().filter_map(|(tree, key)| pin.leaf_for(*tree, key).ok());
        // Taken, as nobody is to find it borrowed.
        let mut spared = self.spared.take();
        spared.clear();
        spared.extend(leaves);
        *self.spared.borrow_mut() = spared;
    }

    /// Makes the changes under one number, and writes their record.
    fn apply(&self, keys: &[Key<'_>], changes: &Changes, room: &mut LogRoom<'_>) -> u64 {
        let number = room.draw_one();
        // Deletes last: what they leave empty is removed, and its range is that of a leaf that may
        // not be in memory.
        let some = |deletes: bool| {
            let all = changes.iter(keys).map(|(key, change, _)| (key, change));
            all.filter(move |(_, change)| (*change == Change::Delete) == deletes)
        };
        self.apply_all(keys, some(false).chain(some(true)), number);
        for ((tree, _), _, effect) in changes.iter(keys) {
            self.lengths.add(tree, number, effect);
        }
        room.append(changes.record_bytes(keys), |mut out| {
            for operation in changes.operations(keys) {
                out = operation.encode(out);
            }
        });
        number
    }

    /// Makes changes of these keys in their leaves, or where there is no memory for that leaves
    /// them to the drain. They are not in the log yet: no checkpoint may let go what is not in a
    /// leaf.
    pub(super) fn apply_all<'c>(
        &self,
        keys: &[Key<'_>],
        mut changes: impl Iterator<Item = (Key<'c>, Change<'c>)>,
        number: u64,
    ) {
        self.spare_leaves(keys);
        let refused = changes.by_ref().find(|(key, change)| !self.apply_one(*key, *change, number));
        let left: Vec<_> = refused.into_iter().chain(changes).collect();
        self.spared.borrow_mut().clear();
        if !left.is_empty() {
            self.leave(left, number);
        }
    }

    /// Makes a change in its leaf, if there is memory for it.
    fn apply_one(&self, (tree, key): Key<'_>, change: Change<'_>, number: u64) -> bool {
        let write = || {
            // A pin for each change: what one has replaced may be freed for the next.
            let pin = self.core.pin_with(Room::Reserve);
            pin.write(tree, key, change, &mut Known(number)).is_ok()
        };
        write() || self.evict_now(|_| {}) && write()
    }

    /// Leaves changes to the drain.
    fn leave(&self, mut left: Vec<(Key<'_>, Change<'_>)>, number: u64) {
        (0..left.len()).for_each(|_| count(Count::LateChanges));
        left.sort_unstable_by_key(|((tree, key), _)| (tree.tree, *key));
        let mut builder = SortedBuilder::new(self.random_seed(), left.len());
        for of_tree in left.chunk_by(|((a, _), _), ((b, _), _)| a.tree == b.tree) {
            let (((tree, first), _), ((_, last), _)) = (of_tree[0], of_tree[of_tree.len() - 1]);
            builder.start(overlaid(tree), (first, last));
            of_tree.iter().for_each(|((_, key), change)| builder.add(key, &newest(change)));
        }
        let mut overlay = builder.finish();
        overlay.set_span(Span { first: number, last: number });
        self.shared.overlay.add(overlay);
    }

    fn random_seed(&self) -> u64 {
        let mut seed = [0; 8];
        self.env.fill_random(&mut seed);
        u64::from_le_bytes(seed)
    }
}

/// What a change makes of its key.
fn newest<'c>(change: &'c Change<'_>) -> Newest<'c> {
    match change {
        Change::Put(value) => Newest::Put { value, expiry: None },
        Change::PutReference(reference) => Newest::PutReference { reference: **reference, expiry: None },
        Change::Delete => Newest::Deleted,
    }
}
