//! The Redis protocol, beside redis-server and through stock clients.

#[path = "../support/mod.rs"]
mod support;

mod long_keys;
mod parity;
mod pipelines;
mod scan;
mod tracking;
