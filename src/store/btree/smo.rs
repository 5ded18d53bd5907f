//! Structure changes of the tree: how its pages split and go, while any number of visitors is under
//! way and each may stop for ever at any point.
//!
//! # Why there is no merge of two pages
//!
//! The tree removes a leaf when it is **empty**, and never moves the entries of two pages into one
//! ("free at empty", as PostgreSQL's B-tree does). A merge of two pages changes three words (both
//! pages and the parent), of which the first two cannot be one CAS. So it needs a mark in the
//! parent that keeps it from splitting there, an image of the content in the middle, a decision
//! that all helpers read alike, and a way back. A removal changes two words, moves nothing, is
//! never undone, and needs no mark: it is a split read backwards.
//!
//! It costs little here, because pages are exact: a leaf with one entry takes a node and an image
//! of that entry's size, not 4 KiB, and 16 bytes of mapping and some 30 of its parent. What it does
//! cost is the scan of a tree whose deletes left a key here and there: a page each. Nothing here
//! packs such leaves. If that ever matters, *moved* (below) is the way: two neighbours are frozen
//! as moved, and their parent gets one new page in place of both. Whoever meets only one of them
//! moved replaces that one alone, so that would not need a way back either. It is not built and not
//! modelled.
//!
//! # The rules
//!
//! A [child word](page::ChildWord) is an id and an epoch. A page has no fence keys: **its range is
//! what its parents say**. From this follows all that is simple here:
//!
//! 1. A page's epoch grows by one when its range shrinks (a split) or ends (a removal, or a
//!    collapse of the root into its only child). When its range *grows*, because a neighbour was
//!    removed, its epoch and its word stay. A visitor that still believes in the smaller range is
//!    right about all of that; a scan leaves out what is beyond the range that it believes in, and
//!    comes for it with its next descent.
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
//! | empty leaf, not the root, and the writer came because it emptied it | R1 |
//!
//! The first line that fits counts. A writer that gets no id for a new page repairs nothing on its
//! way and writes to the page as it is.
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
//! - **Between S1 and S2** the parent may change, split (P is then in one of the halves, and S2
//!   goes there), lose or gain neighbours of P. If a neighbour of P is removed, P's entry takes its
//!   range, and S2 gives the part from *s* on to Q. S2 needs no room in the parent: an inner page
//!   may be over its target, and is split by the next writer that passes. One that is so far over
//!   it that a node might not hold another separator is *full*: who comes to post a split there
//!   splits it first, and starts again.
//! - **Between R1 and R2** the parent may change and split: R is in one of the halves, perhaps
//!   alone. Which neighbour takes the range is decided by R2, from the parent that it replaces.
//!   That neighbour may itself be split and unposted, or removed: its own step passes the range on.
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
//! A cold page says its epoch in the second word of its entry. One that is one ahead is loaded, for
//! its pending split. *Removed* and *moved* are nodes without an area and are not evicted. A
//! visitor that comes to a cold page ends there, gives back what it has made, and another starts
//! when the page is in memory.
//!
//! Who notices that a leaf is empty: the consolidation that drops its last entry. A leaf that only
//! has what a snapshot needs is not empty; it is still dirty, and the flusher consolidates it when
//! it comes to it.
//!
//! # Memory orderings
//!
//! Loads of mapping words are Acquire, CASes AcqRel. A visitor that reads P at its new epoch in a
//! parent acquires what S2 released; S2's author had acquired S1's release, and S0 comes before S1
//! in its author's program. So it finds P and Q at the epochs that the parent says or later ones.
//!
//! # What a crash leaves
//!
//! Pages go to the namespace in bundles that are durable as a whole. After a crash the visitors go
//! on by the same tables, if the flusher keeps five rules. "Before" means in an earlier durable
//! bundle, or in the same.
//!
//! 1. *Created before referred to.* A page whose pending split the durable parent does not know yet
//!    is written with, or after, the new page that the split names. If that has been split on or
//!    removed meanwhile, the parent is written with it instead, and the split is no news any more.
//! 2. *The parent is not ahead.* An inner page is written with, or after, each child at the epoch
//!    that it states, or one more. If such a child is removed or moved, the flusher does R2 or C2
//!    first, as every visitor.
//! 3. *The child is one ahead at most.* A page that the durable tree does not reach, or whose epoch
//!    is two more than its durable parent says, is written with its parent (or with the page whose
//!    pending split names it). So a page keeps its pending split until the parent is durable.
//! 4. *A removal is durable with the parent.* Neither *removed* nor *moved* is ever written. The
//!    bundle of the parent without R (of the root after C2) says in its trailer that the id is free
//!    and with which epoch, and only when it is durable the id is: R3 and C3 wait for that. Until
//!    then R's last image stands under the parent's, and the log has what emptied it: The
//!    flusher hears of R2 and C2 before they are done, makes R's oldest number that is not durable
//!    the parent's if it is smaller, and hands on the ids that R itself owes.
//!    R's newest number also becomes the parent's (W1): the log that deleted R's keys is durable
//!    before a parent without R.
//! 5. *A range has its new owner before that is written.* R2 marks the node of the parent (a split
//!    hands the mark to both halves, C2 to the root) until it is durable. A page is written with,
//!    or after, each of its ancestors that has the mark. The flusher meets them on its way down to
//!    the page.
//!
//! | on the namespace | after a crash |
//! |---|---|
//! | P split, its parent as before | P is one ahead: S2, by the pending split of P's image |
//! | P and its parent as before, Q nowhere | no split; what was written comes from the log |
//! | parent without R, and R's id free | removed |
//! | parent with R, R's image from before | not removed; the log empties it again, then R1 and R2 |
//! | root as before C2, its child's image from before | not collapsed; the rest comes from the log |
//! | root after C2, and its child's id free | collapsed |
//!
//! Written together, always: P, and Q if it is new (S); the root and both halves (root split); the
//! parent without R, and that R's id is free (R, C). Rule 5 is the price of a neighbour whose word
//! does not change when its range grows. The flusher pays it, after removals only; visitors do not.
//!
//! The rules speak of what is durable. A bundle on its way counts as durable for a later one if the
//! log names them in that order; no page is in two bundles at once; and a buffer that is filled bit
//! by bit is held to the rules when it is sealed, by the images that it then has.
//!
//! **Not settled here**: runs (`docs/store-design.md`, 4.4). A run may have old entries of a
//! removed leaf's range that the new owner's `complete_to` does not cover. Until that is modelled,
//! a family with runs removes no leaf, and a run flush leaves out what R2 took from its family.
//!
//! # How it is checked
//!
//! The models are in `tests`:
//!
//! - `scenarios`, searched by `exhaustive`: every interleaving, access by access, of up to three
//!   visitors of small trees. In every state all of them die, and another must finish what they
//!   began.
//! - `crashes`, searched by `crash`: one writer, and a flusher that writes any page at any step by
//!   the five rules. In every state the power fails, and the whole tree must come back. Bundles are
//!   durable one after the other there, and numbers (W1) are left out.
//! - `shuttle_tests`, `threads`: longer programs of four threads under many schedules.
//! - `one_visitor`: one after the other against a map; 200,000 keys deleted leave one page.
//! - `defect`, `crash::Broken`: rules that are broken on purpose; each must be noticed.

mod change;
#[cfg(test)]
mod defect;
mod pack;
mod page;
#[cfg(test)]
mod tests;
mod visit;

pub(in crate::store) use page::Target;
pub(in crate::store::btree) use page::{Body, Content, Inner, Leaf, Mapping, Page, Remainder, Route, Split};
pub(in crate::store::btree) use visit::{Care, Step, Visitor};
