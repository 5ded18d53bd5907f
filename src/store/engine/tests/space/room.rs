//! What cleaning takes of a full store, and what it leaves to others.

use super::*;
use crate::store::engine::clean::Cleaned;
use crate::store::wal::Leader;

/// How far the log is: its next batch.
async fn next_batch(store: &Store) -> u64 {
    store.log.shared().with_leader(|leader: &mut Leader| leader.position()).await.batch
}

/// Fills a store, and overwrites half of it in no order, so that there is something to clean, and
/// nothing to write.
async fn fill_and_overwrite(store: &Store, kept: &mut Kept, random: &mut StdRng) {
    Shape::USUAL.fill(store, kept, random).await;
    let mut keys: Vec<u64> = kept.keys().copied().collect();
    keys.shuffle(random);
    for key in &keys[..keys.len() / 2] {
        Shape::USUAL.overwrite(store, *key, kept.get_mut(key).expect("it is there")).await;
    }
    store.checkpoint().await.expect("there is room for a checkpoint");
}

/// If each move had a batch of the log, cleaning for all that is dirty would need more of the log
/// than there is, and take the segments that a checkpoint needs.
#[test]
fn cleaning_makes_the_log_no_longer_and_leaves_segments_to_others() {
    let disk = Disk::new(MemoryOptions::disk(10 << 20), 1);
    let (mut kept, mut random) = (Kept::new(), StdRng::seed_from_u64(18));
    session(&disk, End::Killed, &Shape::USUAL, &mut kept, async |store, kept| {
        fill_and_overwrite(store, kept, &mut random).await;
        let (batch, before) = (next_batch(store).await, moves());
        let clean = async |is_urgent| {
            let mut steps = 0;
            while store.clean_step(is_urgent).await.expect("no fault is injected") != Cleaned::Nothing {
                steps += 1;
                assert!(steps < 10_000, "there is no end to it");
            }
            steps
        };
        // What is owed leaves what a bundle and cleaning for it may need.
        let owed = clean(false).await;
        assert!(store.has_segments(4), "{:?} are free", store.free_segments());
        let urgent = clean(true).await;
        let (free, map) = store.free_segments();
        println!("{owed} steps and {urgent}, {} moves, {free} are free", moves() - before);
        assert!(free >= map && urgent > 0 && moves() - before > 4, "{free} {map} {urgent}");
        // What was written before may be in one or two.
        let batches = next_batch(store).await - batch;
        assert!(batches <= 2, "the log names moves: {batches} batches");
        assert!(store.make_room(2).await.expect("no fault is injected"));
        Shape::USUAL.check(store, kept).await;
    });
    // What the last checkpoint does not know is where it was.
    session(&disk, End::Closed, &Shape::USUAL, &mut kept, async |_, _| {});
}
