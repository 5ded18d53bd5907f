//! The conformance suite over every way to an NVMe controller, which fails and is pulled out when
//! the suite wants that.

use std::time::Duration;

use boson::block::{AnyDevice, NamespaceAddress};
use boson::rt::reactor::{RingFeature, RingFeatures};
use boson::rt::{self, Core, CoreConfig, CoreThread, Idle};

use super::host::{self, Hot};
use super::{PATIENCE, core, device};
use crate::support::conformance::{self, Hooks};

/// Larger than what the suite asks of the arena.
const ARENA_BYTES: usize = 64 << 20;
/// Operations of the suite's model test: the processor is emulated.
const OPERATIONS: u32 = 200;

async fn open(address: &str) -> AnyDevice {
    let parsed: NamespaceAddress = address.parse().expect("an address");
    AnyDevice::open(&parsed).await.unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn hooks() -> Hooks<AnyDevice> {
    Hooks::new().reopens().on_cores().operations(OPERATIONS)
}

/// Hooks for a namespace whose image has this name in `scripts/guest`.
fn failing(image: &'static str) -> Hooks<AnyDevice> {
    hooks()
        .fails_writes(move |_, count| host::fail_once(image, "write", count))
        .fails_reads(move |_, count| host::fail_once(image, "read", count))
}

/// A core that sleeps as soon as it may, with room for what the suite asks for.
fn config() -> CoreConfig {
    CoreConfig::default().seed([13; 32]).idle(Idle::Sleep).arena_bytes(ARENA_BYTES)
}

fn conforms(core: &Core, address: &str, hooks: Hooks<AnyDevice>) {
    let suite = conformance::all(address, async || open(address).await, hooks);
    core.block_on(rt::timeout(10 * PATIENCE, suite)).expect("in time");
}

/// Rings that ask the device for completions, and rings that it interrupts.
fn rings() -> [RingFeatures; 2] {
    [RingFeatures::all(), RingFeatures::all().without(RingFeature::PolledDevices)]
}

#[test]
#[ignore = "takes an NVMe controller under VFIO: scripts/guest"]
fn nvme_conforms_on_both_formats() {
    for (number, image) in [(1, "vfio1"), (2, "vfio2")] {
        let address = format!("nvme:{}/{number}", device("BOSON_GUEST_VFIO"));
        conforms(&Core::new(&config()).expect("a core"), &address, failing(image));
    }
}

/// Two namespaces of a controller at once, from cores with several queue pairs between them.
#[test]
#[ignore = "takes an NVMe controller under VFIO: scripts/guest"]
fn nvme_conforms_on_two_namespaces_at_once() {
    let suites = [1, 2].map(|number| {
        let core = CoreThread::start("suite", &config()).expect("a core");
        let address = format!("nvme:{}/{number}", device("BOSON_GUEST_VFIO"));
        let suite = core.handle().spawn(move || async move {
            conformance::all(&address, async || open(&address).await, hooks()).await;
        });
        (core, suite)
    });
    Core::new(&config()).expect("a core").block_on(async {
        for (core, suite) in suites {
            rt::timeout(10 * PATIENCE, suite).await.expect("in time").expect("it conforms");
            drop(core);
        }
    });
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn ng_conforms_over_either_ring() {
    let address = format!("ng:{}", device("BOSON_GUEST_NG"));
    for features in rings() {
        conforms(&core(features), &address, failing("nvme1"));
    }
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn ng_conforms_with_blocks_of_4096_bytes() {
    let address = format!("ng:{}", device("BOSON_GUEST_NG_4096"));
    conforms(&core(RingFeatures::all()), &address, failing("nvme2"));
}

#[test]
#[ignore = "takes an NVMe device: scripts/guest"]
fn blk_conforms_over_either_ring() {
    let address = format!("blk:{}", device("BOSON_GUEST_POLLED"));
    for features in rings() {
        conforms(&core(features), &address, failing("nvme1"));
    }
}

/// A controller is pulled out while the suite writes to its namespace, in each of three ways.
#[test]
#[ignore = "takes an NVMe controller that is pulled out: scripts/guest"]
fn pulled_controllers_end_what_is_in_flight() {
    pulled("vfio-pci", "nvme:", |_: &Hot| format!("nvme:{}/1", device("BOSON_GUEST_VFIO_HOT")));
    pulled("nvme", "blk:", |hot: &Hot| format!("blk:{}", hot.node("nvme").display()));
    pulled("nvme", "ng:", |hot: &Hot| format!("ng:{}", hot.node("ng").display()));
    Hot::new().put_back("vfio-pci");
}

/// Runs the suite on the hot controller, which `driver` has, at the address that it has then.
fn pulled(driver: &str, name: &str, address: impl Fn(&Hot) -> String) {
    let opening = async || {
        let hot = Hot::new();
        // Whoever lets go of it may be a task of this core.
        while hot.is_leaving() {
            rt::sleep(Duration::from_millis(20)).await;
        }
        hot.put_back(driver);
        open(&address(&hot)).await
    };
    let suite = conformance::all(name, opening, hooks().removes(|_| Hot::new().pull()));
    let core = Core::new(&config()).expect("a core");
    core.block_on(rt::timeout(10 * PATIENCE, suite)).expect("in time");
}
