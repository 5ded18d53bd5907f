//! The mapping as structure changes use it: pages are loaded under a pin, and replaced as a whole.
//!
//! A page that is not in memory reads as one that is free, and the [miss](Pinned::miss) is kept:
//! the visitor starts again at the root, and whoever drives it asks before each step. So the steps
//! themselves ([`smo`](crate::store::btree::smo)) know nothing of cold pages.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use super::content::{InnerContent, LeafContent, Separator, is_over};
use super::merge::{self, newest};
use super::{Leaf, State, TreeRoot, pending};
use crate::store::btree::area::spin;
use crate::store::btree::image::{
    Entry, InnerBuilder, InnerParts, KeyParts, LeafBuilder, LeafImage, Patch, PatchedLeaf, PendingSplit,
};
use crate::store::btree::miss::Miss;
use crate::store::btree::node::{AreaSize, NewNode, NodeMemory, NodeRef, Shape};
use crate::store::btree::nodes::{Found, Pin};
use crate::store::btree::smo::{Body, Content, Leaf as _, Mapping, Page, Split};
use crate::store::cache::Room;
use crate::store::events::Event;
use crate::store::word::{ChildWord, Epoch, MapWord, PageId};

/// A tree under a pin.
pub(super) struct Pinned<'g, M: NodeMemory> {
    pin: &'g Pin<'g, M>,
    tree: TreeRoot,
    /// What a new area has to have room for, in bytes.
    entry_bytes: usize,
    /// How long a new leaf may be, in bytes, if that is limited.
    most_bytes: Option<usize>,
    room: Room,
    is_out_of_room: Cell<bool>,
    marked: Cell<Marks>,
    /// What the step that was told of last takes from the page above.
    taken: Cell<Marks>,
    miss: Cell<Option<Miss>>,
}

/// Pages that are marked as removed or moved: two that are packed, or one.
type Marks = [Option<PageId>; 2];

type PageContent<'g> = Page<LeafContent<'g>, InnerContent<'g>, Separator<'g>>;

/// What becomes of a leaf and its area.
enum Merged<N> {
    /// It is larger than it may be and can be split.
    Over,
    /// A new leaf; None if there is no memory.
    Built(Option<N>),
}

/// A page as one load saw it.
#[derive(Clone, Debug)]
pub(super) struct Loaded<'g>(Rc<(MapWord, Option<NodeRef<'g>>, PageContent<'g>)>);

impl<'g> Deref for Loaded<'g> {
    type Target = PageContent<'g>;

    fn deref(&self) -> &PageContent<'g> {
        &self.0.2
    }
}

impl<'g> Loaded<'g> {
    fn new(word: MapWord, node: Option<NodeRef<'g>>, page: PageContent<'g>) -> Self {
        Self(Rc::new((word, node, page)))
    }

    fn word(&self) -> MapWord {
        self.0.0
    }

    pub(super) fn node(&self) -> Option<NodeRef<'g>> {
        self.0.1
    }
}

impl<'g, M: NodeMemory> Pinned<'g, M> {
    pub(super) fn new(pin: &'g Pin<'g, M>, tree: TreeRoot) -> Self {
        Self {
            pin,
            tree,
            entry_bytes: 0,
            most_bytes: None,
            room: pin.room(),
            is_out_of_room: Cell::new(false),
            marked: Cell::default(),
            taken: Cell::default(),
            miss: Cell::new(None),
        }
    }

    /// For a writer whose entry takes this many bytes of an area.
    pub(super) fn for_entry(self, bytes: usize) -> Self {
        Self { entry_bytes: bytes, ..self }
    }

    /// With this memory for new nodes. Who has marked a page may use the reserve to finish what
    /// that begins: when it is done less is in use than before.
    pub(super) fn in_room(self, room: Room) -> Self {
        Self { room, ..self }
    }

    /// With leaves that are not longer than `leaf` is: their areas are smaller if need be.
    pub(super) fn no_longer_than(self, leaf: NodeRef<'_>) -> Self {
        Self { most_bytes: usize::try_from(leaf.len_bytes()).ok(), ..self }
    }

    /// Whether a step was not done since this was asked last because there was no memory or no id
    /// for a page.
    pub(super) fn was_out_of_room(&self) -> bool {
        self.is_out_of_room.take()
    }

    /// Pages that were marked as removed or moved here, which is to be followed by a step on the
    /// page above that was not done here.
    pub(super) fn marked(&self) -> impl Iterator<Item = PageId> + use<M> {
        self.marked.get().into_iter().flatten()
    }

    /// A page was replaced, perhaps by its mark.
    fn replaced(&self, id: PageId, is_mark: bool) {
        let taken = self.taken.take();
        let mut marked = self.marked.get().map(|page| page.filter(|_| !taken.contains(&page)));
        if is_mark {
            marked = [Some(id), marked[0].or(marked[1])];
        }
        self.marked.set(marked);
    }

    pub(super) fn root_of(&self) -> TreeRoot {
        self.tree
    }

    fn room(&self) -> Room {
        if self.marked().next().is_some() { Room::Reserve } else { self.room }
    }

    /// What a load missed since this was asked last.
    pub(super) fn miss(&self) -> Option<Miss> {
        self.miss.take()
    }

    /// A node of a leaf like `like`, with an area if the leaf is live. `write` writes its image, of
    /// so many entries and bytes.
    fn leaf(
        &self,
        like: Shape,
        (count, image_len): (usize, usize),
        write: impl FnOnce(&mut [u8]),
    ) -> Option<NewNode<'g, M>> {
        let is_live = like.kind == State::Live.code();
        let area = if is_live { self.area(count, image_len)? } else { AreaSize::NONE };
        let mut node = self.pin.build_in(self.room(), &Shape { area, image_len, ..like })?;
        write(node.image_mut());
        Some(node)
    }

    /// The same of what `builder` makes.
    fn built_leaf<'e>(
        &self,
        like: Shape,
        builder: LeafBuilder<'_, impl Iterator<Item = Entry<'e>> + Clone>,
    ) -> Option<NewNode<'g, M>> {
        self.leaf(like, (builder.len(), builder.size_bytes()), |out| _ = builder.write(out))
    }

    /// The area of a leaf whose image has this many entries and bytes. None if the leaf would be
    /// longer than it may be.
    fn area(&self, entries: usize, image_bytes: usize) -> Option<AreaSize> {
        let usual = area_over(entries, image_bytes).with_room_for(self.entry_bytes);
        match self.most_bytes {
            None => Some(usual),
            Some(most) => usual.within(most, image_bytes, self.entry_bytes),
        }
    }

    /// A node of a page with this content: what follows `before`, if there is something. An inner
    /// page is of `level` if the content does not know it. None if there is no memory.
    fn build(
        &self,
        child: ChildWord,
        new: &PageContent<'_>,
        before: Option<NodeRef<'_>>,
        level: u8,
    ) -> Option<NewNode<'g, M>> {
        let (state, content) = match &new.body {
            Body::Live(content) => (State::Live, Some(content)),
            Body::Moved(content) => (State::Moved, Some(content)),
            Body::Removed | Body::Free => (State::Removed, None),
        };
        let (level, of_content) = match content {
            Some(Content::Leaf(leaf)) => (0, leaf.newest()),
            Some(Content::Inner(inner)) => (inner.level().unwrap_or(level), inner.newest()),
            None => (0, 0),
        };
        let like = Shape {
            kind: state.code(),
            level,
            newest: before.map_or(0, newest).max(of_content),
            ..Shape::new(child, self.tree.tree, AreaSize::NONE, 0)
        };
        let section = section(new.pending.as_ref());
        match content {
            Some(Content::Leaf(leaf)) => {
                let (entries, range) = leaf.entries();
                self.built_leaf(like, LeafBuilder::new(entries[range].iter().copied(), &section))
            }
            Some(Content::Inner(inner)) if section.is_empty() && inner.is_as_it_lies() => {
                let bytes = inner.image().content();
                let mut node = self.pin.build_in(self.room, &Shape { image_len: bytes.len(), ..like })?;
                node.image_mut().copy_from_slice(bytes);
                Some(node)
            }
            Some(Content::Inner(inner)) => {
                let image = inner.image();
                let parts = InnerParts { changes: &section, ..InnerContent::parts(&image) };
                let builder = InnerBuilder::new(image.branches(0..image.len()), parts);
                let mut node =
                    self.pin.build_in(self.room(), &Shape { image_len: builder.size_bytes(), ..like })?;
                builder.write(node.image_mut());
                Some(node)
            }
            None => self.pin.build_in(self.room(), &like),
        }
    }

    /// Puts a leaf with an empty area in the place of one whose area is frozen and decided. False
    /// if it is larger than `most_bytes` and can be split, or if there is no memory. Whether
    /// another got in between does not matter.
    pub(super) fn consolidate(&self, leaf: Leaf<'_>, most_bytes: usize) -> bool {
        let like = Shape::successor(leaf.node, AreaSize::NONE, 0);
        let node = if leaf.node.area().has_changes() {
            let like = Shape { newest: newest(leaf.node), ..like };
            let image = LeafImage::of_verified(leaf.node.image());
            let mut patches = self.pin.take_patches();
            merge::append_patches(leaf.node, &image, &mut patches);
            let merged = self.merged_leaf(like, image, &patches, most_bytes);
            self.pin.keep_patches(patches);
            match merged {
                Merged::Over => return false,
                Merged::Built(node) => node,
            }
        } else {
            if leaf.node.image().len() > most_bytes {
                // A flush makes one image of the one before and the area, however long it becomes.
                let (entries, range) = LeafContent::of(leaf.node).entries();
                let entries = &entries[range];
                let len = LeafBuilder::new(entries.iter().copied(), &[]).size_bytes();
                if is_over(entries, len, most_bytes) {
                    return false;
                }
            }
            self.copy(leaf.node, like)
        };
        match node {
            Some(node) => {
                self.pin.install(leaf.node.child().id(), leaf.word, node);
                true
            }
            None => {
                self.is_out_of_room.set(true);
                false
            }
        }
    }

    /// A leaf of an image with these patches, if it is not to be split.
    fn merged_leaf(
        &self,
        like: Shape,
        image: LeafImage<'_>,
        patches: &[Patch<'_>],
        most_bytes: usize,
    ) -> Merged<NewNode<'g, M>> {
        let section = image.changes().section();
        match PatchedLeaf::new(image, patches, section) {
            Some(patched) if patched.size_bytes() - section.len() <= most_bytes => {
                Merged::Built(
                    self.leaf(like, (patched.len(), patched.size_bytes()), |out| patched.write(out)),
                )
            }
            _ => {
                let entries = merge::patched(&image, patches);
                let builder = LeafBuilder::new(entries.iter().copied(), section);
                if is_over(&entries, builder.size_bytes() - section.len(), most_bytes) {
                    return Merged::Over;
                }
                Merged::Built(self.built_leaf(like, builder))
            }
        }
    }

    /// The same leaf, whose area had no change, with an empty area. The image is the same, so it
    /// lies where it did.
    fn copy(&self, leaf: NodeRef<'_>, like: Shape) -> Option<NewNode<'g, M>> {
        let image = leaf.image();
        let area = self.area(LeafImage::of_verified(image).len(), image.len())?;
        let shape = Shape { area, image_len: image.len(), place: leaf.place(), ..like };
        let mut node = self.pin.build_in(self.room(), &shape)?;
        node.image_mut().copy_from_slice(image);
        Some(node)
    }
}

/// The section of changes of a page with this split.
fn section(split: Option<&Split<Separator<'_>>>) -> Vec<u8> {
    let mut section = Vec::new();
    if let Some(split) = split {
        let separator = split.separator.to_vec();
        PendingSplit { right: split.right, separator: &separator }.append_to(&mut section);
    }
    section
}

/// The area of a leaf whose image has this many entries and bytes: a third of the image, in slots
/// for entries of its mean size. More than 16 slots cost readers more than they save writers.
pub(super) fn area_over(entries: usize, image_bytes: usize) -> AreaSize {
    let heap = (image_bytes / 3).clamp(192, 1536);
    // An entry of an area has 16 bytes that one of an image has not.
    let mean = image_bytes / entries.max(1) + 16;
    let slots = (heap / mean).clamp(4, 16);
    let fits = "clamped to what fits";
    AreaSize::new(u8::try_from(slots).expect(fits), u16::try_from(heap).expect(fits))
}

impl<'g, M: NodeMemory> Mapping for Pinned<'g, M> {
    type Key = Separator<'g>;
    type Leaf = LeafContent<'g>;
    type Inner = InnerContent<'g>;
    type Ref = Loaded<'g>;

    fn root(&self) -> ChildWord {
        self.tree.root
    }

    fn load(&self, id: PageId) -> Loaded<'g> {
        let Found { word, second, node } = match self.pin.load(id) {
            Ok(found) => found,
            Err(miss) => {
                self.miss.set(Some(miss));
                return Loaded::new(MapWord::FREE, None, Page::free(Epoch::FIRST));
            }
        };
        let Some(node) = node else {
            return Loaded::new(word, None, Page::free(second.epoch()));
        };
        let content = || {
            if node.level() == 0 {
                Content::Leaf(LeafContent::of(node))
            } else {
                Content::Inner(InnerContent::of(node))
            }
        };
        let (body, pending) = match State::of_code(node.kind()) {
            State::Removed => (Body::Removed, None),
            State::Moved => (Body::Moved(content()), None),
            State::Live => {
                let split = pending(node).map(|split| Split {
                    separator: Separator::Lies(KeyParts::whole(split.separator)),
                    right: split.right,
                });
                (Body::Live(content()), split)
            }
        };
        let page = Page { epoch: node.child().epoch(), pending, body };
        Loaded::new(word, Some(node), page)
    }

    fn peek(&self, id: PageId) -> Loaded<'g> {
        let page = self.load(id);
        // There is something that can be done without it.
        self.miss.set(None);
        page
    }

    fn replace(&self, id: PageId, current: &Loaded<'g>, new: PageContent<'g>) -> bool {
        if matches!(new.body, Body::Free) {
            // Only one visitor comes to this: see `release` and `give_back`. The keeper releases
            // what was a page of the tree when the page above is durable without it.
            let was_private = current.content().is_some();
            if was_private || !self.pin.events().has_keeper() {
                self.pin.release(id, current.word(), new.epoch);
            }
            return true;
        }
        if let Some(node) = current.node().filter(|node| node.level() == 0) {
            // What the new page says of the leaf has to be its last word.
            node.area().freeze();
            node.area().decide_all(spin);
            let empty = matches!(current.content(), Some(Content::Leaf(leaf)) if leaf.is_empty());
            if matches!(new.body, Body::Removed) && !empty {
                return false;
            }
        }
        let level = current.node().map_or(0, |node| node.level());
        match self.build(ChildWord::new(id, new.epoch), &new, current.node(), level + 1) {
            Some(node) => {
                let is_replaced = self.pin.install(id, current.word(), node);
                if is_replaced {
                    let is_mark = matches!(new.body, Body::Removed | Body::Moved(_));
                    self.replaced(id, is_mark);
                }
                is_replaced
            }
            None => {
                self.is_out_of_room.set(true);
                false
            }
        }
    }

    fn create(
        &self,
        neighbour: PageId,
        content: Content<LeafContent<'g>, InnerContent<'g>>,
    ) -> Option<ChildWord> {
        let child = self.pin.create(Some(neighbour), |child| {
            let page = Page::live(child.epoch(), content);
            self.build(child, &page, None, 0)
        });
        if child.is_none() {
            self.is_out_of_room.set(true);
        }
        child
    }

    fn tree(&self) -> u32 {
        self.tree.tree
    }

    fn tell(&self, event: Event) {
        self.taken.set(match event {
            Event::Removed { gone, .. } | Event::Collapsed { gone, .. } => [Some(gone.id()), None],
            Event::Packed { gone, with, .. } => [Some(gone.id()), with.map(|with| with.id())],
            Event::Dirty { .. } | Event::Split { .. } | Event::Posted { .. } | Event::RootSplit { .. } => {
                [None; 2]
            }
        });
        self.pin.events().push(event);
    }
}
