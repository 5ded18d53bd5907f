//! Pages that are packed, flushed while that goes on, and found after a crash.

use std::cell::Cell;

use super::*;
use crate::store::engine::counts::{Count, counted};

const KEYS: u32 = 12_000;

fn key(number: u32) -> [u8; 4] {
    number.wrapping_mul(0x9e37_79b9).to_be_bytes()
}

/// Nine of ten keys go, and the process dies after some of these deletes, while a checkpoint is
/// taken now and then. The store that comes back has what it should, and goes on to the end.
#[test]
fn a_crash_amid_packing_loses_no_key() {
    let packs = counted()[Count::Packs as usize];
    for stop in [2_000, 7_000, 9_500, 10_799] {
        let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
        let pages = Rc::new(Cell::new(0));
        let full = Rc::clone(&pages);
        a_life(&disk, async move |disk| {
            let store = reopen(&disk).await;
            let tree = store.open_tree("fruit", 0, Durability::None).await.expect("it works").0.root;
            for number in 0..KEYS {
                let put = store.put(tree, &key(number), &[7; 30], Durability::None).await;
                put.expect("no fault is injected");
            }
            store.checkpoint().await.expect("a checkpoint");
            full.set(store.verify(|_| {}).await.expect("it works").pages);
            let go = (0..KEYS).filter(|number| number % 10 > 0);
            let mut last = None;
            for (at, number) in go.take(stop).enumerate() {
                let deleted = store.write(tree, &key(number), Change::Delete, Durability::None).await;
                last = Some(deleted.expect("no fault is injected"));
                if at % 1500 == 0 {
                    store.checkpoint().await.expect("a checkpoint");
                }
            }
            store.wait(last.expect("some go")).await.expect("it is durable");
        });
        World::new(8).core("core").block_on(async {
            let store = reopen(&disk).await;
            let tree = store.open_tree("fruit", 0, Durability::None).await.expect("it works").0.root;
            let report = store.verify(|_| {}).await.expect("it works");
            assert_eq!((&report.damage[..], report.lost_pages), (&[][..], 0));
            assert_eq!(report.keys, u64::from(KEYS) - stop as u64);
            for number in (0..KEYS).filter(|number| number % 10 > 0) {
                let deleted = store.write(tree, &key(number), Change::Delete, Durability::None).await;
                deleted.expect("no fault is injected");
            }
            for number in 0..KEYS {
                let found = store.get(tree, &key(number), |value| value.len()).await.expect("it works");
                assert_eq!(found, (number % 10 == 0).then_some(30), "key {number}");
            }
            store.checkpoint().await.expect("a checkpoint");
            let report = store.verify(|_| {}).await.expect("it works");
            assert_eq!((&report.damage[..], report.lost_pages), (&[][..], 0));
            assert_eq!(report.keys, u64::from(KEYS / 10));
            let (left, full) = (report.pages, pages.get());
            assert!(left * 3 < full, "{left} pages of {full} are left");
            store.close().await.expect("it closes");
        });
    }
    assert!(counted()[Count::Packs as usize] > packs + 200);
}
