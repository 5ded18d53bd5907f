//! The core's arena, registered with SPDK so that devices reach it.

use std::ffi::c_void;
use std::rc::Rc;

use boson_spdk_sys as sys;

use super::super::queue::Segment;
use super::env::strerror;
use crate::mem::Arena;
use crate::rt::{self, CoreLocal};

/// A core's arena, registered as one piece. It stays mapped and registered as long as this lives.
pub(super) struct Reach {
    arena: Arena,
    is_registered: bool,
    is_reachable: bool,
}

static REACH: CoreLocal<Reach> = CoreLocal::new();

impl Reach {
    /// The current core's, registered with its first use.
    pub(super) fn of_this_core() -> Rc<Self> {
        REACH.get().unwrap_or_else(|| {
            let reach = Rc::new(Self::register(rt::arena()));
            REACH.set(Rc::clone(&reach));
            reach
        })
    }

    fn register(arena: Arena) -> Self {
        let (base, len) = region(&arena);
        // SAFETY: the mapping is whole hugepages in size and aligned to one, and stays while
        // `arena` does, which the result keeps. Nobody else registers it: there is one `Reach` per
        // core.
        let code = unsafe { sys::spdk_mem_register(base, len) };
        let is_registered = code == 0;
        if !is_registered {
            tracing::warn!("SPDK does not take the core's arena: {}", strerror(code));
        }
        // The first result says nothing about the translation.
        // SAFETY: the function only looks the addresses up.
        let is_reachable = is_registered && unsafe { sys::boson_spdk_is_mapped(base, len) } == 1;
        Self { arena, is_registered, is_reachable }
    }

    /// Whether a device can reach the arena.
    pub(super) fn is_reachable(&self) -> bool {
        self.is_reachable
    }

    /// Whether all of `memory` is in the arena.
    pub(super) fn holds(&self, memory: &[Segment]) -> bool {
        let (base, len) = region(&self.arena);
        let start = base.addr();
        memory.iter().all(|piece| {
            let at = piece.ptr.addr().get();
            at >= start && at - start <= len && piece.len <= len - (at - start)
        })
    }
}

fn region(arena: &Arena) -> (*mut c_void, usize) {
    let (base, len) = arena.region();
    (base.cast_mut().cast(), len)
}

impl Drop for Reach {
    fn drop(&mut self) {
        if !self.is_registered {
            return;
        }
        let (base, len) = region(&self.arena);
        // SAFETY: it was registered as this one piece. Whoever gives memory of it to a device keeps
        // the `Reach` until the device is done.
        let code = unsafe { sys::spdk_mem_unregister(base, len) };
        // The result says nothing about the translation, which may be there still: a device would
        // work on these pages when others are mapped at the same address, and registered.
        // SAFETY: the function only looks the address up.
        let is_reachable = unsafe { sys::boson_spdk_is_mapped(base, 1) } == 1;
        if code != 0 || is_reachable {
            // It must stay mapped.
            std::mem::forget(self.arena.clone());
            let why = if is_reachable { "its translation is still there".to_owned() } else { strerror(code) };
            tracing::warn!("SPDK does not give up a core's arena, which stays mapped: {why}");
        }
    }
}
