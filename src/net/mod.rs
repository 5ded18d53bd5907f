//! Networks: packet devices, the userspace TCP/IP stack that stands on them, and the addresses that name both.

pub mod address;
pub mod device;
pub mod stack;
