//! The disk format: a store opens, reads, writes and verifies what is left after some bytes of it
//! were changed.
//!
//! Under the fuzzer every checksum has the same value (`cfg(fuzzing)` in `store::codec`), so each
//! change reaches the decoder that the checksum stands in front of: superblock, catalog, allocation
//! map, index pages, leaves, inner pages, batches, records.
#![no_main]

use std::cell::OnceCell;

use boson::Result;
use boson::block::{MemoryNamespace, Namespace};
use boson::mem::DmaBuf;
use boson::sim::{Executor, SimEnv};
use boson::store::{Db, MIN_LOG_BYTES, Options, WriteOptions};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 16 << 20;
const UNIT: usize = 4096;
/// Where the copies of the superblock are. A change of the first is made to all.
const COPIES: [u64; 4] = [0, 1 << 20, 2 << 20, 3 << 20];

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
    for number in 0..1500u32 {
        let key = format!("key {number:05}");
        small.put_with(key.as_bytes(), &[7; 40], WriteOptions::NONE).await?;
    }
    for len in [3000, 100_000, 1_200_000] {
        large.put(format!("{len}").as_bytes(), &vec![1; len]).await?;
    }
    db.checkpoint().await?;
    for number in 0..20u32 {
        small.put(format!("key {number:05}").as_bytes(), &[8; 60]).await?;
        small.delete(format!("key {:05}", number + 700).as_bytes()).await?;
    }
    large.put(b"logged", &[2; 2500]).await?;
    db.tree("empty")?.put(b"k", b"v").await?;
    db.tree("empty")?.clear(WriteOptions::SYNC).await
    // As after a kill: it is dropped, not closed.
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

fn image() -> Image {
    let executor = Executor::new(11);
    let disk = namespace();
    executor.block_on(fill(executor.env(), disk.clone())).expect("memory does not fail");
    executor.crash();
    executor.block_on(read_image(&disk)).expect("memory does not fail")
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
    for (_, unit) in image.iter_mut().filter(|(offset, _)| COPIES.contains(offset)) {
        unit.copy_from_slice(&first);
    }
}

/// Everything that reads. Errors are fine.
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
    // What is cleared is walked to find its units.
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
    let write = async {
        for (offset, unit) in &image {
            let mut buffer = DmaBuf::zeroed(UNIT);
            buffer.copy_from_slice(unit);
            disk.write(*offset, buffer).await?;
        }
        Ok::<(), boson::Error>(())
    };
    executor.block_on(write).expect("memory does not fail");
    let _ = executor.block_on(look(executor.env(), disk.clone()));
});
