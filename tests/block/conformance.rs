//! Every kind of device conforms.

use std::time::Duration;

use boson::block::nvme::ModelledDevice;
use boson::block::nvme::model::{Model, ModelNamespace, ModelOptions};
use boson::block::{AnyDevice, Fault, MemoryDevice, MemoryOptions, NamespaceAddress, TrimLeaves};
use boson::rt::reactor::ReactorChoice;
use boson::rt::{Core, CoreConfig};

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

/// Whether the suite finds that a device which shows `faults` all the time does not conform.
fn is_found_out(what: &str, options: MemoryOptions, faults: &[Fault]) -> bool {
    let device = MemoryDevice::open(format!("mem:{what}"), options).expect("possible options");
    let hook = faults.to_vec();
    let hooks = Hooks::new().operations(500).cuts_power(move |device: &MemoryDevice| {
        device.power_loss();
        device.inject(hook.clone());
    });
    let open = async || {
        device.inject(faults.to_vec());
        device.clone()
    };
    let suite = std::panic::AssertUnwindSafe(|| run(conformance::all(what, open, hooks)));
    std::panic::catch_unwind(suite).is_err()
}

#[test]
fn devices_that_do_not_conform_are_found_out() {
    let options = MemoryOptions::new(SIZE).volatile_cache(true);
    assert!(!is_found_out("one that conforms", options.clone(), &[]));
    let unforced = options.clone().forced_unit_access(false);
    // Now and then: where writes are dropped, nobody can tell.
    let sometimes = |fault: Fault| (0..20).map(|nth| fault.clone().after(30 + 61 * nth).once()).collect();
    let always = |fault: Fault| vec![fault];
    for (what, options, faults) in [
        ("a write that is lost", &options, sometimes(Fault::write().vanishes())),
        ("a write that goes astray", &options, sometimes(Fault::write().is_misdirected(4096))),
        ("a write that is corrupted", &options, sometimes(Fault::write().flips_a_bit())),
        ("a write that fails", &options, sometimes(Fault::write())),
        ("a read that is corrupted", &options, sometimes(Fault::read().flips_a_bit())),
        ("reads of what was there before", &options, always(Fault::read().after(100).is_stale())),
        ("flushes that are skipped", &options, always(Fault::flush().vanishes())),
        ("flushes of durable writes that are skipped", &unforced, always(Fault::flush().vanishes())),
        ("trims that are not done", &options, always(Fault::trim().vanishes())),
        ("zeros that are not written", &options, always(Fault::write_zeroes().vanishes())),
        ("a comparison that writes nothing", &options, always(Fault::compare_and_write().once().vanishes())),
    ] {
        assert!(is_found_out(what, options.clone(), &faults), "{what} passes");
    }
}

/// Runs the suite on what `address` names, over each reactor.
fn kernel(name: &str, address: &str) {
    let address: NamespaceAddress = address.parse().expect("an address");
    for reactor in [ReactorChoice::Auto, ReactorChoice::Epoll] {
        let config = CoreConfig::default().seed([6; 32]).reactor(reactor);
        Core::new(&config).expect("a core").block_on(async {
            // It waits for the one before to be closed, as a restarted server does.
            let open = async || AnyDevice::open(&address).await.expect("opens");
            conformance::all(name, open, Hooks::new().reopens().on_cores()).await;
        });
    }
}

#[test]
fn the_memory_of_an_address_conforms() {
    let address: NamespaceAddress = format!("mem:{SIZE}").parse().expect("an address");
    let device = run(async { AnyDevice::open(&address).await.expect("opens") });
    let hooks = Hooks::new().reopens().on_cores().operations(500);
    run(conformance::all("mem:", async || device.clone(), hooks));
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

/// The driver of `nvme:` against controllers that are modelled in memory.
#[test]
fn modelled_nvme_controllers_conform() {
    let kinds = [
        ("512, PRPs only", ModelOptions::new(ModelNamespace::new(SIZE / 512, 9))),
        ("4096", ModelOptions::new(ModelNamespace::new(SIZE / 4096, 12))),
    ];
    for (name, options) in kinds {
        let model = Model::new(options, 7);
        run(async {
            let hooks = Hooks::new().reopens().on_cores().operations(500);
            let open = async || ModelledDevice::open(&model, 1).await.expect("it comes up");
            conformance::all(name, open, hooks).await;
        });
        assert!(model.violations().is_empty(), "{name}: {:?}", model.violations());
    }
}
