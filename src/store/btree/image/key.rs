//! A key as an image stores it: in three pieces.

use std::cmp::Ordering;

/// How many bytes of a key after the prefix are its head.
pub(super) const HEAD_BYTES: usize = 4;

/// A key whose bytes are the prefix of its page, its head and the rest, without a copy. A key that
/// lies in one piece is all prefix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyParts<'a> {
    prefix: &'a [u8],
    head: [u8; HEAD_BYTES],
    head_len: usize,
    rest: &'a [u8],
}

impl<'a> KeyParts<'a> {
    pub(crate) fn whole(key: &'a [u8]) -> Self {
        Self { prefix: key, head: [0; HEAD_BYTES], head_len: 0, rest: &[] }
    }

    /// The key of `head_len` bytes (4 at most) of `head` between `prefix` and `rest`.
    pub(super) fn new(prefix: &'a [u8], head: [u8; HEAD_BYTES], head_len: usize, rest: &'a [u8]) -> Self {
        Self { prefix, head, head_len: head_len.min(HEAD_BYTES), rest }
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.prefix.len() + self.head_len + self.rest.len()
    }

    fn is_whole(&self) -> bool {
        self.head_len == 0 && self.rest.is_empty()
    }

    fn pieces(&self) -> [&[u8]; 3] {
        [self.prefix, &self.head[..self.head_len], self.rest]
    }

    /// Appends the key to `buffer`.
    pub(crate) fn append_to(&self, buffer: &mut Vec<u8>) {
        for piece in self.pieces() {
            buffer.extend_from_slice(piece);
        }
    }

    pub(crate) fn to_vec(self) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.len());
        self.append_to(&mut key);
        key
    }

    /// Whether it is `key`.
    #[inline]
    pub(crate) fn is(&self, key: &[u8]) -> bool {
        let Some((prefix, after)) = key.split_at_checked(self.prefix.len()) else { return false };
        let Some((head, rest)) = after.split_at_checked(self.head_len) else { return false };
        rest == self.rest && head == &self.head[..self.head_len] && prefix == self.prefix
    }

    /// As byte strings compare.
    #[inline]
    pub(crate) fn compare(&self, other: &KeyParts<'_>) -> Ordering {
        if self.is_whole() && other.is_whole() {
            return self.prefix.cmp(other.prefix);
        }
        self.diverge(other).1
    }

    /// How many bytes at their starts are equal.
    pub(crate) fn common_len(&self, other: &KeyParts<'_>) -> usize {
        self.diverge(other).0
    }

    fn diverge(&self, other: &KeyParts<'_>) -> (usize, Ordering) {
        let (mine, theirs) = (self.pieces(), other.pieces());
        let (mut mine, mut theirs) = (mine.into_iter(), theirs.into_iter());
        let (mut a, mut b): (&[u8], &[u8]) = (&[], &[]);
        let mut common = 0;
        loop {
            while a.is_empty() {
                let Some(piece) = mine.next() else {
                    let longer = !b.is_empty() || theirs.any(|piece| !piece.is_empty());
                    return (common, if longer { Ordering::Less } else { Ordering::Equal });
                };
                a = piece;
            }
            while b.is_empty() {
                let Some(piece) = theirs.next() else { return (common, Ordering::Greater) };
                b = piece;
            }
            let len = a.len().min(b.len());
            let ((a_front, a_after), (b_front, b_after)) = (a.split_at(len), b.split_at(len));
            if a_front != b_front {
                let equal = a_front.iter().zip(b_front).take_while(|(a, b)| a == b).count();
                return (common + equal, a_front.cmp(b_front));
            }
            common += len;
            (a, b) = (a_after, b_after);
        }
    }

    /// Copies the bytes from offset `from` on to `out`, as many as there are and fit, and returns
    /// how many.
    #[inline]
    pub(super) fn copy_from(&self, from: usize, out: &mut [u8]) -> usize {
        // Mostly these bytes lie in one piece: the rest, or, of a whole key, the prefix.
        let is_rest = from == self.prefix.len() + self.head_len;
        let piece = if is_rest { Some(self.rest) } else { self.prefix.get(from..) };
        match piece.and_then(|piece| piece.get(..out.len())) {
            Some(piece) => {
                out.copy_from_slice(piece);
                piece.len()
            }
            None => self.copy_pieces_from(from, out),
        }
    }

    fn copy_pieces_from(&self, from: usize, out: &mut [u8]) -> usize {
        let (mut skip, mut copied) = (from, 0);
        for piece in self.pieces() {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let len = (piece.len() - skip).min(out.len() - copied);
            out[copied..copied + len].copy_from_slice(&piece[skip..skip + len]);
            copied += len;
            skip = 0;
        }
        copied
    }

    /// The 4 bytes from offset `from` on, zeros after the key's end.
    pub(super) fn head_at(&self, from: usize) -> [u8; HEAD_BYTES] {
        if from == self.prefix.len() && self.head_len == HEAD_BYTES {
            return self.head;
        }
        if let Some(head) = self.prefix.get(from..).and_then(<[u8]>::first_chunk) {
            return *head;
        }
        let mut head = [0; HEAD_BYTES];
        self.copy_from(from, &mut head);
        head
    }
}
