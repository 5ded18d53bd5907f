//! Leaves: slotted pages whose image in memory is (up to compaction) their content on disk.

use std::rc::Rc;

use super::{Blob, Ledger, MERGED_MAX_BYTES, PAGE_STEP_BYTES, PAGE_TARGET_BYTES};
use crate::store::codec::{Reader, compare, put_u16_at, to_u16, u16_at};
use crate::store::object::{ObjectRef, REF_BYTES, Stored};
use crate::store::options::{MAX_INLINE_BYTES, MAX_KEY_BYTES};

pub(super) const KIND: u8 = 1;
const HEADER_BYTES: usize = 16;
/// A slot: the offset of an entry.
const SLOT_BYTES: usize = 2;
const ENTRY_HEADER_BYTES: usize = 4;
const OVERFLOW: u16 = 1 << 15;
/// No leaf is larger: twice the target for the largest entries, and some.
const MAX_BYTES: usize = 20 << 10;

/// A leaf page (disk format, section 4). In memory an overflow entry's value starts with its blob's
/// id instead of a reference.
#[derive(Clone)]
pub(in crate::store) struct Leaf {
    image: Vec<u8>,
    /// The overflow values, in the order of their ids.
    blobs: Vec<Rc<Blob>>,
}

/// A value in a leaf.
pub(in crate::store) enum LeafValue<'a> {
    Inline(&'a [u8]),
    Overflow(&'a Rc<Blob>),
}

/// A value to put into a leaf.
#[derive(Clone)]
pub(in crate::store) enum NewValue<'a> {
    Inline(&'a [u8]),
    Overflow(Rc<Blob>),
}

impl NewValue<'_> {
    fn len(&self) -> usize {
        match self {
            NewValue::Inline(bytes) => bytes.len(),
            NewValue::Overflow(_) => REF_BYTES,
        }
    }
}

impl Leaf {
    pub(in crate::store) fn new() -> Self {
        Self::with_capacity(PAGE_STEP_BYTES)
    }

    /// What an entry takes of a leaf, its slot included; `None` for a value that is not in the
    /// leaf.
    pub(in crate::store) fn entry_bytes(key_len: usize, inline_len: Option<usize>) -> usize {
        ENTRY_HEADER_BYTES + key_len + inline_len.unwrap_or(REF_BYTES) + SLOT_BYTES
    }

    fn with_capacity(bytes: usize) -> Self {
        let mut image = vec![0; bytes];
        image[0] = KIND;
        put_u16_at(&mut image, 4, to_u16(bytes));
        Self { image, blobs: Vec::new() }
    }

    pub(in crate::store) fn count(&self) -> usize {
        u16_at(&self.image, 2) as usize
    }

    fn heap_start(&self) -> usize {
        u16_at(&self.image, 4) as usize
    }

    fn live_bytes(&self) -> usize {
        u16_at(&self.image, 6) as usize
    }

    pub(in crate::store) fn image_bytes(&self) -> usize {
        self.image.len()
    }

    /// The bytes in use: what it would need without holes.
    pub(in crate::store) fn used_bytes(&self) -> usize {
        HEADER_BYTES + SLOT_BYTES * self.count() + self.live_bytes()
    }

    /// The length of its compacted image.
    pub(in crate::store) fn compact_bytes(&self) -> usize {
        self.used_bytes().next_multiple_of(PAGE_STEP_BYTES)
    }

    fn offset(&self, index: usize) -> usize {
        u16_at(&self.image, HEADER_BYTES + SLOT_BYTES * index) as usize
    }

    fn entry(&self, index: usize) -> &[u8] {
        let offset = self.offset(index);
        let key = u16_at(&self.image, offset) as usize;
        let value = (u16_at(&self.image, offset + 2) & !OVERFLOW) as usize;
        &self.image[offset..offset + ENTRY_HEADER_BYTES + key + value]
    }

    pub(in crate::store) fn key(&self, index: usize) -> &[u8] {
        let offset = self.offset(index);
        let len = u16_at(&self.image, offset) as usize;
        &self.image[offset + ENTRY_HEADER_BYTES..offset + ENTRY_HEADER_BYTES + len]
    }

    pub(in crate::store) fn value(&self, index: usize) -> LeafValue<'_> {
        let entry = self.entry(index);
        let bytes = &entry[ENTRY_HEADER_BYTES + u16_at(entry, 0) as usize..];
        if u16_at(entry, 2) & OVERFLOW == 0 {
            return LeafValue::Inline(bytes);
        }
        LeafValue::Overflow(self.blob(blob_id(bytes)))
    }

    fn blob(&self, id: u64) -> &Rc<Blob> {
        let at = self.blobs.binary_search_by_key(&id, |blob| blob.id);
        &self.blobs[at.expect("an overflow entry's blob is in its leaf")]
    }

    pub(in crate::store) fn blobs(&self) -> &[Rc<Blob>] {
        &self.blobs
    }

    /// Where `key` is, or where it would be inserted.
    pub(in crate::store) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low.midpoint(high);
            match compare(self.key(middle), key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Inserts or replaces. Returns whether the key was there, and the right half if the leaf had
    /// to be split.
    pub(in crate::store) fn put(
        &mut self,
        key: &[u8],
        value: &NewValue<'_>,
        ledger: &mut Ledger,
    ) -> (bool, Option<Self>) {
        match self.search(key) {
            Ok(index) => {
                if let (NewValue::Inline(new), LeafValue::Inline(old)) = (value, self.value(index))
                    && new.len() == old.len()
                {
                    let at = self.offset(index) + ENTRY_HEADER_BYTES + key.len();
                    self.image[at..at + new.len()].copy_from_slice(new);
                    return (true, None);
                }
                self.remove(index, ledger);
                (true, self.insert(index, key, value))
            }
            Err(index) => (false, self.insert(index, key, value)),
        }
    }

    /// Removes an entry; its overflow value is retired.
    pub(in crate::store) fn remove(&mut self, index: usize, ledger: &mut Ledger) {
        if let LeafValue::Overflow(blob) = self.value(index) {
            let id = blob.id;
            blob.retire(ledger);
            self.blobs.retain(|blob| blob.id != id);
        }
        let (count, offset, len) = (self.count(), self.offset(index), self.entry(index).len());
        let slot = HEADER_BYTES + SLOT_BYTES * index;
        self.image.copy_within(slot + SLOT_BYTES..HEADER_BYTES + SLOT_BYTES * count, slot);
        put_u16_at(&mut self.image, 2, to_u16(count - 1));
        let live = to_u16(self.live_bytes() - len);
        put_u16_at(&mut self.image, 6, live);
        if offset == self.heap_start() {
            put_u16_at(&mut self.image, 4, to_u16(offset + len));
        }
    }

    fn insert(&mut self, index: usize, key: &[u8], value: &NewValue<'_>) -> Option<Self> {
        let need = ENTRY_HEADER_BYTES + key.len() + value.len() + SLOT_BYTES;
        let contiguous = self.heap_start() - HEADER_BYTES - SLOT_BYTES * self.count();
        if need > contiguous {
            let used = self.used_bytes() + need;
            if used <= self.image.len() {
                self.rebuild(self.image.len());
            } else if used <= PAGE_TARGET_BYTES || self.count() == 0 {
                self.rebuild(used.next_multiple_of(PAGE_STEP_BYTES));
            } else {
                return Some(self.split_and_insert(index, key, value));
            }
        }
        self.insert_fitting(index, key, value);
        None
    }

    fn insert_fitting(&mut self, index: usize, key: &[u8], value: &NewValue<'_>) {
        let count = self.count();
        let len = ENTRY_HEADER_BYTES + key.len() + value.len();
        let offset = self.heap_start() - len;
        let flag = if matches!(value, NewValue::Overflow(_)) { OVERFLOW } else { 0 };
        put_u16_at(&mut self.image, offset, to_u16(key.len()));
        put_u16_at(&mut self.image, offset + 2, to_u16(value.len()) | flag);
        let (at_key, at_value) = (offset + ENTRY_HEADER_BYTES, offset + ENTRY_HEADER_BYTES + key.len());
        self.image[at_key..at_value].copy_from_slice(key);
        match value {
            NewValue::Inline(bytes) => self.image[at_value..offset + len].copy_from_slice(bytes),
            NewValue::Overflow(blob) => {
                self.image[at_value..offset + len].fill(0);
                self.image[at_value..at_value + 8].copy_from_slice(&blob.id.to_le_bytes());
                let at = self.blobs.partition_point(|other| other.id < blob.id);
                self.blobs.insert(at, Rc::clone(blob));
            }
        }
        let slot = HEADER_BYTES + SLOT_BYTES * index;
        self.image.copy_within(slot..HEADER_BYTES + SLOT_BYTES * count, slot + SLOT_BYTES);
        put_u16_at(&mut self.image, slot, to_u16(offset));
        put_u16_at(&mut self.image, 2, to_u16(count + 1));
        put_u16_at(&mut self.image, 4, to_u16(offset));
        let live = to_u16(self.live_bytes() + len);
        put_u16_at(&mut self.image, 6, live);
    }

    /// Rewrites the image without holes and `capacity` bytes large.
    fn rebuild(&mut self, capacity: usize) {
        let mut image = Self::with_capacity(capacity);
        image.append_entries(self, 0..self.count());
        self.image = image.image;
    }

    /// Copies entries of `from` behind the last one, without their blobs. They fit.
    fn append_entries(&mut self, from: &Self, range: std::ops::Range<usize>) {
        let (mut count, mut heap) = (self.count(), self.heap_start());
        let mut live = self.live_bytes();
        for index in range {
            let entry = from.entry(index);
            heap -= entry.len();
            live += entry.len();
            self.image[heap..heap + entry.len()].copy_from_slice(entry);
            put_u16_at(&mut self.image, HEADER_BYTES + SLOT_BYTES * count, to_u16(heap));
            count += 1;
        }
        put_u16_at(&mut self.image, 2, to_u16(count));
        put_u16_at(&mut self.image, 4, to_u16(heap));
        put_u16_at(&mut self.image, 6, to_u16(live));
    }

    fn split_and_insert(&mut self, index: usize, key: &[u8], value: &NewValue<'_>) -> Self {
        let at = self.split_point(index);
        let mut left = self.extract(0..at);
        let mut right = self.extract(at..self.count());
        let (half, at) = if index < at || index == 0 { (&mut left, index) } else { (&mut right, index - at) };
        let need = half.used_bytes() + ENTRY_HEADER_BYTES + key.len() + value.len() + SLOT_BYTES;
        if need > half.image.len() {
            half.rebuild(need.next_multiple_of(PAGE_STEP_BYTES));
        }
        half.insert_fitting(at, key, value);
        *self = left;
        right
    }

    /// Where to cut for an insertion at `index`. Appending keeps the left half full, since keys
    /// often come in order.
    fn split_point(&self, index: usize) -> usize {
        let count = self.count();
        if index == count || count == 1 {
            return index;
        }
        let half = self.live_bytes() / 2;
        let mut sum = 0;
        let middle = (0..count).position(|entry| {
            sum += self.entry(entry).len();
            sum >= half
        });
        (middle.unwrap_or(0) + 1).clamp(1, count - 1)
    }

    /// A leaf of some of the entries, with their blobs.
    fn extract(&self, range: std::ops::Range<usize>) -> Self {
        let bytes: usize = range.clone().map(|index| self.entry(index).len() + SLOT_BYTES).sum();
        let mut part = Self::with_capacity((HEADER_BYTES + bytes).next_multiple_of(PAGE_STEP_BYTES));
        if !self.blobs.is_empty() {
            part.take_blobs(self, range.clone());
        }
        part.append_entries(self, range);
        part
    }

    fn take_blobs(&mut self, from: &Self, range: std::ops::Range<usize>) {
        self.blobs.extend(range.filter_map(|index| match from.value(index) {
            LeafValue::Overflow(blob) => Some(Rc::clone(blob)),
            LeafValue::Inline(_) => None,
        }));
        self.blobs.sort_unstable_by_key(|blob| blob.id);
    }

    /// Whether `right`, the leaf after this one, fits in here.
    pub(in crate::store) fn can_absorb(&self, right: &Self) -> bool {
        self.used_bytes() + right.used_bytes() <= MERGED_MAX_BYTES
    }

    /// Appends the entries of `right`, the leaf after this one.
    pub(in crate::store) fn absorb(&mut self, right: &Self) {
        let used = self.used_bytes() + right.used_bytes();
        self.rebuild(used.next_multiple_of(PAGE_STEP_BYTES));
        if !right.blobs.is_empty() {
            self.take_blobs(right, 0..right.count());
        }
        self.append_entries(right, 0..right.count());
    }

    /// The shortest key that separates the last key of this leaf from the first of `right`.
    pub(in crate::store) fn separator(&self, right: &Self) -> Vec<u8> {
        let first = right.key(0);
        let Some(last) = self.count().checked_sub(1).map(|index| self.key(index)) else {
            return first.to_vec();
        };
        let same = last.iter().zip(first).take_while(|(left, right)| left == right).count();
        first[..first.len().min(same + 1)].to_vec()
    }

    /// The content to write: compacted, with references instead of blob ids. Every blob has been
    /// stored.
    pub(in crate::store) fn encode(&self) -> Vec<u8> {
        let mut compact = Self::with_capacity(self.compact_bytes());
        compact.append_entries(self, 0..self.count());
        for index in 0..if self.blobs.is_empty() { 0 } else { self.count() } {
            if let LeafValue::Overflow(blob) = self.value(index) {
                let stored = blob.stored.borrow();
                let reference = stored.as_ref().expect("a leaf is written after its values").reference;
                let end = compact.offset(index) + compact.entry(index).len();
                compact.image[end - REF_BYTES..end].copy_from_slice(&reference.to_bytes());
            }
        }
        compact.image
    }

    /// Parses and checks an image: afterwards no access can be out of bounds.
    pub(super) fn decode(image: Vec<u8>, ledger: &mut Ledger) -> Result<Self, &'static str> {
        if image.len() > MAX_BYTES || !image.len().is_multiple_of(PAGE_STEP_BYTES) {
            return Err("a leaf of an impossible size");
        }
        let mut leaf = Self { image, blobs: Vec::new() };
        leaf.check()?;
        for index in 0..leaf.count() {
            let offset = leaf.offset(index);
            let value_len = u16_at(&leaf.image, offset + 2);
            if value_len & OVERFLOW == 0 {
                continue;
            }
            let end = offset + leaf.entry(index).len();
            let at = end - (value_len & !OVERFLOW) as usize;
            let reference = ObjectRef::decode(&mut Reader::new(&leaf.image[at..end]))
                .filter(|reference| end - at == REF_BYTES && reference.is_value())
                .ok_or("a damaged overflow entry")?;
            let blob = Blob::stored_at(Stored::from_ref(reference), None, ledger);
            leaf.image[at..at + 8].copy_from_slice(&blob.id.to_le_bytes());
            leaf.blobs.push(blob);
        }
        Ok(leaf)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.count() == 0 {
            return Err("a leaf without entries");
        }
        let slots_end = HEADER_BYTES + SLOT_BYTES * self.count();
        if slots_end > self.heap_start() || self.heap_start() > self.image.len() {
            return Err("a leaf whose slots and entries overlap");
        }
        let mut live = 0;
        for index in 0..self.count() {
            let offset = self.offset(index);
            if offset < self.heap_start() || offset + ENTRY_HEADER_BYTES > self.image.len() {
                return Err("a leaf entry out of bounds");
            }
            let key = u16_at(&self.image, offset) as usize;
            let value = (u16_at(&self.image, offset + 2) & !OVERFLOW) as usize;
            if key > MAX_KEY_BYTES || value > MAX_INLINE_BYTES {
                return Err("a leaf entry beyond the limits");
            }
            let len = ENTRY_HEADER_BYTES + key + value;
            if offset + len > self.image.len() {
                return Err("a leaf entry out of bounds");
            }
            live += len;
            if index > 0 && self.key(index - 1) >= self.key(index) {
                return Err("a leaf whose keys are out of order");
            }
        }
        // Entries that overlap would not fit once they are copied apart.
        let counted = live == self.live_bytes() && self.used_bytes() <= self.image.len();
        if counted { Ok(()) } else { Err("a leaf that miscounts its entries") }
    }
}

fn blob_id(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |id| u64::from_le_bytes(*id))
}
