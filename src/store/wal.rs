//! The order of writes: sequence numbers, log buffers of the cores, and group commit.
//!
//! Every write of every core has one number from one counter. The number orders the log, the
//! versions of an entry and the snapshots. A core writes the record of its write into a buffer of
//! its own; whichever core needs it makes one batch of all buffers, in the order of the numbers,
//! and one flush makes it durable for all.
//!
//! | module | what it is |
//! |---|---|
//! | [`order`] | the counter, which numbers are published, which snapshots are being read |
//! | [`buffer`] | a core's log buffer: a ring with one producer and one consumer |
//! | [`writer`] | what a core does for a write: room, number, record |
//! | [`record`], [`batch`] | the bytes of operations, records and batches |
//! | [`leader`] | forms batches from the buffers, and says what is durable |
//! | [`group`] | what the cores share: the order, the leader, what is durable |
//! | [`segments`] | where in the chain of log segments a batch goes |
//! | [`replay`] | reads the chain again, up to its torn end |
//!
//! Nothing in here does I/O, sleeps or reads a clock.

mod batch;
mod buffer;
mod defect;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod group;
mod leader;
mod order;
pub(in crate::store) mod record;
mod replay;
mod segments;
#[cfg(test)]
mod tests;
mod writer;

#[cfg(not(any(loom, shuttle)))]
pub(super) use defect::WalDefect;
#[cfg(not(any(loom, shuttle)))]
pub(super) use {
    batch::{Batch, BundleEntry, HEADER_BYTES, RECORD_HEAD_BYTES},
    group::{Lead, Wal},
    leader::{Formed, Leader, MAX_GROUP, NoBatch},
    record::{Effect, Operation, Part},
    replay::{LogDamage, LogEnd, Replay},
    segments::{LogFormat, LogPosition, Segments},
    writer::{CoreLog, NoRoom, Room},
};
