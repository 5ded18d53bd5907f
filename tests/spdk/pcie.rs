//! A controller on the bus, where there is one: `BOSON_TEST_NVME` names its PCI address. Its
//! namespaces 1 and, if there is one, 2 are overwritten, and it is reset. `scripts/guest` has such
//! a machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use boson::block::spdk::{SpdkDevice, SpdkNamespace};
use boson::block::{Device, Namespace};
use boson::{ErrorKind, Outcome, rt};

use crate::support::conformance::{self, Hooks};
use crate::{
    assert_pattern, compares, config, ended, open, pattern, reads_what_was_written, run, serves_two_cores,
};

/// How long a controller may take to come back. Emulated ones do it in a second; one that is freed
/// before it has stopped takes half a minute for each queue pair.
const PATIENCE: Duration = Duration::from_secs(20);

fn controller() -> Option<String> {
    let address = std::env::var("BOSON_TEST_NVME").ok();
    if address.is_none() {
        eprintln!("NOT RUN: a controller on the bus: BOSON_TEST_NVME names none");
    }
    address
}

/// The addresses of its namespaces.
fn namespaces(pci: &str) -> Vec<String> {
    run(async {
        let mut found = Vec::new();
        for number in [1, 2] {
            let address = format!("spdk:pcie/{pci}/{number}");
            match open(&address, &config()).await {
                Ok(_) => found.push(address),
                Err(error) => assert_eq!((error.kind(), number), (ErrorKind::NotFound, 2), "{error}"),
            }
        }
        found
    })
}

#[test]
fn a_controller_on_the_bus_keeps_what_is_written() {
    let Some(pci) = controller() else { return };
    for address in namespaces(&pci) {
        let device = run(async {
            let device = open(&address, &config()).await.expect("it is attached");
            println!("{:?}", device.info());
            let namespace = device.attach().await.expect("a queue pair");
            reads_what_was_written(&namespace).await;
            compares(&namespace).await;
            // From the arena nothing is copied.
            let before = boson::block::stats()[0].copied_bytes;
            namespace.read(0, rt::arena().alloc(128 << 10)).await.expect("read");
            assert_eq!(boson::block::stats()[0].copied_bytes, before);
            device
        });
        serves_two_cores(&device);
    }
}

#[test]
fn it_conforms() {
    let Some(pci) = controller() else { return };
    for address in namespaces(&pci) {
        run(async {
            let open = async || open(&address, &config()).await.expect("it is attached");
            conformance::all(&address, open, Hooks::new().reopens().on_cores()).await;
        });
    }
}

#[test]
fn a_namespace_that_is_not_there_is_named() {
    let Some(pci) = controller() else { return };
    run(async {
        let device = open(&format!("spdk:pcie/{pci}/1"), &config()).await.expect("it is attached");
        let error = open(&format!("spdk:pcie/{pci}/77"), &config()).await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let namespace = device.attach().await.expect("a queue pair");
        namespace.read(0, rt::arena().alloc(4096)).await.expect("read");
    });
}

#[test]
fn a_controller_that_is_reset_under_us_comes_back_with_what_was_written() {
    let Some(pci) = controller() else { return };
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    comes_back_after(&pci, "was disabled", || reset(&pci));
    let before = descriptors();
    comes_back_after(&pci, "was disabled", || reset(&pci));
    // Each queue pair has one for its interrupt.
    let after = descriptors();
    assert!(after < before + 8, "{before} descriptors, and {after} after another reset");
}

/// Resets its function behind our back.
fn reset(pci: &str) {
    std::fs::write(format!("/sys/bus/pci/devices/{pci}/reset"), "1").expect("its function has a reset");
}

#[test]
fn a_core_ends_with_commands_in_flight_and_with_a_controller_that_has_just_been_lost() {
    let Some(pci) = controller() else { return };
    let address = format!("spdk:pcie/{pci}/1");
    for is_lost in [false, true] {
        let (device, began) = run(async {
            let device = open(&address, &config()).await.expect("it is attached");
            let namespace = device.attach().await.expect("a queue pair");
            namespace.write(1 << 20, pattern(4096, 5)).await.expect("write");
            namespace.flush().await.expect("flush");
            if is_lost {
                reset(&pci);
            }
            for number in 0..200_u64 {
                let namespace = namespace.clone();
                drop(rt::spawn(async move { namespace.read(number << 12, rt::arena().alloc(4096)).await }));
            }
            rt::yield_now().await;
            (device, Instant::now())
        });
        assert!(began.elapsed() < PATIENCE, "the core ended after {:?}", began.elapsed());
        run(async {
            let namespace = device.attach().await.expect("a queue pair");
            let read = rt::timeout(PATIENCE, namespace.read(1 << 20, rt::arena().alloc(4096)));
            assert_pattern(&read.await.expect("soon").expect("read"), 5);
        });
    }
}

#[test]
fn a_handle_that_is_dropped_holds_nobody_up() {
    const SOON: Duration = Duration::from_millis(200);
    let Some(pci) = controller() else { return };
    let address = format!("spdk:pcie/{pci}/1");
    run(async {
        let device = open(&address, &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        namespace.write(1 << 20, pattern(64 << 10, 1)).await.expect("write");
        namespace.flush().await.expect("flush");
        // Those of a controller that serves are given back soon: it does not have that many.
        let (began, mut dropped) = (Instant::now(), 0);
        while dropped < 100 {
            match device.attach().await {
                Ok(made) => {
                    drop(made);
                    dropped += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}"),
            }
            namespace.read(0, rt::arena().alloc(4096)).await.expect("it was not reset");
            assert!(began.elapsed() < PATIENCE, "only {dropped} were given back");
        }
        // One that reaches no memory does no command of its admin queue. It is noticed within a
        // second, and stopped then.
        for is_up in [false, true, false, true] {
            // What was dropped is freed by then: whoever waits for that has SPDK's lock.
            rt::sleep(Duration::from_secs(1)).await;
            let memory = Memory::of(&pci);
            let one_that_is_up = if is_up {
                let made = device.attach().await.expect("another queue pair");
                made.read(0, rt::arena().alloc(4096)).await.expect("read");
                Some(made)
            } else {
                None
            };
            memory.allow(false);
            let began = Instant::now();
            match one_that_is_up {
                Some(made) => drop(made),
                None => drop(device.attach().await.expect("a queue pair that is to be connected")),
            }
            let took = began.elapsed();
            memory.allow(true);
            assert!(took < SOON, "{took:?}, is_up: {is_up}");
            rt::sleep(Duration::from_secs(2)).await;
            serve_again(&device, std::slice::from_ref(&namespace), 1 << 20).await;
        }
    });
}

#[test]
fn a_controller_with_a_fatal_status_comes_back_with_what_was_written() {
    let Some(pci) = controller() else { return };
    comes_back_after(&pci, "fatal status", || {
        let memory = Memory::of(&pci);
        // It cannot fetch the commands that are on their way, and gives up.
        memory.allow(false);
        std::thread::sleep(Duration::from_millis(20));
        memory.allow(true);
    });
}

/// The command register of a PCI function, as it was while somebody drove it.
struct Memory {
    file: File,
    command: [u8; 2],
}

impl Memory {
    fn of(pci: &str) -> Self {
        let file = File::options().read(true).write(true).open(format!("/sys/bus/pci/devices/{pci}/config"));
        let file = file.expect("its configuration space");
        let mut command = [0; 2];
        file.read_exact_at(&mut command, 4).expect("readable");
        Self { file, command }
    }

    /// Lets the function reach memory, or keeps it from that.
    fn allow(&self, allowed: bool) {
        let [low, high] = self.command;
        let low = if allowed { low } else { low & !4 };
        self.file.write_all_at(&[low, high], 4).expect("writable");
    }
}

/// Three queue pairs of one controller with reads and writes under way, while `harm` is done to it
/// from another thread: those in flight fail as lost, for that reason, and all go on soon.
fn comes_back_after(pci: &str, reason: &str, harm: impl FnOnce() + Send) {
    let address = format!("spdk:pcie/{pci}/1");
    let kept = 3 << 20;
    let began = std::thread::scope(|scope| {
        run(async {
            let device = open(&address, &config()).await.expect("it is attached");
            let mut all = Vec::new();
            for _ in 0..3 {
                all.push(device.attach().await.expect("a queue pair"));
            }
            all[0].write(kept, pattern(64 << 10, 1)).await.expect("write");
            all[0].flush().await.expect("flush");
            let loads: Vec<_> =
                (0..6).map(|number| rt::spawn(until_lost(all[number % 3].clone(), number as u64))).collect();
            rt::sleep(Duration::from_millis(100)).await;
            let harmed = scope.spawn(harm);
            let began = Instant::now();
            let mut lost = 0;
            for load in loads {
                let error = rt::timeout(PATIENCE, load).await.expect("commands end").expect("no panic");
                assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
                assert!(error.to_string().contains(reason), "{error}");
                lost += u32::from(error.outcome() == Outcome::Unknown);
            }
            assert!(lost > 0, "a write was in flight");
            println!("commands failed after {:?}", began.elapsed());
            assert!(harmed.join().is_ok());
            serve_again(&device, &all, kept).await;
            began
        })
    });
    let took = began.elapsed();
    println!("{address} is back after {took:?}");
    assert!(took < PATIENCE, "{took:?}");
}

/// Reads or writes until one fails.
async fn until_lost(namespace: SpdkNamespace, number: u64) -> boson::Error {
    loop {
        let offset = number << 16;
        let result = if number.is_multiple_of(2) {
            ended(namespace.write(offset, pattern(4096, number)).await)
        } else {
            ended(namespace.read(offset, rt::arena().alloc(4096)).await)
        };
        if let Err(error) = result {
            return error;
        }
    }
}

async fn serve_again(device: &SpdkDevice, all: &[SpdkNamespace], kept: u64) {
    let more = device.attach().await.expect("another queue pair");
    for namespace in all.iter().chain([&more]) {
        let began = Instant::now();
        let read = loop {
            let read = rt::timeout(PATIENCE, namespace.read(kept, rt::arena().alloc(64 << 10)));
            match read.await.expect("it ends").map_err(|error| error.into_parts().0) {
                Ok(read) => break read,
                // The first attempt to reach it may have failed.
                Err(error) => assert!(error.to_string().contains("goes on trying"), "{error}"),
            }
            assert!(began.elapsed() < PATIENCE, "it does not come back");
            rt::sleep(Duration::from_millis(20)).await;
        };
        assert_pattern(&read, 1);
        namespace.write(0, pattern(4096, 9)).await.expect("write");
    }
}
