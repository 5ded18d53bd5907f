//! Where tasks come from: a name and a place in the program, one static value for each pair.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::Location;
use std::ptr;
use std::sync::Mutex;

/// The name and the creation place that tasks have in common.
///
/// Sites are kept forever: 40 bytes for each pair of a spawning call and a static name, and the
/// text of the place where there is no name.
#[derive(Debug)]
pub(crate) struct Site {
    /// The name of the tasks, or the text of the place.
    pub(crate) name: &'static str,
    pub(crate) is_named: bool,
    pub(crate) created_at: &'static Location<'static>,
}

/// The address and length of a name, or zeros, and the address of a place: static data keeps its
/// address.
type Key = (usize, usize, usize);

static SITES: Mutex<BTreeMap<Key, &'static Site>> = Mutex::new(BTreeMap::new());

/// A power of two.
const CACHED: usize = 256;

/// A core's cache of sites, so that a spawn takes no lock.
pub(in crate::rt) struct SiteCache(Box<[Cell<Option<&'static Site>>]>);

impl SiteCache {
    pub(in crate::rt) fn new() -> Self {
        Self((0..CACHED).map(|_| Cell::new(None)).collect())
    }

    /// The site of tasks that are made at `created_at`, and named `name` or else after that place.
    pub(in crate::rt) fn get(
        &self,
        name: Option<&'static str>,
        created_at: &'static Location<'static>,
    ) -> &'static Site {
        let named = name.map_or(0, |name| name.as_ptr().addr());
        let address = ptr::from_ref(created_at).addr() ^ named.rotate_left(5);
        let slot = &self.0[(address ^ (address >> 8)) / align_of::<Location<'_>>() % CACHED];
        if let Some(site) = slot.get()
            && name.is_none_or(|name| ptr::eq(site.name, name))
            && site.is_named == name.is_some()
            && ptr::eq(site.created_at, created_at)
        {
            return site;
        }
        let site = intern(name, created_at);
        slot.set(Some(site));
        site
    }
}

fn intern(name: Option<&'static str>, created_at: &'static Location<'static>) -> &'static Site {
    let (address, len) = name.map_or((0, 0), |name| (name.as_ptr().addr(), name.len()));
    let key = (address, len, ptr::from_ref(created_at).addr());
    SITES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).entry(key).or_insert_with(|| {
        let name_or_place = name.unwrap_or_else(|| String::leak(created_at.to_string()));
        Box::leak(Box::new(Site { name: name_or_place, is_named: name.is_some(), created_at }))
    })
}
