//! Connections are accepted by one request, and each read is one.

use boson::rt::reactor::{RingFeature, RingFeatures};

fn features() -> RingFeatures {
    RingFeatures::all().without(RingFeature::MultishotReceive).without(RingFeature::CancelAny)
}

#[path = "suite.rs"]
mod suite;
