//! The store: named, ordered trees of byte strings on a [`Namespace`](crate::block::Namespace).
//!
//! A [`Db`] belongs to one core. [`Tree`]s give get, put, delete and ranges; [`Db::transact`]
//! changes several keys at once. Every write says how durable it is to be ([`Durability`]);
//! whatever a crash takes away, what is left is a prefix of the history of writes. Reads see writes
//! as soon as they are applied, also before they are durable.
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
//! `docs/disk-format.md` is the format; the parts, from the outside in:
//!
//! - `db`, `tree`, `cursor`, `txn`: the interface.
//! - `write`, `apply`, `cost`, `scratch`, `shared`, `state`: how a write is admitted, applied and
//!   logged in one step, and how pages get into memory and out.
//! - `page`, `tree_state`: the B+tree, copy-on-write.
//! - `log`, `commit`: records, batches, group commit.
//! - `checkpoint`, `recover`, `verify`: what is on the namespace, and back.
//! - `shrink`, `evacuate`: a namespace that is larger than what it holds calls for becomes smaller.
//! - `superblock`, `catalog`, `space`, `object`, `disk`, `codec`: the format's parts.
//! - `pace`: how its tasks let others run.
//!
//! The next store grows beside it. It opens, reads, writes and recovers one tree, and nothing uses
//! it yet but its tests. Read the head of `engine` first: it ties together `btree`, `cache`,
//! `events`, `overlay`, `pages`, `reclaim`, `wal` and `word`. Its format is
//! `docs/disk-format-2.md`; `docs/store-design.md` is what is still to come.

mod apply;
mod atomic;
mod btree;
mod cache;
mod catalog;
mod checkpoint;
mod codec;
mod commit;
mod cost;
mod cursor;
mod db;
mod disk;
mod engine;
mod env;
mod evacuate;
mod events;
mod growth;
mod log;
mod object;
mod options;
mod overlay;
mod pace;
mod page;
mod pages;
mod reclaim;
mod recover;
mod scratch;
mod shared;
mod shrink;
mod space;
mod state;
mod stats;
mod superblock;
#[cfg(test)]
mod tests;
mod tree;
mod tree_state;
mod txn;
mod txn_keys;
mod verify;
mod wal;
mod word;
mod write;

pub use cursor::Cursor;
pub use db::Db;
pub use env::{Env, RtEnv};
pub use options::{
    Durability, MAX_KEY_BYTES, MAX_TRANSACTION_BYTES, MAX_TREE_NAME_BYTES, MAX_TREES, MAX_VALUE_BYTES,
    MIN_LOG_BYTES, MIN_NAMESPACE_BYTES, Options, WriteOptions,
};
pub use stats::Stats;
pub use tree::Tree;
pub use txn::Txn;
pub use verify::VerifyReport;
pub use write::Commit;

/// The decoders of the next store, for the fuzzer: there is no such module in any other build.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::btree::fuzzing::{build_inner, build_leaf, inner, leaf};
    pub use super::pages::fuzzing::{bundle, map, page, superblocks, tree_lengths};
    pub use super::wal::fuzzing::{batch, log, record};
}
