//! Trees whose pages come and go: a device of the tests has images by their addresses, writes any
//! page at any time, evicts what is clean, and loads what is missed.

use std::collections::HashMap;
use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::btree::miss::ColdPage;
use crate::store::btree::nodes::{LoadedPage, NotInstalled};
use crate::store::word::{ColdAddress, MapView, SecondWord};

/// Images by their addresses, and where the newest one of each page in memory lies.
#[derive(Default)]
struct Device {
    images: HashMap<ColdAddress, Captured>,
    homes: HashMap<PageId, (ColdAddress, SecondWord)>,
    loads: u64,
    evictions: u64,
    /// Pages that changed between their capture and their installation.
    overtaken: u64,
}

impl Device {
    fn write(&mut self, captured: Captured) -> (ColdAddress, SecondWord) {
        let granule = 1024 * (1 + self.images.len() as u64);
        let granules = u32::try_from(captured.image.len().div_ceil(64)).expect("small") + 1;
        let address = ColdAddress::new(granule, granules).expect("a small address");
        let second = SecondWord::new(0, captured.child.epoch(), false, false);
        self.images.insert(address, captured);
        (address, second)
    }

    /// Loads a page, if nobody else has.
    fn load<M: NodeMemory>(&mut self, pin: &Pin<'_, M>, cold: &ColdPage) {
        let MapView::Cold { address, .. } = cold.word.view() else { panic!("the page is cold") };
        let page = &self.images[&address];
        let loaded = LoadedPage {
            child: page.child,
            tree: page.tree,
            level: page.level,
            newest: page.newest,
            image: &page.image,
        };
        if pin.install_loaded(cold, &loaded).expect("room, and a page as it was written") {
            self.homes.insert(cold.id, (address, cold.second));
            self.loads += 1;
        }
    }
}

/// Writes a page, which may change between its capture and its installation if `between` does that.
fn flush<M: NodeMemory>(core: &Core<M>, device: &Mutex<Device>, id: PageId, between: impl FnOnce()) {
    let Ok(Capture::Page(captured)) = core.pin().capture(id) else { return };
    let mut locked = device.lock().expect("no test panics");
    let (address, second) = locked.write(captured.clone());
    drop(locked);
    between();
    let mut locked = device.lock().expect("no test panics");
    let pin = core.pin();
    // Only the owner of a page in memory has a home.
    if matches!(pin.find(id), Ok(Some((node, _))) if node.child() == captured.child) {
        locked.homes.insert(id, (address, second));
    }
    locked.overtaken += u64::from(!pin.install_flushed(&captured, address));
}

fn evict<M: NodeMemory>(core: &Core<M>, device: &Mutex<Device>, id: PageId) {
    let mut device = device.lock().expect("no test panics");
    let Some((home, second)) = device.homes.get(&id).copied() else { return };
    if core.pin().evict(id, home, second) {
        device.homes.remove(&id);
        device.evictions += 1;
    }
}

/// Does `operation` until no page is missed.
fn loading<M: NodeMemory, T>(
    core: &Core<M>,
    device: &Mutex<Device>,
    mut operation: impl FnMut(&Pin<'_, M>) -> Result<T, Refusal>,
) -> T {
    loop {
        let pin = core.pin();
        match operation(&pin) {
            Ok(done) => return done,
            Err(Refusal::Miss(Miss::Page(cold))) => {
                device.lock().expect("no test panics").load(&pin, &cold);
            }
            Err(refusal) => panic!("{refusal:?}"),
        }
    }
}

fn get<M: NodeMemory>(core: &Core<M>, device: &Mutex<Device>, root: TreeRoot, key: &[u8]) -> Option<Vec<u8>> {
    loading(core, device, |pin| Ok(pin.get(root, key)?.map(|found| found.value.to_vec())))
}

fn scan<M: NodeMemory>(
    core: &Core<M>,
    device: &Mutex<Device>,
    root: TreeRoot,
    mut target: Target<Vec<u8>>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let (leaf, next) = loading(core, device, |pin| {
            let mut leaf = Vec::new();
            let each = |key: &[u8], found: Value<'_>| leaf.push((key.to_vec(), found.value.to_vec()));
            let next = pin.scan_leaf(root, &target, each)?;
            Ok((leaf, next))
        });
        all.extend(leaf);
        target = match (&target, next) {
            (_, None) => return all,
            (Target::At(_), Some(next)) => Target::At(next),
            (Target::Below(_), Some(next)) => Target::Below(Some(next)),
        };
    }
}

fn any_page(random: &mut StdRng, pages: usize) -> PageId {
    PageId::of_test(16 + random.random_range(0..pages as u64 * 2 + 4))
}

/// One core writes, reads and scans while any page is written and evicted after each step.
#[test]
fn one_core_sees_a_map_over_pages_that_come_and_go() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let pages = pages(1);
        let core = pages.attach().expect("a core");
        let root = core.new_tree(1).expect("room");
        let device = Mutex::new(Device::default());
        let seq = AtomicU64::new(0);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        // It grows, shrinks to nothing, and grows again.
        for step in 0..9000u32 {
            let mut numbers = draw(&seq);
            let is_growing = step / 3000 != 1;
            let key = key_of(random.random_range(0..1500));
            match random.random_range(0..100) {
                0..45 if is_growing => {
                    let value = vec![random.random(); random.random_range(0..300)];
                    loading(&core, &device, |pin| pin.write(root, &key, Change::Put(&value), &mut numbers));
                    model.insert(key, value);
                }
                0..75 => {
                    let key = match model.range(key.clone()..).next() {
                        Some((present, _)) if !is_growing => present.clone(),
                        _ => key,
                    };
                    if !is_growing || random.random_range(0..4) == 0 {
                        loading(&core, &device, |pin| pin.write(root, &key, Change::Delete, &mut numbers));
                        model.remove(&key);
                    }
                }
                75..90 => {
                    loading(&core, &device, |pin| {
                        let append = |found: Option<Value<'_>>, value: &mut Vec<u8>| {
                            value.extend_from_slice(found.map_or(&[], |found| found.value));
                            value.truncate(200);
                            value.push(7);
                        };
                        let decide = |found: Option<Value<'_>>, value: &mut Vec<u8>| append(found, value);
                        pin.update(
                            root,
                            &key,
                            |found, value| {
                                decide(found, value);
                                Some(Change::Put(value))
                            },
                            &mut numbers,
                        )
                    });
                    let value = model.entry(key).or_default();
                    value.truncate(200);
                    value.push(7);
                }
                _ => assert_eq!(get(&core, &device, root, &key), model.get(&key).cloned()),
            }
            let in_use = pages.pages_in_use();
            for _ in 0..random.random_range(0..3) {
                flush(&core, &device, any_page(&mut random, in_use), || {});
                evict(&core, &device, any_page(&mut random, in_use));
            }
            if step % 997 == 0 {
                let expected: Vec<_> = model.clone().into_iter().collect();
                assert_eq!(scan(&core, &device, root, Target::At(Vec::new())), expected);
                let mut all = scan(&core, &device, root, Target::Below(None));
                all.reverse();
                assert_eq!(all, expected);
            }
            core.collect();
        }
        let device = device.into_inner().expect("no test panics");
        assert!(device.loads > 300 && device.evictions > 300, "{} loads", device.loads);
        assert_eq!(device.overtaken, 0, "nobody else writes");
    }
}

/// Cores write keys of their own, and count together. One of them at a time, the keeper, writes
/// pages and evicts them.
#[test]
fn cores_lose_nothing_over_pages_that_come_and_go() {
    const ROUNDS: u64 = 6000;
    for writers in [1, 3] {
        let pages = pages(writers + 1);
        let root = pages.attach().expect("a core").new_tree(1).expect("room");
        let device = Mutex::new(Device::default());
        let (seq, done, keeper) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(()));
        std::thread::scope(|scope| {
            for thread in 0..writers {
                let (pages, device, seq, done, keeper) = (&pages, &device, &seq, &done, &keeper);
                scope.spawn(move || {
                    let core = pages.attach().expect("a core");
                    let mut random = StdRng::seed_from_u64(thread as u64);
                    let thread = u8::try_from(thread).expect("small");
                    let mut numbers = draw(seq);
                    for number in 0..ROUNDS {
                        let count = (number * 7919 % 64).to_be_bytes();
                        loading(&core, device, |pin| {
                            pin.update(
                                root,
                                &count,
                                |found, value| {
                                    let count = found.map_or(0, |found| {
                                        u64::from_le_bytes(found.value.try_into().expect("8 bytes"))
                                    });
                                    value.extend_from_slice(&(count + 1).to_le_bytes());
                                    Some(Change::Put(value))
                                },
                                &mut numbers,
                            )
                        });
                        let own = |number: u64| {
                            [&(number * 7919 % 64).to_be_bytes()[..], &[thread], &number.to_be_bytes()]
                                .concat()
                        };
                        let (key, change) = (own(number), Change::Put(&[1; 100]));
                        loading(&core, device, |pin| pin.write(root, &key, change, &mut numbers));
                        if let Some(old) = number.checked_sub(300).map(own) {
                            assert!(get(&core, device, root, &old).is_some(), "an own key is lost");
                            loading(&core, device, |pin| pin.write(root, &old, Change::Delete, &mut numbers));
                            assert_eq!(get(&core, device, root, &old), None, "what was deleted is back");
                        }
                        if number % 4 == 0 {
                            keep(&core, pages, device, keeper, &mut random);
                        }
                    }
                    done.fetch_add(1, Ordering::Release);
                });
            }
            let core = pages.attach().expect("a core");
            let mut random = StdRng::seed_from_u64(9);
            while done.load(Ordering::Acquire) < writers as u64 {
                keep(&core, &pages, &device, &keeper, &mut random);
            }
        });
        let core = pages.attach().expect("a core");
        let all = scan(&core, &device, root, Target::At(Vec::new()));
        let counts = all.iter().filter(|(key, _)| key.len() == 8);
        let sum: u64 =
            counts.map(|(_, value)| u64::from_le_bytes(value[..].try_into().expect("8 bytes"))).sum();
        assert_eq!(sum, writers as u64 * ROUNDS);
        assert_eq!(all.len(), 64 + writers * 300);
        let device = device.into_inner().expect("no test panics");
        assert!(device.evictions > 200, "{} pages were evicted", device.evictions);
    }
}

/// Writes and evicts a page. One core at a time does such a thing.
fn keep<M: NodeMemory>(
    core: &Core<M>,
    pages: &Nodes<M>,
    device: &Mutex<Device>,
    keeper: &Mutex<()>,
    random: &mut StdRng,
) {
    let _role = keeper.lock().expect("no test panics");
    let id = any_page(random, pages.pages_in_use());
    let is_slow = random.random_range(0..16) == 0;
    flush(core, device, id, || {
        if is_slow {
            std::thread::yield_now();
        }
    });
    evict(core, device, id);
    core.collect();
}

/// A tree of `records`, all of whose pages are on the device, and none in memory.
fn all_cold(records: u32) -> (Arc<Nodes<ProcessMemory>>, TreeRoot, Mutex<Device>) {
    let pages = pages(1);
    let core = pages.attach().expect("a core");
    let root = core.new_tree(3).expect("room");
    let seq = AtomicU64::new(0);
    for number in 0..records {
        let key = number.to_be_bytes();
        core.pin().write(root, &key, Change::Put(&[5; 50]), &mut draw(&seq)).expect("room");
    }
    let device = Mutex::new(Device::default());
    for id in 16..16 + pages.pages_in_use() as u64 {
        flush(&core, &device, PageId::of_test(id), || {});
        evict(&core, &device, PageId::of_test(id));
    }
    let locked = device.lock().expect("no test panics");
    assert_eq!(locked.evictions, locked.images.len() as u64);
    drop(locked);
    drop(core);
    (pages, root, device)
}

#[test]
fn every_operation_says_what_it_misses() {
    let (pages, root, device) = all_cold(2000);
    let core = pages.attach().expect("a core");
    let seq = AtomicU64::new(0);
    let key = 700u32.to_be_bytes();
    let root_is_missed =
        |refusal: Refusal| matches!(refusal, Refusal::Miss(Miss::Page(cold)) if cold.id == root.root.id());
    let pin = core.pin();
    assert!(pin.get(root, &key).is_err_and(|miss| root_is_missed(miss.into())));
    assert!(pin.write(root, &key, Change::Delete, &mut draw(&seq)).is_err_and(root_is_missed));
    assert!(pin.update(root, &key, |_, _| Some(Change::Delete), &mut draw(&seq)).is_err_and(root_is_missed));
    assert!(pin.scan_leaf(root, &Target::Below(None), |_, _| ()).is_err_and(root_is_missed));
    assert_eq!(seq.load(Ordering::Acquire), 0, "no number is drawn for what is not done");
    drop(pin);
    assert_eq!(get(&core, &device, root, &key).as_deref(), Some(&[5; 50][..]));
    let loads = device.lock().expect("no test panics").loads;
    assert_eq!(loads, 2, "a root and a leaf");
    // What is in memory is clean, and goes again.
    let pin = core.pin();
    assert!(pin.find(root.root.id()).expect("in memory").is_some());
    drop(pin);
    evict(&core, &device, root.root.id());
    assert!(core.pin().find(root.root.id()).is_err());
    // A page that nobody was ever given.
    let far = PageId::of_test(1 << 19);
    assert_eq!(core.pin().find(far).err(), Some(Miss::Damaged(far)));
}

#[test]
fn what_is_not_the_page_is_not_installed() {
    let (pages, root, device) = all_cold(2000);
    let core = pages.attach().expect("a core");
    let pin = core.pin();
    let Err(Miss::Page(cold)) = pin.get(root, b"") else { panic!("the root is cold") };
    let MapView::Cold { address, .. } = cold.word.view() else { panic!("the root is cold") };
    let page = device.lock().expect("no test panics").images[&address].clone();
    let loaded = LoadedPage {
        child: page.child,
        tree: page.tree,
        level: page.level,
        newest: page.newest,
        image: &page.image,
    };
    let long = vec![0; 40 << 10];
    let other = ChildWord::new(page.child.id(), page.child.epoch().next());
    for wrong in [
        LoadedPage { image: &page.image[1..], ..loaded },
        LoadedPage { image: &long, ..loaded },
        LoadedPage { level: 0, ..loaded },
        LoadedPage { child: other, ..loaded },
    ] {
        let refused = pin.install_loaded(&cold, &wrong);
        assert!(matches!(refused, Err(NotInstalled::Damaged(_))), "{refused:?}");
    }
    assert_eq!(pin.install_loaded(&cold, &loaded), Ok(true));
    assert_eq!(pin.install_loaded(&cold, &loaded), Ok(false), "somebody else was faster");
    assert!(!pin.install_damaged(&cold));
    let Err(Miss::Page(cold)) = pin.get(root, b"") else { panic!("the leaf is cold") };
    assert!(pin.install_damaged(&cold));
    assert_eq!(pin.get(root, b""), Err(Miss::Damaged(cold.id)));
}

/// A page that changed after its capture keeps the change, and is not clean.
#[test]
fn what_is_captured_is_installed_only_over_itself() {
    let (pages, root, device) = all_cold(10);
    let core = pages.attach().expect("a core");
    let seq = AtomicU64::new(100);
    let (id, key) = (root.root.id(), 3u32.to_be_bytes());
    let write = |value: &[u8]| {
        loading(&core, &device, |pin| pin.write(root, &key, Change::Put(value), &mut draw(&seq)));
    };
    write(b"one");
    let home = device.lock().expect("no test panics").homes[&id].0;
    assert!(!core.pin().evict(id, home, SecondWord::new(0, root.root.epoch(), false, false)), "it is dirty");
    flush(&core, &device, id, || write(b"two"));
    assert_eq!(device.lock().expect("no test panics").overtaken, 1);
    evict(&core, &device, id);
    assert_eq!(core.pin().get(root, &key).map(|found| found.map(|found| found.value)), Ok(Some(&b"two"[..])));
    // A node that was put there meanwhile and holds the same is as good.
    let Ok(Capture::Page(captured)) = core.pin().capture(id) else { panic!("a page") };
    assert_eq!((captured.tree, captured.level, captured.newest, captured.place), (3, 0, 102, None));
    let refused = core.pin().update(root, &key, |_, _| None, &mut draw(&seq));
    assert_eq!(refused, Ok(None));
    flush(&core, &device, id, || {});
    evict(&core, &device, id);
    assert!(core.pin().get(root, &key).is_err(), "it was clean and is cold");
    assert_eq!(get(&core, &device, root, &key).as_deref(), Some(&b"two"[..]));
}

/// A leaf that somebody is writing to stays. A writer that was at the leaf when it went comes back:
/// its write is not in what nobody reads.
#[test]
fn who_writes_to_a_leaf_that_goes_is_refused() {
    use crate::store::btree::area::{Kind, NewEntry, Refused, Written};

    let (pages, root, device) = all_cold(10);
    let core = pages.attach().expect("a core");
    let seq = AtomicU64::new(100);
    let id = root.root.id();
    loading(&core, &device, |pin| pin.write(root, b"key", Change::Put(b"1"), &mut draw(&seq)));
    flush(&core, &device, id, || {});
    let pin = core.pin();
    let (node, _) = pin.find(id).expect("in memory").expect("a page");
    let entry = NewEntry::new(Kind::Put, 1, b"key", b"2");
    let late = node.area().reserve(&entry).expect("room");
    evict(&core, &device, id);
    assert!(pin.find(id).is_ok(), "somebody is writing to it");
    drop(late);
    evict(&core, &device, id);
    assert!(pin.find(id).is_err(), "it was clean");
    assert_eq!(node.area().write(&entry, |_| false, |_| 2), Written::Refused(Refused::Frozen));
}
