//! Pages of the map and of the segment table of disk format 2, some bytes of which were changed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| boson::store::fuzzing::map(input));
