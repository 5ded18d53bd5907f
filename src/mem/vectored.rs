//! Several buffers as if they were one.

use super::{IoBuf, IoBufMut};

/// The bytes of `bufs` behind the first `skip`, in order; no part is empty.
pub(crate) fn parts_after<B: IoBuf>(bufs: &[B], mut skip: usize) -> impl Iterator<Item = &[u8]> {
    bufs.iter().filter_map(move |buf| {
        let bytes = buf.as_slice();
        let skipped = skip.min(bytes.len());
        skip -= skipped;
        Some(&bytes[skipped..]).filter(|rest| !rest.is_empty())
    })
}

/// How many bytes `bufs` have room for.
pub(crate) fn room<B: IoBufMut>(bufs: &[B]) -> usize {
    bufs.iter().map(IoBufMut::bytes_total).sum()
}

/// Copies `bytes` into `bufs`, behind their first `at` bytes, which are initialised, and returns
/// how many of them had room.
pub(crate) fn fill_from_at<B: IoBufMut>(bufs: &mut [B], mut at: usize, bytes: &[u8]) -> usize {
    let mut copied = 0;
    for buf in bufs {
        let room = buf.bytes_total();
        if at >= room {
            at -= room;
            continue;
        }
        copied += buf.fill_from_at(at, &bytes[copied..]);
        at = 0;
        if copied == bytes.len() {
            break;
        }
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_where_the_skipped_bytes_end() {
        let bufs = [b"ab".to_vec(), Vec::new(), b"cde".to_vec(), b"f".to_vec()];
        let after = |skip| parts_after(&bufs, skip).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(after(0), [&b"ab"[..], b"cde", b"f"]);
        assert_eq!(after(1), [&b"b"[..], b"cde", b"f"]);
        assert_eq!(after(2), [&b"cde"[..], b"f"]);
        assert_eq!(after(5), [&b"f"[..]]);
        assert!(after(6).is_empty());
    }

    #[test]
    fn each_buffer_is_filled_before_the_next() {
        let mut bufs = [Vec::with_capacity(2), Vec::new(), Vec::with_capacity(3)];
        let rooms: Vec<usize> = bufs.iter().map(Vec::capacity).collect();
        assert_eq!((room(&bufs), &rooms[..]), (5, &[2, 0, 3][..]));
        assert_eq!(fill_from_at(&mut bufs, 0, b"a"), 1);
        assert_eq!(fill_from_at(&mut bufs, 1, b"bcd"), 3);
        assert_eq!(fill_from_at(&mut bufs, 4, b"ef"), 1);
        assert_eq!(bufs, [b"ab".to_vec(), Vec::new(), b"cde".to_vec()]);
    }
}
