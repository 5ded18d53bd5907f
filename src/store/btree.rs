//! The latch-free B-tree: words, nodes, images, and how they change.

mod image;
