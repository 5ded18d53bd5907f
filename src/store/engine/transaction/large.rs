//! Large transactions: of many keys, or longer than a record, or whose leaves do not fit memory.
//!
//! One is logged as a *group* of records, and goes into the store the way the log does after an
//! opening: through an overlay of records ([`overlays`](crate::store::engine::overlays)).
//!
//! | step | awaits | what it makes sure of |
//! |---|---|---|
//! | 1. its turn comes; all declared keys are [pending](crate::store::engine::pending) | yes | nobody writes them until it is decided |
//! | 2. they are read, a few at a time, and copied | yes | what was read is what they have, all at one moment |
//! | 3. the closure runs | no | |
//! | 4. the length of the group is known, and what it claims of the log ([`log_limit`](crate::store::engine::log_limit)); what the changes add is admitted; long values are written ([`long`](super::long)) | yes | one that is too long leaves nothing |
//! | 5. the changes are sorted by key and put into an overlay that nobody sees | yes | |
//! | 6. that is claimed from the log ([`LogClaim`]) | yes | nothing is waited for from here on that the group itself holds |
//! | 7. what other overlays have of these keys is brought over | yes | no key is undrained in two of them |
//! | 8. all parts but the last are logged; the first has the number F | yes | |
//! | 9. the last part draws the number L; what the changes do to the numbers of keys is counted; the overlay joins the list; the last part is logged; the keys are not pending any more | no | **it has happened**: a crash leaves all of it, or nothing |
//! | 10. the drain brings the overlay into the trees | | |
//!
//! Dropped before 9, or at an error, it is given up: what was logged means nothing without the last
//! part, and long values that were written are reclaimed.
//!
//! A change has the number L, so that no page which has it is named before the batch that has L.
//! But the log is needed from F on: pages are dirty from F on, and the log's start does not pass F
//! before they are durable ([`Record::from`](crate::store::overlay::Record)). So if the log starts
//! behind F, all of the group is in pages.
//!
//! # One at a time
//!
//! Groups share the log, and each may take a quarter of it, which it holds until it is drained.
//! While one waits for the log to become shorter, other writers wait too, or it might wait for
//! ever; but it holds nothing but its turn then, and its own keys. For these keys waits who takes a
//! tree apart that is cleared meanwhile, so the transaction is given up then
//! ([`unless_cleared`](CoreStore::unless_cleared)).
//!
//! # The closure
//!
//! It runs once if the transaction has so many keys that it is large from the start. If that is
//! found out later it runs again, on what the keys have then. Its own step is as long as the
//! closure takes, and for each key a look and a change; no other step is longer than for some
//! hundred keys.
//!
//! # Several cores
//!
//! A writer on this core looks whether its key is pending and writes in one step. On another core
//! it may have looked before step 1, and write after. It has the [latch](super::super::latches) of
//! its key meanwhile, so between 1 and 2 all latches are waited for
//! ([`CoreStore::keep_others_away`]).

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::iter::Peekable;
use std::time::Duration;
use std::vec::IntoIter;

use super::long::{Seen, Spare, Values, adds};
use super::{Changes, Found, Kept, Key, OneChange, Places, Reads, Transaction, newest, run_on};
use crate::block::Namespace;
use crate::error::{Error, ErrorKind, Outcome, Result};
use crate::rt::yield_now;
use crate::store::btree::TreeRoot;
use crate::store::engine::core_store::CoreStore;
use crate::store::engine::counts::{Count, count};
use crate::store::engine::log_limit::{LogClaim, LongerLog};
use crate::store::engine::operations::{overlaid, reference_of};
use crate::store::engine::pending::Turn;
use crate::store::engine::space::account::Kind;
use crate::store::env::Env;
use crate::store::options::Durability;
use crate::store::overlay::{Overlay, SortedBuilder, Span};
use crate::store::pace::either;
use crate::store::wal::{Effect, Operation, Part, RECORD_HEAD_BYTES, Room as LogRoom};

/// So many keys are read, or brought over, before others run: some µs each.
const KEYS_AT_ONCE: usize = 16;
/// So many are marked, compared, or copied.
const COPIES_AT_ONCE: usize = 128;
/// A part of a group has so many bytes at most: they are written in some 30 µs.
const PART_BYTES: usize = 64 << 10;
/// What is no longer than this is a record, not a group.
const RECORD_BYTES: usize = 8 << 10;
/// No change is longer in the log: a key and a value that lies with it, or a piece of a value.
const LONGEST_CHANGE: usize = 6 << 10;
/// So long a large transaction waits at most while what cannot be brought into the trees holds the
/// log.
const PATIENCE: Duration = Duration::from_secs(5);
/// So many numbers others may draw between the first part and the last: it fits 32 bits.
const MAX_DISTANCE: u64 = 1 << 31;

/// The changes of a group, by their places in a list, with their length.
#[derive(Clone, Copy, Debug)]
struct Piece {
    end: usize,
    bytes: usize,
}

/// How a group is logged.
#[derive(Debug, Default)]
struct Layout {
    /// One record each; the last one has one change, if there are several.
    pieces: Vec<Piece>,
    /// What the changes do to the numbers of keys.
    differences: Vec<(TreeRoot, i64)>,
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Runs a large transaction, as [`CoreStore::transact`].
    pub(super) async fn transact_large<R>(
        &self,
        (reads, durability): (Reads, Durability),
        declared: &[Key<'_>],
        run: &mut impl FnMut(&mut Transaction<'_>) -> R,
    ) -> Result<(R, Option<u64>)> {
        let turn = self.take_turn().await?;
        let change = Box::pin(self.change_many((turn, reads, durability), declared, run));
        self.unless_cleared(declared, change).await
    }

    /// Gives it up if one of its trees is cleared or removed meanwhile: who takes that apart waits
    /// for pending keys, and it may wait for the room that this makes.
    async fn unless_cleared<R>(
        &self,
        keys: &[Key<'_>],
        change: impl Future<Output = Result<R>>,
    ) -> Result<R> {
        let mut trees: Vec<TreeRoot> = keys.iter().map(|(tree, _)| *tree).collect();
        trees.sort_unstable_by_key(|tree| tree.tree);
        trees.dedup();
        let check = || trees.iter().try_for_each(|tree| self.check_tree(*tree));
        let (mut cleared, mut changed) = (Ok(()), None);
        let until_cleared = async {
            loop {
                let moment = self.shared.progress.now();
                cleared = check();
                if cleared.is_err() {
                    return;
                }
                self.shared.progress.since(moment).await;
            }
        };
        either(async { changed = Some(change.await) }, until_cleared).await;
        match changed {
            Some(changed) => changed,
            None => Err(cleared.expect_err("one of them has ended")),
        }
    }

    /// A large transaction whose turn it is.
    async fn change_many<R>(
        &self,
        (turn, reads, durability): (Turn<'_>, Reads, Durability),
        declared: &[Key<'_>],
        run: &mut impl FnMut(&mut Transaction<'_>) -> R,
    ) -> Result<(R, Option<u64>)> {
        let first = self.make_pending(&turn, declared).await;
        self.keep_others_away();
        let (seen, long) = self.read_keys(reads, declared).await?;
        self.check_trees(declared)?;
        let (result, mut changes) =
            run_on(declared, (found(&seen, &long, declared.len()), first), Kept::default(), run)?;
        drop(long);
        if changes.list.is_empty() {
            return Ok((result, None));
        }
        let adds = adds(declared, &changes, (&seen, &Spare::default()));
        let mut laid_out = self.lay_out(declared, &mut changes, &seen).await;
        let claim = self.claim_for(&laid_out.keys(declared), &changes).await?;
        let mut held = self.hold(adds).await?;
        let longer = self.lengthen_log(claim).await?;
        self.write_long(&mut changes, &mut laid_out, (Spare::default(), &mut held)).await?;
        let keys = laid_out.keys(declared);
        changes.list = sort(std::mem::take(&mut changes.list), &keys).await;
        let overlay = self.overlay_of(&keys, &changes).await;
        let number = self.log_group((turn, claim), &keys, (&changes, overlay)).await?;
        drop((keys, longer));
        self.carried_out(laid_out, held, (number, durability));
        count(Count::LargeTransactions);
        Ok((result, Some(number)))
    }

    /// Step 1. The first place of each place's key.
    pub(super) async fn make_pending(&self, turn: &Turn<'_>, keys: &[Key<'_>]) -> Places {
        turn.begin(keys.len(), self.random_seed());
        let (mut places, mut first) = (HashMap::with_capacity(keys.len()), Places::with_capacity(keys.len()));
        for some in keys.chunks(COPIES_AT_ONCE) {
            turn.mark(some.iter().map(|(tree, key)| (tree.tree, *key)));
            for (tree, key) in some {
                let at = first.len();
                first.push(*places.entry((tree.tree, *key)).or_insert(at));
            }
            yield_now().await;
        }
        first
    }

    /// Waits until no core writes a key that it has found not to be pending before.
    pub(super) fn keep_others_away(&self) {
        self.shared.latches.wait_for_holders();
    }

    /// Step 2: what the keys have, and the long values among that, if they are to be read.
    async fn read_keys(&self, reads: Reads, keys: &[Key<'_>]) -> Result<(Seen, Values)> {
        let mut failed = None;
        loop {
            // Nobody replaces a value: what is not there for the second time is an error.
            if let Some(copied) = self.copy(reads, keys, &mut failed).await? {
                return Ok(copied);
            }
        }
    }

    /// Step 5: an overlay of the changes, which are sorted.
    async fn overlay_of(&self, keys: &[Key<'_>], changes: &Changes) -> Overlay {
        let mut builder = SortedBuilder::new(self.random_seed(), changes.list.len());
        let mut tree_end = 0;
        for (at, ((tree, key), change, _)) in changes.iter(keys).enumerate() {
            if at == tree_end {
                let behind = &changes.list[at..];
                tree_end += behind.partition_point(|other| keys[other.place].0.tree == tree.tree);
                builder.start(overlaid(tree), (key, keys[changes.list[tree_end - 1].place].1));
            }
            builder.add(key, &newest(&change));
            if at % COPIES_AT_ONCE == COPIES_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        builder.finish()
    }

    /// How the changes are logged.
    async fn lay_out_group(&self, keys: &[Key<'_>], changes: &Changes) -> Layout {
        let most = self.part_bytes() - Part::MAX_BYTES;
        let (mut layout, mut bytes, len) = (Layout::default(), 0, changes.list.len());
        for (at, operation) in changes.operations(keys).enumerate() {
            let more = operation.encoded_len();
            if bytes > 0 && (bytes + more > most || at + 1 == len && bytes + more > RECORD_BYTES) {
                layout.pieces.push(Piece { end: at, bytes });
                bytes = 0;
            }
            bytes += more;
            let (tree, effect) = (keys[changes.list[at].place].0, changes.list[at].effect);
            if layout.differences.last().is_none_or(|(last, _)| *last != tree) {
                layout.differences.push((tree, 0));
            }
            if let Some((_, difference)) = layout.differences.last_mut() {
                *difference += match effect {
                    Effect::More => 1,
                    Effect::Less => -1,
                    Effect::None | Effect::Unknown => 0,
                };
            }
            if at % COPIES_AT_ONCE == COPIES_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        layout.pieces.push(Piece { end: len, bytes });
        layout
    }

    /// Steps 6 to 9. The number of the write.
    async fn log_group(
        &self,
        (turn, claim): (Turn<'_>, u64),
        keys: &[Key<'_>],
        (changes, mut overlay): (&Changes, Overlay),
    ) -> Result<u64> {
        let Layout { pieces, differences } = self.lay_out_group(keys, changes).await;
        let mut claim = self.claim_log(claim).await?;
        for (at, change) in changes.list.iter().enumerate() {
            let (tree, key) = keys[change.place];
            self.bring_into_tree(tree, key).await?;
            if at % KEYS_AT_ONCE == KEYS_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        let group = self.shared.overlay.begin_group(self.log.log().next_number());
        let mut parts = Parts { keys, changes, begin: 0, count: 0, first: None };
        let [others @ .., last] = &pieces[..] else { unreachable!("there are changes") };
        for piece in others {
            let mut room = self.claimed_room(Part::MAX_BYTES + piece.bytes).await?;
            let number = room.draw_one();
            parts.append(&mut room, number, (piece, false));
            drop(room);
            claim.logged((piece.bytes + Part::MAX_BYTES + RECORD_HEAD_BYTES) as u64);
            self.log.commit(number, Durability::None);
            yield_now().await;
        }
        let mut room = self.claimed_room(Part::MAX_BYTES + last.bytes).await?;
        self.check_trees(keys)?;
        // Nothing awaits from here on.
        if parts.first.is_some_and(|first| self.log.log().next_number() - first > MAX_DISTANCE) {
            return Err(limit_reached("others have written too much while it was being logged"));
        }
        let number = room.draw_one();
        overlay.set_span(Span { first: parts.first.unwrap_or(number), last: number });
        for (tree, difference) in differences {
            self.lengths.add_all(tree, number, difference);
        }
        // Before the record can be seen: no checkpoint may let the log go that has the parts.
        group.commit(overlay);
        parts.append(&mut room, number, (last, true));
        drop(room);
        drop((claim, turn));
        Ok(number)
    }

    /// Step 4: what the group of these changes takes in the log at most.
    async fn claim_for(&self, keys: &[Key<'_>], changes: &Changes) -> Result<u64> {
        let mut bytes = 0;
        for (at, operation) in changes.operations(keys).enumerate() {
            bytes += operation.encoded_len() as u64;
            if at % COPIES_AT_ONCE == COPIES_AT_ONCE - 1 {
                yield_now().await;
            }
        }
        let limit = &self.shared.log_limit;
        let longest = limit.longest_group();
        if bytes > longest {
            return Err(limit_reached(format!(
                "its changes take {bytes} bytes of the log, and those of a transaction may take {longest}, \
                 a quarter of the log's length (`log_bytes`) or of what the namespace has room for"
            )));
        }
        // All but the last two have no room for one more change.
        let part = self.part_bytes();
        let parts = bytes / (part - Part::MAX_BYTES - LONGEST_CHANGE) as u64 + 2;
        let bytes = bytes + parts * (Part::MAX_BYTES + RECORD_HEAD_BYTES) as u64;
        let claim = limit.claim_for(bytes, (parts, part as u64));
        let longest = limit.longest_claim(claim);
        if claim > longest {
            return Err(limit_reached(format!(
                "its changes take {claim} bytes of the log with all blocks that these end in, and those of \
                 a transaction may take {longest}"
            )));
        }
        Ok(claim)
    }

    /// The longest part of a group: little beside a segment, whose end may be left free.
    fn part_bytes(&self) -> usize {
        let of_segment = self.shared.owner.geometry.segment as usize / 8;
        self.log.log().max_record_bytes().min(PART_BYTES).min(of_segment)
    }

    /// Makes the log longer for a group that might not fit it.
    async fn lengthen_log(&self, claim: u64) -> Result<Option<LongerLog<'_>>> {
        let limit = &self.shared.log_limit;
        let lent = limit.lends(claim);
        if lent == 0 {
            return Ok(None);
        }
        let held = self.hold((limit.room_for(lent), Kind::Adds)).await;
        let held = held.map_err(|error| match error.kind() {
            ErrorKind::NoSpace => Error::new(ErrorKind::NoSpace, "write to store")
                .at(self.shared.name.clone())
                .because(format!("the store has no room for a log that is longer by {lent} bytes"))
                .outcome_is(Outcome::NotStarted),
            _ => error,
        })?;
        Ok(Some(limit.lengthen(lent, held)))
    }

    /// Step 6.
    async fn claim_log(&self, bytes: u64) -> Result<LogClaim<'_>> {
        let limit = &self.shared.log_limit;
        let give_up_at = self.env.now() + PATIENCE;
        loop {
            let moment = self.shared.progress.now();
            self.shared.check_writable("write to store")?;
            let claim = limit.claim(bytes);
            // If the log is longer than usual the keeper makes room for it.
            if limit.fits_claims() && (!limit.is_longer() || self.has_segments(0)) {
                return Ok(claim);
            }
            self.check_moves("write to store")?;
            // What is left in an overlay may hold the log for long: others go on then.
            let is_held = self.shared.overlay.has_left_some();
            if is_held && self.env.now() >= give_up_at {
                return Err(limit_reached("what cannot be brought into the trees holds the log"));
            }
            count(Count::LogWaits);
            let claim = Some(claim).filter(|_| !is_held);
            self.shared.keeper.set();
            either(self.shared.progress.since(moment), self.env.sleep(PATIENCE)).await;
            drop(claim);
        }
    }
}

fn limit_reached(why: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::LimitReached, "write to store").because(why).outcome_is(Outcome::NotStarted)
}

/// A group that is being logged.
struct Parts<'g> {
    keys: &'g [Key<'g>],
    changes: &'g Changes,
    /// Where the next part begins.
    begin: usize,
    count: u32,
    /// The number of the first part.
    first: Option<u64>,
}

impl Parts<'_> {
    /// Appends the next part under this number. If the first one is the last it is a record like
    /// any other.
    fn append(&mut self, room: &mut LogRoom<'_>, number: u64, (piece, is_last): (&Piece, bool)) {
        let is_part = !is_last || self.count > 0;
        self.count += 1;
        let back = number - *self.first.get_or_insert(number);
        let back = u32::try_from(back).expect("who draws the last number looks at the distance");
        let part = Operation::Part(Part { back, parts: is_last.then_some(self.count) });
        let part = Some(part).filter(|_| is_part);
        let len = piece.bytes + part.map_or(0, |part| part.encoded_len());
        room.append(len, |mut out| {
            for operation in
                part.into_iter().chain(self.changes.operations_in(self.keys, self.begin..piece.end))
            {
                out = operation.encode(out);
            }
        });
        self.begin = piece.end;
    }
}

/// What was found of the keys.
pub(super) fn found<'s>(seen: &'s Seen, long: &'s Values, keys: usize) -> Found<'s> {
    let found = (0..keys).map(|place| {
        let (bytes, is_reference) = seen.get(place)?;
        // One that was not read looks empty.
        let long = || long.get(&reference_of(bytes)).map_or(&[][..], |value| &value[..]);
        Some(if is_reference { long() } else { bytes })
    });
    found.collect()
}

/// Sorts changes by their trees and keys, and lets others run.
async fn sort(mut changes: Vec<OneChange>, keys: &[Key<'_>]) -> Vec<OneChange> {
    let key_of = |change: &OneChange| {
        let (tree, key) = keys[change.place];
        (tree.tree, key)
    };
    let mut sorted = Vec::with_capacity(changes.len());
    let mut runs = Vec::new();
    while !changes.is_empty() {
        let mut run = changes.split_off(changes.len().saturating_sub(COPIES_AT_ONCE));
        run.sort_unstable_by(|a, b| key_of(a).cmp(&key_of(b)));
        runs.push(run.into_iter().peekable());
        yield_now().await;
    }
    let head = |runs: &mut [Peekable<IntoIter<OneChange>>], at: usize| {
        runs[at].peek().map(|change| Reverse((key_of(change), at)))
    };
    let mut heads: BinaryHeap<_> = (0..runs.len()).filter_map(|at| head(&mut runs, at)).collect();
    while let Some(Reverse((_, at))) = heads.pop() {
        sorted.extend(runs[at].next());
        heads.extend(head(&mut runs, at));
        if sorted.len() % COPIES_AT_ONCE == 0 {
            yield_now().await;
        }
    }
    sorted
}
