//! Inner pages: separators, packed one behind the other, and the children between them.

use std::cell::RefCell;
use std::rc::Rc;

use super::{MERGED_MAX_BYTES, PAGE_TARGET_BYTES, Page, Split};
use crate::store::codec::{Reader, compare, to_u16, to_u32};
use crate::store::object::{ObjectRef, REF_BYTES};

pub(super) const KIND: u8 = 2;
const HEADER_BYTES: usize = 8;
/// No tree is higher: a root has two children at least when it comes into being, and so have those
/// below it.
const MAX_LEVEL: u8 = 63;
/// Fewer children are never split: with the longest keys a page may be larger than its target.
const MIN_SPLIT_CHILDREN: usize = 4;

/// A page as a tree or its parent refers to it: in memory, or where to load it from.
#[derive(Clone)]
pub(in crate::store) enum PageRef {
    Resident(Rc<Page>),
    OnDisk(ObjectRef),
}

impl PageRef {
    /// The reference to write into the parent. `None` if the child was changed and not written yet.
    pub(in crate::store) fn reference(&self) -> Option<ObjectRef> {
        match self {
            PageRef::Resident(page) => page.reference(),
            PageRef::OnDisk(reference) => Some(*reference),
        }
    }
}

/// An inner page (disk format, section 4).
#[derive(Clone)]
pub(in crate::store) struct Inner {
    pub(in crate::store) level: u8,
    separators: Vec<u8>,
    ends: Vec<u32>,
    children: Vec<RefCell<PageRef>>,
}

impl Inner {
    /// A new root over two pages.
    pub(in crate::store) fn root(left: Rc<Page>, split: Split) -> Self {
        let level = left.as_inner().map_or(0, |inner| inner.level) + 1;
        Self {
            level,
            ends: vec![to_u32(split.separator.len())],
            separators: split.separator,
            children: vec![
                RefCell::new(PageRef::Resident(left)),
                RefCell::new(PageRef::Resident(split.right)),
            ],
        }
    }

    pub(in crate::store) fn count(&self) -> usize {
        self.children.len()
    }

    pub(in crate::store) fn child(&self, index: usize) -> &RefCell<PageRef> {
        &self.children[index]
    }

    /// The child to change, if it is in memory.
    pub(in crate::store) fn child_mut(&mut self, index: usize) -> &mut PageRef {
        self.children[index].get_mut()
    }

    /// The separator between child `index` and the next; it belongs to the next.
    pub(in crate::store) fn separator(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        &self.separators[start..self.ends[index] as usize]
    }

    /// The separators around child `index`: none before the first, and none after the last.
    pub(in crate::store) fn bounds(&self, index: usize) -> (Option<&[u8]>, Option<&[u8]>) {
        let lower = index.checked_sub(1).map(|before| self.separator(before));
        let upper = (index < self.ends.len()).then(|| self.separator(index));
        (lower, upper)
    }

    /// The child that holds `key`.
    pub(in crate::store) fn child_for(&self, key: &[u8]) -> usize {
        self.partition(|separator| compare(separator, key).is_le())
    }

    /// The last child that can hold keys below `key`.
    pub(in crate::store) fn child_before(&self, key: &[u8]) -> usize {
        self.partition(|separator| compare(separator, key).is_lt())
    }

    fn partition(&self, mut before: impl FnMut(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low.midpoint(high);
            if before(self.separator(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Adds the right half of child `index`, which was split. Splits this page too if it became too
    /// large.
    pub(in crate::store) fn add(&mut self, index: usize, split: Split) -> Option<(Vec<u8>, Self)> {
        self.insert_separator(index, &split.separator);
        self.children.insert(index + 1, RefCell::new(PageRef::Resident(split.right)));
        (self.encoded_bytes() > PAGE_TARGET_BYTES && self.count() >= MIN_SPLIT_CHILDREN)
            .then(|| self.split(index))
    }

    fn insert_separator(&mut self, index: usize, separator: &[u8]) {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.separators.splice(start..start, separator.iter().copied());
        self.ends.insert(index, to_u32(start));
        self.ends[index..].iter_mut().for_each(|end| *end += to_u32(separator.len()));
    }

    fn remove_separator(&mut self, index: usize) {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        let len = self.ends[index] as usize - start;
        self.separators.drain(start..start + len);
        self.ends.remove(index);
        self.ends[index..].iter_mut().for_each(|end| *end -= to_u32(len));
    }

    /// Cuts off the right part; `grown` is the child that was just split. Returns the separator
    /// that moves up.
    fn split(&mut self, grown: usize) -> (Vec<u8>, Self) {
        let count = self.count();
        let at = if grown + 2 == count { count - 2 } else { count / 2 };
        let separator = self.separator(at - 1).to_vec();
        let cut = self.ends[at - 1] as usize;
        let right = Self {
            level: self.level,
            separators: self.separators[cut..].to_vec(),
            ends: self.ends[at..].iter().map(|end| end - to_u32(cut)).collect(),
            children: self.children.split_off(at),
        };
        self.ends.truncate(at - 1);
        let end = self.ends.last().map_or(0, |end| *end as usize);
        self.separators.truncate(end);
        (separator, right)
    }

    /// Takes child `index` out; the range of its keys goes to its left neighbour, or to the right
    /// one if it was the first.
    pub(in crate::store) fn remove(&mut self, index: usize) -> PageRef {
        if !self.ends.is_empty() {
            self.remove_separator(index.saturating_sub(1));
        }
        self.children.remove(index).into_inner()
    }

    pub(in crate::store) fn can_absorb(&self, right: &Self, separator: &[u8]) -> bool {
        self.encoded_bytes() + right.encoded_bytes() + separator.len() <= MERGED_MAX_BYTES
    }

    /// Appends the children of `right`, the page after this one.
    pub(in crate::store) fn absorb(&mut self, separator: &[u8], right: &Self) {
        self.separators.extend_from_slice(separator);
        let base = to_u32(self.separators.len());
        self.ends.push(base);
        self.ends.extend(right.ends.iter().map(|end| end + base));
        self.separators.extend_from_slice(&right.separators);
        self.children.extend(right.children.iter().cloned());
    }

    pub(in crate::store) fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + REF_BYTES * self.children.len() + 4 * self.ends.len() + self.separators.len()
    }

    /// The content to write. Every child has been written.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_bytes());
        out.extend_from_slice(&[KIND, self.level]);
        out.extend_from_slice(&to_u16(self.children.len()).to_le_bytes());
        out.extend_from_slice(&to_u32(self.separators.len()).to_le_bytes());
        for child in &self.children {
            child.borrow().reference().expect("a page is written after its children").encode(&mut out);
        }
        self.ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
        out.extend_from_slice(&self.separators);
        out
    }

    pub(super) fn decode(content: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(content);
        let kind = reader.u8()?;
        let level = reader.u8()?;
        let count = reader.u16()? as usize;
        let separators_len = reader.u32()?;
        let children = (0..count)
            .map(|_| ObjectRef::decode(&mut reader).map(|reference| RefCell::new(PageRef::OnDisk(reference))))
            .collect::<Option<Vec<_>>>()?;
        let ends = (1..count).map(|_| reader.u32()).collect::<Option<Vec<_>>>()?;
        let separators = reader.bytes(separators_len as usize)?.to_vec();
        let ascending = ends.is_sorted() && ends.last().is_none_or(|&end| end == separators_len);
        let inner = Self { level, separators, ends, children };
        let sorted = ascending
            && (1..inner.ends.len()).all(|index| inner.separator(index - 1) < inner.separator(index));
        let is_level = (1..=MAX_LEVEL).contains(&level);
        (kind == KIND && is_level && count > 0 && reader.is_empty() && sorted).then_some(inner)
    }
}
