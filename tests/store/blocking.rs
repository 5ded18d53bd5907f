//! The store for ordinary threads.

use std::path::PathBuf;
use std::thread;

use boson::store::blocking::{Db, Tree};
use boson::store::{Decision, Durability, Options, WriteOptions};
use boson::{ErrorKind, rt};

struct File(PathBuf);

impl File {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("boson-store-blocking-{name}-{}", std::process::id())))
    }

    fn open(&self) -> Db {
        let options = Options::default().durability(Durability::Sync);
        Db::open_with(&format!("file:{}", self.0.display()), options, &rt::CoreConfig::default())
            .expect("opens")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn add(tree: &Tree, key: &[u8], amount: u64) {
    let sum = move |found: Option<&[u8]>, new: &mut Vec<u8>| {
        let old = found.map_or(0, |value| u64::from_le_bytes(value.try_into().expect("8 bytes")));
        new.extend_from_slice(&(old + amount).to_le_bytes());
        Decision::Put
    };
    assert!(tree.update(key, WriteOptions::NONE, sum).expect("room"));
}

#[test]
fn threads_share_a_store_and_find_it_again() {
    const THREADS: u32 = 8;
    const KEYS: u32 = 100;
    let file = File::new("threads");
    let db = file.open();
    let tree = db.tree("t").expect("a name");
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let tree = &tree;
            scope.spawn(move || {
                for number in 0..KEYS {
                    let key = format!("{number:04}:{thread}");
                    tree.put_with(key.as_bytes(), &[7; 300], WriteOptions::NONE).expect("room");
                    add(tree, b"sum", 1);
                }
            });
        }
    });
    let sum = u64::from(THREADS * KEYS).to_le_bytes();
    assert_eq!(tree.get(b"sum").expect("reads").as_deref(), Some(&sum[..]));
    assert_eq!(tree.len().expect("open"), u64::from(THREADS * KEYS) + 1);
    // The last handle closes it.
    drop((tree, db));
    let db = file.open();
    assert_eq!(db.tree_names().expect("open"), ["t"]);
    let tree = db.tree("t").expect("a name");
    let keys = |entries: boson::store::blocking::Iter| -> Vec<Vec<u8>> {
        entries.map(|entry| entry.expect("reads").0).collect()
    };
    let all = keys(tree.range(..));
    assert_eq!(all.len(), (THREADS * KEYS) as usize + 1);
    assert!(all.is_sorted());
    let mut down = keys(tree.range_descending(..));
    down.reverse();
    assert_eq!(down, all);
    assert_eq!(keys(tree.prefix(b"0042:")).len(), THREADS as usize);
    let some = keys(tree.range(&b"0010"[..]..b"0020"));
    assert_eq!(some.len(), 10 * THREADS as usize);
    assert_eq!(
        tree.delete_range(&b"0010"[..]..b"0020", WriteOptions::SYNC).expect("room"),
        some.len() as u64
    );
    assert_eq!(tree.delete_prefix(b"0042:", WriteOptions::SYNC).expect("room"), u64::from(THREADS));
    let report = db.verify().expect("runs");
    assert!(report.is_clean() && report.keys == u64::from(THREADS * (KEYS - 11)) + 1, "{report:?}");
    db.close().expect("closes");
}

#[test]
fn transactions_and_whatever_runs_on_the_core() {
    let db = Db::open("mem:64M").expect("opens");
    let (from, to) = (db.tree("from").expect("a name"), db.tree("to").expect("a name"));
    from.put(b"k", b"5").expect("room");
    let keys = [(&from, &b"k"[..]), (&to, &b"k"[..])];
    let moved = db.transact(&keys, WriteOptions::default(), |txn| {
        let value = txn.get_at(0).expect("it is there").to_vec();
        txn.delete_at(0);
        txn.put_at(1, &value);
        value
    });
    assert_eq!(moved.expect("room"), b"5");
    assert_eq!((from.contains(b"k").expect("reads"), to.contains(b"k").expect("reads")), (false, true));
    assert!(to.compare_and_swap(b"k", Some(b"5"), Some(b"6"), WriteOptions::default()).expect("room"));
    assert!(!to.insert_if_absent(b"k", b"7", WriteOptions::default()).expect("reads"));
    let sum = db.run(async |db| {
        let tree = db.tree("many")?;
        for number in 0..1000_u32 {
            tree.put(&number.to_be_bytes(), b"v").await?;
        }
        Ok(tree.len())
    });
    assert_eq!(sum.expect("room"), 1000);
    assert!(db.remove_tree("many", WriteOptions::default()).expect("room"));
    assert!(db.stats().expect("open").keys == 1);
    db.checkpoint().expect("room");

    let panics = db.run(async |_| -> boson::Result<()> { panic!("on purpose") });
    assert_eq!(panics.expect_err("it panicked").kind(), ErrorKind::Panicked);
    assert_eq!(to.get(b"k").expect("it goes on").as_deref(), Some(&b"6"[..]));
    let error = to.put(&[0; 5000], b"v").expect_err("too long a key");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    // A core must not block.
    let of_core = to.clone();
    boson::run(async move {
        assert_eq!(of_core.get(b"k").expect_err("on a core").kind(), ErrorKind::InvalidInput);
    });
    let other = db.clone();
    db.close().expect("closes");
    other.close().expect("it is closed already");
    for error in [to.put(b"k", b"8").expect_err("closed"), other.flush().expect_err("closed")] {
        assert!(matches!(error.kind(), ErrorKind::Closed | ErrorKind::Cancelled), "{error}");
    }
    assert!(to.range(..).next().expect("an error").is_err());
}

#[test]
fn a_store_that_cannot_be_opened_says_why() {
    let error = Db::open("file:/nonexistent/place").expect_err("no such directory");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(Db::open("mem:nonsense").expect_err("no address").kind(), ErrorKind::InvalidInput);
}
