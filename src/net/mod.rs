//! Networks.

pub mod device;
