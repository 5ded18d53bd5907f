//! Structure changes of the tree: how its pages split and go, while any number of visitors is under
//! way and each may stop for ever at any point.
//!
//! # Two ways for a page to go
//!
//! A leaf that is **empty** is *removed*: its range goes to a neighbour. That changes two words,
//! moves nothing, and is a split read backwards.
//!
//! Two neighbours under one parent that have become **small** are *packed*: a new page with the
//! content of both takes their place. A merge of two pages is said to be hard because it changes
//! three words, needs a decision that all helpers read alike, and a way back. Here it has neither:
//!
//! - Both pages are frozen as *moved* (M1, M2), each by a CAS of its own. A page that is moved does
//!   not change any more, whatever becomes of its neighbour. What it holds is what the tree has of
//!   its range until the parent changes; so a lookup reads it, and needs no memory for that.
//! - A new page with their content is made (M3), and one CAS of the parent puts it in their place
//!   (M4). That is the only decision. It expects the parent as it was read; while the parent states
//!   them, pages that are moved stay as they were found.
//! - Whoever meets a page that is moved does the same from what it finds: if a direct neighbour is
//!   moved as well, and both fit one page, the new page has both. If not, it has the one alone, and
//!   replaces just that. So there is no way back, and nobody waits for the one that began. Helpers
//!   need not agree: one of their CASes of the parent succeeds, and each of them would have been
//!   right.
//!
//! The root's only child is moved into the root itself (C1, C2). Both kinds of *moved* are the same
//! state: what is to be done follows from the parent, and that may change while the page is moved.
//! If one of two neighbours is removed while the other is moved, and they were the root's only
//! children, then the other one collapses into the root. Nothing is lost by that, as the content of
//! a page that is moved is as final for the one as for the other.
//!
//! When: a page is *small* with a quarter of its target, and two are packed if they leave a quarter
//! of it empty, so that the new page is neither split nor packed by the next few writes. The right
//! neighbour is looked at first, then the left one; one that is not in memory, or has a step before
//! it, does not count. A writer looks when its write has made the leaf's image anew, so once for
//! some writes, and inner pages are looked at on the way down to such a leaf. Pages of different
//! parents are not packed, but their parents may be, and they after that.
//!
//! **Ids and memory.** Whoever begins has made the new page (M0, which is M3 done early) before it
//! freezes anything. If there is no id or no memory for it nothing happens. If both pages are
//! frozen as they were read then, the new page is right, and no other is needed. If not, it is
//! given back, which leaves an id for the page that takes the place of the one that is moved. Nodes
//! for the steps after the first mark may come from the reserve: in the end less is in use than
//! before. If there is none even so, the change is left to the keeper
//! ([`undone`](crate::store::btree::undone)).
//!
//! # The rules
//!
//! A [child word](page::ChildWord) is an id and an epoch. A page has no fence keys: **its range is
//! what its parents say**. From this follows all that is simple here:
//!
//! 1. A page's epoch grows by one when its range shrinks (a split) or ends (a removal, a collapse
//!    of the root into its only child, or because it is packed). When its range *grows*, because a
//!    neighbour was removed, its epoch and its word stay. A visitor that still believes in the
//!    smaller range is right about all of that; a scan leaves out what is beyond the range that it
//!    believes in, and comes for it with its next descent.
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
//! | moved | frozen | one more, then no parent | who did C2: C3; who did M4: M5 |
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
//! | *e* + 1 | moved, the root's only child | does C2 on the root, then C3 likewise; starts again |
//! | *e* + 1 | moved, any other | looks at its neighbours there; does M3, M4, then M5 likewise; starts again |
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
//! | small, not the root, with a neighbour to be packed with, and the writer came because it left little in a leaf | M0, M1, M2, M4, M5 |
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
//! | C1 [`freeze`](change::freeze) | C | live, *c*, root's only child | moved, same content, *c* + 1 |
//! | C2 [`collapse`](change::collapse) | root | has C at *c* alone | C's content |
//! | R3, C3 [`release`](change::release) | R, C | removed or moved, *x* + 1 | free, *x* + 2 |
//! | M0, M3 [`pack_create`](change::pack_create) | N | free, epoch *n* | content of A and B, or of A alone, epoch *n* |
//! | M1, M2 [`freeze`](change::freeze) | A, B | live, *a* | moved, same content, *a* + 1 |
//! | M4 [`post_pack`](change::post_pack) | their parent | has A at *a*, or A at *a* and behind it B at *b* | has N at *n* |
//! | M5 [`release_packed`](change::release_packed) | A, B | moved, *a* + 1 | free, *a* + 2 |
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
//! - **Between M1 and M4** the parent may change, and split: A and B may then be under different
//!   parents, and each is replaced alone. A neighbour may be removed, and A takes its range; the
//!   new page then has it. A and B may each be packed with another neighbour that is moved too. B
//!   may have changed before M2: then A is replaced alone, which costs a page's copy and no more.
//! - **Before R3, C3 or M5** the id belongs to nobody; who did R2, C2 or M4 owes the step. If it
//!   died, the id is found by the next walk of the mapping: removed, and no parent has it.
//! - **Free ids** are used again at once: every child word that anybody remembers has an epoch at
//!   least two below the new page's. 2^24 changes of one id would have to pass under one visit to
//!   make them equal. (Nodes need a grace period, ids do not: in memory. See below for the device.)
//!
//! A leaf's entries are not replaced as a whole for each write: writers append to an area. Before
//! M0, S1, R1 and C1 the area is frozen, and each of its slots decided; the content that these
//! steps read is that of the frozen node, and a CAS from it succeeds only if nobody put another
//! node there. So a write either is in what the step read, or meets the frozen area and comes back.
//!
//! A cold page says its epoch in the second word of its entry. One that is one ahead is loaded, for
//! its pending split. *Removed* and *moved* are nodes without an area and are not evicted. A
//! visitor that comes to a cold page ends there, gives back what it has made, and another starts
//! when the page is in memory.
//!
//! Who notices that a leaf is empty: the delete of its last entry. A leaf that only has what a
//! snapshot needs is not empty; it is still dirty, and the flusher consolidates it when it comes to
//! it.
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
//! 4. *A page goes when the parent is durable without it.* Neither *removed* nor *moved* is ever
//!    written. The bundle of the parent without R (of the root after C2, of the parent after M4)
//!    says in its trailer that the id is free and with which epoch, and only when it is durable the
//!    id is: R3, C3 and M5 wait for that. Until then R's last image stands under the parent's, and
//!    the log has what emptied it: The flusher hears of R2, C2 and M4 before they are done, makes
//!    R's oldest number that is not durable the parent's if it is smaller, and hands on the ids
//!    that R itself owes. After M4 the new page inherits as the parent does: it goes with the
//!    parent, by rules 2 and 3, and what it hands on when it is split in between is what the log
//!    still has to keep. R's newest number also becomes the parent's (W1): the log that deleted R's
//!    keys is durable before a parent without R.
//! 5. *A range has its new owner before that is written.* R2 marks the node of the parent (a split
//!    hands the mark to both halves, C2 to the root) until it is durable. A page is written with,
//!    or after, each of its ancestors that has the mark. The flusher meets them on its way down to
//!    the page. M4 gives no page that there is a larger range; but if A or B has the mark the new
//!    page has it, too.
//!
//! | on the namespace | after a crash |
//! |---|---|
//! | P split, its parent as before | P is one ahead: S2, by the pending split of P's image |
//! | P and its parent as before, Q nowhere | no split; what was written comes from the log |
//! | parent without R, and R's id free | removed |
//! | parent with R, R's image from before | not removed; the log empties it again, then R1 and R2 |
//! | root as before C2, its child's image from before | not collapsed; the rest comes from the log |
//! | root after C2, and its child's id free | collapsed |
//! | parent as before M4, A's and B's images from before | not packed; the rest comes from the log |
//! | the same, and A one ahead: its last split was posted, but never durable | S2, by the pending split of A's image; so A is not packed, and the page that was split from it is as it was |
//! | parent after M4 and the new page, A's and B's ids free | packed |
//!
//! Written together, always: P, and Q if it is new (S); the root and both halves (root split); the
//! parent without R, and that R's id is free (R, C); the parent, the new page, and that A's and B's
//! ids are free (M). Rule 5 is the price of a neighbour whose word
//! does not change when its range grows. The flusher pays it, after removals only; visitors do not.
//!
//! The rules speak of what is durable. A bundle on its way counts as durable for a later one if the
//! log names them in that order; no page is in two bundles at once; and a buffer that is filled bit
//! by bit is held to the rules when it is sealed, by the images that it then has.
//!
//! **Not settled here**: runs (`docs/store-design.md`, 4.4). A run may have old entries of a
//! removed leaf's range that the new owner's `complete_to` does not cover. Until that is modelled,
//! a family with runs removes no leaf, an inner page with runs is not packed, and
//! a run flush leaves out what R2 took from its family.
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
//! - `one_visitor`: one after the other against a map; of 200,000 keys a tenth leaves less than a
//!   quarter of the pages, and none leaves one page.
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
