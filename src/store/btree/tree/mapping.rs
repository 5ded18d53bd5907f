//! The mapping as structure changes use it: pages are loaded under a pin, and replaced as a whole.

use std::cell::Cell;
use std::ops::Deref;
use std::rc::Rc;

use super::content::{InnerContent, LeafContent, is_over};
use super::merge::merged;
use super::{Leaf, State, pending};
use crate::store::btree::area::spin;
use crate::store::btree::image::{Change, ChangeKind, InnerBuilder, InnerParts, LeafBuilder};
use crate::store::btree::node::{AreaSize, NewNode, NodeMemory, NodeRef, Shape};
use crate::store::btree::nodes::{Found, Pin};
use crate::store::btree::smo::{Body, Content, Mapping, Page, Split};
use crate::store::word::{ChildWord, MapWord, PageId};

/// A tree under a pin.
pub(super) struct Pinned<'g, M: NodeMemory> {
    pin: &'g Pin<'g, M>,
    root: ChildWord,
    /// What a new area has to have room for, in bytes.
    entry_bytes: usize,
    is_out_of_room: Cell<bool>,
}

type PageContent<'g> = Page<LeafContent<'g>, InnerContent<'g>, Vec<u8>>;

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
    fn word(&self) -> MapWord {
        self.0.0
    }

    pub(super) fn node(&self) -> Option<NodeRef<'g>> {
        self.0.1
    }
}

impl<'g, M: NodeMemory> Pinned<'g, M> {
    pub(super) fn new(pin: &'g Pin<'g, M>, root: ChildWord) -> Self {
        Self { pin, root, entry_bytes: 0, is_out_of_room: Cell::new(false) }
    }

    /// For a writer whose entry takes this many bytes of an area.
    pub(super) fn for_entry(self, bytes: usize) -> Self {
        Self { entry_bytes: bytes, ..self }
    }

    /// Whether a step was not done since this was asked last because there was no memory or no id
    /// for a page.
    pub(super) fn was_out_of_room(&self) -> bool {
        self.is_out_of_room.take()
    }

    /// A node of a page with this content, an inner page of `level` if the content does not know
    /// it. None if there is no memory.
    fn build(&self, child: ChildWord, new: &PageContent<'_>, level: u8) -> Option<NewNode<'g, M>> {
        let mut changes = Vec::new();
        if let Some(Split { separator, right }) = &new.pending {
            let (kind, left) = (ChangeKind::Split, ChildWord::NONE);
            Change { kind, left, right: *right, separator }.append_to(&mut changes);
        }
        let (state, content) = match &new.body {
            Body::Live(content) => (State::Live, Some(content)),
            Body::Moved(content) => (State::Moved, Some(content)),
            Body::Removed | Body::Free => (State::Removed, None),
        };
        let shape = |area, image_len, level| Shape {
            kind: state.code(),
            level,
            ..Shape::new(child, area, image_len)
        };
        match content {
            Some(Content::Leaf(leaf)) => {
                let (entries, range) = leaf.entries();
                let builder = LeafBuilder::new(entries[range].iter().copied(), &changes);
                let (count, len) = (builder.len(), builder.size_bytes());
                let area = match state {
                    State::Live => area_over(count, len).with_room_for(self.entry_bytes),
                    State::Moved | State::Removed => AreaSize::NONE,
                };
                let mut node = self.pin.build(&shape(area, len, 0))?;
                builder.write(&mut node.image_mut()[..len]);
                Some(node)
            }
            Some(Content::Inner(inner)) => {
                let image = inner.image();
                let parts = InnerParts { changes: &changes, ..InnerContent::parts(&image) };
                let builder = InnerBuilder::new(image.branches(0..image.len()), parts);
                let len = builder.size_bytes();
                let mut node = self.pin.build(&shape(AreaSize::NONE, len, inner.level().unwrap_or(level)))?;
                builder.write(&mut node.image_mut()[..len]);
                Some(node)
            }
            None => self.pin.build(&shape(AreaSize::NONE, 0, 0)),
        }
    }

    /// Merges a leaf whose area is frozen and decided into a new one with an empty area. False if
    /// it is larger than `most_bytes` and can be split, or if there is no memory. Whether another
    /// got in between does not matter.
    pub(super) fn consolidate(&self, leaf: Leaf<'_>, most_bytes: usize) -> bool {
        let entries = merged(leaf.node);
        let mut section = Vec::new();
        if let Some(split) = pending(leaf.node) {
            split.append_to(&mut section);
        }
        let builder = LeafBuilder::new(entries.iter().copied(), &section);
        let len = builder.size_bytes();
        if is_over(&entries, len - section.len(), most_bytes) {
            return false;
        }
        let child = leaf.node.child();
        let area = area_over(entries.len(), len).with_room_for(self.entry_bytes);
        let Some(mut node) = self.pin.build(&Shape::new(child, area, len)) else {
            self.is_out_of_room.set(true);
            return false;
        };
        builder.write(&mut node.image_mut()[..len]);
        self.pin.install(child.id(), leaf.word, node);
        true
    }
}

/// The area of a leaf whose image has this many entries and bytes: a third of the image, in slots
/// for entries of its mean size. More than 16 slots cost readers more than they save writers.
fn area_over(entries: usize, image_bytes: usize) -> AreaSize {
    let heap = (image_bytes / 3).clamp(192, 1536);
    // An entry of an area has 16 bytes that one of an image has not.
    let mean = image_bytes / entries.max(1) + 16;
    let slots = (heap / mean).clamp(4, 16);
    let fits = "clamped to what fits";
    AreaSize::new(u8::try_from(slots).expect(fits), u16::try_from(heap).expect(fits))
}

impl<'g, M: NodeMemory> Mapping for Pinned<'g, M> {
    type Key = Vec<u8>;
    type Leaf = LeafContent<'g>;
    type Inner = InnerContent<'g>;
    type Ref = Loaded<'g>;

    fn root(&self) -> ChildWord {
        self.root
    }

    fn load(&self, id: PageId) -> Loaded<'g> {
        let Found { word, second, node } = self.pin.load(id);
        let Some(node) = node else {
            return Loaded(Rc::new((word, None, Page::free(second.epoch()))));
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
                let split = pending(node);
                let split =
                    split.map(|split| Split { separator: split.separator.to_vec(), right: split.right });
                (Body::Live(content()), split)
            }
        };
        let page = Page { epoch: node.child().epoch(), pending, body };
        Loaded(Rc::new((word, Some(node), page)))
    }

    fn replace(&self, id: PageId, current: &Loaded<'g>, new: PageContent<'g>) -> bool {
        if matches!(new.body, Body::Free) {
            // Only one visitor comes to this: see `release` and `give_back`.
            self.pin.release(id, current.word(), new.epoch);
            return true;
        }
        if let Some(node) = current.node().filter(|node| node.level() == 0) {
            // What the new page says of the leaf has to be its last word.
            node.area().freeze();
            node.area().decide_all(spin);
            let empty = matches!(current.content(), Some(Content::Leaf(leaf)) if leaf.entries().1.is_empty());
            if matches!(new.body, Body::Removed) && !empty {
                return false;
            }
        }
        let level = current.node().map_or(0, |node| node.level());
        match self.build(ChildWord::new(id, new.epoch), &new, level + 1) {
            Some(node) => self.pin.install(id, current.word(), node),
            None => {
                self.is_out_of_room.set(true);
                false
            }
        }
    }

    fn create(&self, content: Content<LeafContent<'g>, InnerContent<'g>>) -> Option<ChildWord> {
        let child = self.pin.create(|child| {
            let page = Page::live(child.epoch(), content);
            self.build(child, &page, 0)
        });
        if child.is_none() {
            self.is_out_of_room.set(true);
        }
        child
    }
}
