//! Command ids that carry a generation, so that a completion which comes late, twice or for
//! nothing is recognised and never taken for another command's.
//!
//! An id is an index, in its low bits, and that index's generation. The table of one index:
//!
//! | state | event | next | who |
//! |---|---|---|---|
//! | free | `issue` | issued, next generation | the queue, on submission |
//! | issued | a completion with this generation | free | the queue, on completion |
//! | issued | a completion with another generation | issued; counted as stray | |
//! | free | a completion | free; counted as stray | |
//! | issued | `revoke` | free | the queue, when the controller was reset |
//!
//! Generations return after `1 << (16 - index bits)` uses of an index: 64 with 1024 indices, 2048
//! with 32. A duplicate that is older than that is taken for the current command.

/// The ids of one queue.
#[derive(Debug)]
pub(super) struct CommandIds {
    /// For each index its last id, and whether it is issued.
    ids: Box<[Id]>,
    /// Which bits of an id are its index.
    index_mask: u16,
}

#[derive(Clone, Copy, Debug)]
struct Id {
    last: u16,
    issued: bool,
}

impl CommandIds {
    /// Ids for `count` indices, at most 4096.
    pub(super) fn new(count: usize) -> Self {
        let index_bits = count.next_power_of_two().trailing_zeros();
        let ids = (0..u16::try_from(count).expect("a queue has at most 4096 indices"))
            .map(|index| Id { last: index, issued: false })
            .collect();
        let index_mask = u16::try_from((1_u32 << index_bits) - 1).expect("at most 12 bits");
        Self { ids, index_mask }
    }

    pub(super) fn is_issued(&self, index: usize) -> bool {
        self.ids.get(index).is_some_and(|id| id.issued)
    }

    /// A new id for `index`, which is free.
    #[inline]
    pub(super) fn issue(&mut self, index: usize) -> u16 {
        let id = &mut self.ids[index];
        debug_assert!(!id.issued, "a command id is issued once at a time");
        id.issued = true;
        id.last = id.last.wrapping_add(self.index_mask + 1);
        id.last
    }

    /// The index that a completion with `id` ends, which becomes free; `None` for a stray.
    #[inline]
    pub(super) fn complete(&mut self, id: u16) -> Option<usize> {
        let index = usize::from(id & self.index_mask);
        let known = self.ids.get_mut(index)?;
        if !known.issued || known.last != id {
            return None;
        }
        known.issued = false;
        Some(index)
    }

    /// The id of `index` while it is issued.
    pub(super) fn current(&self, index: usize) -> Option<u16> {
        self.ids.get(index).filter(|id| id.issued).map(|id| id.last)
    }

    /// Frees `index`: no completion for it can come any more.
    pub(super) fn revoke(&mut self, index: usize) {
        self.ids[index].issued = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_current_generation_completes() {
        let mut ids = CommandIds::new(5);
        let first = ids.issue(3);
        assert_eq!(ids.complete(first), Some(3));
        assert_eq!(ids.complete(first), None, "twice");
        let second = ids.issue(3);
        assert_ne!(first, second);
        assert_eq!(ids.complete(first), None, "late");
        assert_eq!(ids.complete(7), None, "an index that there is not");
        assert_eq!(ids.current(3), Some(second));
        ids.revoke(3);
        assert_eq!(ids.complete(second), None, "revoked");
    }

    #[test]
    fn generations_of_an_index_wrap_without_touching_another() {
        let mut ids = CommandIds::new(1024);
        for _ in 0..200 {
            let id = ids.issue(1023);
            assert_eq!(ids.complete(id), Some(1023));
        }
        assert!(!ids.is_issued(0));
    }
}
