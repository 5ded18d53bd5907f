//! Turns what the build found into text for `boson --version` and `boson doctor`.
//!
//! No bindings are generated here: each crate in `sys/` does that for its library, and hands its
//! version on as `DEP_…` (the key `links` in its manifest).

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DEP_DPDK_VERSION");
    println!("cargo::rerun-if-env-changed=DEP_SPDK_VERSION");

    let dpdk = env::var("DEP_DPDK_VERSION").ok();
    if let Some(version) = &dpdk {
        println!("cargo::rustc-env=BOSON_DPDK_VERSION={version}");
    }
    let spdk = env::var("DEP_SPDK_VERSION").ok();
    if let Some(version) = &spdk {
        println!("cargo::rustc-env=BOSON_SPDK_VERSION={version}");
    }
    let mut features: Vec<String> = env::vars()
        .filter_map(|(name, _)| name.strip_prefix("CARGO_FEATURE_").map(str::to_lowercase))
        .filter(|feature| feature != "default")
        .collect();
    features.sort();
    let dpdk = dpdk.map_or_else(|| "without DPDK".to_owned(), |version| format!("for DPDK {version}"));
    let spdk = spdk.map_or_else(String::new, |version| format!(", SPDK {version}"));
    let target = env::var("TARGET").unwrap_or_default();
    println!("cargo::rustc-env=BOSON_BUILD={target}; {dpdk}{spdk}; features: {}", features.join(" "));
}
