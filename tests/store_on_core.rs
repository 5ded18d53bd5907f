//! A store on boson's own runtime: files, several `block_on`, and being dropped anywhere.

use std::sync::Arc;

use boson::block::{AnyNamespace, NamespaceAddress};
use boson::rt::{Core, CoreConfig, MonotonicClock};
use boson::store::{Db, Durability, Options, RtEnv};

fn core() -> Core {
    Core::new(&CoreConfig::new(Arc::new(MonotonicClock::new()), [5; 32])).expect("io_uring is usable")
}

async fn open(address: &str, durability: Durability) -> Db<RtEnv, AnyNamespace> {
    let address: NamespaceAddress = address.parse().expect("valid");
    let namespace = AnyNamespace::open(&address).await.expect("opens");
    let mut options = Options::new([6; 16]);
    options.durability = durability;
    Db::open(RtEnv, namespace, options).await.expect("opens")
}

#[test]
fn a_store_may_be_dropped_outside_its_core_and_after_it() {
    for core_goes_first in [false, true] {
        let core = core();
        let db = core.block_on(open("mem:16M", Durability::None)).expect("the ring works");
        core.block_on(async {
            let tree = db.tree("t").expect("a name");
            tree.put(b"k", b"v").await.expect("room");
        })
        .expect("the ring works");
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
        let db = core.block_on(open(&address, Durability::Sync)).expect("the ring works");
        core.block_on(async {
            let tree = db.tree("t").expect("a name");
            for earlier in 0..round {
                assert_eq!(tree.get(&[earlier]).await.expect("readable"), Some(vec![earlier; 100_000]));
            }
            tree.put(&[round], &vec![round; 100_000]).await.expect("room");
        })
        .expect("the ring works");
        // Neither closed nor flushed: only what was acknowledged counts.
        drop(core);
        drop(db);
    }
    std::fs::remove_file(path).expect("it is there");
}
