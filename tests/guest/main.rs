//! What takes a device that a build machine rarely has: `scripts/guest` runs these tests in a
//! virtual machine that has it. Elsewhere they are ignored.

#[path = "../support/mod.rs"]
mod support;

mod device;
mod host;
mod in_flight;
mod nvme;
mod passthrough;
mod polled;
mod serve;
#[cfg(feature = "spdk")]
mod serve_spdk;
mod suite;
mod vfio;
mod zero_copy;

use std::time::Duration;

use boson::rt::reactor::{ReactorChoice, RingFeatures};
use boson::rt::{self, Core, CoreConfig, Idle};

/// How long a test may take on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `scripts/guest` calls a device of the machine.
fn device(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("scripts/guest sets {variable}"))
}

/// A core that sleeps as soon as it may.
fn core(features: RingFeatures) -> Core {
    let config = CoreConfig::default()
        .seed([13; 32])
        .reactor(ReactorChoice::IoUring)
        .ring_features(features)
        .idle(Idle::Sleep);
    Core::new(&config).expect("io_uring is usable")
}

fn run_with<F: Future>(features: RingFeatures, future: F) -> F::Output {
    let done = core(features).block_on(rt::timeout(PATIENCE, future));
    done.expect("the ring works")
}

fn run<F: Future>(future: F) -> F::Output {
    run_with(RingFeatures::all(), future)
}
