//! What is broken on purpose is noticed, each within some seeds; the test prints in which.
//!
//! Rules of the flusher that have to do with what happens *while* a bundle is put together are
//! none of these: cores of a simulation change nothing in between. The flusher's own tests notice
//! them, and those that only large trees depend on (`btree/tree/flushing/tests.rs`,
//! `btree/smo/tests/flusher.rs`).

use std::rc::Rc;

use super::run_caught;
use crate::store::engine::defect::{Defects, EngineDefect};
use crate::store::flush::FlushDefect;
use crate::store::pages::PagesDefect;
use crate::store::wal::WalDefect;

/// A store with a defect must be noticed within so many seeds.
const DEFECT_SEEDS: u64 = 40;

fn is_noticed(defects: Defects) {
    defects.set();
    let coverage = Rc::default();
    let seeds = std::env::var("BOSON_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFECT_SEEDS);
    let found = (0..seeds).find_map(|seed| run_caught(seed, &coverage).err());
    Defects::default().set();
    println!("{defects:?}: {found:?}");
    assert!(found.is_some(), "{defects:?} was not noticed in {seeds} seeds");
}

fn engine(defect: EngineDefect) {
    is_noticed(Defects { engine: Some(defect), ..Defects::default() });
}

fn flush(defect: FlushDefect) {
    is_noticed(Defects { flush: Some(defect), ..Defects::default() });
}

#[test]
fn a_bundle_that_is_named_before_it_is_flushed_is_noticed() {
    engine(EngineDefect::NamedBeforeFlushed);
}

#[test]
fn a_bundle_that_is_installed_before_it_is_durable_is_noticed() {
    engine(EngineDefect::InstalledBeforeDurable);
}

#[test]
fn a_log_that_starts_too_late_is_noticed() {
    engine(EngineDefect::LogStartsLate);
}

#[test]
fn an_epoch_that_is_not_written_is_noticed() {
    engine(EngineDefect::EpochNotWritten);
}

#[test]
#[ignore = "it takes more seeds than a usual run has time for"]
fn a_page_without_its_partner_is_noticed() {
    flush(FlushDefect::NoPartner);
}

#[test]
fn a_page_that_is_clean_by_mistake_is_noticed() {
    flush(FlushDefect::CleanByMistake);
}

#[test]
fn a_flush_of_the_log_that_is_skipped_is_noticed() {
    is_noticed(Defects { wal: Some(WalDefect::SkipFlush), ..Defects::default() });
}

#[test]
fn an_acknowledgement_before_the_write_is_noticed() {
    is_noticed(Defects { wal: Some(WalDefect::AckBeforeWrite), ..Defects::default() });
}

#[test]
fn a_segment_that_is_used_again_too_early_is_noticed() {
    is_noticed(Defects { pages: Some(PagesDefect::ReuseEarly), ..Defects::default() });
}

#[test]
fn a_group_that_counts_without_its_end_is_noticed() {
    engine(EngineDefect::GroupNeedsNoEnd);
}
