//! `boson bench`: measurements of devices and of the store.

mod block;
mod store;

use boson::Result;
use clap::{Args, Subcommand};

#[derive(Args, Debug)]
pub(crate) struct BenchOptions {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Read and write a block device, and print rates and latencies.
    Block(Box<block::BlockOptions>),
    /// Load a store, and print rates, latencies, and what it writes and takes; or look for writes
    /// that it loses.
    Store(Box<store::StoreOptions>),
}

pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    match &options.what {
        What::Block(options) => block::run(options),
        What::Store(options) => store::run(options),
    }
}
