//! A device that every core of the process may attach to.

use std::future::Future;

use super::{Namespace, NamespaceInfo};
use crate::error::Result;

/// A block device, opened once per process. Cheap to clone.
///
/// It is closed when the last clone and the last namespace of it are gone.
pub trait Device: Clone + Send + Sync + 'static {
    /// What a core gets.
    type Namespace: Namespace;

    /// Size, units and capabilities.
    fn info(&self) -> &NamespaceInfo;

    /// Gives the current core its own way to the device: its own queue, which the core polls.
    /// Clones of the result share that queue.
    ///
    /// # Errors
    ///
    /// [`LimitReached`](crate::ErrorKind::LimitReached) if the device has no queue left for another
    /// core, [`Closed`](crate::ErrorKind::Closed) if it was removed, or the device's own error.
    ///
    /// # Panics
    ///
    /// Outside a core.
    fn attach(&self) -> impl Future<Output = Result<Self::Namespace>>;
}
