//! What was written, by number, and what has to be left of it.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::rt::Instant;

/// What a tree has.
pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A put, or a delete. The catalog is tree 0.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) tree: usize,
    pub(super) key: Vec<u8>,
    pub(super) value: Option<Vec<u8>>,
}

/// What all trees have.
#[derive(Clone, Debug, Default)]
pub(super) struct Content(Vec<Model>);

impl Content {
    fn apply(&mut self, change: &Change) {
        if self.0.len() <= change.tree {
            self.0.resize_with(change.tree + 1, Model::new);
        }
        let tree = &mut self.0[change.tree];
        match &change.value {
            Some(value) => drop(tree.insert(change.key.clone(), value.clone())),
            None => drop(tree.remove(&change.key)),
        }
    }

    pub(super) fn tree(&self, tree: usize) -> &Model {
        const NOTHING: &Model = &Model::new();
        self.0.get(tree).unwrap_or(NOTHING)
    }
}

#[derive(Default)]
pub(super) struct History {
    /// What was left at the last crash.
    base: Rc<Content>,
    /// What there is now.
    now: Rc<Content>,
    /// Writes since then: the changes of each number. Numbers that are not here are void.
    writes: BTreeMap<u64, Vec<Change>>,
    /// The next number, at the last crash.
    next: u64,
    /// Numbers below this one were acknowledged as durable.
    acknowledged: u64,
    /// Numbers that are to be durable by a time.
    promised: Vec<(u64, Instant)>,
    /// The store writes by itself, too: pieces of long values.
    pub(super) has_others: bool,
    /// The store has failed, as it may: this life is over.
    pub(super) is_over: bool,
    /// What a client came upon.
    failed: Option<String>,
}

impl History {
    pub(super) fn wrote(&mut self, number: u64, changes: Vec<Change>) {
        let now = Rc::make_mut(&mut self.now);
        changes.iter().for_each(|change| now.apply(change));
        if number < self.next || self.writes.insert(number, changes).is_some() {
            self.fail(format!("number {number} was given out twice"));
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
        let given_out = self.next.max(self.last() + 1).max(1);
        if next > given_out && !self.has_others {
            return Err(format!("{given_out} was next before the crash, {next} is now"));
        }
        let broken = self.promised.iter().find(|&&(number, by)| number >= next && by < crashed_at);
        if let Some((number, by)) = broken {
            return Err(format!("number {number}, promised for {by:?}, is lost at {crashed_at:?}"));
        }
        let lost = self.writes.split_off(&next);
        let left = std::mem::take(&mut self.writes);
        // Not two of them that are written to.
        self.now = Rc::default();
        let base = Rc::make_mut(&mut self.base);
        left.values().flatten().for_each(|change| base.apply(change));
        self.now = Rc::clone(&self.base);
        self.promised.clear();
        (self.acknowledged, self.next) = (next, next);
        Ok(lost.len() as u64)
    }

    /// What there is now.
    pub(super) fn content(&self) -> &Rc<Content> {
        &self.now
    }

    /// What a client came upon in the life that ends here.
    pub(super) fn failure(&mut self) -> Option<String> {
        self.is_over = false;
        self.failed.take()
    }

    /// A client came upon this.
    pub(super) fn fail(&mut self, what: String) {
        if !self.is_over {
            self.failed.get_or_insert(what);
        }
    }
}
