//! What tests of the whole engine see of a page.

use super::merge::merged;
use super::{State, pending};
use crate::store::btree::image::InnerImage;
use crate::store::btree::miss::Miss;
use crate::store::btree::node::NodeMemory;
use crate::store::btree::nodes::Pin;
use crate::store::word::{ChildWord, PageId};

/// A page in memory.
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
    /// Keys and values.
    Leaf(Vec<(Vec<u8>, Vec<u8>)>),
    /// Children, each but the first with the smallest key that it may have.
    Inner(Vec<(Option<Vec<u8>>, ChildWord)>),
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
        let content = if node.level() == 0 {
            let entries = merged(node);
            Content::Leaf(entries.iter().map(|entry| (entry.key.to_vec(), entry.value.to_vec())).collect())
        } else {
            let image = InnerImage::of_verified(node.image());
            let lower = |at: usize| (at > 0).then(|| image.separator(at - 1).to_vec());
            Content::Inner((0..image.len()).map(|at| (lower(at), image.child(at))).collect())
        };
        let pending = if is_live { pending(node) } else { None };
        let pending = pending.map(|split| (split.separator.to_vec(), split.right));
        let (child, level) = (node.child(), node.level());
        Ok(Some(PageView { child, level, is_live, content, pending }))
    }
}
