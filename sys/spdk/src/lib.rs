//! Bindings to the parts of SPDK that boson uses: generated declarations of the functions that its
//! libraries export, and the functions of `shim.c` over what a header only has as a macro, a bit
//! field, a structure whose size depends on the release, or a variable argument list.
//!
//! SPDK's modules (socket implementations, kinds of block devices, subsystems) export nothing: they
//! register themselves when they are loaded, and a linker drops what nobody names. Linked
//! statically they are linked whole. Of shared libraries, [`MODULES`] lists them for `dlopen`.

#![expect(non_camel_case_types, reason = "the names are SPDK's")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic,
    reason = "generated from SPDK's headers, whose documentation holds; what is generated depends on the release"
)]

// The shared libraries that SPDK calls stand beside it: DPDK's.
use boson_dpdk_sys as _;

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
include!(concat!(env!("OUT_DIR"), "/modules.rs"));
