//! A controller on the bus, where there is one: `BOSON_TEST_NVME` names its PCI address. Its first
//! namespace is overwritten. `scripts/guest` has such a machine.

use boson::block::{Device, Namespace};
use boson::{ErrorKind, rt};

use crate::support::conformance::{self, Hooks};
use crate::{compares, config, open, reads_what_was_written, run, serves_two_cores};

/// With `BOSON_TEST_NVME_PULLED` set: whoever set it pulls the controller when the test says so.
#[test]
fn a_controller_that_is_pulled_is_closed() {
    let Some(pci) = controller() else { return };
    if std::env::var_os("BOSON_TEST_NVME_PULLED").is_none() {
        return;
    }
    run(async {
        let address = format!("spdk:pcie/{pci}/1");
        let device = open(&address, &config()).await.expect("it is attached");
        let namespace = device.attach().await.expect("a queue pair");
        println!("PULL IT");
        let error = loop {
            match namespace.read(0, rt::arena().alloc(4096)).await {
                Ok(_) => rt::sleep(std::time::Duration::from_millis(1)).await,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        println!("{error}");
        let error = namespace.read(0, rt::arena().alloc(4096)).await.expect_err("it is gone");
        assert!(error.to_string().contains("removed"), "{error}");
        let error = device.attach().await.map(drop).expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        // The kernel has let it go: its directory disappears while there are handles.
        let directory = format!("/sys/bus/pci/devices/{pci}");
        for _ in 0..100 {
            if !std::path::Path::new(&directory).exists() {
                return;
            }
            rt::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("the kernel still has the device");
    });
}

fn controller() -> Option<String> {
    let address = std::env::var("BOSON_TEST_NVME").ok();
    if address.is_none() {
        eprintln!("NOT RUN: a controller on the bus: BOSON_TEST_NVME names none");
    }
    address
}

#[test]
fn a_controller_on_the_bus_keeps_what_is_written() {
    let Some(pci) = controller() else { return };
    let address = format!("spdk:pcie/{pci}/1");
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
    drop(device);
    run(async {
        let open = async || open(&address, &config()).await.expect("it is attached");
        conformance::all(&address, open, Hooks::new().reopens().on_cores()).await;
    });
    run(async {
        let device = open(&address, &config()).await.expect("it is attached again");
        let error = open(&format!("spdk:pcie/{pci}/77"), &config()).await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let namespace = device.attach().await.expect("a queue pair");
        namespace.read(0, rt::arena().alloc(4096)).await.expect("read");
    });
}
