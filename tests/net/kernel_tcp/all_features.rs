//! Kernel sockets with all that this kernel's io_uring has.

use boson::rt::reactor::RingFeatures;

fn features() -> RingFeatures {
    RingFeatures::all()
}

#[path = "suite.rs"]
mod suite;
