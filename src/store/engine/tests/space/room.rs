//! What cleaning takes of a full store, and what it leaves to others.

use super::*;
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
    let (mut kept, mut random) = (Kept::new(), StdRng::seed_from_u64(19));
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

async fn put(store: &Store, key: u64, len: usize) -> Result<u64> {
    store.put(catalog(), &key.to_be_bytes(), &value_of(key, 0, len), Durability::None).await
}

/// Half of the values between which a long one then finds its room go.
#[test]
fn a_small_store_takes_well_over_half_of_its_size_in_long_values() {
    let (disk, mut kept) = (Disk::new(MemoryOptions::disk(16 << 20), 1), Kept::new());
    session(&disk, End::Closed, &Shape::USUAL, &mut kept, async |store, kept| {
        for key in 0..600 {
            put(store, key, 12_000).await.expect("there is room");
            kept.insert(key, (0, 12_000));
        }
        for key in (0..600_u64).step_by(2) {
            store.delete(catalog(), &key.to_be_bytes(), Durability::None).await.expect("a delete");
            kept.remove(&key);
        }
        put(store, 600, 4_500_000).await.expect("there is room for it");
        kept.insert(600, (0, 4_500_000));
        // More of the short ones, up to the end.
        for key in 601.. {
            match put(store, key, 12_000).await {
                Ok(_) => _ = kept.insert(key, (0, 12_000)),
                Err(error) => {
                    assert_is_full(&error);
                    break;
                }
            }
        }
        let bytes: usize = kept.values().map(|(_, len)| len).sum();
        println!("{bytes} bytes, {:.3} of the device", bytes as f64 / (16 << 20) as f64);
        assert!(bytes > (16 << 20) / 100 * 52, "{bytes}");
        // And these once more. (For both the long one and another one as long there is no room.)
        for (key, (_, len)) in kept.iter().filter(|(_, (_, len))| *len == 12_000) {
            put(store, *key, *len).await.expect("it is as long as the one before");
        }
    });
    session(&disk, End::Closed, &Shape::USUAL, &mut kept, async |_, _| {});
}

/// Large blocks leave room in small segments for little but the end of each bundle.
#[test]
fn a_store_of_the_largest_blocks_takes_much_of_its_size() {
    for (mib, block) in [(64, 65536), (64, 16384), (24, 16384)] {
        let options = MemoryOptions::disk(mib << 20).block_size_bytes(block);
        let (disk, mut kept) = (Disk::new(options, 1), Kept::new());
        session(&disk, End::Closed, &Shape::USUAL, &mut kept, async |store, kept| {
            for key in 0.. {
                match put(store, key, 50_000).await {
                    Ok(_) => _ = kept.insert(key, (0, 50_000)),
                    Err(error) => {
                        assert_is_full(&error);
                        break;
                    }
                }
            }
            let bytes: usize = kept.values().map(|(_, len)| len).sum();
            println!("{bytes} bytes, {:.3} of {mib} MiB", bytes as f64 / (mib << 20) as f64);
            assert!(bytes as u64 > (mib << 20) / 100 * 38, "{bytes}");
            for (key, (_, len)) in &*kept {
                put(store, *key, *len).await.expect("it is as long as the one before");
            }
        });
        session(&disk, End::Closed, &Shape::USUAL, &mut kept, async |_, _| {});
    }
}

/// A value for which the namespace has to grow by several portions, and which is longer than all
/// that is free when others are deleted: nobody tries to move it.
#[test]
fn a_value_of_several_portions_lets_the_namespace_grow_and_is_left_alone() {
    const LEN: usize = 60 << 20;
    let disk = Disk::new(MemoryOptions::disk(8 << 20).max_size_bytes(1 << 30), 1);
    World::new(7).core("core").block_on(async {
        let store = Shape::USUAL.open(&disk).await;
        // Nothing was written yet: what there is of the account is exact.
        put(&store, 0, LEN).await.expect("the namespace grows");
        for key in 1..10 {
            put(&store, key, 200_000).await.expect("there is room");
        }
        assert!(store.namespace.size_bytes() > 72 << 20, "{}", store.namespace.size_bytes());
        for key in 1..10_u64 {
            store.delete(catalog(), &key.to_be_bytes(), Durability::None).await.expect("a delete");
        }
        store.wait_until_reclaimed().await.expect("it takes writes");
        crate::rt::sleep(Duration::from_secs(2)).await;
        let before = counted();
        crate::rt::sleep(Duration::from_secs(20)).await;
        let written = [Count::Bundles, Count::Moves, Count::Checkpoints].map(|what| what as usize);
        assert_eq!(
            written.map(|what| counted()[what]),
            written.map(|what| before[what]),
            "something goes on"
        );
        assert_eq!(get(&store, &0_u64.to_be_bytes()).await, Some(value_of(0, 0, LEN)));
        store.close().await.expect("it closes");
    });
}
