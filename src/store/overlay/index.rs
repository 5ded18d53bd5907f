//! From a hash to entries: open addressing with a word for each place.
//!
//! A word holds the upper half of a hash, and the number of an entry plus one. A hash's place is
//! given by its topmost bits, so the words of a table are in the order of their hashes but for
//! collisions, and a larger table is filled from front to back.

const FIRST_WORDS: usize = 1 << 8;

#[derive(Debug)]
pub(super) struct Index {
    /// A power of two; at most half of them in use.
    words: Vec<u64>,
    used: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { words: vec![0; FIRST_WORDS], used: 0 }
    }
}

impl Index {
    /// One that does not become larger before it has more entries than that.
    pub(super) fn with_room_for(entries: usize) -> Self {
        Self { words: vec![0; (entries * 2 + 2).next_power_of_two().max(FIRST_WORDS)], used: 0 }
    }

    /// The entry with this hash of which `is_it` says that it is the one.
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let word = self.words[at];
            if word == 0 {
                return None;
            }
            let entry = entry_of(word);
            if word >> 32 == hash >> 32 && is_it(entry) {
                return Some(entry);
            }
            at = self.next(at);
        }
    }

    /// Adds an entry that is not there.
    pub(super) fn insert(&mut self, hash: u64, entry: u32) {
        if (self.used + 1) * 2 > self.words.len() {
            let words = vec![0; self.words.len() * 2];
            for word in std::mem::replace(&mut self.words, words) {
                if word != 0 {
                    self.put(word);
                }
            }
        }
        self.used += 1;
        self.put(hash >> 32 << 32 | u64::from(entry + 1));
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    fn put(&mut self, word: u64) {
        let mut at = self.home(word);
        while self.words[at] != 0 {
            at = self.next(at);
        }
        self.words[at] = word;
    }

    /// By the upper half alone, which is what a word keeps: a table has 2^32 words at most.
    fn home(&self, hash: u64) -> usize {
        let bits = self.words.len().trailing_zeros();
        usize::try_from(hash >> (64 - bits)).expect("it is less than the number of words")
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.words.len() - 1)
    }
}

fn entry_of(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).expect("these are 32 bits") - 1
}
