//! The memory of a node: a header of one cache line, then the append area, then the image. Each of
//! the last two may be missing.
//!
//! | offset | size | field | changes |
//! |---|---|---|---|
//! | 0 | 8 | zero | – |
//! | 8 | 8 | `next`: a cold mapping word, that of a node with only an image, or 0 | by flushers |
//! | 16 | 8 | the page's child word: id and epoch | never |
//! | 24 | 8 | `home`: cold word of the newest durable image, or 0 | by flushers |
//! | 32 | 8 | `dirty_from`: smallest number in the *image*, not durable; or 0 | by flushers |
//! | 40 | 4 | `pins`: cursors that hold this node across awaits | yes |
//! | 44 | 4 | level, kind, size class (1 each); `touched` (1) | `touched` |
//! | 48 | 4 | area: bytes (2), slots (2) | never |
//! | 52 | 4 | image: offset, length (2 each, in 64 bytes) | never |
//! | 56 | 8 | offset of `pending` (2); flags (2); earliest expiry (4) | never |
//!
//! Writers of the area do not write to the header, so cores that read the page keep the line. The
//! area's own dirt is in its slots.
//!
//! A [`NewNode`] belongs to whoever builds it. Its address in a mapping word makes it shared; from
//! then on it is reached as a [`NodeRef`], as long as the reader's pin keeps it from being freed.
#![cfg_attr(not(test), expect(dead_code, reason = "the next store is not in use yet"))]

#[cfg(test)]
mod tests;

use std::alloc::{Layout, alloc, dealloc};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU8;

use super::area::{Area, Heap, Slots};
use crate::store::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::store::word::{ChildWord, NodeAddress};

/// Header, area and image start at multiples of this many bytes.
const LINE: usize = 64;
const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == LINE, "the header is one cache line");

/// The largest node: an image of 16 KiB with an area, in bytes.
pub(in crate::store) const MAX_NODE_BYTES: usize = 32 << 10;

/// A piece of memory for a node.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Block {
    /// Aligned to 64 bytes.
    pub(in crate::store) address: NonNull<u8>,
    /// What the memory needs to know to take it back.
    pub(in crate::store) class: u8,
}

/// Where nodes have their memory from.
///
/// # Safety
///
/// A block from [`allocate`](Self::allocate) has as many bytes as were asked for, valid for reads
/// and writes, aligned to 64, at an address below 2^48. Nobody else uses it until it is freed.
pub(in crate::store) unsafe trait NodeMemory {
    /// A block of at least `len_bytes`, at most [`MAX_NODE_BYTES`]. None if there is no memory.
    fn allocate(&self, len_bytes: usize) -> Option<Block>;

    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// The block is from this memory, and nobody uses it any more.
    unsafe fn free(&self, block: Block);
}

/// Memory of the process, in multiples of 256 bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct ProcessMemory;

impl ProcessMemory {
    const STEP: usize = 256;

    fn layout(class: u8) -> Layout {
        Layout::from_size_align(usize::from(class) * Self::STEP, LINE).expect("a class is a small size")
    }
}

// SAFETY: the global allocator gives memory of the layout's size and alignment that nobody else
// uses, in user space, which ends at 2^47.
unsafe impl NodeMemory for ProcessMemory {
    fn allocate(&self, len_bytes: usize) -> Option<Block> {
        let class = u8::try_from(len_bytes.div_ceil(Self::STEP)).ok().filter(|class| *class > 0)?;
        // SAFETY: the class is not 0, so the size is not.
        let address = NonNull::new(unsafe { alloc(Self::layout(class)) })?;
        Some(Block { address, class })
    }

    unsafe fn free(&self, block: Block) {
        // SAFETY: the caller says that the block is from here, so it was allocated with this
        // layout.
        unsafe { dealloc(block.address.as_ptr(), Self::layout(block.class)) };
    }
}

/// How large an area is: slots and heap together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct AreaSize {
    slots: u16,
    bytes: u16,
}

impl AreaSize {
    /// No area.
    pub(in crate::store) const NONE: Self = Self { slots: 0, bytes: 0 };
    /// The areas that nodes have, the smallest first.
    pub(in crate::store) const ALL: [Self; 5] = [
        Self { slots: 4, bytes: 192 },
        Self { slots: 8, bytes: 256 },
        Self { slots: 16, bytes: 512 },
        Self { slots: 32, bytes: 1024 },
        Self { slots: 64, bytes: 2048 },
    ];

    /// An area of this many slots, with this many bytes for entries: together less than 32 KiB.
    pub(in crate::store) fn new(slots: u8, heap_bytes: u16) -> Self {
        let slots = u16::from(slots);
        Self { slots, bytes: 8 * slots + heap_bytes.next_multiple_of(8) }
    }

    pub(in crate::store) fn slots(self) -> usize {
        usize::from(self.slots)
    }

    /// The same, with at least this many bytes for entries. At most 32 KiB.
    pub(in crate::store) fn with_room_for(self, heap_bytes: usize) -> Self {
        let missing = heap_bytes.saturating_sub(self.heap_bytes());
        let bytes = u16::try_from(usize::from(self.bytes) + missing).expect("an entry is below 64 KiB");
        Self { bytes, ..self }
    }

    /// The bytes for entries.
    pub(in crate::store) fn heap_bytes(self) -> usize {
        usize::from(self.bytes) - self.slots() * size_of::<u64>()
    }
}

/// What a node is made of.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Shape {
    pub(in crate::store) child: ChildWord,
    pub(in crate::store) level: u8,
    /// What kind of page it is; the tree says which there are.
    pub(in crate::store) kind: u8,
    pub(in crate::store) area: AreaSize,
    /// In bytes.
    pub(in crate::store) image_len: usize,
    pub(in crate::store) next: u64,
    pub(in crate::store) home: u64,
    pub(in crate::store) dirty_from: u64,
    /// Where `pending` starts in the image, in bytes; 0 if there is none.
    pub(in crate::store) pending_at: u16,
    pub(in crate::store) flags: u16,
    pub(in crate::store) earliest_expiry: u32,
}

impl Shape {
    /// A page without anything.
    pub(in crate::store) fn new(child: ChildWord, area: AreaSize, image_len: usize) -> Self {
        Self {
            child,
            level: 0,
            kind: 0,
            area,
            image_len,
            next: 0,
            home: 0,
            dirty_from: 0,
            pending_at: 0,
            flags: 0,
            earliest_expiry: 0,
        }
    }
}

/// The first line of a node.
#[repr(C, align(64))]
#[derive(Debug)]
struct Header {
    zero: u64,
    next: AtomicU64,
    child: u64,
    home: AtomicU64,
    dirty_from: AtomicU64,
    pins: AtomicU32,
    level: u8,
    kind: u8,
    class: u8,
    touched: AtomicU8,
    area_bytes: u16,
    area_slots: u16,
    image_line: u16,
    image_lines: u16,
    pending_at: u16,
    flags: u16,
    earliest_expiry: u32,
}

/// A node that is in memory and stays there for `'p`.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct NodeRef<'p> {
    at: NonNull<u8>,
    pinned: PhantomData<&'p Header>,
}

impl<'p> NodeRef<'p> {
    /// The node at an address that a mapping word has.
    ///
    /// # Safety
    ///
    /// The address is from [`NewNode::publish`]. What its builder wrote happened before this call,
    /// and the node is not freed during `'p`.
    pub(in crate::store) unsafe fn at(address: NodeAddress) -> Self {
        let address = usize::try_from(address.get()).expect("addresses have the machine's width");
        let at = NonNull::new(ptr::with_exposed_provenance_mut(address)).expect("no node is at 0");
        Self { at, pinned: PhantomData }
    }

    fn header(self) -> &'p Header {
        // SAFETY: the node lives during `'p`, starts with its header, and is aligned like it. What
        // is not atomic in it was written before the node was shared, and does not change.
        unsafe { self.at.cast().as_ref() }
    }

    /// The page's id and epoch.
    pub(in crate::store) fn child(self) -> ChildWord {
        ChildWord::from_bits(self.header().child)
    }

    pub(in crate::store) fn level(self) -> u8 {
        self.header().level
    }

    pub(in crate::store) fn kind(self) -> u8 {
        self.header().kind
    }

    pub(in crate::store) fn flags(self) -> u16 {
        self.header().flags
    }

    /// Where `pending` starts in the image, in bytes; 0 if there is none.
    pub(in crate::store) fn pending_at(self) -> u16 {
        self.header().pending_at
    }

    pub(in crate::store) fn earliest_expiry(self) -> u32 {
        self.header().earliest_expiry
    }

    /// What lies below this node: a mapping word, or 0.
    pub(in crate::store) fn next(self) -> &'p AtomicU64 {
        &self.header().next
    }

    /// Cold word of the newest durable image, or 0.
    pub(in crate::store) fn home(self) -> &'p AtomicU64 {
        &self.header().home
    }

    /// The smallest number in the image that is in no durable page, or 0.
    pub(in crate::store) fn dirty_from(self) -> &'p AtomicU64 {
        &self.header().dirty_from
    }

    /// How many cursors hold the node across awaits.
    pub(in crate::store) fn pins(self) -> &'p AtomicU32 {
        &self.header().pins
    }

    /// How often the node was touched lately, 0 to 3.
    pub(in crate::store) fn touched(self) -> u8 {
        self.header().touched.load(Ordering::Relaxed)
    }

    /// Sets [`touched`](Self::touched). It writes only if that changes something.
    pub(in crate::store) fn set_touched(self, touched: u8) {
        if self.touched() != touched {
            self.header().touched.store(touched, Ordering::Relaxed);
        }
    }

    /// The append area. It has no slots if the node has none.
    pub(in crate::store) fn area(self) -> Area<'p> {
        let (slots, bytes) = (usize::from(self.header().area_slots), usize::from(self.header().area_bytes));
        let slots_len = slots * size_of::<AtomicU64>();
        // SAFETY: the area lies behind the header, in the same block.
        let words = unsafe { self.at.add(HEADER_BYTES) };
        // SAFETY: the heap lies behind the slots, in the same block.
        let heap = unsafe { words.add(slots_len) };
        // SAFETY: the heap is aligned to 8 bytes, as the slots are; it is valid as long as the
        // node. No accessor but this one reaches it, and this one pairs it with the node's slots.
        let heap = unsafe { Heap::new(heap, bytes.saturating_sub(slots_len)) };
        // SAFETY: the builder made that many words, as 0, before the node was shared; behind a
        // header of 64 bytes they are aligned.
        let words = unsafe { slice::from_raw_parts(words.as_ptr().cast::<AtomicU64>(), slots) };
        // SAFETY: no accessor but this one reaches the words, which were made as 0.
        Area::new(unsafe { Slots::new(words, heap) })
    }

    /// The image, in whole lines of 64 bytes; empty if the node has none.
    pub(in crate::store) fn image(self) -> &'p [u8] {
        let (at, len) = self.image_place();
        // SAFETY: the image lies in the node's block.
        let start = unsafe { self.at.add(at) };
        // SAFETY: the builder initialised that many bytes there, and they do not change once the
        // node is shared.
        unsafe { slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// The length of the node in bytes.
    pub(in crate::store) fn len_bytes(self) -> u64 {
        let (at, len) = self.image_place();
        u64::try_from(at + len).expect("a node is small")
    }

    /// Offset and length of the image in bytes.
    fn image_place(self) -> (usize, usize) {
        let header = self.header();
        (usize::from(header.image_line) * LINE, usize::from(header.image_lines) * LINE)
    }
}

/// A node that nobody else knows yet. Dropping it frees it.
#[derive(Debug)]
pub(in crate::store) struct NewNode<'m, M: NodeMemory> {
    block: Block,
    memory: &'m M,
}

impl<'m, M: NodeMemory> NewNode<'m, M> {
    /// A node of this shape, with an empty area and an image of zeros. None if there is no memory.
    ///
    /// # Panics
    ///
    /// If the node is larger than [`MAX_NODE_BYTES`].
    pub(in crate::store) fn build(memory: &'m M, shape: &Shape) -> Option<Self> {
        let image_at = HEADER_BYTES + usize::from(shape.area.bytes).next_multiple_of(LINE);
        let image_len = shape.image_len.next_multiple_of(LINE);
        let len = image_at + image_len;
        assert!(len <= MAX_NODE_BYTES, "a node is at most {MAX_NODE_BYTES} bytes long");
        let lines = |bytes: usize| u16::try_from(bytes / LINE).expect("a node has 512 lines at most");
        let block = memory.allocate(len)?;
        let header = Header {
            zero: 0,
            next: AtomicU64::new(shape.next),
            child: shape.child.bits(),
            home: AtomicU64::new(shape.home),
            dirty_from: AtomicU64::new(shape.dirty_from),
            pins: AtomicU32::new(0),
            level: shape.level,
            kind: shape.kind,
            class: block.class,
            touched: AtomicU8::new(0),
            area_bytes: shape.area.bytes,
            area_slots: shape.area.slots,
            image_line: lines(image_at),
            image_lines: lines(image_len),
            pending_at: shape.pending_at,
            flags: shape.flags,
            earliest_expiry: shape.earliest_expiry,
        };
        // SAFETY: the block is ours, aligned to 64 bytes, and has room for a header.
        unsafe { block.address.cast().write(header) };
        // SAFETY: the slots lie behind the header, in the same block.
        let slots = unsafe { block.address.add(HEADER_BYTES) };
        // SAFETY: the area, in the same block, has these slots.
        unsafe { slots.write_bytes(0, shape.area.slots() * size_of::<u64>()) };
        // SAFETY: the block has `image_at + image_len` bytes.
        let image = unsafe { block.address.add(image_at) };
        // SAFETY: as above, and the block is ours.
        unsafe { image.write_bytes(0, image_len) };
        Some(Self { block, memory })
    }

    /// The node, for as long as it is not published.
    pub(in crate::store) fn get(&self) -> NodeRef<'_> {
        NodeRef { at: self.block.address, pinned: PhantomData }
    }

    /// Where the node has its memory from.
    pub(in crate::store) fn memory(&self) -> &'m M {
        self.memory
    }

    /// The image, to be written.
    pub(in crate::store) fn image_mut(&mut self) -> &mut [u8] {
        let (at, len) = self.get().image_place();
        // SAFETY: the image lies in the node's block.
        let start = unsafe { self.block.address.add(at) };
        // SAFETY: these bytes are initialised, and only this borrow of the node reaches them: every
        // other reference into it ends before it.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// Gives the node away to those that get to know its address. A store of it with Release, and a
    /// load with Acquire, show them its content.
    pub(in crate::store) fn publish(self) -> NodeAddress {
        let this = ManuallyDrop::new(self);
        let address = u64::try_from(this.block.address.as_ptr().expose_provenance())
            .expect("addresses have 64 bits at most");
        NodeAddress::new(address).expect("blocks are aligned to 64 bytes, below 2^48")
    }

    /// Takes a node back that is known to nobody any more.
    ///
    /// # Safety
    ///
    /// The address is from [`publish`](Self::publish) of a node in this memory. No reference to the
    /// node is left, no one else makes one or takes it back.
    pub(in crate::store) unsafe fn take_back(memory: &'m M, address: NodeAddress) -> Self {
        // SAFETY: the node exists until the value that this call returns is dropped.
        let node = unsafe { NodeRef::at(address) };
        Self { block: Block { address: node.at, class: node.header().class }, memory }
    }
}

impl<M: NodeMemory> Drop for NewNode<'_, M> {
    fn drop(&mut self) {
        // SAFETY: the block is from this memory. The node was not published, or was taken back, so
        // nobody else uses it.
        unsafe { self.memory.free(self.block) };
    }
}
