//! Finds SPDK with pkg-config, compiles the shim and generates the bindings.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// What a machine without SPDK needs to read.
const HELP: &str = "no distribution has it as a package: docs/spdk.md says how to build it, and PKG_CONFIG_PATH must \
                    name its lib/pkgconfig";

/// The oldest release that the shim is written for: `spdk_subsystem_load_config` came with 24.09,
/// asynchronous queue pairs and `spdk_nvme_ns_cmd_read_iov` with 25.05. The first that it is not
/// written for.
const OLDEST: (u32, u32) = (25, 5);
const BEYOND: (u32, u32) = (27, 0);

/// What pkg-config is asked for; the modules come with it.
const PACKAGES: [&str; 9] = [
    "spdk_nvme",
    "spdk_bdev",
    "spdk_env_dpdk",
    "spdk_init",
    "spdk_event_bdev",
    "spdk_bdev_modules",
    "spdk_sock_modules",
    "spdk_accel_modules",
    "spdk_syslibs",
];

/// The shared libraries that the crate calls.
const CALLED: [&str; 8] = [
    "spdk_nvme",
    "spdk_bdev",
    "spdk_env_dpdk",
    "spdk_init",
    "spdk_rpc",
    "spdk_thread",
    "spdk_log",
    "spdk_util",
];

/// What these need without saying so; the shim names a symbol of each.
const NEEDED: [&str; 5] = ["crypto", "ssl", "rte_bus_pci", "rte_mempool", "rte_ring"];

/// Libraries that every program has.
const OF_THE_C_LIBRARY: [&str; 5] = ["c", "dl", "m", "pthread", "rt"];

/// The names of libraries that are modules start with one of these.
const MODULES: [&str; 4] = ["spdk_event_", "spdk_bdev_", "spdk_sock_", "spdk_accel_"];

/// The functions that boson calls and that exist as symbols; the others are in the shim.
const FUNCTIONS: &str = "spdk_env_dpdk_post_init|spdk_env_dpdk_post_fini|spdk_mem_register|spdk_mem_unregister\
    |spdk_iommu_is_enabled|spdk_dma_zmalloc|spdk_dma_free|spdk_get_ticks|spdk_get_ticks_hz\
    |spdk_nvme_detach_async|spdk_nvme_detach_poll_async|spdk_nvme_ctrlr_set_remove_cb\
    |spdk_nvme_ctrlr_process_admin_completions|spdk_nvme_ctrlr_is_failed|spdk_nvme_ctrlr_is_fabrics\
    |spdk_nvme_ctrlr_fail|spdk_nvme_ctrlr_disconnect|spdk_nvme_ctrlr_reconnect_async|spdk_nvme_ctrlr_reconnect_poll_async\
    |spdk_nvme_ctrlr_get_transport_id|spdk_nvme_ctrlr_get_ns|spdk_nvme_ctrlr_get_first_active_ns\
    |spdk_nvme_ctrlr_get_next_active_ns|spdk_nvme_ctrlr_connect_io_qpair|spdk_nvme_ctrlr_free_io_qpair\
    |spdk_nvme_qpair_process_completions|spdk_nvme_qpair_is_connected|spdk_nvme_qpair_get_failure_reason\
    |spdk_nvme_qpair_get_num_outstanding_reqs|spdk_nvme_ns_cmd_flush|spdk_nvme_ctrlr_cmd_abort_ext\
    |spdk_nvme_ctrlr_register_timeout_callback|spdk_nvme_ctrlr_register_aer_callback\
    |spdk_nvme_poll_group_create|spdk_nvme_poll_group_add|spdk_nvme_poll_group_remove|spdk_nvme_poll_group_destroy\
    |spdk_nvme_poll_group_process_completions|spdk_nvme_poll_group_all_connected|spdk_nvme_poll_group_get_fd_group\
    |spdk_fd_group_get_fd|spdk_fd_group_wait|spdk_nvme_qpair_get_fd\
    |spdk_thread_create|spdk_thread_poll|spdk_thread_exit|spdk_thread_is_exited|spdk_thread_destroy\
    |spdk_thread_lib_fini|spdk_thread_next_poller_expiration|spdk_thread_has_active_pollers|spdk_thread_is_idle\
    |spdk_thread_send_msg|spdk_set_thread|spdk_get_thread|spdk_put_io_channel\
    |spdk_subsystem_init|spdk_subsystem_load_config|spdk_subsystem_fini|spdk_rpc_set_state|spdk_rpc_finish\
    |spdk_bdev_open_ext|spdk_bdev_close|spdk_bdev_desc_get_bdev|spdk_bdev_get_io_channel|spdk_bdev_free_io\
    |spdk_bdev_first|spdk_bdev_next|spdk_bdev_get_name\
    |spdk_bdev_read_blocks|spdk_bdev_readv_blocks|spdk_bdev_write_blocks|spdk_bdev_writev_blocks\
    |spdk_bdev_unmap_blocks|spdk_bdev_write_zeroes_blocks|spdk_bdev_flush_blocks\
    |spdk_bdev_comparev_and_writev_blocks|spdk_bdev_io_get_nvme_status|spdk_bdev_queue_io_wait|boson_spdk_.*";

/// Types whose layout stays C's business, or which Rust cannot describe: packed ones with aligned
/// fields.
const OPAQUE: &str = "spdk_nvme_ctrlr_data|spdk_nvme_cdata_.*|spdk_nvme_ns_data|spdk_nvmf_.*|spdk_nvme_tcp_.*\
    |spdk_bdev_ext_io_opts|spdk_nvme_ctrlr_opts|spdk_nvme_transport_id|spdk_json_val|_IO_FILE";

fn main() {
    for file in ["wrapper.h", "shim.h", "shim.c"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=BOSON_SPDK_LINK");

    let found =
        pkg_config::Config::new().cargo_metadata(false).env_metadata(true).probe("spdk_nvme").unwrap_or_else(
            |_| fail(&format!("the feature \"spdk\" needs SPDK, found by pkg-config as spdk_nvme; {HELP}")),
        );
    let version = release(&found.include_paths);
    let mut flags = pkg_config("--cflags");
    flags.push("-D_GNU_SOURCE".to_owned());

    let mut shim = cc::Build::new();
    shim.file("shim.c").warnings(true).extra_warnings(false);
    for flag in &flags {
        shim.flag(flag);
    }
    shim.compile("boson_spdk_shim");

    let linkage = link();
    println!("cargo::metadata=version={version}");
    println!("cargo::metadata=linkage={linkage}");

    let generate = || {
        bindgen::Builder::default()
            .header("wrapper.h")
            .clang_args(&flags)
            .allowlist_function(FUNCTIONS)
            .allowlist_var("BOSON_SPDK_.*")
            .allowlist_recursively(true)
            .opaque_type(OPAQUE)
            .derive_default(true)
            .generate_comments(false)
            .generate()
    };
    // bindgen panics when it cannot load libclang.
    let bindings = match panic::catch_unwind(generate) {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => fail(&format!("the SPDK headers cannot be translated ({error})")),
        Err(_) => fail(
            "libclang, which translates the SPDK headers, is missing: apt install libclang-dev pkg-config",
        ),
    };
    write(&bindings.to_string(), "bindings.rs");
}

/// SPDK's release, from its headers: pkg-config only knows the numbers of the shared libraries.
fn release(include_paths: &[PathBuf]) -> String {
    let text = include_paths
        .iter()
        .find_map(|path| fs::read_to_string(path.join("spdk/version.h")).ok())
        .or_else(|| fs::read_to_string("/usr/include/spdk/version.h").ok())
        .unwrap_or_else(|| fail(&format!("SPDK's header spdk/version.h is missing; {HELP}")));
    let number = |name: &str| -> u32 {
        let line = text.lines().find(|line| line.split_whitespace().nth(1) == Some(name));
        line.and_then(|line| line.split_whitespace().nth(2)).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let version = (number("SPDK_VERSION_MAJOR"), number("SPDK_VERSION_MINOR"));
    let name = format!("{}.{:02}", version.0, version.1);
    if version < OLDEST || version >= BEYOND {
        fail(&format!(
            "SPDK {name} is installed; boson works with {}.{:02} up to, but not including, {}.01 (docs/spdk.md)",
            OLDEST.0, OLDEST.1, BEYOND.0
        ));
    }
    name
}

/// Says what to link, and writes the list of modules. Returns how SPDK is linked.
fn link() -> &'static str {
    let words = pkg_config("--libs");
    let mut names: Vec<&str> = Vec::new();
    for name in words.iter().filter_map(|word| word.strip_prefix("-l")) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let directories: Vec<&Path> =
        words.iter().filter_map(|word| word.strip_prefix("-L")).map(Path::new).collect();
    for directory in &directories {
        println!("cargo::rustc-link-search=native={}", directory.display());
    }
    let file = |name: &str, ending: &str| {
        directories
            .iter()
            .map(|directory| directory.join(format!("lib{name}.{ending}")))
            .find(|path| path.exists())
    };

    let is_shared = match env::var("BOSON_SPDK_LINK").as_deref() {
        Ok("static") => false,
        Ok("shared") => true,
        Ok(other) => {
            fail(&format!("BOSON_SPDK_LINK is \"{other}\": write static or shared, or leave it out"))
        }
        // Without a directory of its own SPDK is in the system's, where only shared libraries are.
        Err(_) => directories.is_empty() || file("spdk_nvme", "so").is_some(),
    };
    let mut modules = String::new();
    if is_shared {
        for name in CALLED.iter().chain(&NEEDED) {
            println!("cargo::rustc-link-lib=dylib={name}");
        }
        // First what the modules need without saying so, then they.
        let needed =
            names.iter().filter(|name| !name.starts_with("spdk_") && !OF_THE_C_LIBRARY.contains(name));
        let needed = needed.filter_map(|name| system_library(name));
        let of_spdk = names.iter().filter(|name| MODULES.iter().any(|prefix| name.starts_with(prefix)));
        let of_spdk =
            of_spdk.map(|name| file(name, "so").unwrap_or_else(|| PathBuf::from(format!("lib{name}.so"))));
        for path in needed.chain(of_spdk) {
            let path = fs::canonicalize(&path).unwrap_or(path);
            // The file's name with its version is the name that the loader knows it by.
            let loaded = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let _ = writeln!(modules, "    (c\"{loaded}\", c\"{}\"),", path.display());
        }
    } else {
        for name in &names {
            if name.starts_with("spdk_") {
                println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={name}");
            } else {
                println!("cargo::rustc-link-lib=dylib={name}");
            }
        }
    }
    write(
        &format!(
            "/// The modules to load: what the loader calls each, and where it was when this was built.\n\
             pub const MODULES: &[(&std::ffi::CStr, &std::ffi::CStr)] = &[\n{modules}];\n"
        ),
        "modules.rs",
    );
    if is_shared { "shared" } else { "static" }
}

/// Where the compiler finds a library of the system.
fn system_library(name: &str) -> Option<PathBuf> {
    let output = cc::Build::new()
        .try_get_compiler()
        .ok()?
        .to_command()
        .arg(format!("-print-file-name=lib{name}.so"))
        .output()
        .ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    path.is_absolute().then_some(path)
}

/// What pkg-config prints, as words.
fn pkg_config(option: &str) -> Vec<String> {
    let output = Command::new(env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into()))
        .arg(option)
        .args(PACKAGES)
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        Ok(output) => fail(&format!(
            "pkg-config does not describe SPDK ({}); {HELP}",
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default()
        )),
        Err(error) => fail(&format!("pkg-config does not run ({error}): apt install pkg-config")),
    }
}

fn write(text: &str, name: &str) {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join(name);
    if let Err(error) = fs::write(&out, text) {
        fail(&format!("cannot write {}: {error}", out.display()));
    }
}

/// Ends the build with one sentence. Cargo fails for the sentence alone; for another exit code than
/// 0 it would print all that the script wrote around it.
fn fail(sentence: &str) -> ! {
    println!("cargo::error={sentence}");
    exit(0);
}
