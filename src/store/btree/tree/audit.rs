//! What an audit sees of a page: verification, and the tests of the whole engine.

use super::merge::merged;
use super::{State, pending};
use crate::store::btree::image::{Damage, Entry, EntryKind, InnerImage, LeafImage, PendingSplit};
use crate::store::btree::miss::Miss;
use crate::store::btree::node::NodeMemory;
use crate::store::btree::nodes::Pin;
use crate::store::word::{ChildWord, PageId};

/// A page, copied.
#[derive(Clone, Debug)]
pub(in crate::store) struct PageView {
    pub(in crate::store) child: ChildWord,
    pub(in crate::store) level: u8,
    pub(in crate::store) is_live: bool,
    pub(in crate::store) content: Content,
    /// Keys from this one on are in that page.
    pub(in crate::store) pending: Option<(Vec<u8>, ChildWord)>,
}

#[derive(Clone, Debug)]
pub(in crate::store) enum Content {
    Leaf(Vec<KeyView>),
    /// Children, each but the first with the smallest key that it may have.
    Inner(Vec<(Option<Vec<u8>>, ChildWord)>),
}

/// A key that is there, and its value.
#[derive(Clone, Debug)]
pub(in crate::store) struct KeyView {
    pub(in crate::store) key: Vec<u8>,
    pub(in crate::store) value: Vec<u8>,
    /// The value is the reference to a long one.
    pub(in crate::store) is_reference: bool,
}

impl<M: NodeMemory> Pin<'_, M> {
    /// What a page has. None if the id is free.
    ///
    /// # Errors
    ///
    /// It is not in memory.
    pub(in crate::store) fn view(&self, id: PageId) -> Result<Option<PageView>, Miss> {
        let Some((node, _)) = self.find(id)? else { return Ok(None) };
        let is_live = node.kind() == State::Live.code();
        let content = match node.level() {
            // A page that is gone has no image.
            _ if !is_live => Content::Leaf(Vec::new()),
            0 => leaf(merged(node)),
            _ => inner(&InnerImage::of_verified(node.image())),
        };
        let split = if is_live { pending(node) } else { None };
        let (child, level) = (node.child(), node.level());
        Ok(Some(PageView { child, level, is_live, content, pending: copied(split) }))
    }
}

impl PageView {
    /// The page that `image` is, which comes from the namespace.
    ///
    /// # Errors
    ///
    /// It is none.
    pub(in crate::store) fn of_image(child: ChildWord, level: u8, image: &[u8]) -> Result<Self, Damage> {
        let (content, split) = match level {
            0 => {
                let image = LeafImage::parse(image)?;
                (leaf((0..image.len()).map(|at| image.get(at)).collect()), image.changes().pending())
            }
            _ => {
                let image = InnerImage::parse(image, level)?;
                (inner(&image), image.changes().pending())
            }
        };
        Ok(Self { child, level, is_live: true, content, pending: copied(split) })
    }
}

/// Of several versions of a key the first one is the newest.
fn leaf(entries: Vec<Entry<'_>>) -> Content {
    let mut keys: Vec<KeyView> = Vec::with_capacity(entries.len());
    let mut newest: Option<Vec<u8>> = None;
    for entry in entries {
        let key = entry.key.to_vec();
        let is_newest = newest.as_ref() != Some(&key);
        if is_newest && entry.kind != EntryKind::Deleted {
            let is_reference = entry.kind == EntryKind::Reference;
            keys.push(KeyView { key: key.clone(), value: entry.value.to_vec(), is_reference });
        }
        newest = Some(key);
    }
    Content::Leaf(keys)
}

fn inner(image: &InnerImage<'_>) -> Content {
    let lower = |at: usize| (at > 0).then(|| image.separator(at - 1).to_vec());
    Content::Inner((0..image.len()).map(|at| (lower(at), image.child(at))).collect())
}

fn copied(split: Option<PendingSplit<'_>>) -> Option<(Vec<u8>, ChildWord)> {
    split.map(|split| (split.separator.to_vec(), split.right))
}
