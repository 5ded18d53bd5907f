//! The latch-free B-tree: words, nodes, images, and how they change.

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
mod word;

#[cfg(not(any(loom, shuttle)))]
pub(super) use node::{Block, MAX_NODE_BYTES, NodeMemory};
#[cfg(not(any(loom, shuttle)))]
#[cfg_attr(not(test), expect(unused_imports, reason = "the next store is not in use yet"))]
pub(super) use nodes::{Core, CoreMemories, Nodes};
#[cfg(not(any(loom, shuttle)))]
#[cfg_attr(not(test), expect(unused_imports, reason = "the next store is not in use yet"))]
pub(super) use tree::{Change, Refusal};
#[cfg(all(test, not(any(loom, shuttle))))]
pub(super) use word::ChildWord;
#[cfg(not(any(loom, shuttle)))]
pub(super) use word::PageId;

/// What the fuzzer calls: there is no such module in any other build.
#[cfg(fuzzing)]
pub(super) mod fuzzing {
    pub use super::image::fuzzing::{build_inner, build_leaf, inner, leaf, page};
}
