//! Images of inner pages of the store: bytes that are decoded as one, or as a page that says
//! that it holds one, are refused or behave as one; and what a page is built from, it has.
//!
//! Under the fuzzer every checksum has the same value, so a changed page reaches its decoder.
#![no_main]

use boson::store::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match data.split_first() {
    Some((0, content)) => fuzzing::inner(content, 1),
    Some((1, content)) => fuzzing::inner(content, 2),
    Some((2, page)) => fuzzing::page(page),
    Some((_, separators)) => fuzzing::build_inner(separators),
    None => {}
});
