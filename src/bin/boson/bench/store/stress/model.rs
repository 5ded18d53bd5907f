//! What may be found at each key: the newest acknowledged write, or one that is not yet
//! acknowledged, or one of several that were under way at the same time.
//!
//! Writes have versions, drawn from one counter when they begin. An acknowledged write rules out
//! every write that was acknowledged before it began; nothing else is ruled out, because the store
//! may have carried out two writes that overlapped in either order. RocksDB's `db_stress` keeps its
//! expected state for the same purpose, one writer for each key.

/// A write that may be what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    version: u64,
    is_delete: bool,
    /// The next version when it was acknowledged.
    acknowledged_at: u64,
}

const NOT_YET: u64 = u64::MAX;

#[derive(Clone, Debug)]
struct Expected {
    candidates: Vec<Candidate>,
    /// The newest delete that was begun.
    last_delete: u64,
}

/// What a reader may find, as of when it began.
#[derive(Debug)]
pub(in super::super) struct Reading {
    since: u64,
    candidates: Vec<Candidate>,
}

/// The expected state of all keys, by their numbers.
#[derive(Debug)]
pub(in super::super) struct Model {
    keys: Vec<Expected>,
    next: u64,
}

impl Model {
    /// Of as many keys, none of which is there.
    pub(in super::super) fn new(keys: usize) -> Self {
        let absent = Candidate { version: 0, is_delete: true, acknowledged_at: 0 };
        Self { keys: vec![Expected { candidates: vec![absent], last_delete: 0 }; keys], next: 1 }
    }

    pub(in super::super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The version of a write that begins.
    pub(in super::super) fn draw(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// The write with that version begins at `key`.
    pub(in super::super) fn begin(&mut self, key: usize, version: u64, is_delete: bool) {
        self.next = self.next.max(version + 1);
        let expected = &mut self.keys[key];
        expected.candidates.push(Candidate { version, is_delete, acknowledged_at: NOT_YET });
        if is_delete {
            expected.last_delete = expected.last_delete.max(version);
        }
    }

    /// It was acknowledged.
    pub(in super::super) fn acknowledge(&mut self, key: usize, version: u64) {
        let (next, candidates) = (self.next, &mut self.keys[key].candidates);
        candidates.retain(|other| other.acknowledged_at > version);
        if let Some(own) = candidates.iter_mut().find(|other| other.version == version) {
            own.acknowledged_at = next;
        }
    }

    pub(in super::super) fn read(&self, key: usize) -> Reading {
        Reading { since: self.next, candidates: self.keys[key].candidates.clone() }
    }

    /// Whether the reader may have found this version, or nothing.
    ///
    /// # Errors
    ///
    /// What it should have found.
    pub(in super::super) fn check(
        &self,
        key: usize,
        reading: &Reading,
        found: Option<u64>,
    ) -> Result<(), String> {
        let may_be = match found {
            Some(version) => {
                (reading.since..self.next).contains(&version)
                    || reading.candidates.iter().any(|it| !it.is_delete && it.version == version)
            }
            None => {
                self.keys[key].last_delete >= reading.since
                    || reading.candidates.iter().any(|it| it.is_delete)
            }
        };
        if may_be { Ok(()) } else { Err(wrong(key, found, &reading.candidates)) }
    }

    /// The same for what is found at this moment.
    ///
    /// # Errors
    ///
    /// As for [`Model::check`].
    pub(in super::super) fn check_now(&self, key: usize, found: Option<u64>) -> Result<(), String> {
        self.check(key, &self.read(key), found)
    }

    /// The only thing that can be found at `key`, if nothing wrote to it since `reading` of any key
    /// began: a version, or nothing.
    pub(in super::super) fn settled(&self, key: usize, reading: &Reading) -> Option<Option<u64>> {
        match self.keys[key].candidates[..] {
            [only] if only.acknowledged_at <= reading.since => {
                Some((!only.is_delete).then_some(only.version))
            }
            _ => None,
        }
    }

    /// Takes what was found as the only thing that can be found from now on.
    pub(in super::super) fn adopt(&mut self, key: usize, found: Option<u64>) {
        let version = found.unwrap_or(0);
        self.next = self.next.max(version + 1);
        let expected = &mut self.keys[key];
        expected.candidates.clear();
        let is_delete = found.is_none();
        expected.candidates.push(Candidate { version, is_delete, acknowledged_at: 0 });
    }
}

fn wrong(key: usize, found: Option<u64>, candidates: &[Candidate]) -> String {
    let found = found.map_or("nothing".to_owned(), |version| format!("version {version}"));
    let may: Vec<_> = candidates
        .iter()
        .map(|it| {
            let what = if it.is_delete { "nothing since" } else { "version" };
            let pending = if it.acknowledged_at == NOT_YET { " (not acknowledged)" } else { "" };
            format!("{what} {}{pending}", it.version)
        })
        .collect();
    format!("key {key}: {found} is there, where {} should be", may.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledged_write_rules_out_what_came_before_it() {
        let mut model = Model::new(1);
        assert!(model.check_now(0, None).is_ok() && model.check_now(0, Some(1)).is_err());
        let first = model.draw();
        model.begin(0, first, false);
        assert!(model.check_now(0, None).is_ok() && model.check_now(0, Some(first)).is_ok());
        model.acknowledge(0, first);
        assert!(model.check_now(0, None).is_err_and(|why| why.contains("nothing is there")));
        let second = model.draw();
        model.begin(0, second, true);
        model.acknowledge(0, second);
        assert!(model.check_now(0, None).is_ok() && model.check_now(0, Some(first)).is_err());
    }

    #[test]
    fn of_two_writes_that_overlap_either_may_be_last() {
        let mut model = Model::new(1);
        let (one, other) = (model.draw(), model.draw());
        model.begin(0, one, false);
        model.begin(0, other, false);
        model.acknowledge(0, other);
        assert!(model.check_now(0, None).is_err() && model.check_now(0, Some(one)).is_ok());
        model.acknowledge(0, one);
        assert!(model.check_now(0, Some(one)).is_ok() && model.check_now(0, Some(other)).is_ok());
        let last = model.draw();
        model.begin(0, last, false);
        model.acknowledge(0, last);
        assert!(model.check_now(0, Some(one)).is_err() && model.check_now(0, Some(other)).is_err());
    }

    #[test]
    fn a_reader_may_find_what_was_there_at_any_moment_of_its_read() {
        let mut model = Model::new(1);
        let old = model.draw();
        model.begin(0, old, false);
        model.acknowledge(0, old);
        let reading = model.read(0);
        for is_delete in [true, false] {
            let version = model.draw();
            model.begin(0, version, is_delete);
            model.acknowledge(0, version);
        }
        for found in [None, Some(old), Some(3)] {
            assert!(model.check(0, &reading, found).is_ok(), "{found:?}");
        }
        assert!(model.check_now(0, Some(old)).is_err());
        assert!(model.check_now(0, None).is_err());
        assert_eq!(model.settled(0, &reading), None);
        assert_eq!(model.settled(0, &model.read(0)), Some(Some(3)));
    }

    #[test]
    fn what_is_adopted_is_all_there_is() {
        let mut model = Model::new(2);
        model.begin(0, 9, false);
        model.adopt(0, None);
        assert!(model.check_now(0, Some(9)).is_err() && model.draw() == 10);
        model.adopt(1, Some(40));
        assert!(model.check_now(1, None).is_err() && model.draw() == 41);
    }
}
