//! The page store: superblocks, segments, bundles of pages, and the map of pages.
