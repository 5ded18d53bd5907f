//! Redis: the protocol and the commands of `boson serve`.
//!
//! A [`Server`] serves the databases of a [store](crate::store) on one core, and with a
//! [`SharedServer`] on further ones. [`serve()`] accepts its connections, [`serve_connection`]
//! serves one that was accepted elsewhere, and [`expire_keys`] deletes keys whose time has come. A
//! [`Session`] is one connection without its socket, for programs that bring their own: bytes in,
//! bytes out, and events from other clients.
//!
//! ```
//! use std::sync::Arc;
//!
//! use boson::block::MemoryNamespace;
//! use boson::redis::{Config, End, Server, Session, Stage};
//! use boson::rt::time::MonotonicClock;
//! use boson::sim::Executor;
//! use boson::store::{Db, Options};
//!
//! # fn main() -> boson::Result<()> {
//! let executor = Executor::new(1);
//! let namespace = MemoryNamespace::new("mem:", 64 << 20, 4096)?;
//! let db = executor.block_on(Db::open_on(executor.env(), namespace, Options::default()))?;
//! let clock = Arc::new(MonotonicClock::new());
//! let server = Server::new(executor.env(), db, clock, Config::default())?;
//!
//! let mut session = Session::new(&server, "client", "server").expect("room for a client");
//! session.feed(b"SET key value\r\nGET key\r\n");
//! executor.block_on(session.run());
//! let replies = session.take_replies();
//! assert_eq!(replies, b"+OK\r\n$5\r\nvalue\r\n");
//! session.sent(replies);
//!
//! // The client closes its side.
//! session.close();
//! session.sent_all();
//! assert_eq!(session.stage(), Stage::Ended(End::Sent));
//! # Ok(())
//! # }
//! ```
//!
//! Replies and error texts are those of Redis 7.0; `tests/redis/parity.rs` compares both;
//! docs/redis.md lists where they differ.

// From the wire up: `request` parses what clients send, `reply` writes what they get. `command` has
// the table of commands and runs them on the databases of `keyspace`, which are trees of a store.
// `session` is one connection, `fate` what becomes of it, and `serve` gives it a socket. The
// connections of a core share a `server`, and the servers of all cores what is in `shared`.
mod client;
mod command;
mod config;
mod cursor;
mod expiry;
mod extended;
mod fate;
mod glob;
mod keyspace;
mod lock;
mod number;
mod reply;
mod request;
mod serve;
mod server;
mod session;
mod shared;
mod stats;
mod tracking;
mod volatile;

pub use config::{Config, Limits};
pub use fate::{DropReason, End, Stage};
pub use serve::{expire_keys, serve, serve_connection};
pub use server::{REDIS_VERSION, Server, SharedServer};
pub use session::{Session, TOO_MANY_CLIENTS};
pub use stats::Stats;

/// The parser of requests, for the fuzzer: there is no such module in any other build.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::request::{ParseProgress, ProtocolError, RequestLimits, RequestParser};
}
