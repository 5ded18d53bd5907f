//! The page with the numbers of keys of the disk format: any content of it, and a page that is
//! right but for some bytes which were changed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| boson::store::fuzzing::tree_lengths(input));
