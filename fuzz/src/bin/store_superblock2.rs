//! The superblocks of the disk format: four copies, some bytes of which were changed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| boson::store::fuzzing::superblocks(input));
