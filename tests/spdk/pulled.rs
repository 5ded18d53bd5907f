//! A controller on the bus that is slow, or is pulled out: `BOSON_GUEST_VFIO_HOT` names it in the
//! machine of `scripts/guest`, which slows it down and pulls it out when the console says so.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use boson::block::{Device, Namespace};
use boson::rt::{Core, CoreConfig, Idle};
use boson::{ErrorKind, observe, rt};

use crate::{config, cpu_time, ended, open, pattern, run};

/// How long a controller may take to be given up.
const PATIENCE: Duration = Duration::from_secs(40);

/// Asks the machine around this one for something; `scripts/guest` reads the console.
fn ask_host(what: &str) {
    std::fs::write("/dev/console", format!("\nHOST {what}\n")).expect("the console");
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..300 {
        if done() {
            return;
        }
        rt::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}");
}

#[test]
fn a_controller_that_is_pulled_is_closed() {
    let Ok(pci) = std::env::var("BOSON_GUEST_VFIO_HOT") else {
        eprintln!("NOT RUN: a controller that is pulled out: scripts/guest");
        return;
    };
    run(async {
        let device = open(&format!("spdk:pcie/{pci}/1"), &config()).await.expect("it is attached");
        let first = device.attach().await.expect("a queue pair");
        let second = device.attach().await.expect("another");
        ask_host("device_del hot");
        let error = loop {
            if let Err(error) = ended(first.write(0, pattern(4096, 1)).await) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        println!("{error}");
        for namespace in [&first, &second] {
            let error = namespace.read(0, rt::arena().alloc(4096)).await.expect_err("it is gone");
            assert!(error.to_string().contains("removed"), "{error}");
        }
        let error = device.attach().await.map(drop).expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        let error = open(&format!("spdk:pcie/{pci}/1"), &config()).await.map(drop).expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        is_put_back(&pci).await;
    });
}

#[test]
fn a_controller_that_is_pulled_while_it_does_not_answer_is_closed() {
    let Ok(pci) = std::env::var("BOSON_GUEST_VFIO_HOT") else {
        eprintln!("NOT RUN: a controller that is pulled out: scripts/guest");
        return;
    };
    run(async {
        let device = open(&format!("spdk:pcie/{pci}/1"), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        namespace.read(0, rt::arena().alloc(4096)).await.expect("read");
        // It reaches no memory any more, so that no reset succeeds.
        let file = File::options().read(true).write(true).open(format!("/sys/bus/pci/devices/{pci}/config"));
        let file = file.expect("its configuration space");
        let mut command = [0; 2];
        file.read_exact_at(&mut command, 4).expect("readable");
        file.write_all_at(&[command[0] & !4, command[1]], 4).expect("writable");
        drop(file);
        let began = Instant::now();
        loop {
            let read = rt::timeout(PATIENCE, namespace.read(0, rt::arena().alloc(4096)));
            let error = ended(read.await.expect("it ends")).expect_err("it answers nothing");
            assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
            if error.to_string().contains("goes on trying") {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{error}");
        }
        ask_host("device_del hot");
        is_put_back(&pci).await;
        let error = namespace.read(0, rt::arena().alloc(4096)).await.expect_err("it is gone");
        assert!(error.to_string().contains("removed"), "{error}");
    });
}

#[test]
fn a_core_that_sleeps_is_woken_by_a_slow_controller() {
    const READS: u32 = 50;
    const IDLE: Duration = Duration::from_secs(5);
    let Ok(pci) = std::env::var("BOSON_GUEST_VFIO_HOT") else {
        eprintln!("NOT RUN: a controller that is slow: scripts/guest");
        return;
    };
    let core = Core::new(&CoreConfig::default().idle(Idle::Sleep)).expect("a core");
    core.block_on(async {
        let device = open(&format!("spdk:pcie/{pci}/1"), &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        // How long a read takes.
        let read = async || {
            let began = Instant::now();
            namespace.read(0, rt::arena().alloc(4096)).await.expect("read");
            began.elapsed()
        };
        read().await;
        let busy = cpu_time();
        rt::sleep(IDLE).await;
        let used = cpu_time() - busy;
        println!(
            "{used:?} of CPU in {IDLE:?} of idleness; the first read after that took {:?}",
            read().await
        );
        // An emulated processor is some twenty times slower than a real one.
        assert!(used < IDLE / 20, "{used:?}");

        ask_host("slow hot");
        let began = Instant::now();
        while read().await < Duration::from_millis(15) {
            assert!(began.elapsed() < PATIENCE, "it does not become slow");
        }
        let (began, busy, parks) = (Instant::now(), cpu_time(), observe::stats().parks);
        let mut took = Vec::new();
        for _ in 0..READS {
            took.push(read().await);
        }
        let (all, used) = (began.elapsed(), cpu_time() - busy);
        let parks = observe::stats().parks - parks;
        took.sort();
        let half = took[took.len() / 2];
        println!("{READS} reads in {all:?}, half of them in {half:?}: {used:?} of CPU, {parks} sleeps");
        ask_host("fast hot");
        // Twenty in a second, and the core sleeps until the interrupt; without one it would look
        // after 100 ms, and naps would be many.
        assert!(half < Duration::from_millis(75), "{half:?}");
        assert!(parks >= u64::from(READS) / 2 && parks < 4 * u64::from(READS), "{parks} sleeps");
        assert!(used < all / 4, "{used:?} of CPU in {all:?}");
    });
}

/// The kernel has let it go: its directory disappears while there are handles. Then it comes again.
async fn is_put_back(pci: &str) {
    let directory = format!("/sys/bus/pci/devices/{pci}");
    let there = || Path::new(&directory).exists();
    until("the kernel still has the device", || !there()).await;
    ask_host("device_add hot");
    until("the device comes", there).await;
    // After it came the kernel looks for a driver by itself.
    let write = |file: String, text: &str| {
        std::fs::write(&file, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    };
    write(format!("{directory}/driver_override"), "vfio-pci");
    let driver = || std::fs::read_link(format!("{directory}/driver")).ok();
    until("a driver takes it", || driver().is_some()).await;
    if !driver().is_some_and(|path| path.ends_with("vfio-pci")) {
        write(format!("{directory}/driver/unbind"), pci);
        write("/sys/bus/pci/drivers_probe".to_owned(), pci);
    }
    until("vfio-pci takes it", || driver().is_some_and(|path| path.ends_with("vfio-pci"))).await;
}
