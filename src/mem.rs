//! Memory that devices read and write: owned-buffer traits, DMA buffers and the hugepage arena they
//! come from.
//!
//! Everything that does I/O takes a buffer by value and gives it back with the result
//! ([`BufResult`](crate::error::BufResult)), so that no device can write into memory its owner
//! already freed.

mod arena;
mod dma;
mod iobuf;
mod mapping;
pub(crate) mod vectored;

pub use arena::{Arena, ArenaStats};
pub use dma::DmaBuf;
pub(crate) use iobuf::Rest;
pub use iobuf::{IoBuf, IoBufMut, Slice};
pub use mapping::{PageKind, default_hugepage_bytes};
