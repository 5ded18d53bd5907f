//! From an address to an open network.

use super::Net;
use super::address::{NetAddress, Station};
use super::device::{PacketDevice, TapConfig, TapDevice};
use super::stack::StackConfig;
use crate::error::{Error, ErrorKind, Result};

/// What a network is opened with besides its address.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// Where the userspace stack's ports, sequence numbers and hash keys come from. It must be unpredictable and differ between
    /// starts.
    pub seed: [u8; 32],
    /// How many connections the userspace stack may have. The kernel's sockets have the kernel's limits.
    pub max_connections: usize,
    /// Arguments for DPDK's environment, separated by white space.
    pub eal_arguments: String,
}

/// The MTU of a TAP interface whose address names none, in bytes: Ethernet's.
const DEFAULT_MTU: usize = 1500;

impl Net {
    /// Opens the network that `address` names, for the current core.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) for a backend that this build does not have, otherwise what opening the device or
    /// starting the stack says.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn open(address: &NetAddress, config: &NetConfig) -> Result<Self> {
        let (device, station): (Box<dyn PacketDevice>, &Station) = match address {
            NetAddress::Kernel => return Ok(Self::kernel()),
            NetAddress::Memory => {
                return Err(Error::new(ErrorKind::Unsupported, "open network")
                    .at("mem:")
                    .because("a network inside this process has no outside; write kernel:, tap: or dpdk:"));
            }
            NetAddress::Tap(tap) => {
                let device = TapDevice::open(&TapConfig {
                    name: tap.interface.clone(),
                    host: tap.host.clone(),
                    mac: tap.station.mac,
                    mtu: tap.station.mtu.unwrap_or(DEFAULT_MTU),
                })?;
                (Box::new(device), &tap.station)
            }
            NetAddress::Dpdk(dpdk) => (open_dpdk(dpdk, config)?, &dpdk.station),
        };
        let mut stack = StackConfig::new(station.addresses.clone(), config.seed);
        stack.gateways.clone_from(&station.gateways);
        stack.max_connections = config.max_connections;
        Self::on_device(device, stack)
    }
}

#[cfg(feature = "dpdk")]
fn open_dpdk(address: &super::address::DpdkAddress, config: &NetConfig) -> Result<Box<dyn PacketDevice>> {
    use super::device::dpdk::{DpdkPort, Eal, EalConfig, PortConfig};

    let refuse = |reason: &'static str| {
        Err(Error::new(ErrorKind::Unsupported, "open network")
            .at(format!("dpdk:{}", address.device))
            .because(reason))
    };
    if address.queues != 1 {
        return refuse("this version drives one queue: leave out queues=");
    }
    let eal = Eal::init(&EalConfig::for_device(&address.device, &config.eal_arguments)?)?;
    let mtu = address.station.mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX));
    let port = PortConfig { mac: address.station.mac, mtu, ..PortConfig::default() };
    Ok(Box::new(DpdkPort::open(eal, &address.device, &port)?))
}

#[cfg(not(feature = "dpdk"))]
fn open_dpdk(address: &super::address::DpdkAddress, _config: &NetConfig) -> Result<Box<dyn PacketDevice>> {
    Err(Error::new(ErrorKind::Unsupported, "open network").at(format!("dpdk:{}", address.device)).because(
        "DPDK is not built in: apt-get install libdpdk-dev libclang-dev pkg-config, then build with --features dpdk",
    ))
}
