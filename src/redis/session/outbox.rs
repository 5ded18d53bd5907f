//! Replies on their way to the client.

use std::collections::VecDeque;

/// How many places for batches are kept when none waits.
const KEPT_PLACES: usize = 4;

/// The batches of replies that wait behind the one being sent, and how much of that one is left.
///
/// A batch is freed when it is sent, so a client that reads slowly costs what it has not read and
/// one batch more.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Oldest first.
    batches: VecDeque<Vec<u8>>,
    batches_bytes: usize,
    /// How much of the batch that was taken is not sent, in bytes.
    taken_bytes: usize,
    /// How large its buffer is, in bytes.
    taken_capacity: usize,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Puts a batch behind the others.
    pub(super) fn push(&mut self, mut batch: Vec<u8>) {
        // It grew by doubling, and may wait for a long time.
        batch.shrink_to_fit();
        self.batches_bytes += batch.len();
        self.batches.push_back(batch);
    }

    /// The oldest batch that waits, to be sent after [`Outbox::taken`].
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let batch = self.batches.pop_front()?;
        self.batches_bytes -= batch.len();
        if self.batches.is_empty() && self.batches.capacity() > KEPT_PLACES {
            self.batches = VecDeque::new();
        }
        Some(batch)
    }

    /// `batch` is now being sent.
    pub(super) fn taken(&mut self, batch: &Vec<u8>) {
        (self.taken_bytes, self.taken_capacity) = (batch.len(), batch.capacity());
    }

    /// `len` bytes more of the batch that was taken are sent.
    pub(super) fn sent_part(&mut self, len: usize) {
        self.taken_bytes = self.taken_bytes.saturating_sub(len);
    }

    /// The batch that was taken is sent. Returns how much of it was not known to be, in bytes.
    pub(super) fn sent(&mut self) -> usize {
        self.taken_capacity = 0;
        std::mem::take(&mut self.taken_bytes)
    }

    /// How many batches wait.
    pub(super) fn waiting(&self) -> usize {
        self.batches.len()
    }

    /// How many bytes they have.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.batches_bytes
    }

    /// How much of the batch that was taken is not sent, in bytes.
    pub(super) fn taken_bytes(&self) -> usize {
        self.taken_bytes
    }

    /// How much memory all of them take, in bytes.
    pub(super) fn capacity(&self) -> usize {
        self.batches_bytes + self.taken_capacity
    }
}
