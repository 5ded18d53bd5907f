//! A store on boson's own runtime: files, several `block_on`, and being dropped anywhere.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use boson::block::{AnyNamespace, MemoryNamespace, NamespaceAddress};
use boson::observe;
use boson::rt::{self, Core, CoreConfig};
use boson::store::{Db, Durability, Options, RtEnv, WriteOptions};

fn core() -> Core {
    Core::new(&CoreConfig::default().seed([5; 32])).expect("io_uring is usable")
}

async fn open(address: &str, durability: Durability) -> Db<RtEnv, AnyNamespace> {
    let address: NamespaceAddress = address.parse().expect("valid");
    let namespace = AnyNamespace::open(&address).await.expect("opens");
    let options = Options::default().identity([6; 16]).durability(durability);
    Db::open_on(RtEnv, namespace, options).await.expect("opens")
}

#[test]
fn a_store_may_be_dropped_outside_its_core_and_after_it() {
    for core_goes_first in [false, true] {
        let core = core();
        let db = core.block_on(open("mem:16M", Durability::None));
        core.block_on(async {
            let tree = db.tree("t").expect("a name");
            tree.put(b"k", b"v").await.expect("room");
        });
        if core_goes_first {
            drop(core);
            drop(db);
        } else {
            drop(db);
            drop(core);
        }
    }
}

#[test]
fn what_was_synced_is_in_the_file_whatever_became_of_the_process() {
    let path = std::env::temp_dir().join(format!("boson-store-on-core-{}", std::process::id()));
    let address = format!("file:{}", path.display());
    for round in 0..3u8 {
        let core = core();
        let db = core.block_on(open(&address, Durability::Sync));
        core.block_on(async {
            let tree = db.tree("t").expect("a name");
            for earlier in 0..round {
                assert_eq!(tree.get(&[earlier]).await.expect("readable"), Some(vec![earlier; 100_000]));
            }
            tree.put(&[round], &vec![round; 100_000]).await.expect("room");
        });
        // Neither closed nor flushed: only what was acknowledged counts.
        drop(core);
        drop(db);
    }
    std::fs::remove_file(path).expect("it is there");
}

#[test]
fn opening_a_store_leaves_other_tasks_their_turn() {
    const RECORDS: u32 = 10_000;
    // No read of it waits for anything.
    let namespace = MemoryNamespace::new("mem:test", 64 << 20, 4096).expect("valid");
    let open = || Db::open_on(RtEnv, namespace.clone(), Options::default().identity([6; 16]));
    {
        let core = core();
        core.block_on(async {
            let db = open().await.expect("opens");
            let tree = db.tree("t").expect("a name");
            for number in 0..RECORDS {
                tree.put(&number.to_be_bytes(), b"v").await.expect("room");
            }
            tree.put_with(b"last", b"v", WriteOptions::SYNC).await.expect("room");
        });
        // Not closed: all of it is in the log.
        drop(core);
    }
    let turns = Rc::new(Cell::new(0));
    let others = {
        let turns = Rc::clone(&turns);
        async move {
            loop {
                turns.set(turns.get() + 1);
                rt::yield_now().await;
            }
        }
    };
    let core = core();
    let len = core.block_on(async {
        rt::named("other").spawn(others).detach();
        let db = open().await.expect("opens");
        db.tree("t").expect("a name").len()
    });
    assert_eq!(len, u64::from(RECORDS) + 1);
    assert!(turns.get() > RECORDS / 100, "{} turns while {RECORDS} records were applied", turns.get());
}

#[test]
fn each_task_of_a_store_says_where_it_comes_from() {
    let core = core();
    core.block_on(async {
        let _db = open("mem:16M", Durability::None).await;
        let tasks = observe::tasks();
        let places: BTreeSet<_> = tasks
            .iter()
            .filter(|task| task.name.starts_with("store "))
            .map(|task| (task.created_at.file(), task.created_at.line()))
            .collect();
        let named: BTreeSet<_> =
            tasks.iter().map(|task| &task.name).filter(|name| name.starts_with("store ")).collect();
        assert!(places.len() >= 3 && places.len() == named.len(), "{tasks:?}");
        assert!(places.iter().all(|(file, _)| file.contains("store/engine/")), "{places:?}");
    });
}
