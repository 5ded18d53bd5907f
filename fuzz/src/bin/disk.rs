//! The disk format: a store opens, reads, writes and verifies what is left after some bytes of it
//! were changed.
//!
//! Under the fuzzer every checksum has the same value (`cfg(fuzzing)` in `store::codec`), so each
//! change reaches the decoder that the checksum stands in front of: superblock, segment table, map,
//! trailers, leaves, inner pages, batches, records.
#![no_main]

use std::cell::OnceCell;

use boson::block::{MemoryNamespace, Namespace};
use boson::mem::DmaBuf;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, MAX_KEY_BYTES, MIN_CACHE_BYTES, Options, Txn, WriteOptions};
use boson::{ErrorKind, Result};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 16 << 20;
const UNIT: usize = 4096;
/// Where the copies of the superblock are, and the number of each. A change of the first is made to
/// all.
const COPIES: [u64; 4] = [0, 128 << 10, 256 << 10, 384 << 10];
const COPY_NUMBER_OFFSET: usize = 72;
const BATCH_HEADER_BYTES: usize = 112;
const BUNDLE_ENTRY_BYTES: usize = 24;
const RECORD_HEAD_BYTES: usize = 8;
/// Kinds of operations with which records of the log begin: put, delete, part of a group, new tree.
const FIRST_KINDS: [u8; 4] = [1, 2, 5, 6];
/// A kind that there is not.
const NO_KIND: u8 = 3;

/// The units of a namespace that are not all zeros, by their offsets.
type Image = Vec<(u64, Vec<u8>)>;

thread_local! {
    static IMAGE: OnceCell<Image> = const { OnceCell::new() };
}

fn options() -> Options {
    Options::default().identity([5; 16]).cache_bytes(MIN_CACHE_BYTES)
}

fn namespace() -> MemoryNamespace {
    MemoryNamespace::new("fuzz", SIZE, 4096).expect("a possible size")
}

/// A store in which everything that the format knows occurs, its last writes only in the log.
async fn fill(env: SimEnv, disk: MemoryNamespace) -> Result<()> {
    let db = Db::open_on(env, disk, options()).await?;
    let (small, large) = (db.tree("small")?, db.tree("large")?);
    for number in 0..800u32 {
        let key = format!("key {number:05}");
        small.put_with(key.as_bytes(), &[7; 90], WriteOptions::NONE).await?;
    }
    for len in [3000, 40_000] {
        large.put(format!("{len}").as_bytes(), &vec![1; len]).await?;
    }
    db.checkpoint().await?;
    for number in 0..20u32 {
        small.put(format!("key {number:05}").as_bytes(), &[8; 60]).await?;
        small.delete(format!("key {:05}", number + 700).as_bytes()).await?;
    }
    large.put(b"logged", &[2; 2500]).await?;
    large.put(b"long", &vec![1; 60_000]).await?;
    put_group(&db).await?;
    db.tree("empty")?.put(b"k", b"v").await?;
    db.tree("empty")?.clear(WriteOptions::SYNC).await
    // As after a kill: it is dropped, not closed.
}

/// A transaction that does not fit a record of the log, but takes several. Long keys make it of few
/// operations.
async fn put_group(db: &Db<SimEnv, MemoryNamespace>) -> Result<()> {
    let (small, long) = (db.tree("small")?, db.tree("long")?);
    let long_keys: Vec<_> = (1..=22).map(|number| vec![number; MAX_KEY_BYTES]).collect();
    let mut keys = vec![(&small, &b"key 00750"[..])];
    keys.extend(long_keys.iter().map(|key| (&long, &key[..])));
    let write = |txn: &mut Txn<'_>| {
        txn.delete(&small, b"key 00750");
        long_keys.iter().for_each(|key| txn.put(&long, key, &[1; 2048]));
    };
    db.transact(&keys, WriteOptions::SYNC, write).await
}

async fn read_image(disk: &MemoryNamespace) -> Result<Image> {
    let mut image = Image::new();
    for offset in (0..SIZE).step_by(UNIT) {
        let unit = disk.read(offset, DmaBuf::zeroed(UNIT)).await?;
        // The content of large values is nothing to decode.
        if unit.iter().any(|&byte| byte != 0) && unit[..] != [1; UNIT] {
            image.push((offset, unit.to_vec()));
        }
    }
    Ok(image)
}

async fn write_image(disk: &MemoryNamespace, image: &Image) -> Result<()> {
    for (offset, unit) in image {
        let mut buffer = DmaBuf::zeroed(UNIT);
        buffer.copy_from_slice(unit);
        disk.write(*offset, buffer).await?;
    }
    Ok(())
}

fn image() -> Image {
    let executor = Executor::new(11);
    let disk = namespace();
    executor.block_on(fill(executor.env(), disk.clone())).expect("memory does not fail");
    executor.crash();
    let image = executor.block_on(read_image(&disk)).expect("memory does not fail");
    assert!(image.len() <= 256, "an input names a unit by one byte, and there are {}", image.len());
    check_log(&image);
    image
}

/// What opening a store on the image says.
fn open(image: &Image) -> Result<()> {
    let executor = Executor::new(13);
    let disk = namespace();
    executor.block_on(write_image(&disk, image)).expect("memory does not fail");
    executor.block_on(async { Db::open_on(executor.env(), disk.clone(), options()).await.map(|_| ()) })
}

/// Checks that replay meets a record that begins with each of these kinds of operations: if the
/// kind is changed to none, opening notices, or takes it for the log's torn end. After a checkpoint
/// it would do neither.
fn check_log(image: &Image) {
    open(image).expect("the image is that of a store");
    let kinds = log_kinds(image);
    for kind in FIRST_KINDS {
        let is_met = |&(index, at, found): &(usize, usize, u8)| {
            let mut damaged = image.clone();
            damaged[index].1[at] = NO_KIND;
            found == kind && open(&damaged).is_err_and(|error| error.kind() == ErrorKind::Corrupt)
        };
        // The newest are the last.
        assert!(kinds.iter().rev().any(is_met), "replay meets no record of kind {kind}: {kinds:?}");
    }
}

/// Where the log holds the kind of each record's first operation, as the index of the unit in
/// `image` and the place in it, and the kind (docs/disk-format.md, section 10).
fn log_kinds(image: &Image) -> Vec<(usize, usize, u8)> {
    let mut kinds = Vec::new();
    for (first, (_, head)) in image.iter().enumerate().filter(|(_, (_, unit))| unit.starts_with(b"bLG2")) {
        // A batch, and units after it that it may reach into.
        let log: Vec<u8> = image[first..].iter().take(64).flat_map(|(_, unit)| unit).copied().collect();
        let u32_at = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().expect("four bytes")) as usize;
        let end = BATCH_HEADER_BYTES + u32_at(4);
        let mut record = BATCH_HEADER_BYTES + u32_at(52) * BUNDLE_ENTRY_BYTES;
        assert!(!head.is_empty() && end <= log.len(), "the image has whole batches");
        while record < end {
            let kind = record + RECORD_HEAD_BYTES;
            kinds.push((first + kind / UNIT, kind % UNIT, log[kind] & 15));
            record = kind + u32_at(record);
        }
    }
    kinds
}

/// Changes: which unit, where in it, how many bytes, and these bytes.
fn change(image: &mut Image, mut data: &[u8]) {
    while let [unit, low, high, len, rest @ ..] = data {
        let index = usize::from(*unit) % image.len();
        let at = usize::from(u16::from_le_bytes([*low, *high])) % UNIT;
        let (bytes, after) = rest.split_at(rest.len().min(usize::from(len % 32)).min(UNIT - at));
        image[index].1[at..at + bytes.len()].copy_from_slice(bytes);
        data = after;
    }
    let first = image[0].1.clone();
    for (offset, unit) in image.iter_mut() {
        if let Some(number) = COPIES.iter().position(|copy| copy == offset) {
            unit.copy_from_slice(&first);
            unit[COPY_NUMBER_OFFSET] = u8::try_from(number).expect("there are four");
        }
    }
}

/// Everything that reads, and much that writes. Errors are fine.
async fn look(env: SimEnv, disk: MemoryNamespace) -> Result<()> {
    let db = Db::open_on(env, disk, options()).await?;
    for name in db.tree_names() {
        let tree = db.tree(&name)?;
        let (mut up, mut down) = (tree.range(..), tree.range_descending(..));
        // Damage may make a circle of pages; 5000 keys are more than there were.
        for _ in 0..5000 {
            if !matches!(up.next().await, Ok(Some(_))) {
                break;
            }
        }
        let _ = down.next().await;
        let _ = tree.get(b"key 00700").await;
        let _ = tree.random(|| 0x1234_5678_9abc_def0).await;
        let _ = tree.delete(b"key 00300").await;
        let _ = tree.put(b"key 00701", &[3; 2100]).await;
    }
    let _ = db.verify().await;
    let _ = db.checkpoint().await;
    // What is cleared is taken apart.
    for name in db.tree_names() {
        let _ = db.tree(&name)?.clear(WriteOptions::NONE).await;
    }
    let _ = db.checkpoint().await;
    db.close().await
}

fuzz_target!(|data: &[u8]| {
    let mut image = IMAGE.with(|kept| kept.get_or_init(image).clone());
    change(&mut image, data);
    let executor = Executor::new(12);
    let disk = namespace();
    executor.block_on(write_image(&disk, &image)).expect("memory does not fail");
    let _ = executor.block_on(look(executor.env(), disk.clone()));
});
