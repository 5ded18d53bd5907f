//! What the store does with namespaces, bytes, devices and requests that are not as they should be.

use std::future::Future;
use std::time::Duration;

use boson::block::{Fault, MemoryOptions};
use boson::sim::{Disk, Executor, SimEnv};
use boson::store::{
    Db, Durability, Env, MAX_KEY_BYTES, MAX_TREE_NAME_BYTES, MAX_TREES, MAX_VALUE_BYTES, Options, Tree,
    WriteOptions,
};
use boson::{Error, ErrorKind, Outcome};

type SimDb = Db<SimEnv, Disk>;
type SimTree = Tree<SimEnv, Disk>;

const SIZE: u64 = 16 << 20;
const COPIES: [u64; 4] = [0, 1 << 20, 2 << 20, 3 << 20];
const LOG_OFFSET: u64 = 4 << 20;

fn run<F: Future<Output = ()> + 'static>(disk_bytes: u64, test: impl FnOnce(SimEnv, Disk) -> F) {
    let executor = Executor::new(11);
    let disk = Disk::new(MemoryOptions::disk(disk_bytes), 11);
    executor.block_on(test(executor.env(), disk));
}

fn options() -> Options {
    Options::default().identity([5; 16]).log_bytes(512 << 10).durability(Durability::Sync)
}

async fn try_open(env: &SimEnv, disk: &Disk) -> Result<SimDb, Error> {
    Db::open_on(env.clone(), disk.clone(), options()).await
}

async fn open(env: &SimEnv, disk: &Disk) -> (SimDb, SimTree) {
    let db = try_open(env, disk).await.expect("opens");
    let tree = db.tree("t").expect("valid");
    (db, tree)
}

async fn open_error(env: &SimEnv, disk: &Disk) -> Error {
    try_open(env, disk).await.expect_err("must be refused")
}

/// A closed store with one small and one large value, and where the bytes of each are.
async fn closed_store(env: &SimEnv, disk: &Disk) {
    let (db, tree) = open(env, disk).await;
    for number in 0..2000u32 {
        let value = format!("value of {number:05}");
        tree.put_with(format!("{number:05}").as_bytes(), value.as_bytes(), WriteOptions::NONE)
            .await
            .expect("puts");
    }
    tree.put(b"large", &vec![0xab; 50_000]).await.expect("puts");
    db.close().await.expect("closes");
}

/// The offsets of `pattern` outside the log.
fn find(disk: &Disk, pattern: &[u8]) -> Vec<u64> {
    let bytes = disk.peek(0, usize::try_from(SIZE).expect("small"));
    let log = LOG_OFFSET..LOG_OFFSET + (512 << 10);
    let found = bytes.windows(pattern.len()).enumerate().filter(|(_, window)| *window == pattern);
    found.map(|(offset, _)| offset as u64).filter(|offset| !log.contains(offset)).collect()
}

#[test]
fn a_namespace_that_is_too_small_is_refused() {
    run(4 << 20, async |env, disk| {
        let error = open_error(&env, &disk).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("needs at least 8388608"), "{error}");
    });
}

#[test]
fn foreign_data_is_named_and_left_alone() {
    let cases: [(u64, &[u8], &str); 5] = [
        (510, &[0x55, 0xaa], "a partition table or boot sector"),
        (1024 + 56, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
        (0, b"XFSB", "an XFS file system"),
        (70_000, b"anything", "data that is not recognised"),
        (2 << 20, b"only where a superblock would go", "data that is not recognised"),
    ];
    for (offset, bytes, name) in cases {
        run(SIZE, async move |env, disk| {
            disk.overwrite(offset, bytes);
            let before = disk.peek(0, 16 << 20);
            let error = open_error(&env, &disk).await;
            assert_eq!(error.kind(), ErrorKind::ForeignData);
            assert!(error.to_string().contains(name) && error.to_string().contains("--format"), "{error}");
            assert!(disk.peek(0, 16 << 20) == before, "nothing was written");

            let format = options().format(true);
            let db = Db::open_on(env.clone(), disk.clone(), format).await.expect("formats");
            db.tree("t").expect("valid").put(b"k", b"v").await.expect("puts");
            db.close().await.expect("closes");
            let (_db, tree) = open(&env, &disk).await;
            assert_eq!(tree.len(), 1);
        });
    }
}

#[test]
fn formatting_over_a_store_forgets_it() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        let format = Options::default().identity([6; 16]).format(true);
        let db = Db::open_on(env.clone(), disk.clone(), format).await.expect("formats");
        assert!(db.tree_names().is_empty());
        db.close().await.expect("closes");
        let (db, tree) = open(&env, &disk).await;
        assert_eq!((tree.len(), db.last_lsn()), (0, 0));
    });
}

#[test]
fn a_newer_format_is_refused() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        rewrite_superblocks(&disk, 16, &[2]);
        let error = open_error(&env, &disk).await;
        assert_eq!(error.kind(), ErrorKind::UnsupportedFormat);
        assert!(error.to_string().contains("version 2"), "{error}");
    });
}

/// Changes bytes of every superblock copy, and makes their checksums right: damage that no checksum
/// sees.
fn rewrite_superblocks(disk: &Disk, offset: usize, bytes: &[u8]) {
    for copy in COPIES {
        let mut block = disk.peek(copy, 512);
        block[offset..offset + bytes.len()].copy_from_slice(bytes);
        let sum = xxhash_rust::xxh3::xxh3_64(&block[16..]);
        block[8..16].copy_from_slice(&sum.to_le_bytes());
        disk.overwrite(copy, &block);
    }
}

#[test]
fn a_superblock_whose_log_covers_free_units_is_refused() {
    // The second length is what a fuzzer found; it made the store count units that it did not have.
    for log_bytes in [576u64 << 10, 0x6b_0000] {
        run(SIZE, async move |env, disk| {
            closed_store(&env, &disk).await;
            rewrite_superblocks(&disk, 80, &log_bytes.to_le_bytes());
            let error = open_error(&env, &disk).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains("the log"), "{error}");
        });
    }
}

#[test]
fn any_three_superblock_copies_may_be_lost_but_not_all() {
    for survivor in COPIES {
        run(SIZE, async move |env, disk| {
            closed_store(&env, &disk).await;
            for copy in COPIES.into_iter().filter(|copy| *copy != survivor) {
                disk.flip_bit(copy + 100, 3);
            }
            let (db, tree) = open(&env, &disk).await;
            assert_eq!(tree.len(), 2001);
            tree.put(b"k", b"v").await.expect("puts");
            db.close().await.expect("closes");
            // Opening and closing repaired the others.
            disk.flip_bit(survivor + 100, 3);
            let (_db, tree) = open(&env, &disk).await;
            assert_eq!(tree.len(), 2002);
        });
    }
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        disk.inject([Fault::read().at(0)]);
        let (_db, tree) = open(&env, &disk).await;
        assert_eq!(tree.len(), 2001, "a bad sector under a copy is like a damaged copy");
    });
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        COPIES.into_iter().for_each(|copy| disk.flip_bit(copy + 100, 3));
        let before = disk.peek(0, 16 << 20);
        assert_eq!(open_error(&env, &disk).await.kind(), ErrorKind::Corrupt);
        assert!(disk.peek(0, 16 << 20) == before, "nothing was written");
    });
}

#[test]
fn a_damaged_catalog_or_map_is_an_error_at_opening() {
    for field in [120, 144] {
        run(SIZE, async move |env, disk| {
            closed_store(&env, &disk).await;
            let address = disk.peek(field, 8).try_into().map(u64::from_le_bytes).expect("eight bytes");
            disk.flip_bit(address + 9, 0);
            let error = open_error(&env, &disk).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&format!("offset {address}")), "{error}");
        });
    }
}

#[test]
fn a_namespace_that_was_cut_is_refused() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        let smaller = Disk::new(MemoryOptions::disk(SIZE - (1 << 20)), 1);
        smaller.overwrite(0, &disk.peek(0, 15 << 20));
        let error = open_error(&env, &smaller).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("was cut"), "{error}");
    });
}

#[test]
fn a_damaged_page_is_an_error_for_its_keys_only() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        let offset = find(&disk, b"value of 01000")[0];
        disk.flip_bit(offset, 1);
        let (db, tree) = open(&env, &disk).await;
        let error = tree.get(b"01000").await.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let page = offset / 4096 * 4096;
        let place = error.place().expect("says where").to_owned();
        assert!([page, page - 4096].iter().any(|at| place.ends_with(&format!("offset {at}"))), "{place}");
        // Neither writes to the page nor ranges over it lose anything silently; the rest works.
        assert_eq!(tree.put(b"01000", b"x").await.expect_err("damaged").kind(), ErrorKind::Corrupt);
        assert_eq!(tree.delete(b"01000").await.expect_err("damaged").kind(), ErrorKind::Corrupt);
        assert_eq!(tree.get(b"00000").await.expect("reads").as_deref(), Some(&b"value of 00000"[..]));
        tree.put(b"00000", b"new").await.expect("puts");
        let mut cursor = tree.range(&b"00990"[..]..);
        let mut outcome = Ok(None);
        for _ in 0..3000 {
            outcome = cursor.next().await;
            if !matches!(outcome, Ok(Some(_))) {
                break;
            }
        }
        assert_eq!(outcome.expect_err("damaged").kind(), ErrorKind::Corrupt);
        let report = db.verify().await.expect("runs");
        assert_eq!(report.damage.len(), 1, "{report:?}");
        db.close().await.expect("closes");
        let (_db, tree) = open(&env, &disk).await;
        assert_eq!(tree.get(b"00000").await.expect("reads").as_deref(), Some(&b"new"[..]));
    });
}

#[test]
fn a_damaged_large_value_is_an_error_and_can_be_replaced() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        disk.flip_bit(find(&disk, &[0xab; 4096])[0] + 7, 2);
        let (db, tree) = open(&env, &disk).await;
        assert_eq!(tree.get(b"large").await.expect_err("damaged").kind(), ErrorKind::Corrupt);
        assert!(tree.contains(b"large").await.expect("reads"));
        tree.put(b"large", b"whole again").await.expect("puts");
        assert_eq!(tree.get(b"large").await.expect("reads").as_deref(), Some(&b"whole again"[..]));
        assert!(db.verify().await.expect("runs").is_clean());
    });
}

#[test]
fn a_bad_sector_is_the_devices_error_for_its_keys_only() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        let offset = find(&disk, b"value of 01000")[0];
        let (_db, tree) = open(&env, &disk).await;
        disk.inject([Fault::read().at(offset)]);
        assert_eq!(tree.get(b"01000").await.expect_err("bad sector").code(), Some(libc::EIO));
        assert!(tree.get(b"00000").await.expect("reads").is_some());
        disk.inject([]);
        assert!(tree.get(b"01000").await.expect("reads").is_some());
    });
}

/// Puts `count` keys, each in a batch of its own, and ends without closing. Returns where the log's
/// batches start.
async fn log_of(env: &SimEnv, disk: &Disk, count: u32) -> Vec<u64> {
    let (db, tree) = open(env, disk).await;
    for number in 0..count {
        tree.put(&number.to_be_bytes(), b"value").await.expect("puts");
    }
    drop((db, tree));
    env.sleep(Duration::from_secs(1)).await;
    (0..u64::from(count)).map(|batch| LOG_OFFSET + batch * 4096).collect()
}

#[test]
fn damage_in_the_middle_of_the_log_is_an_error_and_nothing_is_lost() {
    for at in [0, 20, 99, 119] {
        run(SIZE, async move |env, disk| {
            let batches = log_of(&env, &disk, 10).await;
            disk.flip_bit(batches[4] + at, 0);
            let before = disk.peek(0, 16 << 20);
            let error = open_error(&env, &disk).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&format!("offset {}", batches[4])), "{error}");
            assert!(disk.peek(0, 16 << 20) == before, "nothing was written");
            // Repaired from elsewhere, everything is there.
            disk.flip_bit(batches[4] + at, 0);
            let (_db, tree) = open(&env, &disk).await;
            assert_eq!(tree.len(), 10);
        });
    }
}

#[test]
fn a_log_batch_that_miscounts_its_records_is_an_error() {
    run(SIZE, async |env, disk| {
        let last = log_of(&env, &disk, 10).await[9];
        let mut header = disk.peek(last, 96);
        header[56] += 1;
        let sum = xxhash_rust::xxh3::xxh3_64(&header[..88]);
        header[88..].copy_from_slice(&sum.to_le_bytes());
        disk.overwrite(last, &header);
        let error = open_error(&env, &disk).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&format!("offset {last}")), "{error}");
    });
}

#[test]
fn a_log_record_over_units_in_use_is_an_error() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        let (db, tree) = open(&env, &disk).await;
        // It goes to its place ahead of the log.
        tree.put(b"huge", &vec![0xcd; 300_000]).await.expect("puts");
        drop((db, tree));
        env.sleep(Duration::from_secs(1)).await;
        let position = disk.peek(88, 8).try_into().map(u64::from_le_bytes).expect("eight bytes");
        let batch = LOG_OFFSET + position % (512 << 10);
        let mut bytes = disk.peek(batch, 4096);
        let payload_bytes = bytes[4..8].try_into().map(u32::from_le_bytes).expect("four bytes");
        let payload = 96..96 + usize::try_from(payload_bytes).expect("small");
        // Length of the record, then kind, tree, key length and reference of the operation.
        assert_eq!(bytes[payload.start + 4], 5, "a put of an external value");
        let reference = payload.start + 4 + 7;
        let large = find(&disk, &[0xab; 4096])[0];
        bytes[reference..reference + 8].copy_from_slice(&large.to_le_bytes());
        for (checked, at) in [(payload, 80), (0..88, 88)] {
            let sum = xxhash_rust::xxh3::xxh3_64(&bytes[checked]);
            bytes[at..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
        disk.overwrite(batch, &bytes);
        let error = open_error(&env, &disk).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("units that are in use"), "{error}");
    });
}

#[test]
fn a_torn_end_of_the_log_is_dropped() {
    run(SIZE, async |env, disk| {
        let batches = log_of(&env, &disk, 10).await;
        disk.flip_bit(batches[9] + 100, 0);
        let (db, tree) = open(&env, &disk).await;
        assert_eq!((tree.len(), db.last_lsn()), (9, 9));
        tree.put(b"after", b"v").await.expect("puts");
        drop((db, tree));
        env.sleep(Duration::from_secs(1)).await;
        let (db, tree) = open(&env, &disk).await;
        assert_eq!((tree.len(), db.last_lsn()), (10, 10));
    });
}

#[test]
fn a_full_namespace_refuses_writes_and_recovers_when_space_returns() {
    run(SIZE, async |env, disk| {
        let (db, tree) = open(&env, &disk).await;
        let key = |number: u32| format!("{number:06}").into_bytes();
        let mut count = 0;
        let error = loop {
            match tree.put_with(&key(count), &[7; 1500], WriteOptions::NONE).await {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
            assert!(count < 20_000, "the namespace must be full some time");
        };
        assert_eq!((error.kind(), error.outcome()), (ErrorKind::NoSpace, Outcome::NotStarted));
        assert!(count > 4000, "only {count} of 1500 bytes fit into 16 MiB");
        assert_eq!(tree.len(), u64::from(count));
        assert_eq!(tree.get(&key(count)).await.expect("reads"), None, "nothing was applied");
        let large = tree.put(b"large", &vec![1; 1 << 20]).await.expect_err("full");
        assert_eq!(large.kind(), ErrorKind::NoSpace);
        let keys = [(&tree, &b"a"[..]), (&tree, &b"b"[..])];
        let refused = db
            .transact(&keys, WriteOptions::NONE, |txn| {
                txn.put_at(0, &[1; 2000]);
                txn.put_at(1, &vec![1; 1 << 20]);
            })
            .await;
        assert_eq!(refused.expect_err("full").kind(), ErrorKind::NoSpace);
        assert_eq!(tree.get(b"a").await.expect("reads"), None, "not half of it");
        // Reading and deleting work, and make room again.
        for number in 0..count {
            assert!(tree.get(&key(number)).await.expect("reads").is_some());
        }
        for number in (0..count).filter(|number| number % 2 == 0) {
            assert!(tree.delete_with(&key(number), WriteOptions::NONE).await.expect("deletes"));
        }
        tree.put(b"large", &vec![1; 1 << 20]).await.expect("there is room");
        db.transact(&keys, WriteOptions::SYNC, |txn| txn.put_at(0, b"works")).await.expect("there is room");
        assert!(db.verify().await.expect("runs").is_clean());
        db.close().await.expect("closes");
        let (_db, tree) = open(&env, &disk).await;
        assert_eq!(tree.len(), u64::from(count / 2) + 2);
        assert_eq!(tree.get(b"large").await.expect("reads").map(|value| value.len()), Some(1 << 20));
    });
}

#[test]
fn overwriting_for_ever_needs_no_more_space() {
    run(SIZE, async |env, disk| {
        let (db, tree) = open(&env, &disk).await;
        for round in 0..60u32 {
            for number in 0..100u32 {
                tree.put_with(&number.to_be_bytes(), &[7; 10_000], WriteOptions::NONE).await.expect("puts");
            }
            assert_eq!(tree.len(), 100, "round {round}");
        }
        assert!(db.stats().user_bytes > 50 << 20);
        assert!(db.verify().await.expect("runs").is_clean());
    });
}

#[test]
fn large_values_lie_scattered_where_no_run_is_free() {
    run(SIZE, async |env, disk| {
        let (db, tree) = open(&env, &disk).await;
        for number in 0..850u32 {
            tree.put_with(&number.to_be_bytes(), &[3; 12_000], WriteOptions::NONE).await.expect("puts");
        }
        db.checkpoint().await.expect("works");
        for number in (0..850u32).filter(|number| number % 2 == 0) {
            tree.delete_with(&number.to_be_bytes(), WriteOptions::NONE).await.expect("deletes");
        }
        db.checkpoint().await.expect("works");
        // Larger than any run: three units lie between any two neighbours that stayed.
        let value: Vec<u8> = (0..4_500_000u32).map(|index| index.to_le_bytes()[1]).collect();
        tree.put(b"scattered", &value).await.expect("puts");
        assert!(db.verify().await.expect("runs").is_clean());
        db.close().await.expect("closes");
        let (db, tree) = open(&env, &disk).await;
        assert!(tree.get(b"scattered").await.expect("reads").as_ref() == Some(&value));
        let free = db.stats().free_bytes;
        assert!(tree.delete(b"scattered").await.expect("deletes"));
        db.checkpoint().await.expect("works");
        assert!(db.stats().free_bytes > free + 4_000_000);
        assert!(db.verify().await.expect("runs").is_clean());
    });
}

#[test]
fn a_namespace_that_can_grow_does() {
    let executor = Executor::new(1);
    let disk_options = MemoryOptions::disk(0).max_size_bytes(64 << 20);
    let disk = Disk::new(disk_options, 1);
    let env = executor.env();
    executor.block_on(async move {
        let (db, tree) = open(&env, &disk).await;
        let small = db.stats().size_bytes;
        for number in 0..10_000u32 {
            tree.put_with(&number.to_be_bytes(), &[9; 2000], WriteOptions::NONE).await.expect("puts");
        }
        assert!(small < 16 << 20 && db.stats().size_bytes > 20 << 20);
        db.close().await.expect("closes");
        let (db, tree) = open(&env, &disk).await;
        assert_eq!(tree.len(), 10_000);
        assert!(db.verify().await.expect("runs").is_clean());
    });
}

#[test]
fn after_a_failed_write_or_flush_every_write_gets_its_error_and_reads_go_on() {
    for fault in [Fault::write(), Fault::write().after(7), Fault::flush(), Fault::flush().after(3)] {
        run(SIZE, async move |env, disk| {
            let (db, tree) = open(&env, &disk).await;
            tree.put(b"before", b"v").await.expect("puts");
            disk.inject([fault.clone()]);
            let mut acknowledged = 0;
            let error = loop {
                match tree.put(&[b'x', acknowledged], b"v").await {
                    Ok(()) => acknowledged += 1,
                    Err(error) => break error,
                }
            };
            assert_eq!((error.code(), error.outcome()), (Some(libc::EIO), Outcome::Unknown), "{error}");
            disk.inject([]);
            let error = tree.put(b"later", b"v").await.expect_err("failed for good");
            assert_eq!((error.code(), error.outcome()), (Some(libc::EIO), Outcome::NotStarted), "{error}");
            assert_eq!(tree.delete(b"before").await.expect_err("failed").code(), Some(libc::EIO));
            assert_eq!(db.checkpoint().await.expect_err("failed").code(), Some(libc::EIO));
            assert!(db.health().is_err());
            assert_eq!(tree.get(b"before").await.expect("reads").as_deref(), Some(&b"v"[..]));
            assert!(db.close().await.is_err());
            disk.power_loss();
            let (_db, tree) = open(&env, &disk).await;
            assert!(tree.get(b"before").await.expect("reads").is_some());
            for number in 0..acknowledged {
                assert!(
                    tree.get(&[b'x', number]).await.expect("reads").is_some(),
                    "{number} was acknowledged"
                );
            }
        });
    }
}

#[test]
fn a_checkpoint_that_fails_leaves_the_one_before() {
    for writes in 0..12 {
        run(SIZE, async move |env, disk| {
            closed_store(&env, &disk).await;
            let (db, tree) = open(&env, &disk).await;
            for number in 0..300u32 {
                tree.put_with(format!("{number:05}").as_bytes(), b"changed", WriteOptions::NONE)
                    .await
                    .expect("puts");
            }
            db.flush().await.expect("works");
            disk.inject([Fault::write().after(writes)]);
            let failed = db.checkpoint().await.is_err();
            disk.inject([]);
            db.close().await.err();
            disk.power_loss();
            let (db, tree) = open(&env, &disk).await;
            assert_eq!(tree.len(), 2001, "after {writes} writes, failed: {failed}");
            assert_eq!(tree.get(b"00299").await.expect("reads").as_deref(), Some(&b"changed"[..]));
            assert!(db.verify().await.expect("runs").is_clean());
        });
    }
}

#[test]
fn requests_beyond_the_limits_are_refused() {
    run(SIZE, async |env, disk| {
        let (db, tree) = open(&env, &disk).await;
        let longest = vec![b'k'; MAX_KEY_BYTES];
        tree.put(&longest, b"v").await.expect("allowed");
        assert_eq!(tree.get(&longest).await.expect("reads").as_deref(), Some(&b"v"[..]));
        let too_long = vec![b'k'; MAX_KEY_BYTES + 1];
        assert_eq!(tree.put(&too_long, b"v").await.expect_err("too long").kind(), ErrorKind::InvalidInput);
        assert_eq!(tree.get(&too_long).await.expect("reads"), None);
        let too_large = vec![0; MAX_VALUE_BYTES + 1];
        assert_eq!(tree.put(b"k", &too_large).await.expect_err("too large").kind(), ErrorKind::InvalidInput);
        let refused =
            db.transact(&[(&tree, b"k")], WriteOptions::SYNC, |txn| txn.put_at(0, &too_large)).await;
        assert_eq!(refused.expect_err("too large").kind(), ErrorKind::InvalidInput);
        assert_eq!(
            db.tree(&"n".repeat(MAX_TREE_NAME_BYTES + 1)).expect_err("too long").kind(),
            ErrorKind::InvalidInput
        );
        for number in 1..MAX_TREES {
            db.tree(&number.to_string()).expect("allowed");
        }
        assert_eq!(db.tree("one more").expect_err("too many").kind(), ErrorKind::LimitReached);
        // A record larger than a quarter of the log goes to a place of its own.
        let names: Vec<_> = (0..200u32).map(u32::to_be_bytes).collect();
        let keys: Vec<_> = names.iter().map(|name| (&tree, &name[..])).collect();
        db.transact(&keys, WriteOptions::SYNC, |txn| {
            (0..200).for_each(|index| txn.put_at(index, &[0; 1000]))
        })
        .await
        .expect("fits");
        // So do large values.
        db.transact(&keys, WriteOptions::SYNC, |txn| {
            (0..200).for_each(|index| txn.put_at(index, &[0; 4000]))
        })
        .await
        .expect("fits");
        assert_eq!(tree.len(), 201);
    });
}
