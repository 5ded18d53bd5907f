//! SPDK's own block devices, in this process.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use boson::block::{Device, Namespace, NamespaceConfig};
use boson::mem::DmaBuf;
use boson::{ErrorKind, rt};

use crate::support::conformance::{self, Hooks};
use crate::{compares, config, open, reads_what_was_written, run, serves_two_cores};

const CONFIGURATION: &str = r#"{"subsystems": [
    {"subsystem": "iobuf", "config": [{"method": "iobuf_set_options",
        "params": {"small_pool_count": 2048, "large_pool_count": 256}}]},
    {"subsystem": "bdev", "config": [
        {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 4095, "bdev_io_cache_size": 64}},
        {"method": "bdev_malloc_create",
            "params": {"name": "Memory", "num_blocks": 8192, "block_size": 4096}},
        {"method": "bdev_malloc_create",
            "params": {"name": "Small", "num_blocks": 65536, "block_size": 512}},
        {"method": "bdev_null_create",
            "params": {"name": "Nothing", "num_blocks": 262144, "block_size": 4096}},
        {"method": "bdev_delay_create", "params": {"name": "Slow", "base_bdev_name": "Nothing",
            "avg_read_latency": 200000, "p99_read_latency": 200000,
            "avg_write_latency": 200000, "p99_write_latency": 200000}},
        {"method": "bdev_null_create", "params": {"name": "Metadata", "num_blocks": 1024,
            "block_size": 4096, "md_size": 8}},
        {"method": "bdev_wait_for_examine"}]}
]}"#;

/// The configuration that all tests of this process share.
pub(crate) fn configured() -> NamespaceConfig {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let path = FILE.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("boson-spdk-{}.json", std::process::id()));
        std::fs::write(&path, CONFIGURATION).expect("a temporary file");
        path
    });
    config().spdk_config(path)
}

#[test]
fn a_device_in_memory_keeps_what_is_written() {
    for name in ["Memory", "Small"] {
        let device = run(async {
            let device = open(&format!("spdk:bdev/{name}"), &configured()).await.expect("it opens");
            assert_eq!(device.info().size_bytes, 32 << 20);
            let namespace = device.attach().await.expect("a channel");
            reads_what_was_written(&namespace).await;
            compares(&namespace).await;
            device
        });
        serves_two_cores(&device);
    }
}

#[test]
fn they_conform() {
    for name in ["Memory", "Small"] {
        run(async {
            // What is in memory lasts as long as SPDK's subsystems, which end with the last device.
            let _kept = open("spdk:bdev/Nothing", &configured()).await.expect("it opens");
            let address = format!("spdk:bdev/{name}");
            let open = async || open(&address, &configured()).await.expect("it opens");
            conformance::all(&address, open, Hooks::new().reopens().on_cores()).await;
        });
    }
}

#[test]
fn dropped_operations_end_with_the_device() {
    let device = run(async {
        let device = open("spdk:bdev/Slow", &configured()).await.expect("it opens");
        let namespace = device.attach().await.expect("a channel");
        // More than there is room for: some are with the device, others wait.
        for number in 0..600_u64 {
            let read = namespace.read(number * 4096, rt::arena().alloc(4096));
            let late = rt::timeout(Duration::from_millis(20), read).await;
            if number < 3 {
                assert!(late.is_err(), "it takes 200 ms");
            }
            if number == 2 {
                break;
            }
        }
        let many: Vec<_> = (0..600_u64)
            .map(|number| {
                let namespace = namespace.clone();
                rt::spawn(async move { namespace.read(number * 4096, DmaBuf::zeroed(4096)).await })
            })
            .collect();
        rt::sleep(Duration::from_millis(50)).await;
        for task in many {
            task.cancel();
        }
        namespace.read(0, DmaBuf::zeroed(4096)).await.expect("room comes back");
        for number in 0..100_u64 {
            let namespace = namespace.clone();
            drop(rt::spawn(async move { namespace.read(number * 4096, DmaBuf::zeroed(4096)).await }));
        }
        rt::yield_now().await;
        device
    });
    run(async {
        device.attach().await.expect("another core").read(0, DmaBuf::zeroed(4096)).await.expect("read")
    });
}

#[test]
fn what_the_configuration_does_not_make_is_named_with_what_it_does() {
    run(async {
        let keep = open("spdk:bdev/Nothing", &configured()).await.expect("it opens");
        let error = open("spdk:bdev/Absent", &configured()).await.expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("Memory"), "{error}");
        let error = open("spdk:bdev/Metadata", &configured()).await.expect_err("metadata");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("8 bytes of metadata"), "{error}");
        let other = std::env::temp_dir().join(format!("boson-spdk-other-{}.json", std::process::id()));
        std::fs::write(&other, r#"{"subsystems": []}"#).expect("a temporary file");
        let error = open("spdk:bdev/Nothing", &config().spdk_config(&other)).await.expect_err("another");
        assert_eq!(error.kind(), ErrorKind::InUse);
        let _ = std::fs::remove_file(&other);
        drop(keep);
    });
}

#[test]
fn a_device_that_another_one_stands_on_is_read_only_and_says_so() {
    run(async {
        // `Slow` has claimed it.
        let device = open("spdk:bdev/Nothing", &configured()).await.expect("it opens for reading");
        assert!(device.info().read_only);
        let namespace = device.attach().await.expect("a channel");
        namespace.read(0, DmaBuf::zeroed(4096)).await.expect("read");
        let (error, _) = namespace.write(0, DmaBuf::zeroed(4096)).await.expect_err("claimed").into_parts();
        assert!(error.to_string().contains("read-only"), "{error}");
        let slow = open("spdk:bdev/Slow", &configured()).await.expect("it opens");
        assert!(!slow.info().read_only);
    });
}
