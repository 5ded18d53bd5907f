//! The latch-free B-tree: words, nodes, images, and how they change.

mod area;
mod image;
mod map;
// A node is raw memory, which the atomics of models are not.
#[cfg(not(any(loom, shuttle)))]
mod node;
mod smo;
#[cfg(not(any(loom, shuttle)))]
mod tree;
mod word;
