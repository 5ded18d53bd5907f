//! `boson bench`: measurements of devices.

mod block;

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
    Block(block::BlockOptions),
}

pub(crate) fn run(options: &BenchOptions) -> Result<()> {
    match &options.what {
        What::Block(options) => block::run(options),
    }
}
