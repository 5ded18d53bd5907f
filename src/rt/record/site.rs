//! Where tasks come from: a name and a place in the program, one static value for each pair.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::Location;
use std::ptr;
use std::sync::Mutex;

/// The name and the creation place that tasks have in common.
///
/// Sites are kept for ever, 40 bytes each: a program has as many as it has pairs of a spawning call and a static name.
#[derive(Debug)]
pub(in crate::rt) struct Site {
    pub(in crate::rt) name: &'static str,
    pub(in crate::rt) created_at: &'static Location<'static>,
}

/// The address and length of a name and the address of a place: static data keeps its address.
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

    /// The site of tasks named `name` that are made at `created_at`.
    pub(in crate::rt) fn get(
        &self,
        name: &'static str,
        created_at: &'static Location<'static>,
    ) -> &'static Site {
        let address = ptr::from_ref(created_at).addr() ^ name.as_ptr().addr().rotate_left(5);
        let slot = &self.0[(address ^ (address >> 8)) / align_of::<Location<'_>>() % CACHED];
        if let Some(site) = slot.get()
            && ptr::eq(site.name, name)
            && ptr::eq(site.created_at, created_at)
        {
            return site;
        }
        let site = intern(name, created_at);
        slot.set(Some(site));
        site
    }
}

fn intern(name: &'static str, created_at: &'static Location<'static>) -> &'static Site {
    let key = (name.as_ptr().addr(), name.len(), ptr::from_ref(created_at).addr());
    SITES
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .entry(key)
        .or_insert_with(|| Box::leak(Box::new(Site { name, created_at })))
}
