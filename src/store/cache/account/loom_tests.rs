//! Every interleaving of two cores that take and give, with loom.

use loom::thread;

use super::*;

const LIMIT_BYTES: u64 = 100;

#[test]
fn the_limit_holds_and_all_comes_back() {
    loom::model(|| {
        let account = Account::new(LIMIT_BYTES, 0);
        let work = |account: &Arc<Account>| {
            let portion = account.attach();
            let is_taken = portion.try_take(Part::Nodes, 60, Room::Ordinary);
            assert!(account.used_bytes() <= LIMIT_BYTES);
            // While it is taken, the other core cannot have it.
            let has_more = portion.try_take(Part::Filters, 41, Room::Ordinary);
            assert!(!(is_taken && has_more), "101 bytes of 100");
            if is_taken {
                portion.give(Part::Nodes, 60);
            }
            if has_more {
                portion.give(Part::Filters, 41);
            }
        };
        let other = {
            let account = Arc::clone(&account);
            thread::spawn(move || work(&account))
        };
        work(&account);
        other.join().expect("no panic");
        assert_eq!(account.used_bytes(), 0);
        assert!(Part::ALL.iter().all(|&part| account.part_bytes(part) == 0));
    });
}
