use super::*;

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

#[test]
fn a_stack_that_comes_back_while_many_are_free_keeps_little_memory() {
    let mut pool = Pool::new(Guards::Install);
    let slots: Vec<Slot> = (0..WARM + 1).map(|_| pool.take(64 << 10).expect("there is room")).collect();
    for slot in slots {
        touch(&slot);
        pool.put(slot);
    }
    let free = &pool.classes[2].free;
    assert_eq!(resident_pages(&free[0]), 16, "the first ones stay warm");
    assert_eq!(resident_pages(&free[WARM]), KEPT_BYTES / PAGE_BYTES);
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
    pool.trim();
    // The first slab has a stack in use, the second has none.
    let slab = FIRST_SLAB_STACKS * ((16 << 10) + PAGE_BYTES);
    assert_eq!((reserved, pool.stats().reserved_bytes), (3 * slab, slab));
    assert_eq!(pool.stats().free, FIRST_SLAB_STACKS - 1);
    assert!(pool.classes[0].free.iter().all(|slot| resident_pages(slot) == 0));
    pool.put(kept);
    pool.trim();
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
