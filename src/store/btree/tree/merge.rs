//! What a leaf holds: its image and the area over it, merged.

use std::cmp::Ordering;
use std::iter::Peekable;

use crate::store::btree::area::{self, Kind};
use crate::store::btree::image::{Entry, EntryKind, KeyParts, LeafImage};
use crate::store::btree::node::NodeRef;

/// The entries of `leaf`, in the order of an image: one of each key, or, where merge operands lie
/// over it, those first, newest first. Deleted keys are not among them.
///
/// If the area is frozen and decided this is the leaf's content. Otherwise it is what the area had
/// of each key at some moment during the call.
pub(super) fn merged(leaf: NodeRef<'_>) -> Vec<Entry<'_>> {
    let image = LeafImage::of_verified(leaf.image());
    let mut area: Vec<_> = leaf.area().live().filter_map(changed).collect();
    // The area gives the last slot first, and that is the newest: a stable sort keeps this.
    area.sort_by(|a, b| a.key.compare(&b.key));
    let mut all = Vec::with_capacity(image.len() + area.len());
    let (mut below, mut above) = (image.entries(0..image.len()).peekable(), area.into_iter().peekable());
    loop {
        let order = match (below.peek(), above.peek()) {
            (None, None) => return all,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(below), Some(above)) => below.key.compare(&above.key),
        };
        let key = match order {
            Ordering::Less => below.peek(),
            Ordering::Equal | Ordering::Greater => above.peek(),
        };
        let Some(key) = key.map(|entry| entry.key) else { return all };
        if !take_version(&mut all, &mut above, key) {
            take_version(&mut all, &mut below, key);
        } else {
            while below.next_if(|entry| entry.key.compare(&key).is_eq()).is_some() {}
        }
    }
}

/// Takes all versions of `key` off `versions`, and keeps those that a reader needs: operands, and
/// the first one that is none. Whether there was such a one.
fn take_version<'a>(
    kept: &mut Vec<Entry<'a>>,
    versions: &mut Peekable<impl Iterator<Item = Entry<'a>>>,
    key: KeyParts<'_>,
) -> bool {
    let mut is_settled = false;
    while let Some(entry) = versions.next_if(|entry| entry.key.compare(&key).is_eq()) {
        if !is_settled && entry.kind != EntryKind::Deleted {
            kept.push(entry);
        }
        is_settled |= entry.kind != EntryKind::Operand;
    }
    is_settled
}

/// A change of an area as an entry of an image.
fn changed(entry: area::Entry<'_>) -> Option<Entry<'_>> {
    let kind = match entry.kind {
        Kind::Put => EntryKind::Value,
        Kind::Overflow => EntryKind::Reference,
        Kind::Delete => EntryKind::Deleted,
        Kind::Merge => EntryKind::Operand,
        // What they are copies of lies below. Open intents do not count, and transactions come
        // with a later step.
        Kind::Cached | Kind::CachedAbsence | Kind::Intent => return None,
    };
    Some(Entry {
        kind,
        number: None,
        expiry_ms: entry.expiry_ms,
        key: KeyParts::whole(entry.key),
        value: entry.value,
    })
}
