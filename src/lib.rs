//! boson: kernel-bypass I/O.

pub mod block;
pub mod error;
pub mod mem;
pub mod net;
pub mod redis;
pub mod rt;
pub mod store;

pub use error::{BufResult, Error, ErrorKind, Outcome, Result};
