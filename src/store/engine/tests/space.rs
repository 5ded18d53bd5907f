//! A store that becomes full, and one that grows.

use rand::seq::{IndexedRandom, SliceRandom};

use super::*;
use crate::block::Namespace;
use crate::error::{ErrorKind, Result};

/// What a round of filling came to.
struct Filled {
    entries: u64,
    user_bytes: u64,
}

fn value_of(key: u64, version: u64, len: usize) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(key << 20 ^ version);
    let mut value = vec![0; len];
    random.fill(&mut value[..]);
    value
}

type Kept = BTreeMap<u64, (u64, usize)>;

async fn try_put(store: &Store, key: u64, version: u64, len: usize) -> Result<u64> {
    let (key_bytes, value) = (key.to_be_bytes(), value_of(key, version, len));
    store.write(catalog(), &key_bytes, Change::Put(&value), Durability::None).await
}

/// Puts new keys until one is refused, in ascending order: the keys of each filling lie between
/// those of the others.
async fn fill(store: &Store, kept: &mut Kept, random: &mut StdRng, lens: std::ops::Range<usize>) -> Filled {
    let odd = random.random_range(0..1024);
    for key in 0.. {
        let (key, len) = (key << 10 | odd, random.random_range(lens.clone()));
        match try_put(store, key, 0, len).await {
            Ok(_) => _ = kept.insert(key, (0, len)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                assert_eq!(error.outcome(), crate::error::Outcome::NotStarted);
                break;
            }
        }
    }
    let user_bytes = kept.values().map(|(_, len)| *len as u64 + 8).sum();
    Filled { entries: kept.len() as u64, user_bytes }
}

async fn check_kept(store: &Store, kept: &Kept) {
    for (&key, &(version, len)) in kept {
        let found = get(store, &key.to_be_bytes()).await;
        assert!(
            found == Some(value_of(key, version, len)),
            "key {key}: {:?}",
            found.map(|found| found.len())
        );
    }
}

/// Fills, overwrites all, deletes half, and again, with the store opened anew in between.
fn full_again_and_again(lens: std::ops::Range<usize>, rounds: u32, least_share: f64) {
    const SIZE: u64 = 64 << 20;
    let mut options = MemoryOptions::new(SIZE);
    options = options.volatile_cache(true);
    let (world, disk) = (World::new(7), Disk::new(options, 1));
    world.core("core").block_on(async {
        let (mut kept, mut random) = (Kept::new(), StdRng::seed_from_u64(11));
        for round in 0..rounds {
            let store = reopen(&disk).await;
            let filled = fill(&store, &mut kept, &mut random, lens.clone()).await;
            let share = filled.user_bytes as f64 / SIZE as f64;
            let taken = store.shared.space.taken();
            eprintln!("round {round}: {} entries, {share:.3} of the device; {taken:?}", filled.entries);
            assert!(share >= least_share, "{share}");
            let mut keys: Vec<u64> = kept.keys().copied().collect();
            // In order, and some of them in no order, which is much more to clean.
            let scattered: Vec<u64> = keys.choose_multiple(&mut random, 300).copied().collect();
            for key in keys.iter().chain(&scattered) {
                let entry = kept.get_mut(key).expect("it was put");
                entry.0 += 1;
                try_put(&store, *key, entry.0, entry.1).await.expect("an overwrite is always admitted");
            }
            keys.shuffle(&mut random);
            eprintln!("round {round}: overwritten");
            if round % 2 == 0 {
                check_kept(&store, &kept).await;
            }
            store.close().await.expect("it closes");
            drop(store);
            let store = reopen(&disk).await;
            check_kept(&store, &kept).await;
            for key in &keys[..keys.len() / 2] {
                let deleted =
                    store.write(catalog(), &key.to_be_bytes(), Change::Delete, Durability::None).await;
                deleted.expect("a delete is always admitted");
                kept.remove(key);
            }
            check_kept(&store, &kept).await;
            store.close().await.expect("it closes");
        }
    });
}

#[test]
#[ignore = "takes minutes without optimisation"]
fn a_full_store_takes_overwrites_and_deletes_and_becomes_full_again() {
    full_again_and_again(500..1000, 2, 0.70);
}

#[test]
#[ignore = "takes minutes without optimisation"]
fn a_store_full_of_small_entries_does_too() {
    full_again_and_again(60..140, 1, 0.60);
}

/// A file that starts with nothing grows by portions, and what was written is there when it is
/// opened again.
#[test]
#[ignore = "takes minutes without optimisation"]
fn a_namespace_that_may_grow_grows_until_it_is_as_large_as_it_may_be() {
    const MOST: u64 = 144 << 20;
    let options = MemoryOptions::new(0).max_size_bytes(MOST).volatile_cache(true);
    let (world, disk) = (World::new(7), Disk::new(options, 1));
    world.core("core").block_on(async {
        let (mut kept, mut random) = (Kept::new(), StdRng::seed_from_u64(5));
        let store = reopen(&disk).await;
        assert_eq!(disk.size_bytes(), 64 << 20, "it starts small");
        for key in 0..30_000 {
            try_put(&store, key << 10, 0, 900).await.expect("it grows");
            kept.insert(key << 10, (0, 900));
        }
        assert_eq!(disk.size_bytes(), 96 << 20, "it grew by one portion");
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        check_kept(&store, &kept).await;
        let filled = fill(&store, &mut kept, &mut random, 900..1000).await;
        assert_eq!(disk.size_bytes(), MOST);
        let share = filled.user_bytes as f64 / MOST as f64;
        eprintln!("{share:.3} of a namespace that has grown");
        assert!(share > 0.6, "{share}");
        store.close().await.expect("it closes");
        drop(store);
        let store = reopen(&disk).await;
        check_kept(&store, &kept).await;
    });
}

/// A fresh store on a file takes few of the disk's blocks, however long the file is.
#[cfg(unix)]
#[test]
fn a_fresh_store_on_a_file_takes_less_than_8_mib_of_the_disk() {
    use std::os::unix::fs::MetadataExt;

    use crate::block::{AnyDevice, Device, NamespaceAddress};

    let path = std::env::temp_dir().join(format!("boson-fresh-store-{}", std::process::id()));
    let address: NamespaceAddress = format!("file:{}", path.display()).parse().expect("an address");
    crate::run(async move {
        let device = AnyDevice::open(&address).await.expect("it opens");
        let namespace = device.attach().await.expect("it attaches");
        let store = open(RtEnv, namespace, &options()).await.expect("a fresh store");
        store.close().await.expect("it closes");
    });
    let file = std::fs::metadata(&path).expect("the file");
    std::fs::remove_file(&path).expect("it is there");
    let taken = file.blocks() * 512;
    eprintln!("{taken} bytes on the disk, of {}", file.len());
    assert!(taken < 8 << 20, "{taken}");
    assert!(file.len() >= 64 << 20, "it is sparse");
}
