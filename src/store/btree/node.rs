//! The memory of a node: a header of one cache line, the slots of the append area, the image, and
//! the heap of the area. Only the header is always there.
//!
//! | offset | size | field | changes |
//! |---|---|---|---|
//! | 0 | 8 | `place`: cold word of exactly this node's image, if it lies, or is being written, there; or 0 | never |
//! | 8 | 8 | the page's child word: id and epoch | never |
//! | 16 | 8 | `newest`: the newest number that went into the image | never |
//! | 24 | 4 | number of the tree | never |
//! | 28 | 4 | `pins`: cursors that hold this node across awaits | yes |
//! | 32 | 4 | level, kind, size class (1 each); `touched` (1) | `touched` |
//! | 36 | 4 | area: bytes of slots and heap together (2), slots (2) | never |
//! | 40 | 4 | image: offset in 64 bytes (2), length in bytes (2) | never |
//! | 44 | 20 | zero | – |
//!
//! Writers of the area do not write to the header, so cores that read the page keep the line. The
//! area's own dirt is in its slots. Where the newest durable image of the page lies the node does
//! not know, unless it is this one's: `Homes` does. A node is *clean* if its area has no change and
//! its `place` is the page's home.
//!
//! Slots and image start at multiples of 64 bytes, the heap at one of 8. What a search looks at
//! (header, slots, and the header, prefix and heads of the image) is all in the first lines: so who
//! has a node's address can [ask for them](NodeRef::prefetch) at once, and waits for memory once.
//!
//! A [`NewNode`] belongs to whoever builds it. Its address in a mapping word makes it shared; from
//! then on it is reached as a [`NodeRef`], as long as the reader's pin keeps it from being freed.

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
use crate::store::cache::Room;
use crate::store::cache::hand::touched_again;
use crate::store::word::{ChildWord, ColdAddress, MapView, MapWord, NodeAddress};

/// Header, slots and image start at multiples of this many bytes.
const LINE: usize = 64;
const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == LINE, "the header is one cache line");

/// The heap of an area starts at a multiple of this many bytes.
const HEAP_ALIGN: usize = 8;

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
    /// A block of at least `len_bytes`, at most [`MAX_NODE_BYTES`]. None if there is no memory, or
    /// only a reserve that is not for this.
    fn allocate(&self, len_bytes: usize, room: Room) -> Option<Block>;

    /// Takes a block back.
    ///
    /// # Safety
    ///
    /// The block is from this memory, or from that of another core of the same store, and nobody
    /// uses it any more.
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
    fn allocate(&self, len_bytes: usize, _room: Room) -> Option<Block> {
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

    /// The largest area up to this one with which a node that has such an image is at most
    /// `most_bytes` long. None if that leaves less than `heap_bytes` for entries.
    pub(in crate::store) fn within(
        self,
        most_bytes: usize,
        image_len: usize,
        heap_bytes: usize,
    ) -> Option<Self> {
        let [Self { slots: fewest, .. }, ..] = Self::ALL;
        [self.slots, self.slots.min(fewest)].into_iter().find_map(|slots| {
            let heap = most_bytes.checked_sub(heap_at(Self { slots, bytes: 0 }, image_len))?;
            let heap = heap.min(self.heap_bytes()) / HEAP_ALIGN * HEAP_ALIGN;
            let bytes = u16::try_from(heap + Self { slots, bytes: 0 }.slots_bytes()).ok()?;
            (heap >= heap_bytes).then_some(Self { slots, bytes })
        })
    }

    /// The bytes for entries.
    pub(in crate::store) fn heap_bytes(self) -> usize {
        usize::from(self.bytes) - self.slots_bytes()
    }

    fn slots_bytes(self) -> usize {
        self.slots() * size_of::<u64>()
    }
}

/// What a node is made of.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Shape {
    pub(in crate::store) child: ChildWord,
    pub(in crate::store) tree: u32,
    pub(in crate::store) level: u8,
    /// What kind of page it is; the tree says which there are.
    pub(in crate::store) kind: u8,
    pub(in crate::store) area: AreaSize,
    /// In bytes.
    pub(in crate::store) image_len: usize,
    /// The newest number that went into the image.
    pub(in crate::store) newest: u64,
    /// Where exactly this image lies, or is being written.
    pub(in crate::store) place: Option<ColdAddress>,
}

impl Shape {
    /// A page without anything.
    pub(in crate::store) fn new(child: ChildWord, tree: u32, area: AreaSize, image_len: usize) -> Self {
        Self { child, tree, level: 0, kind: 0, area, image_len, newest: 0, place: None }
    }

    /// What follows `node` on its page: all that belongs to the page stays as it is. The image is
    /// another one, so it has no place.
    pub(in crate::store) fn successor(node: NodeRef<'_>, area: AreaSize, image_len: usize) -> Self {
        Self {
            child: node.child(),
            tree: node.tree(),
            level: node.level(),
            kind: node.kind(),
            area,
            image_len,
            newest: node.newest(),
            place: None,
        }
    }

    /// The length in bytes of a node with such an area and an image of this length.
    pub(in crate::store) fn len_bytes(area: AreaSize, image_len: usize) -> usize {
        (heap_at(area, image_len) + area.heap_bytes()).next_multiple_of(LINE)
    }
}

/// Where the image begins.
fn image_at(area: AreaSize) -> usize {
    HEADER_BYTES + area.slots_bytes().next_multiple_of(LINE)
}

/// Where the heap of the area begins.
fn heap_at(area: AreaSize, image_len: usize) -> usize {
    image_at(area) + image_len.next_multiple_of(HEAP_ALIGN)
}

/// The first line of a node.
#[repr(C, align(64))]
#[derive(Debug)]
struct Header {
    place: u64,
    child: u64,
    newest: u64,
    tree: u32,
    pins: AtomicU32,
    level: u8,
    kind: u8,
    class: u8,
    touched: AtomicU8,
    area_bytes: u16,
    area_slots: u16,
    image_line: u16,
    image_bytes: u16,
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

    /// The number of the page's tree.
    pub(in crate::store) fn tree(self) -> u32 {
        self.header().tree
    }

    /// The newest number that went into the image, of a leaf; of an inner page 0 or the number of
    /// something that was in the page before.
    pub(in crate::store) fn newest(self) -> u64 {
        self.header().newest
    }

    /// Where exactly this node's image lies, or is being written; None if that is nowhere.
    pub(in crate::store) fn place(self) -> Option<ColdAddress> {
        match MapWord::from_memory(self.header().place).view() {
            MapView::Cold { address, .. } => Some(address),
            _ => None,
        }
    }

    /// How many cursors hold the node across awaits.
    pub(in crate::store) fn pins(self) -> &'p AtomicU32 {
        &self.header().pins
    }

    /// How often the node was touched lately, 0 to 3.
    pub(in crate::store) fn touched(self) -> u8 {
        self.header().touched.load(Ordering::Relaxed)
    }

    /// An operation found what it looked for in this page. It writes only if that changes
    /// something.
    pub(in crate::store) fn touch(self) {
        self.set_touched(touched_again(self.touched()));
    }

    /// Sets [`touched`](Self::touched). It writes only if that changes something.
    pub(in crate::store) fn set_touched(self, touched: u8) {
        if self.touched() != touched {
            self.header().touched.store(touched, Ordering::Relaxed);
        }
    }

    /// The append area. It has no slots if the node has none.
    pub(in crate::store) fn area(self) -> Area<'p> {
        let size = self.area_size();
        // SAFETY: the slots lie behind the header, in the same block.
        let words = unsafe { self.at.add(HEADER_BYTES) };
        // SAFETY: the heap lies behind the image, in the same block.
        let heap = unsafe { self.at.add(self.heap_at()) };
        // SAFETY: the image starts at a multiple of 64 bytes, and the heap at one of 8 behind it.
        // The heap is valid as long as the node, and the node's length includes it. No accessor but
        // this one reaches it, and this one pairs it with the node's slots.
        let heap = unsafe { Heap::new(heap, size.heap_bytes()) };
        // SAFETY: the builder made that many words, as 0, before the node was shared; behind a
        // header of 64 bytes they are aligned.
        let words = unsafe { slice::from_raw_parts(words.as_ptr().cast::<AtomicU64>(), size.slots()) };
        // SAFETY: no accessor but this one reaches the words, which were made as 0.
        Area::new(unsafe { Slots::new(words, heap) })
    }

    fn area_size(self) -> AreaSize {
        let header = self.header();
        AreaSize { slots: header.area_slots, bytes: header.area_bytes }
    }

    fn heap_at(self) -> usize {
        let (at, len) = self.image_place();
        at + len.next_multiple_of(HEAP_ALIGN)
    }

    /// Asks for the lines that a search reads first, before the header has said what is in them.
    #[inline]
    pub(in crate::store) fn prefetch(self) {
        #[cfg(target_arch = "x86_64")]
        for line in 0..8 {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.at.as_ptr().wrapping_add(line * LINE);
            // SAFETY: SSE is a part of the architecture. A prefetch reads nothing: it may name any
            // address, so also what lies behind a short node.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
    }

    /// The image; empty if the node has none.
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
        let end = self.heap_at() + self.area_size().heap_bytes();
        u64::try_from(end.next_multiple_of(LINE)).expect("a node is small")
    }

    /// Offset and length of the image in bytes.
    fn image_place(self) -> (usize, usize) {
        let header = self.header();
        (usize::from(header.image_line) * LINE, usize::from(header.image_bytes))
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
    pub(in crate::store) fn build(memory: &'m M, shape: &Shape, room: Room) -> Option<Self> {
        let len = Shape::len_bytes(shape.area, shape.image_len);
        assert!(len <= MAX_NODE_BYTES, "a node is at most {MAX_NODE_BYTES} bytes long");
        let image_at = image_at(shape.area);
        let small = |bytes: usize| u16::try_from(bytes).expect("a node has 32 KiB at most");
        let block = memory.allocate(len, room)?;
        let header = Header {
            place: shape.place.and_then(|address| MapWord::cold(address, 0)).unwrap_or(MapWord::FREE).bits(),
            child: shape.child.bits(),
            newest: shape.newest,
            tree: shape.tree,
            pins: AtomicU32::new(0),
            level: shape.level,
            kind: shape.kind,
            class: block.class,
            touched: AtomicU8::new(0),
            area_bytes: shape.area.bytes,
            area_slots: shape.area.slots,
            image_line: small(image_at / LINE),
            image_bytes: small(shape.image_len),
        };
        // SAFETY: the block is ours, aligned to 64 bytes, and has room for a header.
        unsafe { block.address.cast().write(header) };
        // SAFETY: the slots lie behind the header, in the same block.
        let slots = unsafe { block.address.add(HEADER_BYTES) };
        // SAFETY: the area, in the same block, has these slots.
        unsafe { slots.write_bytes(0, shape.area.slots() * size_of::<u64>()) };
        // SAFETY: the block has `len` bytes, of which the image begins at `image_at`, in front of
        // the heap.
        let image = unsafe { block.address.add(image_at) };
        // SAFETY: as above, and the block is ours. The heap needs no bytes: whoever takes a part of
        // it fills that.
        unsafe { image.write_bytes(0, shape.image_len) };
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
    /// The address is from [`publish`](Self::publish) of a node in this memory, or in that of
    /// another core of the same store. No reference to the node is left, no one else makes one or
    /// takes it back.
    pub(in crate::store) unsafe fn take_back(memory: &'m M, address: NodeAddress) -> Self {
        // SAFETY: the node exists until the value that this call returns is dropped.
        let node = unsafe { NodeRef::at(address) };
        Self { block: Block { address: node.at, class: node.header().class }, memory }
    }
}

impl<M: NodeMemory> Drop for NewNode<'_, M> {
    fn drop(&mut self) {
        // SAFETY: the block is from a memory of this store. The node was not published, or was
        // taken back, so nobody else uses it.
        unsafe { self.memory.free(self.block) };
    }
}
