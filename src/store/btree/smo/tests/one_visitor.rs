//! One visitor at a time.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::page::{Body, ChildWord, Epoch, PageId};
use super::audit::{check, finish, get, scan_down, write};
use super::model::{Key, Memory};

type Big = Memory<'static, 16, 16>;
const IDS: usize = 40_000;

fn pages_in_use(tree: &Big) -> usize {
    tree.words.borrow().iter().filter(|page| page.body != Body::Free).count()
}

#[test]
fn deleted_keys_leave_no_pages() {
    const KEYS: Key = 200_000;
    let tree = Big::new(IDS);
    let mut truth = BTreeMap::new();
    // Each key once, out of order: 7,777 and 200,000 have no common factor.
    for key in (0..KEYS).map(|at| at * 7_777 % KEYS) {
        write(&tree, key, Some(key + 1));
        truth.insert(key, key + 1);
    }
    assert_eq!(get(&tree, 4_711), Some(4_712));
    assert!(pages_in_use(&tree) > 12_500);
    finish(&tree).expect("everything is visited");
    check(&tree, IDS, &[], &truth).expect("as it should be");
    let full = pages_in_use(&tree);
    for key in (0..KEYS).map(|at| at * 3_331 % KEYS).filter(|key| key % 10 > 0) {
        write(&tree, key, None);
    }
    truth.retain(|key, _| key % 10 == 0);
    let left = pages_in_use(&tree);
    assert!(left * 4 < full, "{left} pages of {full} are left");
    assert!(scan_down(&tree).into_iter().rev().eq(truth));
    for key in (0..KEYS).map(|at| at * 3_331 % KEYS) {
        write(&tree, key, None);
    }
    finish(&tree).expect("everything is visited");
    check(&tree, IDS, &[], &BTreeMap::new()).expect("as it should be");
    assert_eq!(pages_in_use(&tree), 1, "the root is an empty leaf again");
}

#[test]
fn random_writes_are_those_of_a_map() {
    for seed in 0..30 {
        let mut random = StdRng::seed_from_u64(seed);
        let tree = Memory::<3, 4>::new(400);
        let mut truth = BTreeMap::new();
        for _ in 0..1_500 {
            let key = random.random_range(0..300);
            // Now mostly growing, then mostly shrinking.
            let put = random.random_bool(if truth.len() < 150 { 0.6 } else { 0.3 });
            let value = put.then(|| random.random_range(0..100));
            write(&tree, key, value);
            match value {
                Some(value) => truth.insert(key, value),
                None => truth.remove(&key),
            };
            assert_eq!(get(&tree, key), value, "seed {seed}");
        }
        finish(&tree).expect("everything is visited");
        check(&tree, 400, &[], &truth).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        let backwards = scan_down(&tree);
        assert!(backwards.into_iter().rev().eq(truth), "seed {seed}");
    }
}

#[test]
fn a_child_word_keeps_id_and_epoch() {
    let last = PageId::of_test((1 << 40) - 1);
    let before_wrap = Epoch::FIRST.before();
    let word = ChildWord::new(last, before_wrap);
    assert_eq!((word.id(), word.epoch()), (last, before_wrap));
    assert_eq!(before_wrap.next(), Epoch::FIRST);
}

#[test]
#[cfg(not(shuttle))]
fn threads_of_the_machine_agree() {
    use super::threads::{COLLAPSE, PACK, SPLIT_AND_REMOVE, Small, run};
    for program in [SPLIT_AND_REMOVE, COLLAPSE, PACK] {
        for _ in 0..10 {
            run(Small::new(64, 200_000, None), program, 100);
        }
    }
}
