//! The log of the store: records, batches, and a whole log of segments. The first byte says
//! which.
#![no_main]

use boson::store::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((b'r', rest)) => fuzzing::record(rest),
        Some((b'b', rest)) => fuzzing::batch(rest),
        Some((_, rest)) => fuzzing::log(rest),
        None => {}
    }
});
