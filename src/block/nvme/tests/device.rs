//! The device as a core uses it, over the model: attached, reset, removed, closed.

use std::sync::Arc;
use std::time::Duration;

use super::super::command::opcode;
use super::super::control::Control;
use super::super::controller::Phase;
use super::super::device::Opened;
use super::super::model::{Model, ModelNamespace, ModelOptions, Pace};
use super::super::status::Status;
use crate::block::Namespace;
use crate::error::{ErrorKind, Result};
use crate::mem::DmaBuf;
use crate::rt::{self, Core, CoreConfig};

const BLOCKS: u64 = 4096;

pub(super) fn options() -> ModelOptions {
    ModelOptions::new(ModelNamespace::new(BLOCKS, 12))
}

fn run<F: Future>(model: &Model, test: impl FnOnce(Opened<Model>) -> F) -> F::Output {
    run_on(&CoreConfig::default(), model, test)
}

pub(super) fn run_on<F: Future>(
    config: &CoreConfig,
    model: &Model,
    test: impl FnOnce(Opened<Model>) -> F,
) -> F::Output {
    let core = Core::new(&config.clone().seed([5; 32])).expect("a core");
    core.block_on(async {
        let control = Control::open(model.clone(), "nvme:model".to_owned(), 4).await.expect("it comes up");
        let opened = Opened::of(Arc::new(control), 1).await.expect("it has a namespace");
        rt::timeout(Duration::from_secs(60), test(opened)).await.expect("in time")
    })
}

pub(super) fn filled(len: usize, byte: u8) -> DmaBuf {
    let mut buf = rt::arena().alloc(len);
    buf.fill(byte);
    buf
}

#[test]
fn what_a_core_writes_it_reads_and_so_does_another() {
    let model = Model::new(options(), 1);
    run(&model, |opened| async move {
        let (first, second) =
            (opened.attach().await.expect("attach"), opened.attach().await.expect("attach"));
        assert_eq!(first.info().block_size_bytes, 4096);
        for (number, len) in [(0_u64, 4096), (1, 8192), (7, 1 << 20), (300, 3 << 20)] {
            let byte = u8::try_from(number % 251).expect("small");
            first.write(number * 4096, filled(len, byte)).await.expect("write");
            let read = second.read(number * 4096, DmaBuf::zeroed(len)).await.expect("read");
            assert!(read.iter().all(|&found| found == byte), "{len} bytes at {number}");
        }
        first.flush().await.expect("flush");
        first.trim(0, 4096).await.expect("trim");
        first.write_zeroes(4096, 8192).await.expect("zeroes");
        let zeros = second.read(4096, filled(8192, 1)).await.expect("read");
        assert!(zeros.iter().all(|&byte| byte == 0));
    });
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}

#[test]
fn a_durable_write_is_forced_or_with_fua_off_a_write_and_a_flush() {
    for fua in [true, false] {
        let model = Model::new(options(), 1);
        run(&model, async |opened| {
            let namespace = opened.with_fua(fua).attach().await.expect("attach");
            assert_eq!(namespace.info().forced_unit_access, fua);
            namespace.write_durable(0, filled(8192, 1)).await.expect("writes");
            let (executed, forced) = if fua { (1, 1) } else { (2, 0) };
            assert_eq!((model.executed(), model.forced_writes()), (executed, forced), "fua {fua}");
            // The other command is a flush, and the write is not durable without it.
            model.fail_next(opcode::FLUSH, Status::new(2, 0x80).do_not_retry());
            let durable = namespace.write_durable(0, filled(4096, 2)).await;
            assert_eq!(durable.is_ok(), fua, "{durable:?}");
        });
        assert!(model.violations().is_empty(), "{:?}", model.violations());
    }
}

#[test]
fn a_compare_and_write_says_whether_it_wrote() {
    let model = Model::new(options(), 1);
    run(&model, |opened| async move {
        let namespace = opened.attach().await.expect("attach");
        if namespace.info().max_compare_and_write_bytes == 0 {
            panic!("the model has it: {:?}", namespace.info());
        }
        namespace.write(0, filled(4096, 1)).await.expect("write");
        let (wrote, _) =
            namespace.compare_and_write(0, filled(4096, 9), filled(4096, 2)).await.expect("compares");
        assert!(!wrote, "something else is there");
        let (wrote, _) =
            namespace.compare_and_write(0, filled(4096, 1), filled(4096, 2)).await.expect("compares");
        assert!(wrote);
        assert_eq!(namespace.read(0, filled(4096, 0)).await.expect("read")[0], 2);
    });
}

#[test]
fn reads_go_on_through_a_reset_and_writes_say_that_they_may_not_have() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            namespace.write(0, filled(4096, 7)).await.expect("write");
            namespace.flush().await.expect("flush");
            model.hang(false);
            let reads: Vec<_> = (0..100)
                .map(|_| {
                    let namespace = namespace.clone();
                    rt::spawn(async move { namespace.read(0, filled(4096, 0)).await.map(|buf| buf[0]) })
                })
                .collect();
            let writing = namespace.clone();
            let write = rt::spawn(async move { writing.write(4096, filled(4096, 1)).await.map(drop) });
            rt::sleep(Duration::from_millis(20)).await;
            model.fail();
            for read in reads {
                assert_eq!(read.await.expect("no panic").expect("it is sent again"), 7);
            }
            let error = write.await.expect("no panic").expect_err("nobody knows");
            assert_eq!(error.outcome(), crate::Outcome::Unknown, "{error}");
            namespace.write(4096, filled(4096, 2)).await.expect("it works again");
        }
    });
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}

#[test]
fn a_removed_controller_ends_what_is_in_flight_and_refuses_the_rest() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            model.hang(true);
            let reading = namespace.clone();
            let read = rt::spawn(async move { reading.read(0, filled(4096, 0)).await.map(drop) });
            rt::sleep(Duration::from_millis(5)).await;
            model.remove();
            let error = read.await.expect("no panic").expect_err("it is gone");
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            let error = namespace.write(0, filled(4096, 1)).await.map(drop).expect_err("it is gone");
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        }
    });
}

#[test]
fn a_core_whose_queues_are_not_made_anew_says_so_though_the_controller_works() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            model.hang(false);
            let read = rt::spawn({
                let namespace = namespace.clone();
                async move { namespace.read(0, filled(4096, 0)).await.map(drop) }
            });
            rt::yield_now().await;
            model.refuse_queues(true);
            opened.reset();
            let lost = read.await.expect("no panic").expect_err("it cannot be sent again");
            let refused = namespace.read(0, filled(4096, 0)).await.map(drop).expect_err("nor this");
            for error in [lost, refused] {
                assert_eq!(error.kind(), ErrorKind::Closed);
                let error = error.to_string();
                for part in
                    ["has not made this core's queues anew", "Invalid Queue Identifier", "attach again"]
                {
                    assert!(error.contains(part), "{error}");
                }
            }
            model.refuse_queues(false);
            drop(namespace);
            let again = opened.attach().await.expect("attach again");
            again.read(0, filled(4096, 0)).await.expect("read");
        }
    });
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}

#[test]
fn the_memory_of_dropped_operations_stays_until_they_end_and_cores_end_with_io_in_flight() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            let before = rt::arena().stats().used_bytes;
            model.hang(false);
            for number in 0..10 {
                let write = namespace.write(number * 4096, filled(4096, 1));
                assert!(rt::timeout(Duration::from_millis(1), write).await.is_err(), "it hangs");
            }
            assert_eq!(rt::arena().stats().used_bytes, before + 10 * 4096);
            model.fail();
            namespace.read(0, filled(4096, 0)).await.expect("it was reset");
            assert_eq!(rt::arena().stats().used_bytes, before);
            model.hang(false);
            drop(namespace.read(0, filled(4096, 0)));
            let hung = rt::timeout(Duration::from_millis(1), namespace.write(0, filled(4096, 1))).await;
            assert!(hung.is_err());
        }
    });
}

#[test]
fn queue_pairs_are_given_back_and_one_too_many_is_refused() -> Result<()> {
    let model = Model::new(options(), 1);
    run(&model, |opened| async move {
        let mut attached = Vec::new();
        let error = loop {
            match opened.attach().await {
                Ok(namespace) => attached.push(namespace),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        assert!(!attached.is_empty());
        attached.pop();
        opened.attach().await.map(drop)
    })
}

#[test]
fn an_attachment_that_is_given_up_in_the_middle_leaves_nothing_behind() {
    let model = Model::new(options(), 1);
    run(&model, |opened| async move {
        for polls in 1..12 {
            // So many times more than there are queue pairs.
            for _ in 0..3 {
                let mut attaching = Box::pin(opened.attach());
                let mut left = polls;
                let ended = std::future::poll_fn(|cx| {
                    if left == 0 {
                        return std::task::Poll::Ready(None);
                    }
                    left -= 1;
                    attaching.as_mut().poll(cx).map(Some)
                })
                .await;
                drop(ended.transpose().expect("attach"));
            }
            let namespace = opened.attach().await.expect("attach");
            namespace.write(0, filled(4096, polls)).await.expect("write");
            assert_eq!(namespace.read(0, filled(4096, 0)).await.expect("read")[0], polls);
        }
    });
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}

#[test]
fn a_namespace_that_grows_or_goes_says_so() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            assert_eq!(namespace.size_bytes(), BLOCKS * 4096);
            for blocks in [2 * BLOCKS, BLOCKS / 2, 0] {
                model.resize_namespace(1, blocks);
                while namespace.size_bytes() != blocks * 4096 {
                    rt::sleep(Duration::from_millis(10)).await;
                }
                let read = namespace.read((2 * BLOCKS - 1) * 4096, filled(4096, 0)).await;
                assert_eq!(read.is_ok(), blocks == 2 * BLOCKS);
            }
        }
    });
}

#[test]
fn what_arrives_while_the_controller_is_reset_is_done_after_it() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            model.hang(false);
            let writing = namespace.clone();
            let write = rt::spawn(async move {
                writing.write(4096, filled(4096, 1)).await.map(drop).expect_err("nobody knows");
                // At once: the queues are not made anew yet.
                writing.write(4096, filled(4096, 2)).await.map(drop)
            });
            rt::sleep(Duration::from_millis(20)).await;
            model.fail();
            write.await.expect("no panic").expect("it is sent after the reset");
            assert_eq!(namespace.read(4096, filled(4096, 0)).await.expect("read")[0], 2);
        }
    });
}

#[test]
fn a_flush_after_the_controller_failed_says_that_writes_may_be_lost() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            assert!(namespace.info().volatile_cache, "the model has one");
            namespace.write(0, filled(4096, 1)).await.expect("write");
            model.fail();
            // It is seen that the controller failed, and that it works again.
            rt::sleep(Duration::from_millis(1500)).await;
            namespace.read(0, filled(4096, 0)).await.expect("read");
            let error = namespace.flush().await.expect_err("the write may be lost");
            assert_eq!(error.outcome(), crate::Outcome::Unknown, "{error}");
            namespace.flush().await.expect("nothing was written since");
        }
    });
}

/// Makes a controller fail `turns` turns of the core after it began to identify itself in a reset;
/// returns whether the core had its queues back by then.
fn fails_in_a_reset(turns: u32) -> bool {
    let model = Model::new(ModelOptions { pace: Pace::Steps(1), ready_steps: Some(40), ..options() }, 1);
    let core = Core::new(&CoreConfig::default().seed([5; 32])).expect("a core");
    core.block_on(async {
        let control = Control::open(model.clone(), "nvme:model".to_owned(), 4).await.expect("it comes up");
        let control = Arc::new(control);
        let opened = Opened::of(Arc::clone(&control), 1).await.expect("it has a namespace");
        let namespace = opened.attach().await.expect("attach");
        namespace.write(0, filled(4096, 1)).await.expect("write");
        let (stops, fatal) = (opened.stops(), control.lock().fatal_stops);
        opened.reset();
        let reading = namespace.clone();
        let read = rt::spawn(async move { reading.read(0, filled(4096, 0)).await.map(drop) });
        // One that fails while it is enabled is given up.
        let is_starting = |phase| !matches!(phase, Phase::Identifying | Phase::Ready);
        while opened.stops() == stops || is_starting(control.lock().controller.phase()) {
            rt::yield_now().await;
        }
        for _ in 0..turns {
            rt::yield_now().await;
        }
        let is_back = read.is_finished();
        model.fail();
        read.await.expect("no panic").expect("it is sent again");
        rt::sleep(Duration::from_millis(1100)).await;
        assert!(control.lock().fatal_stops > fatal, "it is seen");
        let error = namespace.flush().await.expect_err("the write may be lost");
        assert_eq!(error.outcome(), crate::Outcome::Unknown, "{error}");
        namespace.flush().await.expect("nothing was written since");
        is_back
    })
}

#[test]
fn a_failure_in_the_middle_of_a_reset_is_told_too() {
    let back = [0, 1, 4, 16].map(fails_in_a_reset);
    assert!(back.contains(&false), "{back:?}");
}

#[test]
fn many_cores_attach_at_once() {
    let model = Model::new(options(), 1);
    let core = Core::new(&CoreConfig::default().seed([5; 32])).expect("a core");
    core.block_on(async {
        let control = Control::open(model.clone(), "nvme:model".to_owned(), 64).await.expect("it comes up");
        let granted = control.lock().controller.queue_pairs();
        let opened = std::rc::Rc::new(Opened::of(Arc::new(control), 1).await.expect("it has a namespace"));
        let attaching: Vec<_> = (0..granted)
            .map(|_| {
                let opened = std::rc::Rc::clone(&opened);
                rt::spawn(async move { opened.attach().await })
            })
            .collect();
        for attaching in attaching {
            attaching.await.expect("no panic").expect("there is a queue pair for it");
        }
    });
}

#[test]
fn the_last_handle_of_a_hung_device_does_not_hold_its_core_up() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let (first, second) =
                (opened.attach().await.expect("attach"), opened.attach().await.expect("attach"));
            second.write(0, filled(4096, 3)).await.expect("write");
            assert_eq!(model.queue_pairs(), 2);
            model.hang(false);
            let pauses = model.pauses();
            drop(first);
            // An attachment that is given up waits no longer.
            assert!(rt::timeout(Duration::from_millis(1), opened.attach()).await.is_err(), "it hangs");
            assert_eq!(model.pauses(), pauses, "the core does not wait");
            // For longer than it once took until the controller was reset.
            rt::sleep(Duration::from_millis(1500)).await;
            model.wake_up();
            assert_eq!(second.read(0, filled(4096, 0)).await.expect("read")[0], 3);
            while model.queue_pairs() > 1 {
                rt::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(opened.stops(), 1, "nobody reset it for that");
            opened.attach().await.expect("the number is free again");
        }
    });
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}

#[test]
fn a_core_that_ends_has_its_queues_deleted() {
    let model = Model::new(options(), 1);
    let core = Core::new(&CoreConfig::default().seed([5; 32])).expect("a core");
    let (control, namespace) = core.block_on(async {
        let control = Control::open(model.clone(), "nvme:model".to_owned(), 4).await.expect("it comes up");
        let control = Arc::new(control);
        let opened = Opened::of(Arc::clone(&control), 1).await.expect("it has a namespace");
        let namespace = opened.attach().await.expect("attach");
        drop(opened.attach().await.expect("attach"));
        (control, namespace)
    });
    drop(core);
    assert_eq!(model.queue_pairs(), 0, "neither of the one in use nor of the one that was dropped");
    drop((control, namespace));
    assert_eq!(model.mappings(), 0);
}

#[test]
fn memory_that_a_hung_controller_may_know_stays_mapped() {
    let model = Model::new(ModelOptions { function_reset: false, timeout: 1, ..options() }, 1);
    let core = Core::new(&CoreConfig::default().seed([5; 32])).expect("a core");
    let mut before = 0;
    core.block_on(async {
        let control = Control::open(model.clone(), "nvme:model".to_owned(), 4).await.expect("it comes up");
        let opened = Opened::of(Arc::new(control), 1).await.expect("it has a namespace");
        let namespace = opened.attach().await.expect("attach");
        before = model.mappings();
        let written = namespace.write(0, filled(4096, 1)).await;
        written.expect("write");
        model.hang(true);
        let write = namespace.write(0, filled(4096, 2));
        assert!(rt::timeout(Duration::from_millis(1), write).await.is_err(), "it hangs");
    });
    drop(core);
    // Its two rings, the lists and the core's arena: the admin queue's memory goes with the device.
    assert_eq!(model.mappings(), 4, "of {before}");
}

#[test]
fn a_controller_that_hangs_at_its_end_is_waited_for_once() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            model.hang(true);
            drop(opened);
        }
    });
    let waited = Duration::from_micros(200) * u32::try_from(model.pauses()).expect("few");
    let (least, most) = (Duration::from_millis(3000), Duration::from_millis(3300));
    assert!((least..most).contains(&waited), "{waited:?}");
}

#[test]
fn a_namespace_that_is_formatted_anew_says_so() {
    let model = Model::new(options(), 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            namespace.write(0, filled(4096, 3)).await.expect("write");
            model.format_namespace(1, 9);
            let error = loop {
                match namespace.write(8192, filled(4096, 4)).await {
                    Ok(_) => rt::sleep(Duration::from_millis(10)).await,
                    Err(error) => break error.into_parts().0,
                }
            };
            assert_eq!(error.kind(), ErrorKind::UnsupportedFormat, "{error}");
            assert_eq!(error.outcome(), crate::Outcome::NotStarted, "{error}");
            let said = "nvme:model/1 offset 8192: the namespace was formatted anew, in blocks of 512 bytes \
                        in place of 4096: open it again";
            assert!(error.to_string().contains(said), "{error}");
            let error = opened.attach().await.expect_err("it is another namespace");
            assert!(error.to_string().contains("formatted anew"), "{error}");
            let again = opened.again(1).await.expect("it opens");
            assert_eq!(again.info().block_size_bytes, 512);
            let namespace = again.attach().await.expect("attach");
            namespace.write(512, filled(512, 5)).await.expect("write");
            assert_eq!(model.peek(1, 1), [5; 512]);
        }
    });
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}

#[test]
fn resets_that_take_many_turns_lose_nothing() {
    let model = Model::new(ModelOptions { pace: Pace::Steps(1), ready_steps: Some(40), ..options() }, 1);
    run(&model, |opened| {
        let model = model.clone();
        async move {
            let namespace = opened.attach().await.expect("attach");
            namespace.write(0, filled(4096, 1)).await.expect("write");
            namespace.flush().await.expect("flush");
            for round in 0..5 {
                let reads: Vec<_> = (0..50)
                    .map(|_| {
                        let namespace = namespace.clone();
                        rt::spawn(async move { namespace.read(0, filled(4096, 0)).await.map(|buf| buf[0]) })
                    })
                    .collect();
                rt::sleep(Duration::from_micros(100)).await;
                if round % 2 == 0 {
                    model.fail()
                } else {
                    opened.reset()
                }
                for read in reads {
                    assert_eq!(read.await.expect("no panic").expect("it is sent again"), 1);
                }
                // The first may be told that the controller failed.
                let _ = namespace.flush().await;
                namespace.write(4096, filled(4096, round)).await.expect("write");
                namespace.flush().await.expect("flush");
            }
            assert!(opened.stops() > 5, "{} stops", opened.stops());
        }
    });
    assert!(model.violations().is_empty(), "{:?}", model.violations());
}
