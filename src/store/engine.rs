//! The engine of the store: it ties its parts together, and does the I/O around them.
//!
//! | module | what it is |
//! |---|---|
//! | [`open`] | opens a store or makes a fresh one; attaches cores; asks for checkpoints |
//! | [`core_store`] | what the cores of a store share, and one core's part |
//! | [`log_limit`] | how long the log may be |
//! | [`state`] | where all pages lie, and what is on its way there: one lock |
//! | [`operations`] | reads and writes of one core; what the log had goes into the tree |
//! | [`loads`], `in_flight` | brings pages and frames of the mapping into memory, each once |
//! | [`keeper`] | the task that writes pages, takes checkpoints and makes room on the namespace |
//! | `write_back` | one bundle of pages, or a group of them: from memory to their places |
//! | `evict` | makes room in memory |
//! | `stall` | why something always moves, and what happens if it does not |
//! | `clean` | moves what lives out of segments with much garbage |
//! | `space` | a full store: which writes are admitted |
//! | `grow` | a namespace that grows |
//! | `hollow` | a file system below it that may be full |
//! | `overlays`, `drain` | what the log has and the trees do not; the task that brings it into them |
//! | `latches` | keys that a step writes: other cores wait |
//! | `pending` | keys of a large transaction: writers wait |
//! | `dying` | clears and removes trees; the task that takes their content apart |
//! | `collect` | gets back the memory of cores that are idle |
//! | [`streams`] | which segment each stream of bundles fills |
//! | [`checkpoint`] | writes map, segment table and superblock |
//! | [`superblocks`] | reads and writes the four copies; the mark of a format |
//! | [`log`] | writes the log for all cores, and reads it again |
//! | [`signal`] | how tasks of several cores tell each other |
//! | `update`, `transaction`, `change`, `scan`, `random` | more of what is done to keys |
//! | `lengths` | how many keys each tree has |
//! | `handle`, `meters` | what the public handles ask for besides; what is counted |
//! | `trees`, `registry` | trees by name, their catalog, and what of it is in memory |
//!
//! The parts below it do no I/O: `btree` (pages in memory), `wal` (order and log), `pages` (what
//! lies where), `flush` (which pages go to the namespace, in which bundles), `cache` (memory),
//! `overlay` (what the log had), `events` (what a core tells the keeper). Bytes are in
//! `docs/disk-format.md`; reasons, and what comes later, are in `docs/store-design.md`.
//!
//! One idea runs through all of it: **an operation of the tree never waits.** It ends with a miss
//! or a refusal and has changed nothing; the engine loads, or makes room, and calls it again.
//!
//! # A write
//!
//! (One that does not look at its key, which only the store itself makes. What `Tree` calls is in
//! `update.rs` and takes the same steps; there is room for what it adds, or `space.rs` makes some.)
//!
//! 1. `operations.rs` (`write`) waits while the log is as long as it may be (`log_limit.rs`), and
//!    brings what an overlay still has of the key into the tree.
//! 2. It takes room for the record in the core's log buffer (`log/core_driver.rs`,
//!    `wal/writer.rs`). From here to 4 nothing awaits. If the key has come to an overlay meanwhile
//!    it starts over.
//! 3. `btree/tree/write.rs` goes down to the leaf and reserves a slot of its area
//!    (`btree/area.rs`). If it is the first change of a clean area it pushes an event, then draws
//!    the number (`wal/order.rs`) and publishes the slot. A full leaf is consolidated or split
//!    first (`btree/smo.rs`). A page that is not in memory, or no room for a node, ends it: the
//!    engine goes to `loads.rs`, or to `wait_for_memory` in `keeper.rs`, and back to 1.
//! 4. The record is appended, and the log is told how durable it has to be (`log/needs.rs`).
//! 5. The task of some core leads (`log/task.rs`): `wal/leader.rs` makes one batch of the buffers
//!    of all cores, the task writes and flushes it, and `log/waiters.rs` wakes who waits for the
//!    number.
//!
//! # A cold read
//!
//! 1. `operations.rs` (`get`) asks the overlays, then the tree (`btree/tree.rs`), which misses a
//!    frame of the mapping, or a page.
//! 2. `loads.rs` loads it on this core; others that want it wait. For a frame it finds the map page
//!    (`pages/map_page/tree.rs`), reads it, and applies what the log's bundles say about its pages
//!    (`pages/overlay.rs`). For a page it reads the place that the mapping names, and compares
//!    header and checksum (`pages/page.rs`).
//! 3. If the page still is what was missed, its image is looked through once
//!    (`btree/image/leaf.rs`) and becomes a clean node (`btree/nodes/cold.rs`), while
//!    `btree/homes.rs` remembers where it lies. Without room, `cache/hand.rs` chooses clean pages
//!    to evict, and tells the flusher of dirty ones.
//! 4. The read starts over, and finds the page.
//!
//! # A flush
//!
//! 1. `keeper.rs` drains the events of all cores into the flusher and asks `flush/pace.rs` what is
//!    due.
//! 2. `flush/assemble.rs` captures dirty pages, and with them whatever the rules of `btree/smo.rs`
//!    want beside them (`flush/rules.rs`, `flush/structure.rs`), until nothing new concerns the
//!    set: a plan.
//! 3. `streams.rs` puts the images into one bundle or several (`pages/bundle.rs`). Each node gets
//!    the place that its image will have, unless it was changed meanwhile.
//! 4. The keeper writes the bundles, and flushes. Then the log names them in one batch
//!    (`log/bundles.rs`), once the newest write in them is in a batch before: no page is ahead of
//!    the log.
//! 5. When that batch is durable the places are installed (`btree/homes.rs`), what they replace
//!    counts as dead (`pages/segment.rs`), and ids that became free are released.
//!
//! # A checkpoint
//!
//! 1. `checkpoint.rs` (`begin`) runs when no bundle is under way. Under the locks of the leader and
//!    of `state.rs` it chooses where the log starts: behind it is every write that the flusher, and
//!    the overlay, still need. It freezes the segment table (`pages/segment.rs`) and the mapping
//!    (`btree/homes/freeze.rs`). Writes go on.
//! 2. Frames that changed are written, then the pages above them (`pages/map_page/tree.rs`), then
//!    the table (`pages/segment/table.rs`), as bundles of the map's stream; and a flush.
//! 3. `superblocks.rs` writes the next superblock, copies two by two.
//! 4. What only the checkpoint before referred to is given back: segments of the log at once,
//!    emptied ones after a trim.
//!
//! # An opening
//!
//! 1. `superblocks.rs` (`find`) looks at the four copies, and `pages/superblock/choose.rs` says
//!    which of them counts, or that the namespace is fresh, or holds something else.
//! 2. `open.rs` (`load`) reads the segment table (`pages/segment/load.rs`) and the upper levels of
//!    the map.
//! 3. `log/replay.rs` reads the log up to its torn end (`wal/replay.rs`). Operations become the
//!    overlay of records (`overlay/build.rs`), trailers of the bundles that it names that of pages
//!    (`pages/overlay.rs`).
//! 4. The superblock of the new epoch is written, and the store answers. No page of a tree has been
//!    read.
//! 5. The keeper starts, and the drain (`drain.rs`), which brings the overlay of records into the
//!    tree (`overlay/claim.rs`). While that lasts there is no checkpoint.
//!
//! For a fresh store `open.rs` (`format`) prepares the log instead of 2 and 3, and a checkpoint
//! takes the place of 4.

mod change;
mod checkpoint;
mod clean;
mod collect;
pub(super) mod core_store;
mod counts;
mod defect;
mod drain;
pub(super) mod dying;
mod evict;
mod grow;
mod handle;
mod hollow;
mod in_flight;
mod keeper;
mod latches;
mod lengths;
mod loads;
mod log;
mod log_limit;
mod meters;
pub(super) mod open;
mod operations;
mod overlays;
mod pending;
mod random;
pub(super) mod registry;
pub(super) mod scan;
mod signal;
mod space;
mod stall;
mod state;
mod streams;
mod superblocks;
#[cfg(test)]
mod tests;
pub(super) mod transaction;
mod trees;
pub(super) mod update;
mod values;
pub(super) mod verify;
mod write_back;
