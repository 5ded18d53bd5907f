//! The memory of a request, in pieces.

use std::ptr::NonNull;

use super::port::Segment;

/// The memory of a request or of a command.
pub(super) type Pieces = Vec<Segment>;

pub(super) fn segment(buf: &mut [u8]) -> Segment {
    let len = buf.len();
    Segment { ptr: NonNull::from(buf).cast(), len }
}

/// The pieces of `memory` from byte `from` on, `len` bytes of them.
pub(super) fn cut(memory: &[Segment], from: u64, len: u64, pieces: &mut Pieces) {
    pieces.clear();
    let mut skip = usize::try_from(from).unwrap_or(usize::MAX);
    let mut left = usize::try_from(len).unwrap_or(usize::MAX);
    for segment in memory {
        if skip >= segment.len {
            skip -= segment.len;
            continue;
        }
        let len = (segment.len - skip).min(left);
        // SAFETY: `skip` is less than the segment's length, so the pointer stays inside its memory.
        let ptr = unsafe { segment.ptr.add(skip) };
        pieces.push(Segment { ptr, len });
        skip = 0;
        left -= len;
        if left == 0 {
            break;
        }
    }
}

pub(super) fn replace(pieces: &mut Pieces, copy: &mut [u8]) {
    pieces.clear();
    pieces.push(segment(copy));
}

/// Copies what `pieces` hold to the front of `copy`.
pub(super) fn copy_in(pieces: &[Segment], copy: &mut [u8]) {
    let mut rest = copy;
    for piece in pieces {
        let (to, after) = rest.split_at_mut(piece.len);
        // SAFETY: the pieces are of the memory of a request, which its future keeps valid and does
        // not use meanwhile (`Flight::begin`); the device does not have it yet. The copy is another
        // buffer.
        unsafe { piece.ptr.copy_to_nonoverlapping(NonNull::from(to).cast(), piece.len) };
        rest = after;
    }
}

/// Copies the front of `copy` to `pieces`.
pub(super) fn copy_out(copy: &[u8], pieces: &[Segment]) {
    let mut rest = copy;
    for piece in pieces {
        let (from, after) = rest.split_at(piece.len);
        // SAFETY: as in `copy_in`; the request is live, so its future keeps the memory.
        unsafe { piece.ptr.copy_from_nonoverlapping(NonNull::from(from).cast(), piece.len) };
        rest = after;
    }
}
