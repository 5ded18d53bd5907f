//! Contents of pages as structure changes see them ([`smo`](crate::store::btree::smo)).

use std::cell::OnceCell;
use std::cmp::Ordering;
use std::ops::Range;
use std::rc::Rc;

use super::merge::{self, merged};
use crate::store::btree::area::spin;
use crate::store::btree::image::{
    Branch, Edit, Entry, IMAGE_BYTES, InnerBuilder, InnerImage, InnerParts, KeyParts, LEAF_TARGET_BYTES,
    LeafBuilder, MAX_KEY_BYTES, PatchedInner, SplitPoint, inner_split_point,
};
use crate::store::btree::node::NodeRef;
use crate::store::btree::smo::{Inner, Leaf, Remainder, Route, Split, Target};
use crate::store::word::ChildWord;

/// Inner pages split above this size, in bytes.
const INNER_TARGET_BYTES: usize = 4032;
/// Inner pages above this size take no further child before they are split: with one more, and the
/// longest separator, they are [`IMAGE_BYTES`] long.
const INNER_FULL_BYTES: usize = IMAGE_BYTES - MAX_KEY_BYTES - 64;
/// Pages of at most this share of their target are packed
const SMALL_SHARE: usize = 4;
/// with a neighbour, if both together leave this share of it empty: so that what is packed is not
/// split again by the next few writes.
const EMPTY_SHARE: usize = 4;

/// A key that separates two pages: where it lies in an image, or of its own.
#[derive(Clone, Debug)]
pub(super) enum Separator<'g> {
    Lies(KeyParts<'g>),
    Made(Rc<Vec<u8>>),
}

impl Separator<'_> {
    pub(super) fn parts(&self) -> KeyParts<'_> {
        match self {
            Self::Lies(key) => *key,
            Self::Made(key) => KeyParts::whole(key),
        }
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.parts().to_vec()
    }
}

impl Ord for Separator<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().compare(&other.parts())
    }
}

impl PartialOrd for Separator<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Separator<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Separator<'_> {}

/// What a leaf holds, or a part of it.
#[derive(Clone, Debug)]
pub(super) enum LeafContent<'g> {
    Empty,
    /// All that the node holds, once its area is frozen and decided.
    Whole(NodeRef<'g>, Rc<OnceCell<Rc<Vec<Entry<'g>>>>>),
    /// Entries, which of them, and the newest number of all that went into them.
    Part(Rc<Vec<Entry<'g>>>, Range<usize>, u64),
}

impl<'g> LeafContent<'g> {
    pub(super) fn of(leaf: NodeRef<'g>) -> Self {
        Self::Whole(leaf, Rc::default())
    }

    /// The entries, and which of them belong to the content.
    pub(super) fn entries(&self) -> (Rc<Vec<Entry<'g>>>, Range<usize>) {
        match self {
            Self::Empty => (Rc::default(), 0..0),
            Self::Part(entries, range, _) => (Rc::clone(entries), range.clone()),
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

    /// The newest number of all that went into it.
    pub(super) fn newest(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Part(_, _, newest) => *newest,
            Self::Whole(leaf, _) => merge::newest(*leaf),
        }
    }

    fn part(&self, separator: &Separator<'_>, of: impl Fn(usize, Range<usize>) -> Range<usize>) -> Self {
        let (entries, range) = self.entries();
        let separator = separator.parts();
        let at = entries[range.clone()].partition_point(|entry| entry.key.compare(&separator).is_lt());
        let range = of(range.start + at, range);
        Self::Part(entries, range, self.newest())
    }
}

impl<'g> Leaf for LeafContent<'g> {
    type Key = Separator<'g>;

    fn empty() -> Self {
        Self::Empty
    }

    /// Of a leaf whose area is not frozen only a guess: the step that removes it freezes the area
    /// and looks again.
    fn is_empty(&self) -> bool {
        match self {
            Self::Whole(leaf, kept) if kept.get().is_none() => merge::is_empty(*leaf),
            _ => self.entries().1.is_empty(),
        }
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

    fn separator(&self) -> Separator<'g> {
        let (entries, range) = self.entries();
        let entries = entries[range].iter().copied();
        let point = SplitPoint::of(entries, 50).expect("a leaf that is over has two keys");
        let mut separator = Vec::new();
        point.append_separator_to(&mut separator);
        Separator::Made(Rc::new(separator))
    }

    fn below(&self, separator: &Separator<'g>) -> Self {
        self.part(separator, |at, range| range.start..at)
    }

    fn from(&self, separator: &Separator<'g>) -> Self {
        self.part(separator, |at, range| at..range.end)
    }

    /// By the image alone.
    fn is_small(&self) -> bool {
        match self {
            Self::Whole(leaf, _) => is_small_leaf(*leaf),
            Self::Empty | Self::Part(..) => false,
        }
    }

    /// Images that do not fit are not merged with their areas to see whether these fit.
    fn joined(&self, right: &Self) -> Option<Self> {
        const MOST: usize = LEAF_TARGET_BYTES - LEAF_TARGET_BYTES / EMPTY_SHARE;
        let (Self::Whole(one, _), Self::Whole(two, _)) = (self, right) else { return None };
        if one.image().len() + two.image().len() > MOST {
            return None;
        }
        for leaf in [one, two] {
            leaf.area().freeze();
            leaf.area().decide_all(spin);
        }
        let ((left, of_left), (behind, of_right)) = (self.entries(), right.entries());
        let all = [&left[of_left], &behind[of_right]].concat();
        let len = LeafBuilder::new(all.iter().copied(), &[]).size_bytes();
        let range = 0..all.len();
        (len <= MOST).then(|| Self::Part(Rc::new(all), range, self.newest().max(right.newest())))
    }
}

/// Whether the image of a leaf is so short that the leaf is to be packed with a neighbour.
pub(super) fn is_small_leaf(leaf: NodeRef<'_>) -> bool {
    leaf.image().len() <= LEAF_TARGET_BYTES / SMALL_SHARE
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
    newest: u64,
}

#[derive(Clone, Debug)]
enum InnerBytes<'g> {
    OfNode(InnerImage<'g>),
    Built(Rc<Vec<u8>>),
}

impl<'g> InnerContent<'g> {
    pub(super) fn of(page: NodeRef<'g>) -> Self {
        let bytes = InnerBytes::OfNode(InnerImage::of_verified(page.image()));
        Self { bytes, level: Some(page.level()), newest: page.newest() }
    }

    pub(super) fn level(&self) -> Option<u8> {
        self.level
    }

    /// The newest number of all that was in the page, if it was a leaf.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Whether a page without changes that are under way has just these bytes.
    pub(super) fn is_as_it_lies(&self) -> bool {
        self.image().parts().changes.is_empty()
    }

    /// The separator between the children `index` and `index + 1`.
    fn key(&self, index: usize) -> Separator<'g> {
        match &self.bytes {
            InnerBytes::OfNode(image) => Separator::Lies(image.separator(index)),
            InnerBytes::Built(content) => {
                let image = InnerImage::of_verified(content);
                Separator::Made(Rc::new(image.separator(index).to_vec()))
            }
        }
    }

    pub(super) fn image(&self) -> InnerImage<'_> {
        match &self.bytes {
            InnerBytes::OfNode(image) => *image,
            InnerBytes::Built(content) => InnerImage::of_verified(content),
        }
    }

    fn build<'a>(
        level: Option<u8>,
        newest: u64,
        branches: impl Iterator<Item = Branch<'a>> + Clone,
        parts: InnerParts<'_>,
    ) -> Self {
        let builder = InnerBuilder::new(branches, parts);
        let mut content = vec![0; builder.size_bytes()];
        builder.write(&mut content);
        Self { bytes: InnerBytes::Built(Rc::new(content)), level, newest }
    }

    /// The content with an edit of its children.
    fn edited(&self, edit: Edit<'_>) -> Self {
        let image = self.image();
        let parts = Self::parts(&image);
        let Some(patched) = PatchedInner::new(image, edit, parts) else {
            return Self::build(self.level, self.newest, image.edited(edit), parts);
        };
        let mut content = vec![0; patched.size_bytes()];
        patched.write(&mut content);
        Self { bytes: InnerBytes::Built(Rc::new(content)), level: self.level, newest: self.newest }
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

impl<'g> Inner for InnerContent<'g> {
    type Key = Separator<'g>;

    fn pair(left: ChildWord, separator: Separator<'g>, right: ChildWord) -> Self {
        let separator = separator.parts();
        let branches = [Branch { child: left, upper: Some(separator) }, Branch { child: right, upper: None }];
        Self::build(None, 0, branches.into_iter(), InnerParts::default())
    }

    fn route(&self, target: &Target<Separator<'g>>) -> Route<Separator<'g>> {
        let image = self.image();
        let at = match target {
            Target::At(Separator::Made(key)) => image.child_for(key).0,
            Target::At(key) => image.child_for(&key.to_vec()).0,
            Target::Below(Some(key)) => image.child_below(&key.to_vec()),
            Target::Below(None) => image.len() - 1,
        };
        let lower = at.checked_sub(1).map(|below| self.key(below));
        let upper = (at + 1 < image.len()).then(|| self.key(at));
        Route { child: image.child(at), lower, upper }
    }

    fn only_child(&self) -> Option<ChildWord> {
        let image = self.image();
        (image.len() == 1).then(|| image.child(0))
    }

    fn is_over(&self) -> bool {
        let image = self.image();
        image.len() >= 4 && content_len(&image) > INNER_TARGET_BYTES
    }

    fn is_full(&self) -> bool {
        let image = self.image();
        image.len() >= 4 && content_len(&image) > INNER_FULL_BYTES
    }

    fn separator(&self) -> Separator<'g> {
        let image = self.image();
        let left = inner_split_point(image.branches(0..image.len())).expect("it has four children");
        self.key(left.clamp(2, image.len() - 2) - 1)
    }

    fn below(&self, separator: &Separator<'g>) -> Self {
        let image = self.image();
        let at = image.child_below(&separator.to_vec());
        Self::build(self.level, self.newest, image.branches(0..at + 1), InnerContent::parts(&image))
    }

    fn from(&self, separator: &Separator<'g>) -> Self {
        let image = self.image();
        let at = image.child_below(&separator.to_vec());
        Self::build(self.level, self.newest, image.branches(at + 1..image.len()), InnerContent::parts(&image))
    }

    fn with_split(&self, child: ChildWord, split: &Split<Separator<'g>>) -> Option<Self> {
        let image = self.image();
        let edit = Edit::Split {
            index: InnerContent::place(&image, child)?,
            left: ChildWord::new(child.id(), child.epoch().next()),
            separator: split.separator.parts(),
            right: split.right,
        };
        Some(self.edited(edit))
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
        Some(Remainder::Some(self.edited(Edit::Remove { index: left, child: heir })))
    }

    fn is_small(&self) -> bool {
        content_len(&self.image()) <= INNER_TARGET_BYTES / SMALL_SHARE
    }

    /// Pages with runs or range tombstones are not packed.
    fn joined(&self, separator: Separator<'g>, right: &Self) -> Option<Self> {
        let (left, behind) = (self.image(), right.image());
        let most = INNER_TARGET_BYTES - INNER_TARGET_BYTES / EMPTY_SHARE;
        let is_plain = [&left, &behind].into_iter().all(|image| {
            let parts = image.parts();
            parts.runs.is_empty() && parts.tombstones.is_empty()
        });
        if !is_plain || content_len(&left) + content_len(&behind) > most {
            return None;
        }
        let mut branches: Vec<Branch<'_>> = left.branches(0..left.len()).collect();
        if let Some(last) = branches.last_mut() {
            last.upper = Some(separator.parts());
        }
        branches.extend(behind.branches(0..behind.len()));
        let newest = self.newest.max(right.newest);
        let all = Self::build(self.level, newest, branches.into_iter(), InnerParts::default());
        (content_len(&all.image()) <= most).then_some(all)
    }

    fn neighbours(&self, child: ChildWord) -> [Option<ChildWord>; 2] {
        let image = self.image();
        let Some(at) = InnerContent::place(&image, child) else { return [None; 2] };
        let right = (at + 1 < image.len()).then(|| image.child(at + 1));
        [right, at.checked_sub(1).map(|left| image.child(left))]
    }

    fn between(&self, left: ChildWord, right: ChildWord) -> Option<Separator<'g>> {
        let image = self.image();
        let at = InnerContent::place(&image, left)?;
        (at + 1 < image.len() && image.child(at + 1) == right).then(|| self.key(at))
    }

    fn packed(&self, left: ChildWord, right: Option<ChildWord>, new: ChildWord) -> Option<Self> {
        let image = self.image();
        let at = InnerContent::place(&image, left)?;
        let Some(right) = right else {
            return Some(self.edited(Edit::Replace { index: at, child: new }));
        };
        self.between(left, right)?;
        Some(self.edited(Edit::Remove { index: at, child: new }))
    }
}

/// The bytes of an image without a split that may be posted.
fn content_len(image: &InnerImage<'_>) -> usize {
    image.content().len() - image.parts().changes.len()
}
