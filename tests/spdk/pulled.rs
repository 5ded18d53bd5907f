//! A controller on the bus that is pulled out: `BOSON_GUEST_VFIO_HOT` names it in the machine of
//! `scripts/guest`, which pulls it out when the console says so.

use std::path::Path;
use std::time::Duration;

use boson::block::{Device, Namespace};
use boson::{ErrorKind, rt};

use crate::{config, ended, open, pattern, run};

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
        // The kernel has let it go: its directory disappears while there are handles.
        let directory = format!("/sys/bus/pci/devices/{pci}");
        let there = || Path::new(&directory).exists();
        until("the kernel still has the device", || !there()).await;
        ask_host("device_add hot");
        until("the device comes", there).await;
    });
}
