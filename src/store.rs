//! The store: named, ordered trees of byte strings on a [`Namespace`](crate::block::Namespace).
//!
//! A [`Db`] belongs to one core, and [`SharedDb`] gives other cores theirs. [`Tree`]s give get,
//! put, delete and ranges; [`Db::transact`] changes several keys at once. Every write says how
//! durable it is to be ([`Durability`]); whatever a crash takes away, what is left is a prefix of
//! the history of writes. Reads see writes as soon as they are applied, also before they are
//! durable.
//!
//! ```
//! use boson::store::{Db, WriteOptions};
//!
//! # fn main() -> boson::Result<()> {
//! boson::run(async {
//!     let db = Db::open("mem:64M").await?; // or "file:example.boson", "blk:/dev/nvme0n1"
//!     let fruit = db.tree("fruit")?;
//!     fruit.put(b"apple", b"5").await?;
//!     // Several keys at once, durable before it returns.
//!     let keys = [(&fruit, &b"apple"[..]), (&fruit, &b"pear"[..])];
//!     let moved = db.transact(&keys, WriteOptions::SYNC, |txn| {
//!         let apples = txn.get(&fruit, b"apple").map(<[u8]>::to_vec);
//!         txn.put(&fruit, b"pear", b"5");
//!         txn.delete(&fruit, b"apple");
//!         apples
//!     });
//!     assert_eq!(moved.await?.as_deref(), Some(&b"5"[..]));
//!     assert_eq!(fruit.range(..).next().await?, Some((b"pear".to_vec(), b"5".to_vec())));
//!     db.close().await
//! })
//! # }
//! ```
//!
//! `docs/disk-format.md` is the format, and `docs/store-design.md` the reasons. The parts, from the
//! outside in:
//!
//! - `db`, `shared`, `tree`, `cursor`, `txn`, `commit`, `options`, `stats`: the interface;
//!   [`blocking`]: the same for ordinary threads.
//! - `engine`: ties the parts together and does the I/O. Read its head first.
//! - `btree`: pages in memory. `overlay`: what the log has and the trees do not have yet. `wal`:
//!   order and log. `pages`: what lies where. `flush`: which pages are written together. `cache`:
//!   memory. `reclaim`: when memory may be used again. `events`: what a core tells the keeper.
//!   `growth`: what has to become durable together. `word`, `codec`: bits and bytes. `failure`: an
//!   error that is said again and again.
//! - `env`, `pace`: what it needs of the world, and how its tasks let others run.

#![cfg_attr(
    not(test),
    allow(
        dead_code,
        unused_imports,
        reason = "the format has more than is written yet, and tests look inside"
    )
)]

mod atomic;
#[cfg(not(any(loom, shuttle)))]
pub mod blocking;
mod btree;
mod cache;
mod codec;
#[cfg(not(any(loom, shuttle)))]
mod commit;
#[cfg(not(any(loom, shuttle)))]
mod cursor;
#[cfg(not(any(loom, shuttle)))]
mod db;
#[cfg(not(any(loom, shuttle)))]
mod engine;
mod env;
mod events;
mod failure;
mod flush;
mod growth;
mod options;
mod overlay;
mod pace;
mod pages;
mod reclaim;
#[cfg(not(any(loom, shuttle)))]
mod shared;
#[cfg(not(any(loom, shuttle)))]
mod stats;
#[cfg(not(any(loom, shuttle)))]
mod tree;
#[cfg(not(any(loom, shuttle)))]
mod txn;
mod wal;
mod word;

#[cfg(not(any(loom, shuttle)))]
pub use commit::Commit;
#[cfg(not(any(loom, shuttle)))]
pub use cursor::Cursor;
#[cfg(not(any(loom, shuttle)))]
pub use db::Db;
#[cfg(not(any(loom, shuttle)))]
pub use engine::transaction::{Reading, Transaction as Txn};
#[cfg(not(any(loom, shuttle)))]
pub use engine::update::Decision;
#[cfg(not(any(loom, shuttle)))]
pub use engine::verify::{Finding, Report as VerifyReport};
pub use env::{Env, RtEnv};
pub use options::{
    Durability, MAX_KEY_BYTES, MAX_TREE_NAME_BYTES, MAX_TREES, MAX_VALUE_BYTES, MIN_CACHE_BYTES,
    MIN_NAMESPACE_BYTES, Options, WriteOptions,
};
#[cfg(not(any(loom, shuttle)))]
pub use shared::SharedDb;
#[cfg(not(any(loom, shuttle)))]
pub use stats::Stats;
#[cfg(not(any(loom, shuttle)))]
pub use tree::Tree;

/// The decoders of the store, for the fuzzer: there is no such module in any other build.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::btree::fuzzing::{build_inner, build_leaf, inner, leaf};
    pub use super::pages::fuzzing::{bundle, map, page, superblocks, tree_lengths};
    pub use super::wal::fuzzing::{batch, log, record};
}
