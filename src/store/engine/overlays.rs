//! The overlays of records that are not in the trees yet: that of the log from before the opening,
//! and those of large transactions.
//!
//! The cores share a short list. Each has a copy of it ([`Access`]), and looks at the list's
//! version only: with no overlay, that is a load and a branch for each key.
//!
//! **A key is undrained in one overlay at most.** Whoever puts keys into a new one has brought them
//! over from the others before, and between that and the new one's place in the list nobody else
//! can write them. So it does not matter which overlay is asked first.
//!
//! A new overlay may come while a writer waits. So a writer that has brought its key over looks
//! once more in the step in which it writes (`operations.rs`, `may_write`), and starts over if an
//! overlay has the key again.
//!
//! # What holds the log
//!
//! | | the log is kept from | until |
//! |---|---|---|
//! | an overlay | its first write on, or the oldest of what the drain has left ([`drain`](super::drain)) | it is drained |
//! | a group whose parts are being logged ([`Overlays::begin_group`]) | a number that was next before its first part | its overlay is in the list, or it is given up |
//! | a group that a cut of the lengths lies in ([`Span`]) | its first part on | a checkpoint has a later cut |
//!
//! The last of these is about the numbers of keys (`lengths.rs`). What a group does to them counts
//! with its last part. If that is at the cut or behind it, recovery has to add it to what the
//! checkpoint has, and so needs the parts before the cut too, however durable the pages are.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::defect::{Defects, EngineDefect};
use super::drain::Draining;
use super::signal::Signal;
use crate::store::overlay::{Overlay, Span, TreeRoot};

/// An overlay in the list, and how far its drain has come.
#[derive(Debug)]
pub(super) struct Overlaid {
    overlay: Overlay,
    pub(super) draining: Draining,
}

impl Deref for Overlaid {
    type Target = Overlay;

    fn deref(&self) -> &Overlay {
        &self.overlay
    }
}

#[derive(Debug, Default)]
struct State {
    list: Vec<Arc<Overlaid>>,
    /// Groups whose parts are being logged: the log is kept from these numbers on.
    groups: Vec<u64>,
    /// Groups that came to their end and in which the next checkpoint's cut may lie.
    spans: Vec<Span>,
}

/// The list. See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Overlays {
    /// Changes with the list. Release, so that who sees it sees what was done before.
    version: AtomicU64,
    state: Mutex<State>,
    /// There is something for the drain to do.
    pub(super) signal: Signal,
}

/// One core's copy of the list.
#[derive(Debug, Default)]
pub(super) struct Access {
    version: u64,
    list: Vec<Arc<Overlaid>>,
}

impl Access {
    /// That of the list when it was copied, or an older one.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The overlays that may have something.
    pub(super) fn all(&mut self, overlays: &Overlays) -> &[Arc<Overlaid>] {
        let version = overlays.version();
        if version != self.version {
            // It may be a newer list than the version says; then it is copied once more.
            self.version = version;
            self.list = overlays.list();
        }
        &self.list
    }
}

impl Overlays {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever the list does.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The overlays, the oldest first.
    pub(super) fn list(&self) -> Vec<Arc<Overlaid>> {
        self.state().list.clone()
    }

    /// What a write has that is in the log and not in the trees.
    pub(super) fn add(&self, overlay: Overlay) {
        self.add_to(&mut self.state(), overlay);
    }

    fn add_to(&self, state: &mut State, overlay: Overlay) {
        state.spans.extend_from_slice(overlay.spans());
        if !overlay.is_drained() {
            state.list.push(Arc::new(Overlaid { overlay, draining: Draining::default() }));
            self.version.fetch_add(1, Ordering::Release);
            self.signal.set();
        }
    }

    /// The trees have all of it.
    pub(super) fn remove(&self, overlay: &Arc<Overlaid>) {
        self.state().list.retain(|other| !Arc::ptr_eq(other, overlay));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Whether the trees have everything.
    pub(super) fn is_drained(&self) -> bool {
        self.state().list.iter().all(|overlay| overlay.is_drained())
    }

    /// Gives up what there is of a tree that was removed, or has another root now
    /// ([`Overlay::retire`]).
    pub(super) fn retire(&self, tree: TreeRoot) {
        self.state().list.iter().for_each(|overlay| overlay.retire(tree));
        self.signal.set();
    }

    /// Whether checkpoints may be taken: everything was tried once.
    pub(super) fn is_through(&self) -> bool {
        self.state().list.iter().all(|overlay| overlay.draining.is_through(overlay))
    }

    /// Whether something is left that was tried, and could not be brought into the trees.
    pub(super) fn has_left_some(&self) -> bool {
        self.state().list.iter().any(|overlay| overlay.draining.is_through(overlay) && !overlay.is_drained())
    }

    /// What is left is to be logged once more, if there is something.
    pub(super) fn carry_on(&self) {
        self.state().list.iter().for_each(|overlay| overlay.draining.carry_on(overlay));
        self.signal.set();
    }

    /// The log is kept from this number on for what is not in the trees.
    pub(super) fn needs_from(&self) -> u64 {
        let state = self.state();
        let overlays = state.list.iter().map(|overlay| overlay.draining.needs_from(overlay));
        overlays.chain(state.groups.iter().copied()).min().unwrap_or(u64::MAX)
    }

    /// The log is kept from this number on for a checkpoint that counts keys as of `cut`.
    pub(super) fn cut_needs_from(&self, cut: u64) -> u64 {
        if Defects::now().has(EngineDefect::GroupNotHeldForCut) {
            return u64::MAX;
        }
        let state = self.state();
        let around = state.spans.iter().filter(|span| span.first < cut && span.last >= cut);
        around.map(|span| span.first).min().unwrap_or(u64::MAX)
    }

    /// A checkpoint is durable that counts keys as of `cut`, and no later one has an earlier cut.
    pub(super) fn counted(&self, cut: u64) {
        self.state().spans.retain(|span| span.last >= cut);
    }

    /// The parts of a group are about to be logged. `next` is a number that was the next one, and
    /// none of them has drawn its own.
    pub(super) fn begin_group(&self, next: u64) -> GroupInLog<'_> {
        self.state().groups.push(next);
        GroupInLog { overlays: self, from: next }
    }
}

/// A group whose parts are being logged. Dropped, it is given up.
#[derive(Debug)]
pub(super) struct GroupInLog<'o> {
    overlays: &'o Overlays,
    from: u64,
}

impl GroupInLog<'_> {
    /// The number of its last part is drawn, and the changes are in `overlay`. Its record follows.
    pub(super) fn commit(self, overlay: Overlay) {
        // In one step with the group's end, which follows: the log is held by one of them.
        self.overlays.add(overlay);
    }
}

impl Drop for GroupInLog<'_> {
    fn drop(&mut self) {
        let mut state = self.overlays.state();
        if let Some(at) = state.groups.iter().position(|from| *from == self.from) {
            state.groups.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::overlay::{Claimed, Newest, SortedBuilder};

    const TREE: TreeRoot = TreeRoot { tree: 2, root: 20 };

    fn overlay_of(key: &[u8], first: u64, last: u64) -> Overlay {
        let mut builder = SortedBuilder::new(1, 1);
        builder.start(TREE, (key, key));
        builder.add(key, &Newest::Deleted);
        let mut overlay = builder.finish();
        overlay.set_span(Span { first, last });
        overlay
    }

    fn drain(overlay: &Overlay, key: &[u8]) {
        let Claimed::Mine(claim) = overlay.claim(TREE, key) else { panic!("nobody has it") };
        claim.finish();
    }

    #[test]
    fn a_core_sees_what_comes_and_lets_go_of_what_goes() {
        let (overlays, mut access) = (Overlays::default(), Access::default());
        assert!(access.all(&overlays).is_empty());
        overlays.add(overlay_of(b"a", 1, 1));
        overlays.add(overlay_of(b"b", 2, 2));
        assert_eq!(access.all(&overlays).len(), 2);
        let first = Arc::clone(&access.all(&overlays)[0]);
        drain(&first, b"a");
        assert!(!overlays.is_drained());
        overlays.remove(&first);
        assert_eq!(access.all(&overlays).len(), 1);
        assert_eq!(Arc::strong_count(&first), 1);
        overlays.retire(TREE);
        assert!(overlays.is_drained());
    }

    #[test]
    fn the_log_is_kept_from_the_first_part_on() {
        let overlays = Overlays::default();
        assert_eq!(overlays.needs_from(), u64::MAX);
        drop(overlays.begin_group(7));
        assert_eq!(overlays.needs_from(), u64::MAX, "it was given up");
        let group = overlays.begin_group(10);
        assert_eq!(overlays.needs_from(), 10);
        group.commit(overlay_of(b"a", 12, 20));
        assert_eq!(overlays.needs_from(), 12);
        drain(&overlays.list()[0], b"a");
        assert_eq!(overlays.needs_from(), u64::MAX);
    }

    #[test]
    fn the_log_is_kept_for_a_cut_that_lies_in_a_group() {
        let overlays = Overlays::default();
        overlays.add(overlay_of(b"a", 12, 20));
        assert_eq!(overlays.cut_needs_from(12), u64::MAX, "all of it is behind the cut");
        assert_eq!(overlays.cut_needs_from(13), 12);
        assert_eq!(overlays.cut_needs_from(20), 12);
        assert_eq!(overlays.cut_needs_from(21), u64::MAX, "all of it is counted");
        overlays.counted(20);
        assert_eq!(overlays.cut_needs_from(20), 12);
        overlays.counted(21);
        assert_eq!(overlays.cut_needs_from(20), u64::MAX);
    }
}
