//! A file system below the store that becomes full, by the store or by others.

use super::*;
use crate::block::TrimLeaves;

const MIB: u64 = 1 << 20;

/// A file of this size, which may grow if `most` is more, on a file system of so many bytes.
fn file(size_bytes: u64, most: u64, file_system_bytes: u64) -> Disk {
    let options = MemoryOptions::disk(size_bytes)
        .max_size_bytes(most)
        .trim(TrimLeaves::Anything)
        .file_system_bytes(file_system_bytes);
    Disk::new(options, 1)
}

/// Others take all but so many bytes of what is left. What they have.
fn others_leave(disk: &Disk, bytes: u64) -> u64 {
    disk.others_have(0);
    let left = disk.others_have(u64::MAX);
    disk.others_have(left.saturating_sub(bytes))
}

impl Shape {
    async fn overwrite_all(&self, store: &Store, kept: &mut Kept) {
        let (keys, mut last): (Vec<u64>, _) = (kept.keys().copied().collect(), 0);
        for key in keys {
            last = self.overwrite(store, key, kept.get_mut(&key).expect("it is there")).await;
        }
        store.wait(last).await.expect("it is durable");
    }

    /// Deletes every `part`th key.
    async fn delete_some(&self, store: &Store, kept: &mut Kept, part: usize) {
        let mut last = 0;
        for key in kept.keys().copied().step_by(part).collect::<Vec<_>>() {
            last = self.delete(store, key).await;
            kept.remove(&key);
        }
        store.wait(last).await.expect("it is durable");
    }

    /// Deletes everything, and has that counted.
    async fn empty(&self, store: &Store, kept: &mut Kept) {
        self.delete_some(store, kept, 1).await;
        store.checkpoint().await.expect("a checkpoint");
        store.checkpoint().await.expect("one more, which trims");
    }
}

/// Filled to the end of its file system, overwritten, emptied while others take what it gives back,
/// filled again, and once more when others have given back; opened anew in each of these states.
fn on_a_full_file_system(disk: &Disk, (shape, left): (&Shape, u64), end: End) {
    let (mut kept, mut random) = (Kept::new(), StdRng::seed_from_u64(23));
    let (mut first, mut least, mut others) = (0.0, 0.0, 0);
    session(disk, end, shape, &mut kept, async |store, kept| {
        others = others_leave(disk, left);
        first = shape.fill(store, kept, &mut random).await;
        println!("{} entries, {first:.3} of the file", kept.len());
        shape.overwrite_all(store, kept).await;
        shape.assert_is_still_full(store).await;
    });
    others_leave(disk, 0);
    session(disk, end, shape, &mut kept, async |store, kept| {
        shape.assert_is_still_full(store).await;
        shape.overwrite_all(store, kept).await;
        shape.delete_some(store, kept, 2).await;
        others_leave(disk, 0);
        shape.overwrite_all(store, kept).await;
    });
    session(disk, end, shape, &mut kept, async |store, kept| {
        shape.empty(store, kept).await;
        println!("emptied, {} of it has others", disk.taken_bytes());
        others_leave(disk, 0);
        least = shape.fill(store, kept, &mut random).await;
        println!("{} entries, {least:.3} of the file", kept.len());
        shape.overwrite_all(store, kept).await;
    });
    assert!(0.0 < least && least < first + 0.02, "{least} {first}");
    session(disk, end, shape, &mut kept, async |store, kept| {
        shape.assert_is_still_full(store).await;
        shape.overwrite_all(store, kept).await;
        disk.others_have(others);
        crate::rt::sleep(Duration::from_secs(2)).await;
        let again = shape.fill(store, kept, &mut random).await;
        println!("{} entries, {again:.3} of the file", kept.len());
        assert!((again - first).abs() < 0.05, "{again} was {first} at first");
        shape.overwrite_all(store, kept).await;
    });
    session(disk, End::Closed, shape, &mut kept, async |store, kept| {
        shape.overwrite_all(store, kept).await;
        shape.empty(store, kept).await;
    });
}

#[test]
fn a_full_file_system_is_a_full_store() {
    for end in [End::Closed, End::Killed] {
        on_a_full_file_system(&file(16 * MIB, 16 * MIB, 8 * MIB), (&Shape::USUAL, 8 * MIB), end);
    }
}

#[test]
fn a_full_file_system_below_a_file_that_grows_is_a_full_store() {
    let disk = file(0, 1 << 30, 100 * MIB);
    on_a_full_file_system(&disk, (&Shape::LONG, 18 * MIB), End::Killed);
}

/// Others take and give back at any time, and processes end at any time.
#[test]
fn others_fill_and_empty_the_file_system_at_any_time() {
    let disk = file(16 * MIB, 16 * MIB, 16 * MIB);
    let (shape, mut kept, mut random) = (Shape::LONG, Kept::new(), StdRng::seed_from_u64(29));
    for round in 0..6 {
        let end = if round % 3 == 2 { End::Closed } else { End::Killed };
        session(&disk, end, &shape, &mut kept, async |store, kept| {
            if round == 0 {
                // It is not young any more.
                store.give_room().await.expect("no fault is injected");
            }
            for _ in 0..3 {
                others_leave(&disk, random.random_range(0..4) * MIB);
                match random.random_range(0..4) {
                    0 => shape.overwrite_all(store, kept).await,
                    1 => shape.delete_some(store, kept, 3).await,
                    2 => shape.empty(store, kept).await,
                    _ => {
                        let share = shape.fill(store, kept, &mut random).await;
                        println!("round {round}: {share:.3}");
                    }
                }
            }
            let last = shape.delete(store, 1 << 41).await;
            store.wait(last).await.expect("it is durable");
        });
    }
}

/// Before it has got its reserve.
#[test]
fn a_young_store_on_a_full_file_system_can_be_read_and_goes_on_later() {
    let disk = file(0, 1 << 30, 100 * MIB);
    let (shape, mut kept, mut random) = (Shape::USUAL, Kept::new(), StdRng::seed_from_u64(31));
    session(&disk, End::Killed, &shape, &mut kept, async |store, kept| {
        others_leave(&disk, 0);
        shape.fill(store, kept, &mut random).await;
        let last = shape.delete(store, 1 << 41).await;
        store.wait(last).await.expect("it is durable");
        println!("{} entries", kept.len());
        assert!(kept.len() > 100, "{}", kept.len());
    });
    session(&disk, End::Closed, &shape, &mut kept, async |store, kept| {
        // It takes some, and then nothing, and does not fail.
        let keys: Vec<u64> = kept.keys().copied().collect();
        let mut refused = 0;
        for round in 1..20 {
            for key in &keys {
                let (version, len) = kept.get_mut(key).expect("it is there");
                match shape.put(store, *key, round, *len).await {
                    Ok(_) => *version = round,
                    Err(error) => {
                        assert_is_full(&error);
                        refused += 1;
                    }
                }
            }
        }
        println!("{refused} refused");
        shape.check(store, kept).await;
        disk.others_have(0);
        crate::rt::sleep(Duration::from_secs(3)).await;
        shape.overwrite_all(store, kept).await;
        for key in 0..3_000 {
            shape.put(store, key, 0, 1000).await.expect("there is room");
            kept.insert(key, (0, 1000));
        }
    });
    session(&disk, End::Closed, &shape, &mut kept, async |_, _| {});
}

#[test]
fn a_fresh_file_takes_little() {
    let (disk, shape, mut kept) = (file(0, 1 << 30, 1 << 30), Shape::USUAL, Kept::new());
    session(&disk, End::Closed, &shape, &mut kept, async |store, kept| {
        for key in 0..100 {
            shape.put(store, key, 0, 800).await.expect("there is room");
            kept.insert(key, (0, 800));
        }
        store.checkpoint().await.expect("a checkpoint");
        assert!(disk.taken_bytes() < 8 * MIB, "{}", disk.taken_bytes());
    });
    session(&disk, End::Closed, &shape, &mut kept, async |store, kept| {
        shape.overwrite_all(store, kept).await;
    });
    assert!(disk.taken_bytes() < 12 * MIB, "{}", disk.taken_bytes());
}

#[test]
fn an_emptied_file_gives_back() {
    let (disk, shape, mut kept) = (file(16 * MIB, 16 * MIB, 1 << 30), Shape::USUAL, Kept::new());
    session(&disk, End::Closed, &shape, &mut kept, async |store, _| {
        for key in 0..40_u64 {
            let value = value_of(key, 0, 200_000);
            store.put(catalog(), &key.to_be_bytes(), &value, Durability::None).await.expect("room");
        }
        store.checkpoint().await.expect("a checkpoint");
        assert!(disk.taken_bytes() > 12 * MIB, "{}", disk.taken_bytes());
        for key in 0..40_u64 {
            store.delete(catalog(), &key.to_be_bytes(), Durability::None).await.expect("a delete");
        }
        store.wait_until_reclaimed().await.expect("it takes writes");
        for _ in 0..3 {
            store.checkpoint().await.expect("a checkpoint");
        }
        println!("{} bytes", disk.taken_bytes());
        assert!(disk.taken_bytes() < 11 * MIB, "{}", disk.taken_bytes());
    });
}
