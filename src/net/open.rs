//! From an address to an open network.

use std::fmt;

use super::Net;
use super::address::{NetAddress, Station};
use super::device::{PacketDevice, TapConfig, TapDevice};
use super::stack::StackConfig;
use crate::error::Result;
#[cfg(not(feature = "dpdk"))]
use crate::error::{Error, ErrorKind};
use crate::rt;

/// What a network is opened with besides its address. [`NetConfig::default`] has the defaults.
///
/// ```
/// use boson::net::NetConfig;
///
/// let config = NetConfig::default().max_connections(1000);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct NetConfig {
    seed: Option<[u8; 32]>,
    max_connections: usize,
    eal_arguments: String,
}

/// The most connections that the userspace stack has unless the program says otherwise.
const MAX_CONNECTIONS: usize = 65_536;

impl Default for NetConfig {
    /// A seed from the core's generator, 65,536 connections, no arguments for DPDK.
    fn default() -> Self {
        Self { seed: None, max_connections: MAX_CONNECTIONS, eal_arguments: String::new() }
    }
}

impl NetConfig {
    /// Sets where the userspace stack's ports, sequence numbers and hash keys come from. It must be
    /// unpredictable and differ between starts. By default the core's generator gives it.
    #[must_use]
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Sets how many connections the userspace stack may have. The kernel's sockets have the
    /// kernel's limits.
    #[must_use]
    pub fn max_connections(mut self, max_connections: usize) -> Self {
        self.max_connections = max_connections;
        self
    }

    /// Sets the arguments for DPDK's environment, separated by white space, such as `-m 256
    /// --no-huge`.
    #[must_use]
    pub fn eal_arguments(mut self, arguments: impl Into<String>) -> Self {
        self.eal_arguments = arguments.into();
        self
    }

    /// The seed that was set, or a new one from the core's generator.
    fn seed_of_stack(&self) -> [u8; 32] {
        self.seed.unwrap_or_else(|| {
            let mut seed = [0; 32];
            rt::random::fill_random(&mut seed);
            seed
        })
    }
}

impl fmt::Debug for NetConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed makes sequence numbers and ports unguessable: it does not belong in a log.
        f.debug_struct("NetConfig")
            .field("max_connections", &self.max_connections)
            .field("eal_arguments", &self.eal_arguments)
            .finish_non_exhaustive()
    }
}

impl Net {
    /// Opens the network that `address` names, for the current core.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a backend that this build does not have,
    /// otherwise what opening the device or starting the stack returns.
    ///
    /// # Panics
    ///
    /// Outside a core.
    pub fn open(address: &NetAddress, config: &NetConfig) -> Result<Self> {
        let (device, station): (Box<dyn PacketDevice>, &Station) = match address {
            NetAddress::Kernel => return Ok(Self::kernel()),
            NetAddress::Tap(tap) => {
                let device = TapDevice::open(&TapConfig::from(tap))?;
                (Box::new(device), &tap.station)
            }
            NetAddress::Dpdk(dpdk) => (open_dpdk(dpdk, config)?, &dpdk.station),
        };
        let mut stack = StackConfig::for_station(station, config.seed_of_stack());
        stack.max_connections = config.max_connections;
        Self::on_device(device, stack)
    }
}

#[cfg(feature = "dpdk")]
fn open_dpdk(address: &super::address::DpdkAddress, config: &NetConfig) -> Result<Box<dyn PacketDevice>> {
    use super::device::dpdk::{DpdkPort, Eal, EalConfig, PortConfig};

    let eal = Eal::init(&EalConfig::for_device(&address.device, &config.eal_arguments)?)?;
    let mtu = address.station.mtu.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX));
    let port = PortConfig { mac: address.station.mac, mtu, ..PortConfig::default() };
    Ok(Box::new(DpdkPort::open(eal, &address.device, &port)?))
}

#[cfg(not(feature = "dpdk"))]
fn open_dpdk(address: &super::address::DpdkAddress, _config: &NetConfig) -> Result<Box<dyn PacketDevice>> {
    Err(Error::new(ErrorKind::Unsupported, "open network").at(format!("dpdk:{}", address.device)).because(
        "DPDK is not built in: apt-get install libdpdk-dev libclang-dev pkg-config, then build with \
         --features dpdk",
    ))
}
