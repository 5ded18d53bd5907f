//! A simulated disk conforms like any other device, in virtual time.

use boson::block::{Fault, MemoryDevice, MemoryOptions, TrimLeaves};
use boson::sim::Executor;

use crate::support::conformance::{self, Hooks};

fn conforms(seed: u64, options: MemoryOptions) {
    let executor = Executor::new(seed);
    let device = MemoryDevice::open("sim:disk", options.seed(seed)).expect("possible options");
    let hooks = Hooks::new()
        .reopens()
        .seed(seed)
        .operations(500)
        .fails_writes(|device: &MemoryDevice, n| device.inject([Fault::write().after(n).once()]))
        .fails_reads(|device: &MemoryDevice, n| device.inject([Fault::read().after(n).once()]))
        .cuts_power(MemoryDevice::power_loss)
        .removes(MemoryDevice::remove);
    executor.block_on(async move {
        let open = async || {
            device.power_on();
            device.clone()
        };
        conformance::all(&format!("sim, seed {seed}"), open, hooks).await;
    });
}

#[test]
fn a_simulated_disk_conforms() {
    let plain = MemoryOptions::disk(conformance::NEEDED_BYTES);
    conforms(1, plain.clone());
    conforms(2, plain.clone().queue_depth(4).block_size_bytes(512));
    conforms(3, plain.forced_unit_access(true).trim(TrimLeaves::Anything).write_zeroes(true));
}
