//! Sockets of the kernel and of the userspace stack.

#[path = "../support/counting.rs"]
mod counting;
#[path = "../support/mod.rs"]
mod support;

mod by_environment;
mod kernel_tcp;
mod pipe;
mod read_exact;
mod small_writes;
mod tap;
mod udp;
#[cfg(feature = "tokio")]
mod unix;
