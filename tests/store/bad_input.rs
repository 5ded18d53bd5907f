//! What the store does with namespaces, bytes, devices and requests that are not as they should be.

use std::future::Future;
use std::time::Duration;

use boson::block::{Fault, MemoryOptions};
use boson::sim::{Disk, Executor, SimEnv};
use boson::store::{
    Db, Durability, Env, MAX_KEY_BYTES, MAX_TREE_NAME_BYTES, MAX_VALUE_BYTES, Options, Tree, WriteOptions,
};
use boson::{Error, ErrorKind, Outcome};

type SimDb = Db<SimEnv, Disk>;
type SimTree = Tree<SimEnv, Disk>;

const SIZE: u64 = 16 << 20;
const COPIES: [u64; 4] = [0, 128 << 10, 256 << 10, 384 << 10];
/// The size of a segment of a store of [`SIZE`] bytes.
const SEGMENT: u64 = 256 << 10;

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

fn all(disk: &Disk) -> Vec<u8> {
    disk.peek(0, usize::try_from(SIZE).expect("small"))
}

/// Whether a segment is one of the log: what class its header says.
fn is_log(bytes: &[u8], offset: u64) -> bool {
    let header = &bytes[usize::try_from(offset / SEGMENT * SEGMENT).expect("small")..];
    header.starts_with(b"boson\0sg") && header[40] == 2
}

/// The offsets of `pattern` outside the log.
fn find(disk: &Disk, pattern: &[u8]) -> Vec<u64> {
    let bytes = all(disk);
    let found = bytes.windows(pattern.len()).enumerate().filter(|(_, window)| *window == pattern);
    found.map(|(offset, _)| offset as u64).filter(|offset| !is_log(&bytes, *offset)).collect()
}

/// Where the batches of the log start, those of one size block each.
fn batches(disk: &Disk) -> Vec<u64> {
    let bytes = all(disk);
    let blocks = bytes.chunks(4096).enumerate().filter(|(_, block)| block.starts_with(b"bLG2"));
    blocks.map(|(at, _)| at as u64 * 4096).collect()
}

#[test]
fn a_namespace_that_is_too_small_is_refused() {
    run(4 << 20, async |env, disk| {
        let error = open_error(&env, &disk).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("at least 8388608"), "{error}");
    });
}

#[test]
fn foreign_data_is_named_and_left_alone() {
    let cases: [(u64, &[u8], &str); 5] = [
        (510, &[0x55, 0xaa], "a partition table or boot sector"),
        (1024 + 56, &[0x53, 0xef], "an ext2, ext3 or ext4 file system"),
        (0, b"XFSB", "an XFS file system"),
        (70_000, b"anything", "data that is not recognised"),
        (128 << 10, b"only where a superblock would go", "data that is not recognised"),
    ];
    for (offset, bytes, name) in cases {
        run(SIZE, async move |env, disk| {
            disk.overwrite(offset, bytes);
            let before = all(&disk);
            let error = open_error(&env, &disk).await;
            assert_eq!(error.kind(), ErrorKind::ForeignData);
            assert!(error.to_string().contains(name) && error.to_string().contains("--format"), "{error}");
            assert!(all(&disk) == before, "nothing was written");

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
        assert_eq!((tree.len(), db.last_lsn(), db.tree_names().len()), (0, 0, 0));
    });
}

#[test]
fn a_newer_format_is_refused() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        rewrite_superblocks(&disk, 16, &[3]);
        let error = open_error(&env, &disk).await;
        assert_eq!(error.kind(), ErrorKind::UnsupportedFormat);
        assert!(error.to_string().contains("version 3"), "{error}");
    });
}

/// Changes bytes of every superblock copy, and makes their checksums right: damage that no checksum
/// sees.
fn rewrite_superblocks(disk: &Disk, offset: usize, bytes: &[u8]) {
    for copy in COPIES {
        let mut block = disk.peek(copy, 512);
        block[offset..offset + bytes.len()].copy_from_slice(bytes);
        // The checksum is the same in all copies: it takes the copy's number for 0.
        let number = std::mem::take(&mut block[72]);
        let sum = xxhash_rust::xxh3::xxh3_64(&block[16..]);
        block[72] = number;
        block[8..16].copy_from_slice(&sum.to_le_bytes());
        disk.overwrite(copy, &block);
    }
}

#[test]
fn a_version_1_store_is_refused_with_the_way_to_carry_it_over() {
    run(SIZE, async |env, disk| {
        // Its superblock: magic, checksum of what follows, version.
        let mut block = vec![0; 512];
        block[..8].copy_from_slice(b"boson\0sb");
        block[16] = 1;
        let sum = xxhash_rust::xxh3::xxh3_64(&block[16..]);
        block[8..16].copy_from_slice(&sum.to_le_bytes());
        for copy in [0, 1 << 20, 2 << 20, 3 << 20] {
            disk.overwrite(copy, &block);
        }
        let before = all(&disk);
        let error = open_error(&env, &disk).await;
        assert_eq!(error.kind(), ErrorKind::UnsupportedFormat);
        assert!(error.to_string().contains("version 1"), "{error}");
        assert!(all(&disk) == before, "nothing was written");
    });
}

#[test]
fn a_superblock_whose_log_starts_nowhere_is_refused() {
    // Where the log starts: in a segment that there is not, and behind the end of one.
    for (field, value) in [(88, 1_u32 << 20), (96, 512 << 10)] {
        run(SIZE, async move |env, disk| {
            closed_store(&env, &disk).await;
            rewrite_superblocks(&disk, field, &value.to_le_bytes());
            assert_eq!(open_error(&env, &disk).await.kind(), ErrorKind::Corrupt);
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
        let before = all(&disk);
        assert_eq!(open_error(&env, &disk).await.kind(), ErrorKind::Corrupt);
        assert!(all(&disk) == before, "nothing was written");
    });
}

#[test]
fn a_damaged_map_or_segment_table_is_an_error_at_opening() {
    // The references in the superblock: map, segment table, numbers of keys.
    for field in [152, 176, 224] {
        run(SIZE, async move |env, disk| {
            closed_store(&env, &disk).await;
            let word = disk.peek(field, 8).try_into().map(u64::from_le_bytes).expect("eight bytes");
            let address = (word >> 10 & ((1 << 42) - 1)) * 64;
            disk.flip_bit(address + 9, 0);
            let error = open_error(&env, &disk).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(&address.to_string()), "{address}: {error}");
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
        // Of the images of its page one is the newest.
        find(&disk, b"value of 01000").into_iter().for_each(|offset| disk.flip_bit(offset, 1));
        let (db, tree) = open(&env, &disk).await;
        let error = tree.get(b"01000").await.expect_err("damaged");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("offset "), "says where: {error}");
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
        let damage = &report.damage[0];
        assert_eq!(damage.tree.as_deref(), Some("t"), "{damage}");
        let has = |key: &[u8]| damage.from[..] <= *key && damage.to.as_deref().is_none_or(|to| key < to);
        assert!(has(b"01000") && !has(b"00000") && !has(b"01999"), "{damage}");
        db.close().await.expect("closes");
        let (_db, tree) = open(&env, &disk).await;
        assert_eq!(tree.get(b"00000").await.expect("reads").as_deref(), Some(&b"new"[..]));
    });
}

#[test]
fn a_damaged_large_value_is_an_error_and_can_be_replaced() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        // Not in the page of the first piece, which has what is said of values beside it.
        let pieces = find(&disk, &[0xab; 3000]);
        disk.flip_bit(pieces[pieces.len() / 2] + 7, 2);
        let (db, tree) = open(&env, &disk).await;
        assert_eq!(tree.get(b"large").await.expect_err("damaged").kind(), ErrorKind::Corrupt);
        assert!(tree.contains(b"large").await.expect("reads"));
        tree.put(b"large", b"whole again").await.expect("puts");
        assert_eq!(tree.get(b"large").await.expect("reads").as_deref(), Some(&b"whole again"[..]));
        // The page of the damaged piece stays, and costs nobody anything.
        let report = db.verify().await.expect("runs");
        assert!(report.damage.iter().all(|damage| damage.tree.is_none()), "{report:?}");
    });
}

#[test]
fn a_bad_sector_is_the_devices_error_for_its_keys_only() {
    run(SIZE, async |env, disk| {
        closed_store(&env, &disk).await;
        let images = find(&disk, b"value of 01000");
        let (_db, tree) = open(&env, &disk).await;
        disk.inject(images.into_iter().map(|offset| Fault::read().at(offset)));
        assert_eq!(tree.get(b"01000").await.expect_err("bad sector").code(), Some(libc::EIO));
        assert!(tree.get(b"00000").await.expect("reads").is_some());
        disk.inject([]);
        assert!(tree.get(b"01000").await.expect("reads").is_some());
    });
}

/// A disk on which a process put ten keys, each in a batch of its own, before it was killed. And
/// where the batches start.
fn killed() -> (Disk, Vec<u64>) {
    let disk = Disk::new(MemoryOptions::disk(SIZE), 11);
    // Its tasks end with it.
    let executor = Executor::new(12);
    let (env, of_store) = (executor.env(), disk.clone());
    executor.block_on(async move {
        let (_db, tree) = open(&env, &of_store).await;
        for number in 0..10_u32 {
            tree.put(&number.to_be_bytes(), b"value").await.expect("puts");
        }
    });
    let batches = batches(&disk);
    assert_eq!(batches.len(), 10);
    (disk, batches)
}

fn on(disk: Disk, test: impl AsyncFnOnce(SimEnv, Disk) + 'static) {
    let executor = Executor::new(13);
    let env = executor.env();
    executor.block_on(async move { test(env, disk).await });
}

#[test]
fn damage_in_the_middle_of_the_log_is_an_error_and_nothing_is_lost() {
    // In the header, in the record's head, in its key and value.
    for at in [0, 20, 99, 125] {
        let (disk, batches) = killed();
        on(disk, async move |env, disk| {
            disk.flip_bit(batches[4] + at, 0);
            let before = all(&disk);
            let error = open_error(&env, &disk).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            assert!(error.to_string().contains(&batches[4].to_string()), "{error}");
            assert!(all(&disk) == before, "nothing was written");
            // Repaired from elsewhere, everything is there.
            disk.flip_bit(batches[4] + at, 0);
            let (_db, tree) = open(&env, &disk).await;
            assert_eq!(tree.len(), 10);
        });
    }
}

#[test]
fn a_log_batch_that_miscounts_its_records_is_an_error() {
    let (disk, batches) = killed();
    on(disk, async move |env, disk| {
        let damaged = batches[5];
        let mut header = disk.peek(damaged, 112);
        header[64] += 1;
        let sum = xxhash_rust::xxh3::xxh3_64(&header[..104]);
        header[104..].copy_from_slice(&sum.to_le_bytes());
        disk.overwrite(damaged, &header);
        let error = open_error(&env, &disk).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(&damaged.to_string()), "{error}");
    });
}

#[test]
fn a_torn_end_of_the_log_is_dropped() {
    let (disk, batches) = killed();
    on(disk, async move |env, disk| {
        disk.flip_bit(batches[9] + 120, 0);
        let (db, tree) = open(&env, &disk).await;
        let last = db.last_lsn();
        assert_eq!(tree.len(), 9);
        tree.put(b"after", b"v").await.expect("puts");
        assert_eq!(db.last_lsn(), last + 1);
        drop((db, tree));
        env.sleep(Duration::from_secs(1)).await;
        let (db, tree) = open(&env, &disk).await;
        assert_eq!((tree.len(), db.last_lsn()), (10, last + 1));
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
    run(24 << 20, async |env, disk| {
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
    let disk_options = MemoryOptions::disk(0).max_size_bytes(256 << 20);
    let disk = Disk::new(disk_options, 1);
    let env = executor.env();
    executor.block_on(async move {
        let (db, tree) = open(&env, &disk).await;
        let small = db.stats().size_bytes;
        for number in 0..40_000u32 {
            tree.put_with(&number.to_be_bytes(), &[9; 2000], WriteOptions::NONE).await.expect("puts");
        }
        assert!(small <= 64 << 20 && db.stats().size_bytes > 80 << 20);
        db.close().await.expect("closes");
        let (db, tree) = open(&env, &disk).await;
        assert_eq!(tree.len(), 40_000);
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
        // Longer than a record of the log.
        let names: Vec<_> = (0..150u32).map(u32::to_be_bytes).collect();
        let keys: Vec<_> = names.iter().map(|name| (&tree, &name[..])).collect();
        db.transact(&keys, WriteOptions::SYNC, |txn| {
            (0..150).for_each(|index| txn.put_at(index, &[0; 1000]))
        })
        .await
        .expect("fits");
        // So do large values.
        db.transact(&keys, WriteOptions::SYNC, |txn| {
            (0..150).for_each(|index| txn.put_at(index, &[0; 4000]))
        })
        .await
        .expect("fits");
        assert_eq!(tree.len(), 151);
    });
}
