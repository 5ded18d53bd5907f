//! Tests that need a process of their own: they change limits, signals or the log, fork, or measure
//! the process.

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod arena_log;
mod arena_log_subscriber;
mod example_servers;
mod misuse_fork;
mod net_scale;
mod no_io_uring_limits;
mod redis_instructions;
mod signals;
mod stall;
mod tracing_spans;
mod uring_descriptors;
mod uring_full;
mod uring_registered;
mod uring_registered_reuse;
mod uring_registered_sockets;
