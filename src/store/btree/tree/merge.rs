//! What a leaf holds: its image and the area over it, merged.

use crate::store::btree::area::{self, Kind};
use crate::store::btree::image::{Entry, EntryKind, KeyParts, LeafImage, Position};
use crate::store::btree::node::NodeRef;

/// The entries of `leaf`, in the order of an image, one of each key. Deleted keys are not among
/// them.
///
/// If the area is frozen and decided this is the leaf's content. Otherwise it is what the area had
/// of each key at some moment during the call.
pub(super) fn merged(leaf: NodeRef<'_>) -> Vec<Entry<'_>> {
    #[cfg(test)]
    MERGES.with(|merges| merges.set(merges.get() + 1));
    let image = LeafImage::of_verified(leaf.image());
    let mut area: Vec<_> =
        leaf.area().live().filter_map(changed).map(|key| Placed::new(key, &image)).collect();
    // The area gives the last slot first, and that is the newest: a stable sort keeps this.
    area.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.entry.key.compare(&b.entry.key)));
    let mut all: Vec<Entry<'_>> = Vec::with_capacity(image.len() + area.len());
    let mut done = 0;
    let mut before: Option<&Placed<'_>> = None;
    for placed in &area {
        let is_older = |before: &Placed<'_>| {
            before.at == placed.at && before.entry.key.compare(&placed.entry.key).is_eq()
        };
        if before.is_some_and(is_older) {
            continue;
        }
        all.extend(image.entries(done..placed.at));
        if placed.entry.kind != EntryKind::Deleted {
            all.push(placed.entry);
        }
        done = placed.behind;
        before = Some(placed);
    }
    all.extend(image.entries(done..image.len()));
    if !image.is_plain() {
        all.dedup_by(|older, newer| older.key.compare(&newer.key).is_eq());
        all.retain(|entry| entry.kind != EntryKind::Deleted);
    }
    all
}

/// A change of an area, and where its key is in the image, or would be: the entries from `at` until
/// `behind` are of that key, and older.
struct Placed<'a> {
    entry: Entry<'a>,
    at: usize,
    behind: usize,
}

impl<'a> Placed<'a> {
    fn new((key, entry): (&[u8], Entry<'a>), image: &LeafImage<'_>) -> Self {
        let (at, behind) = match image.search(key) {
            Position::Found(at) => (at, image.behind_versions(at)),
            Position::Insert(at) => (at, at),
        };
        Self { entry, at, behind }
    }
}

/// Whether nothing would be [merged]: found without memory, and mostly with one look, as the first
/// key that stays is the answer.
pub(super) fn is_empty(leaf: NodeRef<'_>) -> bool {
    let image = LeafImage::of_verified(leaf.image());
    let area = leaf.area();
    let newest = |key: KeyParts<'_>| area.live().find(|entry| entry.kind.is_change() && key.is(entry.key));
    let is_deleted = |entry: area::Entry<'_>| entry.kind == Kind::Delete;
    // An area with fewer entries than there are keys leaves one of them.
    let stays_below =
        |entry: Entry<'_>| entry.kind != EntryKind::Deleted && !newest(entry.key).is_some_and(is_deleted);
    if image.entries(0..image.len()).any(stays_below) {
        return false;
    }
    let stays_above = |entry: area::Entry<'_>| {
        entry.kind.is_change() && !newest(KeyParts::whole(entry.key)).is_some_and(is_deleted)
    };
    !area.live().any(stays_above)
}

/// The newest number of all that went into a leaf. It is final if the area is frozen and decided.
pub(super) fn newest(leaf: NodeRef<'_>) -> u64 {
    leaf.newest().max(leaf.area().newest())
}

/// A change of an area as an entry of an image, and its key.
fn changed(entry: area::Entry<'_>) -> Option<(&[u8], Entry<'_>)> {
    let kind = match entry.kind {
        Kind::Put => EntryKind::Value,
        Kind::Overflow => EntryKind::Reference,
        Kind::Delete => EntryKind::Deleted,
        // What they are copies of lies below. Open intents do not count, and transactions come
        // with a later step.
        Kind::Cached | Kind::CachedAbsence | Kind::Intent => return None,
    };
    let key = KeyParts::whole(entry.key);
    Some((entry.key, Entry { kind, number: None, expiry_ms: entry.expiry_ms, key, value: entry.value }))
}

#[cfg(test)]
thread_local! {
    /// How often this thread has merged a leaf.
    pub(super) static MERGES: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}
