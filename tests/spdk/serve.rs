//! `boson serve` on a namespace of a target.

use crate::eal_arguments;
use crate::support::killed_server::keeps_what_it_acknowledged;
use crate::target::Target;

#[test]
fn a_killed_server_keeps_what_it_acknowledged() {
    let Some(target) = Target::start("serve") else { return };
    keeps_what_it_acknowledged("serve-spdk-tcp", &target.address(1), &["--eal", &eal_arguments()]);
}
