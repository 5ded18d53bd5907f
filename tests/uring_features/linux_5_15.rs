//! The oldest supported kernel.

use boson::rt::reactor::RingFeatures;

fn features() -> RingFeatures {
    RingFeatures::linux_5_15()
}

#[path = "../kernel_tcp/suite.rs"]
mod suite;
