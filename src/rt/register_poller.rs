//! Having the current core poll a device.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::poll::Poller;
use super::scheduler::{CoreState, in_core};

/// Has the core poll `poller` on every turn, until the registration is dropped.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn register_poller(poller: Rc<RefCell<dyn Poller>>) -> PollerRegistration {
    in_core("rt::poller::register_poller", |core| PollerRegistration {
        core: Rc::downgrade(core),
        id: core.add_poller(poller, None),
    })
}

/// The same, with at most `budget` events per turn in place of 64. 0 counts as 1.
///
/// # Panics
///
/// Outside a core.
#[track_caller]
pub fn register_poller_with_budget(poller: Rc<RefCell<dyn Poller>>, budget: usize) -> PollerRegistration {
    in_core("rt::poller::register_poller_with_budget", |core| PollerRegistration {
        core: Rc::downgrade(core),
        id: core.add_poller(poller, Some(budget)),
    })
}

/// Keeps a poller registered with its core.
#[must_use = "dropping it removes the poller"]
pub struct PollerRegistration {
    core: Weak<CoreState>,
    id: u64,
}

impl PollerRegistration {
    /// Keeps the poller registered for as long as its core lives.
    pub fn keep(mut self) {
        self.core = Weak::new();
    }
}

impl Drop for PollerRegistration {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            core.remove_poller(self.id);
        }
    }
}

impl std::fmt::Debug for PollerRegistration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PollerRegistration").field("id", &self.id).finish_non_exhaustive()
    }
}
