//! What the keeper does with pages of the tree: it captures them, and says where they lie now.
//!
//! # Capturing
//!
//! [`Pin::capture`] freezes the area of a leaf, decides it, and merges it: that is the page's whole
//! content at a moment during the call, and the image that goes to the namespace. Inner pages are
//! images as they are. So what is captured has every write that was acknowledged before, and every
//! change of shape.
//!
//! The leaf itself stays as it is, frozen: writers that come by put a new node there, as they do
//! when an area is full.
//!
//! # Saying where it lies
//!
//! When it has been given a place on the namespace, [`Pin::install_flushed`] puts a node there that
//! has this image, an empty area, and the place. It looks at what the page holds *now*: if that is
//! the image, byte by byte, the node may be replaced, whatever became of it in between. So a
//! capture needs no pin, and may be kept across an await. If it is not, someone has changed the
//! page: what was captured is still right as of its moment, and the page is dirty once more.
//!
//! # Finishing changes of shape
//!
//! A page that is marked as removed or moved cannot be captured, and its parent not be written,
//! before the step on the parent is done. Who could not do it has left it in a list
//! ([`undone`](crate::store::btree::undone)), which [`Pin::finish_undone`] works off.

use super::content::Separator;
use super::mapping::{Pinned, area_over};
use super::merge::{merged_image, newest};
use super::{Refusal, State, TreeRoot};
use crate::store::btree::area::spin;
use crate::store::btree::image::{InnerImage, KeyParts, LEAF_TARGET_BYTES, LeafBuilder, LeafImage};
use crate::store::btree::miss::Miss;
use crate::store::btree::node::{AreaSize, NodeMemory, NodeRef, Shape};
use crate::store::btree::nodes::Pin;
use crate::store::btree::smo::{Care, Target};
use crate::store::btree::undone::Way;
use crate::store::cache::Room;
use crate::store::word::{ChildWord, ColdAddress, Epoch, PageId};

/// What a page is at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Capture {
    Page(Captured),
    /// The page was removed; `newest` is the newest number of what was in it.
    Removed {
        child: ChildWord,
        newest: u64,
    },
    /// The page's content is the root's.
    Moved {
        child: ChildWord,
        newest: u64,
    },
    /// There is no page with this id. The next one has this epoch.
    Free(Epoch),
}

/// The whole content of a page at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Captured {
    pub(in crate::store) child: ChildWord,
    pub(in crate::store) tree: u32,
    pub(in crate::store) level: u8,
    /// The newest number of all that went into the image. Of an inner page, 0 or the number of
    /// something that was in the page when it was a leaf.
    pub(in crate::store) newest: u64,
    /// A page's content as it lies on the namespace, with the split that is pending.
    pub(in crate::store) image: Vec<u8>,
    /// Where exactly this image lies already, if it does.
    pub(in crate::store) place: Option<ColdAddress>,
}

/// What the header of a page says of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Facts {
    pub(in crate::store) has_changes: bool,
    pub(in crate::store) is_numbered: bool,
    pub(in crate::store) has_references: bool,
    pub(in crate::store) earliest_expiry_ms: Option<u64>,
}

impl Captured {
    /// What the page's header has to say of the image.
    pub(in crate::store) fn facts(&self) -> Facts {
        if self.level > 0 {
            let changes = InnerImage::of_verified(&self.image).changes();
            return Facts {
                has_changes: !changes.section().is_empty(),
                is_numbered: false,
                has_references: false,
                earliest_expiry_ms: None,
            };
        }
        let leaf = LeafImage::of_verified(&self.image);
        let summary = leaf.summary();
        Facts {
            has_changes: !leaf.changes().section().is_empty(),
            is_numbered: summary.numbered,
            has_references: summary.references,
            earliest_expiry_ms: summary.earliest_expiry_ms,
        }
    }
}

impl<M: NodeMemory> Pin<'_, M> {
    /// The whole content of a page that is in memory.
    ///
    /// # Errors
    ///
    /// It is not.
    pub(in crate::store) fn capture(&self, id: PageId) -> Result<Capture, Miss> {
        let found = self.load(id)?;
        let Some(node) = found.node else { return Ok(Capture::Free(found.second.epoch())) };
        let child = node.child();
        Ok(match State::of_code(node.kind()) {
            State::Removed => Capture::Removed { child, newest: newest(node) },
            State::Moved => Capture::Moved { child, newest: newest(node) },
            State::Live => {
                let (image, place) = match content(node) {
                    Some(image) => (image, None),
                    None => (node.image().to_vec(), node.place()),
                };
                let (tree, level) = (node.tree(), node.level());
                Capture::Page(Captured { child, tree, level, newest: newest(node), image, place })
            }
        })
    }

    /// Says that the image of `captured` lies, or is being written, at `place`: the page's node is
    /// replaced by a clean one. False if the page holds something else by now, is not in memory, or
    /// if there is no memory for the node.
    ///
    /// A leaf that holds something else takes no more writes into its area then, as if that were
    /// full.
    pub(in crate::store) fn install_flushed(&self, captured: &Captured, place: ColdAddress) -> bool {
        let Ok(Some((node, word))) = self.find(captured.child.id()) else { return false };
        if node.child() != captured.child || node.kind() != State::Live.code() {
            return false;
        }
        let is_same = match content(node) {
            Some(image) => image == captured.image,
            None => node.image() == captured.image,
        };
        if !is_same {
            return false;
        }
        let image = &captured.image;
        let shape = Shape {
            newest: newest(node),
            place: Some(place),
            ..Shape::successor(node, AreaSize::NONE, image.len())
        };
        // A leaf that was written to is likely to be again.
        let area = match node.level() {
            // It is split then: an area more, flush after flush, and it would outgrow all bounds.
            0 if image.len() > LEAF_TARGET_BYTES => AreaSize::NONE,
            0 if node.area().slots() > 0 => area_over(LeafImage::of_verified(image).len(), image.len()),
            _ => AreaSize::NONE,
        };
        let new = self.build(&Shape { area, ..shape }, Room::Ordinary);
        let Some(mut new) = new.or_else(|| self.build(&shape, Room::Reserve)) else { return false };
        new.image_mut().copy_from_slice(image);
        self.homes().tells(captured.child.id(), place);
        self.install(captured.child.id(), word, new)
    }

    /// For the keeper: this way down leads to a change of shape that is not finished.
    pub(super) fn leave_undone(
        &self,
        TreeRoot { tree, root }: TreeRoot,
        target: &Target<Separator<'_>>,
        marked: PageId,
    ) {
        if self.events().has_keeper() {
            let target = match target {
                Target::At(key) => Target::At(key.to_vec()),
                Target::Below(key) => Target::Below(key.as_ref().map(Separator::to_vec)),
            };
            self.undone().push(Way { tree, root, target, marked });
        }
    }

    /// Finishes one of the changes of shape that others have left half done, if it `is_left`: the
    /// page above the one that is marked still has that. None if there is none.
    ///
    /// # Errors
    ///
    /// [`Refusal::Miss`] or [`Refusal::NoRoom`]: it is left once more.
    pub(in crate::store) fn finish_undone(
        &self,
        is_left: impl FnOnce(PageId) -> bool,
    ) -> Option<Result<(), Refusal>> {
        let way = self.undone().pop()?;
        let finished = if is_left(way.marked) { self.finish(&way) } else { Ok(()) };
        if finished.is_err() {
            self.undone().push(way);
        }
        Some(finished)
    }

    fn finish(&self, Way { tree, root, target, .. }: &Way) -> Result<(), Refusal> {
        let is_root =
            |(node, _): (NodeRef<'_>, _)| node.child() == *root && State::of_code(node.kind()) == State::Live;
        if !self.find(root.id())?.is_some_and(is_root) {
            // The tree is gone, and all of it with it.
            return Ok(());
        }
        let lies = |key| Separator::Lies(KeyParts::whole(key));
        let target = match target {
            Target::At(key) => Target::At(lies(key)),
            Target::Below(key) => Target::Below(key.as_deref().map(lies)),
        };
        let tree = TreeRoot { tree: *tree, root: *root };
        self.visit(&Pinned::new(self, tree), target, Care::None).map(drop)
    }

    /// Makes the id of a page free that was removed, or whose content is the root's, once no word
    /// on the namespace can mean it: R3 and C3 of the keeper. `gone` has the epoch that the page
    /// has since. False if it is no such page.
    ///
    /// The keeper calls it once for a page.
    pub(in crate::store) fn release_gone(&self, gone: ChildWord) -> bool {
        let Ok(Some((node, word))) = self.find(gone.id()) else { return false };
        if node.child() != gone || node.kind() == State::Live.code() {
            return false;
        }
        self.release(gone.id(), word, gone.epoch().next());
        true
    }

    /// Whether a child of an inner page is in memory.
    pub(in crate::store) fn has_child_in_memory(&self, id: PageId) -> bool {
        let children = self.children(id).ok().flatten().unwrap_or_default();
        children.into_iter().any(|child| self.resident(child.id()).is_ok_and(|resident| resident.is_some()))
    }

    /// Makes the root of a tree that was never durable: an empty leaf, with exactly its id, which
    /// is given to nobody else from then on. False, and nothing happens, if there is a page. For a
    /// tree whose root nobody else makes at this moment.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoRoom`], and that the frame of its id is not in memory.
    pub(in crate::store) fn ensure_root(&self, tree: TreeRoot) -> Result<bool, Refusal> {
        let id = tree.root.id();
        let found = match self.load(id) {
            Err(Miss::Page(_)) => return Ok(false),
            found => found?,
        };
        if found.node.is_some() {
            return Ok(false);
        }
        let empty = LeafBuilder::new(std::iter::empty(), &[]);
        let len = empty.size_bytes();
        let [_, small, ..] = AreaSize::ALL;
        let shape = Shape::new(tree.root, tree.tree, small, len);
        let mut node = self.build(&shape, Room::Reserve).ok_or(Refusal::NoRoom)?;
        empty.write(node.image_mut());
        self.claim(id);
        self.install(id, found.word, node);
        Ok(true)
    }

    /// Whether the page of a root still is that root. A page that cannot be read is taken for it.
    ///
    /// # Errors
    ///
    /// The frame of its id is not in memory.
    pub(in crate::store) fn has_root(&self, tree: TreeRoot) -> Result<bool, Miss> {
        match self.find(tree.root.id()) {
            Ok(found) => Ok(found.is_some_and(|(node, _)| node.child() == tree.root)),
            Err(Miss::Page(cold)) => Ok(cold.second.epoch() == tree.root.epoch()),
            Err(Miss::Damaged(_)) => Ok(true),
            Err(miss) => Err(miss),
        }
    }

    /// Gives the root of a new tree back, which nobody knows yet.
    pub(in crate::store) fn release_root(&self, tree: TreeRoot) {
        if let Ok(Some((_, word))) = self.find(tree.root.id()) {
            self.release(tree.root.id(), word, tree.root.epoch().next());
        }
    }

    /// The children of an inner page, for the keeper's walks. None if it is a leaf, or no page.
    ///
    /// # Errors
    ///
    /// It is not in memory.
    pub(in crate::store) fn children(&self, id: PageId) -> Result<Option<Vec<ChildWord>>, Miss> {
        let Some((node, _)) = self.find(id)? else { return Ok(None) };
        if node.level() == 0 || node.kind() != State::Live.code() {
            return Ok(None);
        }
        let image = InnerImage::of_verified(node.image());
        Ok(Some((0..image.len()).map(|at| image.child(at)).collect()))
    }
}

/// What a live page holds, if that is not its image. The area of a leaf is frozen and decided.
fn content(node: NodeRef<'_>) -> Option<Vec<u8>> {
    let area = node.area();
    area.freeze();
    area.decide_all(spin);
    if !area.has_changes() {
        return None;
    }
    Some(merged_image(node))
}
