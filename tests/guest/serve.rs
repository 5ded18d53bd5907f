//! `boson serve` on raw NVMe namespaces: what it acknowledged is there after it was killed.

use super::device;
use crate::support::killed_server::keeps_what_it_acknowledged;

#[test]
#[ignore = "takes an NVMe controller under VFIO: scripts/guest"]
fn a_killed_server_on_our_own_driver_keeps_what_it_acknowledged() {
    for number in [1, 2] {
        let store = format!("nvme:{}/{number}", device("BOSON_GUEST_VFIO"));
        keeps_what_it_acknowledged("serve-nvme", &store, &[]);
    }
}

#[test]
#[ignore = "takes an NVMe controller of the kernel's: scripts/guest"]
fn a_killed_server_on_passthrough_commands_keeps_what_it_acknowledged() {
    keeps_what_it_acknowledged("serve-ng", &format!("ng:{}", device("BOSON_GUEST_NG")), &[]);
}
