//! The latch-free B-tree: words, nodes, images, and how they change.

mod map;
mod area;
// A node is raw memory, which the atomics of models are not.
#[cfg(not(any(loom, shuttle)))]
mod node;
mod word;
mod smo;
mod image;
