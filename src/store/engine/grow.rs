//! A namespace that grows: by portions, before a write is refused.
//!
//! The new segments are in the table from the next checkpoint on, and free once its superblock is
//! durable: a bundle in a segment that no superblock knows could not be found again. So whoever
//! grows takes a checkpoint.

use super::core_store::CoreStore;
use super::state::PageState;
use crate::block::Namespace;
use crate::error::Result;
use crate::store::env::Env;
use crate::store::pages::Geometry;

/// A portion is a quarter of the store, but so many bytes at least.
const MIN_PORTION_BYTES: u64 = 32 << 20;

/// The segments of a store that grows by one portion, on a namespace of `max_size_bytes` at most.
/// None if it has as many as it can have.
fn grown(geometry: Geometry, max_size_bytes: u64) -> Option<Geometry> {
    let size = geometry.size_bytes();
    let wanted = size.saturating_add((size / 4).max(MIN_PORTION_BYTES)).min(max_size_bytes);
    let segments = u32::try_from(wanted / u64::from(geometry.segment)).unwrap_or(u32::MAX);
    let grown = Geometry { segments, ..geometry };
    (segments > geometry.segments && grown.is_plausible()).then_some(grown)
}

impl<E: Env, N: Namespace> CoreStore<E, N> {
    /// Lets the namespace grow by a portion. False if it cannot.
    ///
    /// # Errors
    ///
    /// The device's code; the store is as it was.
    pub(super) async fn grow(&self) -> Result<bool> {
        let geometry = self.shared.state().owner.geometry;
        let Some(grown) = grown(geometry, self.namespace.info().max_size_bytes) else { return Ok(false) };
        if self.namespace.size_bytes() < grown.size_bytes() {
            self.namespace.grow(grown.size_bytes()).await?;
        } else {
            let from = geometry.size_bytes();
            self.namespace.allocate(from, grown.size_bytes() - from).await?;
        }
        {
            let mut state = self.shared.state();
            let PageState { owner, segments, streams, .. } = &mut *state;
            segments.grow(grown.segments);
            owner.geometry = grown;
            streams.grow(*owner);
        }
        self.set_limits(grown);
        Ok(true)
    }

    /// What follows from the size of the store.
    pub(super) fn set_limits(&self, geometry: Geometry) {
        let max_size = self.namespace.info().max_size_bytes.max(geometry.size_bytes());
        self.shared.log_limit.set(self.shared.wanted_log_bytes, geometry, max_size);
        self.set_room();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_by_a_quarter_up_to_the_end() {
        let mut geometry = Geometry::of_namespace(64 << 20, 512, true).expect("large enough");
        let (most, mut sizes) = (200 << 20, Vec::new());
        while let Some(next) = grown(geometry, most) {
            sizes.push(next.size_bytes() >> 20);
            geometry = next;
        }
        assert_eq!(sizes, [96, 128, 160, 200]);
    }
}
