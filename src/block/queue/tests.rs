//! The queue over a device that a seed makes difficult.

mod random;
mod script;

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::*;
use crate::block::{Namespace, NamespaceInfo};
use crate::error::Outcome;
use crate::mem::DmaBuf;
use crate::rt::{self, Core, CoreConfig};
use script::{BLOCK, Difficulty, Script, ScriptedPort};

fn core() -> Core {
    Core::new(&CoreConfig::default()).expect("a core")
}

/// A device that is not difficult, reaches the core's arena, and transfers four blocks at once.
fn easy() -> Difficulty {
    let (base, len) = rt::arena().region();
    Difficulty {
        slots: 4,
        full: 0,
        fails: 0,
        asks_again: 0,
        refuses: 0,
        completes: 100,
        reaches: base.addr()..base.addr() + len,
        pieces: 4,
        stops: true,
    }
}

const BLOCKS: usize = 256;

fn info() -> NamespaceInfo {
    NamespaceInfo {
        max_transfer_bytes: 4 * 512,
        trim: true,
        write_zeroes: true,
        max_compare_and_write_bytes: 2 * 512,
        ..NamespaceInfo::new("script:", (BLOCKS * BLOCK) as u64, 512)
    }
}

fn attach(
    difficulty: Difficulty,
    info: NamespaceInfo,
) -> (Rc<RefCell<Script>>, QueueNamespace<ScriptedPort>) {
    let script = Script::new(1, BLOCKS, difficulty);
    let namespace = QueueNamespace::attach(ScriptedPort(Rc::clone(&script)), info);
    (script, namespace)
}

fn filled(len: usize, byte: u8) -> DmaBuf {
    let mut buf = rt::arena().alloc(len);
    buf.fill(byte);
    buf
}

/// Polls once.
async fn begin<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    let mut future = Some(future);
    std::future::poll_fn(|cx| Poll::Ready(future.take().expect("polled once").poll(cx))).await
}

/// Lets the device work until it has nothing.
async fn drained(script: &RefCell<Script>) {
    while script.borrow().held() > 0 {
        rt::yield_now().await;
    }
    rt::yield_now().await;
}

fn stats_of(name: &str) -> stats::NamespaceStats {
    let all = stats::stats();
    all.into_iter().rev().find(|stats| stats.name == name).expect("it is attached")
}

fn used_bytes() -> usize {
    rt::arena().stats().used_bytes
}

#[test]
fn requests_begin_in_the_order_in_which_they_were_first_polled() {
    core().block_on(async {
        let (script, namespace) = attach(Difficulty { slots: 1, ..easy() }, info());
        // The second is divided, the fourth is dropped: nobody overtakes them, or waits for them.
        let lens = [1, 11, 1, 6, 1, 5];
        let mut writes: Vec<_> = (0..6u64)
            .zip(lens)
            .map(|(number, blocks)| Box::pin(namespace.write(number * 32 * 512, filled(blocks * BLOCK, 1))))
            .collect();
        for write in &mut writes {
            assert!(begin(write.as_mut()).await.is_pending());
        }
        drop(writes.remove(3));
        for write in writes {
            write.await.expect("writes");
        }
        let offsets: Vec<u64> = script.borrow().taken.iter().map(|(_, offset, _)| offset / 512).collect();
        assert_eq!(offsets, [0, 32, 36, 40, 64, 128, 160, 164]);
    });
}

#[test]
fn a_request_of_very_many_commands_gives_way_to_those_behind_it() {
    core().block_on(async {
        let (script, namespace) = attach(Difficulty { slots: 1, ..easy() }, info());
        let mut long = Box::pin(namespace.write(0, filled(200 * BLOCK, 1)));
        let mut short = Box::pin(namespace.write(200 * 512, filled(BLOCK, 2)));
        assert!(begin(long.as_mut()).await.is_pending());
        assert!(begin(short.as_mut()).await.is_pending());
        long.await.expect("writes");
        short.await.expect("writes");
        let script = script.borrow();
        let turn =
            script.taken.iter().position(|(_, offset, _)| *offset == 200 * 512).expect("it was written");
        assert!(turn <= 17, "it was the command with the number {turn}, of {}", script.taken.len());
        assert!(script.blocks[..200 * BLOCK].iter().all(|&byte| byte == 1));
    });
}

#[test]
fn what_is_dropped_in_line_is_free_at_once_and_what_the_device_has_is_not() {
    core().block_on(async {
        let (script, namespace) = attach(Difficulty { slots: 1, ..easy() }, info());
        script.borrow_mut().paused = true;
        let before = used_bytes();
        {
            let mut first = pin!(namespace.write(0, filled(BLOCK, 1)));
            let mut second = pin!(namespace.write(512, filled(BLOCK, 2)));
            assert!(begin(first.as_mut()).await.is_pending());
            assert!(begin(second.as_mut()).await.is_pending());
            assert_eq!(stats_of("script:").queue_depth, 2);
        }
        assert_eq!(used_bytes(), before + 4096, "the device has one buffer");
        assert_eq!(stats_of("script:").queue_depth, 1);
        // Whoever gets memory now does not get that.
        let others: Vec<DmaBuf> = (0..8).map(|_| filled(BLOCK, 0xee)).collect();
        script.borrow_mut().paused = false;
        drained(&script).await;
        drop(others);
        assert_eq!(used_bytes(), before, "now it is free");
        assert_eq!(stats_of("script:").queue_depth, 0);
        let script = script.borrow();
        assert!(script.blocks[..BLOCK].iter().all(|&byte| byte == 1));
        assert!(script.blocks[BLOCK..].iter().all(|&byte| byte == 0));
        assert_eq!(script.taken.len(), 1);
    });
}

#[test]
fn a_durable_write_is_forced_or_flushed_once_all_of_it_is_written() {
    core().block_on(async {
        let (script, namespace) = attach(easy(), info());
        namespace.write_durable(0, filled(6 * BLOCK, 1)).await.expect("writes");
        let kinds: Vec<_> = script.borrow().taken.iter().map(|(kind, ..)| *kind).collect();
        let write = CommandKind::Write { durable: false };
        assert_eq!(kinds, [write, write, CommandKind::Flush]);
        let stats = stats_of("script:");
        assert_eq!((stats.flushes.completed, stats.queue_depth), (0, 0));
        // Also one that is a single command.
        script.borrow_mut().taken.clear();
        namespace.write_durable(0, filled(BLOCK, 2)).await.expect("writes");
        let kinds: Vec<_> = script.borrow().taken.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, [write, CommandKind::Flush]);
        drop(namespace);

        let forced = NamespaceInfo { forced_unit_access: true, ..info() };
        let (script, namespace) = attach(easy(), forced);
        namespace.write_durable(0, filled(BLOCK, 1)).await.expect("writes");
        assert_eq!(script.borrow().taken, [(CommandKind::Write { durable: true }, 0, 512)]);

        // Of a failed write nothing is flushed.
        let (script, namespace) = attach(Difficulty { fails: 100, ..easy() }, info());
        namespace.write_durable(0, filled(BLOCK, 1)).await.expect_err("fails");
        assert_eq!(script.borrow().taken.len(), 1);
    });
}

#[test]
fn a_command_is_sent_four_times_at_most() {
    core().block_on(async {
        let (script, namespace) = attach(Difficulty { asks_again: 100, ..easy() }, info());
        let error = namespace.write(512, filled(BLOCK, 1)).await.expect_err("it always fails");
        assert!(error.to_string().contains("write script: offset 512: the script says"), "{error}");
        assert_eq!(script.borrow().taken.len(), 4);
        let stats = stats_of("script:");
        assert_eq!((stats.retries, stats.writes.failed, stats.writes.completed), (3, 1, 0));
    });
}

#[test]
fn memory_that_the_device_does_not_reach_is_copied_and_counted() {
    core().block_on(async {
        let (script, namespace) = attach(easy(), info());
        let before = used_bytes();
        let mut heap = DmaBuf::zeroed(6 * BLOCK);
        heap.fill(5);
        let heap = namespace.write(0, heap).await.expect("writes");
        assert!(script.borrow().blocks[..6 * BLOCK].iter().all(|&byte| byte == 5));
        assert_eq!(stats_of("script:").copied_bytes, 6 * 512);
        let back = namespace.read(0, DmaBuf::zeroed(6 * BLOCK)).await.expect("reads");
        assert!(back[..] == heap[..]);
        // In too many pieces, though it reaches each.
        let pieces = (0..8).map(|_| filled(BLOCK / 2, 6)).collect();
        namespace.write_vectored(0, pieces).await.expect("writes");
        assert!(script.borrow().blocks[..4 * BLOCK].iter().all(|&byte| byte == 6));
        assert_eq!(stats_of("script:").copied_bytes, 6 * 512 + 6 * 512 + 4 * 512);
        assert_eq!(used_bytes(), before, "copies are given back");
    });
}

#[test]
fn an_arena_that_is_used_up_makes_requests_wait_and_at_last_fail_by_name() {
    let core = Core::new(&CoreConfig::default().arena_bytes(1 << 20)).expect("a core");
    core.block_on(async {
        let (_script, namespace) = attach(easy(), info());
        // Nothing can be copied.
        let mut taken = take_arena();
        let fallbacks = rt::arena().stats().heap_fallbacks;
        let error = namespace.write(0, DmaBuf::zeroed(BLOCK)).await.expect_err("no memory");
        assert_eq!(rt::arena().stats().heap_fallbacks, fallbacks, "memory of the heap is of no use");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("give the core a larger arena"), "{error}");
        // One buffer is enough for all, one after the other.
        drop(taken.pop());
        let writes: Vec<_> = (0..16u64)
            .map(|number| {
                let namespace = namespace.clone();
                rt::spawn(async move { namespace.write(number * 512, DmaBuf::zeroed(BLOCK)).await.map(drop) })
            })
            .collect();
        for write in writes {
            write.await.expect("no panic").expect("writes");
        }
    });
}

/// Takes what the arena has left.
fn take_arena() -> Vec<DmaBuf> {
    let buffers = std::iter::repeat_with(|| rt::arena().alloc(4096));
    buffers.take_while(|buf| buf.arena_offset().is_some()).collect()
}

#[test]
fn nobody_overtakes_a_request_that_waits_for_memory() {
    let core = Core::new(&CoreConfig::default().arena_bytes(1 << 20)).expect("a core");
    core.block_on(async {
        let (script, namespace) = attach(easy(), info());
        let (first, third) = (filled(BLOCK, 1), filled(BLOCK, 3));
        let mut taken = take_arena();
        script.borrow_mut().paused = true;
        // The second is to be copied, which it cannot be yet.
        let writes = [first, DmaBuf::zeroed(BLOCK), third].into_iter().zip(0..);
        let mut writes: Vec<_> =
            writes.map(|(buf, block): (_, u64)| Box::pin(namespace.write(block * 512, buf))).collect();
        for write in &mut writes {
            assert!(begin(write.as_mut()).await.is_pending());
        }
        assert_eq!(script.borrow().taken.len(), 1);
        drop(taken.pop());
        script.borrow_mut().paused = false;
        for write in writes {
            write.await.expect("writes");
        }
        let offsets: Vec<u64> = script.borrow().taken.iter().map(|(_, offset, _)| *offset).collect();
        assert_eq!(offsets, [0, 512, 1024]);
    });
}

#[test]
fn nobody_overtakes_a_command_that_is_sent_again() {
    core().block_on(async {
        let (script, namespace) = attach(Difficulty { asks_again: 100, ..easy() }, info());
        script.borrow_mut().paused = true;
        let mut writes: Vec<_> =
            (0..3_u64).map(|block| Box::pin(namespace.write(block * 512, filled(BLOCK, 1)))).collect();
        for write in &mut writes[..2] {
            assert!(begin(write.as_mut()).await.is_pending());
        }
        // It asks for both again, and then takes one.
        script.borrow_mut().paused = false;
        script.borrow_mut().difficulty.full = 100;
        while script.borrow().taken.len() < 3 {
            rt::yield_now().await;
        }
        script.borrow_mut().difficulty.asks_again = 0;
        script.borrow_mut().difficulty.full = 0;
        assert!(begin(writes[2].as_mut()).await.is_pending());
        for write in writes {
            write.await.expect("writes");
        }
        let offsets: Vec<u64> = script.borrow().taken.iter().map(|(_, offset, _)| *offset / 512).collect();
        assert_eq!(offsets, [0, 1, 0, 1, 2]);
    });
}

#[test]
fn what_one_request_did_is_not_said_of_the_next_with_its_number() {
    core().block_on(async {
        let (script, namespace) = attach(Difficulty { asks_again: 100, ..easy() }, info());
        let error = namespace.write(0, filled(BLOCK, 1)).await.expect_err("it always fails");
        assert_eq!(error.outcome(), Outcome::Unknown);
        script.borrow_mut().difficulty.refuses = 100;
        let error = namespace.write(0, filled(BLOCK, 1)).await.expect_err("it is refused");
        assert_eq!(error.outcome(), Outcome::NotStarted);
    });
}

#[test]
fn a_queue_ends_when_its_last_handle_is_gone_and_the_device_has_nothing_of_it() {
    core().block_on(async {
        let (script, namespace) = attach(easy(), info());
        script.borrow_mut().paused = true;
        {
            let other = namespace.clone();
            let mut write = pin!(other.write(0, filled(BLOCK, 3)));
            assert!(begin(write.as_mut()).await.is_pending());
        }
        drop(namespace);
        for _ in 0..10 {
            rt::yield_now().await;
        }
        assert_eq!(script.borrow().shut_down, 0, "the device works on it");
        script.borrow_mut().paused = false;
        drained(&script).await;
        assert_eq!(script.borrow().shut_down, 1);
        assert!(script.borrow().blocks[..BLOCK].iter().all(|&byte| byte == 3));
        assert!(stats::stats().is_empty(), "it is in no list any more");
    });
}

/// A core ends while the device has a write; gives the port's script and how much memory of the
/// core's arena stays taken.
fn core_that_ends_with_a_write_in_flight(stops: bool, dropped: bool) -> (Rc<RefCell<Script>>, usize) {
    let core = core();
    let (script, arena, before) = core.block_on(async {
        let before = used_bytes();
        let (script, namespace) = attach(Difficulty { stops, ..easy() }, info());
        script.borrow_mut().paused = true;
        let task = rt::spawn(async move { namespace.write(0, filled(BLOCK, 4)).await.map(drop) });
        rt::yield_now().await;
        assert_eq!(script.borrow().held(), 1);
        if dropped {
            task.cancel();
            rt::yield_now().await;
        }
        (script, rt::arena(), before)
    });
    drop(core.shutdown(rt::Shutdown::Cancel, Duration::from_millis(10)));
    (script, arena.stats().used_bytes - before)
}

#[test]
fn a_core_that_ends_stops_the_device_and_frees_only_what_that_has_let_go() {
    for dropped in [false, true] {
        let (script, left) = core_that_ends_with_a_write_in_flight(true, dropped);
        assert_eq!((script.borrow().shut_down, left), (1, 0), "dropped: {dropped}");
        let (script, left) = core_that_ends_with_a_write_in_flight(false, dropped);
        assert_eq!((script.borrow().shut_down, left), (1, 4096), "dropped: {dropped}");
    }
}

#[test]
fn handles_that_outlive_the_core_say_that_it_has_ended() {
    for stops in [true, false] {
        let core = core();
        let (namespace, mut write) = core.block_on(async {
            let (script, namespace) = attach(Difficulty { stops, ..easy() }, info());
            script.borrow_mut().paused = true;
            let writer = namespace.clone();
            let mut write = Box::pin(async move { writer.write(0, filled(BLOCK, 4)).await });
            assert!(begin(write.as_mut()).await.is_pending());
            (namespace, write)
        });
        drop(core);
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(read) = pin!(namespace.read(0, DmaBuf::zeroed(BLOCK))).poll(&mut cx) else {
            panic!("nobody would wake it");
        };
        let error = read.expect_err("there is no queue");
        assert_eq!(error.kind(), ErrorKind::Closed);
        assert!(error.to_string().contains("what was attached to it has ended"), "{error}");
        match write.as_mut().poll(&mut cx) {
            Poll::Ready(result) => {
                assert!(stops);
                assert_eq!(result.expect_err("it was not done").kind(), ErrorKind::Closed);
            }
            // The device may still write to the memory.
            Poll::Pending => assert!(!stops),
        }
    }
}

#[test]
fn what_was_done_when_the_core_ended_says_so() {
    let core = core();
    let (_script, mut write) = core.block_on(async {
        let (script, namespace) = attach(easy(), info());
        let mut write = Box::pin(async move { namespace.write(0, filled(BLOCK, 4)).await });
        assert!(begin(write.as_mut()).await.is_pending());
        drained(&script).await;
        (script, write)
    });
    drop(core);
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(result) = write.as_mut().poll(&mut cx) else { panic!("nobody would wake it") };
    assert!(result.expect("the device had done it").iter().all(|&byte| byte == 4));
}
