//! The same as `serve`, with SPDK driving the controller.

use super::device;
use crate::support::killed_server::keeps_what_it_acknowledged;

#[test]
#[ignore = "takes an NVMe controller under VFIO and hugepages: scripts/guest"]
fn a_killed_server_on_spdk_keeps_what_it_acknowledged() {
    let eal = std::env::var("BOSON_TEST_EAL").unwrap_or_default();
    for number in [1, 2] {
        let store = format!("spdk:pcie/{}/{number}", device("BOSON_GUEST_VFIO"));
        keeps_what_it_acknowledged("serve-spdk", &store, &["--eal", &eal]);
    }
}
