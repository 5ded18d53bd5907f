//! Bugs on purpose: each must be noticed within a hundred schedules.

use super::super::queue_pair::Mutation;
use super::schedules::run;

fn is_noticed(mutation: Mutation) {
    let noticed = (0..100).find_map(|seed| run(seed, Some(mutation)).err().map(|wrong| (seed, wrong)));
    let (seed, wrong) = noticed.unwrap_or_else(|| panic!("{mutation:?} was not noticed"));
    eprintln!("{mutation:?}: seed {seed}: {wrong}");
}

#[test]
fn a_doorbell_before_its_entry_is_noticed() {
    is_noticed(Mutation::DoorbellFirst);
}

#[test]
fn a_command_id_that_is_used_too_early_is_noticed() {
    is_noticed(Mutation::SharedId);
}

#[test]
fn a_flush_that_is_skipped_is_noticed() {
    is_noticed(Mutation::SkippedFlush);
}
