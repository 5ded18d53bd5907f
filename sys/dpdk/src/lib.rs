//! Bindings to the parts of DPDK that boson uses: generated declarations of the functions that the
//! shared libraries export, and the functions of `shim.c` over those that DPDK only has inline.
//!
//! The drivers (poll mode drivers) are not linked: the EAL loads them from its plugin directory
//! when it starts.

#![expect(non_camel_case_types, reason = "the names are DPDK's")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic,
    reason = "generated from DPDK's headers, whose documentation holds; what is generated depends on the release"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
