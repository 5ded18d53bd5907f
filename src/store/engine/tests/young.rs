//! Trees that grow before any of their pages is durable: all of them have to become durable
//! together, in a group of bundles.

use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::rt;
use crate::store::pages::Temperature;

/// Whoever is told that there is no room has changed nothing: no page waits for a bundle that is
/// never written, and the log keeps all of them.
#[test]
fn a_group_that_lacks_a_segment_is_not_begun() {
    let world = World::new(7);
    let slow = MemoryOptions::disk(64 << 20).flush_latency(Duration::from_secs(10));
    let disk = Disk::new(slow, 1);
    world.core("core").block_on(async move {
        let store = reopen(&disk).await;
        put(&store, b"apple", b"5").await;
        let keeper = Rc::clone(&store);
        let checkpoint = rt::spawn(async move { keeper.checkpoint().await });
        // It waits for its first flush while the tree grows.
        rt::sleep(Duration::from_millis(100)).await;
        let first = put(&store, b"pear", b"7").await;
        for number in 0..1000_u32 {
            put(&store, &number.to_be_bytes(), &[7; 400]).await;
        }
        {
            let mut state = store.shared.state();
            while state.segments.free_count() > 1 {
                state.segments.open(Temperature::Cold).expect("it is free");
            }
        }
        let full = checkpoint.await.expect("it does not panic").expect_err("it takes more segments");
        assert_eq!(full.kind(), ErrorKind::NoSpace, "{full}");
        let state = store.shared.state();
        assert!(state.flusher.dirty_count() > 100, "it was the group that did not fit");
        assert_eq!(state.flusher.under_way_count(), 0);
        assert!(state.flusher.oldest().is_some_and(|oldest| oldest <= first));
        drop(state);
        assert_eq!(get(&store, b"pear").await.as_deref(), Some(&b"7"[..]));
    });
}
