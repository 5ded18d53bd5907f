//! The oldest supported kernel.

use boson::rt::reactor::RingFeatures;

fn features() -> RingFeatures {
    RingFeatures::linux_5_15()
}

#[path = "suite.rs"]
mod suite;
