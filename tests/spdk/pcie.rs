//! A controller on the bus, where there is one: `BOSON_TEST_NVME` names its PCI address. Its first
//! namespace is overwritten. `scripts/guest` has such a machine.

use boson::block::{Device, Namespace};
use boson::{ErrorKind, rt};

use crate::support::conformance::{self, Hooks};
use crate::{compares, config, open, reads_what_was_written, run, serves_two_cores};

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
