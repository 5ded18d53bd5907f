//! How many keys each tree has: as many as a model says, after everything that may come between.

use std::cell::RefCell;
use std::time::Duration;

use super::*;
use crate::store::btree::TreeRoot;
use crate::store::engine::defect::{Defects, EngineDefect};
use crate::store::engine::lengths::Cut;
use crate::store::engine::transaction::Key;
use crate::store::pages::TreeLengths;

const KEYS: u32 = 300;
const NAMES: [&str; 2] = ["left", "right"];

/// What two trees have to have.
#[derive(Clone, Default)]
struct Trees([Model; 2]);

async fn roots(store: &Store) -> [TreeRoot; 2] {
    let mut roots = [catalog(); 2];
    for (root, name) in roots.iter_mut().zip(NAMES) {
        *root = store.open_tree(name, 0, Durability::None).await.expect("it works").0.root;
    }
    roots
}

fn has_lengths_of(store: &Store, roots: [TreeRoot; 2], trees: &Trees) {
    let found = roots.map(|root| store.len(root.tree));
    assert_eq!(found, trees.0.each_ref().map(|model| model.len() as u64));
    assert_eq!(store.len(0), 2, "the catalog has the names");
    assert_eq!(store.len(99), 0, "there is no such tree");
}

fn key(random: &mut StdRng) -> Vec<u8> {
    random.random_range(0..KEYS).to_be_bytes().to_vec()
}

fn value(random: &mut StdRng) -> Vec<u8> {
    // Some are long, and become transactions of one key.
    let longest = [2, 2, 2, 300, 3000][random.random_range(0..5)];
    vec![random.random_range(0..3); random.random_range(0..longest)]
}

/// One write of some kind. Its number, if there was one.
async fn write(store: &Store, roots: [TreeRoot; 2], trees: &mut Trees, random: &mut StdRng) -> Option<u64> {
    let at = random.random_range(0..2);
    let (root, key, value) = (roots[at], key(random), value(random));
    let model = &mut trees.0[at];
    let durability = Durability::None;
    match random.random_range(0..5) {
        0 => {
            model.insert(key.clone(), value.clone());
            Some(store.put(root, &key, &value, durability).await.expect("it works"))
        }
        1 => {
            model.remove(&key);
            store.delete(root, &key, durability).await.expect("it works")
        }
        2 => {
            model.entry(key.clone()).or_insert_with(|| value.clone());
            store.insert_if_absent(root, &key, &value, durability).await.expect("it works")
        }
        3 => {
            let expected = model.get(&key).cloned().filter(|_| random.random_ratio(4, 5));
            let new = Some(value).filter(|_| random.random());
            if model.get(&key) == expected.as_ref() {
                match &new {
                    Some(new) => drop(model.insert(key.clone(), new.clone())),
                    None => drop(model.remove(&key)),
                }
            }
            let swap = (expected.as_deref(), new.as_deref());
            store.compare_and_swap(root, &key, swap, durability).await.expect("it works")
        }
        _ => transact(store, roots, trees, random).await,
    }
}

/// Puts, deletes, and takes back, in both trees; some keys twice.
async fn transact(
    store: &Store,
    roots: [TreeRoot; 2],
    trees: &mut Trees,
    random: &mut StdRng,
) -> Option<u64> {
    let steps: Vec<_> = (0..random.random_range(1..8))
        .map(|_| {
            let value = value(random);
            (random.random_range(0..2), key(random), Some(value).filter(|_| random.random()))
        })
        .collect();
    let is_discarded = random.random_ratio(1, 8);
    if !is_discarded {
        for (at, key, value) in &steps {
            match value {
                Some(value) => drop(trees.0[*at].insert(key.clone(), value.clone())),
                None => drop(trees.0[*at].remove(key)),
            }
        }
    }
    let keys: Vec<Key<'_>> = steps.iter().map(|(at, key, _)| (roots[*at], &key[..])).collect();
    let run = store.transact(&keys, Durability::None, |all| {
        for (place, (_, _, value)) in steps.iter().enumerate() {
            match value {
                Some(value) => all.put_at(place, value),
                None => _ = all.delete_at(place),
            }
        }
        if is_discarded {
            all.discard();
        }
    });
    run.await.expect("it works").1
}

/// The lengths that the newest superblock has.
fn stored(store: &Store) -> (u64, bool) {
    let superblock = store.shared.state().superblock;
    assert!(superblock.log.first_write <= superblock.lengths_at);
    (superblock.lengths_at, superblock.lengths.is_some())
}

#[test]
fn a_tree_has_as_many_keys_as_its_model_over_openings() {
    on_a_disk(64 << 20, async |disk| {
        let (mut trees, mut random) = (Trees::default(), StdRng::seed_from_u64(5));
        for round in 0..6 {
            let store = reopen(&disk).await;
            let roots = roots(&store).await;
            has_lengths_of(&store, roots, &trees);
            for step in 0..1500 {
                write(&store, roots, &mut trees, &mut random).await;
                has_lengths_of(&store, roots, &trees);
                if round % 2 == 0 && step % 400 == 399 {
                    store.checkpoint().await.expect("a checkpoint");
                    has_lengths_of(&store, roots, &trees);
                    assert!(stored(&store).1);
                }
            }
            store.close().await.expect("it closes");
            has_lengths_of(&store, roots, &trees);
            assert_eq!(stored(&store), (store.log.log().next_number(), true));
        }
        // All keys go, and the page of lengths has only the catalog's.
        let store = reopen(&disk).await;
        let roots = roots(&store).await;
        for (root, model) in roots.iter().zip(&trees.0) {
            for key in model.keys() {
                store.delete(*root, key, Durability::None).await.expect("it works").expect("it was there");
            }
        }
        has_lengths_of(&store, roots, &Trees::default());
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        has_lengths_of(&store, roots, &Trees::default());
        let expected: TreeLengths = vec![(0, 2)];
        let number = store.shared.state().superblock.lengths_at;
        assert!(store.shared.lengths.are_stored(&Cut { number, lengths: expected }));
    });
}

/// Writes by their numbers: of which tree, of which key, and whether the key is there now.
type History = BTreeMap<u64, (usize, Vec<u8>, bool)>;

/// Cores write, with checkpoints in between, then the power fails, and what is left has the lengths
/// of what was written below some number. How many lives had a checkpoint with a later cut.
fn crashes(cores: usize, disk_options: &MemoryOptions, longest: Duration, seeds: u64) -> u32 {
    let mut moved = 0;
    for seed in 0..seeds {
        let disk = Disk::new(disk_options.clone(), seed);
        let mut random = StdRng::seed_from_u64(seed);
        let mut base = Trees::default();
        let history = Rc::new(RefCell::new(History::new()));
        for life in 0..5 {
            let world = World::new(random.random());
            let virtual_cores: Vec<_> = (0..cores).map(|core| world.core(&format!("core {core}"))).collect();
            let on = disk.attach_again();
            let store = virtual_cores[0].block_on(async move { reopen(&on).await });
            let next = store.log.log().next_number();
            for (_, (tree, key, is_put)) in std::mem::take(&mut *history.borrow_mut()).range(..next) {
                let model = &mut base.0[*tree];
                if *is_put { drop(model.insert(key.clone(), Vec::new())) } else { drop(model.remove(key)) }
            }
            let (now, opened, what) = (base.clone(), Rc::clone(&store), format!("seed {seed} life {life}"));
            virtual_cores[0].block_on(async move {
                println!("{what}: numbers below {next} are left");
                has_lengths_of(&opened, roots(&opened).await, &now);
            });
            let opened_at = stored(&store).0;
            for core in &virtual_cores {
                let (store, on, history) = (Rc::clone(&store), disk.attach_again(), Rc::clone(&history));
                let (seed, is_first) = (random.random(), core.name() == "core 0");
                drop(core.spawn(async move {
                    let store = if is_first {
                        store
                    } else {
                        CoreStore::attach(&store.shared, RtEnv, on).expect("two are not many")
                    };
                    writer(&store, &history, longest / 30, seed).await;
                }));
            }
            let (asked, seed) = (Rc::clone(&store), random.random());
            drop(virtual_cores[0].spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                loop {
                    crate::rt::sleep(longest.mul_f64(random.random_range(0.0..0.1))).await;
                    asked.checkpoint().await.expect("a checkpoint");
                }
            }));
            world.run_for(longest.mul_f64(random.random_range(0.0..1.0)));
            moved += u32::from(stored(&store).0 > opened_at);
            drop(store);
            disk.power_loss();
            virtual_cores.iter().for_each(crate::sim::VirtualCore::crash);
        }
    }
    moved
}

async fn writer(store: &Store, history: &RefCell<History>, rest: Duration, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let roots = roots(store).await;
    loop {
        let (tree, key, is_put) = (random.random_range(0..2), key(&mut random), random.random());
        let number = if is_put {
            Some(store.put(roots[tree], &key, &[1; 8], Durability::None).await.expect("it works"))
        } else {
            store.delete(roots[tree], &key, Durability::None).await.expect("it works")
        };
        if let Some(number) = number {
            history.borrow_mut().insert(number, (tree, key, is_put));
        }
        if random.random_ratio(1, 8) {
            crate::rt::sleep(rest.mul_f64(random.random_range(0.0..1.0))).await;
        }
    }
}

fn disk() -> MemoryOptions {
    MemoryOptions::disk(64 << 20).volatile_cache(true)
}

#[test]
fn a_crash_leaves_exact_lengths() {
    let moved = crashes(1, &disk(), Duration::from_millis(60), 12);
    assert!(moved > 20, "{moved} of 60 lives had a later cut");
}

#[test]
fn a_crash_of_two_cores_leaves_exact_lengths() {
    let moved = crashes(2, &disk(), Duration::from_millis(60), 12);
    assert!(moved > 20, "{moved} of 60 lives had a later cut");
}

/// The log takes longer than a checkpoint waits for it: the cut before counts.
#[test]
fn a_log_that_is_slow_leaves_exact_lengths() {
    let slow = disk().write_latency(Duration::from_millis(70)).flush_latency(Duration::from_millis(70));
    let moved = crashes(2, &slow, Duration::from_secs(6), 6);
    assert!(moved > 8, "{moved} of 30 lives had a later cut");
}

fn is_noticed(defect: EngineDefect) {
    Defects { engine: Some(defect), ..Defects::default() }.set();
    let ran = std::panic::catch_unwind(|| crashes(2, &disk(), Duration::from_millis(60), 12));
    Defects::default().set();
    assert!(ran.is_err(), "{defect:?} was not noticed");
}

#[test]
fn a_cut_that_is_not_waited_for_is_noticed() {
    is_noticed(EngineDefect::CutNotWaitedFor);
}

#[test]
fn effects_that_are_counted_twice_are_noticed() {
    is_noticed(EngineDefect::EffectsCountedTwice);
}

#[test]
fn a_log_that_starts_behind_the_cut_is_noticed() {
    is_noticed(EngineDefect::LogStartPassesCut);
}
