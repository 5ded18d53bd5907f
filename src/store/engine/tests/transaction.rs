//! Transactions: what they move between keys is in one of them, whoever looks, and after a crash.

use super::*;
use crate::error::{ErrorKind, Outcome};
use crate::store::btree::TreeRoot;
use crate::store::engine::transaction::Key;

const DURABILITY: Durability = Durability::None;
const ACCOUNTS: u32 = 3000;
const EACH: u64 = 1000;

fn amount(value: Option<&[u8]>) -> u64 {
    value.map_or(EACH, |value| u64::from_le_bytes(value[..8].try_into().expect("8 bytes")))
}

fn encode(amount: u64, random: &mut StdRng) -> Vec<u8> {
    let mut value = vec![7; random.random_range(8..400)];
    value[..8].copy_from_slice(&amount.to_le_bytes());
    value
}

async fn two_trees(store: &Store) -> [TreeRoot; 2] {
    let open = async |name| store.open_tree(name, 0, DURABILITY).await.expect("it works").0.root;
    [open("left").await, open("right").await]
}

/// Takes something from the first of some accounts, and gives it to the others. The write's number,
/// or 0 if that comes to nothing.
async fn transfer(store: &Store, trees: [TreeRoot; 2], random: &mut StdRng) -> u64 {
    let names: Vec<_> = (0..random.random_range(2..12))
        .map(|_| (trees[random.random_range(0..2)], random.random_range(0..ACCOUNTS).to_be_bytes()))
        .collect();
    let keys: Vec<Key<'_>> = names.iter().map(|(tree, key)| (*tree, &key[..])).collect();
    let done = store.transact(&keys, DURABILITY, |transaction| {
        for place in 1..transaction.len() {
            let taken = amount(transaction.get_at(0)).min(random.random_range(0..100));
            let left = amount(transaction.get_at(0)) - taken;
            transaction.put_at(0, &encode(left, random));
            let more = amount(transaction.get_at(place)) + taken;
            if more == EACH {
                transaction.delete_at(place);
            } else {
                transaction.put_at(place, &encode(more, random));
            }
        }
    });
    done.await.expect("no fault is injected").1.unwrap_or(0)
}

async fn total(store: &Store, trees: [TreeRoot; 2]) -> u64 {
    let mut total = 0;
    for tree in trees {
        for account in 0..ACCOUNTS {
            let key = account.to_be_bytes();
            total +=
                store.get(tree, &key, |value| amount(Some(value))).await.expect("it works").unwrap_or(EACH);
        }
    }
    total
}

#[test]
fn nothing_is_lost_between_tasks_of_a_core() {
    on_a_disk(128 << 20, async |disk| {
        let store = reopen(&disk).await;
        let trees = two_trees(&store).await;
        let tasks: Vec<_> = (0..6)
            .map(|seed| {
                let store = Rc::clone(&store);
                crate::rt::spawn(async move {
                    let mut random = StdRng::seed_from_u64(seed);
                    for _ in 0..200 {
                        transfer(&store, trees, &mut random).await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no task panics");
        }
        assert_eq!(total(&store, trees).await, u64::from(2 * ACCOUNTS) * EACH);
        store.close().await.expect("it closes");
    });
}

/// Each life ends with transactions that are in the log, in its buffers, and in pages. (It has
/// found that splits of before an opening were posted without the flusher's knowledge: a page
/// became durable two epochs ahead of its parent, and readers went round for ever.)
#[test]
fn a_crash_leaves_all_of_a_transaction_or_nothing() {
    let world = World::new(31);
    let disk = Disk::new(MemoryOptions::disk(128 << 20), 1);
    let core = world.core("core");
    let mut random = StdRng::seed_from_u64(9);
    for life in 0..8 {
        core.block_on(async {
            let store = reopen(&disk).await;
            let trees = two_trees(&store).await;
            assert_eq!(total(&store, trees).await, u64::from(2 * ACCOUNTS) * EACH, "life {life}");
            let mut last = 0;
            for _ in 0..400 {
                last = transfer(&store, trees, &mut random).await.max(last);
            }
            store.wait(last).await.expect("it is durable");
            for _ in 0..random.random_range(0..100) {
                transfer(&store, trees, &mut random).await;
            }
            if life % 3 == 2 {
                store.checkpoint().await.expect("it works");
            }
        });
        core.crash();
    }
}

#[test]
fn a_transaction_sees_what_it_has_written_and_may_take_it_back() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let [left, right] = two_trees(&store).await;
        let keys: [Key<'_>; 4] = [(left, b"a"), (right, b"a"), (left, b"a"), (left, b"b")];
        let (was_there, number) = store
            .transact(&keys, DURABILITY, |transaction| {
                assert_eq!(transaction.place_of(right.tree, b"a"), Some(1));
                assert_eq!(transaction.place_of(right.tree, b"b"), None);
                transaction.put_parts_at(0, &[b"on", b"e"]);
                transaction.put_at(1, b"two");
                assert_eq!(transaction.get_at(2), Some(&b"one"[..]), "it is the same key");
                assert_eq!(transaction.get_at(1), Some(&b"two"[..]));
                transaction.delete_at(3)
            })
            .await
            .expect("it works");
        assert!(!was_there && number.is_some());
        let read = async |tree| store.get(tree, b"a", <[u8]>::to_vec).await.expect("it works");
        assert_eq!(read(left).await.as_deref(), Some(&b"one"[..]));
        assert_eq!(read(right).await.as_deref(), Some(&b"two"[..]));
        let undone = store.transact(&keys, DURABILITY, |transaction| {
            assert!(transaction.delete_at(0) && !transaction.delete_at(2));
            transaction.discard();
        });
        assert_eq!(undone.await.expect("it works").1, None);
        // Together they are longer than a quarter of the log.
        let many: Vec<_> = (0..700_u32).map(u32::to_be_bytes).collect();
        let keys: Vec<Key<'_>> = many.iter().map(|key| (right, &key[..])).chain(keys).collect();
        let refused = store.transact(&keys, DURABILITY, |transaction| {
            (0..700).for_each(|place| transaction.put_at(place, &[0; 1008]));
            transaction.delete_at(700);
            transaction.put_at(703, &[0; 1008]);
        });
        let error = refused.await.expect_err("the changes are too long");
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::LimitReached, Outcome::NotStarted));
        assert_eq!(store.get(right, &many[0], <[u8]>::len).await.expect("it works"), None);
        assert_eq!(read(left).await.as_deref(), Some(&b"one"[..]), "nothing was changed");
    });
}

/// Many keys of the same leaves, which are split in the middle of the transaction.
#[test]
fn a_transaction_may_split_its_leaves() {
    on_a_disk(64 << 20, async |disk| {
        let store = reopen(&disk).await;
        let [left, right] = two_trees(&store).await;
        for round in 0..10_u32 {
            let names: Vec<_> = (0..150_u32).map(|at| (at * 10 + round).to_be_bytes()).collect();
            let in_tree = |tree| names.iter().map(move |key| (tree, &key[..]));
            let keys: Vec<Key<'_>> = in_tree(left).chain(in_tree(right)).collect();
            let done = store.transact(&keys, DURABILITY, |transaction| {
                (0..transaction.len()).for_each(|place| transaction.put_at(place, &[9; 100]));
            });
            done.await.expect("it works");
        }
        for tree in [left, right] {
            for key in 0..1500_u32 {
                let found = store.get(tree, &key.to_be_bytes(), <[u8]>::to_vec).await.expect("it works");
                assert_eq!(found, Some(vec![9; 100]));
            }
        }
        let names: Vec<_> = (0..1500_u32).map(u32::to_be_bytes).collect();
        let keys: Vec<Key<'_>> = names.iter().map(|key| (left, &key[..])).collect();
        let refused = store.transact(&keys, DURABILITY, |transaction| {
            (0..transaction.len()).for_each(|place| transaction.put_at(place, &[8; 900]));
        });
        refused.await.expect_err("no group is so long");
        let found = store.get(left, &names[0], <[u8]>::to_vec).await.expect("it works");
        assert_eq!(found, Some(vec![9; 100]), "nothing was changed");
        store.close().await.expect("it closes");
    });
}
