//! DPDK ports: loops and files that need no rights, and a veth pair with the kernel's network stack
//! at its other end.
//!
//! The EAL starts once per process, so every test here shares it; it runs on normal pages, as on a
//! machine without hugepages, unless `BOSON_TEST_EAL` holds other EAL arguments (none: hugepages
//! where there are some). The tests on a veth pair need root (for the network namespace); without
//! it they say so and pass, except where `CI` is set: there they fail.
#![cfg(feature = "dpdk")]

#[macro_use]
#[path = "../support/mod.rs"]
mod support;

mod by_environment;
mod lab;
mod ports;
mod refused;
mod tcp;
mod veth;

use std::sync::LazyLock;

use boson::net::device::PacketDevice;
use boson::net::device::dpdk::{DpdkPort, Eal, EalConfig, PortConfig};

fn eal_arguments() -> String {
    std::env::var("BOSON_TEST_EAL").unwrap_or_else(|_| "--no-huge -m 256".to_owned())
}

fn eal_config() -> EalConfig {
    EalConfig::default().arguments(eal_arguments())
}

/// The EAL of this process. A test that starts a process asks for it first: drivers that DPDK loads
/// call `setenv`, which moves the environment away from under a process that starts meanwhile.
fn eal() -> Eal {
    static EAL: LazyLock<Eal> = LazyLock::new(|| {
        let affinity = || rustix::thread::sched_getaffinity(None).expect("a thread may read its own");
        let before = affinity();
        let eal = Eal::init(&eal_config()).expect("DPDK starts without hugepages, rights or devices");
        assert_eq!(affinity(), before, "starting DPDK leaves its thread where it was");
        eal
    });
    *EAL
}

/// The smallest pool that the default queues allow, so that a leak shows soon.
fn small() -> PortConfig {
    PortConfig::default().rx_descriptors(256).tx_descriptors(256).mbufs(2_047)
}

fn open(devargs: &str) -> DpdkPort {
    DpdkPort::open(eal(), devargs, &small()).expect("the port opens")
}

/// Frame number `number`: its length and every byte depend on it.
fn pattern(number: usize) -> Vec<u8> {
    let length = 60 + (number * 37) % 1_455;
    (0..length).map(|index| u8::try_from((number * 31 + index * 7) % 251).expect("below 251")).collect()
}

fn send(port: &mut DpdkPort, frame: &[u8]) -> bool {
    port.transmit(frame.len(), &mut |buffer| buffer.copy_from_slice(frame))
}

fn receive(port: &mut DpdkPort, budget: usize) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let count = port.receive(budget, &mut |frame| frames.push(frame.to_vec())).expect("the port works");
    assert_eq!(count, frames.len());
    frames
}
