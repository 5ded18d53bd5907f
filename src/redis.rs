//! Redis: the protocol and the commands of `boson serve`.
//!
//! From the wire up: [`request`] parses what clients send, [`reply`] writes what they get.
//! [`command`] has the table of commands and runs them on the databases of [`keyspace`], which are
//! trees of a [store](crate::store). A [`Session`] is one connection without its socket: bytes in,
//! bytes out; [`serve_connection`] gives it one. The connections of a core share a [`Server`].
//!
//! Replies and error texts are those of Redis 7.0; `tests/redis/parity.rs` compares both;
//! docs/redis.md lists where they differ.

pub mod client;
pub mod command;
pub mod cursor;
pub mod expiry;
pub mod extended;
mod fate;
pub mod glob;
pub mod keyspace;
pub mod number;
pub mod reply;
pub mod request;
mod serve;
mod server;
pub mod session;
mod tracking;

pub use fate::{DropReason, End, Stage};
pub use serve::{expire_keys, serve, serve_connection};
pub use server::{Config, Limits, REDIS_VERSION, Server, Stats};
pub use session::Session;
