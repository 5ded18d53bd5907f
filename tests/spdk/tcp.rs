//! NVMe over TCP.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use boson::block::{Device, Namespace};
use boson::{ErrorKind, rt};

use crate::support::conformance::{self, Hooks};
use crate::target::Target;
use crate::{compares, config, cpu_time, open, reads_what_was_written, run, serves_two_cores};

#[test]
fn a_namespace_over_tcp_keeps_what_is_written() {
    let Some(target) = Target::start("tcp") else { return };
    let device = run(async {
        let device = open(&target.address(1), &config()).await.expect("it is attached");
        let info = device.info();
        assert_eq!((info.size_bytes, info.block_size_bytes), (64 << 20, 4096));
        assert_eq!(info.model, "boson test");
        let namespace = device.attach().await.expect("a queue pair");
        reads_what_was_written(&namespace).await;
        compares(&namespace).await;
        device
    });
    serves_two_cores(&device);
    // The last handle detaches; after that the controller can be attached anew.
    drop(device);
    run(async {
        let device = open(&target.address(1), &config()).await.expect("it is attached again");
        device.attach().await.expect("a queue pair");
    });
}

#[test]
fn it_conforms() {
    let Some(target) = Target::start("conforms") else { return };
    let address = target.address(1);
    let target = Rc::new(RefCell::new(target));
    let killed = Rc::clone(&target);
    let hooks = Hooks::new().reopens().on_cores().removes(move |_| killed.borrow_mut().kill());
    run(async {
        let open = async || {
            target.borrow_mut().ensure_running();
            open(&address, &config()).await.expect("it is attached")
        };
        conformance::all("spdk:tcp", open, hooks).await;
    });
}

#[test]
fn two_namespaces_of_one_controller_are_two_devices() {
    let Some(target) = Target::start("two") else { return };
    run(async {
        let first = open(&target.address(1), &config()).await.expect("namespace 1");
        let second = open(&target.address(2), &config()).await.expect("namespace 2");
        let error = open(&target.address(6), &config()).await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("it has 1, 2, 3, 4, 5"), "{error}");
        for device in [first, second] {
            let namespace = device.attach().await.expect("a queue pair");
            namespace.read(0, rt::arena().alloc(4096)).await.expect("read");
        }
    });
}

#[test]
fn more_cores_than_queue_pairs_are_refused_by_name() {
    let Some(target) = Target::start("limit") else { return };
    run(async {
        let device = open(&target.address(1), &config()).await.expect("it is attached");
        let mut attached = Vec::new();
        for _ in 0..8 {
            attached.push(device.attach().await.expect("a queue pair"));
        }
        let error = device.attach().await.expect_err("the target gives eight");
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().contains("no queue pair left"), "{error}");
        drop(attached);
        rt::yield_now().await;
        device.attach().await.expect("one was given back");
    });
}

#[test]
fn a_namespace_that_grows_is_larger_for_everybody() {
    let Some(target) = Target::start("grows") else { return };
    run(async {
        let device = open(&target.address(4), &config()).await.expect("it is attached");
        let namespaces =
            [device.attach().await.expect("a queue pair"), device.attach().await.expect("another")];
        let size = 64 << 20;
        assert!(namespaces.iter().all(|namespace| namespace.size_bytes() == size));
        for namespace in &namespaces {
            namespace.read(0, rt::arena().alloc(4096)).await.expect("it is connected");
            namespace.read(size, rt::arena().alloc(4096)).await.expect_err("past the end");
        }
        let said = target.ask("bdev_null_resize", r#"{"name": "Grows", "new_size": 128}"#);
        assert!(said.contains("true"), "{said}");
        for namespace in &namespaces {
            let mut looks = 0;
            while namespace.size_bytes() == size {
                looks += 1;
                assert!(looks < 200, "nobody noticed");
                rt::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(namespace.size_bytes(), 2 * size);
            namespace.read(size, rt::arena().alloc(4096)).await.expect("there is more");
        }
    });
}

#[test]
fn an_idle_core_sleeps_and_the_first_read_after_that_takes_no_nap() {
    const IDLE: Duration = Duration::from_secs(5);
    let Some(target) = Target::start("idle") else { return };
    run(async {
        let device = open(&target.address(1), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        namespace.read(0, rt::arena().alloc(4096)).await.expect("read");
        let mut took = Vec::new();
        let busy = cpu_time();
        for _ in 0..5 {
            rt::sleep(IDLE / 5).await;
            let began = Instant::now();
            namespace.read(0, rt::arena().alloc(4096)).await.expect("read");
            took.push(began.elapsed());
        }
        let used = cpu_time() - busy;
        took.sort();
        println!("{used:?} of CPU in {IDLE:?} of idleness; the first reads after each second took {took:?}");
        assert!(used < IDLE / 50, "{used:?}, which includes five reads");
        // An idle core looks every 100 ms. The target may have other things to do.
        assert!(took[1] < Duration::from_millis(20), "{took:?}");
    });
}
