//! Any log over any trees: the overlay and the trees together say what the trees would after all of
//! it, for reads and scans, whatever is drained and written meanwhile.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Logged {
    Put(Key, Vec<u8>, Option<u64>),
    Reference(Key, u8),
    Delete(Key),
    Range(Key, Key),
    Create,
    Remove,
    Clear,
    Install,
}

#[derive(Clone, Debug)]
enum Step {
    /// Claims so many keys, as the background task does.
    Take(usize),
    /// Claims one key.
    Claim(Key),
    /// Ends the oldest claim: with the key in the tree, or not.
    Finish,
    Drop,
    Write(Key, Option<Vec<u8>>),
    Range(usize),
    Scan(Bound<Key>, Bound<Key>, bool, usize),
    Clear,
}

fn any_key() -> impl Strategy<Value = Key> {
    // Few keys, of which many begin with the same 9 bytes, and some are their prefixes.
    let end = vec(prop::sample::select(vec![0_u8, b'a', b'b', 0xff]), 0..4);
    prop_oneof![
        1 => end.clone(),
        4 => end.prop_map(|end| [b"prefix-of", end.as_slice()].concat()),
        1 => Just(b"prefix".to_vec()),
    ]
}

fn any_bound() -> impl Strategy<Value = Bound<Key>> {
    prop_oneof![
        Just(Bound::Unbounded),
        any_key().prop_map(Bound::Included),
        any_key().prop_map(Bound::Excluded),
    ]
}

fn any_logged() -> impl Strategy<Value = Logged> {
    prop_oneof![
        12 => (any_key(), vec(any::<u8>(), 0..5), option::of(0_u64..9)).prop_map(|(k, v, e)| Logged::Put(k, v, e)),
        2 => (any_key(), any::<u8>()).prop_map(|(key, reference)| Logged::Reference(key, reference)),
        6 => any_key().prop_map(Logged::Delete),
        2 => (any_key(), any_key()).prop_map(|(from, to)| Logged::Range(from, to)),
        1 => prop_oneof![Just(Logged::Create), Just(Logged::Remove), Just(Logged::Clear), Just(Logged::Install)],
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..4).prop_map(Step::Take),
        4 => any_key().prop_map(Step::Claim),
        6 => Just(Step::Finish),
        1 => Just(Step::Drop),
        4 => (any_key(), option::of(vec(any::<u8>(), 0..5))).prop_map(|(key, value)| Step::Write(key, value)),
        2 => (0_usize..4).prop_map(Step::Range),
        4 => (any_bound(), any_bound(), any::<bool>(), 1_usize..6)
            .prop_map(|(from, to, forwards, limit)| Step::Scan(from, to, forwards, limit)),
        1 => Just(Step::Clear),
    ]
}

fn any_content() -> impl Strategy<Value = Content> {
    let value = vec(any::<u8>(), 0..5).prop_map(|value| Value::Put(value, None));
    prop::collection::btree_map(any_key(), value, 0..20)
}

/// A tree: its root, what its pages have, and what it has after the log.
#[derive(Debug)]
struct Modelled {
    root: u64,
    pages: Content,
    newest: Content,
}

/// Applies what was logged to the trees, as the writer of the log did, and to a builder.
fn log(
    trees: &mut BTreeMap<u32, Modelled>,
    builder: &mut Builder,
    number: u64,
    (tree, logged): &(u32, Logged),
    installed: &Content,
) {
    let (tree, root, effect) = (*tree, 1000 + number, Effect::None);
    let anew = |content: &Content| Modelled { root, pages: content.clone(), newest: content.clone() };
    let operation = match logged {
        Logged::Create => {
            trees.entry(tree).or_insert_with(|| anew(&Content::new()));
            if trees[&tree].root != root {
                return;
            }
            Operation::CreateTree { tree, root, options: 0, name: "tree" }
        }
        _ if !trees.contains_key(&tree) => return,
        Logged::Put(key, value, expiry) => Operation::Put { tree, effect, expiry: *expiry, key, value },
        Logged::Reference(key, byte) => {
            Operation::PutReference { tree, effect, expiry: None, reference: [*byte; 24], key }
        }
        Logged::Delete(key) => Operation::Delete { tree, effect, key },
        Logged::Range(from, to) => Operation::DeleteRange { tree, from, to },
        Logged::Remove => Operation::RemoveTree { tree },
        Logged::Clear => Operation::ClearTree { tree, root },
        Logged::Install => Operation::InstallTree { tree, root },
    };
    builder.add(number, &operation);
    let newest = &mut trees.get_mut(&tree).expect("it exists").newest;
    match operation {
        Operation::Put { key, value, expiry, .. } => {
            newest.insert(key.into(), Value::Put(value.into(), expiry));
        }
        Operation::PutReference { key, reference, .. } => {
            newest.insert(key.into(), Value::Reference(reference, None));
        }
        Operation::Delete { key, .. } => set(newest, key, None),
        Operation::DeleteRange { from, to, .. } => {
            newest.retain(|key, _| **key < *from || !to.is_empty() && **key >= *to);
        }
        Operation::RemoveTree { .. } => drop(trees.remove(&tree)),
        Operation::ClearTree { .. } => drop(trees.insert(tree, anew(&Content::new()))),
        Operation::InstallTree { .. } => drop(trees.insert(tree, anew(installed))),
        _ => {}
    }
}

/// A store as it is opened, and what it has to say.
fn opened(
    contents: &[Content],
    operations: &[(u32, Logged)],
    installed: &Content,
) -> (Store, BTreeMap<u32, Content>) {
    let mut trees: BTreeMap<u32, Modelled> = (0..)
        .zip(contents)
        .map(|(tree, content)| {
            (tree, Modelled { root: u64::from(tree), pages: content.clone(), newest: content.clone() })
        })
        .collect();
    let mut builder = Builder::new(9, 0);
    for (number, operation) in (1..).zip(operations) {
        // Some operations are in one record.
        log(&mut trees, &mut builder, number / 2 * 2, operation, installed);
    }
    let overlay = builder.finish(|tree| trees.get(&tree).map(|modelled| modelled.root));
    let mut expected = BTreeMap::new();
    let trees = trees.into_iter().map(|(tree, modelled)| {
        expected.insert(tree, modelled.newest);
        (tree, (modelled.root, Mutex::new(modelled.pages)))
    });
    let trees = trees.collect();
    (Store { overlay, trees }, expected)
}

fn check(store: &Store, expected: &BTreeMap<u32, Content>) {
    let all = (Bound::Unbounded, Bound::Unbounded);
    for (tree, content) in expected {
        let forwards = store.scan(*tree, all, Direction::Forwards, 3);
        assert_eq!(forwards, content.clone().into_iter().collect::<Vec<_>>(), "tree {tree}");
        let backwards = store.scan(*tree, all, Direction::Backwards, 2);
        assert!(backwards.iter().eq(forwards.iter().rev()), "tree {tree}: {backwards:?}");
        let keys = expected.values().flat_map(BTreeMap::keys);
        for key in keys {
            assert_eq!(store.read(*tree, key).as_ref(), content.get(key), "tree {tree}, {key:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_overlay_over_the_trees_is_what_the_log_made_of_them(
        contents in vec(any_content(), 3),
        operations in vec((0_u32..5, any_logged()), 0..60),
        installed in any_content(),
        steps in vec((0_u32..5, any_step()), 0..60),
    ) {
        let (mut store, mut expected) = opened(&contents, &operations, &installed);
        check(&store, &expected);
        let mut hand = Hand::default();
        let mut retired = Vec::new();
        for (tree, step) in &steps {
            let tree = *tree;
            if !store.trees.contains_key(&tree) {
                continue;
            }
            run(&mut store, &mut expected, &mut hand, &mut retired, tree, step);
            check(&store, &expected);
        }
        for tree in retired {
            store.overlay.retire(tree);
        }
        store.drain();
        check(&store, &expected);
        for (tree, (_, content)) in &store.trees {
            prop_assert_eq!(&*content.lock().expect("no panic"), &expected[tree]);
        }
    }
}

fn run(
    store: &mut Store,
    expected: &mut BTreeMap<u32, Content>,
    hand: &mut Hand,
    retired: &mut Vec<TreeRoot>,
    tree: u32,
    step: &Step,
) {
    let root = store.tree(tree).0;
    match step {
        Step::Take(count) => {
            for taken in store.overlay.take_next(hand, *count, |tree| store.root_of(tree)) {
                if let Claimed::Mine(claim) = store.overlay.claim_at(taken) {
                    store.install(taken.0.tree, claim);
                }
            }
        }
        // While a key is claimed everybody reads as before, and its writers wait.
        Step::Claim(key) => match store.overlay.claim(root, key) {
            Claimed::Mine(claim) => {
                check(store, expected);
                assert!(!store.write(tree, key, None));
                let record = claim.record();
                assert_eq!(&Value::of(record.newest), &expected[&tree].get(record.key).cloned());
                store.install(tree, claim);
            }
            other => assert!(matches!(other, Claimed::Nothing)),
        },
        Step::Finish => {
            let next = store.overlay.take_next(hand, 1, |tree| store.root_of(tree));
            for taken in next {
                if let Claimed::Mine(claim) = store.overlay.claim_at(taken) {
                    assert_eq!(store.overlay.get(taken.0, claim.record().key), Some(claim.record().newest));
                    store.install(taken.0.tree, claim);
                }
            }
        }
        Step::Drop => {
            for taken in store.overlay.take_next(hand, 1, |tree| store.root_of(tree)) {
                drop(store.overlay.claim_at(taken));
            }
        }
        Step::Write(key, value) => {
            let value = value.clone().map(|value| Value::Put(value, None));
            assert!(store.write(tree, key, value.clone()), "no claim is open");
            set(expected.get_mut(&tree).expect("the tree exists"), key, value);
        }
        Step::Range(count) => store.drain_range(*count),
        Step::Scan(from, to, forwards, limit) => {
            let piece = (slice(from), slice(to));
            let direction = if *forwards { Direction::Forwards } else { Direction::Backwards };
            let content = &expected[&tree];
            let mut between: Vec<_> = if is_empty(piece) {
                Vec::new()
            } else {
                content.range::<[u8], _>(piece).map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            if !forwards {
                between.reverse();
            }
            assert_eq!(store.scan(tree, piece, direction, *limit), between);
        }
        Step::Clear => {
            retired.push(root);
            store.trees.insert(tree, (root.root + 10_000, Mutex::default()));
            expected.insert(tree, Content::new());
        }
    }
}
