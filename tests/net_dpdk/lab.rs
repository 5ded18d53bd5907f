//! A network namespace at the other end of a veth pair.

use crate::support::not_run::not_run;
use std::fs;
use std::process::{Command, Output};

use boson::net::device::dpdk::{DpdkPort, PortConfig};
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::eal;

/// Runs `ip`, `ping` and the like to their end.
pub(super) fn run(command: &[&str]) -> Output {
    Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub(super) fn run_well(command: &[&str]) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {} {}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A veth pair: `near` is here, without an address; the other end is in a network namespace with
/// 10.77.1.2/24.
pub(super) struct Lab {
    pub(super) namespace: String,
    pub(super) near: String,
}

impl Lab {
    /// `None`, with the reason on stderr, where it cannot be made; under CI that is a failure.
    pub(super) fn new(number: u32) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            not_run("DPDK on a veth pair: network namespaces need root");
            return None;
        }
        eal();
        let id = format!("bd{}x{number}", std::process::id());
        let lab = Self { namespace: id.clone(), near: format!("{id}n") };
        let far = format!("{id}f");
        run_well(&["ip", "netns", "add", &lab.namespace]);
        run_well(&[
            "ip",
            "link",
            "add",
            &lab.near,
            "type",
            "veth",
            "peer",
            "name",
            &far,
            "netns",
            &lab.namespace,
        ]);
        // The kernel must not answer or speak on our end.
        let quiet = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", lab.near);
        if fs::exists(&quiet).unwrap_or(false) {
            fs::write(&quiet, "1").expect("root may set it");
        }
        run_well(&["ip", "link", "set", &lab.near, "up"]);
        for command in [
            &["ip", "link", "set", &far, "up"][..],
            &["ip", "addr", "add", "10.77.1.2/24", "dev", &far],
            &["ethtool", "-K", &far, "tx", "off"],
        ] {
            lab.inside(command);
        }
        Some(lab)
    }

    /// The kernel's idea of the near end's Ethernet address.
    pub(super) fn mac(&self) -> String {
        let address = fs::read_to_string(format!("/sys/class/net/{}/address", self.near)).expect("readable");
        address.trim().to_owned()
    }

    /// The kernel's MTU of the near end, in bytes.
    pub(super) fn mtu(&self) -> usize {
        let mtu = fs::read_to_string(format!("/sys/class/net/{}/mtu", self.near)).expect("readable");
        mtu.trim().parse().expect("a number")
    }

    pub(super) fn inside(&self, command: &[&str]) -> String {
        run_well(&[&["ip", "netns", "exec", &self.namespace], command].concat())
    }

    /// Runs `client` on a thread of its own that lives in the namespace.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        client: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = format!("/run/netns/{}", self.namespace);
        std::thread::spawn(move || {
            let namespace = fs::File::open(path).expect("ip netns made it");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a namespace");
            client()
        })
    }

    pub(super) fn open(&self, config: &PortConfig) -> DpdkPort {
        let devargs = format!("net_af_packet_{},iface={}", self.near, self.near);
        DpdkPort::open(eal(), &devargs, config).expect("root may open a packet socket")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The far end goes with its namespace, and the near end with the far one.
        run(&["ip", "link", "del", &self.near]);
        run(&["ip", "netns", "del", &self.namespace]);
    }
}
