//! Groups of the log: transactions that are longer than a record, in parts.
//!
//! The parts of a group are records of their own, with other records in between. What is in them
//! counts from the last part on, under its number. So the parts are kept aside until it comes:
//!
//! | a part | is |
//! |---|---|
//! | the first one | kept aside |
//! | another, of a group whose first part is before the log's start | passed over: all of the group is in pages, or it never had a last part |
//! | another | kept aside with the first |
//! | the last one | the end of the group, if all its parts are there; else the log is damaged |
//!
//! Parts without a last one are of a transaction that was given up, or that a crash has cut. They
//! are forgotten.

use std::collections::HashMap;

use crate::store::wal::record::{Operations, Part};

/// The log has a part of a group, and not the ones before, although it starts before the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct IncompleteGroup {
    /// The number of the part.
    pub(in crate::store) number: u64,
    /// That of the group's first part.
    pub(in crate::store) first: u64,
}

/// What a record of the log is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// No part of anything.
    Record,
    /// A part; nothing counts yet.
    Aside,
    /// The last part of the group whose first one has this number: the operations of all parts, in
    /// their order.
    Group { first: u64, records: Vec<Vec<u8>> },
}

/// Parts that are kept aside.
#[derive(Debug, Default)]
pub(super) struct Groups {
    log_start: u64,
    /// By the numbers of their first parts.
    open: HashMap<u64, Vec<Vec<u8>>>,
}

impl Groups {
    /// Of a log whose first write has this number.
    pub(super) fn new(log_start: u64) -> Self {
        Self { log_start, open: HashMap::new() }
    }

    pub(super) fn take(&mut self, number: u64, operations: Operations<'_>) -> Result<Taken, IncompleteGroup> {
        let Some((Part { back, parts }, Operations(behind))) = operations.part() else {
            return Ok(Taken::Record);
        };
        let first = number.saturating_sub(u64::from(back));
        if back == 0 {
            self.open.insert(first, vec![behind.to_vec()]);
            return Ok(Taken::Aside);
        }
        if first < self.log_start {
            return Ok(Taken::Aside);
        }
        let incomplete = IncompleteGroup { number, first };
        let records = self.open.get_mut(&first).ok_or(incomplete)?;
        records.push(behind.to_vec());
        let Some(parts) = parts else { return Ok(Taken::Aside) };
        if records.len() != parts as usize {
            return Err(incomplete);
        }
        let records = self.open.remove(&first).unwrap_or_default();
        Ok(Taken::Group { first, records })
    }

    /// The parts of all groups that have not come to their end.
    pub(super) fn take_open(&mut self) -> Vec<Vec<u8>> {
        self.open.drain().flat_map(|(_, records)| records).collect()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::store::wal::record::Operation;

    fn part(back: u32, parts: Option<u32>, tree: u32) -> Vec<u8> {
        let operations = [Operation::Part(Part { back, parts }), Operation::RemoveTree { tree }];
        let mut bytes = vec![0; operations.iter().map(Operation::encoded_len).sum()];
        let mut out = &mut bytes[..];
        for operation in operations {
            out = operation.encode(out);
        }
        bytes
    }

    fn take(groups: &mut Groups, number: u64, bytes: &[u8]) -> Result<Taken, IncompleteGroup> {
        assert!(Operations(bytes).is_valid());
        groups.take(number, Operations(bytes))
    }

    #[test]
    fn a_group_counts_with_its_last_part() {
        let mut groups = Groups::new(10);
        assert_eq!(take(&mut groups, 10, &part(0, None, 5)), Ok(Taken::Aside));
        assert_eq!(take(&mut groups, 11, &[0]), Ok(Taken::Record));
        // One that was given up, and its numbers lie between those of the other.
        assert_eq!(take(&mut groups, 12, &part(0, None, 9)), Ok(Taken::Aside));
        assert_eq!(take(&mut groups, 13, &part(3, None, 6)), Ok(Taken::Aside));
        let group = Taken::Group { first: 10, records: vec![vec![7, 5], vec![7, 6], vec![7, 7]] };
        assert_eq!(take(&mut groups, 15, &part(5, Some(3), 7)), Ok(group));
    }

    #[test]
    fn a_group_from_before_the_log_is_passed_over() {
        let mut groups = Groups::new(10);
        assert_eq!(take(&mut groups, 10, &part(1, None, 5)), Ok(Taken::Aside));
        assert_eq!(take(&mut groups, 11, &part(2, Some(3), 5)), Ok(Taken::Aside));
    }

    #[test]
    fn a_group_that_lacks_a_part_is_damage() {
        let mut groups = Groups::new(10);
        assert_eq!(take(&mut groups, 12, &part(1, None, 5)), Err(IncompleteGroup { number: 12, first: 11 }));
        assert_eq!(take(&mut groups, 13, &part(0, None, 5)), Ok(Taken::Aside));
        assert_eq!(
            take(&mut groups, 16, &part(3, Some(3), 5)),
            Err(IncompleteGroup { number: 16, first: 13 })
        );
    }
}
