//! Structure changes of the tree: how its pages split and go, while any number of visitors is under
//! way and each may stop for ever at any point.
//!
//! # Why there is no merge of two pages
//!
//! The tree removes a leaf when it is **empty**, and never moves the entries of two pages into one
//! ("free at empty", as PostgreSQL's B-tree does). A merge of two pages changes three words (both
//! pages and the parent), of which the first two cannot be one CAS. So it needs a mark in the parent
//! that keeps it from splitting there, an image of the content in the middle, a decision that all
//! helpers read alike, and a way back. A removal changes two words, moves nothing, is never undone,
//! and needs no mark: it is a split read backwards.
//!
//! It costs little here, because pages are exact: a leaf with one entry takes a node and an image of
//! that entry's size, not 4 KiB, and 16 bytes of mapping and some 30 of its parent. What it costs is
//! the scan of a tree whose deletes left a key here and there: a page each. If that ever matters, a
//! fold of a family (`docs/store-design.md`, 4.4) packs its leaves anyway, under its own rules.
//!
//! # The rules
//!
//! A [child word](page::ChildWord) is an id and an epoch. A page has no fence keys: **its range is
//! what its parents say**. From this follows all that is simple here:
//!
//! 1. A page's epoch grows by one when its range shrinks (a split) or ends (a removal, or a collapse
//!    of the root into its only child). When its range *grows*, since a neighbour was removed, its
//!    epoch and its word stay. A visitor that still believes in the smaller range is right about all
//!    of that; a scan leaves out what is beyond the range that it believes in, and comes for it with
//!    its next descent.
//! 2. A page's epoch is at most one more than its parent says: who changes it came with its own
//!    epoch, so the change before is posted.
//! 3. A page that is one ahead is not changed until that is posted. Its word says what to post, and
//!    each visitor does that before anything else.
//! 4. A visitor that finds anything else read an old parent, and starts again at the root.
//!
//! Whoever loads a page and finds the epoch that its parent said, holds what the tree has of that
//! range in that very moment: a change of the range would have shown in the page first.
//!
//! # States of a page
//!
//! | state | content | epoch against the parent's | who changes it |
//! |---|---|---|---|
//! | free | – | – (no parent) | who creates a page: S0 |
//! | private: created, not published | yes | – (no parent) | its creator: S1, or it gives it back |
//! | live | yes | same | anyone |
//! | split, unposted | left half; separator and child word of the new page | one more | nobody, but S2 on the parent ends it |
//! | removed | none | one more, then no parent | who did R2: R3 |
//! | moved | frozen | one more, then no parent | who did C2: C3 |
//!
//! The root has a fixed id and a fixed epoch and is always live.
//!
//! # What a visitor does ([`judge`](visit::judge))
//!
//! It came with epoch *e*:
//!
//! | page's epoch | page | the visitor |
//! |---|---|---|
//! | *e* | live | enters; a pending split that is still there is posted, and only the namespace needs it |
//! | *e* + 1 | with a pending split | does S2 on the parent that it read, starts again at the root |
//! | *e* + 1 | removed | does R2 there, then R3 if its R2 was the one; starts again |
//! | *e* + 1 | moved | does C2 on the root, then C3 likewise; starts again |
//! | other, or free | | starts again at the root |
//!
//! On a page that it enters, a writer also does what is due (readers only finish what is begun):
//!
//! | page | the writer |
//! |---|---|
//! | over its target, not the root | S0, S1 |
//! | over its target, the root | S0 twice, root split |
//! | the only child of the root | C1 |
//! | empty leaf, not the root, and the writer came since it emptied it | R1 |
//!
//! # Steps
//!
//! Each is one CAS on one word. If it fails, another's succeeded, and the visitor starts again. So
//! no step waits, and some visitor always gets on.
//!
//! | step | word | from | to |
//! |---|---|---|---|
//! | S0 [`split_create`](change::split_create) | Q | free, epoch *q* | right half, epoch *q* |
//! | S1 [`split_publish`](change::split_publish) | P | live, *e* | left half, *e* + 1, pending (separator *s*, Q at *q*) |
//! | S2 [`post_split`](change::post_split) | P's parent | has P at *e* | has P at *e* + 1, *s*, Q at *q* |
//! | [`root_split`](change::root_split) | root | any content | parent of two private pages, its halves |
//! | R1 [`remove`](change::remove) | R | live, empty leaf, *r* | removed, *r* + 1 |
//! | R2 [`post_removal`](change::post_removal) | R's parent F | has R at *r* and others | without R: its left neighbour there has the range, or the right one if R was the first |
//! | R2 as R1 of F | F | has R at *r* alone, epoch *f* | removed, *f* + 1 |
//! | R2 at the root | root | has R at *r* alone | empty leaf |
//! | C1 [`freeze_only_child`](change::freeze_only_child) | C | live, *c*, root's only child | moved, same content, *c* + 1 |
//! | C2 [`collapse`](change::collapse) | root | has C at *c* alone | C's content |
//! | R3, C3 [`release`](change::release) | R, C | removed or moved, *x* + 1 | free, *x* + 2 |
//! | [`give_back`](change::give_back) | Q | private, *q* | free, *q* |
//! | [`clear_pending`](change::clear_pending) | P | live, posted split | live, none |
//!
//! What is half done, and who may come in between:
//!
//! - **Between S1 and S2** the parent may change, split (P is then in one of the halves, and S2 goes
//!   there), lose or gain neighbours of P. If a neighbour of P is removed, P's entry takes its range,
//!   and S2 gives the part from *s* on to Q. S2 needs no room in the parent: an inner page may be
//!   over its target, and is split by the next writer that passes.
//! - **Between R1 and R2** the parent may change and split: R is in one of the halves, perhaps alone.
//!   Which neighbour takes the range is decided by R2, from the parent that it replaces. That
//!   neighbour may itself be split and unposted, or removed: its own step passes the range on.
//! - **Between C1 and C2** the root cannot change: only its child's changes change it.
//! - **Before R3 or C3** the id belongs to nobody; who did R2 or C2 owes the step. If it died, the
//!   id is found by the next walk of the mapping: removed, and no parent has it.
//! - **Free ids** are used again at once: every child word that anybody remembers has an epoch at
//!   least two below the new page's. 2^24 changes of one id would have to pass under one visit to
//!   make them equal. (Nodes need a grace period, ids do not: in memory. See below for the device.)
//!
//! A leaf's entries are not replaced as a whole for each write: writers append to an area. Before
//! S1, R1 and C1 the area is frozen, and each of its slots decided; the content that these steps
//! read is that of the frozen node, and a CAS from it succeeds only if nobody put another node
//! there. So a write either is in what the step read, or meets the frozen area and comes back.
//!
//! # Memory orderings
//!
//! Loads of mapping words are Acquire, CASes AcqRel. A visitor that reads a parent with (P, *e* + 1)
//! and (Q, *q*) acquires what S2 released; S2's author had acquired S1's release, and S0 comes before
//! S1 in its author's program. So it finds P and Q at these epochs or later ones, never before.
//!
//! # What a crash leaves
//!
//! Pages go to the namespace one by one, in bundles that are durable as a whole. After a crash the
//! visitors go on by the same tables, if five rules hold. "Before" means in an earlier durable
//! bundle, or in the same.
//!
//! 1. *Created before referred to*: a new page's first image comes before, or with, every image that
//!    names it: Q with P (whose pending split names it), and before the parent; both halves with the
//!    root; for a page that was removed before it was ever written, the parent that has its right
//!    half.
//! 2. *The parent is not ahead*: a parent's image comes after those of the children whose epochs it
//!    states.
//! 3. *The child is one ahead at most*: a page keeps its pending split in its images until an image
//!    of the parent that states its epoch is durable. If it splits again before that, or is removed,
//!    the parent goes into the same bundle, or before.
//! 4. *A removal is durable with the parent*: neither *removed* nor *moved* is ever written. The
//!    bundle of the parent without R (of the root after C2) says in its trailer that the ids are free
//!    and at which epoch; they are used again when it is durable, not before (R3 and C3 wait for it).
//!    Until then R's last image stands under the last image of the parent, and the log still has what
//!    emptied it: the smallest number that R needs from the log (`dirty_from`) becomes the parent's,
//!    in the same step as R2, and so does R's newest number, for the log must be durable before a
//!    parent that says "all of this is deleted" (W1).
//! 5. *A range is written by its new owner only once it is its own*: a page whose ancestor lost a
//!    child, and is not durable without it, does not go to the namespace before that ancestor. The
//!    flusher walks down to a page that it writes; on this way it takes each inner page along that is
//!    marked so (a flag of the node, which both halves of a split inherit).
//!
//! | on the namespace | after a crash |
//! |---|---|
//! | P split, parent as before | P is one ahead: S2, with the pending split from P's image |
//! | P and parent as before, Q nowhere | no split; its writes come from the log |
//! | parent without R, R's id free | removed |
//! | parent with R, R's old image | not removed; the log empties it again, then R1 and R2 |
//! | root as before C2 | not collapsed; the child's image is the old one, and the log has the rest |
//!
//! Rule 5 is the price of a neighbour that does not change when its range grows. It is paid when the
//! flusher writes, not by visitors, and only after removals.
//!
//! **Not settled here**: runs (`docs/store-design.md`, 4.4). A run may have old entries of a removed
//! leaf's range that the new owner's `complete_to` does not cover. Until that is modelled, a family
//! with runs removes no leaf, and a run flush leaves out what R2 took from its family.
//!
//! # How it is checked
//!
//! - `scenarios`, `exhaustive`: every interleaving, access by access, of up to three visitors of
//!   small trees. In every state all of them die, and another must finish what they began.
//! - `shuttle_tests`, `threads`: longer programs of four threads under many schedules.
//! - `tests`: one visitor after the other against a map; 200,000 keys deleted leave one page.
//! - `defect`: rules that are broken on purpose; the searches above must notice each of them.

#![cfg_attr(not(test), expect(dead_code, reason = "the next store is not in use yet"))]

mod change;
mod page;
mod visit;

pub(in crate::store::btree) use change::Place;
pub(in crate::store::btree) use page::{
    Body, Content, Inner, Leaf, Mapping, Page, Remainder, Route, Split, Target,
};
pub(in crate::store::btree) use visit::{Care, Step, Visitor};

#[cfg(test)]
mod arena;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod defect;
#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod model;
#[cfg(test)]
mod scenarios;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;
