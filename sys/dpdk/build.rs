//! Finds DPDK with pkg-config, compiles the shim and generates the bindings.

fn main() {}
