//! The latch-free B-tree: nodes, images, and how they change.

mod area;
mod homes;
mod image;
mod map;
#[cfg(not(any(loom, shuttle)))]
mod miss;
// A node is raw memory, which the atomics of models are not.
#[cfg(not(any(loom, shuttle)))]
mod node;
#[cfg(not(any(loom, shuttle)))]
mod nodes;
mod smo;
#[cfg(not(any(loom, shuttle)))]
mod tree;
#[cfg(not(any(loom, shuttle)))]
mod undone;

#[cfg(not(any(loom, shuttle)))]
pub(super) use homes::{Home, Homes, Installed, MapFreeze};
#[cfg(not(any(loom, shuttle)))]
pub(super) use image::{IMAGE_BYTES, MAX_LEAF_VALUE_BYTES, VALUE_REFERENCE_BYTES, ValueReference};
#[cfg(not(any(loom, shuttle)))]
pub(super) use map::{FRAME_PAGES, Lookup, Map, RESERVED_PAGES};
#[cfg(not(any(loom, shuttle)))]
pub(super) use miss::{ColdPage, Miss};
#[cfg(not(any(loom, shuttle)))]
pub(super) use node::{Block, MAX_NODE_BYTES, NodeMemory};
#[cfg(not(any(loom, shuttle)))]
pub(super) use nodes::{Core, CoreMemories, Eviction, LoadedPage, Nodes, NotInstalled};
#[cfg(not(any(loom, shuttle)))]
pub(super) use smo::Target;
#[cfg(not(any(loom, shuttle)))]
pub(super) use tree::audit::{Content, KeyView, PageView};
#[cfg(not(any(loom, shuttle)))]
pub(super) use tree::{
    Captured, Change, CorePages, DurableHomes, Known, KnownSince, Numbers, Refusal, TreeRoot, Value,
};

/// What the fuzzer calls: there is no such module in any other build.
#[cfg(fuzzing)]
pub(super) mod fuzzing {
    pub use super::image::fuzzing::{build_inner, build_leaf, inner, leaf};
}
