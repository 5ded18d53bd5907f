//! The store's interface on a namespace in memory.

use std::future::Future;

use boson::ErrorKind;
use boson::block::MemoryNamespace;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, Options};

type TestDb = Db<SimEnv, MemoryNamespace>;

fn run<F: Future<Output = ()> + 'static>(test: impl FnOnce(SimEnv) -> F) {
    let executor = Executor::new(1);
    executor.block_on(test(executor.env()));
}

fn options() -> Options {
    Options { log_bytes: 1 << 20, ..Options::new([7; 16]) }
}

fn namespace(bytes: u64) -> MemoryNamespace {
    MemoryNamespace::new("mem:test", bytes, 4096).expect("valid")
}

async fn open(env: &SimEnv, namespace: &MemoryNamespace) -> TestDb {
    Db::open(env.clone(), namespace.clone(), options()).await.expect("opens")
}

#[test]
fn what_is_put_is_got_and_survives_closing() {
    run(async |env| {
        let namespace = namespace(32 << 20);
        let db = open(&env, &namespace).await;
        let tree = db.tree("t").expect("valid");
        assert_eq!(tree.get(b"k").await.expect("reads"), None);
        tree.put(b"k", b"v").await.expect("writes");
        tree.put(b"", b"the empty key").await.expect("writes");
        tree.put(b"gone", b"").await.expect("writes");
        assert!(tree.delete(b"gone").await.expect("deletes"));
        assert!(!tree.delete(b"gone").await.expect("deletes"));
        assert_eq!(tree.len(), 2);
        db.close().await.expect("closes");
        assert_eq!(tree.put(b"k", b"w").await.expect_err("closed").kind(), ErrorKind::Closed);

        let db = open(&env, &namespace).await;
        let tree = db.tree("t").expect("valid");
        assert_eq!(db.tree_names(), ["t"]);
        assert_eq!(tree.get(b"k").await.expect("reads").as_deref(), Some(&b"v"[..]));
        assert_eq!(tree.get(b"").await.expect("reads").as_deref(), Some(&b"the empty key"[..]));
        assert_eq!(tree.len(), 2);
        assert!(db.verify().await.expect("runs").is_clean());
    });
}
