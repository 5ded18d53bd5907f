//! Contents of pages as structure changes see them ([`smo`](crate::store::btree::smo)).

use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use super::merge::merged;
use crate::store::btree::area::spin;
use crate::store::btree::image::{
    Branch, Edit, Entry, InnerBuilder, InnerImage, InnerParts, KeyParts, LEAF_TARGET_BYTES, LeafBuilder,
    SplitPoint, inner_split_point,
};
use crate::store::btree::node::NodeRef;
use crate::store::btree::smo::{Inner, Leaf, Remainder, Route, Split, Target};
use crate::store::word::ChildWord;

/// Inner pages split above this size, in bytes.
pub(super) const INNER_TARGET_BYTES: usize = 4032;

/// What a leaf holds, or a part of it.
#[derive(Clone, Debug)]
pub(super) enum LeafContent<'g> {
    Empty,
    /// All that the node holds, once its area is frozen and decided.
    Whole(NodeRef<'g>, Rc<OnceCell<Rc<Vec<Entry<'g>>>>>),
    Part(Rc<Vec<Entry<'g>>>, Range<usize>),
}

impl<'g> LeafContent<'g> {
    pub(super) fn of(leaf: NodeRef<'g>) -> Self {
        Self::Whole(leaf, Rc::default())
    }

    /// The entries, and which of them belong to the content.
    pub(super) fn entries(&self) -> (Rc<Vec<Entry<'g>>>, Range<usize>) {
        match self {
            Self::Empty => (Rc::default(), 0..0),
            Self::Part(entries, range) => (Rc::clone(entries), range.clone()),
            Self::Whole(leaf, kept) => {
                let entries = if leaf.area().is_frozen() {
                    Rc::clone(kept.get_or_init(|| {
                        leaf.area().decide_all(spin);
                        Rc::new(merged(*leaf))
                    }))
                } else {
                    Rc::new(merged(*leaf))
                };
                let len = entries.len();
                (entries, 0..len)
            }
        }
    }

    fn part(&self, separator: &[u8], of: impl Fn(usize, Range<usize>) -> Range<usize>) -> Self {
        let (entries, range) = self.entries();
        let separator = KeyParts::whole(separator);
        let at = entries[range.clone()].partition_point(|entry| entry.key.compare(&separator).is_lt());
        let range = of(range.start + at, range);
        Self::Part(entries, range)
    }
}

impl Leaf for LeafContent<'_> {
    type Key = Vec<u8>;

    fn empty() -> Self {
        Self::Empty
    }

    /// Of a leaf whose area is not frozen only a guess: the step that removes it freezes the area
    /// and looks again.
    fn is_empty(&self) -> bool {
        self.entries().1.is_empty()
    }

    fn is_over(&self) -> bool {
        if let Self::Whole(leaf, _) = self
            && !leaf.area().is_frozen()
        {
            // Its image was not too large when it was made, and the area is merged first.
            return false;
        }
        let (entries, range) = self.entries();
        let entries = &entries[range];
        let len = LeafBuilder::new(entries.iter().copied(), &[]).size_bytes();
        is_over(entries, len, LEAF_TARGET_BYTES)
    }

    fn separator(&self) -> Vec<u8> {
        let (entries, range) = self.entries();
        let entries = entries[range].iter().copied();
        let point = SplitPoint::of(entries, 50).expect("a leaf that is over has two keys");
        let mut separator = Vec::new();
        point.append_separator_to(&mut separator);
        separator
    }

    fn below(&self, separator: &Vec<u8>) -> Self {
        self.part(separator, |at, range| range.start..at)
    }

    fn from(&self, separator: &Vec<u8>) -> Self {
        self.part(separator, |at, range| at..range.end)
    }
}

/// Whether a leaf of these entries, whose image has `len` bytes, is larger than `most_bytes` and
/// can be split.
pub(super) fn is_over(entries: &[Entry<'_>], len: usize, most_bytes: usize) -> bool {
    len > most_bytes && SplitPoint::of(entries.iter().copied(), 50).is_some()
}

/// What an inner page holds.
#[derive(Clone, Debug)]
pub(super) struct InnerContent<'g> {
    bytes: InnerBytes<'g>,
    /// None: one more than that of the page which this becomes.
    level: Option<u8>,
}

#[derive(Clone, Debug)]
enum InnerBytes<'g> {
    OfNode(InnerImage<'g>),
    Built(Rc<Vec<u8>>),
}

impl<'g> InnerContent<'g> {
    pub(super) fn of(page: NodeRef<'g>) -> Self {
        let bytes = InnerBytes::OfNode(InnerImage::of_verified(page.image()));
        Self { bytes, level: Some(page.level()) }
    }

    pub(super) fn level(&self) -> Option<u8> {
        self.level
    }

    pub(super) fn image(&self) -> InnerImage<'_> {
        match &self.bytes {
            InnerBytes::OfNode(image) => *image,
            InnerBytes::Built(content) => InnerImage::of_verified(content),
        }
    }

    fn build<'a>(
        level: Option<u8>,
        branches: impl Iterator<Item = Branch<'a>> + Clone,
        parts: InnerParts<'_>,
    ) -> Self {
        let builder = InnerBuilder::new(branches, parts);
        let mut content = vec![0; builder.size_bytes()];
        builder.write(&mut content);
        Self { bytes: InnerBytes::Built(Rc::new(content)), level }
    }

    /// Runs and range tombstones, without changes that are under way.
    pub(super) fn parts<'i>(image: &InnerImage<'i>) -> InnerParts<'i> {
        InnerParts { changes: &[], ..image.parts() }
    }

    /// The index of a child with this epoch.
    fn place(image: &InnerImage<'_>, child: ChildWord) -> Option<usize> {
        let at = image.index_of(child.id())?;
        (image.child(at) == child).then_some(at)
    }
}

impl Inner for InnerContent<'_> {
    type Key = Vec<u8>;

    fn pair(left: ChildWord, separator: Vec<u8>, right: ChildWord) -> Self {
        let separator = KeyParts::whole(&separator);
        let branches = [Branch { child: left, upper: Some(separator) }, Branch { child: right, upper: None }];
        Self::build(None, branches.into_iter(), InnerParts::default())
    }

    fn route(&self, target: &Target<Vec<u8>>) -> Route<Vec<u8>> {
        let image = self.image();
        let at = match target {
            Target::At(key) => image.child_for(key).0,
            Target::Below(Some(key)) => image.child_below(key),
            Target::Below(None) => image.len() - 1,
        };
        let lower = at.checked_sub(1).map(|below| image.separator(below).to_vec());
        Route { child: image.child(at), lower, upper: image.upper(at).map(KeyParts::to_vec) }
    }

    fn only_child(&self) -> Option<ChildWord> {
        let image = self.image();
        (image.len() == 1).then(|| image.child(0))
    }

    fn is_over(&self) -> bool {
        let image = self.image();
        image.len() >= 4 && content_len(&image) > INNER_TARGET_BYTES
    }

    fn separator(&self) -> Vec<u8> {
        let image = self.image();
        let left = inner_split_point(image.branches(0..image.len())).expect("it has four children");
        image.separator(left.clamp(2, image.len() - 2) - 1).to_vec()
    }

    fn below(&self, separator: &Vec<u8>) -> Self {
        let image = self.image();
        let at = image.child_below(separator);
        Self::build(self.level, image.branches(0..at + 1), InnerContent::parts(&image))
    }

    fn from(&self, separator: &Vec<u8>) -> Self {
        let image = self.image();
        let at = image.child_below(separator);
        Self::build(self.level, image.branches(at + 1..image.len()), InnerContent::parts(&image))
    }

    fn with_split(&self, child: ChildWord, split: &Split<Vec<u8>>) -> Option<Self> {
        let image = self.image();
        let edit = Edit::Split {
            index: InnerContent::place(&image, child)?,
            left: ChildWord::new(child.id(), child.epoch().next()),
            separator: KeyParts::whole(&split.separator),
            right: split.right,
        };
        Some(Self::build(self.level, image.edited(edit), InnerContent::parts(&image)))
    }

    fn without(&self, child: ChildWord) -> Option<Remainder<Self>> {
        let image = self.image();
        let at = InnerContent::place(&image, child)?;
        if image.len() == 1 {
            return Some(Remainder::Nothing);
        }
        // The range goes to the left neighbour, or to the right one if it is the first.
        let left = at.saturating_sub(1);
        let heir = image.child(if at == 0 { 1 } else { left });
        let branches = image.edited(Edit::Remove { index: left, child: heir });
        Some(Remainder::Some(Self::build(self.level, branches, InnerContent::parts(&image))))
    }
}

/// The bytes of an image without a split that is posted, and without the padding in its node.
fn content_len(image: &InnerImage<'_>) -> usize {
    InnerBuilder::new(image.branches(0..image.len()), InnerContent::parts(image)).size_bytes()
}
