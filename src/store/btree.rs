//! The latch-free B-tree: words, nodes, images, and how they change.

mod image;

/// What the fuzzer calls: there is no such module in any other build.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::image::fuzzing::{build_inner, build_leaf, inner, leaf, page};
}
