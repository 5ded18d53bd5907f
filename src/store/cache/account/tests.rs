use std::sync::atomic::{AtomicU64 as StdAtomicU64, Ordering as StdOrdering};
use std::sync::mpsc;
use std::thread;

use proptest::prelude::*;

use super::*;

const LIMIT_BYTES: u64 = 1 << 20;
/// 1/64 of the limit.
const STEP: u64 = 16 << 10;

#[test]
fn all_of_the_limit_can_be_had_and_not_a_byte_more() {
    let account = Account::new(LIMIT_BYTES, 0);
    let core = account.attach();
    assert!(core.try_take(Part::Nodes, LIMIT_BYTES - 1, Room::Ordinary));
    assert!(!core.try_take(Part::Filters, 2, Room::Ordinary));
    assert!(core.try_take(Part::Filters, 1, Room::Ordinary));
    assert!(!core.try_take(Part::Overlay, 1, Room::Ordinary));
    assert!(core.try_take(Part::Overlay, 0, Room::Ordinary));
    assert!(!core.try_take(Part::Overlay, u64::MAX, Room::Ordinary), "no sum overflows");
    assert_eq!(core.account().used_bytes(), account.limit_bytes());
    core.give(Part::Filters, 1);
    assert!(core.try_take(Part::LogBuffers, 1, Room::Ordinary));
    core.settle();
    let parts = Part::ALL.map(|part| account.part_bytes(part));
    assert_eq!(parts, [LIMIT_BYTES - 1, 0, 0, 0, 1, 0, 0]);
}

#[test]
fn the_reserve_is_for_those_who_may_and_comes_back() {
    let account = Account::new(LIMIT_BYTES, LIMIT_BYTES / 8);
    let most = LIMIT_BYTES - account.reserve_bytes();
    let [core, other] = [account.attach(), account.attach()];
    assert!(core.try_take(Part::Nodes, most - LIMIT_BYTES / 32, Room::Ordinary));
    assert_eq!(account.pressure_bytes(), account.used_bytes() - (most - LIMIT_BYTES / 32));
    assert!(core.try_take(Part::Nodes, LIMIT_BYTES / 32, Room::Ordinary));
    assert!(account.pressure_bytes() >= LIMIT_BYTES / 32, "evicters are asked before all is full");
    assert!(!core.try_take(Part::Nodes, 1, Room::Ordinary));
    // All of it can be had, and no core keeps more than it needs.
    assert!(core.try_take(Part::Nodes, LIMIT_BYTES / 16, Room::Reserve));
    assert_eq!(account.used_bytes(), most + LIMIT_BYTES / 16);
    assert!(other.try_take(Part::Nodes, LIMIT_BYTES / 16, Room::Reserve));
    assert!(!other.try_take(Part::Nodes, 1, Room::Reserve), "the limit holds");
    // What is given back goes to who may have it, on whatever core.
    other.give(Part::Nodes, LIMIT_BYTES / 16);
    core.give(Part::Nodes, 100);
    assert!(
        !core.try_take(Part::Nodes, 1, Room::Ordinary) && !other.try_take(Part::Nodes, 1, Room::Ordinary)
    );
    assert!(other.try_take(Part::Nodes, LIMIT_BYTES / 16 + 100, Room::Reserve));
    other.give(Part::Nodes, LIMIT_BYTES / 8);
    assert!(other.try_take(Part::Nodes, 100, Room::Reserve));
    core.give(Part::Nodes, 100);
    core.give(Part::Nodes, most - 100);
    other.give(Part::Nodes, 100);
    [core, other].iter().for_each(Portion::settle);
    assert_eq!((account.used_bytes(), account.pressure_bytes()), (0, 0));
}

#[test]
fn parts_have_different_numbers() {
    let numbers: Vec<usize> = Part::ALL.into_iter().map(Part::index).collect();
    assert_eq!(numbers, (0..Part::ALL.len()).collect::<Vec<_>>());
}

#[test]
fn the_account_changes_once_a_step() {
    let account = Account::new(LIMIT_BYTES, 0);
    let core = account.attach();
    let mut changes = 0;
    let mut used = 0;
    for _ in 0..1000 {
        assert!(core.try_take(Part::Nodes, 256, Room::Ordinary));
        changes += u64::from(account.used_bytes() != used);
        used = account.used_bytes();
    }
    assert!(changes <= 1000 * 256 / STEP + 1, "{changes} changes");
    for _ in 0..1000 {
        core.give(Part::Nodes, 256);
    }
    assert!(account.used_bytes() <= 2 * STEP, "spare bytes go back");
    // To and fro at any level changes nothing.
    let used = account.used_bytes();
    for _ in 0..1000 {
        assert!(core.try_take(Part::Nodes, 4096, Room::Ordinary));
        core.give(Part::Nodes, 4096);
        assert_eq!(account.used_bytes(), used);
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Take {
        core: usize,
        part: usize,
        bytes: u64,
    },
    /// By any core, some of what is in use.
    Give {
        core: usize,
        part: usize,
        bytes: u64,
    },
    Settle {
        core: usize,
    },
    Leave {
        core: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let core = 0..3usize;
    let part = 0..Part::ALL.len();
    let bytes = prop_oneof![0..5_000u64, 0..300_000u64];
    prop_oneof![
        6 => (core.clone(), part.clone(), bytes.clone())
            .prop_map(|(core, part, bytes)| Operation::Take { core, part, bytes }),
        5 => (core.clone(), part, bytes).prop_map(|(core, part, bytes)| Operation::Give { core, part, bytes }),
        1 => core.clone().prop_map(|core| Operation::Settle { core }),
        1 => core.prop_map(|core| Operation::Leave { core }),
    ]
}

proptest! {
    /// Against plain sums.
    #[test]
    fn the_limit_holds_and_totals_are_exact(operations in prop::collection::vec(operation(), 0..300)) {
        let account = Account::new(LIMIT_BYTES, 0);
        let mut cores = [account.attach(), account.attach(), account.attach()];
        let mut used = [0u64; Part::ALL.len()];
        for operation in operations {
            match operation {
                Operation::Take { core, part, bytes } => {
                    let sum = used.iter().sum::<u64>() + bytes;
                    if cores[core].try_take(Part::ALL[part], bytes, Room::Ordinary) {
                        prop_assert!(sum <= LIMIT_BYTES);
                        used[part] += bytes;
                    } else {
                        prop_assert!(sum + 3 * 2 * STEP > LIMIT_BYTES, "refused only when nearly full");
                    }
                }
                Operation::Give { core, part, bytes } => {
                    let bytes = bytes.min(used[part]);
                    cores[core].give(Part::ALL[part], bytes);
                    used[part] -= bytes;
                }
                Operation::Settle { core } => cores[core].settle(),
                Operation::Leave { core } => cores[core] = account.attach(),
            }
            let sum: u64 = used.iter().sum();
            prop_assert!(sum <= account.used_bytes() && account.used_bytes() <= LIMIT_BYTES);
            prop_assert!(account.used_bytes() <= sum + 3 * 2 * STEP);
            for part in Part::ALL {
                let off = account.part_bytes(part).abs_diff(used[part.index()]);
                prop_assert!(off <= 3 * STEP, "{part:?} is {off} bytes off");
            }
        }
        cores.iter().for_each(Portion::settle);
        prop_assert_eq!(Part::ALL.map(|part| account.part_bytes(part)), used);
        prop_assert_eq!(account.used_bytes(), used.iter().sum::<u64>());
    }
}

/// Each thread takes, and gives back what the other one took.
#[test]
fn two_threads_stay_within_the_limit_and_leave_nothing() {
    let account = Account::new(LIMIT_BYTES, 0);
    let in_use = StdAtomicU64::new(0);
    let (to_first, first) = mpsc::channel();
    let (to_second, second) = mpsc::channel();
    thread::scope(|scope| {
        for (seed, to, from) in [(1u64, to_second, first), (2, to_first, second)] {
            let (account, in_use) = (&account, &in_use);
            scope.spawn(move || {
                let core = account.attach();
                let give = |(part, bytes)| {
                    in_use.fetch_sub(bytes, StdOrdering::SeqCst);
                    core.give(part, bytes);
                };
                let mut random = seed;
                let mut refused = 0;
                for _ in 0..200_000 {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed);
                    let bytes = random >> 48;
                    let part = Part::ALL[usize::try_from(random >> 33).expect("64 bits") % Part::ALL.len()];
                    if core.try_take(part, bytes, Room::Ordinary) {
                        let sum = in_use.fetch_add(bytes, StdOrdering::SeqCst) + bytes;
                        assert!(sum <= LIMIT_BYTES, "{sum} bytes in use");
                        to.send((part, bytes)).expect("received");
                    } else {
                        refused += 1;
                        from.try_iter().for_each(give);
                    }
                }
                drop(to);
                from.iter().for_each(give);
                assert!(refused > 0, "the limit was met");
            });
        }
    });
    assert_eq!(account.used_bytes(), 0);
    assert!(Part::ALL.iter().all(|&part| account.part_bytes(part) == 0));
}

/// `cargo test --release --lib store::cache::account::tests::timing -- --ignored --nocapture`
#[test]
#[ignore = "it measures"]
fn timing() {
    let account = Account::new(1 << 30, 0);
    let core = account.attach();
    let run = || {
        let count = 100_000;
        let begun = std::time::Instant::now();
        for _ in 0..count {
            assert!(std::hint::black_box(&core).try_take(Part::Nodes, 256, Room::Ordinary));
            core.give(Part::Nodes, 256);
        }
        begun.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    };
    let mut times: Vec<f64> = (0..101).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    println!("take and give, median: {:.1} ns", times[50]);
}
