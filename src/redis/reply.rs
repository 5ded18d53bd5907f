//! Replies: what clients get, in RESP2 or RESP3.
//!
//! Scalars that are not on the hot path are encoded by the codec crate. The hot ones (`+OK`, bulk
//! strings, integers, nulls) are written directly, because the crate computes a frame's length,
//! zero-fills the output and only then encodes into it; and so are the heads of arrays and maps,
//! because the crate encodes whole aggregates only, and its maps are hash maps without an order. A
//! test compares the two byte for byte.

use redis_protocol::{resp2, resp3};

use super::number::{decimal_len, push_i64, push_u64};

/// The version of the protocol that a connection has chosen with HELLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Protocol {
    /// What every connection starts with.
    #[default]
    Resp2,
    /// With types for maps, nulls and texts.
    Resp3,
}

impl Protocol {
    /// The number that HELLO takes and gives.
    pub(super) fn version(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Replies that wait to be sent.
#[derive(Debug, Default)]
pub(super) struct Replies {
    bytes: Vec<u8>,
    /// An empty buffer for when `bytes` is being sent and more is written.
    spare: Vec<u8>,
    protocol: Protocol,
}

impl Replies {
    /// No reply yet, in RESP2.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The protocol of the replies that follow.
    pub(super) fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// How many bytes wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no byte waits.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How much memory they take, in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.spare.capacity()
    }

    /// Takes the bytes to send them; [`Replies::give_back`] returns the buffer.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.bytes, std::mem::take(&mut self.spare))
    }

    /// Gives back the buffer of replies that were sent. It is released if it and the other empty
    /// ones are larger than `kept_bytes`.
    pub(super) fn give_back(&mut self, mut buffer: Vec<u8>, kept_bytes: usize) {
        let kept = if self.bytes.is_empty() { self.capacity() } else { self.spare.capacity() };
        if kept + buffer.capacity() <= kept_bytes {
            buffer.clear();
            if self.bytes.capacity() == 0 {
                self.bytes = buffer;
            } else if self.spare.capacity() == 0 {
                self.spare = buffer;
            }
        }
    }

    /// Releases the buffer if nothing is in it and it is larger than `kept_bytes`.
    pub(super) fn release_unused(&mut self, kept_bytes: usize) {
        if self.bytes.is_empty() && self.bytes.capacity() > kept_bytes {
            self.bytes = Vec::new();
        }
    }

    /// Forgets everything behind the first `len` bytes.
    pub(super) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Appends replies that were written elsewhere.
    pub(super) fn append(&mut self, replies: &Self) {
        self.bytes.extend_from_slice(&replies.bytes);
    }

    /// Replaces the bytes `range` by an error reply.
    pub(super) fn replace_by_error(&mut self, range: std::ops::Range<usize>, text: &[u8]) {
        let rest = self.bytes.split_off(range.end);
        self.bytes.truncate(range.start);
        self.error(text);
        self.bytes.extend_from_slice(&rest);
    }

    /// `+OK`.
    pub(super) fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// An integer.
    pub(super) fn integer(&mut self, value: i64) {
        self.bytes.push(b':');
        push_i64(&mut self.bytes, value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A count; saturates at the largest integer of the protocol.
    pub(super) fn count(&mut self, value: impl TryInto<i64>) {
        self.integer(value.try_into().unwrap_or(i64::MAX));
    }

    /// A bulk string.
    pub(super) fn bulk(&mut self, value: &[u8]) {
        self.head(b'$', value.len());
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// An integer as a bulk string.
    pub(super) fn bulk_u64(&mut self, value: u64) {
        self.head(b'$', decimal_len(value));
        push_u64(&mut self.bytes, value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// The reply for something that is not there.
    pub(super) fn null(&mut self) {
        self.bytes.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The head of an array: `len` replies follow.
    pub(super) fn array(&mut self, len: usize) {
        self.head(b'*', len);
    }

    /// The head of a map: `len` pairs of replies follow. An array of twice the length in RESP2.
    pub(super) fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.head(b'*', len * 2),
            Protocol::Resp3 => self.head(b'%', len),
        }
    }

    /// The head of a set: `len` replies follow. An array in RESP2.
    pub(super) fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.head(b'*', len),
            Protocol::Resp3 => self.head(b'~', len),
        }
    }

    /// The head of a push, which no request asked for: `len` replies follow. RESP2 has none.
    pub(super) fn push(&mut self, len: usize) {
        debug_assert_eq!(self.protocol, Protocol::Resp3);
        self.head(b'>', len);
    }

    /// A short text without line ends.
    pub(super) fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "{text:?}");
        match self.protocol {
            Protocol::Resp2 => self.encode_resp2(&resp2::types::BorrowedFrame::SimpleString(text.as_bytes())),
            Protocol::Resp3 => self.encode_resp3(&resp3::types::BorrowedFrame::SimpleString {
                data: text.as_bytes(),
                attributes: None,
            }),
        }
    }

    /// A text for people: a verbatim string in RESP3, a bulk string in RESP2.
    pub(super) fn verbatim(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => self.encode_resp3(&resp3::types::BorrowedFrame::VerbatimString {
                data: text,
                format: resp3::types::VerbatimStringFormat::Text,
                attributes: None,
            }),
        }
    }

    /// An error: a code in capitals, a space, and what went wrong. Line ends in it become spaces,
    /// since it may quote what a client sent; for the same reason it need not be UTF-8, which the
    /// codec crate would demand.
    pub(super) fn error(&mut self, text: &[u8]) {
        self.bytes.push(b'-');
        self.bytes.extend(text.iter().map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn head(&mut self, kind: u8, len: usize) {
        self.bytes.push(kind);
        push_u64(&mut self.bytes, u64::try_from(len).unwrap_or(u64::MAX));
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn encode_resp2(&mut self, frame: &resp2::types::BorrowedFrame<'_>) {
        let start = self.bytes.len();
        self.bytes.resize(start + frame.encode_len(false), 0);
        // The only error is a buffer that is too small, and it was just made as long as the frame
        // says it is.
        let encoded = resp2::encode::encode_borrowed(&mut self.bytes[start..], frame, false);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
    }

    fn encode_resp3(&mut self, frame: &resp3::types::BorrowedFrame<'_>) {
        let start = self.bytes.len();
        self.bytes.resize(start + frame.encode_len(false), 0);
        // As above.
        let encoded = resp3::encode::complete::encode_borrowed(&mut self.bytes[start..], frame, false);
        debug_assert!(encoded.is_ok(), "{encoded:?}");
    }
}

#[cfg(test)]
mod tests {
    use redis_protocol::{resp2, resp3};

    use super::*;

    fn written(protocol: Protocol, write: impl Fn(&mut Replies)) -> Vec<u8> {
        let mut replies = Replies::new();
        replies.set_protocol(protocol);
        write(&mut replies);
        replies.take()
    }

    /// What the codec crate makes of `frames` in both protocols.
    fn encoded(two: resp2::types::BorrowedFrame<'_>, three: resp3::types::BorrowedFrame<'_>) -> [Vec<u8>; 2] {
        let mut resp2 = vec![0; two.encode_len(false)];
        resp2::encode::encode_borrowed(&mut resp2, &two, false).expect("room for the frame");
        let mut resp3 = vec![0; three.encode_len(false)];
        resp3::encode::complete::encode_borrowed(&mut resp3, &three, false).expect("room for the frame");
        [resp2, resp3]
    }

    fn both(write: impl Fn(&mut Replies)) -> [Vec<u8>; 2] {
        [written(Protocol::Resp2, &write), written(Protocol::Resp3, &write)]
    }

    #[test]
    fn direct_replies_agree_with_the_codec_crate() {
        use resp2::types::BorrowedFrame as Two;
        use resp3::types::BorrowedFrame as Three;

        let attributes = None;
        let expected = encoded(
            Two::SimpleString(b"OK"),
            Three::SimpleString { data: b"OK", attributes: attributes.clone() },
        );
        assert_eq!(both(Replies::ok), expected);
        for data in [0, 7, -7, 1_234_567, i64::MAX, i64::MIN] {
            let expected =
                encoded(Two::Integer(data), Three::Number { data, attributes: attributes.clone() });
            assert_eq!(both(|replies| replies.integer(data)), expected);
        }
        for len in [0, 1, 9, 10, 99, 100, 70_000] {
            let data = &*vec![b'x'; len];
            let expected =
                encoded(Two::BulkString(data), Three::BlobString { data, attributes: attributes.clone() });
            assert_eq!(both(|replies| replies.bulk(data)), expected);
            let number = u64::try_from(len).expect("small");
            let data = number.to_string();
            let expected = encoded(
                Two::BulkString(data.as_bytes()),
                Three::BlobString { data: data.as_bytes(), attributes: attributes.clone() },
            );
            assert_eq!(both(|replies| replies.bulk_u64(number)), expected);
        }
        assert_eq!(both(Replies::null), encoded(Two::Null, Three::Null));
        let data = "ERR what";
        let expected = encoded(Two::Error(data), Three::SimpleError { data, attributes: attributes.clone() });
        assert_eq!(both(|replies| replies.error(data.as_bytes())), expected);
        for len in [0, 1, 12] {
            let two = vec![Two::Integer(1); len];
            let three = vec![Three::Number { data: 1, attributes: None }; len];
            let expected =
                encoded(Two::Array(&two), Three::Array { data: &three, attributes: attributes.clone() });
            let array = |replies: &mut Replies| {
                replies.array(len);
                (0..len).for_each(|_| replies.integer(1));
            };
            assert_eq!(both(array), expected);
        }
    }

    #[test]
    fn aggregates_of_both_protocols_are_what_the_codec_crate_decodes() {
        let [two, three] = both(|replies| {
            replies.map(1);
            replies.bulk(b"k");
            replies.set(2);
            replies.simple("a");
            replies.verbatim(b"text");
        });
        assert_eq!(two, b"*2\r\n$1\r\nk\r\n*2\r\n+a\r\n$4\r\ntext\r\n");
        assert_eq!(three, b"%1\r\n$1\r\nk\r\n~2\r\n+a\r\n=8\r\ntxt:text\r\n");
        let (_, read) = resp3::decode::complete::decode(&three).expect("valid RESP3").expect("complete");
        assert_eq!(read, three.len());
    }

    #[test]
    fn an_error_never_contains_a_line_end_or_needs_utf8() {
        assert_eq!(
            written(Protocol::Resp2, |replies| replies.error(b"ERR a\r\nb\xff")),
            b"-ERR a  b\xff\r\n"
        );
    }

    #[test]
    fn a_large_buffer_is_not_kept() {
        let mut replies = Replies::new();
        replies.bulk(&[0; 10_000]);
        let large = replies.take();
        replies.give_back(large, 1_000);
        assert_eq!(replies.bytes.capacity(), 0);
        replies.bulk(&[0; 100]);
        let small = replies.take();
        let place = small.as_ptr();
        replies.give_back(small, 1_000);
        replies.ok();
        assert_eq!(replies.bytes.as_ptr(), place, "the buffer is used again");
    }
}
