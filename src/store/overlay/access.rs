//! How a core gets at the overlay.
//!
//! Each core has a handle of its own. With no overlay in it, asking is one branch on memory that
//! the core has anyway; with one, one load more. A core that finds the overlay drained lets go of
//! it, and the last to do so frees it: that should be whoever drains it, on a thread that may take
//! its time.

use std::sync::Arc;

use super::Overlay;

/// One core's way to the overlay.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Access(Option<Arc<Overlay>>);

impl Access {
    pub(in crate::store) fn new(overlay: Arc<Overlay>) -> Self {
        Self(Some(overlay))
    }

    /// The overlay, while it is not drained.
    pub(in crate::store) fn get(&mut self) -> Option<&Overlay> {
        if self.0.as_ref().is_some_and(|overlay| overlay.is_drained()) {
            self.0 = None;
        }
        self.0.as_deref()
    }
}
