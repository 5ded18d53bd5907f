//! Pages of the map and of the segment table of the disk format, some bytes of which were changed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| boson::store::fuzzing::map(input));
