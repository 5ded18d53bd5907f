//! A subscriber to the log that panics where something is said once for each process: it is the first one's loss alone.

mod not_run;

use std::panic::{AssertUnwindSafe, catch_unwind};

use boson::mem::{Arena, PageKind};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        panic!("a subscriber of the test panics");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn the_next_arena_can_be_had_though_the_first_ones_warning_panicked() {
    let arena = || Arena::new(2 << 20).expect("there is memory");
    let first = tracing::subscriber::with_default(Panics, || catch_unwind(AssertUnwindSafe(arena)));
    if first.is_ok_and(|arena| arena.stats().pages == PageKind::Huge2M) {
        return not_run::not_run("this machine has free hugepages");
    }
    assert_eq!(arena().stats().pages, PageKind::Normal);
}
