//! Memory that a core holds without using it, and how others get at it.
//!
//! Each core frees the nodes that it has replaced itself, some at a time, while it works
//! (`reclaim`). It keeps free blocks at hand, and a part of the account. A core that has nothing to
//! do keeps all of that, and the others wait for memory that nobody uses. So each core has a small
//! task that does it when it is asked to: by whoever waits for memory, and by the keeper when there
//! is too little.
//!
//! Nobody is told when it is done: who waits for memory looks again soon by itself.

use std::rc::Weak;
use std::sync::Arc;

use super::core_store::CoreStore;
use super::signal::Signal;
use crate::block::Namespace;
use crate::store::env::Env;

/// Gives back what a core does not use, whenever it is asked to, as long as the core is there.
pub(super) async fn collect_when_asked<E: Env, N: Namespace>(
    store: Weak<CoreStore<E, N>>,
    asked: Arc<Signal>,
) {
    loop {
        asked.wait().await;
        let Some(store) = store.upgrade() else { return };
        store.core.collect();
        store.core.memory().settle();
        // An overlay that is drained goes when the last core lets go of it.
        _ = store.overlay.borrow_mut().all(&store.shared.overlay);
    }
}

impl<E: Env, N: Namespace> Drop for CoreStore<E, N> {
    fn drop(&mut self) {
        // The tasks see that it is gone.
        self.asked.set();
        self.shared.values.errand.wake();
        self.shared.dying.errand.wake();
    }
}
