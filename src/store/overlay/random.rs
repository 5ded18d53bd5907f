//! Any of the keys to which the overlay gives a value.

use super::order::Position;
use super::{Overlay, Record, TreeRoot};
use crate::store::atomic::Ordering;

/// How many places are looked at by chance.
const LOOKS: usize = 1024;
/// How many are looked at behind the last of these.
const LOOKS_AHEAD: usize = 4096;

impl Overlay {
    /// How many keys of a tree have a value by the overlay.
    pub(in crate::store) fn puts(&self, tree: TreeRoot) -> u64 {
        self.part(tree).map_or(0, |part| part.puts.load(Ordering::Relaxed))
    }

    /// The record of one of these keys, each about as likely as the others if `random` gives each
    /// number of 64 bits as often. None if none was found, as when most of them are drained.
    pub(in crate::store) fn random_put(
        &self,
        tree: TreeRoot,
        random: &mut impl FnMut() -> u64,
    ) -> Option<Record<'_>> {
        let part = self.part(tree)?;
        let len = part.positions.len();
        if len == 0 {
            return None;
        }
        let put_at = |at: usize| {
            let entry = self.entry_at(Position::new(part.positions.start + at));
            entry.puts().then(|| self.record(entry))
        };
        let mut at = 0;
        for _ in 0..LOOKS {
            at = usize::try_from(random() % len as u64).ok()?;
            if let Some(record) = put_at(at) {
                return Some(record);
            }
        }
        (at..len).chain(0..at).take(LOOKS_AHEAD).find_map(put_at)
    }
}
