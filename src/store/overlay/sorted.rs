//! An overlay of one write's changes, which come in the order of trees and keys.
//!
//! All that it takes is known before: so each change is added in a step that is as short as the
//! others, and nothing is left to be done for all of them at the end.

use std::sync::atomic::Ordering;

use super::arena::Arena;
use super::build::hash;
use super::entry::{Entry, Newest};
use super::index::Index;
use super::order::{Ordered, Prefix};
use super::{Overlay, Part, TreeRoot};
use crate::store::atomic::{AtomicBool, AtomicU64};

/// Takes the changes of a write, each of another key.
#[derive(Debug)]
pub(in crate::store) struct SortedBuilder {
    overlay: Overlay,
}

impl SortedBuilder {
    /// For so many changes. `seed` is random, as in a [`Builder`](super::Builder).
    pub(in crate::store) fn new(seed: u64, changes: usize) -> Self {
        let overlay = Overlay {
            seed,
            first: 0,
            last: 0,
            spans: Vec::new(),
            arena: Arena::default(),
            entries: Vec::with_capacity(changes),
            index: Index::with_room_for(changes),
            order: Vec::with_capacity(changes),
            parts: Vec::new(),
            open: AtomicU64::new(0),
        };
        Self { overlay }
    }

    /// The changes that follow are those of `tree`, whose number is larger than the ones before.
    /// None of their keys lies before `first` or behind `last`.
    pub(in crate::store) fn start(&mut self, tree: TreeRoot, (first, last): (&[u8], &[u8])) {
        let overlay = &mut self.overlay;
        debug_assert!(overlay.parts.last().is_none_or(|part| part.root.tree < tree.tree));
        let mut prefix = Prefix::default();
        // What both begin with all in between begin with.
        prefix.narrow(first);
        prefix.narrow(last);
        let end = overlay.order.len();
        overlay.parts.push(Part {
            root: tree,
            number: u32::try_from(overlay.parts.len()).expect("there are less than 2^32 operations"),
            positions: end..end,
            prefix,
            ranges: Vec::new(),
            left: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            is_open: AtomicBool::new(false),
        });
    }

    /// The next change, of a key that is larger than the one before.
    ///
    /// # Panics
    ///
    /// If no tree was started.
    pub(in crate::store) fn add(&mut self, key: &[u8], newest: &Newest<'_>) {
        let Overlay { seed, arena, entries, index, order, parts, .. } = &mut self.overlay;
        let part = parts.last_mut().expect("its tree was said");
        let number = u32::try_from(entries.len()).expect("there are less than 2^32 operations");
        let entry = Entry::new((part.number, 0, 0), key, newest, arena);
        part.puts.fetch_add(u64::from(entry.puts()), Ordering::Relaxed);
        entries.push(entry);
        index.insert(hash(*seed, part.number, key), number);
        order.push(Ordered { head: part.prefix.head(key), entry: number });
        part.positions.end += 1;
        part.left.fetch_add(1, Ordering::Relaxed);
    }

    /// The overlay, of a write whose number is not known yet: nobody sees it before
    /// [`Overlay::set_span`].
    pub(in crate::store) fn finish(mut self) -> Overlay {
        let parts = &mut self.overlay.parts;
        for part in &mut *parts {
            part.is_open = AtomicBool::new(!part.positions.is_empty());
        }
        let open = parts.iter().filter(|part| part.is_open()).count() as u64;
        self.overlay.open = AtomicU64::new(open);
        self.overlay
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::ops::Bound;

    use super::*;
    use crate::store::overlay::{Claimed, Direction, Span};

    #[test]
    fn it_has_what_was_added_under_the_number_that_is_set_late() {
        let (left, right) = (TreeRoot { tree: 2, root: 20 }, TreeRoot { tree: 3, root: 30 });
        let mut builder = SortedBuilder::new(7, 400);
        let key = |number: u32| [b"key ", &number.to_be_bytes()[..]].concat();
        builder.start(left, (&key(0), &key(299)));
        for number in 0..300 {
            builder.add(&key(number), &Newest::Put { value: &key(number + 1), expiry: None });
        }
        builder.start(right, (b"a", b"b"));
        builder.add(b"a", &Newest::Deleted);
        builder.add(b"b", &Newest::PutReference { reference: [3; 24], expiry: None });
        let mut overlay = builder.finish();
        overlay.set_span(Span { first: 40, last: 50 });
        assert!(!overlay.is_drained());
        for number in 0..300 {
            let expected = key(number + 1);
            let found = overlay.get(left, &key(number));
            assert_eq!(found, Some(Newest::Put { value: &expected, expiry: None }));
        }
        assert_eq!(overlay.get(left, &key(300)), None);
        assert_eq!(overlay.get(right, b"a"), Some(Newest::Deleted));
        let view = overlay.view(left, (Bound::Unbounded, Bound::Unbounded), Direction::Forwards, 1000);
        assert!(view.records().map(|record| record.key.to_vec()).eq((0..300).map(key)));
        for (tree, number) in
            (0..300).map(|number| (left, key(number))).chain([(right, b"a".to_vec()), (right, b"b".to_vec())])
        {
            let Claimed::Mine(claim) = overlay.claim(tree, &number) else { panic!("nobody has it") };
            assert_eq!((claim.record().number, claim.record().from), (50, 40));
            claim.finish();
        }
        assert!(overlay.is_drained());
        assert!(SortedBuilder::new(7, 0).finish().is_drained());
    }
}
