//! The latch-free B-tree: nodes, images, and how they change.

mod area;
mod image;
mod map;
// A node is raw memory, which the atomics of models are not.
#[cfg(not(any(loom, shuttle)))]
mod node;
#[cfg(not(any(loom, shuttle)))]
mod nodes;
mod smo;
#[cfg(not(any(loom, shuttle)))]
mod tree;

/// What the fuzzer calls: there is no such module in any other build.
#[cfg(fuzzing)]
pub(super) mod fuzzing {
    pub use super::image::fuzzing::{build_inner, build_leaf, inner, leaf};
}
