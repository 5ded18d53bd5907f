//! The disk format: a store opens, reads, writes and verifies what is left after some bytes of it
//! were changed.
//!
//! Under the fuzzer every checksum has the same value (`cfg(fuzzing)` in `store::codec`), so each
//! change reaches the decoder that the checksum stands in front of: superblock, catalog, allocation
//! map, index pages, leaves, inner pages, batches, records.
#![no_main]

use std::cell::OnceCell;

use boson::block::{MemoryNamespace, Namespace};
use boson::mem::DmaBuf;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, MAX_KEY_BYTES, MIN_LOG_BYTES, Options, Txn, WriteOptions};
use boson::{ErrorKind, Result};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 16 << 20;
const UNIT: usize = 4096;
/// Where the copies of the superblock are. A change of the first is made to all.
const COPIES: [u64; 4] = [0, 1 << 20, 2 << 20, 3 << 20];
const LOG_OFFSET: u64 = 4 << 20;
const BATCH_HEADER_BYTES: usize = 96;
/// The kinds of operations in the log are numbered from 1.
const LAST_KIND: u8 = 6;

/// The units of a namespace that are not all zeros, by their offsets.
type Image = Vec<(u64, Vec<u8>)>;

thread_local! {
    static IMAGE: OnceCell<Image> = const { OnceCell::new() };
}

fn options() -> Options {
    Options::default().identity([5; 16]).log_bytes(MIN_LOG_BYTES)
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
    for len in [3000, 40_000, 1_050_000] {
        large.put(format!("{len}").as_bytes(), &vec![1; len]).await?;
    }
    db.checkpoint().await?;
    for number in 0..20u32 {
        small.put(format!("key {number:05}").as_bytes(), &[8; 60]).await?;
        small.delete(format!("key {:05}", number + 700).as_bytes()).await?;
    }
    large.put(b"logged", &[2; 2500]).await?;
    // Too long for the log, which refers to it.
    large.put(b"external", &vec![1; 140_000]).await?;
    spill(&db).await?;
    db.tree("empty")?.put(b"k", b"v").await?;
    db.tree("empty")?.clear(WriteOptions::SYNC).await
    // As after a kill: it is dropped, not closed.
}

/// A transaction whose record is longer than the log takes, a quarter of the ring: it is written to
/// a place of its own. Long keys make it of few operations.
async fn spill(db: &Db<SimEnv, MemoryNamespace>) -> Result<()> {
    let (small, large, long) = (db.tree("small")?, db.tree("large")?, db.tree("long")?);
    let long_keys: Vec<_> = (1..=22).map(|number| vec![number; MAX_KEY_BYTES]).collect();
    let mut keys = vec![(&small, &b"key 00750"[..]), (&large, &b"spilled"[..])];
    keys.extend(long_keys.iter().map(|key| (&long, &key[..])));
    let write = |txn: &mut Txn<'_>| {
        txn.delete(&small, b"key 00750");
        txn.put(&large, b"spilled", &[1; 3000]);
        long_keys.iter().for_each(|key| txn.put(&long, key, &[1; 2048]));
    };
    db.transact(&keys, WriteOptions::default(), write).await
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

/// Checks that replay meets a record that begins with each kind of operation: if the kind is
/// changed to none, opening notices. After a checkpoint it would not.
fn check_log(image: &Image) {
    open(image).expect("the image is that of a store");
    let kinds = log_kinds(image);
    for kind in 1..=LAST_KIND {
        let is_met = |&(index, at, found): &(usize, usize, u8)| {
            let mut damaged = image.clone();
            damaged[index].1[at] = 0;
            found == kind && open(&damaged).is_err_and(|error| error.kind() == ErrorKind::Corrupt)
        };
        // The newest are the last.
        assert!(kinds.iter().rev().any(is_met), "replay meets no record of kind {kind}: {kinds:?}");
    }
}

/// Where the log holds the kind of each record's first operation, as the index of the unit in
/// `image` and the place in it, and the kind (docs/disk-format.md, section 6).
fn log_kinds(image: &Image) -> Vec<(usize, usize, u8)> {
    let first = image.iter().position(|(offset, _)| *offset == LOG_OFFSET).expect("a log");
    let log: Vec<u8> = image[first..].iter().flat_map(|(_, unit)| unit).copied().collect();
    let u32_at = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().expect("four bytes")) as usize;
    let mut kinds = Vec::new();
    let mut batch = 0;
    while log[batch..].starts_with(b"bLOG") {
        let mut record = batch + BATCH_HEADER_BYTES;
        let end = record + u32_at(batch + 4);
        while record < end {
            let kind = record + 4;
            kinds.push((first + kind / UNIT, kind % UNIT, log[kind]));
            record = kind + u32_at(record);
        }
        batch = end.next_multiple_of(UNIT);
    }
    kinds
}

/// Changes: which unit, where in it, how many bytes, and these bytes. Returns whether all are in
/// the log.
fn change(image: &mut Image, mut data: &[u8]) -> bool {
    let mut only_log = true;
    while let [unit, low, high, len, rest @ ..] = data {
        let index = usize::from(*unit) % image.len();
        let at = usize::from(u16::from_le_bytes([*low, *high])) % UNIT;
        let (bytes, after) = rest.split_at(rest.len().min(usize::from(len % 32)).min(UNIT - at));
        only_log &= (LOG_OFFSET..LOG_OFFSET + MIN_LOG_BYTES).contains(&image[index].0);
        image[index].1[at..at + bytes.len()].copy_from_slice(bytes);
        data = after;
    }
    let first = image[0].1.clone();
    for (_, unit) in image.iter_mut().filter(|(offset, _)| COPIES.contains(offset)) {
        unit.copy_from_slice(&first);
    }
    only_log
}

/// Everything that reads. Errors are fine; but whatever the log says, replay lets no two objects
/// have the same units.
async fn look(env: SimEnv, disk: MemoryNamespace, only_log: bool) -> Result<()> {
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
    if let Ok(report) = db.verify().await
        && only_log
    {
        let shared = report.damage.iter().find(|found| found.contains("are used twice"));
        assert_eq!(shared, None, "after replay");
    }
    let _ = db.checkpoint().await;
    // What is cleared is walked to find its units.
    for name in db.tree_names() {
        let _ = db.tree(&name)?.clear(WriteOptions::NONE).await;
    }
    let _ = db.checkpoint().await;
    db.close().await
}

fuzz_target!(|data: &[u8]| {
    let mut image = IMAGE.with(|kept| kept.get_or_init(image).clone());
    let only_log = change(&mut image, data);
    let executor = Executor::new(12);
    let disk = namespace();
    executor.block_on(write_image(&disk, &image)).expect("memory does not fail");
    let _ = executor.block_on(look(executor.env(), disk.clone(), only_log));
});
