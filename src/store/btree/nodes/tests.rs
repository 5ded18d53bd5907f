use super::*;
use crate::store::btree::area::{Kind, NewEntry, Written, spin};
use crate::store::btree::homes::{Home, Installed, MapFreeze};
use crate::store::btree::map::FRAME_PAGES;
use crate::store::btree::miss::ColdPage;
use crate::store::btree::node::{AreaSize, ProcessMemory};
use crate::store::pages::MapPage;
use crate::store::word::ColdAddress;

type Pages = Arc<Nodes<ProcessMemory>>;

fn pages() -> (Pages, Core<ProcessMemory>) {
    let pages = Nodes::new(ProcessMemory, 1 << 18, 2);
    let core = pages.attach().expect("the first core");
    (pages, core)
}

fn image(granule: u64) -> Home {
    let checksum = u32::try_from(granule).expect("small");
    let address = ColdAddress::new(granule, 1).expect("small");
    Home { address, second: SecondWord::new(checksum, Epoch::FIRST, false, false) }
}

fn word(granule: u64) -> MapWord {
    MapWord::cold(image(granule).address, 0).expect("young")
}

/// A node whose image lies at `granule`; 0 is nowhere.
fn build<'p>(
    pin: &'p Pin<'_, ProcessMemory>,
    child: ChildWord,
    granule: u64,
    area: AreaSize,
) -> Option<NewNode<'p, ProcessMemory>> {
    let place = (granule != 0).then(|| image(granule).address);
    pin.build(&Shape { place, ..Shape::new(child, 0, area, 64) }, Room::Ordinary)
}

/// A page that is clean, with an area.
fn clean_page(pages: &Pages, pin: &Pin<'_, ProcessMemory>, granule: u64) -> PageId {
    let child = pin.create(None, |child| build(pin, child, granule, AreaSize::ALL[1]));
    let id = child.expect("memory").id();
    let installed = pages.homes().install(pages.map(), id, image(granule), &mut MapFreeze::default());
    assert_eq!(installed, Installed::Newest { left: None });
    id
}

fn found<'p>(pin: &'p Pin<'_, ProcessMemory>, id: PageId) -> (NodeRef<'p>, MapWord) {
    pin.find(id).expect("nothing is missed").expect("it is in memory")
}

fn write(pin: &Pin<'_, ProcessMemory>, id: PageId, kind: Kind) -> Written {
    let (node, _) = found(pin, id);
    let entry = NewEntry::new(kind, 1, b"key", if kind == Kind::Put { b"value" } else { b"" });
    node.area().write(&entry, spin, |_| 7)
}

#[test]
fn a_clean_page_is_evicted_and_loaded_again() {
    let (pages, core) = pages();
    let pin = core.pin();
    let id = clean_page(&pages, &pin, 5);
    let bytes = found(&pin, id).0.len_bytes();
    assert_eq!(pin.try_evict(id), Eviction::Evicted { bytes });
    assert_eq!(pin.try_evict(id), Eviction::NotInMemory);
    let cold = ColdPage { id, word: word(5), second: image(5).second };
    assert_eq!(pin.load(id).err(), Some(Miss::Page(cold)));
    assert!(pin.is_current(&cold));
    let stale = ColdPage { second: image(6).second, ..cold };
    assert!(!pin.is_current(&stale));
    assert!(!pin.install_damaged(&stale), "it was another image");
    let put = |cold: &ColdPage| {
        let node = build(&pin, ChildWord::new(id, Epoch::FIRST), 5, AreaSize::NONE).expect("memory");
        let homes = pages.homes();
        let entry = pin.entry(id).expect("it is loaded");
        pin.put(node, |word| homes.admit(id, entry, (cold.word, cold.second), word))
    };
    assert!(!put(&stale), "it was another image");
    assert!(put(&cold));
    assert!(!put(&cold), "somebody was faster");
    assert!(matches!(pin.try_evict(id), Eviction::Evicted { .. }), "it is as it was");
    assert!(pin.install_damaged(&cold));
    assert_eq!(pin.load(id).err(), Some(Miss::Damaged(id)));
}

#[test]
fn what_is_not_loaded_is_a_miss() {
    let pages = Nodes::over(Map::open(1 << 18, 2 * FRAME_PAGES), ProcessMemory, 1);
    let core = pages.attach().expect("the first core");
    let miss = |id| core.pin().find(PageId::of_test(id)).err();
    assert_eq!(miss(FRAME_PAGES + 3), Some(Miss::Frame(1)));
    assert_eq!(miss(1 << 30), Some(Miss::Damaged(PageId::of_test(1 << 30))), "nobody names such a page");
    assert!(pages.map().install_frame(1, MapPage::default(), |_| false));
    assert_eq!(miss(FRAME_PAGES + 3), None);
}

#[test]
fn a_page_that_nobody_has_is_not_in_memory() {
    let (_pages, core) = pages();
    assert_eq!(core.pin().try_evict(PageId::of_test(1 << 30)), Eviction::NotInMemory);
}

#[test]
fn a_page_with_changes_stays() {
    let (pages, core) = pages();
    let pin = core.pin();
    let id = clean_page(&pages, &pin, 5);
    assert_eq!(write(&pin, id, Kind::Put), Written::Live(7));
    assert_eq!(pin.try_evict(id), Eviction::Dirty);
    assert_eq!(write(&pin, id, Kind::Put), Written::Live(7), "and its area is open");
}

#[test]
fn a_page_with_a_change_that_is_reserved_stays() {
    let (pages, core) = pages();
    let pin = core.pin();
    let id = clean_page(&pages, &pin, 5);
    let node = found(&pin, id).0;
    let reserved = node.area().reserve(&NewEntry::new(Kind::Delete, 1, b"key", b"")).expect("room");
    assert_eq!(pin.try_evict(id), Eviction::Dirty);
    drop(reserved);
    assert!(matches!(pin.try_evict(id), Eviction::Evicted { .. }), "it was aborted");
}

#[test]
fn copies_that_an_area_caches_go_with_the_page() {
    let (pages, core) = pages();
    let pin = core.pin();
    let id = clean_page(&pages, &pin, 5);
    assert_eq!(write(&pin, id, Kind::CachedAbsence), Written::Live(7));
    let area = found(&pin, id).0.area();
    assert!(matches!(pin.try_evict(id), Eviction::Evicted { .. }));
    assert!(area.is_frozen(), "a writer that has found the node comes back");
}

#[test]
fn a_page_that_is_not_what_is_durable_stays() {
    let (pages, core) = pages();
    let pin = core.pin();
    let never = pin.create(None, |child| build(&pin, child, 0, AreaSize::NONE)).expect("memory");
    assert_eq!(pin.try_evict(never.id()), Eviction::Dirty);
    let written = pin.create(None, |child| build(&pin, child, 8, AreaSize::NONE)).expect("memory");
    assert_eq!(pin.try_evict(written.id()), Eviction::Dirty, "it is being written");
    let id = clean_page(&pages, &pin, 5);
    let (node, current) = found(&pin, id);
    let successor = build(&pin, node.child(), 6, AreaSize::NONE).expect("memory");
    assert!(pin.install(id, current, successor));
    assert_eq!(pin.try_evict(id), Eviction::Dirty, "its newer image is not installed");
    pages.homes().install(pages.map(), id, image(6), &mut MapFreeze::default());
    assert!(matches!(pin.try_evict(id), Eviction::Evicted { .. }));
}

#[test]
fn a_page_that_a_cursor_holds_is_busy() {
    let (pages, core) = pages();
    let pin = core.pin();
    let id = clean_page(&pages, &pin, 5);
    let pins = found(&pin, id).0.pins();
    pins.fetch_add(1, Ordering::Relaxed);
    assert_eq!(pin.try_evict(id), Eviction::Busy);
    pins.fetch_sub(1, Ordering::Release);
    assert!(matches!(pin.try_evict(id), Eviction::Evicted { .. }));
}

#[test]
fn a_page_that_is_freed_leaves_its_home() {
    let (pages, core) = pages();
    let pin = core.pin();
    let id = clean_page(&pages, &pin, 5);
    let freed = ChildWord::new(id, Epoch::FIRST.next());
    assert_eq!(pin.release_durable(freed, &mut MapFreeze::default()), Some(image(5).address));
    assert_eq!(pages.homes().get(id), None);
    assert_eq!(pages.pages_in_use(), 0);
}

/// Writers of other cores find the page, write, or see that it is gone; nothing that they wrote is
/// gone with it.
#[test]
fn no_write_is_evicted() {
    const ROUNDS: u64 = 2_000;
    let (pages, core) = pages();
    for granule in 1..=ROUNDS {
        let id = clean_page(&pages, &core.pin(), granule);
        let is_written = std::thread::scope(|scope| {
            let pages = Arc::clone(&pages);
            let writer = scope.spawn(move || {
                let core = pages.attach().expect("the second core");
                let pin = core.pin();
                pin.find(id).is_ok_and(|found| found.is_some())
                    && write(&pin, id, Kind::Put) == Written::Live(7)
            });
            let evicted = core.pin().try_evict(id);
            let is_written = writer.join().expect("no panic");
            assert!(!is_written || evicted == Eviction::Dirty, "{evicted:?}");
            is_written
        });
        if is_written {
            let current = found(&core.pin(), id).1;
            core.pin().release(id, current, Epoch::FIRST);
        }
    }
}
