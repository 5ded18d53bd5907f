//! A subscriber that makes an arena when it is told that there are no hugepages, and panics then,
//! does so once. Alone in its file: it is told once for each process.

use crate::support::hugepages::more_than_all_hugepages;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use boson::mem::{Arena, PageKind};
use tracing::span::{Attributes, Id, Record};

/// Makes an arena at each warning, and panics.
struct MakesAnArena;

impl tracing::Subscriber for MakesAnArena {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _attributes: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _span: &Id, _values: &Record<'_>) {}
    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}
    fn event(&self, _event: &tracing::Event<'_>) {
        drop(Arena::new(more_than_all_hugepages()));
        panic!("a subscriber panics on purpose");
    }
    fn enter(&self, _span: &Id) {}
    fn exit(&self, _span: &Id) {}
}

#[test]
fn a_subscriber_that_fails_keeps_nobody_from_an_arena() {
    own_process!();
    let (done, finished) = mpsc::channel();
    thread::spawn(move || {
        let told = tracing::subscriber::with_default(MakesAnArena, || {
            catch_unwind(AssertUnwindSafe(|| {
                Arena::new(more_than_all_hugepages()).expect("there is memory").stats().pages
            }))
        });
        done.send(told.ok()).expect("somebody waits");
    });
    let told = finished.recv_timeout(Duration::from_secs(10)).expect("it does not wait for itself");
    let pages = Arena::new(more_than_all_hugepages()).expect("there is memory").stats().pages;
    assert_eq!(pages, PageKind::Normal);
    assert_eq!(told, None, "the subscriber's panic is its caller's");
}
