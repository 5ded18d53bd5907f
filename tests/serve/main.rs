//! The command line, end to end.

#[path = "../support/mod.rs"]
mod support;

mod basics;
mod bench;
mod bench_block;
mod bench_store;
mod closed_terminal;
mod cores;
mod device;
mod lost_device;
mod metrics;
mod no_io_uring;
mod refused_untouched;
mod space;
mod store_command;
mod top;
