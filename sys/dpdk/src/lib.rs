//! Bindings to the parts of DPDK that boson uses.
