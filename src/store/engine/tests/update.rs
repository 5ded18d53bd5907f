//! Reading and writing in one step.

use super::*;
use crate::store::engine::update::Decision;

const DURABILITY: Durability = Durability::None;

fn counter(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes(value.try_into().expect("a counter has 8 bytes")))
}

async fn add(store: &Store, key: &[u8]) -> u64 {
    let added = store.update(catalog(), key, DURABILITY, |found, value| {
        value.extend_from_slice(&(counter(found) + 1).to_le_bytes());
        Decision::Put
    });
    added.await.expect("no fault is injected").expect("it was written")
}

#[test]
fn an_update_sees_what_was_written_last() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let store = Rc::clone(&store);
                crate::rt::spawn(async move {
                    for round in 0..1000_u32 {
                        add(&store, &(round % 50).to_be_bytes()).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no task panics");
        }
        for key in 0..50_u32 {
            assert_eq!(counter(get(&store, &key.to_be_bytes()).await.as_deref()), 160);
        }
        store.close().await.expect("it closes");
    });
}

#[test]
fn what_a_delete_and_an_insert_say_is_so() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let (mut model, mut random) = (Model::new(), StdRng::seed_from_u64(8));
        for _ in 0..10_000 {
            let key = random.random_range(0..500_u32).to_be_bytes().to_vec();
            let value = vec![random.random_range(0..4); random.random_range(0..2)];
            match random.random_range(0..3) {
                0 => {
                    let was_there =
                        store.delete(catalog(), &key, DURABILITY).await.expect("it works").is_some();
                    assert_eq!(was_there, model.remove(&key).is_some());
                }
                1 => {
                    let inserted = store.insert_if_absent(catalog(), &key, &value, DURABILITY).await;
                    assert_eq!(inserted.expect("it works").is_some(), !model.contains_key(&key));
                    model.entry(key).or_insert(value);
                }
                _ => {
                    let expected = Some(vec![random.random_range(0..4); random.random_range(0..2)]);
                    let expected = expected.filter(|_| random.random());
                    let new = Some(value).filter(|_| random.random());
                    let swapped = store
                        .compare_and_swap(catalog(), &key, (expected.as_deref(), new.as_deref()), DURABILITY)
                        .await
                        .expect("it works");
                    let is_match = model.get(&key) == expected.as_ref();
                    assert_eq!(swapped.is_some(), is_match && (expected.is_some() || new.is_some()));
                    if is_match {
                        match new {
                            Some(new) => _ = model.insert(key, new),
                            None => _ = model.remove(&key),
                        }
                    }
                }
            }
        }
        check(&store, &model, 500).await;
        store.close().await.expect("it closes");
    });
}

/// What was in the log is brought over before it is read.
#[test]
fn an_update_sees_what_a_crash_has_left_in_the_log() {
    let world = World::new(12);
    let disk = Disk::new(MemoryOptions::disk(64 << 20), 1);
    let core = world.core("core");
    for round in 1..5 {
        core.block_on(async {
            let store = reopen(&disk).await;
            assert_eq!(store.shared.overlay.is_drained(), round == 1);
            let mut number = 0;
            for key in 0..400_u32 {
                number = add(&store, &key.to_be_bytes()).await;
                assert_eq!(counter(get(&store, &key.to_be_bytes()).await.as_deref()), round);
            }
            store.wait(number).await.expect("it is durable");
        });
        core.crash();
    }
}
