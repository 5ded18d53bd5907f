//! What a leaf holds: its image and the area over it, merged.

use crate::store::btree::area::{self, Kind};
use crate::store::btree::image::{
    Entry, EntryKind, KeyParts, LeafBuilder, LeafImage, Patch, PatchedLeaf, Position,
};
use crate::store::btree::node::NodeRef;

/// The entries of `leaf`, in the order of an image, one of each key. Deleted keys are not among
/// them.
///
/// If the area is frozen and decided this is the leaf's content. Otherwise it is what the area had
/// of each key at some moment during the call.
pub(super) fn merged(leaf: NodeRef<'_>) -> Vec<Entry<'_>> {
    let image = LeafImage::of_verified(leaf.image());
    patched(&image, &patches(leaf, &image))
}

/// The changes of a leaf's area as patches of its image, one of each key, in the order of the keys.
fn patches<'g>(leaf: NodeRef<'g>, image: &LeafImage<'g>) -> Vec<Patch<'g>> {
    let mut patches = Vec::new();
    append_patches(leaf, image, &mut patches);
    patches
}

/// The same into a list that is empty.
pub(super) fn append_patches<'g>(leaf: NodeRef<'g>, image: &LeafImage<'g>, patches: &mut Vec<Patch<'g>>) {
    #[cfg(test)]
    MERGES.with(|merges| merges.set(merges.get() + 1));
    let area = leaf.area();
    patches.reserve(area.slots());
    patches.extend(area.live().filter_map(changed).map(|(key, entry)| patch(key, entry, image)));
    // The area gives the last slot first, and that is the newest: a stable sort keeps this.
    patches.sort_by(|a, b| a.at.cmp(&b.at).then_with(|| a.entry.key.compare(&b.entry.key)));
    patches
        .dedup_by(|older, newer| older.at == newer.at && older.entry.key.compare(&newer.entry.key).is_eq());
}

/// The entries of an image with these patches.
pub(super) fn patched<'g>(image: &LeafImage<'g>, patches: &[Patch<'g>]) -> Vec<Entry<'g>> {
    let mut all: Vec<Entry<'_>> = Vec::with_capacity(image.len() + patches.len());
    let mut done = 0;
    for patch in patches {
        all.extend(image.entries(done..patch.at));
        if patch.stays() {
            all.push(patch.entry);
        }
        done = patch.behind;
    }
    all.extend(image.entries(done..image.len()));
    if !image.is_plain() {
        all.dedup_by(|older, newer| older.key.compare(&newer.key).is_eq());
        all.retain(|entry| entry.kind != EntryKind::Deleted);
    }
    all
}

/// The image of what a leaf holds, with the changes of shape that it had.
pub(super) fn merged_image(leaf: NodeRef<'_>) -> Vec<u8> {
    let image = LeafImage::of_verified(leaf.image());
    let section = image.changes().section();
    let patches = patches(leaf, &image);
    if let Some(leaf) = PatchedLeaf::new(image, &patches, section) {
        let mut image = vec![0; leaf.size_bytes()];
        leaf.write(&mut image);
        return image;
    }
    let entries = patched(&image, &patches);
    let builder = LeafBuilder::new(entries.iter().copied(), section);
    let mut image = vec![0; builder.size_bytes()];
    builder.write(&mut image);
    image
}

fn patch<'g>(key: &[u8], entry: Entry<'g>, image: &LeafImage<'_>) -> Patch<'g> {
    let (at, behind) = match image.search(key) {
        Position::Found(at) => (at, image.behind_versions(at)),
        Position::Insert(at) => (at, at),
    };
    Patch { entry, at, behind }
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
