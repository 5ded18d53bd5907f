//! What was written, by number, and what has to be left of it.

use std::collections::BTreeMap;

use crate::rt::Instant;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A put, or a delete.
pub(super) struct Write {
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct History {
    /// What was left at the last crash.
    base: Content,
    /// Writes since then. Numbers that are not here are void.
    writes: BTreeMap<u64, Write>,
    /// Numbers below this one were acknowledged as durable.
    acknowledged: u64,
    /// Numbers that are to be durable by a time.
    promised: Vec<(u64, Instant)>,
    /// What a client came upon.
    pub(super) failed: Option<String>,
}

impl History {
    pub(super) fn wrote(&mut self, number: u64, write: Write) {
        let before = self.writes.insert(number, write);
        if before.is_some() || number < self.acknowledged && self.acknowledged > self.last() + 1 {
            self.failed.get_or_insert(format!("number {number} was given out twice"));
        }
    }

    /// The newest number.
    pub(super) fn last(&self) -> u64 {
        self.writes.last_key_value().map_or(0, |(number, _)| *number)
    }

    /// This number, and all before it, are durable.
    pub(super) fn acknowledge(&mut self, number: u64) {
        self.acknowledged = self.acknowledged.max(number + 1);
    }

    pub(super) fn promise(&mut self, number: u64, by: Instant) {
        self.promised.push((number, by));
    }

    /// The crash has left the numbers below `next`. How many writes were lost.
    pub(super) fn cut(&mut self, next: u64, crashed_at: Instant) -> Result<u64, String> {
        if next < self.acknowledged {
            return Err(format!("numbers below {} were acknowledged, {next} is next", self.acknowledged));
        }
        let broken = self.promised.iter().find(|&&(number, by)| number >= next && by < crashed_at);
        if let Some((number, by)) = broken {
            return Err(format!("number {number}, promised for {by:?}, is lost at {crashed_at:?}"));
        }
        let lost = self.writes.split_off(&next);
        self.base = self.content();
        self.writes.clear();
        self.promised.clear();
        self.acknowledged = next;
        Ok(lost.len() as u64)
    }

    /// What all keys have.
    pub(super) fn content(&self) -> Content {
        let mut content = self.base.clone();
        for write in self.writes.values() {
            match &write.value {
                Some(value) => drop(content.insert(write.key.clone(), value.clone())),
                None => drop(content.remove(&write.key)),
            }
        }
        content
    }
}
