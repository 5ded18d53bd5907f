//! The bytes that a connection has received and not yet used.

use crate::mem::{IoBuf, Slice};

/// How large a buffer a connection keeps from one batch of requests to the next, in bytes.
pub(super) const KEPT_BUFFER_BYTES: usize = 16 * 1024;

/// How large the buffer of a connection is at first, in bytes.
const INITIAL_BYTES: usize = 1024;

/// A buffer that a socket receives into directly.
///
/// All of `bytes` is initialised, so that its free end can be lent to a receive operation;
/// `start..end` has been received and not used.
#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The least length of the current request, in bytes.
    wanted: usize,
    /// The last receive filled the buffer: there was probably more.
    was_filled: bool,
}

impl Input {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// What was received and not used.
    pub(super) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Uses the first `len` unread bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.start += len;
        self.wanted = 0;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Says how many bytes the current request has at least, the unread ones included.
    pub(super) fn want(&mut self, wanted: usize) {
        self.wanted = wanted;
    }

    /// Takes the buffer's free end, which is never empty, to receive into.
    pub(super) fn take_space(&mut self) -> Slice<Vec<u8>> {
        self.make_space();
        let bytes = std::mem::take(&mut self.bytes);
        let len = bytes.len();
        bytes.slice(self.end..len)
    }

    /// Gives the buffer back with `received` bytes behind those it had.
    pub(super) fn give_back(&mut self, bytes: Vec<u8>, received: usize) {
        self.bytes = bytes;
        self.end = (self.end + received).min(self.bytes.len());
        self.was_filled = self.end == self.bytes.len();
    }

    /// Receives a copy of `bytes`.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.make_space();
            let space = &mut self.bytes[self.end..];
            let len = space.len().min(bytes.len());
            space[..len].copy_from_slice(&bytes[..len]);
            self.end += len;
            bytes = &bytes[len..];
        }
    }

    fn make_space(&mut self) {
        let unread = self.end - self.start;
        if unread == 0 {
            if self.bytes.len() > KEPT_BUFFER_BYTES {
                self.bytes = Vec::new();
            }
            if self.bytes.is_empty() {
                self.resize(INITIAL_BYTES);
            } else if std::mem::take(&mut self.was_filled) && self.bytes.len() < KEPT_BUFFER_BYTES {
                self.resize(self.bytes.len() * 2);
            }
        } else if self.end == self.bytes.len() {
            if self.start >= unread {
                // At least as many bytes become free as are moved, so that moving costs no more
                // than receiving did.
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, unread);
            } else {
                let len = self.bytes.len();
                // It grows to the size of the request if that is near, but always by at least half,
                // so that growing stays cheap.
                self.resize((self.start + self.wanted).clamp(len + len / 2, len * 2));
            }
        }
        assert!(self.end < self.bytes.len(), "there is always room to receive into");
    }

    fn resize(&mut self, len: usize) {
        self.bytes.reserve_exact(len - self.bytes.len());
        self.bytes.resize(len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::IoBufMut;

    fn receive(input: &mut Input, bytes: &[u8]) -> usize {
        let mut space = input.take_space();
        let len = space.fill_from(bytes);
        input.give_back(space.into_inner(), len);
        len
    }

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut input = Input::new();
        let mut expected = Vec::new();
        let mut sent = 0u32;
        for round in 0..2_000usize {
            let bytes: Vec<u8> = (0..round % 700)
                .map(|_| {
                    sent += 1;
                    sent.to_le_bytes()[0]
                })
                .collect();
            if round % 2 == 0 {
                input.push(&bytes);
                expected.extend_from_slice(&bytes);
            } else {
                let len = receive(&mut input, &bytes);
                expected.extend_from_slice(&bytes[..len]);
            }
            let used = (round * 7 % 1_100).min(expected.len());
            assert_eq!(input.unread(), expected);
            input.consume(used);
            expected.drain(..used);
        }
    }

    #[test]
    fn the_buffer_grows_with_what_arrives_and_not_with_what_is_announced() {
        let mut input = Input::new();
        input.push(b"x");
        input.want(512 << 20);
        assert!(receive(&mut input, &[0; 100]) == 100);
        assert_eq!(input.capacity(), INITIAL_BYTES);
        while input.unread().len() < 1 << 20 {
            receive(&mut input, &vec![0; 1 << 16]);
            assert!(input.capacity() <= 2 * input.unread().len().max(INITIAL_BYTES), "{}", input.capacity());
        }
    }

    #[test]
    fn the_last_growth_ends_with_the_request() {
        let mut input = Input::new();
        input.want(100_000);
        while input.unread().len() < 100_000 {
            let missing = 100_000 - input.unread().len();
            receive(&mut input, &vec![0; missing]);
        }
        assert!(input.capacity() < 140_000, "{}", input.capacity());
    }

    #[test]
    fn a_large_buffer_is_released_when_its_request_is_done() {
        let mut input = Input::new();
        input.push(&vec![0; 1 << 20]);
        input.consume(1 << 20);
        let space = input.take_space();
        input.give_back(space.into_inner(), 0);
        assert_eq!(input.capacity(), INITIAL_BYTES);
    }
}
