//! Completions come at any time, and there are requests with many.

use boson::rt::reactor::{RingFeature, RingFeatures};

fn features() -> RingFeatures {
    RingFeatures::all().without(RingFeature::DeferredTaskWork)
}

#[path = "suite.rs"]
mod suite;
