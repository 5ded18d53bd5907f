//! The owned-buffer traits.

use std::ops::{Bound, Range, RangeBounds};

use bytes::{Bytes, BytesMut};

use super::DmaBuf;

/// A buffer that a device or the kernel may read from while an operation is in flight.
///
/// # Safety
///
/// `stable_ptr` must stay valid for reads of `bytes_init` bytes, at the same address, until the
/// value is dropped or handed back, also while the value itself is moved: the bytes live outside
/// the value (heap, mapping, static). `as_slice` stays as it is provided.
pub unsafe trait IoBuf: Unpin + 'static {
    /// The address of the first byte. It does not change when the value moves.
    fn stable_ptr(&self) -> *const u8;

    /// How many bytes from `stable_ptr` on are initialised.
    fn bytes_init(&self) -> usize;

    /// The initialised bytes.
    fn as_slice(&self) -> &[u8] {
        // SAFETY:
        // - the trait's contract makes `stable_ptr` valid for reads of `bytes_init` initialised
        //   bytes for as long as the value lives, and the borrow of `self` keeps it alive;
        // - nobody writes to them while `self` is borrowed: a device only holds the buffer by
        //   value.
        unsafe { std::slice::from_raw_parts(self.stable_ptr(), self.bytes_init()) }
    }

    /// A view of the bytes `range` of this buffer that is itself a buffer.
    ///
    /// # Panics
    ///
    /// If `range` is not within the buffer's initialised bytes.
    fn slice(self, range: impl RangeBounds<usize>) -> Slice<Self>
    where
        Self: Sized,
    {
        let len = self.bytes_init();
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&last) => last.saturating_add(1),
            Bound::Excluded(&end) => end,
            Bound::Unbounded => len,
        };
        assert!(start <= end && end <= len, "slice {start}..{end} of {len} bytes is out of bounds");
        Slice { buf: self, start, end }
    }
}

/// A buffer that a device or the kernel may write into while an operation is in flight.
///
/// # Safety
///
/// As for [`IoBuf`], and in addition `stable_mut_ptr` must stay valid for writes of `bytes_total`
/// bytes, and `set_init(n)` with `n <= bytes_total` must make `bytes_init` return at least `n`.
pub unsafe trait IoBufMut: IoBuf {
    /// The address of the first byte.
    fn stable_mut_ptr(&mut self) -> *mut u8;

    /// How many bytes there is room for, counted from `stable_mut_ptr`.
    fn bytes_total(&self) -> usize;

    /// Records that the first `len` bytes were written.
    ///
    /// # Safety
    ///
    /// The first `len` bytes are initialised, and `len <= self.bytes_total()`.
    unsafe fn set_init(&mut self, len: usize);

    /// Copies as much of `bytes` as there is room for to the front of the buffer and returns how
    /// much that was.
    fn fill_from(&mut self, bytes: &[u8]) -> usize {
        self.fill_from_at(0, bytes)
    }

    /// Copies as much of `bytes` as there is room for after the first `at` bytes, which are
    /// initialised, and returns how much that was.
    ///
    /// # Panics
    ///
    /// If fewer than `at` bytes are initialised.
    fn fill_from_at(&mut self, at: usize, bytes: &[u8]) -> usize {
        assert!(at <= self.bytes_init(), "the first {at} bytes are not initialised");
        let len = bytes.len().min(self.bytes_total() - at);
        // SAFETY: `at <= bytes_init <= bytes_total`, so the result is in the buffer or one past its
        // end.
        let target = unsafe { self.stable_mut_ptr().add(at) };
        // SAFETY:
        // - the source is a live slice of at least `len` bytes;
        // - the destination has room for `bytes_total - at >= len` bytes by the trait's contract;
        // - they do not overlap: `self` is borrowed mutably, so `bytes` cannot point into it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, len) };
        // SAFETY: the first `at` bytes were initialised, and the copy above initialised the `len`
        // after them; `at + len <= bytes_total`.
        unsafe { self.set_init(at + len) };
        len
    }
}

// SAFETY: a Vec's bytes live on the heap and move only when it reallocates, which needs `&mut`;
// `len` of them are initialised.
unsafe impl IoBuf for Vec<u8> {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: a Vec's allocation has `capacity` writable bytes, and `set_init` sets its length.
unsafe impl IoBufMut for Vec<u8> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.capacity()
    }

    unsafe fn set_init(&mut self, len: usize) {
        if len > self.len() {
            // SAFETY: the caller promises that the first `len` bytes are initialised and within the
            // capacity.
            unsafe { self.set_len(len) };
        }
    }
}

// SAFETY: the boxed bytes live on the heap at one address for the box's whole life and are all
// initialised.
unsafe impl IoBuf for Box<[u8]> {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above; every byte is initialised from the start, so `set_init` has nothing to record.
unsafe impl IoBufMut for Box<[u8]> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }

    unsafe fn set_init(&mut self, _len: usize) {}
}

// SAFETY: static bytes live forever at one address.
unsafe impl IoBuf for &'static [u8] {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: the bytes of a `Bytes` live in shared memory outside the value that nobody writes while
// it is alive.
unsafe impl IoBuf for Bytes {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: the bytes of a `BytesMut` live in memory outside the value, move only when it grows,
// which needs `&mut`, and `len` of them are initialised. (It is no `IoBufMut`: the crate lends its
// initialised and its spare bytes only apart from each other.)
unsafe impl IoBuf for BytesMut {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: a String's bytes are those of a Vec: on the heap, all initialised, and they move only
// when it grows, which needs `&mut`.
unsafe impl IoBuf for String {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: static bytes live forever at one address.
unsafe impl IoBuf for &'static str {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: a DmaBuf's bytes live in its arena or on the heap at one address for its whole life; all
// of them are initialised, because an arena's memory starts zeroed.
unsafe impl IoBuf for DmaBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: as above, and the DmaBuf is the only owner of its bytes, so writing through it is
// exclusive.
unsafe impl IoBufMut for DmaBuf {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.as_mut_ptr()
    }

    fn bytes_total(&self) -> usize {
        self.len()
    }

    unsafe fn set_init(&mut self, _len: usize) {}
}

/// A part of a buffer, itself a buffer: what a partly done write continues with.
#[derive(Debug, Default)]
pub struct Slice<B> {
    buf: B,
    start: usize,
    end: usize,
}

impl<B> Slice<B> {
    /// The whole buffer again.
    pub fn into_inner(self) -> B {
        self.buf
    }

    /// The whole buffer.
    pub fn get_ref(&self) -> &B {
        &self.buf
    }

    /// Which of the buffer's bytes this is.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

// SAFETY: the bytes are a part of `buf`'s (checked in `IoBuf::slice`), which is stable by its own
// contract.
unsafe impl<B: IoBuf> IoBuf for Slice<B> {
    fn stable_ptr(&self) -> *const u8 {
        self.buf.as_slice()[self.start..self.end].as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.end - self.start
    }
}

// SAFETY: the bytes are a part of `buf`'s initialised, writable bytes (`IoBuf::slice` checked it
// against `bytes_init`), so `set_init` has nothing to record.
unsafe impl<B: IoBufMut> IoBufMut for Slice<B> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        let start = self.start;
        // SAFETY: `start <= end <= bytes_init <= bytes_total` of `buf`, so the result stays in its
        // allocation.
        unsafe { self.buf.stable_mut_ptr().add(start) }
    }

    fn bytes_total(&self) -> usize {
        self.end - self.start
    }

    unsafe fn set_init(&mut self, _len: usize) {}
}

/// The room of a buffer after its first `start` bytes, itself a buffer: what a partly done read
/// continues with.
#[derive(Debug)]
pub(crate) struct Rest<B> {
    buf: B,
    start: usize,
}

impl<B: IoBufMut> Rest<B> {
    /// The room of `buf` after its first `start` bytes.
    ///
    /// # Panics
    ///
    /// If fewer than `start` bytes are initialised.
    pub(crate) fn new(buf: B, start: usize) -> Self {
        assert!(start <= buf.bytes_init(), "the first {start} bytes are not initialised");
        Self { buf, start }
    }

    /// The whole buffer again.
    pub(crate) fn into_inner(self) -> B {
        self.buf
    }
}

// SAFETY:
// - the bytes are those of `buf` from `start` on, which is stable by its own contract;
// - `start <= bytes_init` of `buf`: `Rest::new` checked it, and `set_init` below never records
//   less.
unsafe impl<B: IoBufMut> IoBuf for Rest<B> {
    fn stable_ptr(&self) -> *const u8 {
        // SAFETY: `start <= bytes_init` of `buf`, so the result stays in its allocation.
        unsafe { self.buf.stable_ptr().add(self.start) }
    }

    fn bytes_init(&self) -> usize {
        self.buf.bytes_init() - self.start
    }
}

// SAFETY: as above; `buf` has `bytes_total - start` writable bytes from `start` on, and recording
// that `start + len` of its bytes are initialised makes at least `len` of these initialised.
unsafe impl<B: IoBufMut> IoBufMut for Rest<B> {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        let start = self.start;
        // SAFETY: `start <= bytes_init <= bytes_total` of `buf`, so the result stays in its
        // allocation.
        unsafe { self.buf.stable_mut_ptr().add(start) }
    }

    fn bytes_total(&self) -> usize {
        self.buf.bytes_total() - self.start
    }

    unsafe fn set_init(&mut self, len: usize) {
        // SAFETY: the caller initialised `len` bytes from `start` on, and those before `start` were
        // initialised from the beginning; `len <= bytes_total - start` of `buf`.
        unsafe { self.buf.set_init(self.start + len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_buffer_fills_the_room_behind_what_is_there() {
        let mut buf = Vec::with_capacity(8);
        let room = buf.capacity();
        buf.extend_from_slice(b"12");
        let mut rest = Rest::new(buf, 2);
        assert_eq!((rest.bytes_total(), rest.bytes_init()), (room - 2, 0));
        assert_eq!(rest.fill_from(b"345"), 3);
        assert_eq!(rest.as_slice(), b"345");
        // What is there may be overwritten, as by a read into a buffer that was used before.
        let mut rest = Rest::new(rest.into_inner(), 1);
        assert_eq!(rest.fill_from(b"xy"), 2);
        assert_eq!(rest.into_inner(), b"1xy45");
    }

    #[test]
    #[should_panic(expected = "the first 3 bytes are not initialised")]
    fn the_rest_begins_within_what_is_there() {
        let _ = Rest::new(vec![1u8, 2], 3);
    }

    #[test]
    fn a_vec_is_filled_into_its_capacity() {
        let mut buf = Vec::with_capacity(4);
        let room = buf.capacity();
        let long = vec![7u8; room + 10];
        assert_eq!(buf.fill_from(&long), room);
        assert_eq!(buf, vec![7u8; room]);
    }

    #[test]
    fn a_slice_shows_and_fills_only_its_part() {
        let mut part = vec![1u8, 2, 3, 4, 5].slice(1..4);
        assert_eq!(part.as_slice(), [2, 3, 4]);
        assert_eq!(part.fill_from(&[9, 9, 9, 9, 9]), 3);
        assert_eq!(part.into_inner(), [1, 9, 9, 9, 5]);
    }

    #[test]
    fn a_slice_takes_any_range_and_says_which() {
        let ranges = |buf: &'static str| {
            let whole = buf.slice(..);
            let inclusive = buf.slice(1..=2);
            [whole.range(), buf.slice(..2).range(), buf.slice(3..).range(), inclusive.range()]
        };
        assert_eq!(ranges("12345"), [0..5, 0..2, 3..5, 1..3]);
        let part = String::from("12345").slice(2..).slice(1..);
        assert_eq!((part.as_slice(), part.get_ref().get_ref().as_str()), (&b"45"[..], "12345"));
        assert_eq!(BytesMut::from(&b"12345"[..]).slice(..=0).as_slice(), b"1");
    }

    #[test]
    #[should_panic(expected = "slice 1..18446744073709551615 of 2 bytes is out of bounds")]
    fn a_slice_to_the_last_number_is_refused() {
        let _ = vec![1u8, 2].slice(1..=usize::MAX - 1);
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn a_slice_past_the_end_is_refused() {
        let _ = vec![1u8, 2].slice(1..3);
    }
}
