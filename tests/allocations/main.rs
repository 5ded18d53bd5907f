//! How often I/O asks the heap.

#[path = "../support/counting.rs"]
mod counting;
#[path = "../support/mod.rs"]
mod support;

#[cfg(all(feature = "futures", feature = "tokio"))]
mod compat;
mod coroutine;
mod io;
mod net;
mod offload;
mod redis;
mod server;
mod store;
