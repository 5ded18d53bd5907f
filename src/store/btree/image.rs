//! Page images: the sorted, immutable bytes of leaves and inner pages, the same in memory and,
//! after the header that the page store writes (`pages`), on the namespace.
//!
//! Readers search an image in place. Whoever changes a page builds another one; nothing here
//! changes but the word of a child, and that only in a buffer that nobody else sees yet.
//!
//! - `search`: prefix, heads and slots, which leaves and inner pages share, and the search.
//! - `leaf`, `entry`, `leaf_build`, `leaf_patch`: leaves, their entries, building, splitting and
//!   patching them.
//! - `inner`, `family`, `inner_build`: the same for inner pages.
//! - `change`: a split that is under way, in the tail of either.
//! - `key`: a key in pieces, as images have them.
//! - `damage`: what `parse` says of bytes that are no page.
//!
//! # Two ways in
//!
//! `parse` looks at every byte, once, when a page comes from the namespace: 16 KiB of random bytes
//! whose checksum is right are refused with a reason, or are an image on which nothing panics.
//! `of_verified` reads the few lengths of the image's header only; it is what a descent uses. All
//! of it is safe code with checked offsets, so an image that was never verified makes a panic and
//! not a read out of bounds.
//!
//! # Sizes
//!
//! A leaf splits when its image exceeds [`LEAF_TARGET_BYTES`]. Long keys and versions may make an
//! image larger, up to [`IMAGE_BYTES`]. What comes from the namespace is read up to
//! [`MAX_CONTENT_BYTES`].

mod change;
mod damage;
mod entry;
mod family;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod inner;
mod inner_build;
mod inner_patch;
mod key;
mod leaf;
mod leaf_build;
mod leaf_patch;
mod search;
#[cfg(test)]
mod tests;

pub(crate) use change::PendingSplit;
pub(crate) use damage::{Damage, MAX_CONTENT_BYTES, MAX_KEY_BYTES, MAX_LEAF_VALUE_BYTES};
pub(crate) use entry::{Entry, EntryKind, VALUE_REFERENCE_BYTES, ValueReference};
pub(crate) use family::{RUN_BYTES, RangeTombstone, Run};
pub(crate) use inner::{Branch, Edit, InnerImage, InnerParts, replace_child};
pub(crate) use inner_build::{InnerBuilder, inner_split_point};
pub(crate) use inner_patch::PatchedInner;
pub(crate) use key::KeyParts;
pub(crate) use leaf::LeafImage;
pub(crate) use leaf_build::{LeafBuilder, SplitPoint};
pub(crate) use leaf_patch::{Patch, PatchedLeaf, emptied};
pub(crate) use search::Position;

/// A leaf whose image is longer splits: with its header of 64 bytes it takes 4 KiB.
pub(crate) const LEAF_TARGET_BYTES: usize = 4032;
/// The longest image of a leaf that can be split, and of an inner page.
pub(crate) const IMAGE_BYTES: usize = 16 << 10;
