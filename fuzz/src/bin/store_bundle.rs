//! A bundle of the disk format and the header of its segment, some bytes of which were changed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| boson::store::fuzzing::bundle(input));
