use super::pool::{FIRST_SLAB_STACKS, KEPT_BYTES, PAUSE, WARM, WHILE};
use super::slab::{COLOR_BYTES, COLORS, PROTECTED, Slab, max_protected};
use super::*;
use crate::error::ErrorKind;
use std::sync::atomic::Ordering;

/// Held by tests that count guards that are mappings: the count is the process's.
static PROTECTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// How many pages of a stack are in memory.
fn resident_pages(slot: &Slot) -> usize {
    let pages = slot.slab.stack_bytes / PAGE_BYTES;
    let mut states = vec![0_u8; pages];
    let start = slot.slab.guard(slot.index).wrapping_byte_add(PAGE_BYTES);
    // SAFETY: the range is the stack's, and there is a byte in `states` for each of its pages.
    let asked = unsafe { libc::mincore(start, pages * PAGE_BYTES, states.as_mut_ptr()) };
    assert_eq!(asked, 0, "the range is mapped");
    states.iter().filter(|state| **state & 1 == 1).count()
}

/// Writes to every page of a stack.
fn touch(slot: &Slot) {
    let start = slot.slab.guard(slot.index).wrapping_byte_add(PAGE_BYTES);
    for page in 0..slot.slab.stack_bytes / PAGE_BYTES {
        // SAFETY: inside the stack, which nobody runs on.
        unsafe { start.cast::<u8>().wrapping_byte_add(page * PAGE_BYTES).write_volatile(1) };
    }
}

#[test]
fn sizes_are_rounded_up_to_a_class() {
    for (asked, given) in
        [(0, 16 << 10), (16 << 10, 16 << 10), ((16 << 10) + 1, 32 << 10), (100_000, 128 << 10)]
    {
        let mut pool = Pool::new(Guards::Install);
        let slot = pool.take(asked).expect("there is room");
        assert_eq!(slot.slab.stack_bytes, given, "asked for {asked}");
    }
    let error = Pool::new(Guards::Install).take(MAX_STACK_BYTES + 1).err().expect("too large");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = Pool::new(Guards::Install).take(usize::MAX).err().expect("too large");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn stacks_do_not_overlap_and_the_last_one_back_is_the_next_one_out() {
    let _alone = PROTECTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for guards in [Guards::Install, Guards::Protect] {
        let mut pool = Pool::new(guards);
        let slots: Vec<Slot> = (0..100).map(|_| pool.take(16 << 10).expect("there is room")).collect();
        let mut ranges: Vec<_> = slots
            .iter()
            .map(|slot| {
                (
                    slot.slab.guard(slot.index).addr(),
                    slot.slab.guard(slot.index).addr() + PAGE_BYTES,
                    slot.base().get(),
                )
            })
            .collect();
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(pair[0].2 <= pair[1].0, "a stack ends before the next one's guard");
        }
        for (_, bottom, base) in ranges {
            assert!(base - bottom >= (16 << 10) - COLORS * COLOR_BYTES && base % 64 == 0);
        }
        let last = slots.last().expect("there are some").base();
        slots.into_iter().for_each(|slot| pool.put(slot));
        assert_eq!(pool.take(16 << 10).expect("one is free").base(), last);
        assert_eq!(pool.stats().free, 99);
    }
}

/// Takes this many stacks of 64 KiB and gives them back.
fn use_at_once(pool: &mut Pool, count: usize, use_it: impl Fn(&Slot)) {
    let slots: Vec<Slot> = (0..count).map(|_| pool.take(64 << 10).expect("there is room")).collect();
    slots.iter().for_each(use_it);
    slots.into_iter().for_each(|slot| pool.put(slot));
}

#[test]
fn stacks_that_are_used_again_keep_their_memory_however_many() {
    const STACKS: usize = 3 * WARM;
    let mut pool = Pool::new(Guards::Install);
    use_at_once(&mut pool, STACKS, touch);
    for _ in 0..3 * WHILE / STACKS {
        use_at_once(&mut pool, STACKS, |_| ());
    }
    let free = &pool.classes[2].free;
    assert_eq!(free.len(), STACKS);
    assert!(free.iter().all(|slot| resident_pages(slot) == 16), "no page was given back");
}

#[test]
fn stacks_that_were_not_used_for_a_while_keep_little_memory() {
    const STACKS: usize = WARM + 100;
    let mut pool = Pool::new(Guards::Install);
    use_at_once(&mut pool, STACKS, touch);
    // In the first while, all of them were in use once; and then it takes a few uses of others for
    // each.
    for _ in 0..2 * WHILE + 100 * PAUSE {
        use_at_once(&mut pool, 1, |_| ());
    }
    let free = &pool.classes[2].free;
    let kept: Vec<usize> = free.iter().map(resident_pages).collect();
    assert_eq!(kept[..100], [KEPT_BYTES / PAGE_BYTES; 100]);
    assert_eq!(kept[100..], [16; WARM], "as many stay warm");
    // They are used again, and warm again.
    use_at_once(&mut pool, STACKS, touch);
    use_at_once(&mut pool, 1, |_| ());
    assert!(pool.classes[2].free.iter().all(|slot| resident_pages(slot) == 16));
}

#[test]
fn a_subscriber_that_is_told_of_a_failure_may_use_the_pool() {
    struct UsesThePool(std::sync::atomic::AtomicUsize);
    impl tracing::Subscriber for UsesThePool {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            drop(PooledStack::take(16 << 10).expect("there is room"));
            self.0.fetch_add(stats().free, Ordering::Relaxed);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }
    let _keeps_its_slab = PooledStack::take(16 << 10).expect("there is room");
    // Not a multiple of the page size: `munmap` refuses it.
    let start = std::ptr::NonNull::new(std::ptr::without_provenance_mut(1)).expect("it is not null");
    let slab = Slab { start, stacks: 1, stack_bytes: 16 << 10, protected: std::cell::Cell::new(0) };
    POOL.with_borrow_mut(|pool| pool.classes[0].free.push(Slot { slab: Rc::new(slab), index: 0 }));
    let told = std::sync::Arc::new(UsesThePool(0.into()));
    tracing::subscriber::with_default(std::sync::Arc::clone(&told), trim);
    assert_eq!(told.0.load(Ordering::Relaxed), 1, "it was told once, and its stack came back");
}

#[test]
fn trimming_gives_back_memory_and_whole_slabs() {
    let mut pool = Pool::new(Guards::Install);
    let kept = pool.take(16 << 10).expect("there is room");
    let others: Vec<Slot> =
        (0..3 * FIRST_SLAB_STACKS - 1).map(|_| pool.take(16 << 10).expect("there is room")).collect();
    others.iter().for_each(touch);
    let reserved = pool.stats().reserved_bytes;
    others.into_iter().for_each(|slot| pool.put(slot));
    drop(pool.trim());
    // The first slab has a stack in use, the second has none.
    let slab = FIRST_SLAB_STACKS * ((16 << 10) + PAGE_BYTES);
    assert_eq!((reserved, pool.stats().reserved_bytes), (3 * slab, slab));
    assert_eq!(pool.stats().free, FIRST_SLAB_STACKS - 1);
    assert!(pool.classes[0].free.iter().all(|slot| resident_pages(slot) == 0));
    pool.put(kept);
    drop(pool.trim());
    assert_eq!(pool.stats(), StackStats::default());
}

#[test]
fn guards_that_are_mappings_have_a_limit_and_are_given_back() {
    let _alone = PROTECTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut pool = Pool::new(Guards::Protect);
    let slot = pool.take(16 << 10).expect("there is room");
    assert!(slot.slab.protected.get() == 1 && PROTECTED.load(Ordering::Relaxed) >= 1);
    let most = max_protected();
    PROTECTED.fetch_add(most, Ordering::Relaxed);
    let error = pool.take(16 << 10).err().expect("none is left");
    PROTECTED.fetch_sub(most, Ordering::Relaxed);
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("vm.max_map_count"), "{error}");
    assert!(pool.take(16 << 10).is_ok(), "there is room again");
}
