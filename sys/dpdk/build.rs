//! Finds DPDK with pkg-config, compiles the shim and generates the bindings.

use std::env;
use std::panic;
use std::path::PathBuf;
use std::process::{Command, exit};

/// What a Debian or Ubuntu machine needs.
const PACKAGES: &str = "apt install libdpdk-dev dpdk-dev libclang-dev pkg-config";

/// The oldest release that the shim is written for, and the first that it is not: 22.11 is Debian
/// 12's, 23.11 is Ubuntu 24.04's; the functions used have kept their signatures until 25.11.
const OLDEST: (u32, u32) = (22, 11);
const BEYOND: (u32, u32) = (26, 0);

/// The shared libraries that the crate calls. The drivers are loaded by the EAL at run time, from
/// its plugin directory.
const LIBRARIES: [&str; 5] = ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring"];

/// The functions that boson calls and that exist as symbols; inline functions are in the shim.
const FUNCTIONS: &str = "rte_version|rte_strerror|rte_eal_init|rte_openlog_stream|rte_dev_probe|rte_dev_remove\
    |rte_thread_register|rte_thread_unregister\
    |rte_pktmbuf_pool_create|rte_mempool_free|rte_mempool_avail_count\
    |rte_eth_dev_get_port_by_name|rte_eth_dev_info_get|rte_eth_dev_socket_id|rte_eth_dev_configure|rte_eth_dev_is_removed\
    |rte_eth_dev_adjust_nb_rx_tx_desc|rte_eth_rx_queue_setup|rte_eth_tx_queue_setup\
    |rte_eth_dev_start|rte_eth_dev_stop|rte_eth_dev_close\
    |rte_eth_dev_get_mtu|rte_eth_dev_set_mtu|rte_eth_macaddr_get|rte_eth_dev_default_mac_addr_set|rte_eth_promiscuous_enable\
    |rte_eth_stats_get|boson_dpdk_.*";

fn main() {
    println!("cargo::rerun-if-changed=wrapper.h");
    println!("cargo::rerun-if-changed=shim.h");
    println!("cargo::rerun-if-changed=shim.c");

    let library = find_library();
    let flags = compiler_flags();

    let mut shim = cc::Build::new();
    shim.file("shim.c").warnings(true).extra_warnings(false);
    for flag in &flags {
        shim.flag(flag);
    }
    shim.compile("boson_dpdk_shim");

    for path in &library.link_paths {
        println!("cargo::rustc-link-search=native={}", path.display());
    }
    for name in LIBRARIES {
        println!("cargo::rustc-link-lib=dylib={name}");
    }
    println!("cargo::metadata=version={}", library.version);

    let generate = || {
        bindgen::Builder::default()
            .header("wrapper.h")
            .clang_args(&flags)
            .allowlist_function(FUNCTIONS)
            .allowlist_recursively(true)
            // Only pointers to them cross the border; their layout stays C's business.
            .opaque_type("rte_mbuf|rte_mempool|rte_device|rte_eth_rxconf|rte_eth_txconf|_IO_FILE")
            .derive_default(true)
            .generate_comments(false)
            .generate()
    };
    // bindgen panics when it cannot load libclang.
    let bindings = match panic::catch_unwind(generate) {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => fail(&format!("the DPDK headers cannot be translated ({error}): {PACKAGES}")),
        Err(_) => fail(&format!("libclang, which translates the DPDK headers, is missing: {PACKAGES}")),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("bindings.rs");
    if let Err(error) = bindings.write_to_file(&out) {
        fail(&format!("cannot write {}: {error}", out.display()));
    }
}

fn find_library() -> pkg_config::Library {
    let library = match pkg_config::Config::new().cargo_metadata(false).env_metadata(true).probe("libdpdk") {
        Ok(library) => library,
        Err(_) => fail(&format!(
            "the feature \"dpdk\" needs DPDK's development files, found by pkg-config: {PACKAGES}"
        )),
    };
    let mut parts = library.version.split('.').map(|part| part.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < OLDEST || version >= BEYOND {
        fail(&format!(
            "DPDK {} is installed; boson works with {}.{} up to, but not including, {}.0x",
            library.version, OLDEST.0, OLDEST.1, BEYOND.0
        ));
    }
    library
}

/// The compiler flags as pkg-config prints them: the crate `pkg_config` drops `-include` and
/// `-march`, and the inline functions need both.
fn compiler_flags() -> Vec<String> {
    let output = Command::new(env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into()))
        .args(["--cflags", "libdpdk"])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        _ => fail(&format!("pkg-config does not print the compiler flags of libdpdk: {PACKAGES}")),
    }
}

/// Ends the build with one sentence. Cargo fails for the sentence alone; for another exit code than
/// 0 it would print all that the script wrote around it.
fn fail(sentence: &str) -> ! {
    println!("cargo::error={sentence}");
    exit(0);
}
