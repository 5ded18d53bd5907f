//! Leaf images of the store: bytes that are decoded as a leaf, or as a page that says that it
//! holds one, are refused or behave as a leaf; and what a leaf is built from, it has.
//!
//! Under the fuzzer every checksum has the same value, so a changed page reaches its decoder.
#![no_main]

use boson::store::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match data.split_first() {
    Some((0, content)) => fuzzing::leaf(content),
    Some((1, page)) => fuzzing::page(page),
    Some((_, entries)) => fuzzing::build_leaf(entries),
    None => {}
});
