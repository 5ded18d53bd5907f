//! Every kind of device conforms.

use std::time::Duration;

use boson::block::{
    AnyNamespace, Device, Fault, MemoryDevice, MemoryOptions, Namespace, NamespaceAddress, NamespaceInfo,
    TrimLeaves,
};
use boson::rt;
use boson::{ErrorKind, Result};

use crate::namespace::{Directory, LoopDevice, run};
use crate::support::conformance::{self, Hooks};

fn hooks() -> Hooks<MemoryDevice> {
    Hooks::new()
        .reopens()
        .on_cores()
        .fails_writes(|device: &MemoryDevice, n| device.inject([Fault::write().after(n).once()]))
        .fails_reads(|device: &MemoryDevice, n| device.inject([Fault::read().after(n).once()]))
        .cuts_power(MemoryDevice::power_loss)
        .removes(MemoryDevice::remove)
}

/// Runs the suite on memory that behaves as `options` say.
fn memory(name: &str, options: MemoryOptions) {
    memory_with(name, options, hooks());
}

fn memory_with(name: &str, options: MemoryOptions, hooks: Hooks<MemoryDevice>) {
    let device = MemoryDevice::open(format!("mem:{name}"), options).expect("possible options");
    run(async {
        conformance::all(
            name,
            async || {
                device.power_on();
                device.clone()
            },
            hooks,
        )
        .await;
    });
}

const SIZE: u64 = conformance::NEEDED_BYTES;

#[test]
fn memory_conforms() {
    memory("plain", MemoryOptions::new(SIZE));
    memory("of 512 byte blocks", MemoryOptions::new(SIZE + 512).block_size_bytes(512));
    let large = MemoryOptions::new(SIZE).block_size_bytes(16 << 10);
    memory_with("of 16 KiB blocks", large, hooks().operations(300));
}

#[test]
fn slow_memory_with_a_short_queue_and_odd_limits_conforms() {
    let options = MemoryOptions::new(SIZE)
        .block_size_bytes(512)
        .max_transfer_bytes(11 * 512)
        .optimal_boundary_bytes(7 * 512)
        .max_compare_and_write_bytes(1024)
        .read_latency(Duration::from_micros(30))
        .write_latency(Duration::from_micros(30))
        .queue_depth(3);
    memory("short and odd", options);
}

#[test]
fn memory_like_a_disk_conforms() {
    let options = MemoryOptions::disk(SIZE).flush_latency(Duration::from_micros(300));
    memory("a disk", options.clone().queue_depth(32));
    let options = options.forced_unit_access(true).trim(TrimLeaves::Anything).write_zeroes(true);
    memory(
        "a disk with commands",
        options.seed(2).atomic_write_bytes(16 << 10).atomic_boundary_bytes(8 << 10),
    );
}

#[test]
fn memory_that_may_only_be_read_conforms() {
    let device = MemoryDevice::open("mem:read-only", MemoryOptions::new(SIZE).read_only(true));
    run(async { conformance::read_only("read-only", &device.expect("possible options")).await });
}

/// A file or a device of the kernel's, which one core at a time opens.
#[derive(Clone)]
struct OneAtATime {
    address: NamespaceAddress,
    info: NamespaceInfo,
}

impl OneAtATime {
    async fn open(address: &str) -> Self {
        let address: NamespaceAddress = address.parse().expect("an address");
        let info = open(&address).await.expect("opens").info().clone();
        Self { address, info }
    }
}

/// Waits for the one before to be closed.
async fn open(address: &NamespaceAddress) -> Result<AnyNamespace> {
    let opened = async {
        loop {
            match AnyNamespace::open(address).await {
                Err(error) if error.kind() == ErrorKind::InUse => rt::sleep(Duration::from_millis(1)).await,
                opened => return opened,
            }
        }
    };
    rt::timeout(Duration::from_secs(10), opened).await?
}

impl Device for OneAtATime {
    type Namespace = AnyNamespace;

    fn info(&self) -> &NamespaceInfo {
        &self.info
    }

    async fn attach(&self) -> Result<AnyNamespace> {
        open(&self.address).await
    }
}

/// Runs the suite on what `address` names.
fn kernel(name: &str, address: &str) {
    run(async {
        conformance::all(name, async || OneAtATime::open(address).await, Hooks::new().reopens()).await;
    });
}

#[test]
fn a_file_of_fixed_size_conforms() {
    let directory = Directory::new("conforming");
    let path = directory.file("data");
    kernel("file:", &format!("file:{}?size={SIZE}", path.display()));
}

#[test]
fn a_growing_file_conforms() {
    let directory = Directory::new("conforming-growing");
    kernel("file: that grows", &format!("file:{}", directory.file("data").display()));
}

#[test]
fn a_block_device_conforms() {
    let Some(device) = LoopDevice::new(SIZE) else { return };
    kernel("blk:", &format!("blk:{}", device.path.display()));
}
